//! The sweep: `sweep_claim.lua` takes due rooms, `sweep_rooms.lua` finds those in which something may
//! be dead, `sweep_candidates.lua` what, and `reap.lua` removes what is.

use super::{CONNECTIONS_AT_A_TIME, Candidate, ROOMS_AT_A_TIME, integers, isolate, user_json};
use crate::{
    model::{error::Result, json::quote, presence::Sweep},
    store::{
        SweepSettings,
        redis::{
            RedisStore, errors,
            link::Repeat,
            scripts::{self, Reply},
        },
    },
};
use redis::{Cmd, Value};

/// Steps after which a pass ends although more is due; the next pass goes on.
const MOST_STEPS: usize = 1_000;

/// What was claimed of one shard.
struct Claimed {
    shard: usize,
    rooms: Vec<String>,
    check: Check,
}

/// What else is to be done, once in every `check_ms` among all nodes.
#[derive(Clone, Copy, Default)]
struct Check {
    /// Whether the indices of each room of the shard agree.
    rooms: bool,
    /// Whether the due index has every active room: sizes can agree by chance, when a room that one
    /// of our nodes made was ended by another kind of node.
    index: bool,
}

impl RedisStore {
    pub(in crate::store::redis) async fn do_sweep(
        &self,
        settings: &SweepSettings,
    ) -> Result<Sweep> {
        let shards = self.keys.due_shards();
        let mut sweep = Sweep::default();
        for _ in 0..MOST_STEPS {
            let claimed = self.claim(&shards, settings, &mut sweep).await?;
            let more = claimed
                .iter()
                .any(|claimed| claimed.rooms.len() >= ROOMS_AT_A_TIME);
            for Claimed {
                shard,
                rooms,
                check,
            } in claimed
            {
                sweep.rooms += rooms.len() as u64;
                self.sweep_rooms(&shards[shard], &rooms, settings.ttl_ms, &mut sweep)
                    .await?;
                if check.rooms {
                    self.check_shard(&shards[shard], settings.ttl_ms, &mut sweep)
                        .await?;
                }
                if check.index {
                    sweep += self.do_adopt(settings.ttl_ms).await?;
                }
            }
            if !more {
                break;
            }
        }
        Ok(sweep)
    }

    async fn claim(
        &self,
        shards: &[String],
        settings: &SweepSettings,
        sweep: &mut Sweep,
    ) -> Result<Vec<Claimed>> {
        let mut call = scripts::SWEEP_CLAIM.call(1 + shards.len());
        call.arg(self.keys.active_rooms());
        for shard in shards {
            call.arg(shard);
        }
        call.arg(ROOMS_AT_A_TIME)
            .arg(settings.claim_ms)
            .arg(settings.check_ms);
        // Claims that are lost with an answer end by themselves.
        let value = self
            .call(&scripts::SWEEP_CLAIM, &call, Repeat::Harmless)
            .await?;
        let read = || {
            let mut reply = Reply::new(value)?;
            sweep.unindexed = reply.integer()? != 0;
            let first = usize::try_from(reply.integer()?).ok();
            let mut claimed: Vec<Claimed> = Vec::new();
            while reply.left() > 1 {
                let (shard, room) = (reply.integer()? as usize, reply.text()?);
                if claimed.last().is_none_or(|last| last.shard != shard) {
                    claimed.push(Claimed {
                        shard,
                        rooms: Vec::new(),
                        check: Check::default(),
                    });
                }
                if let Some(last) = claimed.last_mut() {
                    if room.is_empty() {
                        last.check = Check {
                            rooms: true,
                            index: first == Some(shard),
                        };
                    } else {
                        last.rooms.push(room);
                    }
                }
            }
            Ok(claimed)
        };
        read().map_err(|error: redis::RedisError| errors::request(&error))
    }

    async fn sweep_rooms(
        &self,
        shard: &str,
        rooms: &[String],
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        if rooms.is_empty() {
            return Ok(());
        }
        let mut call = scripts::SWEEP_ROOMS.call(1 + rooms.len());
        call.arg(shard);
        for room in rooms {
            call.arg(self.keys.room_last_seen(room));
        }
        call.arg(ttl_ms);
        for room in rooms {
            call.arg(room);
        }
        let open = integers(
            self.call(&scripts::SWEEP_ROOMS, &call, Repeat::Harmless)
                .await?,
        )?;
        let mut with_candidates = Vec::new();
        for index in open {
            match usize::try_from(index) {
                Ok(index) => with_candidates.push(rooms[index].as_str()),
                Err(_) => {
                    self.try_repair(&rooms[(-1 - index) as usize], ttl_ms, sweep)
                        .await?
                }
            }
        }
        self.reap(with_candidates, ttl_ms, sweep).await
    }

    /// Removes what is dead in rooms, all rooms at a time, a bounded number of connections each.
    async fn reap(&self, mut rooms: Vec<&str>, ttl_ms: u64, sweep: &mut Sweep) -> Result<()> {
        while !rooms.is_empty() {
            let calls = rooms
                .iter()
                .map(|room| {
                    let keys = self.keys.room(room);
                    let mut call = scripts::SWEEP_CANDIDATES.call(2);
                    call.arg(&keys.last_seen)
                        .arg(&keys.conn_meta)
                        .arg(ttl_ms)
                        .arg(CONNECTIONS_AT_A_TIME);
                    call
                })
                .collect();
            let looks = self
                .call_all(&scripts::SWEEP_CANDIDATES, calls, Repeat::Harmless)
                .await;
            let mut reaps = Vec::new();
            for (room, look) in rooms.into_iter().zip(looks) {
                let look = look.and_then(read_candidates).map(|candidates| {
                    if !candidates.is_empty() {
                        reaps.push((room, candidates));
                    }
                });
                isolate(sweep, look)?;
            }
            let calls = reaps
                .iter()
                .map(|(room, candidates)| self.reap_call(room, candidates, ttl_ms))
                .collect();
            let results = self.call_all(&scripts::REAP, calls, Repeat::Never).await;
            rooms = Vec::new();
            for ((room, candidates), result) in reaps.iter().zip(results) {
                let mut counts = Vec::new();
                isolate(sweep, result.and_then(integers).map(|found| counts = found))?;
                let [removed, lag, mended] = counts[..] else {
                    continue;
                };
                sweep.expired += removed.unsigned_abs();
                sweep.repairs += mended.unsigned_abs();
                sweep.lag_ms = sweep.lag_ms.max(lag.unsigned_abs());
                // A page of which nothing was dead is left to the entry's new time.
                if removed > 0 && candidates.len() == CONNECTIONS_AT_A_TIME {
                    rooms.push(room);
                }
            }
        }
        Ok(())
    }

    fn reap_call(&self, room: &str, candidates: &[Candidate], ttl_ms: u64) -> Cmd {
        let metas: Vec<_> = candidates.iter().map(Candidate::parsed).collect();
        let mut call = scripts::REAP.call(7 + 3 * candidates.len());
        self.room_keys(&mut call, room);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            self.connection_keys(&mut call, &candidate.conn, &meta.user);
        }
        call.arg(room).arg(quote(room)).arg(ttl_ms);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            call.arg(&candidate.conn)
                .arg(quote(&candidate.conn))
                .arg(&meta.user)
                .arg(user_json(&meta.user))
                .arg(meta.epoch())
                .arg(&candidate.meta);
        }
        call
    }
}

fn read_candidates(value: Value) -> Result<Vec<Candidate>> {
    let read = || {
        let mut reply = Reply::new(value)?;
        let mut candidates = Vec::with_capacity(reply.left() / 2);
        while reply.left() > 1 {
            candidates.push(Candidate {
                conn: reply.text()?,
                meta: reply.bytes()?,
            });
        }
        Ok(candidates)
    };
    read().map_err(|error: redis::RedisError| errors::request(&error))
}
