//! Decides which checks of a shard are thorough, on the layout `slotted`.

use parking_lot::Mutex;
use std::{collections::HashMap, sync::atomic::AtomicU64};

/// State for the decision how thorough this node's checks are: thorough after a failover, which may
/// have lost the last writes, and periodically.
#[derive(Default)]
pub struct CheckSchedule {
    pub(super) checks: AtomicU64,
    /// For each shard, the cluster's epoch at the last check.
    pub(super) epochs: Mutex<HashMap<String, u64>>,
}
