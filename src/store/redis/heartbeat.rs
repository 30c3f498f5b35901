//! Heartbeats: `heartbeat_batch.lua` for the many, `heartbeat.lua` for those with more to say.

use super::{
    RedisStore, errors,
    link::Repeat,
    presence::{number, unknown_code},
    scripts::{self, Reply},
};
use crate::{
    model::{error::Result, json::quote, presence::Place},
    store::{Beaten, Exception, FullBeat, PlainBeat},
};
use redis::Value;

impl RedisStore {
    pub(super) async fn do_beat_batch(
        &self,
        beats: &[PlainBeat],
        ttl_ms: u64,
    ) -> Result<Vec<Exception>> {
        let rooms: Vec<&[PlainBeat]> = beats.chunk_by(|a, b| a.room == b.room).collect();
        let mut call = scripts::HEARTBEAT_BATCH.call(rooms.len() + beats.len());
        for room in &rooms {
            call.arg(self.keys.room_last_seen(&room[0].room));
        }
        for beat in beats {
            call.arg(self.keys.conn(&beat.conn));
        }
        call.arg(ttl_ms).arg(rooms.len());
        for room in &rooms {
            call.arg(room.len());
        }
        for beat in beats {
            call.arg(&*beat.conn).arg(beat.epoch);
        }
        let value = self
            .call(&scripts::HEARTBEAT_BATCH, &call, Repeat::Harmless)
            .await?;
        let read = || {
            let mut reply = Reply::new(value)?;
            let mut exceptions = Vec::with_capacity(reply.left() / 2);
            while reply.left() > 1 {
                let index = reply.integer()? as usize;
                let stored = reply.bytes()?;
                exceptions.push(Exception {
                    index,
                    stored: (!stored.is_empty()).then(|| number(&stored)),
                });
            }
            Ok(exceptions)
        };
        read().map_err(|error| errors::request(&error))
    }

    pub(super) async fn do_beat_full(
        &self,
        beats: &[FullBeat],
        ttl_ms: u64,
    ) -> Vec<Result<Beaten>> {
        let calls = beats
            .iter()
            .map(|beat| {
                let (room, user) = (&*beat.place.room, &*beat.place.user);
                let keys = self.keys.room(room);
                let mut call = scripts::HEARTBEAT.call(4);
                call.arg(self.keys.conn(&beat.conn))
                    .arg(&keys.last_seen)
                    .arg(&keys.conn_meta)
                    .arg(&keys.events)
                    .arg(&*beat.conn)
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
                match &beat.write {
                    Some(write) => call
                        .arg(1)
                        .arg(&write.base)
                        .arg(write.next.as_ref().map_or("", |state| state.as_str())),
                    None => call.arg(0).arg("").arg(""),
                };
                call
            })
            .collect();
        // With a patch a second run could find its own work and say "changed: false".
        let repeat = if beats.iter().any(|beat| beat.write.is_some()) {
            Repeat::Never
        } else {
            Repeat::Harmless
        };
        self.call_all(&scripts::HEARTBEAT, calls, repeat)
            .await
            .into_iter()
            .map(|result| {
                result.and_then(|value| read_beat(value).map_err(|error| errors::request(&error)))
            })
            .collect()
    }
}

fn read_beat(value: Value) -> Result<Beaten, redis::RedisError> {
    let mut reply = Reply::new(value)?;
    Ok(match reply.integer()? {
        scripts::heartbeat::REFRESHED => Beaten::Refreshed {
            epoch: reply.integer()?.unsigned_abs(),
        },
        scripts::heartbeat::UNKNOWN => Beaten::Unknown,
        scripts::heartbeat::STALE => Beaten::Stale {
            stored: reply.integer()?.unsigned_abs(),
        },
        scripts::heartbeat::ELSEWHERE => {
            Beaten::Elsewhere(Place::new(&reply.text()?, &reply.text()?))
        }
        scripts::heartbeat::CONFLICT => Beaten::Conflict {
            stored: reply.bytes()?,
        },
        code => return Err(unknown_code("heartbeat", code)),
    })
}
