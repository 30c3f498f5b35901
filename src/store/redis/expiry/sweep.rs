//! The sweep: `sweep_due.lua` gives rooms that are due, `sweep_rooms.lua` takes those in which
//! something may be dead, `sweep_candidates.lua` reads what, and `reap.lua` removes what is.

use super::{
    CONNECTIONS_AT_A_TIME, Candidate, ROOMS_AT_A_TIME, check::USERS_EVERY, isolate, reaped,
    user_json,
};
use crate::{
    model::{error::Result, json::quote, presence::Sweep},
    store::{
        Attend, Attending, SweepSettings,
        redis::{
            RedisStore,
            link::Repeat,
            scripts::{self, sweep_due},
        },
    },
    switches::{Defence, off},
};
use redis::{Cmd, RedisError, Value};
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// Steps after which a pass ends although more is due; the next pass goes on.
const MOST_STEPS: usize = 1_000;

/// A lease that does not end, in ms.
const FOR_EVER: u64 = 1_000_000_000;

/// What `sweep_due.lua` answers.
enum Answer {
    /// Another node has made a pass, which serves for so many ms more.
    Taken(u64),
    Due(Due),
}

/// A room to be looked at.
pub(super) struct Room {
    pub name: Arc<str>,
    /// The node would attend it.
    pub wanted: bool,
}

/// Rooms to be looked at: shards (by number) and rooms of them.
pub(super) type Rooms = Vec<(usize, Vec<Room>)>;

/// On whose behalf rooms are looked at.
#[derive(Clone, Copy)]
pub(super) enum Onlooker<'a> {
    /// Whoever makes a pass.
    Anybody,
    /// A node that may attend them.
    Node(u64, Attend<'a>),
    /// The node of this id that attends them, and gives them back.
    Attendant(u64),
    /// A check: nobody has looked at them, whoever was to.
    Check,
}

impl Onlooker<'_> {
    /// Whether it is a node that attends rooms.
    fn attends(&self) -> bool {
        matches!(self, Onlooker::Node(..) | Onlooker::Attendant(_))
    }

    /// The node that may attend rooms that are found.
    fn node(&self) -> Option<(u64, Attending)> {
        match *self {
            Onlooker::Node(id, attend) => Some((id, attend.how)),
            _ => None,
        }
    }
}

/// What a pass is to look at.
struct Due {
    rooms: Rooms,
    /// When the pass before was, and when this one is, by Redis's clock in ms.
    before: u64,
    now: u64,
    unindexed: bool,
}

impl Due {
    fn len(&self) -> usize {
        self.rooms.iter().map(|(_, rooms)| rooms.len()).sum()
    }

    /// Shards whose turn to be checked has come since the pass before: one after the other, all
    /// within `check_ms`, whoever makes the passes; and whether their users are to be asked in any case.
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

impl RedisStore {
    pub(in crate::store::redis) async fn do_sweep(
        &self,
        settings: &SweepSettings,
        attend: Option<Attend<'_>>,
    ) -> Result<Sweep> {
        let shards = self.keys.due_shards();
        let mut sweep = Sweep::default();
        let mut serves_ms = settings.serves_ms;
        let onlooker = match attend {
            Some(attend) => {
                let connections = self.commands.connections();
                Onlooker::Node(self.attendance.begin(&attend.how, connections)?, attend)
            }
            None => Onlooker::Anybody,
        };
        for step in 0..MOST_STEPS {
            let answer = self.due(&shards, settings, serves_ms, onlooker).await?;
            if let (0, Some((id, _))) = (step, onlooker.node()) {
                self.give_back(&shards, settings, id, &mut sweep).await?;
            }
            let due = match answer {
                Answer::Taken(served_ms) => {
                    sweep.served_ms = served_ms;
                    break;
                }
                Answer::Due(due) => due,
            };
            sweep.unindexed = due.unindexed;
            self.look(&shards, &due.rooms, settings, onlooker, &mut sweep)
                .await?;
            for (shard, users) in due.to_be_checked(settings.check_ms, shards.len() as u64) {
                let checked = self
                    .check_shard(shard, users, &shards, settings, &mut sweep)
                    .await;
                isolate(&mut sweep, checked)?;
                // Numbers of rooms can agree by chance: a room that one of our nodes made was ended
                // by another kind of node, which also made one.
                if shard == 0 {
                    sweep += self.do_adopt(settings.ttl_ms).await?;
                }
            }
            if due.len() < ROOMS_AT_A_TIME {
                break;
            }
            // The pass goes on.
            serves_ms = 0;
        }
        Ok(sweep)
    }

    async fn due(
        &self,
        shards: &[String],
        settings: &SweepSettings,
        serves_ms: u64,
        onlooker: Onlooker<'_>,
    ) -> Result<Answer> {
        let SweepSettings {
            ttl_ms, claim_ms, ..
        } = *settings;
        let node = onlooker.node();
        let lease_ms = node.map_or(0, |(_, how)| how.lease_ms);
        let lease_ms = if off(Defence::Lapsing) {
            FOR_EVER
        } else {
            lease_ms
        };
        let mut call = scripts::SWEEP_DUE.call(1 + shards.len());
        call.arg(self.keys.active_rooms())
            .arg(shards)
            .arg(ttl_ms)
            .arg(ROOMS_AT_A_TIME)
            .arg(serves_ms)
            .arg(node.map(|(id, _)| id.to_string()).unwrap_or_default())
            .arg(lease_ms)
            .arg(claim_ms)
            .arg(lease_ms.max(ttl_ms));
        let sent = Instant::now();
        // A pass that is lost with the answer is made up for by the next.
        let value = self
            .call(&scripts::SWEEP_DUE, &call, Repeat::Harmless)
            .await?;
        let (now, answer) = scripts::read(value, |reply| {
            let code = reply.integer()?;
            let now = reply.integer()?.unsigned_abs();
            if code == sweep_due::TAKEN {
                return Ok((now, Answer::Taken(reply.integer()?.unsigned_abs())));
            }
            let before = reply.integer()?.unsigned_abs();
            let unindexed = reply.integer()? != 0;
            let mut rooms = Vec::with_capacity(reply.left());
            while reply.left() > 0 {
                let mut part = reply.nested()?;
                let shard = part.integer()? as usize;
                let of_shard: Result<Vec<_>, RedisError> = (0..part.left())
                    .map(|_| part.text().map(|name| self.due_room(name, onlooker)))
                    .collect();
                rooms.push((shard, of_shard?));
            }
            let due = Due {
                rooms,
                before,
                now,
                unindexed,
            };
            Ok((now, Answer::Due(due)))
        })?;
        if let Some((id, _)) = node {
            self.attendance.renewed(id, sent, now);
        }
        Ok(answer)
    }

    /// Of a room that has come due, whether the node would attend it.
    fn due_room(&self, name: String, onlooker: Onlooker<'_>) -> Room {
        let ours = match onlooker {
            Onlooker::Node(_, attend) => (attend.ours)(&name),
            _ => None,
        };
        Room {
            wanted: ours
                .as_ref()
                .is_some_and(|room| self.attendance.wants(room)),
            name: ours.unwrap_or_else(|| name.into()),
        }
    }

    /// Looks at rooms that the node attends and that it can say nothing of, and gives them back.
    async fn give_back(
        &self,
        shards: &[String],
        settings: &SweepSettings,
        id: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        let due = self.attendance.due();
        for due in due.chunks(ROOMS_AT_A_TIME) {
            let mut rooms: BTreeMap<usize, Vec<Room>> = BTreeMap::new();
            for name in due {
                let shard = self.keys.shard_of(name) as usize;
                rooms.entry(shard).or_default().push(Room {
                    name: name.clone(),
                    wanted: false,
                });
            }
            let rooms = rooms.into_iter().collect();
            self.look(shards, &rooms, settings, Onlooker::Attendant(id), sweep)
                .await?;
        }
        Ok(())
    }

    /// Looks at rooms that are due, and at what may be dead in them.
    pub(super) async fn look(
        &self,
        shards: &[String],
        due: &Rooms,
        settings: &SweepSettings,
        onlooker: Onlooker<'_>,
        sweep: &mut Sweep,
    ) -> Result<()> {
        let rooms: Vec<&Room> = due.iter().flat_map(|(_, rooms)| rooms).collect();
        if rooms.is_empty() {
            return Ok(());
        }
        sweep.rooms += rooms.len() as u64;
        sweep.others |= onlooker.attends() && rooms.iter().any(|room| !room.wanted);
        let call = self.look_call(shards, due, settings, onlooker);
        let open = self.send_look(&call, &rooms, onlooker).await?;
        let mut with_candidates = Vec::new();
        for index in open {
            match scripts::place(index) {
                Ok(room) => with_candidates.push(&*rooms[room].name),
                Err(room) => {
                    self.try_repair(&rooms[room].name, settings.ttl_ms, sweep)
                        .await?
                }
            }
        }
        self.reap(with_candidates, settings.ttl_ms, sweep).await
    }

    fn look_call(
        &self,
        shards: &[String],
        due: &Rooms,
        settings: &SweepSettings,
        onlooker: Onlooker<'_>,
    ) -> Cmd {
        let rooms = || due.iter().flat_map(|(_, rooms)| rooms);
        let mut call = scripts::SWEEP_ROOMS.call(due.len() + rooms().count());
        for (shard, _) in due {
            call.arg(&shards[*shard]);
        }
        for room in rooms() {
            call.arg(self.keys.room_last_seen(&room.name));
        }
        let (from, to) = self.keys.room_in_last_seen();
        call.arg(settings.ttl_ms)
            .arg(settings.claim_ms)
            .arg(from)
            .arg(to);
        match onlooker {
            Onlooker::Node(id, Attend { how, .. }) => {
                let wanted: String = rooms()
                    .map(|room| if room.wanted { '1' } else { '0' })
                    .collect();
                call.arg(wanted)
                    .arg(id)
                    .arg(how.lease_ms)
                    .arg(how.silence_ms);
            }
            Onlooker::Attendant(id) => {
                call.arg("").arg(id).arg(0).arg(0);
            }
            Onlooker::Anybody | Onlooker::Check => {
                call.arg(&["", "", "0", "0"]);
            }
        }
        call.arg(i32::from(matches!(onlooker, Onlooker::Check)));
        for (_, rooms) in due {
            call.arg(rooms.len());
        }
        call
    }

    /// Sends a look and takes in which rooms the node attends from then on. What else was found: see
    /// `sweep_rooms.lua`.
    async fn send_look(
        &self,
        call: &Cmd,
        rooms: &[&Room],
        onlooker: Onlooker<'_>,
    ) -> Result<Vec<i64>> {
        let attends = onlooker.attends();
        let _one_at_a_time = self.attendance.looking.lock().await;
        let sent = Instant::now();
        if attends {
            let wanted = rooms.iter().filter(|room| room.wanted);
            self.attendance.claims(wanted.map(|room| &room.name));
        }
        let value = self
            .call(&scripts::SWEEP_ROOMS, call, Repeat::Harmless)
            .await?;
        let (open, attended) = scripts::read(value, |reply| {
            Ok((reply.nested()?.integers()?, reply.nested()?.integers()?))
        })?;
        if attends {
            let mut is_attended = vec![false; rooms.len()];
            for index in attended {
                is_attended[index.unsigned_abs() as usize] = true;
            }
            let rooms = rooms.iter().map(|room| &room.name);
            self.attendance.settled(sent, rooms.zip(is_attended));
        }
        Ok(open)
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
                let reaped = reaped(sweep, result)?;
                // A page of which nothing was dead is left to the entry's new time.
                if reaped.is_some_and(|reaped| reaped.removed + reaped.rescored > 0)
                    && candidates.len() == CONNECTIONS_AT_A_TIME
                {
                    rooms.push(room);
                }
            }
        }
        Ok(())
    }

    pub(in crate::store::redis) fn reap_call(
        &self,
        room: &str,
        candidates: &[Candidate],
        ttl_ms: u64,
    ) -> Cmd {
        let metas: Vec<_> = candidates.iter().map(Candidate::parsed).collect();
        let mut call = scripts::REAP.call(7 + 4 * candidates.len());
        self.room_keys(&mut call, room);
        for (candidate, meta) in candidates.iter().zip(&metas) {
            self.connection_keys(&mut call, room, &candidate.conn, &meta.user);
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
        call.arg(self.keys.layout_name());
        call
    }
}

fn read_candidates(value: Value) -> Result<Vec<Candidate>> {
    scripts::read(value, |reply| {
        let mut candidates = Vec::with_capacity(reply.left() / 2);
        while reply.left() > 1 {
            candidates.push(Candidate {
                conn: reply.text()?,
                meta: reply.bytes()?,
            });
        }
        Ok(candidates)
    })
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
