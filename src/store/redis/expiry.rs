//! The sweep: `sweep_due.lua` finds rooms, `sweep_room.lua` candidates in a room, `reap.lua`
//! removes what is dead; and the adoption of rooms that only other nodes wrote.

use super::{
    RedisStore, errors,
    link::Repeat,
    presence::Meta,
    scripts::{self, Reply},
};
use crate::model::{error::Result, json::quote, presence::Sweep};
use redis::{Cmd, Pipeline, Value};
use std::collections::HashMap;

/// Rooms of one shard that one step of a sweep takes.
const ROOMS_AT_A_TIME: usize = 128;
/// Steps after which a pass ends although more is due; the next pass goes on.
const MOST_STEPS: usize = 1_000;
/// Candidates of one room that one script looks at: bounds how long it holds the server.
const CANDIDATES_AT_A_TIME: usize = 64;
/// Rooms that one step of an adoption looks at.
const ADOPT_PAGE: usize = 512;

/// A connection that may be dead, as the room's indices know it.
struct Candidate {
    conn: String,
    meta: Vec<u8>,
}

impl RedisStore {
    pub(super) async fn do_sweep(&self, ttl_ms: u64) -> Result<Sweep> {
        let shards = self.keys.due_shards();
        let mut sweep = Sweep::default();
        for _ in 0..MOST_STEPS {
            let mut call = scripts::SWEEP_DUE.call(shards.len());
            for shard in &shards {
                call.arg(shard);
            }
            call.arg(ROOMS_AT_A_TIME);
            let value = self
                .call(&scripts::SWEEP_DUE, &call, Repeat::Harmless)
                .await?;
            let due = read_due(value).map_err(|error| errors::request(&error))?;
            if due.is_empty() {
                return Ok(sweep);
            }
            let more = due.len() >= ROOMS_AT_A_TIME;
            sweep.rooms += due.len() as u64;
            sweep.expired += self.sweep_rooms(&due, &shards, ttl_ms).await?;
            if !more {
                break;
            }
        }
        Ok(sweep)
    }

    async fn sweep_rooms(
        &self,
        due: &[(usize, String)],
        shards: &[String],
        ttl_ms: u64,
    ) -> Result<u64> {
        let mut expired = 0;
        let mut open: Vec<&(usize, String)> = due.iter().collect();
        while !open.is_empty() {
            let calls = open
                .iter()
                .map(|(shard, room)| {
                    let keys = self.keys.room(room);
                    let mut call = scripts::SWEEP_ROOM.call(5);
                    call.arg(&keys.last_seen)
                        .arg(&keys.conn_meta)
                        .arg(&keys.conns)
                        .arg(self.keys.active_rooms())
                        .arg(&shards[*shard])
                        .arg(room)
                        .arg(ttl_ms)
                        .arg(CANDIDATES_AT_A_TIME);
                    call
                })
                .collect();
            let looks = self
                .call_all(&scripts::SWEEP_ROOM, calls, Repeat::Harmless)
                .await;
            let mut again = Vec::new();
            let mut reaps = Vec::new();
            for (entry, look) in open.into_iter().zip(looks) {
                let candidates = read_candidates(look?).map_err(|error| errors::request(&error))?;
                if candidates.is_empty() {
                    continue;
                }
                if candidates.len() == CANDIDATES_AT_A_TIME {
                    again.push(entry);
                }
                reaps.push((
                    entry,
                    candidates.len(),
                    self.reap_call(entry, shards, &candidates, ttl_ms),
                ));
            }
            let calls = reaps.iter().map(|(_, _, call)| call.clone()).collect();
            let results = self.call_all(&scripts::REAP, calls, Repeat::Never).await;
            for ((entry, candidates, _), result) in reaps.iter().zip(results) {
                let reaped = match result? {
                    Value::Array(conns) => conns.len(),
                    _ => 0,
                };
                expired += reaped as u64;
                // A full page of which nothing was dead is left to the entry's new time.
                if reaped == 0 && *candidates == CANDIDATES_AT_A_TIME {
                    again.retain(|other| !std::ptr::eq(*other, *entry));
                }
            }
            open = again;
        }
        Ok(expired)
    }

    fn reap_call(
        &self,
        (shard, room): &(usize, String),
        shards: &[String],
        candidates: &[Candidate],
        ttl_ms: u64,
    ) -> Cmd {
        let keys = self.keys.room(room);
        let metas: Vec<Meta> = candidates.iter().map(|c| Meta::parse(&c.meta)).collect();
        let mut call = scripts::REAP.call(7 + 3 * candidates.len());
        call.arg(&keys.conns)
            .arg(&keys.members)
            .arg(&keys.last_seen)
            .arg(&keys.conn_meta)
            .arg(&keys.events)
            .arg(self.keys.active_rooms())
            .arg(&shards[*shard]);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            call.arg(self.keys.conn(&candidate.conn))
                .arg(self.keys.user_conns(&meta.user))
                .arg(self.keys.user_rooms(&meta.user));
        }
        call.arg(room).arg(quote(room)).arg(ttl_ms);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            let user_json = if meta.user.is_empty() {
                String::new()
            } else {
                quote(&meta.user)
            };
            call.arg(&candidate.conn)
                .arg(quote(&candidate.conn))
                .arg(&meta.user)
                .arg(user_json)
                .arg(meta.epoch())
                .arg(&candidate.meta);
        }
        call
    }

    /// Rooms that are active but have no entry in the due index get one, at once due. Comparing
    /// sizes first makes the usual case, in which there are none, cost next to nothing.
    pub(super) async fn do_adopt(&self) -> Result<()> {
        let active = self.keys.active_rooms();
        let mut sizes = Pipeline::new();
        sizes.cmd("SCARD").arg(&active);
        for shard in self.keys.due_shards() {
            sizes.cmd("ZCARD").arg(shard);
        }
        let sizes: Vec<i64> = self
            .commands
            .pipeline(&sizes, Repeat::Harmless)
            .await?
            .into_iter()
            .map(|size| match size {
                Value::Int(size) => size,
                _ => 0,
            })
            .collect();
        if sizes[0] == sizes[1..].iter().sum::<i64>() {
            return Ok(());
        }
        let mut cursor: Vec<u8> = b"0".to_vec();
        loop {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(&active).arg(&cursor).arg("COUNT").arg(ADOPT_PAGE);
            let page = self.commands.command(&scan, Repeat::Harmless).await?;
            let (next, rooms): (Vec<u8>, Vec<Vec<u8>>) =
                redis::from_redis_value(page).map_err(|error| errors::request(&error.into()))?;
            let mut of_shard: HashMap<String, Vec<String>> = HashMap::new();
            for room in rooms
                .into_iter()
                .filter_map(|room| String::from_utf8(room).ok())
            {
                of_shard
                    .entry(self.keys.due_of(&room))
                    .or_default()
                    .push(room);
            }
            let mut add = Pipeline::new();
            for (shard, rooms) in of_shard {
                let cmd = add.cmd("ZADD").arg(shard).arg("NX");
                for room in rooms {
                    // Score 0: due at once, whatever the server's time.
                    cmd.arg(0).arg(room);
                }
            }
            for answer in self.commands.pipeline(&add, Repeat::Harmless).await? {
                answer
                    .extract_error()
                    .map_err(|error| errors::request(&error))?;
            }
            cursor = next;
            if cursor == b"0" {
                return Ok(());
            }
        }
    }
}

/// (shard, room) of every room that is due.
fn read_due(value: Value) -> Result<Vec<(usize, String)>, redis::RedisError> {
    let mut reply = Reply::new(value)?;
    reply.integer()?;
    let mut due = Vec::with_capacity(reply.left() / 2);
    while reply.left() > 1 {
        due.push((reply.integer()? as usize, reply.text()?));
    }
    Ok(due)
}

fn read_candidates(value: Value) -> Result<Vec<Candidate>, redis::RedisError> {
    let mut reply = Reply::new(value)?;
    let mut candidates = Vec::with_capacity(reply.left() / 2);
    while reply.left() > 1 {
        candidates.push(Candidate {
            conn: reply.text()?,
            meta: reply.bytes()?,
        });
    }
    Ok(candidates)
}
