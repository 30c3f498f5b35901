//! Channel metadata: `metadata_commit.lua`, and a plain read.

use super::{
    RedisStore, errors,
    link::Repeat,
    presence::{fields, unknown_code},
    scripts::{self, Reply, metadata_commit as codes},
};
use crate::{
    model::{
        error::{Code, Error, Result},
        metadata::{Channel, MetadataStorage, change::LockState, record::Stored},
    },
    store::metadata::{Commit, Committed, MetadataStore, Time},
};
use futures_util::future::BoxFuture;
use redis::{Pipeline, Value};

impl RedisStore {
    async fn do_read_metadata(&self, channel: &Channel) -> Result<(Stored, u64)> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline
            .cmd("HMGET")
            .arg(self.keys.channel_meta(channel))
            .arg(&["items", "majorRevision"])
            .cmd("TIME");
        let mut answers = self
            .commands
            .pipeline(&pipeline, Repeat::Harmless)
            .await?
            .into_iter();
        let [items, major] = fields::<2>(answers.next().unwrap_or(Value::Nil))?;
        let stored = Stored {
            items: items.unwrap_or_default(),
            major: major.unwrap_or_default(),
        };
        let mut read = || {
            let mut time = Reply::new(answers.next().unwrap_or(Value::Nil))?;
            Ok((
                time.integer()?.unsigned_abs(),
                time.integer()?.unsigned_abs(),
            ))
        };
        let (seconds, micros) = read().map_err(|error| errors::request(&error))?;
        Ok((stored, seconds * 1000 + micros / 1000))
    }

    async fn do_commit_metadata(&self, commit: Commit<'_>) -> Result<Committed> {
        let Commit {
            channel,
            base,
            locks,
            write,
        } = commit;
        let mut call = scripts::METADATA_COMMIT.call(2 + 2 * locks.len());
        call.arg(self.keys.channel_meta(channel))
            .arg(self.keys.channel_events(channel));
        for lock in locks {
            call.arg(self.keys.lock(&lock.name))
                .arg(self.keys.lock_token(&lock.name));
        }
        call.arg(&base.items).arg(&base.major);
        match write {
            None => call.arg(b"").arg(b"").arg(0),
            Some(write) => call
                .arg(write.major)
                .arg(write.total)
                .arg(write.events.len()),
        };
        for lock in locks {
            call.arg(lock.actor.as_deref().unwrap_or_default());
            match lock.token {
                None => call.arg(b""),
                Some(token) => call.arg(token),
            };
        }
        if let Some(write) = write {
            for event in &write.events {
                call.arg(&event.head).arg(&event.tail);
            }
            for part in write.items.parts() {
                call.arg(part);
            }
        }
        // Only looking may be done twice; a change that was written already would be written again
        // on top of itself.
        let repeat = match write {
            None => Repeat::Harmless,
            Some(_) => Repeat::Never,
        };
        let value = self.call(&scripts::METADATA_COMMIT, &call, repeat).await?;
        read(value).map_err(|error| errors::request(&error))
    }
}

pub(super) fn read(value: Value) -> Result<Committed, redis::RedisError> {
    let mut reply = Reply::new(value)?;
    Ok(match reply.integer()? {
        codes::COMMITTED => Committed::Done(Time {
            ms: reply.integer()?.unsigned_abs(),
            iso: reply.text()?,
        }),
        codes::LOCKED => {
            let mut locked = Vec::with_capacity(reply.left() / 3);
            while reply.left() > 2 {
                let lock = reply.integer()?.unsigned_abs() as usize;
                let why = reply.integer()?;
                let newest = reply.bytes()?;
                let state = match why {
                    codes::NOT_HELD => LockState::NotHeld,
                    codes::HELD_BY_OTHER => LockState::HeldByOther,
                    codes::OUTRUN => LockState::Outrun {
                        newest: String::from_utf8_lossy(&newest).parse().unwrap_or(u64::MAX),
                    },
                    codes::UNREADABLE => LockState::Unreadable,
                    code => return Err(unknown_code("metadata_commit", code)),
                };
                locked.push((lock, state));
            }
            Committed::Locked(locked)
        }
        codes::CHANGED => {
            let stored = Stored {
                items: reply.bytes()?,
                major: reply.bytes()?,
            };
            Committed::Changed(stored, reply.integer()?.unsigned_abs())
        }
        code => return Err(unknown_code("metadata_commit", code)),
    })
}

/// A key of another type is not the fault of the whole layout: the message names the channel.
fn of_channel(channel: &Channel) -> impl Fn(Error) -> Error {
    move |mut error| {
        if error.code == Code::CorruptData {
            error.message = format!(
                "the key of the metadata of channel {} holds another type of value; something \
                 else writes under the same key prefix",
                channel.shown()
            );
        }
        error
    }
}

impl MetadataStore for RedisStore {
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>> {
        Box::pin(async move {
            let read = match self.metadata {
                MetadataStorage::Hash => self.do_read_metadata(channel).await,
                MetadataStorage::Json => self.read_document(channel).await,
            };
            read.map_err(of_channel(channel))
        })
    }

    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>> {
        Box::pin(async move {
            let done = match self.metadata {
                MetadataStorage::Hash => self.do_commit_metadata(commit).await,
                MetadataStorage::Json => self.commit_document(commit).await,
            };
            done.map_err(of_channel(commit.channel))
        })
    }
}
