//! Spec 3.1 to 3.9 on the in-process store.

use super::*;

#[test]
fn spec_3_1_a_join_gets_the_time_as_epoch_and_a_rejoin_at_least_one_more() {
    let world = World::new();
    assert_eq!(world.join("c", "r", "u"), START);
    assert_eq!(world.join("c", "r", "u"), START + 1);
    world.pass(50);
    assert_eq!(world.join("c", "r", "u"), START + 51);
    assert_eq!(
        world.events(),
        ["join c r u +0", "join c r u +1", "join c r u +51"]
    );
    assert_eq!(world.in_room("r"), ["c"]);
}

#[test]
fn spec_3_1_the_snapshot_of_a_join_holds_the_joined_too_in_join_order() {
    let world = World::new();
    for conn in ["b", "c", "a", "b"] {
        world.join(conn, "r", "u");
    }
    world.join("elsewhere", "r2", "u");
    let place = Place::new("r", "v");
    let join = join_of("d", place, r#"{"x":[]}"#, by_heartbeats());
    let Joined::Joined { epoch, .. } = now(world.store.join(&join, None)).unwrap() else {
        panic!("not joined");
    };
    let members = snapshot(&world.store, "r").unwrap();
    let conns: Vec<_> = members.iter().map(|m| m.conn.as_str()).collect();
    assert_eq!(conns, ["c", "a", "b", "d"]);
    assert_eq!(
        members[3],
        Member {
            conn: "d".into(),
            user: "v".into(),
            room: "r".into(),
            state: Some(text(r#"{"x":[]}"#)),
            last_seen_ms: epoch,
            epoch,
        }
    );
}

#[test]
fn spec_3_2_a_join_elsewhere_leaves_first_in_the_same_step() {
    for (room, user) in [("r2", "u"), ("r", "u2"), ("r2", "u2")] {
        let world = World::new();
        let old = Place::new("r", "u");
        let new = Place::new(room, user);
        world.join("c", "r", "u");
        world.pass(7);

        for wrong in [None, Some(&new), Some(&Place::new("r9", "u9"))] {
            let joined = try_join(&world.store, "c", new.clone(), wrong).unwrap();
            assert_eq!(joined, Joined::Elsewhere(old.clone()));
        }
        assert_eq!(world.in_room("r"), ["c"]);
        assert_eq!(world.events(), ["join c r u +0"]);

        let joined = try_join(&world.store, "c", new.clone(), Some(&old)).unwrap();
        assert_eq!(
            joined,
            Joined::Joined {
                epoch: START + 7,
                encoding: None,
            }
        );
        assert_eq!(
            world.events(),
            [
                "leave c r u +0 replaced".into(),
                format!("join c {room} {user} +7")
            ]
        );
        assert_eq!(world.in_room(room), ["c"]);
        assert_eq!(world.in_room("r").len(), usize::from(room == "r"));
        let of_old = now(world.store.user_connections("u")).unwrap();
        assert_eq!(of_old.len(), usize::from(user == "u"));
    }
}

#[test]
fn spec_3_2_a_place_that_is_no_longer_right_does_not_matter_to_who_is_nowhere() {
    let world = World::new();
    let joined = try_join(
        &world.store,
        "c",
        Place::new("r", "u"),
        Some(&Place::new("x", "y")),
    );
    assert_eq!(
        joined.unwrap(),
        Joined::Joined {
            epoch: START,
            encoding: None,
        }
    );
}

#[test]
fn spec_3_3_a_heartbeat_refreshes_and_its_epoch_is_refused_or_adopted() {
    let world = World::new();
    let place = Place::new("r", "u");
    let epoch = world.join("c", "r", "u");

    world.pass(TTL - 1);
    assert_eq!(world.heartbeat("c", &place, None), refreshed(epoch));
    let seen = world.pass(TTL - 1);
    assert_eq!(world.heartbeat("c", &place, Some(epoch)), refreshed(epoch));
    assert_eq!(snapshot(&world.store, "r").unwrap()[0].last_seen_ms, seen);

    world.pass(TTL - 1);
    assert_eq!(
        world.heartbeat("c", &place, Some(epoch - 1)),
        HeartbeatOutcome::Stale { stored: epoch }
    );
    // A stale epoch is reported before a wrong place, as in heartbeat.lua.
    let wrong = Place::new("r2", "u");
    assert_eq!(
        world.heartbeat("c", &wrong, Some(epoch - 1)),
        HeartbeatOutcome::Stale { stored: epoch }
    );
    assert_eq!(
        world.heartbeat("c", &wrong, Some(epoch + 1)),
        HeartbeatOutcome::Elsewhere(place.clone())
    );
    assert_eq!(snapshot(&world.store, "r").unwrap()[0].last_seen_ms, seen);
    world.pass(1);
    assert_eq!(
        world.heartbeat("c", &place, None),
        HeartbeatOutcome::Unknown,
        "the refused refreshed nothing"
    );

    let epoch = world.join("c", "r", "u");
    let higher = epoch + 1000;
    assert_eq!(world.heartbeat("c", &place, Some(higher)), adopted(higher));
    assert_eq!(
        world.heartbeat("c", &place, Some(epoch)),
        HeartbeatOutcome::Stale { stored: higher }
    );
    assert_eq!(world.join("c", "r", "u"), higher + 1);
    assert_eq!(world.leave("c", &place), Left::Left);
    assert_eq!(
        world.events().last().unwrap(),
        &format!("leave c r u +{} left", higher + 1 - START)
    );
}

#[test]
fn spec_3_3_a_batch_refreshes_equal_epochs_and_returns_the_others() {
    let world = World::new();
    let epochs: Vec<_> = ["a", "b", "c", "d"]
        .map(|conn| world.join(conn, "r", "u"))
        .into();
    world.pass(TTL - 1);
    let heartbeats = [
        plain("a", "r", epochs[0]),
        plain("b", "r", epochs[1] - 1),
        plain("c", "r", epochs[2] + 1),
        plain("nobody", "r", 1),
        plain("d", "r", epochs[3]),
    ];
    assert_eq!(
        now(world
            .store
            .refresh_heartbeats(&heartbeats, &by_heartbeats()))
        .unwrap(),
        [
            BatchMiss {
                index: 1,
                stored: Ok(Some(epochs[1]))
            },
            BatchMiss {
                index: 2,
                stored: Ok(Some(epochs[2]))
            },
            BatchMiss {
                index: 3,
                stored: Ok(None)
            },
        ]
    );
    world.pass(1);
    assert_eq!(world.in_room("r"), ["a", "d"]);
    assert_eq!(
        now(world
            .store
            .refresh_heartbeats(&heartbeats[1..2], &by_heartbeats()))
        .unwrap(),
        [BatchMiss {
            index: 0,
            stored: Ok(None)
        }],
        "expired, though not swept"
    );
}

#[test]
fn spec_3_4_a_state_is_written_when_the_expected_text_is_stored_and_an_update_published() {
    let world = World::new();
    let place = Place::new("r", "u");
    let epoch = join(&world.store, "c", "r", "u", r#"{"a": 1}"#, |ms| {
        world.pass(ms)
    });
    world.heard.take();
    let write_state = |base, next| heartbeat(&world.store, "c", &place, None, write(base, next));

    let conflict = HeartbeatOutcome::Conflict {
        stored: text(r#"{"a": 1}"#).into(),
    };
    assert_eq!(
        write_state(r#"{"a":1}"#, Some("{}")),
        conflict,
        "compared as text"
    );
    assert_eq!(write_state("{}", None), conflict);
    assert_eq!(write_state(r#"{"a": 1}"#, None), refreshed(epoch));
    assert!(world.heard.take().is_empty(), "no update without a change");

    world.pass(5);
    let higher = epoch + 9;
    let patched = write(r#"{"a": 1}"#, Some(r#"{"a":2}"#));
    let beaten = heartbeat(&world.store, "c", &place, Some(higher), patched);
    assert_eq!(beaten, adopted(higher));
    let ts = START + 5;
    assert_eq!(
        world.heard.take(),
        [format!(
            r#"{{"type":"update","roomId":"r","userId":"u","connId":"c","state":{{"a":2}},"ts":{ts},"epoch":{higher}}}"#
        )]
    );
}

#[test]
fn spec_3_5_what_goes_in_comes_out() {
    let world = World::new();
    let state = format!(
        r#"{{"z":[],"n":9007199254740991,"f":1e308,"s":"\ud800 \u0000ü","__proto__":{{"p":[]}},"d":{}{}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    let room = "a:{b}\0 *\"\\ü";
    join(&world.store, "c\n", room, "u", &state, |ms| world.pass(ms));
    let member = snapshot(&world.store, room).unwrap().remove(0);
    assert_eq!(member.state.unwrap().as_str(), state);
    let located = now(world.store.locate(&["c\n".into()]))
        .remove(0)
        .unwrap()
        .unwrap();
    assert_eq!(located.stored.state.as_str(), state);
    let event = world.heard.take().remove(0);
    assert!(
        event.contains(&format!(r#","state":{state},"ts":"#)),
        "{event}"
    );
    let parsed = parse(&event.replace(r"\ud800", ""));
    assert_eq!((&*parsed.room_id, &*parsed.conn_id), (room, "c\n"));
}

#[test]
fn spec_3_6_a_leave_removes_the_connection_everywhere_once() {
    let world = World::new();
    let place = Place::new("r", "u");
    world.join("c", "r", "u");
    world.join("d", "r", "u");
    let leave = |place: &Place| world.leave("c", place);

    assert_eq!(
        leave(&Place::new("r2", "u")),
        Left::Elsewhere(place.clone())
    );
    assert_eq!(
        leave(&Place::new("r", "u2")),
        Left::Elsewhere(place.clone())
    );
    assert_eq!(leave(&place), Left::Left);
    assert_eq!(leave(&place), Left::Unknown);
    assert_eq!(
        world.events(),
        ["join c r u +0", "join d r u +0", "leave c r u +0 left"]
    );
    assert_eq!(world.in_room("r"), ["d"]);
    assert!(matches!(
        now(world.store.locate(&["c".into()]))[..],
        [Ok(None)]
    ));

    assert_eq!(world.leave("d", &place), Left::Left);
    now(world.store.unsubscribe(&Topic::AllRooms)).unwrap();
    assert!(world.store.is_empty());
}

#[test]
fn spec_3_1_a_leave_waits_until_the_clock_has_passed_the_epoch() {
    let world = World::new();
    let place = Place::new("r", "u");
    let epoch = world.join("c", "r", "u");
    let early = try_leave(&world.store, "c", &place);
    assert_eq!(early, Left::Early { wait_ms: 1 });
    assert_eq!(world.leave("c", &place), Left::Left);
    assert!(world.join("c", "r", "u") > epoch);
}

#[test]
fn spec_3_7_a_late_heartbeat_brings_nobody_back() {
    let world = World::new();
    let place = Place::new("r", "u");
    let late = |epoch| {
        let full = heartbeat(
            &world.store,
            "c",
            &place,
            Some(epoch),
            write("{}", Some(r#"{"a":1}"#)),
        );
        let plain = now(world
            .store
            .refresh_heartbeats(&[plain("c", "r", epoch)], &by_heartbeats()))
        .unwrap();
        (full, plain.first().map(|miss| miss.stored.clone()))
    };
    let gone = (HeartbeatOutcome::Unknown, Some(Ok(None)));

    let epoch = world.join("c", "r", "u");
    assert_eq!(world.leave("c", &place), Left::Left);
    assert_eq!(late(epoch), gone, "after a leave");

    let epoch = world.join("c", "r", "u");
    world.pass(TTL);
    assert_eq!(late(epoch), gone, "after the TTL");
    assert_eq!(
        world.sweep(),
        Sweep {
            rooms: 1,
            expired: 1,
            ..Sweep::default()
        }
    );
    assert_eq!(late(epoch), gone, "after a sweep");

    let epoch = world.join("c", "r", "u");
    let newer = world.join("c", "r2", "u");
    assert_eq!(
        late(epoch),
        (
            HeartbeatOutcome::Stale { stored: newer },
            Some(Ok(Some(newer)))
        ),
        "after a rejoin"
    );
    assert!(world.in_room("r").is_empty());
    assert!(
        !world
            .heard
            .take()
            .iter()
            .any(|text| text.contains("update"))
    );
}

#[test]
fn spec_3_8_a_snapshot_leaves_out_what_has_expired() {
    let world = World::new();
    world.join("old", "r", "u");
    world.pass(TTL / 2);
    world.join("new", "r", "u");
    world.pass(TTL / 2);
    assert_eq!(world.in_room("r"), ["new"]);
    assert!(world.in_room("nowhere").is_empty());
    assert!(matches!(
        now(world.store.locate(&["old".into()]))[..],
        [Ok(None)]
    ));
    assert_eq!(
        try_leave(&world.store, "old", &Place::new("r", "u")),
        Left::Unknown
    );
}

#[test]
fn spec_3_9_a_user_has_connections_in_many_rooms() {
    let world = World::new();
    world.join("gone", "r1", "u");
    world.pass(1);
    let epoch = join(&world.store, "c2", "r2", "u", r#"{"a":1}"#, |ms| {
        world.pass(ms)
    });
    world.join("c1", "r1", "u");
    world.join("other", "r1", "v");
    world.pass(TTL - 1);
    let found = now(world.store.user_connections("u")).unwrap();
    let places: Vec<_> = found
        .iter()
        .map(|m| (&*m.conn, &*m.room, &*m.user))
        .collect();
    assert_eq!(places, [("c2", "r2", "u"), ("c1", "r1", "u")]);
    assert_eq!(found[0].state, Some(text(r#"{"a":1}"#)));
    assert_eq!((found[0].epoch, found[0].last_seen_ms), (epoch, START + 1));
    assert!(
        now(world.store.user_connections("nobody"))
            .unwrap()
            .is_empty()
    );
}
