//! Heartbeats: `heartbeat_batch.lua` for many plain ones, `heartbeat.lua` for one with a patch, another epoch or a
//! place to check. `patches.rs` sends the patches that need nothing of that in batches.

use crate::{
    failpoints::failpoint,
    model::{
        error::Result,
        json::quote,
        presence::{Epoch, Place},
    },
    store::{
        BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Lifetime,
        redis::{
            presence::{
                batch::{Batch, Item},
                fields::{number, unknown_code},
                rooms::Rooms,
                states::Encoded,
            },
            scripts::{self, Reply},
            transport::{errors, link::Repeat},
        },
    },
};
use redis::{Cmd, Value};

/// A heartbeat and the place for its result.
type Open<'a> = (
    &'a HeartbeatUpdate,
    &'a mut Option<Result<HeartbeatOutcome>>,
);

impl Rooms {
    /// Calls the batch script. A key of another type fails a whole call. The batch is then halved
    /// until the heartbeat with that key is alone. It is returned as a miss, and its update then
    /// fails with the right error.
    pub(in crate::store::redis) async fn refresh_isolated(
        &self,
        heartbeats: &[HeartbeatRefresh],
        lifetime: &Lifetime,
    ) -> Result<Vec<BatchMiss>> {
        let mut misses = Vec::new();
        let mut parts = vec![(0, heartbeats.len())];
        while let Some((start, end)) = parts.pop() {
            match self.refresh_part(&heartbeats[start..end], lifetime).await {
                Ok(found) => misses.extend(found.into_iter().map(|found| BatchMiss {
                    index: found.index + start,
                    ..found
                })),
                Err(error) if !errors::is_of_one_key(&error) => return Err(error),
                Err(_) if end - start == 1 => misses.push(BatchMiss {
                    index: start,
                    stored: Ok(Some(0)),
                }),
                Err(_) => {
                    let middle = start.midpoint(end);
                    parts.push((middle, end));
                    parts.push((start, middle));
                }
            }
        }
        Ok(misses)
    }

    async fn refresh_part(
        &self,
        heartbeats: &[HeartbeatRefresh],
        lifetime: &Lifetime,
    ) -> Result<Vec<BatchMiss>> {
        let width = heartbeats
            .first()
            .map_or(0, |heartbeat| digits(heartbeat.epoch));
        if heartbeats
            .iter()
            .all(|heartbeat| digits(heartbeat.epoch) == width)
        {
            return self
                .refresh_of_width(heartbeats.iter(), width, lifetime)
                .await;
        }
        // The script takes epochs of equal length. Epochs from the clock have equal length. Callers
        // that adopt other epochs cause one call for each length.
        let mut misses = Vec::new();
        for width in 1..=MAX_DIGITS {
            let indices: Vec<usize> = (0..heartbeats.len())
                .filter(|&i| digits(heartbeats[i].epoch) == width)
                .collect();
            if !indices.is_empty() {
                let of_width = indices.iter().map(|&i| &heartbeats[i]);
                for miss in self.refresh_of_width(of_width, width, lifetime).await? {
                    misses.push(BatchMiss {
                        index: indices[miss.index],
                        ..miss
                    });
                }
            }
        }
        misses.sort_unstable_by_key(|miss| miss.index);
        Ok(misses)
    }

    async fn refresh_of_width<'a>(
        &self,
        heartbeats: impl Iterator<Item = &'a HeartbeatRefresh> + Clone,
        width: usize,
        lifetime: &Lifetime,
    ) -> Result<Vec<BatchMiss>> {
        let call = self.refresh_call(heartbeats, width, lifetime);
        read_misses(
            self.scripts
                .call(&scripts::HEARTBEAT_BATCH, &call, Repeat::Harmless)
                .await?,
        )
    }

    /// One call of the script, for heartbeats that are sorted by room and have epochs of equal
    /// length.
    pub(in crate::store::redis) fn refresh_call<'a>(
        &self,
        heartbeats: impl Iterator<Item = &'a HeartbeatRefresh> + Clone,
        width: usize,
        lifetime: &Lifetime,
    ) -> Cmd {
        let batch = Batch::new(heartbeats.clone().map(|heartbeat| Item {
            room: &heartbeat.room,
            conn: &heartbeat.conn,
            epoch: heartbeat.epoch,
        }));
        let separate = heartbeats.clone().filter(|heartbeat| heartbeat.separate);
        let keys = batch.rooms.len() + batch.items.len() + separate.clone().count();
        let mut call = scripts::HEARTBEAT_BATCH.call(keys);
        for (room, _) in &batch.rooms {
            call.arg(self.keys.room_last_seen(room));
        }
        batch.add_conn_keys(&mut call, &self.keys);
        for heartbeat in separate {
            call.arg(self.keys.conn_state(&heartbeat.room, &heartbeat.conn));
        }
        batch.add_arguments(&mut call, &self.keys, width, lifetime);
        call
    }

    pub(in crate::store::redis) async fn update_heartbeats(
        &self,
        heartbeats: &[HeartbeatUpdate],
        lifetime: &Lifetime,
    ) -> Vec<Result<HeartbeatOutcome>> {
        let mut results = self.patch_large(heartbeats, lifetime).await;
        self.patch_batches(heartbeats, &mut results, lifetime).await;
        let (writes, others): (Vec<Open>, Vec<Open>) = heartbeats
            .iter()
            .zip(&mut results)
            .filter(|(_, result)| result.is_none())
            .partition(|(heartbeat, _)| heartbeat.writes_state());
        // A repeated write could find its own result and answer "changed: false". Other updates
        // that are sent together with a write can be repeated.
        tokio::join!(
            self.update_open(writes, lifetime, Repeat::Never),
            self.update_open(others, lifetime, Repeat::Harmless),
        );
        results
            .into_iter()
            .map(|result| result.unwrap_or(Ok(HeartbeatOutcome::Unknown)))
            .collect()
    }

    /// Sends the heartbeats that have no result yet, and sets their results.
    async fn update_open(&self, open: Vec<Open<'_>>, lifetime: &Lifetime, repeat: Repeat) {
        let (mut calls, mut sent) = (Vec::new(), Vec::new());
        for (heartbeat, _) in &open {
            let next = heartbeat
                .write
                .as_ref()
                .and_then(|write| write.next.as_ref());
            let encoded = match next {
                Some(next) => self.states.encode(next).await,
                None => Encoded::default(),
            };
            calls.push(self.update_call(heartbeat, &encoded, lifetime));
            sent.push(encoded);
        }
        let answers = self
            .scripts
            .call_all(self.room_scripts.heartbeat, calls, repeat)
            .await;
        for (((heartbeat, result), sent), answer) in open.into_iter().zip(sent).zip(answers) {
            *result = Some(answer.and_then(|value| {
                self.read_update(heartbeat, sent, value)
                    .map_err(|error| errors::request(&error))
            }));
        }
    }

    /// `encoded`: the stored form of the new state.
    fn update_call(
        &self,
        heartbeat: &HeartbeatUpdate,
        encoded: &Encoded,
        lifetime: &Lifetime,
    ) -> Cmd {
        let (room, user) = (&*heartbeat.place.room, &*heartbeat.place.user);
        let own = self.keys.room(room);
        let mut keys = vec![
            self.keys.conn(room, &heartbeat.conn),
            own.last_seen,
            own.conn_meta,
            own.events,
            self.keys.conn_state(room, &heartbeat.conn),
        ];
        self.layout.add_event_channels(&mut keys, room);
        self.layout.add_due(&mut keys, room);
        let owner = lifetime.owner.as_ref();
        if let Some(owner) = owner {
            self.layout.add_owner(&mut keys, &owner.node);
        }
        let mut call = self.room_scripts.heartbeat.call_with(&keys);
        call.arg(&*heartbeat.conn)
            .arg(user)
            .arg(room)
            .arg(quote(&heartbeat.conn))
            .arg(quote(user))
            .arg(quote(room))
            .arg(lifetime.ttl_ms)
            .arg(
                heartbeat
                    .epoch
                    .map(|epoch| epoch.to_string())
                    .unwrap_or_default(),
            );
        match &heartbeat.write {
            None => {
                call.arg(0).arg(&["", "", "0", "", "", ""]);
            }
            Some(write) => {
                let encoding = write.base.encoding.as_deref();
                call.arg(1)
                    .arg(write.base.bytes())
                    .arg(encoding.map_or(&b""[..], |encoding| &encoding.compressed))
                    .arg(i32::from(write.base.is_separate()));
                match &write.next {
                    None => call.arg(&["", "", ""]),
                    Some(next) => call
                        .arg(next.as_str())
                        .arg(encoded.bytes.as_deref().unwrap_or_default())
                        .arg(encoded.compressed),
                };
            }
        }
        call.arg(owner.map_or("", |owner| &owner.node))
            .arg(match owner {
                Some(owner) if owner.number > 0 => owner.number.to_string(),
                _ => String::new(),
            })
            .arg(self.keys.node_calls(""));
        self.layout.add_last_argument(&mut call);
        call
    }

    fn read_update(
        &self,
        heartbeat: &HeartbeatUpdate,
        written: Encoded,
        value: Value,
    ) -> Result<HeartbeatOutcome, redis::RedisError> {
        let mut reply = Reply::new(value)?;
        Ok(match reply.integer()? {
            scripts::heartbeat::REFRESHED => {
                let epoch = reply.integer()?.unsigned_abs();
                self.clock.heard(reply.integer()?.unsigned_abs());
                let revision = reply.integer()?.unsigned_abs();
                let adopted = reply.integer()? == 1;
                let released = reply.integer()? == 1;
                let write = heartbeat.write.as_ref();
                let write = write.filter(|write| write.next.is_some());
                HeartbeatOutcome::Refreshed {
                    epoch,
                    adopted,
                    released,
                    encoding: write.and_then(|write| {
                        written.into_encoding(write.base.is_separate().then_some(revision))
                    }),
                }
            }
            scripts::heartbeat::UNKNOWN => HeartbeatOutcome::Unknown,
            scripts::heartbeat::STALE => HeartbeatOutcome::Stale {
                stored: reply.integer()?.unsigned_abs(),
            },
            scripts::heartbeat::ELSEWHERE => {
                HeartbeatOutcome::Elsewhere(Place::new(&reply.text()?, &reply.text()?))
            }
            scripts::heartbeat::AHEAD => HeartbeatOutcome::Ahead {
                max: reply.integer()?.unsigned_abs(),
            },
            scripts::heartbeat::UNISSUED => HeartbeatOutcome::Unissued {
                stored: reply.integer()?.unsigned_abs(),
            },
            scripts::heartbeat::CONFLICT => {
                let (bytes, compressed) = (reply.bytes()?, reply.bytes()?);
                let separate = reply.integer()? == 1;
                let revision = reply.integer()?.unsigned_abs();
                HeartbeatOutcome::Conflict {
                    stored: self.states.stored(bytes, &compressed, separate, revision),
                }
            }
            scripts::heartbeat::LOST => HeartbeatOutcome::OwnerLost,
            scripts::heartbeat::UNCLAIMED => HeartbeatOutcome::Unclaimed,
            code => return Err(unknown_code("heartbeat", code)),
        })
    }
}

/// The heartbeats that were not written.
pub(in crate::store::redis) fn read_misses(value: Value) -> Result<Vec<BatchMiss>> {
    scripts::read(value, |reply| {
        let mut misses = Vec::with_capacity(reply.left() / 2);
        while reply.left() > 1 {
            let index = reply.integer()?.unsigned_abs() as usize;
            let stored = reply.bytes()?;
            if stored.is_empty() && failpoint!(NotFound) {
                continue;
            }
            misses.push(BatchMiss {
                index,
                stored: Ok((!stored.is_empty()).then(|| number(&stored))),
            });
        }
        Ok(misses)
    })
}

/// Decimal digits of the largest epoch.
const MAX_DIGITS: usize = 20;

pub(in crate::store::redis) fn digits(epoch: Epoch) -> usize {
    epoch.checked_ilog10().map_or(1, |log| log as usize + 1)
}
