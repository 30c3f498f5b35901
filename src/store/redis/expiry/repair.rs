//! Repairs. Rooms that only legacy nodes have written get an entry in the due index (spec 6.5).
//! Rooms whose indices do not agree are corrected from the connections' hashes.

use super::{CONNECTIONS_AT_A_TIME, Candidate, integers, skip_corrupt, user_json};
use crate::{
    failpoints::failpoint,
    model::{
        error::Result,
        json::quote,
        presence::{Epoch, Sweep},
    },
    store::redis::{
        presence::{
            fields::{fields, number, utf8},
            rooms::{Meta, Rooms},
        },
        transport::{errors, link::Repeat},
    },
};
use redis::{Pipeline, Value};
use std::collections::BTreeSet;

/// A connection to repair, as its hash describes it, or its `conn_meta` if there is no hash.
struct Found {
    candidate: Candidate,
    user: String,
    epoch: Epoch,
    lives: bool,
}

impl Rooms {
    /// [`Rooms::repair`]. A room that cannot be repaired is counted, and the check continues.
    pub(super) async fn try_repair(
        &self,
        room: &str,
        ttl_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<()> {
        if failpoint!(Checks) {
            return Ok(());
        }
        let done = self.repair(room, ttl_ms, sweep).await;
        skip_corrupt(sweep, done)
    }

    /// Repairs every connection that any index of the room contains.
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
        for answer in self
            .scripts
            .commands
            .pipeline(&read, Repeat::Harmless)
            .await?
        {
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
        // Members are repaired last, when the connections are correct.
        for page in members.chunks(CONNECTIONS_AT_A_TIME) {
            self.repair_page(room, &[], page, ttl_ms, sweep).await?;
        }
        if conns.is_empty() && members.is_empty() {
            // The room is empty, so the script removes it from the global indices.
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
            .scripts
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
        let mut keys = self.room_keys(room);
        for Found {
            candidate, user, ..
        } in found
        {
            self.add_connection_keys(&mut keys, room, &candidate.conn, user);
        }
        for user in members {
            self.layout.add_user_indices(&mut keys, room, user);
        }
        let script = self.room_scripts.repair;
        let mut call = script.call_with(&keys);
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
        self.layout.add_last_argument(&mut call);
        let value = self.scripts.call(script, &call, Repeat::Never).await?;
        if let [repairs, removed] = integers(value)?[..] {
            sweep.repairs += repairs.unsigned_abs();
            sweep.expired += removed.unsigned_abs();
        }
        Ok(())
    }
}
