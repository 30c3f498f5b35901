//! Tests of the in-process store, and their shared helpers. `joining.rs`: sections 3.1 to 3.9;
//! `expiring.rs`: expiry, sharing, topics; `nodes.rs`: nodes that answer for connections;
//! `random.rs`: random steps in any order and race (3.7).

mod expiring;
mod joining;
mod nodes;
mod random;

use super::{Clock, Core, MemoryStore, NAMED, REAPED_AT_A_TIME};
use crate::{
    model::{
        error::{Code, Result},
        event::Reason,
        presence::{Epoch, Member, Place, Sweep},
        state::State,
    },
    store::{
        BatchMiss, EventSink, Feed, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join,
        Joined, Leave, Left, Lifetime, NodeStore, Owner, PresenceStore, StateWrite, Store, Topic,
        heartbeat::HeartbeatStore,
        node::{Dispossessed, Lease, NodeLook, Removal, Renewal},
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
    serves_ms: 0,
    claim_ms: TTL,
    check_ms: TTL,
    settle_ms: TTL,
};
const START: u64 = 1_700_000_000_000;
/// The length of the lease of a node, and how long its record is kept.
const LEASE: u64 = 40;
const KEPT: u64 = 1_000;

#[derive(Default)]
struct Recorder {
    heard: Mutex<Vec<(Feed, String)>>,
    gone: Mutex<Vec<Dispossessed>>,
}

impl Recorder {
    fn take(&self) -> Vec<String> {
        self.take_with_feeds()
            .into_iter()
            .map(|(_, text)| text)
            .collect()
    }

    fn take_with_feeds(&self) -> Vec<(Feed, String)> {
        std::mem::take(&mut *self.heard.lock())
    }

    /// The connections that the node does not own any more, as "c +0": with the epoch that it
    /// owned, relative to the start of the test.
    fn take_gone(&self) -> Vec<String> {
        let gone = std::mem::take(&mut *self.gone.lock());
        gone.into_iter()
            .map(|Dispossessed { conn, epoch }| format!("{conn} +{}", epoch - START))
            .collect()
    }
}

impl EventSink for Recorder {
    fn event(&self, feed: Feed, payload: &str) -> u64 {
        self.heard.lock().push((feed, payload.to_owned()));
        0
    }
    fn gap(&self) {}
    fn dispossessed(&self, connection: Option<Dispossessed>) {
        self.gone.lock().extend(connection);
    }
}

/// Every operation of the store is done when its future is first polled, except for large sweeps.
fn now<T>(future: impl Future<Output = T>) -> T {
    future
        .now_or_never()
        .expect("the in-process store does not wait")
}

fn snapshot(store: &MemoryStore, room: &str) -> Result<Vec<Member>> {
    let all = Mutex::new(Vec::new());
    let each = |piece: Vec<Member>| {
        all.lock().extend(piece);
        std::future::ready(()).boxed()
    };
    now(store.room_snapshot(room, &each))?;
    Ok(all.into_inner())
}

/// A store with its own clock. Its handles subscribe to all rooms.
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

    /// Leaves as the presence layer does: calls again after the clock has passed the epoch.
    fn leave(&self, conn: &str, place: &Place) -> Left {
        leave(&self.store, conn, place, |ms| self.pass(ms))
    }

    fn heartbeat(&self, conn: &str, place: &Place, epoch: Option<Epoch>) -> HeartbeatOutcome {
        heartbeat(&self.store, conn, place, epoch, None)
    }

    fn sweep(&self) -> Sweep {
        now(self.store.sweep(&SETTINGS)).unwrap()
    }

    fn events(&self) -> Vec<String> {
        self.heard.take().iter().map(|text| short(text)).collect()
    }

    fn in_room(&self, room: &str) -> Vec<String> {
        let members = snapshot(&self.store, room).unwrap();
        members.into_iter().map(|member| member.conn).collect()
    }
}

fn leave<T>(store: &MemoryStore, conn: &str, place: &Place, pass: impl Fn(u64) -> T) -> Left {
    loop {
        match try_leave(store, conn, place) {
            Left::Early { wait_ms } => drop(pass(wait_ms)),
            other => return other,
        }
    }
}

fn try_leave(store: &MemoryStore, conn: &str, place: &Place) -> Left {
    let leave = Leave {
        conn,
        place,
        fence: None,
        node: None,
        number: 0,
        reason: Reason::Left,
    };
    now(store.leave(&leave)).unwrap()
}

fn text(state: &str) -> State {
    State::parse("state", state).unwrap()
}

fn by_heartbeats() -> Lifetime {
    Lifetime::of_heartbeats(TTL)
}

fn by_node(node: &str) -> Lifetime {
    Lifetime {
        ttl_ms: TTL,
        owner: Some(Owner {
            node: node.into(),
            number: 1,
        }),
    }
}

fn renew(store: &MemoryStore, node: &str, begins: bool) -> Renewal {
    let lease = Lease {
        node: node.into(),
        lease_ms: LEASE,
        kept_ms: KEPT,
        begins,
    };
    now(store.renew_lease(&lease)).unwrap()
}

/// Ends a lease and removes the connections of the node. Returns how many.
fn end_node(store: &MemoryStore, node: &str) -> u64 {
    now(store.end_lease(node)).unwrap();
    let mut sweep = Sweep::default();
    while now(store.remove_connections(node, false, &mut sweep)).unwrap() != Removal::Done {}
    sweep.expired
}

fn join_of(conn: &str, place: Place, state: &str, lifetime: Lifetime) -> Join {
    Join {
        floor: 0,
        conn: conn.into(),
        place,
        state: text(state),
        lifetime,
    }
}

fn try_join(
    store: &MemoryStore,
    conn: &str,
    place: Place,
    previous: Option<&Place>,
) -> Result<Joined> {
    now(store.join(&join_of(conn, place, "{}", by_heartbeats()), previous))
}

/// Joins as the presence layer does: calls again with the place that the store answered.
fn join<T>(
    store: &MemoryStore,
    conn: &str,
    room: &str,
    user: &str,
    state: &str,
    pass: impl Fn(u64) -> T,
) -> Epoch {
    let join = join_of(conn, Place::new(room, user), state, by_heartbeats());
    join_anyway(store, &join, pass).expect("the connection has no owner")
}

/// As `join`. `None`: the owner that the connection should get is lost.
fn join_anyway<T>(store: &MemoryStore, join: &Join, pass: impl Fn(u64) -> T) -> Option<Epoch> {
    let mut previous = None;
    loop {
        match now(store.join(join, previous.as_ref())).unwrap() {
            Joined::Joined { epoch, .. } => return Some(epoch),
            Joined::Elsewhere(place) => previous = Some(place),
            Joined::Early { wait_ms } => drop(pass(wait_ms)),
            Joined::OwnerLost => return None,
        }
    }
}

fn heartbeat(
    store: &MemoryStore,
    conn: &str,
    place: &Place,
    epoch: Option<Epoch>,
    write: Option<StateWrite>,
) -> HeartbeatOutcome {
    let heartbeat = HeartbeatUpdate {
        conn: conn.into(),
        place: place.clone(),
        epoch,
        write,
    };
    update(store, heartbeat, &by_heartbeats())
}

fn update(
    store: &MemoryStore,
    heartbeat: HeartbeatUpdate,
    lifetime: &Lifetime,
) -> HeartbeatOutcome {
    now(store.update_heartbeats(&[heartbeat], lifetime))
        .remove(0)
        .unwrap()
}

fn refreshed(epoch: Epoch) -> HeartbeatOutcome {
    HeartbeatOutcome::Refreshed {
        released: false,
        epoch,
        adopted: false,
        encoding: None,
    }
}

fn adopted(epoch: Epoch) -> HeartbeatOutcome {
    HeartbeatOutcome::Refreshed {
        released: false,
        epoch,
        adopted: true,
        encoding: None,
    }
}

fn write(base: &str, next: Option<&str>) -> Option<StateWrite> {
    Some(StateWrite {
        base: text(base).into(),
        expected_epoch: None,
        next: next.map(text),
    })
}

fn plain(conn: &str, room: &str, epoch: Epoch) -> HeartbeatRefresh {
    HeartbeatRefresh {
        conn: conn.into(),
        room: room.into(),
        epoch,
        separate: false,
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

/// Formats an event as "join c r u +0". The epoch is relative to the start of the test.
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
