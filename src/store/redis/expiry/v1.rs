//! The sweep on the layout `v1`: `sweep_due.lua` returns due rooms, `sweep_rooms.lua` selects those
//! that may have dead connections, `room_inspect.lua` reads the candidates, and `reap.lua` removes
//! the dead ones.

use crate::{
    model::{error::Result, presence::Sweep},
    store::{
        SweepSettings,
        redis::{
            expiry::{
                CONNECTIONS_AT_A_TIME, ROOMS_AT_A_TIME, Reap, check::USERS_EVERY, integers,
                skip_corrupt, skip_corrupt_part,
            },
            presence::v1::V1,
            scripts::{self, sweep_due},
            transport::{errors, link::Repeat, scan::END},
        },
    },
};
use redis::{Cmd, Pipeline, RedisError, Value};
use std::collections::BTreeMap;
/// Maximum number of steps of a pass. If more is due, the next pass continues.
const MAX_STEPS: usize = 1_000;

/// The reply of `sweep_due.lua`.
enum Answer {
    /// Another node has made a pass, which covers all nodes for this many more ms.
    Taken(u64),
    Due(Due),
}

/// Rooms to inspect: shard numbers, and rooms of each shard.
type Rooms = Vec<(usize, Vec<String>)>;

/// The work of a pass.
struct Due {
    rooms: Rooms,
    /// Times of the previous pass and of this one, by the server's clock in ms.
    before: u64,
    now: u64,
    unindexed: bool,
}

impl Due {
    fn len(&self) -> usize {
        self.rooms.iter().map(|(_, rooms)| rooms.len()).sum()
    }

    /// The shards whose turn to be checked has come since the previous pass. All shards are checked
    /// once within `check_ms`, whichever nodes make the passes. The second value says whether the
    /// users are checked in any case.
    fn to_be_checked(
        &self,
        check_ms: u64,
        shards: u64,
    ) -> impl Iterator<Item = (usize, bool)> + use<> {
        let step = (check_ms / shards).max(1);
        let (before, now) = (self.before / step, self.now / step);
        let missed = now.saturating_sub(before) > shards;
        (before.max(now.saturating_sub(shards)) + 1..=now).map(move |turn| {
            let (round, shard) = (turn / shards, turn % shards);
            (shard as usize, missed || (round + shard) % USERS_EVERY == 0)
        })
    }
}

impl V1 {
    pub(in crate::store::redis) async fn do_sweep(
        &self,
        settings: &SweepSettings,
    ) -> Result<Sweep> {
        let shards = self.rooms.keys.due_shards();
        let mut sweep = Sweep::default();
        let mut serves_ms = settings.serves_ms;
        for _ in 0..MAX_STEPS {
            let due = match self.due(&shards, settings, serves_ms).await? {
                Answer::Taken(served_ms) => {
                    sweep.served_ms = served_ms;
                    break;
                }
                Answer::Due(due) => due,
            };
            sweep.unindexed = due.unindexed;
            self.look(&shards, &due.rooms, settings, &mut sweep).await?;
            for (shard, users) in due.to_be_checked(settings.check_ms, shards.len() as u64) {
                let checked = self
                    .check_shard(shard, users, &shards[shard], settings.ttl_ms, &mut sweep)
                    .await;
                skip_corrupt(&mut sweep, checked)?;
                // Adoption also runs here, because equal numbers of active and indexed rooms can be
                // a coincidence: a legacy node may have ended an indexed room and created another
                // one.
                if shard == 0 {
                    sweep += self.do_adopt(settings.ttl_ms).await?;
                }
            }
            if due.len() < ROOMS_AT_A_TIME {
                break;
            }
            // The pass continues.
            serves_ms = 0;
        }
        Ok(sweep)
    }

    async fn due(
        &self,
        shards: &[String],
        settings: &SweepSettings,
        serves_ms: u64,
    ) -> Result<Answer> {
        let mut call = scripts::v1::SWEEP_DUE.call(1 + shards.len());
        call.arg(self.rooms.keys.active_rooms())
            .arg(shards)
            .arg(settings.ttl_ms)
            .arg(ROOMS_AT_A_TIME)
            .arg(serves_ms)
            .arg(settings.claim_ms);
        // If the answer is lost, the next pass makes up for this one.
        let value = self
            .rooms
            .scripts
            .call(&scripts::v1::SWEEP_DUE, &call, Repeat::Harmless)
            .await?;
        scripts::read(value, |reply| {
            let code = reply.integer()?;
            let now = reply.integer()?.unsigned_abs();
            if code == sweep_due::TAKEN {
                return Ok(Answer::Taken(reply.integer()?.unsigned_abs()));
            }
            let before = reply.integer()?.unsigned_abs();
            let unindexed = reply.integer()? != 0;
            let mut rooms = Vec::with_capacity(reply.left());
            while reply.left() > 0 {
                let mut part = reply.nested()?;
                let shard = part.integer()? as usize;
                let of_shard: Result<Vec<_>, RedisError> =
                    (0..part.left()).map(|_| part.text()).collect();
                rooms.push((shard, of_shard?));
            }
            Ok(Answer::Due(Due {
                rooms,
                before,
                now,
                unindexed,
            }))
        })
    }

    /// Inspects due rooms and their candidates.
    async fn look(
        &self,
        shards: &[String],
        due: &Rooms,
        settings: &SweepSettings,
        sweep: &mut Sweep,
    ) -> Result<()> {
        let rooms: Vec<&str> = due
            .iter()
            .flat_map(|(_, rooms)| rooms)
            .map(String::as_str)
            .collect();
        if rooms.is_empty() {
            return Ok(());
        }
        sweep.rooms += rooms.len() as u64;
        let call = self.look_call(shards, due, settings);
        let open = self
            .rooms
            .scripts
            .call(&scripts::v1::SWEEP_ROOMS, &call, Repeat::Harmless)
            .await?;
        let mut with_candidates = Vec::new();
        for index in integers(open)? {
            match scripts::place(index) {
                Ok(room) => with_candidates.push(rooms[room]),
                Err(room) => {
                    self.rooms
                        .try_repair(rooms[room], settings.ttl_ms, sweep)
                        .await?
                }
            }
        }
        self.reap(with_candidates, settings.ttl_ms, sweep).await;
        // There is only one server, so after a failure the next calls would fail too.
        sweep.failure.take().map_or(Ok(()), Err)
    }

    fn look_call(&self, shards: &[String], due: &Rooms, settings: &SweepSettings) -> Cmd {
        let rooms = || due.iter().flat_map(|(_, rooms)| rooms);
        let mut call = scripts::v1::SWEEP_ROOMS.call(due.len() + rooms().count());
        for (shard, _) in due {
            call.arg(&shards[*shard]);
        }
        for room in rooms() {
            call.arg(self.rooms.keys.room_last_seen(room));
        }
        let (from, to) = self.rooms.keys.room_in_last_seen();
        call.arg(settings.ttl_ms)
            .arg(settings.claim_ms)
            .arg(from)
            .arg(to);
        for (_, rooms) in due {
            call.arg(rooms.len());
        }
        call
    }

    /// Removes dead connections from rooms: all rooms at a time, and a bounded number of
    /// connections of each.
    async fn reap(&self, mut rooms: Vec<&str>, ttl_ms: u64, sweep: &mut Sweep) {
        while !rooms.is_empty() {
            let looks = self.rooms.inspect(&rooms, ttl_ms).await;
            let mut reaps = Vec::new();
            for (room, look) in rooms.into_iter().zip(looks) {
                let look = look.map(|look| {
                    if !look.candidates.is_empty() {
                        reaps.push((room, look.candidates));
                    }
                });
                skip_corrupt_part(sweep, look);
            }
            // If no connection of a page was dead, the room is left to the new time of its entry.
            let done = self
                .rooms
                .reap(&reaps, Reap::Expired { ttl_ms }, sweep)
                .await;
            let full = reaps
                .iter()
                .zip(done)
                .filter(|((_, candidates), (_, reaped))| {
                    candidates.len() == CONNECTIONS_AT_A_TIME
                        && reaped
                            .as_ref()
                            .is_some_and(|reaped| reaped.removed + reaped.rescored > 0)
                });
            rooms = full.map(|((room, _), _)| *room).collect();
        }
    }

    /// Repairs rooms that are active but have no entry in the due index, which adds the entry.
    pub(in crate::store::redis) async fn do_adopt(&self, ttl_ms: u64) -> Result<Sweep> {
        let mut sweep = Sweep::default();
        let active = self.rooms.keys.active_rooms();
        let mut cursor = END.to_vec();
        loop {
            let (next, rooms) = match self
                .rooms
                .scripts
                .commands
                .scan("SSCAN", &active, &cursor)
                .await
            {
                // The key has another type. Rooms that have an entry are still processed.
                Err(error) if errors::is_of_one_key(&error) => {
                    sweep.corrupt += 1;
                    return Ok(sweep);
                }
                page => page?,
            };
            for room in self.without_entry(rooms).await? {
                sweep.rooms += 1;
                self.rooms.try_repair(&room, ttl_ms, &mut sweep).await?;
            }
            cursor = next;
            if cursor == END {
                return Ok(sweep);
            }
        }
    }

    /// The rooms that have no entry in the due index.
    async fn without_entry(&self, rooms: Vec<String>) -> Result<Vec<String>> {
        let mut by_shard: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for room in rooms {
            by_shard
                .entry(self.rooms.keys.due_of(&room))
                .or_default()
                .push(room);
        }
        let mut read = Pipeline::with_capacity(by_shard.len());
        for (shard, rooms) in &by_shard {
            read.cmd("ZMSCORE").arg(shard).arg(rooms);
        }
        let mut without = Vec::new();
        let answers = self
            .rooms
            .scripts
            .commands
            .pipeline(&read, Repeat::Harmless)
            .await?;
        for (rooms, answer) in by_shard.into_values().zip(answers) {
            let scores = answer
                .extract_error()
                .and_then(|answer| Ok(redis::from_redis_value::<Vec<Value>>(answer)?))
                .map_err(|error| errors::request(&error));
            let scores = match scores {
                // A shard whose key has another type cannot take entries. Other shards can.
                Err(error) if errors::is_of_one_key(&error) => continue,
                scores => scores?,
            };
            let entries = rooms.into_iter().zip(scores);
            without.extend(
                entries.filter_map(|(room, score)| matches!(score, Value::Nil).then_some(room)),
            );
        }
        Ok(without)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(before: u64, now: u64) -> Vec<usize> {
        let due = Due {
            rooms: Vec::new(),
            before,
            now,
            unindexed: false,
        };
        let checked = due.to_be_checked(1000, 10);
        checked.map(|(shard, _)| shard).collect()
    }

    #[test]
    fn every_shard_is_checked_once_in_an_interval_whatever_the_pace_of_passes() {
        for pace in [1, 7, 50, 99, 100, 101, 333, 1000] {
            let times: Vec<u64> = (0..=1_000_000 / pace).map(|i| i * pace).collect();
            let all: Vec<usize> = times.windows(2).flat_map(|w| checked(w[0], w[1])).collect();
            assert_eq!(all.len() as u64, times.last().unwrap() / 100, "{pace}");
            for round in all.chunks_exact(10) {
                let mut shards = round.to_vec();
                shards.sort_unstable();
                assert_eq!(shards, (0..10).collect::<Vec<_>>(), "{pace}");
            }
        }
    }

    #[test]
    fn the_users_of_each_shard_are_asked_in_one_of_four_rounds_and_after_a_round_that_was_missed() {
        let users = |before: u64, now: u64| {
            let due = Due {
                rooms: Vec::new(),
                before,
                now,
                unindexed: false,
            };
            due.to_be_checked(1000, 10)
                .filter_map(|(shard, users)| users.then_some(shard))
                .collect::<Vec<_>>()
        };
        let mut asked: Vec<usize> = (0..40)
            .flat_map(|i| users(100 * i, 100 * (i + 1)))
            .collect();
        asked.sort_unstable();
        assert_eq!(asked, (0..10).collect::<Vec<_>>());
        assert_eq!(users(0, 1_100).len(), 10);
    }

    #[test]
    fn after_a_long_time_without_passes_every_shard_is_checked_once() {
        assert_eq!(checked(5, 1_000_000).len(), 10);
        assert!(checked(1_000_000, 1_000_000).is_empty());
        assert!(checked(1_000_000, 5).is_empty());
    }
}
