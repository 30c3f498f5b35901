//! The heartbeat engine (spec section 5): heartbeats that arrive while a batch is on its way form
//! the next one. No timer unless `batchWindowMs` asks for one.
//!
//! `queue.rs` takes heartbeats in and bounds them, `batch.rs` sorts a batch into what one script
//! call can refresh and what needs more, `full.rs` does the latter (patches, unknown places, other
//! epochs), `busy.rs` parks what has to wait for an earlier heartbeat of its connection.
//!
//! Every heartbeat has a deadline that counts from its arrival. One that is not sent within
//! [`Settings::queue_timeout`] fails, wherever it waits. One that is sent has [`Settings::timeout`] more,
//! however many round trips it takes.
//!
//! Shared structures and their races:
//! - the queue: filled by the JavaScript thread, emptied by the engine's task, under one lock;
//! - a connection with a patch on its way is *busy*: later patches of it wait (parked) until the
//!   first has settled, so that patches apply in the order of the calls;
//! - the directory is a hint: the script compares the epoch, and an answer "other epoch" sends the
//!   heartbeat the long way round.

mod batch;
mod busy;
mod full;
mod merge;
#[cfg(test)]
mod pause_tests;
mod queue;
#[cfg(test)]
mod tests;

use crate::{
    failpoints::{Failpoint, off, panic_point},
    metrics::{Metrics, count},
    model::{
        error::{Code, Error},
        presence::{Epoch, HeartbeatResult},
        state::Patch,
    },
    presence::{directory::Directory, own_joins::OwnJoins},
    store::heartbeat::HeartbeatStore,
};
use batch::{Batch, Group};
use busy::{Busy, earliest};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use queue::Queue;
pub use queue::QueueLimits;
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
    time::{Instant, sleep_until, timeout_at},
};

/// Batches that may be on their way at once. Those after the first leave only when they are large,
/// so that the server always has work while the node takes in the answers of the ones before.
const MAX_FLIGHTS: usize = 4;
/// Size from which a second batch leaves before the first is back. Below it, waiting for the
/// first makes the batch larger at no cost in latency that a caller would notice.
pub const SECOND_FLIGHT_FROM: usize = 64;
/// How many times as large batches are that are carried out room by room: what they are made of are the
/// calls for single rooms, which are to be as large as can be.
pub const BY_ROOM: usize = 8;
/// Batches of heartbeats with more to say that may be on their way at once.
const MAX_FULL_FLIGHTS: usize = 16;

/// A connection id within a text that many requests share: no allocation for each.
#[derive(Clone, Debug)]
pub struct ConnId {
    text: Arc<str>,
    start: u32,
    end: u32,
}

impl ConnId {
    /// The part of `text` between two bytes, which must be at characters' bounds.
    pub fn within(text: &Arc<str>, start: usize, end: usize) -> Self {
        let bound = |at: usize| u32::try_from(at.min(text.len())).unwrap_or(u32::MAX);
        ConnId {
            text: text.clone(),
            start: bound(start),
            end: bound(end),
        }
    }
}

impl From<&str> for ConnId {
    fn from(text: &str) -> Self {
        ConnId::within(&text.into(), 0, text.len())
    }
}

impl std::ops::Deref for ConnId {
    type Target = str;

    fn deref(&self) -> &str {
        self.text
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// One heartbeat as a caller asked for it.
#[derive(Debug)]
pub struct Request {
    pub conn: ConnId,
    pub epoch: Option<Epoch>,
    pub patch: Option<Box<Patch>>,
    /// Names the caller when it is settled.
    pub ticket: u64,
}

impl Request {
    /// How much of the memory for patches it takes, in bytes.
    fn patch_bytes(&self) -> usize {
        self.patch.as_ref().map_or(0, |patch| patch.size())
    }
}

/// A request with the time at which it came.
#[derive(Debug)]
struct Waiting {
    request: Request,
    since: Instant,
}

/// What came of a request. Errors are boxed: there are few, and results are moved around a lot.
pub type Outcome = std::result::Result<HeartbeatResult, Box<Error>>;

/// Who is told what came of heartbeats. Called once for every request.
pub trait ResultSink: Send + Sync + 'static {
    fn settle(&self, results: Vec<(u64, Outcome)>);
}

/// Settings of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub ttl_ms: u64,
    pub window: Duration,
    pub max_batch: usize,
    /// Size from which a second batch leaves before the first is back.
    pub second_from: usize,
    pub queue: QueueLimits,
    pub max_state_bytes: usize,
    /// How long the store may take for a heartbeat once it is sent, and how long a heartbeat may wait to
    /// be sent after its window.
    pub timeout: Duration,
}

impl Settings {
    /// How long a heartbeat waits to be sent before it fails.
    fn queue_timeout(&self) -> Duration {
        self.window + self.timeout
    }

    /// When heartbeats fail of which the oldest came at this time, although they were sent.
    fn deadline(&self, oldest: Instant) -> Instant {
        oldest + self.queue_timeout() + self.timeout
    }
}

pub struct Engine {
    store: Arc<dyn HeartbeatStore>,
    directory: Arc<Directory>,
    own_joins: Arc<OwnJoins>,
    metrics: Arc<Metrics>,
    settle: Arc<dyn ResultSink>,
    settings: Settings,
    queue: Mutex<Queue>,
    wake: Notify,
    busy: Mutex<Busy>,
    closing: AtomicBool,
}

impl Engine {
    pub fn new(
        store: Arc<dyn HeartbeatStore>,
        directory: Arc<Directory>,
        own_joins: Arc<OwnJoins>,
        metrics: Arc<Metrics>,
        settle: Arc<dyn ResultSink>,
        settings: Settings,
    ) -> Arc<Engine> {
        Arc::new(Engine {
            store,
            directory,
            own_joins,
            metrics,
            settle,
            settings,
            queue: Mutex::new(Queue::new(settings.queue)),
            wake: Notify::new(),
            busy: Mutex::default(),
            closing: AtomicBool::new(false),
        })
    }

    /// Takes heartbeats in; each is settled exactly once, also when it is refused.
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

    /// How many heartbeats wait to be sent.
    pub fn queued(&self) -> usize {
        self.queue.lock().len() + self.busy.lock().parked()
    }

    /// Runs until [`Engine::stop`] has been called and everything is settled.
    pub async fn run(self: Arc<Self>) {
        let mut flights = FuturesUnordered::new();
        let mut full_flights = FuturesUnordered::new();
        loop {
            self.expire();
            let mut window_end = None;
            while full_flights.len() < MAX_FULL_FLIGHTS && self.may_start(flights.len()) {
                // The end of the window is what is waited for below, so a window that ends between
                // this look and the wait ends the wait at once.
                window_end = self.window_end().filter(|end| *end > Instant::now());
                if window_end.is_some() {
                    break;
                }
                let batch = self.next_batch();
                if !batch.plain.heartbeats.is_empty() {
                    flights.push(self.send_batch(batch.plain));
                }
                if !batch.full.is_empty() {
                    full_flights.push(self.send_updates(batch.full));
                }
            }
            let done = self.closing.load(Ordering::Acquire)
                && flights.is_empty()
                && full_flights.is_empty()
                && self.queue.lock().is_empty();
            if done {
                return;
            }
            #[cfg(test)]
            tests::between_looks();
            let wake_at = earliest(window_end, self.next_expiry());
            tokio::select! {
                () = self.wake.notified() => {}
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
                Some(misses) = flights.next(), if !flights.is_empty() => {
                    let misses: Vec<Group> = misses;
                    if !misses.is_empty() {
                        let groups = self.busy.lock().claim(misses);
                        if !groups.is_empty() {
                            full_flights.push(self.send_updates(groups));
                        }
                    }
                }
                Some(next) = full_flights.next(), if !full_flights.is_empty() => {
                    let next: Vec<Group> = next;
                    for groups in batch::split(next, self.settings.max_batch) {
                        self.count_batch(groups.iter().map(|group| group.waiting.len()).sum());
                        full_flights.push(self.send_updates(groups));
                    }
                }
            }
        }
    }

    /// Takes nothing new in; [`Engine::run`] ends when everything that was taken is settled.
    pub fn stop(&self) {
        self.closing.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn may_start(&self, flights: usize) -> bool {
        let queued = self.queue.lock().len();
        match flights {
            0 => queued > 0,
            n => n < MAX_FLIGHTS && queued >= self.settings.second_from,
        }
    }

    /// Until when the next batch waits for more heartbeats; `None` if it does not.
    fn window_end(&self) -> Option<Instant> {
        let queue = self.queue.lock();
        let waits = !self.settings.window.is_zero()
            && queue.len() < self.settings.max_batch
            && !self.closing.load(Ordering::Acquire);
        let oldest = queue.oldest().filter(|_| waits)?;
        Some(oldest + self.settings.window)
    }

    /// When the next heartbeat may have waited too long to be sent.
    fn next_expiry(&self) -> Option<Instant> {
        let oldest = earliest(self.queue.lock().oldest(), self.busy.lock().oldest());
        Some(oldest? + self.settings.queue_timeout())
    }

    /// Fails heartbeats that have waited too long to be sent: the store does not answer.
    fn expire(&self) {
        let queue_timeout = self.settings.queue_timeout();
        let Some(time) = Instant::now().checked_sub(queue_timeout) else {
            return;
        };
        let mut late = self.busy.lock().take_until(time);
        late.extend(self.queue.lock().take_until(time));
        if late.is_empty() {
            return;
        }
        let error = Error::new(
            Code::Unavailable,
            format!(
                "the heartbeat waited {} ms for those before it; Redis does not answer in time. \
                 Nothing was sent",
                queue_timeout.as_millis()
            ),
        );
        self.settle(
            late.into_iter()
                .map(|waiting| (waiting, Err(Box::new(error.clone()))))
                .collect(),
        );
    }

    fn next_batch(&self) -> Batch {
        let waiting = self.queue.lock().take(self.settings.max_batch);
        self.count_batch(waiting.len());
        let mut batch = Batch::sort(waiting, &self.directory);
        batch.full = self.busy.lock().claim(std::mem::take(&mut batch.full));
        batch
    }

    fn count_batch(&self, heartbeats: usize) {
        count(&self.metrics.counters.heartbeat_batches, 1);
        self.metrics.batch_size.record_value(heartbeats as u64);
    }

    /// A flight, until it is done or its deadline has passed. That it panicked is an error, and the
    /// engine goes on.
    async fn guarded<T>(
        &self,
        deadline: Instant,
        flight: impl Future<Output = T>,
    ) -> Result<T, Error> {
        let flight = async {
            panic_point(Failpoint::Calm);
            if off(Failpoint::Deadlines) {
                return Ok(flight.await);
            }
            timeout_at(deadline, flight)
                .await
                .map_err(|_| self.timed_out())
        };
        if off(Failpoint::Panics) {
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

    /// Settles heartbeats of a flight that was cut off: their tickets, and the bytes of their patches.
    fn settle_lost(&self, lost: Vec<(u64, usize)>, error: &Error) {
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

    fn settle(&self, results: Vec<(Waiting, Outcome)>) {
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
        // Those that came together have waited equally long.
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
