//! Channel metadata: `metadata_commit.lua`, and a plain read.

pub mod json;

use crate::{
    keys::Keys,
    model::{
        error::{Code, Error, Result},
        metadata::{Channel, MetadataStorage, change::LockState, record::Stored},
    },
    store::{
        metadata::{Commit, Committed, MetadataStore, Time, Write},
        redis::{
            presence::fields::{fields, unknown_code},
            scripts::{self, Reply, Script, ScriptClient, metadata_commit as codes},
            transport::link::Repeat,
        },
    },
};
use futures_util::future::BoxFuture;
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;

/// The metadata of channels, on a server or a cluster.
pub(in crate::store::redis) struct Metadata {
    pub keys: Keys,
    pub scripts: Arc<ScriptClient>,
    pub storage: MetadataStorage,
}

impl Metadata {
    async fn do_read_metadata(&self, channel: &Channel) -> Result<(Stored, u64)> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline
            .cmd("HMGET")
            .arg(self.keys.channel_meta(channel))
            .arg(&["items", "majorRevision"])
            .cmd("TIME");
        let mut answers = self
            .scripts
            .commands
            .pipeline(&pipeline, Repeat::Harmless)
            .await?
            .into_iter();
        let [items, major] = fields::<2>(answers.next().unwrap_or(Value::Nil))?;
        let stored = Stored {
            items: items.unwrap_or_default(),
            major: major.unwrap_or_default(),
            id: Vec::new(),
        };
        let time = answers.next().unwrap_or(Value::Nil);
        let (seconds, micros) = scripts::read(time, |time| {
            Ok((
                time.integer()?.unsigned_abs(),
                time.integer()?.unsigned_abs(),
            ))
        })?;
        Ok((stored, seconds * 1000 + micros / 1000))
    }

    async fn do_commit_metadata(&self, commit: Commit<'_>) -> Result<Committed> {
        let script = &scripts::METADATA_COMMIT;
        let mut call = self.commit_call(script, &commit);
        call.arg(&commit.base.items).arg(&commit.base.major);
        add_sums(&mut call, commit.write);
        add_checks(&mut call, &commit);
        if let Some(write) = commit.write {
            for part in write.items.parts() {
                call.arg(part);
            }
        }
        self.send_commit(script, &call, commit.write.is_some())
            .await
    }

    /// A call of a commit script with its keys.
    pub(in crate::store::redis) fn commit_call(&self, script: &Script, commit: &Commit<'_>) -> Cmd {
        let mut call = script.call(2 + 2 * commit.locks.len());
        call.arg(self.keys.channel_meta(commit.channel))
            .arg(self.keys.channel_events(commit.channel));
        for lock in commit.locks {
            call.arg(self.keys.lock(&lock.name))
                .arg(self.keys.lock_token(&lock.name));
        }
        call
    }

    /// Only a check may be repeated. Repeating a write that was already done would apply the change
    /// twice.
    pub(in crate::store::redis) async fn send_commit(
        &self,
        script: &Script,
        call: &Cmd,
        writes: bool,
    ) -> Result<Committed> {
        let repeat = if writes {
            Repeat::Never
        } else {
            Repeat::Harmless
        };
        scripts::read(self.scripts.call(script, call, repeat).await?, read)
    }
}

/// Adds what both commit scripts take about the record after the changes: its revision, the numbers
/// of items and events, and its TTL.
pub(in crate::store::redis) fn add_sums(call: &mut Cmd, write: Option<&Write>) {
    match write {
        None => call.arg(b"").arg(b"").arg(0).arg(b""),
        Some(write) => {
            call.arg(write.major)
                .arg(write.total)
                .arg(write.events.len());
            match write.ttl_ms {
                None => call.arg(b""),
                Some(ttl_ms) => call.arg(ttl_ms),
            }
        }
    };
}

/// Adds the locks that must be held, and the events, in the form that both commit scripts take.
pub(in crate::store::redis) fn add_checks(call: &mut Cmd, commit: &Commit<'_>) {
    for lock in commit.locks {
        call.arg(lock.actor.as_deref().unwrap_or_default());
        match lock.token {
            None => call.arg(b""),
            Some(token) => call.arg(token),
        };
    }
    for event in commit.write.iter().flat_map(|write| &write.events) {
        call.arg(&event.head).arg(&event.tail);
    }
}

fn read(reply: &mut Reply) -> Result<Committed, redis::RedisError> {
    Ok(match reply.integer()? {
        codes::COMMITTED => Committed::Done(Time {
            ms: reply.integer()?.unsigned_abs(),
            iso: reply.text()?,
            id: id(reply)?,
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
            let (items, major) = (reply.bytes()?, reply.bytes()?);
            let now_ms = reply.integer()?.unsigned_abs();
            let id = id(reply)?;
            Committed::Changed(Stored { items, major, id }, now_ms)
        }
        code => return Err(unknown_code("metadata_commit", code)),
    })
}

/// The id of a document, which is the last part of the reply. Hashes have none.
fn id(reply: &mut Reply) -> Result<Vec<u8>, redis::RedisError> {
    match reply.left() {
        0 => Ok(Vec::new()),
        _ => reply.bytes(),
    }
}

/// A key of another type only affects this channel, so the message names it.
fn of_channel(channel: &Channel) -> impl Fn(Error) -> Error {
    move |mut error| {
        if error.code == Code::CorruptData {
            error.message = format!(
                "the key of the metadata of channel {} holds another type of value; something \
                 else writes under the same key prefix",
                channel.display()
            );
        }
        error
    }
}

impl MetadataStore for Metadata {
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>> {
        Box::pin(async move {
            let read = match self.storage {
                MetadataStorage::Hash => self.do_read_metadata(channel).await,
                MetadataStorage::Json => self.read_document(channel).await,
            };
            read.map_err(of_channel(channel))
        })
    }

    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>> {
        Box::pin(async move {
            if !commit.locks.is_empty() && self.scripts.commands.is_cluster() {
                return Err(Error::new(
                    Code::Unsupported,
                    "lockName is not possible on a Redis Cluster: the lock and the metadata lie in \
                     different slots, so that nothing can check one while it writes the other; use \
                     majorRevision",
                ));
            }
            let done = match self.storage {
                MetadataStorage::Hash => self.do_commit_metadata(commit).await,
                MetadataStorage::Json => self.commit_document(commit).await,
            };
            done.map_err(of_channel(commit.channel))
        })
    }
}
