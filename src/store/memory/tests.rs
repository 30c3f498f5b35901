use super::{Clock, Core, MemoryStore, NAMED, REAPED_AT_A_TIME};
use crate::{
    model::{
        error::{Code, Result},
        presence::{Epoch, Member, Place, Sweep},
        state::State,
    },
    store::{
        Beaten, ConnectionState, EventSink, Exception, FullBeat, Join, Joined, Left, LogLevel,
        PlainBeat, StateWrite, Store, Topic,
    },
};
use futures_util::FutureExt;
use parking_lot::Mutex;
use proptest::{prelude::*, test_runner::RngSeed};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

const TTL: u64 = 100;
const SETTINGS: crate::store::SweepSettings = crate::store::SweepSettings {
    ttl_ms: TTL,
    claim_ms: TTL,
    check_ms: TTL,
};
const START: u64 = 1_700_000_000_000;

#[derive(Default)]
struct Recorder {
    heard: Mutex<Vec<(Topic, String)>>,
}

impl Recorder {
    fn take(&self) -> Vec<String> {
        self.take_with_topics()
            .into_iter()
            .map(|(_, text)| text)
            .collect()
    }

    fn take_with_topics(&self) -> Vec<(Topic, String)> {
        std::mem::take(&mut *self.heard.lock())
    }
}

impl EventSink for Recorder {
    fn presence(&self, topic: &Topic, payload: &str) -> u64 {
        self.heard.lock().push((topic.clone(), payload.to_owned()));
        0
    }
    fn gap(&self) {}
    fn malformed(&self) {}
    fn expired(&self) {}
    fn state(&self, _: ConnectionState, _: &str) {}
    fn log(&self, _: LogLevel, _: &str) {}
}

/// Everything in the store is done when its future is first polled, except for big sweeps.
fn now<T>(future: impl Future<Output = T>) -> T {
    future
        .now_or_never()
        .expect("the in-process store does not wait")
}

/// A store with a clock of its own and handles on it that listen to all rooms.
struct World {
    clock: Arc<AtomicU64>,
    core: Arc<Core>,
    store: MemoryStore,
    heard: Arc<Recorder>,
}

impl World {
    fn new() -> World {
        let clock = Arc::new(AtomicU64::new(START));
        let core = Core::new(None, Clock::Manual(clock.clone()));
        let heard = Arc::new(Recorder::default());
        let store = MemoryStore::on(core.clone(), heard.clone());
        now(store.subscribe(&Topic::AllRooms)).unwrap();
        World {
            clock,
            core,
            store,
            heard,
        }
    }

    fn another(&self) -> (MemoryStore, Arc<Recorder>) {
        let heard = Arc::new(Recorder::default());
        (MemoryStore::on(self.core.clone(), heard.clone()), heard)
    }

    fn pass(&self, ms: u64) -> u64 {
        self.clock.fetch_add(ms, Ordering::SeqCst) + ms
    }

    fn join(&self, conn: &str, room: &str, user: &str) -> Epoch {
        join(&self.store, conn, room, user, "{}", |ms| self.pass(ms))
    }

    /// Leaves as the presence layer does: again, when the clock has passed the epoch.
    fn leave(&self, conn: &str, place: &Place) -> Left {
        leave(&self.store, conn, place, |ms| self.pass(ms))
    }

    fn beat(&self, conn: &str, place: &Place, epoch: Option<Epoch>) -> Beaten {
        beat(&self.store, conn, place, epoch, None)
    }

    fn sweep(&self) -> Sweep {
        now(self.store.sweep(&SETTINGS)).unwrap()
    }

    fn events(&self) -> Vec<String> {
        self.heard.take().iter().map(|text| short(text)).collect()
    }

    fn in_room(&self, room: &str) -> Vec<String> {
        let members = now(self.store.room_snapshot(room)).unwrap();
        members.into_iter().map(|member| member.conn).collect()
    }
}

fn leave<T>(store: &MemoryStore, conn: &str, place: &Place, pass: impl Fn(u64) -> T) -> Left {
    loop {
        match now(store.leave(conn, place)).unwrap() {
            Left::Early { wait_ms } => drop(pass(wait_ms)),
            other => return other,
        }
    }
}

fn text(state: &str) -> State {
    State::parse("state", state).unwrap()
}

fn try_join(
    store: &MemoryStore,
    conn: &str,
    place: Place,
    previous: Option<&Place>,
) -> Result<Joined> {
    let join = Join {
        floor: 0,
        conn: conn.into(),
        place,
        state: State::empty(),
        ttl_ms: TTL,
    };
    now(store.join(&join, previous, false))
}

/// Joins as the presence layer does: again, with the place that the store answered.
fn join<T>(
    store: &MemoryStore,
    conn: &str,
    room: &str,
    user: &str,
    state: &str,
    pass: impl Fn(u64) -> T,
) -> Epoch {
    let place = Place::new(room, user);
    let join = Join {
        floor: 0,
        conn: conn.into(),
        place,
        state: text(state),
        ttl_ms: TTL,
    };
    let mut previous = None;
    loop {
        match now(store.join(&join, previous.as_ref(), false)).unwrap() {
            Joined::Joined { epoch, .. } => return epoch,
            Joined::Elsewhere(place) => previous = Some(place),
            Joined::Early { wait_ms } => drop(pass(wait_ms)),
        }
    }
}

fn beat(
    store: &MemoryStore,
    conn: &str,
    place: &Place,
    epoch: Option<Epoch>,
    write: Option<StateWrite>,
) -> Beaten {
    let beat = FullBeat {
        conn: conn.into(),
        place: place.clone(),
        epoch,
        write,
    };
    now(store.beat_full(&[beat], TTL)).remove(0).unwrap()
}

fn write(base: &str, next: Option<&str>) -> Option<StateWrite> {
    Some(StateWrite {
        base: base.into(),
        next: next.map(text),
    })
}

fn plain(conn: &str, room: &str, epoch: Epoch) -> PlainBeat {
    PlainBeat {
        conn: conn.into(),
        room: room.into(),
        epoch,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    room_id: String,
    user_id: String,
    conn_id: String,
    epoch: Epoch,
    reason: Option<String>,
}

fn parse(text: &str) -> Event {
    serde_json::from_str(text).unwrap()
}

/// "join c r u +0": the epoch relative to the start of the test.
fn short(text: &str) -> String {
    let event = parse(text);
    let reason = event
        .reason
        .map_or(String::new(), |reason| format!(" {reason}"));
    let Event {
        kind,
        conn_id,
        room_id,
        user_id,
        epoch,
        ..
    } = event;
    format!(
        "{kind} {conn_id} {room_id} {user_id} +{}{reason}",
        epoch - START
    )
}

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
    let join = Join {
        floor: 0,
        conn: "d".into(),
        place,
        state: text(r#"{"x":[]}"#),
        ttl_ms: TTL,
    };
    let Joined::Joined {
        epoch,
        snapshot: Some(members),
    } = now(world.store.join(&join, None, true)).unwrap()
    else {
        panic!("no snapshot");
    };
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
                snapshot: None
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
            snapshot: None
        }
    );
}

#[test]
fn spec_3_3_a_heartbeat_refreshes_and_its_epoch_is_refused_or_adopted() {
    let world = World::new();
    let place = Place::new("r", "u");
    let epoch = world.join("c", "r", "u");

    world.pass(TTL - 1);
    assert_eq!(world.beat("c", &place, None), Beaten::Refreshed { epoch });
    let seen = world.pass(TTL - 1);
    assert_eq!(
        world.beat("c", &place, Some(epoch)),
        Beaten::Refreshed { epoch }
    );
    assert_eq!(
        now(world.store.room_snapshot("r")).unwrap()[0].last_seen_ms,
        seen
    );

    world.pass(TTL - 1);
    assert_eq!(
        world.beat("c", &place, Some(epoch - 1)),
        Beaten::Stale { stored: epoch }
    );
    // A stale epoch is told before a wrong place, as in heartbeat.lua.
    let wrong = Place::new("r2", "u");
    assert_eq!(
        world.beat("c", &wrong, Some(epoch - 1)),
        Beaten::Stale { stored: epoch }
    );
    assert_eq!(
        world.beat("c", &wrong, Some(epoch + 1)),
        Beaten::Elsewhere(place.clone())
    );
    assert_eq!(
        now(world.store.room_snapshot("r")).unwrap()[0].last_seen_ms,
        seen
    );
    world.pass(1);
    assert_eq!(
        world.beat("c", &place, None),
        Beaten::Unknown,
        "the refused refreshed nothing"
    );

    let epoch = world.join("c", "r", "u");
    let higher = epoch + 1000;
    assert_eq!(
        world.beat("c", &place, Some(higher)),
        Beaten::Refreshed { epoch: higher }
    );
    assert_eq!(
        world.beat("c", &place, Some(epoch)),
        Beaten::Stale { stored: higher }
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
    let beats = [
        plain("a", "r", epochs[0]),
        plain("b", "r", epochs[1] - 1),
        plain("c", "r", epochs[2] + 1),
        plain("nobody", "r", 1),
        plain("d", "r", epochs[3]),
    ];
    assert_eq!(
        now(world.store.beat_batch(&beats, TTL)).unwrap(),
        [
            Exception {
                index: 1,
                stored: Some(epochs[1])
            },
            Exception {
                index: 2,
                stored: Some(epochs[2])
            },
            Exception {
                index: 3,
                stored: None
            },
        ]
    );
    world.pass(1);
    assert_eq!(world.in_room("r"), ["a", "d"]);
    assert_eq!(
        now(world.store.beat_batch(&beats[1..2], TTL)).unwrap(),
        [Exception {
            index: 0,
            stored: None
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
    let write_state = |base, next| beat(&world.store, "c", &place, None, write(base, next));

    let conflict = Beaten::Conflict {
        stored: br#"{"a": 1}"#.to_vec(),
    };
    assert_eq!(
        write_state(r#"{"a":1}"#, Some("{}")),
        conflict,
        "compared as text"
    );
    assert_eq!(write_state("", None), conflict);
    assert_eq!(
        write_state(r#"{"a": 1}"#, None),
        Beaten::Refreshed { epoch }
    );
    assert!(world.heard.take().is_empty(), "no update without a change");

    world.pass(5);
    let higher = epoch + 9;
    let patched = write(r#"{"a": 1}"#, Some(r#"{"a":2}"#));
    let refreshed = beat(&world.store, "c", &place, Some(higher), patched);
    assert_eq!(refreshed, Beaten::Refreshed { epoch: higher });
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
    let member = now(world.store.room_snapshot(room)).unwrap().remove(0);
    assert_eq!(member.state.unwrap().as_str(), state);
    let located = now(world.store.locate(&["c\n".into()]))
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(located.state, state.as_bytes());
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
    assert_eq!(now(world.store.locate(&["c".into()])).unwrap(), [None]);

    assert_eq!(world.leave("d", &place), Left::Left);
    now(world.store.unsubscribe(&Topic::AllRooms)).unwrap();
    assert!(world.store.is_empty());
}

#[test]
fn spec_3_1_a_leave_waits_until_the_clock_has_passed_the_epoch() {
    let world = World::new();
    let place = Place::new("r", "u");
    let epoch = world.join("c", "r", "u");
    let early = now(world.store.leave("c", &place)).unwrap();
    assert_eq!(early, Left::Early { wait_ms: 1 });
    assert_eq!(world.leave("c", &place), Left::Left);
    assert!(world.join("c", "r", "u") > epoch);
}

#[test]
fn spec_3_7_a_late_heartbeat_brings_nobody_back() {
    let world = World::new();
    let place = Place::new("r", "u");
    let late = |epoch| {
        let full = beat(
            &world.store,
            "c",
            &place,
            Some(epoch),
            write("{}", Some(r#"{"a":1}"#)),
        );
        let plain = now(world.store.beat_batch(&[plain("c", "r", epoch)], TTL)).unwrap();
        (full, plain.first().map(|exception| exception.stored))
    };
    let gone = (Beaten::Unknown, Some(None));

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
        (Beaten::Stale { stored: newer }, Some(Some(newer))),
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
    assert_eq!(now(world.store.locate(&["old".into()])).unwrap(), [None]);
    assert_eq!(
        now(world.store.leave("old", &Place::new("r", "u"))).unwrap(),
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

#[test]
fn spec_6_1_a_sweep_removes_what_is_dead_and_nothing_else() {
    let world = World::new();
    world.join("a", "r1", "u");
    world.join("b", "r2", "u");
    let place = Place::new("r1", "u");
    world.pass(TTL - 1);
    world.beat("a", &place, Some(START + 5));
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
    now(world.store.beat_batch(&[plain("c", "r", epoch)], 10)).unwrap();
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
    // c1 went in the first step, before it came back.
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
        world.beat("c", &Place::new("r", "u"), Some(START + 3));
        world.pass(TTL);
        // Nobody finds an expired connection: the old place need not be given.
        let joined = try_join(&world.store, "c", Place::new(room, user), None).unwrap();
        assert_eq!(
            joined,
            Joined::Joined {
                epoch: START + TTL,
                snapshot: None
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
    let got = heard.take_with_topics();
    assert_eq!(got.len(), 1, "subscribed twice, heard once");
    assert_eq!(
        (&got[0].0, short(&got[0].1)),
        (&room, "join a r1 u +0".into())
    );

    now(store.subscribe(&Topic::AllRooms)).unwrap();
    world.join("c", "r1", "u");
    let topics: Vec<_> = heard
        .take_with_topics()
        .into_iter()
        .map(|(topic, _)| topic)
        .collect();
    assert_eq!(topics, [room.clone(), Topic::AllRooms]);

    now(store.unsubscribe(&room)).unwrap();
    now(store.unsubscribe(&room)).unwrap();
    world.join("d", "r1", "u");
    assert_eq!(heard.take_with_topics().len(), 1);

    now(store.close());
    world.join("e", "r1", "u");
    assert!(heard.take().is_empty());
    assert_eq!(world.heard.take().len(), 3);
}

#[test]
fn spec_11_2_one_name_is_one_store_until_the_last_handle_goes() {
    let open = |name| MemoryStore::open(name, Arc::new(Recorder::default()));
    let count = |store: &MemoryStore| now(store.room_snapshot("r")).unwrap().len();
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
    assert_eq!(now(a.room_snapshot("r")).unwrap_err().code, Code::Closed);
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

/// One step of a random run. Connections, rooms and users are few, so that steps meet.
#[derive(Clone, Debug)]
enum Op {
    Join {
        conn: u8,
        room: u8,
        user: u8,
    },
    Leave {
        conn: u8,
    },
    /// With the epoch that the connection had when it was last looked up, plus `more`.
    Beat {
        conn: u8,
        more: u64,
        patch: bool,
    },
    Batch,
    Sweep,
    Pass {
        ms: u64,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..5u8, 0..3u8, 0..2u8).prop_map(|(conn, room, user)| Op::Join { conn, room, user }),
        3 => (0..5u8).prop_map(|conn| Op::Leave { conn }),
        4 => (0..5u8, 0..2u64, any::<bool>())
            .prop_map(|(conn, more, patch)| Op::Beat { conn, more, patch }),
        1 => Just(Op::Batch),
        2 => Just(Op::Sweep),
        2 => (1..=TTL).prop_map(|ms| Op::Pass { ms }),
    ]
}

fn all_conns() -> Vec<Arc<str>> {
    (0..5).map(|i| format!("c{i}").into()).collect()
}

/// What a node may do between two looks at the store. Time moves on with each step, as it must for
/// epochs not to run ahead of it.
fn run(store: &MemoryStore, clock: &AtomicU64, op: &Op) -> Option<(String, Epoch)> {
    let pass = |ms| clock.fetch_add(ms, Ordering::SeqCst);
    pass(1);
    let id = |conn: &u8| format!("c{conn}");
    let locate = |conn: &str| now(store.locate(&[conn.into()])).unwrap().remove(0);
    match op {
        Op::Join { conn, room, user } => {
            join(
                store,
                &id(conn),
                &format!("r{room}"),
                &format!("u{user}"),
                "{}",
                pass,
            );
        }
        Op::Leave { conn } => {
            if let Some(at) = locate(&id(conn)) {
                leave(store, &id(conn), &at.place, pass);
            }
        }
        Op::Beat { conn, more, patch } => {
            let at = locate(&id(conn))?;
            let base = String::from_utf8(at.state).unwrap();
            let next = if base == "{}" { r#"{"a":1}"# } else { "{}" };
            let write = if *patch {
                write(&base, Some(next))
            } else {
                None
            };
            let beaten = beat(store, &id(conn), &at.place, Some(at.epoch + more), write);
            if let Beaten::Refreshed { epoch } = beaten {
                return Some((id(conn), epoch));
            }
        }
        Op::Batch => {
            let conns = all_conns();
            let found = now(store.locate(&conns)).unwrap();
            let beats: Vec<_> = conns
                .iter()
                .zip(found)
                .filter_map(|(conn, at)| at.map(|at| plain(conn, &at.place.room, at.epoch)))
                .collect();
            now(store.beat_batch(&beats, TTL)).unwrap();
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

/// Who is where according to the events, which are checked on the way: one join for each
/// (connection, epoch), at most one leave, and nothing of who is not there.
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

/// What is stored, and whether it is still alive.
fn audit(store: &MemoryStore) -> BTreeMap<String, (String, String, Epoch)> {
    let stored = store.step(|data, now| data.presence.audit(now)).unwrap();
    for room in ["r0", "r1", "r2"] {
        let found = now(store.room_snapshot(room)).unwrap();
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

/// Everybody leaves, and nothing must be left.
fn finish(world: &World, replay: &mut Replay) {
    for conn in all_conns() {
        if let Some(at) = now(world.store.locate(std::slice::from_ref(&conn)))
            .unwrap()
            .remove(0)
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

    /// After every step the events add up to exactly what is stored.
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
                // An adopted epoch shows in no event of its own.
                replay.present.get_mut(&conn).unwrap().2 = epoch;
            }
            prop_assert_eq!(&audit(&world.store), &replay.present);
        }
        finish(&world, &mut replay);
    }
}

proptest! {
    #![proptest_config(seeded(40))]

    /// The same from several threads at once, where only the events can tell what happened.
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
                        // A higher epoch that is adopted shows in no event.
                        let op = match op.clone() {
                            Op::Beat { conn, patch, .. } => Op::Beat { conn, more: 0, patch },
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
