//! Tests that the defaults in docs/reference/options.md are those of the code.
//! `__test__/docs/reference.test.ts` tests that the page lists every option.

use super::*;
use crate::model::codec::Codec;

/// The default of an option in docs/reference/options.md; `None` for "–".
fn documented(option: &str) -> Option<String> {
    let page = include_str!("../../docs/reference/options.md");
    let row = page
        .lines()
        .find(|line| line.starts_with(&format!("| `{option}` ")));
    let row = row.unwrap_or_else(|| panic!("the page has no row for {option}"));
    let cell = row.split('|').nth(2).map(str::trim).unwrap_or_default();
    (cell != "–").then(|| cell.trim_matches('`').to_owned())
}

/// The same for a number, which may have a unit.
fn documented_number(option: &str) -> f64 {
    let text = documented(option).unwrap_or_default();
    let (number, unit) = match text.strip_suffix(" MiB") {
        Some(number) => (number, 1024.0 * 1024.0),
        None => text
            .strip_suffix(" KiB")
            .map_or((text.as_str(), 1.0), |number| (number, 1024.0)),
    };
    let number: f64 = number.replace(' ', "").parse().expect(option);
    number * unit
}

#[test]
fn the_documented_defaults_are_those_of_the_code() {
    // Every field is named, so that a new option fails here until it is documented.
    let Options {
        url,
        tls,
        sentinel,
        ttl_ms,
        liveness,
        node_lease_ms,
        node_watchdog_ms,
        node_backstop_ms,
        sweep_interval_ms,
        expiry,
        fallback_sweep_ms,
        shard_count,
        layout,
        pubsub,
        key_prefix,
        channel_prefix,
        batch_window_ms,
        locks,
        state_storage,
        state_compression,
        metadata_storage,
        metadata_ttl_ms,
        channel_types_with_colon,
        limits,
    } = Options::default();
    let QuorumOptions {
        urls,
        drift_factor,
        retry_count,
        retry_delay_ms,
        retry_jitter_ms,
    } = locks;
    let Limits {
        max_id_bytes,
        max_state_bytes,
        max_depth,
        max_metadata_key_bytes,
        max_metadata_value_bytes,
        max_metadata_record_bytes,
        max_batch_size,
        max_queue,
        command_timeout_ms,
        connect_timeout_ms,
        max_event_queue,
        max_event_queue_bytes,
        max_pending_calls,
        max_in_flight_bytes,
    } = limits;
    let Compression {
        threshold_bytes,
        codec,
        dictionaries,
    } = Compression::default();
    for (option, value) in [
        ("ttlMs", ttl_ms as f64),
        ("nodeLeaseMs", node_lease_ms as f64),
        ("nodeWatchdogMs", node_watchdog_ms as f64),
        ("nodeBackstopMs", node_backstop_ms as f64),
        ("sweepIntervalMs", sweep_interval_ms as f64),
        ("fallbackSweepMs", fallback_sweep_ms as f64),
        ("shardCount", f64::from(shard_count)),
        ("batchWindowMs", batch_window_ms as f64),
        ("locks.driftFactor", drift_factor),
        ("locks.retryCount", f64::from(retry_count)),
        ("locks.retryDelayMs", retry_delay_ms as f64),
        ("locks.retryJitterMs", retry_jitter_ms as f64),
        ("stateCompression.thresholdBytes", threshold_bytes as f64),
        ("limits.maxIdBytes", max_id_bytes as f64),
        ("limits.maxStateBytes", max_state_bytes as f64),
        ("limits.maxDepth", max_depth as f64),
        ("limits.maxMetadataKeyBytes", max_metadata_key_bytes as f64),
        (
            "limits.maxMetadataValueBytes",
            max_metadata_value_bytes as f64,
        ),
        (
            "limits.maxMetadataRecordBytes",
            max_metadata_record_bytes as f64,
        ),
        ("limits.maxBatchSize", max_batch_size as f64),
        ("limits.maxQueue", max_queue as f64),
        ("limits.commandTimeoutMs", command_timeout_ms as f64),
        ("limits.connectTimeoutMs", connect_timeout_ms as f64),
        ("limits.maxEventQueue", max_event_queue as f64),
        ("limits.maxEventQueueBytes", max_event_queue_bytes as f64),
        ("limits.maxPendingCalls", max_pending_calls as f64),
        ("limits.maxInFlightBytes", max_in_flight_bytes as f64),
    ] {
        assert_eq!(documented_number(option), value, "{option}");
    }
    let named = |option: &str| documented(option).expect(option);
    assert_eq!(
        serde_json::from_str::<Expiry>(&named("expiry")).ok(),
        Some(expiry)
    );
    assert_eq!(
        serde_json::from_str::<LivenessMode>(&named("liveness")).ok(),
        Some(liveness)
    );
    assert_eq!(
        serde_json::from_str::<PubSub>(&named("pubsub")).ok(),
        Some(pubsub)
    );
    assert_eq!(
        serde_json::from_str::<Storage>(&named("stateStorage")).ok(),
        Some(state_storage)
    );
    assert_eq!(
        serde_json::from_str::<MetadataStorage>(&named("metadataStorage")).ok(),
        Some(metadata_storage)
    );
    assert_eq!(
        serde_json::from_str::<Codec>(&named("stateCompression.codec")).ok(),
        Some(codec)
    );
    assert_eq!(named("keyPrefix"), format!("{key_prefix:?}"));
    for (option, is_none) in [
        ("url", url.is_none()),
        ("tls", tls.is_none()),
        ("sentinel", sentinel.is_none()),
        ("layout", layout.is_none()),
        ("channelPrefix", channel_prefix.is_none()),
        ("locks.urls", urls.is_empty()),
        ("stateCompression", state_compression.is_none()),
        ("stateCompression.dictionaries", dictionaries.is_empty()),
        ("metadataTtlMs", metadata_ttl_ms.is_none()),
        ("channelTypesWithColon", channel_types_with_colon.is_empty()),
    ] {
        assert!(is_none && documented(option).is_none(), "{option}");
    }
}
