//! Tests of nodes that answer for their connections (docs/internals/liveness.md).

use super::*;

/// A node with its own handle, which has begun its lease.
struct Node {
    id: &'static str,
    store: MemoryStore,
    heard: Arc<Recorder>,
}

impl Node {
    fn join(&self, world: &World, conn: &str) -> Epoch {
        let join = join_of(conn, place(), "{}", by_node(self.id));
        join_anyway(&self.store, &join, |ms| world.pass(ms)).expect("the node lives")
    }

    fn heartbeat(&self, conn: &str, write: Option<StateWrite>) -> HeartbeatOutcome {
        let heartbeat = HeartbeatUpdate {
            conn: conn.into(),
            place: place(),
            epoch: None,
            write,
        };
        update(&self.store, heartbeat, &by_node(self.id))
    }

    fn leave(&self, conn: &str, reason: Reason) -> Left {
        let leave = Leave {
            conn,
            place: &place(),
            fence: None,
            node: Some(self.id),
            number: 1,
            reason,
        };
        now(self.store.leave(&leave)).unwrap()
    }

    fn gone(&self) -> Vec<String> {
        self.heard.take_gone()
    }
}

impl World {
    fn node(&self, id: &'static str) -> Node {
        let (store, heard) = self.another();
        now(store.subscribe(&Topic::NodeCalls(id.into()))).unwrap();
        assert_eq!(renew(&store, id, true), Renewal::Renewed);
        Node { id, store, heard }
    }

    fn look(&self, node: &str) -> NodeLook {
        now(self.store.look_at_node(node)).unwrap()
    }

    fn due(&self) -> Vec<String> {
        let due = now(self.store.due_nodes(LEASE)).unwrap();
        due.into_iter().map(|node| node.to_string()).collect()
    }

    /// Asserts that the store is empty once the world has ended its subscription.
    fn assert_empty(&self) {
        now(self.store.unsubscribe(&Topic::AllRooms)).unwrap();
        assert!(self.store.is_empty());
    }
}

fn place() -> Place {
    Place::new("r", "u")
}

fn lives(again_ms: u64) -> NodeLook {
    NodeLook::Lives { again_ms }
}

#[test]
fn a_dead_or_unknown_node_gets_no_connections() {
    let world = World::new();
    world.join("c", "r", "u");
    let assert_lost = || {
        let join = join_of("c", Place::new("r2", "u"), "{}", by_node("n"));
        let joined = now(world.store.join(&join, Some(&place()))).unwrap();
        assert_eq!(joined, Joined::OwnerLost);
        let heartbeat = HeartbeatUpdate {
            conn: "c".into(),
            place: place(),
            epoch: None,
            write: write("{}", Some(r#"{"a":1}"#)),
        };
        let beaten = update(&world.store, heartbeat, &by_node("n"));
        assert_eq!(beaten, HeartbeatOutcome::OwnerLost);
    };
    assert_lost();
    let node = world.node("n");
    let own = node.join(&world, "own");

    now(world.store.end_lease("n")).unwrap();
    assert_lost();
    assert_eq!(renew(&node.store, "n", true), Renewal::Dead);
    assert_eq!(
        node.heartbeat("own", None),
        refreshed(own),
        "as in heartbeat.lua, only a new owner must live"
    );

    assert_eq!(end_node(&world.store, "n"), 1);
    assert_lost();
    assert_eq!(renew(&node.store, "n", false), Renewal::Missing);
    assert_eq!(
        world.events(),
        [
            "join c r u +0",
            "join own r u +0",
            "leave own r u +0 timeout"
        ]
    );
    assert_eq!(world.in_room("r"), ["c"]);
}

#[test]
fn a_record_is_gone_when_it_was_not_renewed_for_too_long() {
    let world = World::new();
    let node = world.node("n");
    world.pass(KEPT - 1);
    assert_eq!(renew(&node.store, "n", false), Renewal::Renewed);
    world.pass(KEPT - 1);
    node.join(&world, "c");
    world.pass(1);
    let join = join_of("d", place(), "{}", by_node("n"));
    let joined = now(world.store.join(&join, None)).unwrap();
    assert_eq!(joined, Joined::OwnerLost);
    assert_eq!(world.look("n"), NodeLook::Missing);
    assert_eq!(renew(&node.store, "n", false), Renewal::Missing);
    assert_eq!(end_node(&world.store, "n"), 0);

    // Its connections end with their TTL.
    assert_eq!(world.in_room("r"), ["c"]);
    world.pass(TTL);
    assert_eq!(world.sweep().expired, 1);
    drop(node);
    world.assert_empty();
}

#[test]
fn who_takes_a_connection_over_dispossesses_its_owner_alone() {
    let world = World::new();
    let (a, b) = (world.node("a"), world.node("b"));
    let audit = || world.store.step(|data, now| data.presence.audit(now));
    a.join(&world, "c");
    a.join(&world, "c");
    assert!(a.gone().is_empty(), "it has joined again itself");

    let epoch = b.join(&world, "c");
    assert_eq!(a.gone(), ["c +1"]);
    assert!(b.gone().is_empty());
    audit().unwrap();

    let conflict = a.heartbeat("c", write(r#"{"a":1}"#, None));
    assert!(matches!(conflict, HeartbeatOutcome::Conflict { .. }));
    assert!(b.gone().is_empty(), "nothing was written");
    assert_eq!(a.heartbeat("c", None), refreshed(epoch));
    assert_eq!(b.gone(), ["c +2"]);
    assert_eq!(a.heartbeat("c", None), refreshed(epoch));
    assert!(a.gone().is_empty() && b.gone().is_empty());
    audit().unwrap();

    let higher = epoch + 1000;
    let beaten = world.heartbeat("c", &place(), Some(higher));
    assert_eq!(beaten, adopted(higher));
    assert_eq!(a.gone(), ["c +2"], "with the epoch that it owned");
    assert_eq!(world.heartbeat("c", &place(), None), refreshed(higher));
    assert!(a.gone().is_empty() && b.gone().is_empty());
    audit().unwrap();

    for node in ["a", "b"] {
        assert_eq!(end_node(&world.store, node), 0);
    }
    assert_eq!(world.in_room("r"), ["c"]);
}

#[test]
fn a_join_elsewhere_dispossesses_the_owner_and_so_does_one_after_the_ttl() {
    let world = World::new();
    let (a, b) = (world.node("a"), world.node("b"));
    a.join(&world, "c");
    world.pass(7);
    world.join("c", "r2", "u");
    assert_eq!(a.gone(), ["c +0"]);

    a.join(&world, "d");
    world.pass(TTL);
    b.join(&world, "d");
    assert_eq!(a.gone(), ["d +7"]);
    assert_eq!(
        world.events(),
        [
            "join c r u +0",
            "leave c r u +0 replaced",
            "join c r2 u +7",
            "join d r u +7",
            "leave d r u +7 timeout",
            "join d r u +107",
        ]
    );
    assert!(b.gone().is_empty());
}

#[test]
fn a_leave_notifies_the_owner_unless_it_is_its_own() {
    let world = World::new();
    let (a, b) = (world.node("a"), world.node("b"));
    for conn in ["c1", "c2", "c3"] {
        a.join(&world, conn);
    }
    // Only a leave with the reason `left` waits until the clock has passed the epoch.
    assert_eq!(a.leave("c1", Reason::Timeout), Left::Left);
    assert!(a.gone().is_empty());
    assert_eq!(b.leave("c2", Reason::Left), Left::Early { wait_ms: 1 });
    assert!(a.gone().is_empty());
    world.pass(1);
    assert_eq!(b.leave("c2", Reason::Left), Left::Left);
    assert_eq!(a.gone(), ["c2 +0"]);
    assert_eq!(world.leave("c3", &place()), Left::Left);
    assert_eq!(a.gone(), ["c3 +0"]);
    assert!(b.gone().is_empty());
    assert_eq!(
        world.events()[3..],
        [
            "leave c1 r u +0 timeout",
            "leave c2 r u +0 left",
            "leave c3 r u +0 left"
        ]
    );

    for node in [a, b] {
        assert_eq!(end_node(&node.store, node.id), 0);
    }
    world.assert_empty();
}

#[test]
fn a_death_removes_each_connection_of_the_node_once() {
    let world = World::new();
    let (a, b) = (world.node("a"), world.node("b"));
    let dead = REAPED_AT_A_TIME + 1;
    a.join(&world, "taken");
    for i in 0..dead {
        a.join(&world, &format!("c{i}"));
    }
    b.join(&world, "taken");
    world.join("free", "r", "u");
    assert_eq!(a.gone(), ["taken +0"]);
    world.heard.take();

    let mut sweep = Sweep::default();
    let mut remove = || now(world.store.remove_connections("a", false, &mut sweep)).unwrap();
    assert_eq!(remove(), Removal::Done, "it lives");
    assert!(world.heard.take().is_empty());
    now(world.store.end_lease("a")).unwrap();
    assert_eq!(world.due(), ["a"]);
    assert_eq!(remove(), Removal::More { after_ms: 0 });
    assert_eq!(world.due(), ["a"]);
    assert_eq!(remove(), Removal::Done);
    assert!(world.due().is_empty());
    assert_eq!(remove(), Removal::Done);
    assert_eq!(sweep.expired, dead as u64);

    let left = world.events();
    assert_eq!(left.len(), dead);
    let distinct: BTreeSet<_> = left.into_iter().collect();
    let expected = (0..dead).map(|i| format!("leave c{i} r u +0 timeout"));
    assert_eq!(distinct, expected.collect());
    assert_eq!(world.in_room("r"), ["taken", "free"]);
    assert!(a.gone().is_empty() && b.gone().is_empty());
}

#[test]
fn a_node_that_renews_its_lease_is_not_declared_dead() {
    let world = World::new();
    let node = world.node("n");
    assert_eq!(world.look("n"), lives(20));
    world.pass(19);
    assert!(world.due().is_empty());
    world.pass(1);
    assert_eq!(world.due(), ["n"]);
    assert_eq!(world.look("n"), lives(0));
    world.pass(10);
    assert_eq!(world.look("n"), lives(0));
    world.pass(9);
    assert_eq!(renew(&node.store, "n", false), Renewal::Renewed);
    world.pass(1);
    assert_eq!(world.look("n"), lives(19));

    // The lease has ended, but nobody has declared the node dead.
    world.pass(40);
    assert_eq!(world.look("n"), lives(0));
    assert_eq!(renew(&node.store, "n", false), Renewal::Renewed);
    world.pass(20);
    assert_eq!(world.look("n"), lives(0));
    assert_eq!(renew(&node.store, "n", true), Renewal::Renewed);
}

#[test]
fn a_node_that_does_not_renew_its_lease_is_dead_when_it_ends() {
    let world = World::new();
    let node = world.node("n");
    world.pass(20);
    assert_eq!(world.look("n"), lives(0));
    for ms in [10, 9] {
        world.pass(ms);
        assert_eq!(world.look("n"), lives(0));
    }
    world.pass(1);
    assert_eq!(world.look("n"), NodeLook::Dead);
    assert_eq!(world.look("n"), NodeLook::Dead);
    assert_eq!(renew(&node.store, "n", true), Renewal::Dead);
    assert_eq!(world.due(), ["n"]);
}

#[test]
fn looks_must_have_come_for_half_of_the_lease_without_a_break() {
    let world = World::new();
    let _node = world.node("n");
    world.pass(20);
    assert_eq!(world.look("n"), lives(0));
    world.pass(LEASE / 4 + 1);
    assert_eq!(world.look("n"), lives(0), "looks begin again after a break");
    for ms in [10, 9] {
        world.pass(ms);
        assert_eq!(world.look("n"), lives(0), "the lease has ended");
    }
    world.pass(1);
    assert_eq!(world.look("n"), NodeLook::Dead);
}

#[test]
fn a_refresh_is_either_for_connections_with_owners_or_for_others() {
    let world = World::new();
    let (a, b) = (world.node("a"), world.node("b"));
    let owned = a.join(&world, "owned");
    let free = world.join("free", "r", "u");
    let heartbeats = [plain("owned", "r", owned), plain("free", "r", free)];
    let refresh = |heartbeats: &[HeartbeatRefresh], lifetime: &Lifetime| {
        now(world.store.refresh_heartbeats(heartbeats, lifetime)).unwrap()
    };
    let miss = |index, epoch| BatchMiss {
        index,
        stored: Ok(Some(epoch)),
    };
    assert_eq!(refresh(&heartbeats, &by_heartbeats()), [miss(0, owned)]);
    world.pass(TTL - 1);
    assert_eq!(
        refresh(&heartbeats, &by_node("b")),
        [miss(1, free)],
        "the epoch is compared, and not the owner"
    );
    let stale = [plain("owned", "r", owned - 1)];
    assert_eq!(refresh(&stale, &by_node("a")), [miss(0, owned)]);
    world.pass(1);
    assert_eq!(world.in_room("r"), ["owned"]);
    assert!(a.gone().is_empty() && b.gone().is_empty());
}

#[test]
fn a_connection_with_an_owner_counts_as_seen_until_its_ttl_ends() {
    let world = World::new();
    let node = world.node("n");
    node.join(&world, "c");
    let at = world.pass(TTL - 1);
    assert_eq!(snapshot(&world.store, "r").unwrap()[0].last_seen_ms, at);
    let found = now(world.store.user_connections("u")).unwrap();
    assert_eq!(found[0].last_seen_ms, at);

    world.pass(1);
    assert!(world.in_room("r").is_empty());
    assert_eq!(world.sweep().expired, 1);
    assert_eq!(node.gone(), ["c +0"]);
    assert_eq!(world.events(), ["join c r u +0", "leave c r u +0 timeout"]);
}
