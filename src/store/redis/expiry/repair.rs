//! Repairs: rooms that only other nodes wrote are taken into the due index (spec 6.5), and rooms
//! whose indices do not agree with each other are made to agree with the hashes.

use super::{CONNECTIONS_AT_A_TIME, Candidate, integers, skip_corrupt, user_json};
use crate::{
    failpoints::{Failpoint, off},
    model::{
        error::Result,
        json::quote,
        presence::{Epoch, Sweep},
    },
    store::redis::{
        RedisStore,
        presence::rooms::{Meta, fields, number, utf8},
        scripts,
        transport::{errors, link::Repeat},
    },
};
use redis::{Pipeline, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A connection as repair sees it: by its hash, or by what is left of it.
struct Found {
    candidate: Candidate,
    user: String,
    epoch: Epoch,
    lives: bool,
}

impl RedisStore {
    /// Rooms that are active but have no entry in the due index are looked at in full, and get one.
    pub(in crate::store::redis) async fn do_adopt(&self, ttl_ms: u64) -> Result<Sweep> {
        let mut sweep = Sweep::default();
        let active = self.keys.active_rooms();
        let mut cursor = b"0".to_vec();
        loop {
            let (next, rooms) = match self.scan("SSCAN", &active, &cursor).await {
                // Of another type: the rooms that have an entry are processed as ever.
                Err(error) if errors::is_of_one_key(&error) => {
                    sweep.corrupt += 1;
                    return Ok(sweep);
                }
                page => page?,
            };
            for room in self.without_entry(rooms).await? {
                sweep.rooms += 1;
                self.try_repair(&room, ttl_ms, &mut sweep).await?;
            }
            cursor = next;
            if cursor == b"0" {
                return Ok(sweep);
            }
        }
    }

    /// Those of some rooms that the due index does not have.
    async fn without_entry(&self, rooms: Vec<String>) -> Result<Vec<String>> {
        let mut by_shard: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for room in rooms {
            by_shard
                .entry(self.keys.due_of(&room))
                .or_default()
                .push(room);
        }
        let mut read = Pipeline::with_capacity(by_shard.len());
        for (shard, rooms) in &by_shard {
            read.cmd("ZMSCORE").arg(shard).arg(rooms);
        }
        let mut without = Vec::new();
        let answers = self.commands.pipeline(&read, Repeat::Harmless).await?;
        for (rooms, answer) in by_shard.into_values().zip(answers) {
            let scores = answer
                .extract_error()
                .and_then(|answer| Ok(redis::from_redis_value::<Vec<Value>>(answer)?))
                .map_err(|error| errors::request(&error));
            let scores = match scores {
                // Rooms of a shard that is none cannot be taken in; those of others can.
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

    /// [`RedisStore::repair`]; a room that cannot be repaired is counted, and keeps no other from
    /// being looked at.
    pub(super) async fn try_repair(
        &self,
        room: &str,
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        if off(Failpoint::Checks) {
            return Ok(());
        }
        let done = self.repair(room, ttl_ms, sweep).await;
        skip_corrupt(sweep, done)
    }

    /// Looks at every connection of a room that any of its indices knows.
    pub(in crate::store::redis) async fn repair(
        &self,
        room: &str,
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        let keys = self.keys.room(room);
        let mut read = Pipeline::new();
        read.cmd("SMEMBERS").arg(&keys.conns);
        read.cmd("ZRANGE").arg(&keys.last_seen).arg(0).arg(-1);
        read.cmd("HKEYS").arg(&keys.conn_meta);
        read.cmd("SMEMBERS").arg(&keys.members);
        let mut lists = Vec::new();
        for answer in self.commands.pipeline(&read, Repeat::Harmless).await? {
            let answer = answer
                .extract_error()
                .map_err(|error| errors::request(&error))?;
            let ids: Vec<Vec<u8>> =
                redis::from_redis_value(answer).map_err(|error| errors::request(&error.into()))?;
            lists.push(
                ids.into_iter()
                    .filter_map(utf8)
                    .collect::<BTreeSet<String>>(),
            );
        }
        let members: Vec<String> = lists.pop().unwrap_or_default().into_iter().collect();
        let conns: Vec<String> = lists
            .into_iter()
            .flatten()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        for page in conns.chunks(CONNECTIONS_AT_A_TIME) {
            let found = self.look_at(room, page).await?;
            self.repair_page(room, &found, &[], ttl_ms, sweep).await?;
        }
        // Members last, when the connections are right.
        for page in members.chunks(CONNECTIONS_AT_A_TIME) {
            self.repair_page(room, &[], page, ttl_ms, sweep).await?;
        }
        if conns.is_empty() && members.is_empty() {
            // Nobody is there: the script takes the room out of the global indices.
            self.repair_page(room, &[], &[], ttl_ms, sweep).await?;
        }
        Ok(())
    }

    async fn look_at(&self, room: &str, conns: &[String]) -> Result<Vec<Found>> {
        let conn_meta = self.keys.room(room).conn_meta;
        let mut read = Pipeline::with_capacity(2 * conns.len());
        for conn in conns {
            read.cmd("HMGET")
                .arg(self.keys.conn(room, conn))
                .arg(&["room_id", "user_id", "epoch"]);
            read.cmd("HGET").arg(&conn_meta).arg(conn);
        }
        let mut answers = self
            .commands
            .pipeline(&read, Repeat::Harmless)
            .await?
            .into_iter();
        let mut found = Vec::with_capacity(conns.len());
        for conn in conns {
            let hash = fields::<3>(answers.next().unwrap_or(Value::Nil)).unwrap_or_default();
            let meta = match answers.next() {
                Some(Value::BulkString(meta)) => meta,
                _ => Vec::new(),
            };
            let candidate = Candidate {
                conn: conn.clone(),
                meta,
            };
            let here = match hash {
                [Some(at), Some(user), epoch] if at == room.as_bytes() => {
                    utf8(user).map(|user| (user, epoch.as_deref().map_or(0, number)))
                }
                _ => None,
            };
            found.push(match here {
                Some((user, epoch)) => Found {
                    candidate,
                    user,
                    epoch,
                    lives: true,
                },
                None => {
                    let meta: Meta = candidate.parsed();
                    Found {
                        epoch: meta.epoch(),
                        user: meta.user,
                        candidate,
                        lives: false,
                    }
                }
            });
        }
        Ok(found)
    }

    async fn repair_page(
        &self,
        room: &str,
        found: &[Found],
        members: &[String],
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        let mut call = scripts::REPAIR.call(7 + 4 * found.len() + 2 * members.len());
        self.room_keys(&mut call, room);
        for Found {
            candidate, user, ..
        } in found
        {
            self.connection_keys(&mut call, room, &candidate.conn, user);
        }
        for user in members {
            call.arg(self.keys.user_conns(room, user))
                .arg(self.keys.user_rooms(room, user));
        }
        call.arg(room)
            .arg(quote(room))
            .arg(ttl_ms)
            .arg(members.len());
        let lives: String = found
            .iter()
            .map(|found| if found.lives { '1' } else { '0' })
            .collect();
        call.arg(lives);
        for Found {
            candidate,
            user,
            epoch,
            ..
        } in found
        {
            call.arg(&candidate.conn)
                .arg(quote(&candidate.conn))
                .arg(user)
                .arg(user_json(user))
                .arg(*epoch)
                .arg(&candidate.meta);
        }
        for user in members {
            call.arg(user).arg(quote(user));
        }
        call.arg(self.keys.layout_name());
        let value = self.call(&scripts::REPAIR, &call, Repeat::Never).await?;
        if let [repairs, removed] = integers(value)?[..] {
            sweep.repairs += repairs.unsigned_abs();
            sweep.expired += removed.unsigned_abs();
        }
        Ok(())
    }
}
