//! Expiry on Redis: passes of the reaper on each layout (`v1.rs`, `slotted.rs`), checks of whether the indices
//! of rooms agree (`check.rs`), repairs (`repair.rs`), and keyspace notifications (`watch.rs`).

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

// These bound how long one script holds the server: 1 to 2 ms each.
/// Connections of one room that one script looks at.
pub(in crate::store::redis) const CONNECTIONS_AT_A_TIME: usize = 32;
/// Rooms that one script looks at. The first rooms of a call cost most on a server that has slept: 448 live
/// rooms a second took 6.4 µs each in calls of 224, 3.9 µs in calls of 450. The shorter script is worth
/// that millisecond a second: 512 rooms took more than 5 ms on a machine that shares its processors.
pub(in crate::store::redis) const ROOMS_AT_A_TIME: usize = 256;

/// A connection as a room's indices know it.
pub(in crate::store::redis) struct Candidate {
    pub conn: String,
    /// Raw `conn_meta`; empty if missing.
    pub meta: Vec<u8>,
}

/// Counts a room whose data cannot be used. Fails only where the server could not be asked.
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

/// The same where rooms are on different servers: one that cannot be asked is remembered, and the other
/// rooms are processed.
pub(in crate::store::redis) fn skip_corrupt_part(sweep: &mut Sweep, of_a_part: Result<()>) {
    if let Err(error) = skip_corrupt(sweep, of_a_part) {
        sweep.fail(error);
    }
}

/// What `reap.lua` did in a room.
pub(in crate::store::redis) struct Reaped {
    /// Connections that it removed.
    pub removed: u64,
    /// Connections that were last heard of in the future by the server's clock, which has gone back.
    pub rescored: u64,
}

/// Takes in what `reap.lua` did in a room; `None` if the room's data cannot be used.
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

/// What a look at a room has found.
pub(in crate::store::redis) struct Look {
    pub state: i64,
    /// In how many ms anything in it can be due; -1: nobody is there.
    pub wait: i64,
    pub candidates: Vec<Candidate>,
}

impl Rooms {
    /// Looks at rooms that may be due.
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

    /// Removes those of rooms' candidates that are dead. `None` for a room that could not be processed.
    pub(in crate::store::redis) async fn reap<'a>(
        &self,
        reaps: &[(&'a str, Vec<Candidate>)],
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Vec<(&'a str, Option<Reaped>)> {
        let script = self.room_scripts.reap;
        let calls = reaps
            .iter()
            .map(|(room, candidates)| self.reap_call(room, candidates, ttl_ms))
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

    fn reap_call(&self, room: &str, candidates: &[Candidate], ttl_ms: u64) -> Cmd {
        let metas: Vec<_> = candidates.iter().map(Candidate::parsed).collect();
        let mut keys = self.room_keys(room);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            self.add_connection_keys(&mut keys, room, &candidate.conn, &meta.user);
        }
        let mut call = self.room_scripts.reap.call_with(&keys);
        call.arg(room).arg(quote(room)).arg(ttl_ms);
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

    /// A room's keys, as `reap.lua` and `repair.lua` take them.
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

/// A user id as JSON string; empty if nobody knows the user.
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
