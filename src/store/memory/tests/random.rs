//! Spec 3.7: events and indices stay consistent under random steps, in any order and in races.

use super::*;

/// One step of a random run. There are few connections, rooms, users and nodes, so that steps
/// conflict.
#[derive(Clone, Debug)]
enum Op {
    Join {
        conn: u8,
        room: u8,
        user: u8,
        node: Option<u8>,
    },
    Leave {
        conn: u8,
    },
    /// Uses the epoch that the connection had when it was last looked up, plus `more`.
    Heartbeat {
        conn: u8,
        more: u64,
        patch: bool,
        node: Option<u8>,
    },
    Batch,
    /// A node dies, and its connections are removed.
    Death {
        node: u8,
    },
    Sweep,
    Pass {
        ms: u64,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    let node = || prop::option::of(0..2u8);
    prop_oneof![
        6 => (0..5u8, 0..3u8, 0..2u8, node())
            .prop_map(|(conn, room, user, node)| Op::Join { conn, room, user, node }),
        3 => (0..5u8).prop_map(|conn| Op::Leave { conn }),
        4 => (0..5u8, 0..2u64, any::<bool>(), node())
            .prop_map(|(conn, more, patch, node)| Op::Heartbeat { conn, more, patch, node }),
        1 => Just(Op::Batch),
        1 => (0..2u8).prop_map(|node| Op::Death { node }),
        2 => Just(Op::Sweep),
        2 => (1..=TTL).prop_map(|ms| Op::Pass { ms }),
    ]
}

fn all_conns() -> Vec<Arc<str>> {
    (0..5).map(|i| format!("c{i}").into()).collect()
}

fn node_id(node: u8) -> String {
    format!("n{node}")
}

/// The lifetime of a connection of this node, whose lease it begins or renews.
fn lifetime(store: &MemoryStore, node: Option<u8>) -> Lifetime {
    node.map_or_else(by_heartbeats, |node| {
        renew(store, &node_id(node), true);
        by_node(&node_id(node))
    })
}

/// What a node may do between two reads of the store. Each step advances the clock, so that epochs
/// do not run ahead of it.
fn run(store: &MemoryStore, clock: &AtomicU64, op: &Op) -> Option<(String, Epoch)> {
    let pass = |ms| clock.fetch_add(ms, Ordering::SeqCst);
    pass(1);
    let id = |conn: &u8| format!("c{conn}");
    let locate = |conn: &str| now(store.locate(&[conn.into()])).remove(0).unwrap();
    match op {
        Op::Join {
            conn,
            room,
            user,
            node,
        } => {
            let place = Place::new(&format!("r{room}"), &format!("u{user}"));
            let join = join_of(&id(conn), place, "{}", lifetime(store, *node));
            // In a race, the node may have died again.
            join_anyway(store, &join, pass);
        }
        Op::Leave { conn } => {
            if let Some(at) = locate(&id(conn)) {
                leave(store, &id(conn), &at.place, pass);
            }
        }
        Op::Heartbeat {
            conn,
            more,
            patch,
            node,
        } => {
            let at = locate(&id(conn))?;
            let base = at.stored.state.as_str().to_owned();
            let next = if base == "{}" { r#"{"a":1}"# } else { "{}" };
            let write = if *patch {
                write(&base, Some(next))
            } else {
                None
            };
            let heartbeat = HeartbeatUpdate {
                conn: id(conn).into(),
                place: at.place,
                epoch: Some(at.epoch + more),
                write,
            };
            let beaten = update(store, heartbeat, &lifetime(store, *node));
            if let HeartbeatOutcome::Refreshed { epoch, .. } = beaten {
                return Some((id(conn), epoch));
            }
        }
        Op::Batch => {
            let conns = all_conns();
            let found = now(store.locate(&conns));
            let heartbeats: Vec<_> = conns
                .iter()
                .zip(found)
                .filter_map(|(conn, at)| {
                    at.unwrap().map(|at| plain(conn, &at.place.room, at.epoch))
                })
                .collect();
            for lifetime in [by_heartbeats(), by_node("n0")] {
                now(store.refresh_heartbeats(&heartbeats, &lifetime)).unwrap();
            }
        }
        Op::Death { node } => {
            end_node(store, &node_id(*node));
        }
        Op::Sweep => {
            now(store.sweep(&SETTINGS)).unwrap();
        }
        Op::Pass { ms } => {
            pass(*ms);
        }
    }
    None
}

/// The connections that are present according to the events. Checks the events while replaying
/// them: one join for each (connection, epoch), at most one leave, and no event of an absent
/// connection.
#[derive(Default)]
struct Replay {
    present: BTreeMap<String, (String, String, Epoch)>,
    joined: BTreeSet<(String, Epoch)>,
    left: BTreeSet<(String, Epoch)>,
}

impl Replay {
    fn apply(&mut self, text: &str) {
        let Event {
            kind,
            conn_id: conn,
            room_id,
            user_id,
            epoch,
            reason,
        } = parse(text);
        let known = self.present.get(&conn).cloned();
        let here = (room_id, user_id, epoch);
        match &*kind {
            "join" => {
                assert!(self.joined.insert((conn.clone(), epoch)), "a second {text}");
                if let Some((room, user, before)) = known {
                    let same_place = room == here.0 && user == here.1;
                    assert!(same_place, "no leave from {room} before {text}");
                    assert!(before < epoch, "no higher epoch: {text}");
                }
                self.present.insert(conn, here);
            }
            "update" => {
                let (room, user, before) = known.unwrap_or_else(|| panic!("of nobody: {text}"));
                assert_eq!((&room, &user), (&here.0, &here.1));
                assert!(before <= epoch);
                self.present.insert(conn, here);
            }
            _ => {
                assert_eq!(known, Some(here), "not who was there: {text}");
                assert!(self.left.insert((conn.clone(), epoch)), "a second {text}");
                assert!(matches!(
                    reason.as_deref(),
                    Some("left" | "timeout" | "replaced")
                ));
                self.present.remove(&conn);
            }
        }
    }
}

/// All stored connections. Also checks that snapshots contain exactly the live ones.
fn audit(store: &MemoryStore) -> BTreeMap<String, (String, String, Epoch)> {
    let stored = store.step(|data, now| data.presence.audit(now)).unwrap();
    for room in ["r0", "r1", "r2"] {
        let found = snapshot(store, room).unwrap();
        let found: BTreeSet<_> = found.into_iter().map(|member| member.conn).collect();
        let live = stored
            .iter()
            .filter(|(_, at, _, _, live)| at == room && *live);
        assert_eq!(found, live.map(|(conn, ..)| conn.clone()).collect());
    }
    stored
        .into_iter()
        .map(|(conn, room, user, epoch, _)| (conn, (room, user, epoch)))
        .collect()
}

/// Lets all connections leave, and checks that nothing remains.
fn finish(world: &World, replay: &mut Replay) {
    for conn in all_conns() {
        if let Some(at) = now(world.store.locate(std::slice::from_ref(&conn)))
            .remove(0)
            .unwrap()
        {
            assert_eq!(world.leave(&conn, &at.place), Left::Left);
        }
    }
    world.sweep();
    world
        .heard
        .take()
        .iter()
        .for_each(|text| replay.apply(text));
    assert!(replay.present.is_empty());
    for node in 0..2 {
        assert_eq!(end_node(&world.store, &node_id(node)), 0);
    }
    now(world.store.unsubscribe(&Topic::AllRooms)).unwrap();
    assert!(world.store.is_empty());
}

fn seeded(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        rng_seed: RngSeed::Fixed(0x0011_ca11),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(seeded(400))]

    /// After every step, the events describe exactly what is stored.
    #[test]
    fn spec_3_7_any_order_of_steps_keeps_events_and_indices_true(
        ops in prop::collection::vec(any_op(), 1..120),
    ) {
        let world = World::new();
        let mut replay = Replay::default();
        for op in &ops {
            let refreshed = run(&world.store, &world.clock, op);
            world.heard.take().iter().for_each(|text| replay.apply(text));
            if let Some((conn, epoch)) = refreshed {
                // No event shows an adopted epoch.
                replay.present.get_mut(&conn).unwrap().2 = epoch;
            }
            prop_assert_eq!(&audit(&world.store), &replay.present);
        }
        finish(&world, &mut replay);
    }
}

proptest! {
    #![proptest_config(seeded(40))]

    /// The same from several threads at once. Here only the events can tell what happened.
    #[test]
    fn spec_3_7_any_race_keeps_events_and_indices_true(
        nodes in prop::collection::vec(prop::collection::vec(any_op(), 100), 4),
    ) {
        let world = World::new();
        let (listener, of_room) = world.another();
        now(listener.subscribe(&Topic::Room("r1".into()))).unwrap();
        std::thread::scope(|scope| {
            for ops in &nodes {
                let (store, _) = world.another();
                let clock = &world.clock;
                scope.spawn(move || {
                    for op in ops {
                        // No event shows an adopted epoch, so heartbeats do not raise it.
                        let op = match op.clone() {
                            Op::Heartbeat { conn, patch, node, .. } => {
                                Op::Heartbeat { conn, more: 0, patch, node }
                            }
                            op => op,
                        };
                        run(&store, clock, &op);
                    }
                });
            }
        });
        let heard = world.heard.take();
        let r1: Vec<_> = heard.iter().filter(|text| parse(text).room_id == "r1").collect();
        let got = of_room.take();
        prop_assert_eq!(got.iter().collect::<Vec<_>>(), r1);
        drop(listener);
        let mut replay = Replay::default();
        heard.iter().for_each(|text| replay.apply(text));
        prop_assert_eq!(&audit(&world.store), &replay.present);
        finish(&world, &mut replay);
    }
}
