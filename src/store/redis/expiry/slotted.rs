//! The reaper on the layout `slotted`. It makes the same passes as on `v1`. The due index and the
//! rooms are in different slots, so due rooms are claimed, inspected and rescheduled in separate
//! steps.

use crate::{
    failpoints::crash_point,
    model::{error::Result, presence::Sweep},
    store::{
        SweepSettings,
        redis::{
            expiry::{Look, ROOMS_AT_A_TIME, Reap, Reaped, skip_corrupt_part},
            presence::{
                fields::utf8,
                slotted::{Slotted, outbox::Settled},
            },
            scripts::{self, room_inspect},
            transport::{
                errors,
                link::{Link, Repeat},
                scan::END,
            },
        },
    },
};
use redis::Value;
use std::{collections::BTreeSet, sync::atomic::Ordering};

/// Maximum number of steps of a pass. If more is due, the next pass continues.
const MAX_STEPS: usize = 1_000;
/// One of this many checks of a shard is thorough.
const THOROUGH_EVERY: u64 = 20;
/// Number of keys in one step of a SCAN.
const SCAN_PAGE: usize = 1_000;

impl Slotted {
    pub(in crate::store::redis) async fn do_sweep(&self, settings: &SweepSettings) -> Sweep {
        let shards = self.rooms.keys.due_shards();
        let mut sweep = Sweep::default();
        for _ in 0..MAX_STEPS {
            let calls = shards
                .iter()
                .map(|shard| {
                    let mut call = scripts::slotted::DUE_CLAIM.call(1);
                    call.arg(shard)
                        .arg(ROOMS_AT_A_TIME)
                        .arg(settings.claim_ms)
                        .arg(settings.settle_ms)
                        .arg(settings.ttl_ms.max(settings.claim_ms));
                    call
                })
                .collect();
            let mut due = Vec::new();
            let mut checks = Vec::new();
            let mut first = None;
            let mut more = false;
            let mut answered = true;
            // If an answer is lost, the rooms in it become due again when their claims end.
            for (shard, answer) in self
                .rooms
                .scripts
                .call_all(&scripts::slotted::DUE_CLAIM, calls, Repeat::Harmless)
                .await
                .into_iter()
                .enumerate()
            {
                let (rooms, taken) = match answer.and_then(read_taken) {
                    Ok(taken) => taken,
                    Err(error) => {
                        skip_corrupt_part(&mut sweep, Err(error));
                        // It is unknown whether the shard has rooms.
                        answered = false;
                        continue;
                    }
                };
                if rooms > 0 {
                    first = first.or(Some(shard));
                }
                more |= taken.len() >= ROOMS_AT_A_TIME;
                for room in taken {
                    if room.is_empty() {
                        checks.push(shard);
                    } else {
                        due.push(room);
                    }
                }
            }
            // Without any entry, there is no shard whose check could trigger an adoption.
            sweep.unindexed = answered && first.is_none();
            sweep.rooms += due.len() as u64;
            for rooms in due.chunks(ROOMS_AT_A_TIME) {
                self.process_due_rooms(rooms, settings.ttl_ms, &mut sweep)
                    .await;
            }
            for shard in checks {
                let checked = self
                    .check_slotted(&shards[shard], settings.ttl_ms, &mut sweep)
                    .await;
                skip_corrupt_part(&mut sweep, checked);
                if first == Some(shard) {
                    sweep += self.do_adopt(settings.ttl_ms).await;
                }
            }
            if !more {
                break;
            }
        }
        sweep
    }

    /// Inspects rooms, removes dead connections, and reschedules the rooms in the due index.
    async fn process_due_rooms(&self, rooms: &[String], ttl_ms: u64, sweep: &mut Sweep) {
        let mut open: Vec<&str> = rooms.iter().map(String::as_str).collect();
        let mut later = Vec::with_capacity(rooms.len());
        let mut empty = Vec::new();
        let ttl = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        for _ in 0..MAX_STEPS {
            let looks = self.rooms.inspect(&open, ttl_ms).await;
            let mut reaps = Vec::new();
            let mut again = Vec::new();
            for (room, look) in open.iter().zip(looks) {
                let look = match look {
                    Ok(look) => look,
                    Err(error) => {
                        skip_corrupt_part(sweep, Err(error));
                        later.push((*room, ttl));
                        continue;
                    }
                };
                match look.state {
                    room_inspect::EMPTY => empty.push(*room),
                    room_inspect::UNEQUAL => {
                        let mended = self.reindex(room, ttl_ms, sweep).await;
                        if mended.is_ok() {
                            again.push(*room);
                        } else {
                            later.push((*room, ttl));
                        }
                        skip_corrupt_part(sweep, mended.map(drop));
                    }
                    state => {
                        let mut settled = false;
                        if state == room_inspect::UNSETTLED {
                            let done = self.apply_outbox(room).await;
                            settled = done.is_ok();
                            skip_corrupt_part(sweep, done.map(drop));
                        }
                        if look.candidates.is_empty() {
                            if settled {
                                again.push(*room);
                            } else if state == room_inspect::UNSETTLED {
                                // The outbox keeps its entries until the server that they concern
                                // is back.
                                later.push((*room, look.wait.clamp(1, ttl)));
                            } else {
                                later.push((*room, look.wait));
                            }
                        } else {
                            reaps.push((*room, look.candidates));
                        }
                    }
                }
            }
            for (room, reaped) in self
                .rooms
                .reap(&reaps, Reap::Expired { ttl_ms }, sweep)
                .await
            {
                let Some(Reaped { removed, rescored }) = reaped else {
                    later.push((room, ttl));
                    continue;
                };
                if removed > 0 {
                    crash_point!(Reaped);
                }
                // The room has published the events. If applying the outbox fails, it keeps its
                // entries.
                let settled = self.apply_outbox(room).await;
                skip_corrupt_part(sweep, settled.map(drop));
                if removed + rescored > 0 {
                    again.push(room);
                } else {
                    // By their own nodes' TTL, the connections live longer than this node's TTL.
                    later.push((room, (ttl / 4).max(1)));
                }
            }
            if again.is_empty() {
                break;
            }
            open = again;
        }
        let dropped = self.drop_due(&empty).await;
        skip_corrupt_part(sweep, dropped);
        let moved = self.move_due(&later, false).await;
        skip_corrupt_part(sweep, moved.map(drop));
    }

    /// Corrects all indices of a room from the hashes of its connections.
    async fn reindex(&self, room: &str, ttl_ms: u64, sweep: &mut Sweep) -> Result<Settled> {
        self.rooms.repair(room, ttl_ms, sweep).await?;
        crash_point!(Repaired);
        self.apply_outbox(room).await
    }

    /// Checks every room of a shard.
    async fn check_slotted(&self, shard: &str, ttl_ms: u64, sweep: &mut Sweep) -> Result<()> {
        let checks = self.check_schedule.checks.fetch_add(1, Ordering::Relaxed);
        let epoch = self.rooms.scripts.commands.config_epoch();
        let known = self.check_schedule.epochs.lock().get(shard).copied();
        let thorough = known != Some(epoch) || checks % THOROUGH_EVERY == THOROUGH_EVERY - 1;
        let mut cursor = END.to_vec();
        loop {
            let (next, members) = self
                .rooms
                .scripts
                .commands
                .scan("ZSCAN", shard, &cursor)
                .await?;
            // ZSCAN returns members and scores alternately. The empty member is the shard's own
            // entry.
            let rooms: Vec<&str> = members
                .iter()
                .step_by(2)
                .map(String::as_str)
                .filter(|room| !room.is_empty())
                .collect();
            for rooms in rooms.chunks(ROOMS_AT_A_TIME) {
                for (room, look) in rooms.iter().zip(self.rooms.inspect(rooms, ttl_ms).await) {
                    let checked = match look {
                        Ok(look) => self.check_room(room, &look, thorough, ttl_ms, sweep).await,
                        Err(error) => Err(error),
                    };
                    skip_corrupt_part(sweep, checked);
                }
            }
            cursor = next;
            if cursor == END {
                self.check_schedule
                    .epochs
                    .lock()
                    .insert(shard.to_owned(), epoch);
                return Ok(());
            }
        }
    }

    async fn check_room(
        &self,
        room: &str,
        look: &Look,
        thorough: bool,
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        if look.state == room_inspect::SOUND && !thorough {
            return Ok(());
        }
        let settled = if look.state == room_inspect::UNSETTLED && !thorough {
            let settled = self.apply_outbox(room).await?;
            sweep.repairs += settled.entries as u64;
            settled
        } else {
            self.reindex(room, ttl_ms, sweep).await?
        };
        if settled.empty {
            self.drop_due(&[room]).await?;
        }
        Ok(())
    }

    /// Scans the servers for rooms without an entry in the due index.
    pub(in crate::store::redis) async fn do_adopt(&self, ttl_ms: u64) -> Sweep {
        let mut sweep = Sweep::default();
        for server in self.rooms.scripts.commands.servers() {
            // An unreachable server is scanned by the next check.
            if server.is_live() {
                let adopted = self.adopt_from(&server, ttl_ms, &mut sweep).await;
                skip_corrupt_part(&mut sweep, adopted);
            }
        }
        sweep
    }

    async fn adopt_from(&self, server: &Link, ttl_ms: u64, sweep: &mut Sweep) -> Result<()> {
        let rooms = self.rooms.keys.room_conns_pattern();
        let mut cursor = END.to_vec();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor)
                .arg("MATCH")
                .arg(&rooms)
                .arg("COUNT")
                .arg(SCAN_PAGE);
            let page = server.command(&scan, Repeat::Harmless).await?;
            let (next, keys): (Vec<u8>, Vec<Vec<u8>>) =
                redis::from_redis_value(page).map_err(|error| errors::request(&error.into()))?;
            let rooms: BTreeSet<String> = keys
                .into_iter()
                .filter_map(utf8)
                .filter_map(|key| self.rooms.keys.room_of_conns(&key).map(Into::into))
                .collect();
            self.adopt_rooms(rooms, ttl_ms, sweep).await;
            cursor = next;
            if cursor == END {
                return Ok(());
            }
        }
    }

    async fn adopt_rooms(&self, rooms: BTreeSet<String>, ttl_ms: u64, sweep: &mut Sweep) {
        let mut scores = redis::Pipeline::with_capacity(rooms.len());
        for room in &rooms {
            scores
                .cmd("ZSCORE")
                .arg(self.rooms.keys.due_of(room))
                .arg(room);
        }
        let scores = self
            .rooms
            .scripts
            .commands
            .pipeline_each(&scores, Repeat::Harmless)
            .await;
        for (room, score) in rooms.iter().zip(scores) {
            let adopted = match score {
                Ok(Value::Nil) => self.adopt_room(room, ttl_ms, sweep).await,
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            skip_corrupt_part(sweep, adopted);
        }
    }

    async fn adopt_room(&self, room: &str, ttl_ms: u64, sweep: &mut Sweep) -> Result<()> {
        sweep.rooms += 1;
        sweep.repairs += self.move_due(&[(room, 0)], true).await?;
        crash_point!(Indexed);
        self.reindex(room, ttl_ms, sweep).await.map(drop)
    }
}

/// The number of rooms in a shard, and the claimed rooms.
fn read_taken(value: Value) -> Result<(i64, Vec<String>)> {
    scripts::read(value, |reply| {
        let rooms = reply.integer()?;
        let mut taken = Vec::with_capacity(reply.left());
        while reply.left() > 0 {
            taken.push(reply.text()?);
        }
        Ok((rooms, taken))
    })
}
