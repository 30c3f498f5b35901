//! The heartbeat engine (spec section 5). Heartbeats that arrive while a batch is in flight form
//! the next batch. A timer is only used if `batchWindowMs` is set.
//!
//! `engine.rs` has the shared parts. `queue.rs` accepts heartbeats and bounds their number.
//! `batch.rs` sorts a batch into heartbeats that one script call refreshes and heartbeats that need
//! an update. `full.rs` sends updates (patches, unknown places, other epochs). `busy.rs` parks
//! heartbeats that wait for an earlier heartbeat of their connection.
//!
//! Each heartbeat has a deadline that counts from its arrival. A heartbeat that is not sent within
//! [`Settings::queue_timeout`] fails, in the queue and while it is parked. A heartbeat that is sent
//! has [`Settings::timeout`] more, for all its round trips together.
//!
//! Shared structures and their races:
//! - The JavaScript thread fills the queue and the engine's task empties it, under one lock.
//! - A connection with a patch in flight is *busy*. Later patches of it are parked until the first
//!   is settled, so that patches apply in the order of the calls.
//! - The directory is a hint. The script compares the epoch. If it answers that the epoch differs,
//!   the heartbeat is sent again as an update.

mod batch;
mod busy;
mod engine;
mod full;
mod merge;
#[cfg(test)]
mod pause_tests;
mod queue;
mod request;
#[cfg(test)]
mod tests;
mod work;

pub use engine::{Engine, Settings};
pub use queue::QueueLimits;
pub use request::{ConnId, Outcome, Request, ResultSink};

use crate::model::error::{Code, Error};
use batch::Batch;
use busy::earliest;
use futures_util::{StreamExt, stream::FuturesUnordered};
use request::{Group, Waiting};
use std::sync::{Arc, atomic::Ordering};
use tokio::time::{Instant, sleep_until};

/// Maximum number of batches in flight. Batches after the first are only sent when they are large,
/// so that the server has work while this node processes the answers to earlier batches.
const MAX_FLIGHTS: usize = 4;
/// Queue length from which a second batch is sent before the first is answered. Below it, waiting
/// for the first makes the batch larger, at a latency that callers do not notice.
pub const SECOND_FLIGHT_FROM: usize = 64;
/// Factor by which batches are larger when the store refreshes room by room. Such a batch is split
/// into one call for each room, and larger calls are cheaper.
pub const BY_ROOM: usize = 8;
/// Maximum number of batches of updates in flight.
const MAX_FULL_FLIGHTS: usize = 16;

impl Engine {
    /// Runs until [`Engine::stop`] has been called and everything is settled.
    pub async fn run(self: Arc<Self>) {
        let mut flights = FuturesUnordered::new();
        let mut full_flights = FuturesUnordered::new();
        loop {
            self.expire();
            let mut window_end = None;
            while full_flights.len() < MAX_FULL_FLIGHTS && self.may_start(flights.len()) {
                // The select below waits for this same instant. If the window ends between this
                // check and the wait, the wait therefore ends at once.
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

    fn may_start(&self, flights: usize) -> bool {
        let queued = self.queue.lock().len();
        match flights {
            0 => queued > 0,
            n => n < MAX_FLIGHTS && queued >= self.settings.second_from,
        }
    }

    /// The end of the batch window; `None` if the next batch does not wait for more heartbeats.
    fn window_end(&self) -> Option<Instant> {
        let queue = self.queue.lock();
        let waits = !self.settings.window.is_zero()
            && queue.len() < self.settings.max_batch
            && !self.closing.load(Ordering::Acquire);
        let oldest = queue.oldest().filter(|_| waits)?;
        Some(oldest + self.settings.window)
    }

    /// The earliest time at which a heartbeat may have waited too long to be sent.
    fn next_expiry(&self) -> Option<Instant> {
        let oldest = earliest(self.queue.lock().oldest(), self.busy.lock().oldest());
        Some(oldest? + self.settings.queue_timeout())
    }

    /// Fails heartbeats that have waited too long to be sent because the store does not answer.
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

    /// Refuses heartbeats with a patch that is not checked yet and is invalid.
    fn refuse_invalid(&self, waiting: Vec<Waiting>) -> Vec<Waiting> {
        let check = |waiting: &Waiting| match &waiting.request.patch {
            None => Ok(()),
            Some(patch) => patch.check("patchState", self.settings.max_depth),
        };
        if waiting.iter().all(|waiting| check(waiting).is_ok()) {
            return waiting;
        }
        let mut refused = Vec::new();
        let mut valid = Vec::with_capacity(waiting.len());
        for waiting in waiting {
            match check(&waiting) {
                Ok(()) => valid.push(waiting),
                Err(error) => refused.push((waiting, Err(Box::new(error)))),
            }
        }
        self.settle(refused);
        valid
    }

    fn next_batch(&self) -> Batch {
        let waiting = self.queue.lock().take(self.settings.max_batch);
        self.count_batch(waiting.len());
        let waiting = self.refuse_invalid(waiting);
        let mut batch = Batch::sort(waiting, &self.directory, self.liveness.node().is_some());
        batch.full = self.busy.lock().claim(std::mem::take(&mut batch.full));
        batch
    }
}
