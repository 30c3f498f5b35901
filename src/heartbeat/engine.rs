//! Shared parts of the engine: the queue, the result sink, and the deadline of a batch in flight.

use super::{
    busy::Busy,
    queue::{Queue, QueueLimits},
    request::{Outcome, Request, ResultSink, Waiting},
};
use crate::{
    failpoints::{failpoint, panic_point},
    liveness::Liveness,
    metrics::{Metrics, count},
    model::error::{Code, Error},
    presence::{directory::Directory, own_joins::OwnJoins},
    store::heartbeat::HeartbeatStore,
};
use futures_util::FutureExt;
use parking_lot::Mutex;
use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub window: Duration,
    pub max_batch: usize,
    /// Queue length from which a second batch is sent before the first is answered.
    pub second_from: usize,
    pub queue: QueueLimits,
    pub max_state_bytes: usize,
    pub max_depth: usize,
    /// Maximum time that the store may take for a heartbeat once it is sent, and maximum time that
    /// a heartbeat may wait to be sent after its window.
    pub timeout: Duration,
}

impl Settings {
    /// Maximum time that a heartbeat waits to be sent before it fails.
    pub(super) fn queue_timeout(&self) -> Duration {
        self.window + self.timeout
    }

    /// When heartbeats that are in flight fail, given the arrival time of the oldest of them.
    pub(super) fn deadline(&self, oldest: Instant) -> Instant {
        oldest + self.queue_timeout() + self.timeout
    }
}

pub struct Engine {
    pub(super) store: Arc<dyn HeartbeatStore>,
    pub(super) directory: Arc<Directory>,
    pub(super) own_joins: Arc<OwnJoins>,
    pub(super) liveness: Liveness,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settle: Arc<dyn ResultSink>,
    pub(super) settings: Settings,
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Notify,
    pub(super) busy: Mutex<Busy>,
    pub(super) closing: AtomicBool,
}

impl Engine {
    pub fn new(
        store: Arc<dyn HeartbeatStore>,
        directory: Arc<Directory>,
        own_joins: Arc<OwnJoins>,
        liveness: Liveness,
        metrics: Arc<Metrics>,
        settle: Arc<dyn ResultSink>,
        settings: Settings,
    ) -> Arc<Engine> {
        Arc::new(Engine {
            store,
            directory,
            own_joins,
            liveness,
            metrics,
            settle,
            settings,
            queue: Mutex::new(Queue::new(settings.queue)),
            wake: Notify::new(),
            busy: Mutex::default(),
            closing: AtomicBool::new(false),
        })
    }

    /// Queues heartbeats. Each is settled exactly once, including those that are refused.
    pub fn submit(&self, requests: Vec<Request>) {
        if self.closing.load(Ordering::Acquire) {
            let closed = |request: Request| (request.ticket, Err(Box::new(Error::closed())));
            return self
                .settle
                .settle(requests.into_iter().map(closed).collect());
        }
        let refused = self.queue.lock().push(requests, Instant::now());
        self.wake.notify_one();
        if !refused.is_empty() {
            count(&self.metrics.counters.overloaded, refused.len() as u64);
            self.settle.settle(refused);
        }
    }

    /// The number of heartbeats that wait to be sent.
    pub fn queued(&self) -> usize {
        self.queue.lock().len() + self.busy.lock().parked()
    }

    /// Accepts no more heartbeats. [`Engine::run`] ends when all accepted ones are settled.
    pub fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    pub(super) fn count_batch(&self, heartbeats: usize) {
        tracing::trace!(heartbeats, "batch");
        count(&self.metrics.counters.heartbeat_batches, 1);
        self.metrics.batch_size.record_value(heartbeats as u64);
    }

    /// Runs a batch until it is done or its deadline passes. A panic becomes an error, and the
    /// engine continues.
    pub(super) async fn guarded<T>(
        &self,
        deadline: Instant,
        flight: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let flight = async {
            panic_point!(TaskPanic);
            if failpoint!(Deadlines) {
                return Ok(flight.await);
            }
            timeout_at(deadline, flight)
                .await
                .map_err(|_| self.timed_out())
        };
        if failpoint!(Panics) {
            return flight.await;
        }
        AssertUnwindSafe(flight)
            .catch_unwind()
            .await
            .unwrap_or_else(|panic| Err(Error::panicked(&*panic)))
    }

    fn timed_out(&self) -> Error {
        Error::new(
            Code::Timeout,
            format!(
                "the heartbeat was not answered within {} ms of its arrival (batchWindowMs, and twice \
                 limits.commandTimeoutMs)",
                (self.settings.queue_timeout() + self.settings.timeout).as_millis()
            ),
        )
        .with_unknown_outcome()
    }

    /// Settles heartbeats of a batch that was aborted. `lost` has their tickets and the bytes of
    /// their patches.
    pub(super) fn settle_lost(&self, lost: Vec<(u64, usize)>, error: &Error) {
        if lost.is_empty() {
            return;
        }
        count(&self.metrics.counters.heartbeats_failed, lost.len() as u64);
        let bytes = lost.iter().map(|(_, bytes)| bytes).sum();
        self.queue.lock().release(lost.len(), bytes);
        self.settle.settle(
            lost.into_iter()
                .map(|(ticket, _)| (ticket, Err(Box::new(error.clone()))))
                .collect(),
        );
    }

    pub(super) fn settle(&self, results: Vec<(Waiting, Outcome)>) {
        if results.is_empty() {
            return;
        }
        let failed = results.iter().filter(|(_, result)| result.is_err()).count() as u64;
        count(
            &self.metrics.counters.heartbeats,
            results.len() as u64 - failed,
        );
        count(&self.metrics.counters.heartbeats_failed, failed);
        let bytes = results
            .iter()
            .map(|(waiting, _)| waiting.request.patch_bytes())
            .sum();
        self.queue.lock().release(results.len(), bytes);
        let now = Instant::now();
        // Heartbeats that arrived together have waited equally long.
        for together in results.chunk_by(|(a, _), (b, _)| a.since == b.since) {
            let waited = now.duration_since(together[0].0.since);
            self.metrics
                .heartbeat_latency
                .record_many(waited, together.len());
        }
        self.settle.settle(
            results
                .into_iter()
                .map(|(waiting, result)| (waiting.request.ticket, result))
                .collect(),
        );
    }
}
