//! Detects events that may have damaged the users' indices on a server since a shard was checked:
//! evicted keys, and writes lost in a failover.

use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Values that change when users' indices may have been damaged. A server that evicts removes
/// single keys, which later joins fill in part. A server after a failover may lack the last writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServerFingerprint {
    /// Keys that the server has evicted.
    pub evicted: u64,
    /// Number of connections that this node has made to the server.
    pub connections: u64,
}

/// What this node knows of its own checks.
#[derive(Default)]
pub(in crate::store::redis) struct Checks {
    first: OnceCell<ServerFingerprint>,
    /// For each shard, the fingerprint when its users were last checked.
    shards: Mutex<HashMap<usize, ServerFingerprint>>,
}

impl Checks {
    /// Whether the fingerprint has changed since the users of a shard were checked.
    pub(super) fn is_suspected(&self, shard: usize, now: ServerFingerprint) -> bool {
        // Earlier changes are found by other nodes, or by the periodic check of all users.
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
