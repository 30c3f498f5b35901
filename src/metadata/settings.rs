//! The limits of the capability.

use crate::model::limits::Limits;
use std::time::Duration;

/// Settings of the capability.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Maximum number of changes in one commit.
    pub most_in_group: usize,
    /// Maximum number of changes that wait or are in flight, and maximum of their bytes.
    pub most_waiting: usize,
    pub most_waiting_bytes: usize,
    /// Maximum nesting depth of stored values.
    pub max_depth: usize,
    /// Maximum time that a change waits for its turn before it fails.
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
