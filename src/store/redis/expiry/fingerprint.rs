//! What a server's users' indices may have lost since a shard was checked: evicted keys, and writes before a
//! failover.

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::collections::HashMap;

/// What users' indices may have suffered from: a server that evicts takes single keys, and joins fill them
/// again in part; another one has perhaps not seen the last writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerFingerprint {
    /// Keys that the server has evicted.
    pub evicted: u64,
    /// Connections that this node has made to it.
    pub connections: u64,
}

/// What this node knows of its checks.
#[derive(Default)]
pub(in crate::store::redis) struct Checks {
    first: OnceCell<ServerFingerprint>,
    /// For each shard, as of when its users were asked last.
    shards: Mutex<HashMap<usize, ServerFingerprint>>,
}

impl Checks {
    /// Whether anything has happened since the users of a shard were asked.
    pub(super) fn is_suspected(&self, shard: usize, now: ServerFingerprint) -> bool {
        // What was before this node is for others to find, or in its time.
        let first = self.first.get_or_init(|| ServerFingerprint {
            connections: 1,
            ..now
        });
        *self.shards.lock().get(&shard).unwrap_or(first) != now
    }

    pub(super) fn asked(&self, shard: usize, then: ServerFingerprint) {
        self.shards.lock().insert(shard, then);
    }
}
