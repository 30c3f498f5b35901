//! Channel metadata as RedisJSON documents (spec 9.4): `metadata_commit_json.lua`. Items that an
//! update has changed are written by path; other changes replace the document.

use crate::{
    model::{
        error::{Code, Error, Result},
        ids,
        json::quote,
        metadata::{
            Channel,
            change::ChangedItems,
            record::{Item, Stored},
        },
    },
    store::{
        metadata::{Commit, Committed, Write},
        redis::{
            metadata::{Metadata, add_checks, add_sums},
            scripts,
            transport::errors,
        },
    },
};
use redis::{ErrorKind, ServerErrorKind, Value, aio::MultiplexedConnection};
use std::sync::Arc;

/// No document has this majorRevision, so a commit based on it only reads.
const NEVER: &str = "?";

impl Metadata {
    pub(in crate::store::redis) async fn read_document(
        &self,
        channel: &Channel,
    ) -> Result<(Stored, u64)> {
        let look = Commit {
            channel,
            base: &Stored {
                items: Vec::new(),
                major: NEVER.into(),
                id: Vec::new(),
            },
            locks: &[],
            write: None,
        };
        match self.commit_document(look).await? {
            Committed::Changed(stored, now_ms) => Ok((stored, now_ms)),
            other => Err(Error::internal(format!("a read returned {other:?}"))),
        }
    }

    pub(in crate::store::redis) async fn commit_document(
        &self,
        commit: Commit<'_>,
    ) -> Result<Committed> {
        let script = &scripts::METADATA_COMMIT_JSON;
        let mut call = self.commit_call(script, &commit);
        call.arg(&commit.base.major);
        add_sums(&mut call, commit.write);
        let changed = commit.write.and_then(by_path);
        match (commit.write, &changed) {
            (None, _) => call.arg(0),
            (Some(_), Some(items)) => call.arg(items.len()),
            (Some(_), None) => call.arg(-1),
        };
        call.arg(&commit.base.id);
        match commit.write {
            None => call.arg(b""),
            Some(_) => call.arg(quote(&ids::random()?)),
        };
        add_checks(&mut call, &commit);
        match (commit.write, changed) {
            (None, _) => {}
            (Some(_), Some(items)) => {
                for item in items {
                    let (before, after) = item.parts();
                    call.arg(format!("$.items[{}]", item.key))
                        .arg(before)
                        .arg(after.unwrap_or_default());
                }
            }
            (Some(write), None) => {
                for part in write.items.parts() {
                    call.arg(part);
                }
            }
        }
        self.send_commit(script, &call, commit.write.is_some())
            .await
    }
}

/// Maximum number of items that are written by path. A change of more items replaces the document.
const MAX_PATHS: usize = 64;

/// The items to write by path, if that is possible. Paths have no escape sequences, so a key that
/// needs one cannot be part of a path.
fn by_path(write: &Write) -> Option<Vec<&Arc<Item>>> {
    let ChangedItems::Items(items) = &write.touched else {
        return None;
    };
    // The last of several changes of one item counts.
    let mut last: Vec<&Arc<Item>> = Vec::with_capacity(items.len());
    for item in items.iter().rev() {
        if !last.iter().any(|later| later.key == item.key) {
            last.push(item);
        }
        if last.len() > MAX_PATHS || item.key.contains('\\') {
            return None;
        }
    }
    Some(last)
}

/// Fails with `UNSUPPORTED` on a server without RedisJSON. `key` is a key that is never written.
pub(in crate::store::redis) async fn require_module(
    mut connection: MultiplexedConnection,
    key: &str,
) -> Result<()> {
    let mut ask = redis::cmd("JSON.TYPE");
    ask.arg(key);
    let answer = connection.send_packed_command(&ask).await;
    let Err(error) = answer.and_then(Value::extract_error) else {
        return Ok(());
    };
    // A redirection in a cluster: the command is known, and the key is on another server.
    if let ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask) = error.kind() {
        return Ok(());
    }
    if error.to_string().contains("unknown command") {
        return Err(Error::new(
            Code::Unsupported,
            "metadataStorage \"json\" needs a server with RedisJSON, and this one does not have that \
             module; load it, or use \"hash\"",
        ));
    }
    Err(errors::request(&error))
}
