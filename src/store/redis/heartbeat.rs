//! Heartbeats: `heartbeat_batch.lua` for the many, `heartbeat.lua` for those with more to say.

use super::{
    RedisStore, errors,
    link::Repeat,
    presence::{number, unknown_code},
    scripts::{self, Reply},
    states::{Encoded, LARGE},
};
use crate::{
    keys::Keys,
    model::{
        error::Result,
        json::quote,
        presence::{Epoch, Place},
    },
    store::{Beaten, Exception, FullBeat, PlainBeat},
    switches::{Defence, off},
};
use redis::{Cmd, Value};
use std::sync::Arc;

/// A heartbeat and where its result belongs.
type Open<'a> = (&'a FullBeat, &'a mut Option<Result<Beaten>>);

impl RedisStore {
    pub(super) async fn do_beat_batch(
        &self,
        beats: &[PlainBeat],
        ttl_ms: u64,
    ) -> Result<Vec<Exception>> {
        if !self.keys.is_slotted() {
            return self.beat_isolated(beats, ttl_ms).await;
        }
        let mut exceptions = if self.commands.is_cluster() {
            self.beat_rooms(beats, ttl_ms).await
        } else {
            self.beat_isolated(beats, ttl_ms).await?
        };
        self.find_unknown(beats, &mut exceptions).await;
        Ok(exceptions)
    }

    /// Calls of the script for beats that it can take together. A key of another type fails a whole
    /// call; then the batch is halved until what is wrong stands alone. It goes on as an exception,
    /// and the long way has an error for it.
    pub(super) async fn beat_isolated(
        &self,
        beats: &[PlainBeat],
        ttl_ms: u64,
    ) -> Result<Vec<Exception>> {
        let mut exceptions = Vec::new();
        let mut parts = vec![(0, beats.len())];
        while let Some((start, end)) = parts.pop() {
            match self.beat_part(&beats[start..end], ttl_ms).await {
                Ok(found) => exceptions.extend(found.into_iter().map(|found| Exception {
                    index: found.index + start,
                    ..found
                })),
                Err(error) if !errors::is_of_one_key(&error) => return Err(error),
                Err(_) if end - start == 1 => exceptions.push(Exception {
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
        Ok(exceptions)
    }

    async fn beat_part(&self, beats: &[PlainBeat], ttl_ms: u64) -> Result<Vec<Exception>> {
        let width = beats.first().map_or(0, |beat| digits(beat.epoch));
        if beats.iter().all(|beat| digits(beat.epoch) == width) {
            return self.beat_batch_of(beats.iter(), width, ttl_ms).await;
        }
        // The script takes epochs of one length. All are, as long as they come from the clock; a
        // caller that adopts others pays with a call for each length.
        let mut exceptions = Vec::new();
        for width in 1..=MOST_DIGITS {
            let indices: Vec<usize> = (0..beats.len())
                .filter(|&i| digits(beats[i].epoch) == width)
                .collect();
            if !indices.is_empty() {
                let of_width = indices.iter().map(|&i| &beats[i]);
                for exception in self.beat_batch_of(of_width, width, ttl_ms).await? {
                    exceptions.push(Exception {
                        index: indices[exception.index],
                        ..exception
                    });
                }
            }
        }
        exceptions.sort_unstable_by_key(|exception| exception.index);
        Ok(exceptions)
    }

    async fn beat_batch_of<'a>(
        &self,
        beats: impl Iterator<Item = &'a PlainBeat> + Clone,
        width: usize,
        ttl_ms: u64,
    ) -> Result<Vec<Exception>> {
        let call = self.beat_call(beats, width, ttl_ms);
        read_exceptions(
            self.call(&scripts::HEARTBEAT_BATCH, &call, Repeat::Harmless)
                .await?,
        )
    }

    /// One call of the script, for beats that are sorted by room and have epochs of one length.
    pub(super) fn beat_call<'a>(
        &self,
        beats: impl Iterator<Item = &'a PlainBeat> + Clone,
        width: usize,
        ttl_ms: u64,
    ) -> Cmd {
        let mut rooms: Vec<(&Arc<str>, usize)> = Vec::new();
        let (mut count, mut separate) = (0, 0);
        let mut epochs = String::new();
        let mut digits_of = itoa::Buffer::new();
        for beat in beats.clone() {
            match rooms.last_mut() {
                Some((room, n)) if Arc::ptr_eq(room, &beat.room) || **room == beat.room => *n += 1,
                _ => rooms.push((&beat.room, 1)),
            }
            count += 1;
            separate += usize::from(beat.separate);
            epochs.push_str(digits_of.format(beat.epoch));
        }
        let counts = two_bytes_each(rooms.iter().map(|(_, n)| *n));
        let mut call = scripts::HEARTBEAT_BATCH.call(rooms.len() + count + separate);
        for (room, _) in &rooms {
            call.arg(self.keys.room_last_seen(room));
        }
        let id_at = if self.keys.is_slotted() {
            for beat in beats.clone() {
                call.arg(self.keys.conn(&beat.room, &beat.conn));
            }
            Keys::ID_AFTER_LAST_SEEN + 1
        } else {
            let mut key = self.keys.conn("", "");
            let prefix = key.len();
            for beat in beats.clone() {
                key.truncate(prefix);
                key.push_str(&beat.conn);
                call.arg(key.as_bytes());
            }
            prefix as i64 + 1
        };
        for beat in beats.filter(|beat| beat.separate) {
            call.arg(self.keys.conn_state(&beat.room, &beat.conn));
        }
        call.arg(ttl_ms)
            .arg(rooms.len())
            .arg(id_at)
            .arg(epochs)
            .arg(width)
            .arg(counts);
        call
    }

    pub(super) async fn do_beat_full(
        &self,
        beats: &[FullBeat],
        ttl_ms: u64,
    ) -> Vec<Result<Beaten>> {
        let mut results = self.patch_large(beats, ttl_ms).await;
        let (writes, others): (Vec<Open>, Vec<Open>) = beats
            .iter()
            .zip(&mut results)
            .filter(|(_, result)| result.is_none())
            .partition(|(beat, _)| beat.writes_state());
        // A second run of a write could find its own work and say "changed: false". What is sent beside a
        // write can be repeated all the same.
        tokio::join!(
            self.beat_open(writes, ttl_ms, Repeat::Never),
            self.beat_open(others, ttl_ms, Repeat::Harmless),
        );
        let mut results: Vec<Result<Beaten>> = results
            .into_iter()
            .map(|result| result.unwrap_or(Ok(Beaten::Unknown)))
            .collect();
        if self.keys.is_slotted() {
            self.find_unknown_full(beats, &mut results).await;
        }
        results
    }

    /// Sends heartbeats that have no result yet, and fills the results in.
    async fn beat_open(&self, open: Vec<Open<'_>>, ttl_ms: u64, repeat: Repeat) {
        let (mut calls, mut sent) = (Vec::new(), Vec::new());
        for (beat, _) in &open {
            let next = beat.write.as_ref().and_then(|write| write.next.as_ref());
            let encoded = match next {
                Some(next) => self.states.encode(next).await,
                None => Encoded::default(),
            };
            calls.push(self.full_beat_call(beat, &encoded, ttl_ms));
            sent.push(encoded);
        }
        let answers = self.call_all(&scripts::HEARTBEAT, calls, repeat).await;
        for (((beat, result), sent), answer) in open.into_iter().zip(sent).zip(answers) {
            *result = Some(answer.and_then(|value| {
                self.read_beat(beat, sent, value)
                    .map_err(|error| errors::request(&error))
            }));
        }
    }

    fn full_beat_call(&self, beat: &FullBeat, encoded: &Encoded, ttl_ms: u64) -> Cmd {
        let mut call = self.full_beat_but_layout(beat, encoded, ttl_ms);
        call.arg(self.keys.layout_name());
        call
    }

    /// The call but for its last argument. `encoded`: how it stores the state that it brings.
    fn full_beat_but_layout(&self, beat: &FullBeat, encoded: &Encoded, ttl_ms: u64) -> Cmd {
        let (room, user) = (&*beat.place.room, &*beat.place.user);
        let keys = self.keys.room(room);
        let sharded = self.keys.has_sharded_events();
        let mut call = scripts::HEARTBEAT.call(5 + usize::from(sharded));
        call.arg(self.keys.conn(room, &beat.conn))
            .arg(&keys.last_seen)
            .arg(&keys.conn_meta)
            .arg(&keys.events)
            .arg(self.keys.conn_state(room, &beat.conn));
        if sharded {
            call.arg(&keys.due);
        }
        call.arg(&*beat.conn)
            .arg(user)
            .arg(room)
            .arg(quote(&beat.conn))
            .arg(quote(user))
            .arg(quote(room))
            .arg(ttl_ms)
            .arg(
                beat.epoch
                    .map(|epoch| epoch.to_string())
                    .unwrap_or_default(),
            );
        let Some(write) = &beat.write else {
            call.arg(0).arg(&["", "", "0", "", "", "", "0"]);
            return call;
        };
        let mark = write.base.mark.as_deref();
        call.arg(1)
            .arg(write.base.bytes())
            .arg(mark.map_or(&b""[..], |mark| &mark.compressed))
            .arg(i32::from(write.base.is_separate()));
        let Some(next) = &write.next else {
            call.arg(&["", "", "", "0"]);
            return call;
        };
        call.arg(next.as_str())
            .arg(encoded.bytes.as_deref().unwrap_or_default())
            .arg(encoded.compressed)
            .arg(i32::from(next.as_str().len() >= LARGE));
        call
    }

    fn read_beat(
        &self,
        beat: &FullBeat,
        written: Encoded,
        value: Value,
    ) -> Result<Beaten, redis::RedisError> {
        let mut reply = Reply::new(value)?;
        Ok(match reply.integer()? {
            scripts::heartbeat::REFRESHED => {
                let epoch = reply.integer()?.unsigned_abs();
                self.clock.heard(reply.integer()?.unsigned_abs());
                let revision = reply.integer()?.unsigned_abs();
                let adopted = reply.integer()? == 1;
                let write = beat.write.as_ref();
                Beaten::Refreshed {
                    epoch,
                    adopted,
                    mark: write
                        .filter(|write| write.next.is_some())
                        .and_then(|write| written.into_mark(write.base.is_separate(), revision)),
                }
            }
            scripts::heartbeat::UNKNOWN => Beaten::Unknown,
            scripts::heartbeat::STALE => Beaten::Stale {
                stored: reply.integer()?.unsigned_abs(),
            },
            scripts::heartbeat::ELSEWHERE => {
                Beaten::Elsewhere(Place::new(&reply.text()?, &reply.text()?))
            }
            scripts::heartbeat::AHEAD => Beaten::Ahead {
                max: reply.integer()?.unsigned_abs(),
            },
            scripts::heartbeat::UNISSUED => Beaten::Unissued {
                stored: reply.integer()?.unsigned_abs(),
            },
            scripts::heartbeat::CONFLICT => {
                let (bytes, compressed) = (reply.bytes()?, reply.bytes()?);
                let separate = reply.integer()? == 1;
                let revision = reply.integer()?.unsigned_abs();
                Beaten::Conflict {
                    stored: self.states.stored(bytes, &compressed, separate, revision),
                }
            }
            code => return Err(unknown_code("heartbeat", code)),
        })
    }
}

/// What was not written.
pub(super) fn read_exceptions(value: Value) -> Result<Vec<Exception>> {
    scripts::read(value, |reply| {
        let mut exceptions = Vec::with_capacity(reply.left() / 2);
        while reply.left() > 1 {
            let index = reply.integer()?.unsigned_abs() as usize;
            let stored = reply.bytes()?;
            if stored.is_empty() && off(Defence::NotFound) {
                continue;
            }
            exceptions.push(Exception {
                index,
                stored: Ok((!stored.is_empty()).then(|| number(&stored))),
            });
        }
        Ok(exceptions)
    })
}

/// Numbers as the script takes them: `limits.maxBatchSize` is 2000 at most.
fn two_bytes_each(numbers: impl Iterator<Item = usize>) -> Vec<u8> {
    numbers.flat_map(|n| (n as u16).to_be_bytes()).collect()
}

/// Decimal digits of the largest epoch.
const MOST_DIGITS: usize = 20;

pub(super) fn digits(epoch: Epoch) -> usize {
    epoch.checked_ilog10().map_or(1, |log| log as usize + 1)
}
