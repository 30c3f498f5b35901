//! Options of a client, as they come from JavaScript (JSON, camelCase), with their defaults and
//! checks.

use crate::{
    expiry::Expiry,
    keys::{DEFAULT_SHARD_COUNT, Layout},
    liveness::LivenessMode,
    lock::QuorumOptions,
    model::{
        codec::Compression,
        error::{Error, Result},
        limits::Limits,
        metadata::{ColonTypes, MetadataStorage, change::check_ttl},
        state::Storage,
    },
    store::redis::{
        PubSub,
        transport::{config::SentinelOptions, tls::Tls},
    },
};
use serde::Deserialize;

/// Times are in milliseconds.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// `redis://`, `rediss://`, `redis+unix://`, `redis-sentinel://`, `redis-cluster://` or
    /// `memory://<name>`. Default: an in-process store of this client only.
    pub url: Option<String>,
    pub tls: Option<Tls>,
    pub sentinel: Option<SentinelOptions>,
    /// How long a connection lives without a heartbeat. Default 30 000.
    pub ttl_ms: u64,
    /// What keeps connections alive. Default: heartbeats.
    pub liveness: LivenessMode,
    /// With `liveness: "node"`: how long this node's connections live after it has died. Default
    /// 10 000.
    pub node_lease_ms: u64,
    /// With `liveness: "node"`: how long the JavaScript thread may be blocked. After that, the node
    /// counts as dead. Default 30 000.
    pub node_watchdog_ms: u64,
    /// With `liveness: "node"`: how long connections live after all nodes have died. Default
    /// 3 600 000.
    pub node_backstop_ms: u64,
    /// Maximum delay between the end of a connection's TTL and its `leave` event. Default 1000.
    pub sweep_interval_ms: u64,
    /// What starts a pass of the reaper: `sweep` (default), `notifications` or `both`.
    pub expiry: Expiry,
    /// Maximum time until the reaper finds connections whose notifications were missed. Indices are
    /// checked once in ten times this interval. Default 30 000.
    pub fallback_sweep_ms: u64,
    /// Number of shards of the due index. Must be the same on every node. Default 10.
    pub shard_count: u32,
    /// How data are spread over keys. Must be the same on every node. Default: `slotted` on a
    /// cluster, which requires it, and `v1` otherwise.
    pub layout: Option<Layout>,
    /// How events are published on a cluster. Must be the same on every node. Default `auto`.
    pub pubsub: PubSub,
    /// Prefix of all keys and channels. Default `prs:`.
    pub key_prefix: String,
    /// Prefix of all channels, if it differs from that of keys. Default: `key_prefix`.
    pub channel_prefix: Option<String>,
    /// How long a heartbeat waits for others to form a batch. Default 0: it does not wait.
    pub batch_window_ms: u64,
    /// Several servers for locks, and how a majority of them is acquired.
    pub locks: QuorumOptions,
    /// Where states are stored: `inline` (default) or `separate`.
    pub state_storage: Storage,
    /// Which states are compressed, and how. Default: none.
    pub state_compression: Option<Compression>,
    /// How channel metadata are stored: `hash` (default) or `json` (RedisJSON).
    pub metadata_storage: MetadataStorage,
    /// How long a metadata record lives after a change that does not set a TTL itself. Default: it
    /// does not expire.
    pub metadata_ttl_ms: Option<u64>,
    /// Channel types that contain a colon. Must be the same on every node. Default: none.
    pub channel_types_with_colon: Vec<String>,
    pub limits: Limits,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            url: None,
            tls: None,
            sentinel: None,
            ttl_ms: 30_000,
            liveness: LivenessMode::default(),
            node_lease_ms: 10_000,
            node_watchdog_ms: 30_000,
            node_backstop_ms: 3_600_000,
            sweep_interval_ms: 1_000,
            expiry: Expiry::default(),
            fallback_sweep_ms: 30_000,
            shard_count: DEFAULT_SHARD_COUNT,
            layout: None,
            pubsub: PubSub::default(),
            key_prefix: "prs:".into(),
            channel_prefix: None,
            batch_window_ms: 0,
            locks: QuorumOptions::default(),
            state_storage: Storage::default(),
            state_compression: None,
            metadata_storage: MetadataStorage::default(),
            metadata_ttl_ms: None,
            channel_types_with_colon: Vec::new(),
            limits: Limits::default(),
        }
    }
}

/// Ten years. Redis accepts it as a TTL without overflow.
const MAX_MS: u64 = 10 * 365 * 24 * 3600 * 1000;

impl Options {
    pub fn parse(json: &str) -> Result<Options> {
        let options: Options = serde_json::from_str(json)
            .map_err(|error| Error::invalid(format!("options: {error}")))?;
        options.check()?;
        Ok(options)
    }

    pub fn channel_prefix(&self) -> &str {
        self.channel_prefix.as_deref().unwrap_or(&self.key_prefix)
    }

    pub fn channel_types(&self) -> Result<ColonTypes> {
        ColonTypes::new(&self.channel_types_with_colon, &self.limits)
    }

    fn check(&self) -> Result<()> {
        for (field, value, least, most) in [
            ("ttlMs", self.ttl_ms, 1, MAX_MS),
            ("sweepIntervalMs", self.sweep_interval_ms, 2, MAX_MS),
            ("fallbackSweepMs", self.fallback_sweep_ms, 1, MAX_MS),
            ("nodeLeaseMs", self.node_lease_ms, 100, 600_000),
            ("nodeWatchdogMs", self.node_watchdog_ms, 100, MAX_MS),
            (
                "nodeBackstopMs",
                self.node_backstop_ms,
                self.node_lease_ms.saturating_mul(3),
                MAX_MS,
            ),
            ("shardCount", u64::from(self.shard_count), 1, 1024),
            ("batchWindowMs", self.batch_window_ms, 0, 60_000),
        ] {
            if value < least || value > most {
                return Err(Error::invalid(format!(
                    "{field} must be between {least} and {most}, got {value}"
                )));
            }
        }
        for (field, prefix) in [
            ("keyPrefix", self.key_prefix.as_str()),
            ("channelPrefix", self.channel_prefix()),
        ] {
            if prefix.is_empty() || prefix.len() > 1024 {
                return Err(Error::invalid(format!(
                    "{field} must be 1 to 1024 bytes long, got {}",
                    prefix.len()
                )));
            }
        }
        if let Some(ttl_ms) = self.metadata_ttl_ms {
            check_ttl("metadataTtlMs", ttl_ms)?;
        }
        self.channel_types()?;
        self.locks.check()?;
        self.limits.check()
    }
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_does_not_exist_or_fit_is_named() {
        for (json, named) in [
            (r#"{"ttl":1}"#, "ttl"),
            (r#"{"ttlMs":0}"#, "ttlMs"),
            (r#"{"ttlMs":-5}"#, "invalid value"),
            (r#"{"limits":{"maxQueue":0}}"#, "limits.maxQueue"),
            (r#"{"metadataTtlMs":0}"#, "metadataTtlMs"),
            (r#"{"metadataTtlMs":9007199254740992}"#, "metadataTtlMs"),
            (
                r#"{"channelTypesWithColon":["a:b","c"]}"#,
                "channelTypesWithColon[1]",
            ),
            (r#"{"keyPrefix":""}"#, "keyPrefix"),
            (r#"{"channelPrefix":""}"#, "channelPrefix"),
            (
                r#"{"locks":{"urls":["redis://a","redis://b"]}}"#,
                "locks.urls",
            ),
            (r#"{"locks":{"driftFactor":0.6}}"#, "locks.driftFactor"),
            (r#"{"locks":{"retryCount":5000}}"#, "locks.retryCount"),
        ] {
            let error = Options::parse(json).err().unwrap();
            assert!(error.message.contains(named), "{json}: {}", error.message);
        }
        assert_eq!(Options::parse("{}").ok().unwrap().ttl_ms, 30_000);
    }
}
