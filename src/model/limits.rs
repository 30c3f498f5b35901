//! Size limits (spec 13). Each is an option. Values beyond a limit are refused before anything is
//! sent.

use crate::model::{
    error::{Error, Result},
    json,
};
use serde::Deserialize;

/// Maximum of `maxDepth`. Encoders that read states are recursive: Socket.IO's overflows the stack
/// at about 4000 levels, and Redis's cjson stops at 1000.
const MAX_MAX_DEPTH: usize = 1_000;

/// Sizes are in bytes of UTF-8, times in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Maximum length of ids (`connId`, `userId`, `roomId`, channel and lock names). Default 4 KiB.
    pub max_id_bytes: usize,
    /// Maximum length of a state as JSON text. Default 1 MiB.
    pub max_state_bytes: usize,
    /// Maximum nesting depth of arrays and objects in a state, including the state itself. Default
    /// 128.
    pub max_depth: usize,
    /// Maximum length of the key of a metadata item. Default 4 KiB.
    pub max_metadata_key_bytes: usize,
    /// Maximum length of the value of a metadata item. Default 1 MiB.
    pub max_metadata_value_bytes: usize,
    /// Maximum length of a channel's record: all items as JSON text. Default 8 MiB.
    pub max_metadata_record_bytes: usize,
    /// Maximum number of heartbeats in one batch, and of changes of one channel in one commit.
    /// Default 256.
    pub max_batch_size: usize,
    /// Maximum number of heartbeats that are not settled, and of metadata changes that are not
    /// settled. Further ones reject with `OVERLOADED`. Default 100 000.
    pub max_queue: usize,
    /// Maximum time for a command before it fails with `TIMEOUT`. Default 2000 ms.
    pub command_timeout_ms: u64,
    /// Maximum time for connecting. Default 5000 ms.
    pub connect_timeout_ms: u64,
    /// Maximum number of events that wait for JavaScript. When the queue is full, queued events are
    /// dropped and `resync` is emitted. Default 65 536.
    pub max_event_queue: usize,
    /// Maximum bytes of events that wait for JavaScript. Default 64 MiB.
    pub max_event_queue_bytes: usize,
    /// Maximum number of calls that are not settled, not counting heartbeats. Further ones reject
    /// with `OVERLOADED`. Default 100 000.
    pub max_pending_calls: usize,
    /// Maximum bytes of calls that are not settled: half for requests, half for answers that
    /// JavaScript has not taken. Default 128 MiB.
    pub max_in_flight_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_id_bytes: 4 * 1024,
            max_state_bytes: 1024 * 1024,
            max_depth: 128,
            max_metadata_key_bytes: 4 * 1024,
            max_metadata_value_bytes: 1024 * 1024,
            max_metadata_record_bytes: 8 * 1024 * 1024,
            max_batch_size: 256,
            max_queue: 100_000,
            command_timeout_ms: 2_000,
            connect_timeout_ms: 5_000,
            max_event_queue: 65_536,
            max_event_queue_bytes: 64 * 1024 * 1024,
            max_pending_calls: 100_000,
            max_in_flight_bytes: 128 * 1024 * 1024,
        }
    }
}

impl Limits {
    /// Refuses limits that cannot work.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("limits.maxIdBytes", self.max_id_bytes as u64),
            ("limits.maxStateBytes", self.max_state_bytes as u64),
            ("limits.maxDepth", self.max_depth as u64),
            (
                "limits.maxMetadataKeyBytes",
                self.max_metadata_key_bytes as u64,
            ),
            (
                "limits.maxMetadataValueBytes",
                self.max_metadata_value_bytes as u64,
            ),
            (
                "limits.maxMetadataRecordBytes",
                self.max_metadata_record_bytes as u64,
            ),
            ("limits.maxBatchSize", self.max_batch_size as u64),
            ("limits.maxQueue", self.max_queue as u64),
            ("limits.commandTimeoutMs", self.command_timeout_ms),
            ("limits.connectTimeoutMs", self.connect_timeout_ms),
            ("limits.maxEventQueue", self.max_event_queue as u64),
            (
                "limits.maxEventQueueBytes",
                self.max_event_queue_bytes as u64,
            ),
            ("limits.maxPendingCalls", self.max_pending_calls as u64),
            ("limits.maxInFlightBytes", self.max_in_flight_bytes as u64),
        ];
        for (field, value) in positive {
            if value == 0 {
                return Err(Error::invalid(format!("{field} must be at least 1, got 0")));
            }
        }
        if self.max_depth > MAX_MAX_DEPTH {
            return Err(Error::invalid(format!(
                "limits.maxDepth must be at most {MAX_MAX_DEPTH}, got {}; encoders that read states \
                 cannot go deeper",
                self.max_depth
            )));
        }
        // One script call takes two arguments for each connection. Redis's Lua cannot unpack more.
        if self.max_batch_size > 2_000 {
            return Err(Error::invalid(format!(
                "limits.maxBatchSize must be at most 2000, got {}",
                self.max_batch_size
            )));
        }
        Ok(())
    }

    pub fn state(&self, field: &str, size: usize) -> Result<()> {
        if size > self.max_state_bytes {
            return Err(Error::invalid(format!(
                "{field} is {size} bytes of JSON, more than the limit of {} bytes \
                 (limits.maxStateBytes); keep big data elsewhere and its id in the state",
                self.max_state_bytes
            )));
        }
        Ok(())
    }

    /// Refuses JSON that is nested too deeply (spec 3.11). A patch is merged at the top level, so
    /// the result is nested no deeper than the deeper of state and patch.
    pub fn depth(&self, field: &str, text: &str) -> Result<()> {
        check_depth(field, text, self.max_depth)
    }
}

/// Refuses JSON that is nested deeper than `max`.
pub fn check_depth(field: &str, text: &str, max: usize) -> Result<()> {
    if json::is_deeper(text, max) {
        return Err(Error::invalid(format!(
            "{field} is nested {} levels deep, more than the limit of {max} (limits.maxDepth); \
             flatten it, or store nested data as text",
            json::depth(text),
        )));
    }
    Ok(())
}
