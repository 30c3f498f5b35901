//! Tests of expiry, of what handles share, and of which events they get.

use super::*;
use crate::{
    model::metadata::{Channel, change::ChangedItems, record::Stored},
    store::metadata::{Commit, Committed, MetadataStore, Write},
};

#[test]
fn spec_6_1_a_sweep_removes_what_is_dead_and_nothing_else() {
    let world = World::new();
    world.join("a", "r1", "u");
    world.join("b", "r2", "u");
    let place = Place::new("r1", "u");
    world.pass(TTL - 1);
    world.heartbeat("a", &place, Some(START + 5));
    assert_eq!(world.sweep(), Sweep::default());
    world.heard.take();

    let ts = world.pass(1);
    assert_eq!(
        world.sweep(),
        Sweep {
            rooms: 1,
            expired: 1,
            ..Sweep::default()
        }
    );
    assert_eq!(
        world.heard.take(),
        [format!(
            r#"{{"type":"leave","roomId":"r2","userId":"u","connId":"b","state":null,"ts":{ts},"epoch":{START},"reason":"timeout"}}"#
        )]
    );
    assert_eq!(world.sweep(), Sweep::default());

    world.pass(TTL);
    assert_eq!(
        world.sweep(),
        Sweep {
            rooms: 1,
            expired: 1,
            ..Sweep::default()
        }
    );
    assert_eq!(
        world.events(),
        ["leave a r1 u +5 timeout"],
        "with the adopted epoch"
    );
    now(world.store.unsubscribe(&Topic::AllRooms)).unwrap();
    assert!(world.store.is_empty());
}

#[test]
fn spec_6_1_a_shorter_ttl_makes_a_connection_due_earlier() {
    let world = World::new();
    let epoch = world.join("c", "r", "u");
    now(world
        .store
        .refresh_heartbeats(&[plain("c", "r", epoch)], &Lifetime::of_heartbeats(10)))
    .unwrap();
    world.pass(10);
    assert_eq!(world.sweep().expired, 1);
}

#[tokio::test]
async fn spec_6_1_a_big_sweep_lets_others_in_between() {
    let world = World::new();
    let dead = 2 * REAPED_AT_A_TIME + 1;
    for i in 0..dead {
        world.join(&format!("c{i}"), &format!("r{}", i % 3), "u");
    }
    world.pass(TTL);
    let mut sweep = world.store.sweep(&SETTINGS);
    assert!(
        sweep.as_mut().now_or_never().is_none(),
        "one step does not do it all"
    );
    assert_eq!(
        world.join("c1", "r1", "u"),
        START + TTL,
        "rejoined in the midst of the sweep"
    );
    assert_eq!(world.join("late", "r1", "u"), START + TTL);
    let swept = sweep.await.unwrap();
    // c1 was removed in the first step, before it joined again.
    assert_eq!(
        swept,
        Sweep {
            rooms: 3,
            expired: dead as u64,
            ..Sweep::default()
        }
    );
    assert_eq!(world.in_room("r1"), ["c1", "late"]);
}

#[test]
fn spec_4_2_who_expired_unnoticed_and_joins_elsewhere_has_left_first() {
    for (room, user) in [("r2", "u"), ("r", "u2")] {
        let world = World::new();
        world.join("c", "r", "u");
        world.heartbeat("c", &Place::new("r", "u"), Some(START + 3));
        world.pass(TTL);
        // An expired connection is not found, so the old place need not be given.
        let joined = try_join(&world.store, "c", Place::new(room, user), None).unwrap();
        assert_eq!(
            joined,
            Joined::Joined {
                epoch: START + TTL,
                encoding: None,
            }
        );
        assert_eq!(world.sweep(), Sweep::default());
        assert_eq!(
            world.events(),
            [
                "join c r u +0".into(),
                "leave c r u +3 timeout".into(),
                format!("join c {room} {user} +{TTL}"),
            ]
        );
    }
}

#[test]
fn spec_4_2_who_expired_unnoticed_and_joins_the_same_place_leaves_first() {
    let world = World::new();
    world.join("c", "r", "u");
    world.pass(TTL);
    assert_eq!(world.join("c", "r", "u"), START + TTL);
    assert_eq!(world.sweep(), Sweep::default());
    assert_eq!(
        world.events(),
        ["join c r u +0", "leave c r u +0 timeout", "join c r u +100"]
    );
}

#[test]
fn spec_4_3_topics_are_separate_feeds_of_each_handle() {
    let world = World::new();
    let (store, heard) = world.another();
    let room = Topic::Room("r1".into());
    for _ in 0..2 {
        now(store.subscribe(&room)).unwrap();
    }
    world.join("a", "r1", "u");
    world.join("b", "r2", "u");
    assert_eq!(world.heard.take().len(), 2);
    let got = heard.take_with_feeds();
    assert_eq!(got.len(), 1, "subscribed twice, heard once");
    assert_eq!(
        (got[0].0, short(&got[0].1)),
        (Feed::Room, "join a r1 u +0".into())
    );

    now(store.subscribe(&Topic::AllRooms)).unwrap();
    world.join("c", "r1", "u");
    let feeds: Vec<_> = heard
        .take_with_feeds()
        .into_iter()
        .map(|(feed, _)| feed)
        .collect();
    assert_eq!(feeds, [Feed::Room, Feed::AllRooms]);

    now(store.unsubscribe(&room)).unwrap();
    now(store.unsubscribe(&room)).unwrap();
    world.join("d", "r1", "u");
    assert_eq!(heard.take_with_feeds().len(), 1);

    now(store.close());
    world.join("e", "r1", "u");
    assert!(heard.take().is_empty());
    assert_eq!(world.heard.take().len(), 3);
}

#[test]
fn spec_11_2_one_name_is_one_store_until_the_last_handle_goes() {
    let open = |name| MemoryStore::open(name, Arc::new(Recorder::default()));
    let count = |store: &MemoryStore| snapshot(store, "r").unwrap().len();
    let name = "tests::one_name_is_one_store";

    let (a, b) = (open(Some(name)), open(Some(name)));
    let (other, own) = (open(Some("tests::another_name")), open(None));
    join(&a, "c", "r", "u", "{}", std::convert::identity);
    assert_eq!(
        [&a, &b, &other, &own, &open(None)].map(count),
        [1, 1, 0, 0, 0]
    );

    now(a.close());
    now(a.close());
    assert_eq!(snapshot(&a, "r").unwrap_err().code, Code::Closed);
    assert_eq!(
        now(a.subscribe(&Topic::AllRooms)).unwrap_err().code,
        Code::Closed
    );
    assert_eq!(count(&open(Some(name))), 1, "b still holds it");
    drop(b);
    assert!(!NAMED.lock().contains_key(name));

    let again = open(Some(name));
    assert_eq!(
        count(&again),
        0,
        "a, closed but not dropped, keeps nothing alive"
    );
}

#[test]
fn adopting_is_nothing_and_time_is_the_time() {
    let store = MemoryStore::open(None, Arc::new(Recorder::default()));
    now(store.adopt(TTL)).unwrap();
    let wall = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let epoch = join(&store, "c", "r", "u", "{}", std::convert::identity);
    assert!(epoch.abs_diff(wall.as_millis() as u64) < 60_000);
}

/// Writes a record with this TTL. `before` is the expected stored record.
fn write_record(world: &World, channel: &Channel, before: &Stored, ttl_ms: Option<u64>) -> Stored {
    let write = Write {
        items: Arc::new("{}".to_owned().into()),
        total: 0,
        major: 1,
        events: Vec::new(),
        ttl_ms,
        touched: ChangedItems::All,
    };
    let commit = Commit {
        channel,
        base: before,
        locks: &[],
        write: Some(&write),
    };
    let done = now(world.store.commit_metadata(commit)).unwrap();
    assert!(matches!(done, Committed::Done(_)), "{done:?}");
    now(world.store.read_metadata(channel)).unwrap().0
}

#[test]
fn spec_7_10_expired_records_do_not_pile_up() {
    let world = World::new();
    let missing = Stored::default();
    let channel = |i: usize| Channel::new("t", &i.to_string());
    for i in 0..1000 {
        let written = write_record(&world, &channel(i), &missing, Some(10));
        // A second write must not add a second index entry.
        write_record(&world, &channel(i), &written, (i % 2 == 0).then_some(20));
    }
    let sizes = || world.store.step(|data, _| data.metadata.sizes()).unwrap();
    assert_eq!(sizes(), (1000, 500));
    world.pass(19);
    world.sweep();
    assert_eq!(sizes(), (1000, 500));
    world.pass(1);
    // Records expire exactly at that time, although one step may remove only some of them.
    for i in [998, 999] {
        let (stored, _) = now(world.store.read_metadata(&channel(i))).unwrap();
        assert_eq!(stored == missing, i % 2 == 0, "{i}");
    }
    world.sweep();
    assert_eq!(sizes(), (500, 0));
}
