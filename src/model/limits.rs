//! Size limits (spec 13). Every one is an option; values beyond are refused before anything is sent.

use crate::model::{
    error::{Error, Result},
    json,
};
use serde::Deserialize;

/// The largest `maxDepth`. Encoders that others use on states recurse: Socket.IO's overflows the stack
/// at some 4000 levels, and Redis's cjson stops at 1000.
const MAX_MAX_DEPTH: usize = 1_000;

/// Sizes are in bytes of UTF-8, times in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Longest id (`connId`, `userId`, `roomId`, channel and lock names). Default 4 KiB.
    pub max_id_bytes: usize,
    /// Longest state as JSON text. Default 1 MiB.
    pub max_state_bytes: usize,
    /// How deep arrays and objects may be nested in a state, the state itself included. Default 128.
    pub max_depth: usize,
    /// Longest key of a metadata item. Default 4 KiB.
    pub max_metadata_key_bytes: usize,
    /// Longest value of a metadata item. Default 1 MiB.
    pub max_metadata_value_bytes: usize,
    /// Longest record of a channel: all its items as JSON text. Default 8 MiB.
    pub max_metadata_record_bytes: usize,
    /// Most heartbeats in one batch, and most changes of one channel in one commit. Default 256.
    pub max_batch_size: usize,
    /// Most heartbeats that are not settled, and most changes of metadata that are not; beyond it they
    /// reject with `OVERLOADED`. Default 100 000.
    pub max_queue: usize,
    /// How long a command may take before it fails with `TIMEOUT`. Default 2000 ms.
    pub command_timeout_ms: u64,
    /// How long connecting may take. Default 5000 ms.
    pub connect_timeout_ms: u64,
    /// Most events waiting for JavaScript; beyond it they are dropped and `resync` is told.
    /// Default 65 536.
    pub max_event_queue: usize,
    /// Most bytes of events waiting for JavaScript. Default 64 MiB.
    pub max_event_queue_bytes: usize,
    /// Most calls that are not settled, heartbeats aside; beyond it they reject with `OVERLOADED`.
    /// Default 100 000.
    pub max_pending_calls: usize,
    /// Most bytes of calls that are not settled: a half for what they send, a half for answers that
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
    /// Refuses limits that nothing could work with.
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
        // One script call takes two arguments a connection; Redis's Lua cannot unpack more.
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

    /// Refuses JSON that is nested too deep (spec 3.11). A patch merges at the top level, so a state of
    /// permitted depth and a patch of permitted depth make a state of permitted depth.
    pub fn depth(&self, field: &str, text: &str) -> Result<()> {
        if json::is_deeper(text, self.max_depth) {
            return Err(Error::invalid(format!(
                "{field} is nested {} levels deep, more than the limit of {} (limits.maxDepth); \
                 flatten it, or store nested data as text",
                json::depth(text),
                self.max_depth
            )));
        }
        Ok(())
    }
}
