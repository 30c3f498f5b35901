//! Counters, gauges and latency histograms of one client (`client.metrics()`). Counters never
//! block. Histograms are updated once for each batch.

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// All counters.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        /// The values of the counters, with the names for JavaScript.
        #[derive(Clone, Debug, Serialize)]
        #[serde(rename_all = "camelCase")]
        pub struct CounterValues {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            fn values(&self) -> CounterValues {
                CounterValues { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Joins that were carried out.
    joins,
    /// Leaves that removed a connection.
    leaves,
    /// Heartbeats that were accepted.
    heartbeats,
    /// Heartbeats that failed, for any reason.
    heartbeats_failed,
    /// Batches of heartbeats that were sent.
    heartbeat_batches,
    /// Heartbeats and calls that were refused with `OVERLOADED`.
    overloaded,
    /// Presence events received.
    events,
    /// Messages on our channels that were not events of ours (spec 4.5).
    events_malformed,
    /// Stored states that could not be read and were returned as `null`.
    states_unreadable,
    /// Events that were dropped because JavaScript did not take them in time.
    events_dropped,
    /// Number of gaps in which events may have been missed.
    resyncs,
    /// Number of times that the connection to Redis was lost.
    disconnects,
    /// Passes of the reaper.
    sweeps,
    /// Passes of the reaper that failed.
    sweeps_failed,
    /// Rooms that the reaper inspected.
    rooms_swept,
    /// Connections that the reaper removed.
    expired,
    /// Number of times that this node lost its lease (`liveness: "node"`).
    node_leases_lost,
    /// Connections that the store had lost and that this node joined again.
    connections_restored,
    /// Index entries that did not match the connections and were corrected.
    repairs,
    /// Number of times that the reaper could not inspect a room because of keys of another type.
    rooms_corrupt,
    /// Notifications of expirations received.
    notifications,
    /// Metadata changes that were written.
    metadata_changes,
    /// Metadata commits that were sent. Each has the waiting changes of one channel.
    metadata_commits,
    /// Commits that found a record other than the one that they were computed on.
    metadata_retries,
    /// Locks that were granted.
    locks_acquired,
    /// Lock calls that did not get the lock, for any reason.
    locks_unavailable,
    locks_released,
    /// Locks that were lost: not renewed in time, revoked, or taken by others.
    locks_lost,
    /// Attempts to renew a lease that failed. Each is retried.
    lock_renewals_failed,
    /// Lock events received.
    lock_events,
}

/// One client's metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    pub counters: Counters,
    pub heartbeat_latency: Latency,
    pub call_latency: Latency,
    pub batch_size: Latency,
    /// The longest time from the end of a TTL to the removal, for each pass.
    pub sweep_lag: Latency,
    pub sweep_duration: Latency,
    /// Number of changes in a metadata commit.
    pub group_size: Latency,
    /// Time from the call for a lock to its grant.
    pub lock_wait: Latency,
}

impl Metrics {
    pub fn values(&self, gauges: Gauges) -> MetricsValues {
        MetricsValues {
            counters: self.counters.values(),
            gauges,
            histograms: Histograms {
                heartbeat_latency_ms: self.heartbeat_latency.summary(1_000.0),
                call_latency_ms: self.call_latency.summary(1_000.0),
                heartbeat_batch_size: self.batch_size.summary(1.0),
                sweep_lag_ms: self.sweep_lag.summary(1_000.0),
                sweep_duration_ms: self.sweep_duration.summary(1_000.0),
                metadata_group_size: self.group_size.summary(1.0),
                lock_wait_ms: self.lock_wait.summary(1_000.0),
            },
        }
    }
}

pub fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// Values that go up and down.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gauges {
    /// Heartbeats that wait to be sent.
    pub heartbeat_queue: u64,
    /// Connections in the directory of this node.
    pub known_connections: u64,
    /// Metadata changes that wait to be sent or are in flight.
    pub metadata_queue: u64,
    /// Calls that are not settled, not counting heartbeats.
    pub pending_calls: u64,
    /// Bytes of the requests of these calls.
    pub request_bytes: u64,
    /// Bytes of answers that are being read or wait for JavaScript, as limited by
    /// `limits.maxInFlightBytes`.
    pub answer_bytes: u64,
    pub locks_held: u64,
    /// Lock calls that are waiting.
    pub locks_waiting: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricsValues {
    #[serde(flatten)]
    pub counters: CounterValues,
    #[serde(flatten)]
    pub gauges: Gauges,
    #[serde(flatten)]
    pub histograms: Histograms,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Histograms {
    pub heartbeat_latency_ms: Summary,
    pub call_latency_ms: Summary,
    pub heartbeat_batch_size: Summary,
    pub sweep_lag_ms: Summary,
    pub sweep_duration_ms: Summary,
    pub metadata_group_size: Summary,
    pub lock_wait_ms: Summary,
}

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

/// Maximum recorded value: one hour in microseconds. Keeps histograms small.
const MAX_VALUE: u64 = 3_600_000_000;

fn record(histogram: &mut Histogram<u64>, value: u64) {
    // The histogram resizes itself. Recording a value of this size cannot fail.
    let _ = histogram.record(value.min(MAX_VALUE));
}

/// A histogram with two significant digits.
#[derive(Debug)]
pub struct Latency(Mutex<Histogram<u64>>);

impl Default for Latency {
    fn default() -> Self {
        Latency(Mutex::new(
            Histogram::new(2).expect("two digits are allowed"),
        ))
    }
}

impl Latency {
    pub fn record(&self, time: Duration) {
        self.record_value(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub fn record_value(&self, value: u64) {
        record(&mut self.0.lock(), value);
    }

    pub fn record_many(&self, time: Duration, count: usize) {
        let value = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let _ = self.0.lock().record_n(value.min(MAX_VALUE), count as u64);
    }

    fn summary(&self, unit: f64) -> Summary {
        let histogram = self.0.lock();
        // The lower bound of a bucket. Otherwise a size could appear to have exceeded its limit.
        let display = |value| histogram.lowest_equivalent(value) as f64 / unit;
        let at = |quantile| display(histogram.value_at_quantile(quantile));
        Summary {
            count: histogram.len(),
            mean: histogram.mean() / unit,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            max: display(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_and_small_values_are_told_apart() {
        let latency = Latency::default();
        for millis in 1..=1_000 {
            latency.record(Duration::from_millis(millis));
        }
        latency.record(Duration::from_secs(1 << 40));
        let summary = latency.summary(1_000.0);
        assert_eq!(summary.count, 1_001);
        assert!((490.0..=510.0).contains(&summary.p50), "{summary:?}");
        assert!(summary.max >= 3_500_000.0, "{summary:?}");
    }
}
