//! The heartbeat engine (spec section 5): heartbeats that arrive while a batch is on its way form
//! the next one. No timer unless `batchWindowMs` asks for one.
//!
//! `queue.rs` takes heartbeats in and bounds them, `batch.rs` sorts a batch into what one script
//! call can refresh and what needs more, `full.rs` does the latter (patches, unknown places, other
//! epochs).
//!
//! Shared structures and their races:
//! - the queue: filled by the JavaScript thread, emptied by the engine's task, under one lock;
//! - a connection with a patch on its way is *busy*: later patches of it wait (parked) until the
//!   first has settled, so that patches apply in the order of the calls;
//! - the directory is a hint: the script compares the epoch, and an answer "other epoch" sends the
//!   heartbeat the long way round.

mod batch;
mod full;
mod queue;

use crate::{
    metrics::{Metrics, count},
    model::{
        error::{Code, Error},
        presence::{Beat, Epoch},
        state::Patch,
    },
    presence::directory::Directory,
    store::Store,
    switches::{Defence, off, panic_point},
};
use batch::{Batch, Group};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use queue::Queue;
use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Batches that may be on their way at once. Those after the first leave only when they are large,
/// so that the server always has work while the node takes in the answers of the ones before.
const MOST_FLIGHTS: usize = 4;
/// Size from which a second batch leaves before the first is back. Below it, waiting for the
/// first makes the batch larger at no cost in latency that a caller would notice.
pub const SECOND_FLIGHT_FROM: usize = 64;
/// How many times as large batches are that are carried out room by room: what they are made of are the
/// calls for single rooms, which are to be as large as can be.
pub const BY_ROOM: usize = 8;
/// Batches of heartbeats with more to say that may be on their way at once.
const MOST_FULL_FLIGHTS: usize = 16;

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

/// A request with the time at which it came.
#[derive(Debug)]
struct Waiting {
    request: Request,
    since: Instant,
}

/// What came of a request. Errors are boxed: there are few, and results are moved around a lot.
pub type Outcome = std::result::Result<Beat, Box<Error>>;

/// Who is told what came of heartbeats. Called once for every request.
pub trait Settle: Send + Sync + 'static {
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
    pub max_queue: usize,
    pub max_state_bytes: usize,
    /// How long a heartbeat waits for its batch to leave before it fails.
    pub patience: Duration,
}

pub struct Engine {
    store: Arc<dyn Store>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    settle: Arc<dyn Settle>,
    settings: Settings,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Connections with a full heartbeat on its way, each with the requests that wait for it.
    busy: Mutex<HashMap<Arc<str>, Vec<Waiting>>>,
    closing: AtomicBool,
}

impl Engine {
    pub fn new(
        store: Arc<dyn Store>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        settle: Arc<dyn Settle>,
        settings: Settings,
    ) -> Arc<Engine> {
        Arc::new(Engine {
            store,
            directory,
            metrics,
            settle,
            settings,
            queue: Mutex::new(Queue::new(settings.max_queue)),
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

    pub fn queued(&self) -> usize {
        self.queue.lock().len()
    }

    /// Runs until [`Engine::stop`] has been called and everything is settled.
    pub async fn run(self: Arc<Self>) {
        let mut flights = FuturesUnordered::new();
        let mut full_flights = FuturesUnordered::new();
        loop {
            while full_flights.len() < MOST_FULL_FLIGHTS && self.may_start(flights.len()) {
                if self.has_window() && !self.window_is_over() {
                    break;
                }
                let batch = self.next_batch();
                if !batch.plain.beats.is_empty() {
                    flights.push(self.fly(batch.plain));
                }
                if !batch.full.is_empty() {
                    full_flights.push(self.fly_full(batch.full));
                }
            }
            self.give_up();
            let done = self.closing.load(Ordering::Acquire)
                && flights.is_empty()
                && full_flights.is_empty()
                && self.queue.lock().is_empty();
            if done {
                return;
            }
            tokio::select! {
                () = self.wake.notified() => {}
                () = self.oldest_has_waited(self.settings.window), if self.has_window() => {}
                () = self.oldest_has_waited(self.patience()) => {}
                Some(exceptions) = flights.next(), if !flights.is_empty() => {
                    let exceptions: Vec<Group> = exceptions;
                    if !exceptions.is_empty() {
                        let groups = self.make_busy(exceptions);
                        if !groups.is_empty() {
                            full_flights.push(self.fly_full(groups));
                        }
                    }
                }
                Some(()) = full_flights.next(), if !full_flights.is_empty() => {}
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
            n => n < MOST_FLIGHTS && queued >= self.settings.second_from,
        }
    }

    fn window_is_over(&self) -> bool {
        let queue = self.queue.lock();
        self.closing.load(Ordering::Acquire)
            || queue.len() >= self.settings.max_batch
            || queue
                .oldest()
                .is_some_and(|oldest| oldest.elapsed() >= self.settings.window)
    }

    fn has_window(&self) -> bool {
        !self.settings.window.is_zero()
    }

    fn patience(&self) -> Duration {
        self.settings.window + self.settings.patience
    }

    /// Resolves when the oldest waiting heartbeat has waited that long; never, if it has already
    /// (then something else has to happen first).
    async fn oldest_has_waited(&self, time: Duration) {
        let oldest = self.queue.lock().oldest();
        match oldest {
            Some(oldest) if oldest.elapsed() < time => {
                tokio::time::sleep_until((oldest + time).into()).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// Fails what has waited too long for the batches before it: the store does not answer.
    fn give_up(&self) {
        let patience = self.patience();
        let late = self.queue.lock().take_older(patience);
        if late.is_empty() {
            return;
        }
        let error = Error::new(
            Code::Unavailable,
            format!(
                "the heartbeat waited {} ms for those before it; Redis does not answer. \
                 Nothing was sent",
                patience.as_millis()
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
        count(&self.metrics.counters.heartbeat_batches, 1);
        self.metrics.batch_size.record_value(waiting.len() as u64);
        let mut batch = Batch::sort(waiting, &self.directory);
        batch.full = self.make_busy(std::mem::take(&mut batch.full));
        batch
    }

    /// Marks connections as busy; those that are already are parked behind the first.
    fn make_busy(&self, groups: Vec<Group>) -> Vec<Group> {
        let mut busy = self.busy.lock();
        groups
            .into_iter()
            .filter_map(|group| match busy.get_mut(&group.conn) {
                Some(parked) => {
                    parked.extend(group.waiting);
                    None
                }
                None => {
                    busy.insert(group.conn.clone(), Vec::new());
                    Some(group)
                }
            })
            .collect()
    }

    /// The connections are no longer busy: what was parked behind them goes to the queue's front.
    fn release(&self, conns: &HashSet<Arc<str>>) {
        let mut busy = self.busy.lock();
        let parked: Vec<Waiting> = conns
            .iter()
            .filter_map(|conn| busy.remove(conn))
            .flatten()
            .collect();
        drop(busy);
        if !parked.is_empty() {
            self.queue.lock().put_back(parked);
            self.wake.notify_one();
        }
    }

    /// A flight; that it panicked is an error, and the engine goes on.
    async fn guarded<T>(&self, flight: impl Future<Output = T>) -> Result<T, Error> {
        let flight = async {
            panic_point(Defence::Calm);
            flight.await
        };
        if off(Defence::Panics) {
            return Ok(flight.await);
        }
        AssertUnwindSafe(flight)
            .catch_unwind()
            .await
            .map_err(|panic| Error::panicked(&*panic))
    }

    /// Tells those that a panic took away from us.
    fn settle_lost(&self, tickets: Vec<u64>, error: &Error) {
        count(
            &self.metrics.counters.heartbeats_failed,
            tickets.len() as u64,
        );
        self.settle.settle(
            tickets
                .into_iter()
                .map(|ticket| (ticket, Err(Box::new(error.clone()))))
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
