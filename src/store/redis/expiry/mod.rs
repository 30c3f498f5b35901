//! Expiry on Redis: the reaper's passes on each layout (`v1.rs`, `slotted.rs`), checks of whether
//! the indices of rooms agree (`check.rs`), repairs (`repair.rs`), and keyspace notifications
//! (`watch.rs`).

mod check;
mod fingerprint;
mod repair;
mod schedule;
pub mod slotted;
pub mod v1;
mod watch;

pub(in crate::store::redis) use fingerprint::Checks;
pub(in crate::store::redis) use schedule::CheckSchedule;
pub(in crate::store::redis) use watch::{ensure_flags, expired_channel};

use crate::{
    model::{
        error::{Code, Result},
        json::quote,
        presence::Sweep,
    },
    store::redis::{
        presence::rooms::{Meta, Rooms},
        scripts::{self, Reply},
        transport::{errors, link::Repeat},
    },
};
use redis::{Cmd, Value};

// These limits bound how long one script blocks the server: 1 to 2 ms each.
/// Maximum number of connections of one room in one script call.
pub(in crate::store::redis) const CONNECTIONS_AT_A_TIME: usize = 32;
/// Maximum number of rooms in one script call. The first rooms of a call cost most on a server that
/// was idle: with 448 live rooms a second, a room took 6.4 µs in calls of 224 rooms, and 3.9 µs in
/// calls of 450. The shorter script is worth that millisecond a second: calls of 512 rooms took more
/// than 5 ms on a machine that shares its processors.
pub(in crate::store::redis) const ROOMS_AT_A_TIME: usize = 256;

/// A connection in the indices of a room.
pub(in crate::store::redis) struct Candidate {
    pub conn: String,
    /// Raw `conn_meta`; empty if missing.
    pub meta: Vec<u8>,
}

/// Counts a room whose data cannot be used. Fails only if the server did not answer.
pub(in crate::store::redis) fn skip_corrupt(
    sweep: &mut Sweep,
    of_a_room: Result<()>,
) -> Result<()> {
    match of_a_room {
        Err(error) if errors::is_of_one_key(&error) || error.code == Code::Internal => {
            sweep.corrupt += 1;
            Ok(())
        }
        other => other,
    }
}

/// As `skip_corrupt`, for rooms that are on different servers. The error of a server that did not
/// answer is saved, and the other rooms are processed.
pub(in crate::store::redis) fn skip_corrupt_part(sweep: &mut Sweep, of_a_part: Result<()>) {
    if let Err(error) = skip_corrupt(sweep, of_a_part) {
        sweep.fail(error);
    }
}

/// Which candidates `reap.lua` removes.
#[derive(Clone, Copy)]
pub(in crate::store::redis) enum Reap<'a> {
    /// Those whose TTL has ended. `ttl_ms`: of connections that heartbeats keep alive.
    Expired { ttl_ms: u64 },
    /// Those of a node that was declared dead.
    DeadNode(&'a str),
}

/// The result of `reap.lua` in a room.
pub(in crate::store::redis) struct Reaped {
    /// Number of connections removed.
    pub removed: u64,
    /// Number of connections whose last heartbeat is in the future, because the server's clock was
    /// set back.
    pub rescored: u64,
}

/// Adds the result of `reap.lua` in a room to the pass; `None` if the room's data cannot be used.
pub(in crate::store::redis) fn reaped(
    sweep: &mut Sweep,
    answer: Result<Value>,
) -> Result<Option<Reaped>> {
    let mut counts = Vec::new();
    skip_corrupt(sweep, answer.and_then(integers).map(|found| counts = found))?;
    let [removed, lag, mended, rescored] = counts[..] else {
        return Ok(None);
    };
    let removed = removed.unsigned_abs();
    sweep.expired += removed;
    sweep.repairs += mended.unsigned_abs();
    sweep.lag_ms = sweep.lag_ms.max(lag.unsigned_abs());
    Ok(Some(Reaped {
        removed,
        rescored: rescored.unsigned_abs(),
    }))
}

fn read_look(value: Value) -> Result<Look> {
    scripts::read(value, |reply| {
        let (state, wait) = (reply.integer()?, reply.integer()?);
        let mut candidates = Vec::with_capacity(reply.left() / 2);
        while reply.left() > 1 {
            candidates.push(Candidate {
                conn: reply.text()?,
                meta: reply.bytes()?,
            });
        }
        Ok(Look {
            state,
            wait,
            candidates,
        })
    })
}

/// The integers of a reply.
pub(in crate::store::redis) fn integers(value: Value) -> Result<Vec<i64>> {
    scripts::read(value, Reply::integers)
}

/// The result of inspecting a room.
pub(in crate::store::redis) struct Look {
    pub state: i64,
    /// Time in ms until a connection in it can be due; -1 if the room is empty.
    pub wait: i64,
    pub candidates: Vec<Candidate>,
}

impl Rooms {
    /// Inspects rooms that may be due.
    pub(in crate::store::redis) async fn inspect(
        &self,
        rooms: &[&str],
        ttl_ms: u64,
    ) -> Vec<Result<Look>> {
        let call = |room: &&str| {
            let own = self.keys.room(room);
            let mut keys = vec![own.last_seen, own.conn_meta, own.conns, own.members];
            self.layout.add_outbox(&mut keys, room);
            let mut call = scripts::ROOM_INSPECT.call_with(&keys);
            call.arg(ttl_ms).arg(CONNECTIONS_AT_A_TIME);
            call
        };
        let calls = rooms.iter().map(call).collect();
        let looks = self
            .scripts
            .call_all(&scripts::ROOM_INSPECT, calls, Repeat::Harmless)
            .await;
        let read = |look: Result<Value>| look.and_then(read_look);
        looks.into_iter().map(read).collect()
    }

    /// Removes the candidates that are dead. `None` for a room that could not be processed.
    pub(in crate::store::redis) async fn reap<'a>(
        &self,
        reaps: &[(&'a str, Vec<Candidate>)],
        which: Reap<'_>,
        sweep: &mut Sweep,
    ) -> Vec<(&'a str, Option<Reaped>)> {
        let script = self.room_scripts.reap;
        let calls = reaps
            .iter()
            .map(|(room, candidates)| self.reap_call(room, candidates, which))
            .collect();
        let answers = self.scripts.call_all(script, calls, Repeat::Never).await;
        let rooms = reaps.iter().map(|(room, _)| *room);
        rooms
            .zip(answers)
            .map(|(room, answer)| {
                let done = reaped(sweep, answer).unwrap_or_else(|error| {
                    sweep.fail(error);
                    None
                });
                (room, done)
            })
            .collect()
    }

    fn reap_call(&self, room: &str, candidates: &[Candidate], which: Reap<'_>) -> Cmd {
        let (ttl_ms, dead_node) = match which {
            Reap::Expired { ttl_ms } => (ttl_ms, ""),
            Reap::DeadNode(node) => (0, node),
        };
        let metas: Vec<_> = candidates.iter().map(Candidate::parsed).collect();
        let mut keys = self.room_keys(room);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            self.add_connection_keys(&mut keys, room, &candidate.conn, &meta.user);
        }
        let mut call = self.room_scripts.reap.call_with(&keys);
        call.arg(room).arg(quote(room)).arg(ttl_ms).arg(dead_node);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            call.arg(&candidate.conn)
                .arg(quote(&candidate.conn))
                .arg(&meta.user)
                .arg(user_json(&meta.user))
                .arg(meta.epoch())
                .arg(&candidate.meta);
        }
        self.layout.add_last_argument(&mut call);
        call
    }

    /// The keys of a room, in the order in which `reap.lua` and `repair.lua` take them.
    fn room_keys(&self, room: &str) -> Vec<String> {
        let own = self.keys.room(room);
        let mut keys = vec![
            own.conns,
            own.members,
            own.last_seen,
            own.conn_meta,
            own.events,
        ];
        self.layout.add_room_indices(&mut keys, room);
        keys
    }

    /// Adds the keys of a connection and its user.
    fn add_connection_keys(&self, keys: &mut Vec<String>, room: &str, conn: &str, user: &str) {
        keys.extend([self.keys.conn(room, conn), self.keys.conn_state(room, conn)]);
        self.layout.add_user_indices(keys, room, user);
    }
}

/// A user id as JSON string; empty if the user is unknown.
fn user_json(user: &str) -> String {
    if user.is_empty() {
        String::new()
    } else {
        quote(user)
    }
}

impl Candidate {
    fn parsed(&self) -> Meta {
        Meta::parse(&self.meta)
    }
}
