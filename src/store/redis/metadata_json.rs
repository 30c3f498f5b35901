//! Channel metadata as RedisJSON documents (spec 9.4): `metadata_commit_json.lua`. Items that an update
//! has changed are written by their paths; everything else replaces the document.

use super::{RedisStore, errors, link::Repeat, metadata::read, scripts};
use crate::{
    model::{
        error::{Code, Error, Result},
        metadata::{
            Channel,
            change::Touched,
            record::{Item, Stored},
        },
    },
    store::metadata::{Commit, Committed, Write},
};
use redis::{Value, aio::MultiplexedConnection};
use std::sync::Arc;

/// No document has this as its majorRevision: a commit on it only looks.
const NEVER: &str = "?";

impl RedisStore {
    pub(super) async fn read_document(&self, channel: &Channel) -> Result<(Stored, u64)> {
        let mut call = scripts::METADATA_COMMIT_JSON.call(2);
        call.arg(self.keys.channel_meta(channel))
            .arg(self.keys.channel_events(channel))
            .arg(&[NEVER, "", "0", "0", "0"]);
        let script = &scripts::METADATA_COMMIT_JSON;
        let value = self.call(script, &call, Repeat::Harmless).await?;
        match read(value).map_err(|error| errors::request(&error))? {
            Committed::Changed(stored, now_ms) => Ok((stored, now_ms)),
            other => Err(Error::internal(format!("a look came to {other:?}"))),
        }
    }

    pub(super) async fn commit_document(&self, commit: Commit<'_>) -> Result<Committed> {
        let Commit {
            channel,
            base,
            locks,
            write,
        } = commit;
        let mut call = scripts::METADATA_COMMIT_JSON.call(2 + 2 * locks.len());
        call.arg(self.keys.channel_meta(channel))
            .arg(self.keys.channel_events(channel));
        for lock in locks {
            call.arg(self.keys.lock(&lock.name))
                .arg(self.keys.lock_token(&lock.name));
        }
        call.arg(&base.major);
        let changed = write.and_then(by_path);
        match write {
            None => call.arg(&["", "0", "0", "0"]),
            Some(write) => {
                call.arg(write.major)
                    .arg(write.total)
                    .arg(write.events.len());
                match &changed {
                    Some(items) => call.arg(items.len()),
                    None => call.arg(-1),
                }
            }
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
            match changed {
                Some(items) => {
                    for item in items {
                        let (before, after) = item.parts();
                        call.arg(format!("$.items[{}]", item.key))
                            .arg(before)
                            .arg(after.unwrap_or_default());
                    }
                }
                None => {
                    for part in write.items.parts() {
                        call.arg(part);
                    }
                }
            }
        }
        // As with hashes: only looking may be done twice.
        let repeat = match write {
            None => Repeat::Harmless,
            Some(_) => Repeat::Never,
        };
        let script = &scripts::METADATA_COMMIT_JSON;
        let value = self.call(script, &call, repeat).await?;
        read(value).map_err(|error| errors::request(&error))
    }
}

/// Most items that are written one by one; from there on the document is replaced.
const MOST_PATHS: usize = 64;

/// The items to write by path, if that is possible: paths have no escapes, so keys that need some
/// cannot be in one.
fn by_path(write: &Write) -> Option<Vec<&Arc<Item>>> {
    let Touched::Items(items) = &write.touched else {
        return None;
    };
    // Of several changes of one item the last counts.
    let mut last: Vec<&Arc<Item>> = Vec::with_capacity(items.len());
    for item in items.iter().rev() {
        if !last.iter().any(|later| later.key == item.key) {
            last.push(item);
        }
        if last.len() > MOST_PATHS || item.key.contains('\\') {
            return None;
        }
    }
    Some(last)
}

/// Fails with `UNSUPPORTED` on a server without RedisJSON. `key`: one that is never written.
pub(super) async fn require_module(mut connection: MultiplexedConnection, key: &str) -> Result<()> {
    let mut ask = redis::cmd("JSON.TYPE");
    ask.arg(key);
    let answer = connection.send_packed_command(&ask).await;
    let Err(error) = answer.and_then(Value::extract_error) else {
        return Ok(());
    };
    if error.to_string().contains("unknown command") {
        return Err(Error::new(
            Code::Unsupported,
            "metadataStorage \"json\" needs a server with RedisJSON, and this one does not have that \
             module; load it, or use \"hash\"",
        ));
    }
    Err(errors::request(&error))
}
