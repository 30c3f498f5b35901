//! Which checks of a shard are thorough, on layout `slotted`.

use parking_lot::Mutex;
use std::{collections::HashMap, sync::atomic::AtomicU64};

/// How thorough the checks of this node are to be: after a failover, which may have lost what was written
/// last, and now and then.
#[derive(Default)]
pub struct CheckSchedule {
    pub(super) checks: AtomicU64,
    /// For each shard the cluster's epoch when it was checked last.
    pub(super) epochs: Mutex<HashMap<String, u64>>,
}
