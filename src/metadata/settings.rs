//! How much the capability holds, and for how long.

use crate::model::limits::Limits;
use std::time::Duration;

/// Settings of the capability.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most changes in one commit.
    pub most_in_group: usize,
    /// Most changes that wait or are on their way, and most bytes of them.
    pub most_waiting: usize,
    pub most_waiting_bytes: usize,
    /// How deep values that others wrote may be nested.
    pub max_depth: usize,
    /// How long a change waits for its turn before it fails.
    pub queue_timeout: Duration,
}

impl From<&Limits> for Settings {
    fn from(limits: &Limits) -> Self {
        Settings {
            most_in_group: limits.max_batch_size,
            most_waiting: limits.max_queue,
            most_waiting_bytes: limits.max_metadata_record_bytes.saturating_mul(8),
            max_depth: limits.max_depth,
            queue_timeout: Duration::from_millis(limits.command_timeout_ms),
        }
    }
}
