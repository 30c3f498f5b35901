//! Announces the ends of locks whose holder died. The holder of such a lock does not release it, so
//! a node must look for it, have its end announced and wake the next waiter. How often a node looks
//! depends on what it does:
//!
//! - It uses locks: every [`RARELY`].
//! - It subscribes to lock events: often enough for the events to be in time.
//! - Its reaper runs: once in each pass that this node makes for all nodes ([`Turn`]). If the node
//!   learns of no pass for nine tenths of `sweepIntervalMs`, it looks by its own clock. So a pass
//!   that fails or hangs delays no lock.
//!
//! Cost for an idle node whose reaper runs and which does not subscribe to lock events: one call of
//! `lock_due.lua` for each pass that it makes, so at most 4/3 calls in `sweepIntervalMs`. It makes
//! no call while another node makes the passes. With `expiry: "notifications"`, passes come too
//! rarely. Each node then looks by its own clock: 10/9 calls in `sweepIntervalMs`.
//!
//! Each store has its own task, so a store that does not answer does not delay the others.

use super::backend::LockBackend;
use crate::{
    expiry::Turn,
    model::error::{Error, Result},
    store::{
        Store,
        lock::{Due, DueLook},
    },
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Interval between two looks of a node that only uses locks.
const RARELY: Duration = Duration::from_secs(30);
/// Minimum time between two looks. Locks that end close together are announced together.
const GATHER: Duration = Duration::from_millis(5);

/// Maximum number of batches of ended locks in one look.
const MAX_ROUNDS: usize = 16;
/// Maximum number of batches in a look over all locks.
const MAX_ROUNDS_OF_ALL: usize = 4_096;
/// How far the server's clock may be behind its expected time before it counts as set back. Two
/// percent of the time since the last reading are added, because the server's clock may be slower
/// than this node's clock.
const SET_BACK: Duration = Duration::from_millis(500);

pub(super) struct ExpiryMonitor {
    interval: Duration,
    reasons: watch::Sender<Reasons>,
    begun: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// Why this node looks for the ends of locks.
#[derive(Clone, Copy, Default)]
struct Reasons {
    /// It has used locks or subscribed to their events.
    uses_locks: bool,
    /// Number of subscriptions to lock events.
    followers: usize,
    /// Which node makes the passes. `None` if the reaper of this node does not run.
    turn: Option<Turn>,
}

impl Reasons {
    /// The time of the next look. `last`: when the last look began, and the time until the next
    /// lease ends, as that look found it.
    fn next_look(
        &self,
        last: Option<(Instant, Option<Duration>)>,
        interval: Duration,
    ) -> Option<Instant> {
        let Some((last, next_end)) = last else {
            return Some(Instant::now());
        };
        let by_use = self.uses_locks.then_some(last + RARELY);
        let by_events = (self.followers > 0)
            .then(|| last + (interval / 2).min(next_end.unwrap_or(Duration::MAX)));
        let by_turn = self.turn.map(|turn| match turn {
            Turn::Own { since } if since > last => since,
            Turn::Other { until } if until > last => until,
            _ => last + interval * 9 / 10,
        });
        let next = [by_use, by_events, by_turn].into_iter().flatten().min();
        next.map(|next| next.max(last + GATHER))
    }
}

impl ExpiryMonitor {
    /// `interval`: maximum delay between the end of a lease and its announcement.
    pub(super) fn new(interval: Duration) -> ExpiryMonitor {
        ExpiryMonitor {
            interval,
            reasons: watch::Sender::default(),
            begun: AtomicBool::new(false),
            tasks: Mutex::default(),
        }
    }

    /// Records that this node uses locks.
    pub(super) fn use_locks(&self, stores: &[Arc<dyn Store>], gone: &CancellationToken) {
        let is_first = self
            .reasons
            .send_if_modified(|reasons| !std::mem::replace(&mut reasons.uses_locks, true));
        if is_first {
            self.begin(stores, gone);
        }
    }

    /// Counts a subscription to lock events that begins (`more`) or ends.
    pub(super) fn follow(&self, more: bool, stores: &[Arc<dyn Store>], gone: &CancellationToken) {
        self.reasons.send_modify(|reasons| {
            reasons.followers = if more {
                reasons.followers + 1
            } else {
                reasons.followers.saturating_sub(1)
            };
        });
        self.use_locks(stores, gone);
    }

    /// Records that the reaper of this node runs, and which node makes the passes.
    pub(super) fn reap(&self, turn: Turn, stores: &[Arc<dyn Store>], gone: &CancellationToken) {
        self.reasons
            .send_modify(|reasons| reasons.turn = Some(turn));
        self.begin(stores, gone);
    }

    /// Starts the tasks once. They end when `gone` is cancelled or the monitor is dropped.
    fn begin(&self, stores: &[Arc<dyn Store>], gone: &CancellationToken) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let tasks = stores.iter().map(|store| {
            let work = run(store.clone(), self.reasons.subscribe(), self.interval);
            let gone = gone.clone();
            let work = async move {
                tokio::select! {
                    () = gone.cancelled() => {}
                    () = work => {}
                }
            };
            tokio::spawn(work).abort_handle()
        });
        *self.tasks.lock() = tasks.collect();
    }

    pub(super) fn end(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

/// Looks at one store, as often as `reasons` require.
async fn run(store: Arc<dyn Store>, mut reasons: watch::Receiver<Reasons>, interval: Duration) {
    let mut clock = StoreClock::default();
    let mut last = None;
    loop {
        let next = reasons.borrow_and_update().next_look(last, interval);
        let is_time = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = is_time => {}
            // The time of the next look may have changed.
            changed = reasons.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        }
        let began = Instant::now();
        let next_end = look(&*store, Some(&mut clock))
            .await
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "pass over ended locks failed");
                None
            });
        last = Some((began, next_end));
    }
}

/// Has ended locks announced on all stores at the same time. A store that fails does not keep the
/// others from being processed.
pub(super) async fn look_at_all(backend: &dyn LockBackend) {
    // Only due locks: the tasks handle clocks that are set back.
    let looks = backend.stores().iter().map(|store| look(&**store, None));
    for error in join_all(looks).await.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "pass over ended locks failed");
    }
}

/// The last reading of a store's clock.
#[derive(Default)]
struct StoreClock {
    seen: Option<(u64, Instant)>,
}

impl StoreClock {
    /// Whether entries of the index may lie further in the future than they can. This is the case
    /// if the clock has not been read yet, or if it was set back, also by a failover to a server
    /// with another clock.
    fn may_be_set_back(&mut self, server_ms: u64) -> bool {
        let now = Instant::now();
        let before = self.seen.replace((server_ms, now));
        before.is_none_or(|(before_ms, at)| {
            let passed = now.duration_since(at);
            let tolerated = SET_BACK + passed / 50;
            server_ms + (tolerated.as_millis() as u64) < before_ms + passed.as_millis() as u64
        })
    }
}

/// Returns the time until the next end is due, as far as it is known.
async fn look(store: &dyn Store, clock: Option<&mut StoreClock>) -> Result<Option<Duration>> {
    // A store that is not reachable is asked again at the next look.
    if !store.locks().reachable() {
        return Ok(None);
    }
    let first = store.locks().lock_due(DueLook::default()).await?;
    let set_back = clock
        .zip(first.server_ms)
        .is_some_and(|(clock, server_ms)| clock.may_be_set_back(server_ms));
    if set_back {
        // Each look at a lock also corrects an end that is too far in the future.
        settle(store, None, true).await?;
        return Ok(store.locks().lock_due(DueLook::default()).await?.next);
    }
    settle(store, Some(first), false).await
}

async fn settle(store: &dyn Store, first: Option<Due>, all: bool) -> Result<Option<Duration>> {
    let mut look = DueLook { skip: 0, all };
    // On the layout `slotted`, the entry of a lock that is not held stays in the index until its
    // time. `seen` keeps such an entry from being processed again in every round.
    let mut seen = HashSet::new();
    let mut failed: Option<Error> = None;
    let mut next = first;
    let rounds = if all { MAX_ROUNDS_OF_ALL } else { MAX_ROUNDS };
    for _ in 0..rounds {
        let due = match next.take() {
            Some(due) => due,
            None => store.locks().lock_due(look).await?,
        };
        if due.names.is_empty() {
            return failed.map_or(Ok(due.next), Err);
        }
        let found = due.names.len();
        let mut names = due.names;
        if all {
            names.retain(|name| seen.insert(name.clone()));
        }
        look.skip += found - names.len();
        if names.is_empty() {
            continue;
        }
        for outcome in store.locks().lock_settle(&names).await {
            match outcome {
                // The lock has left the index, leaves it at its new end, or is filtered by `seen`.
                Ok(false) => {}
                Ok(true) => look.skip += usize::from(all),
                Err(error) => {
                    look.skip += 1;
                    failed.get_or_insert(error);
                }
            }
        }
    }
    // More locks end at once than one look processes. The rest waits for the next look.
    failed.map_or(Ok(Some(Duration::ZERO)), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn in_turn(turn: Turn) -> Reasons {
        Reasons {
            turn: Some(turn),
            ..Reasons::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn spec_6_7_a_pass_of_this_node_brings_a_look_and_without_word_of_one_the_clock_does() {
        let last = Instant::now();
        let next = |turn| {
            in_turn(turn)
                .next_look(Some((last, None)), INTERVAL)
                .unwrap()
                - last
        };
        tokio::time::advance(INTERVAL / 2).await;
        let since = Instant::now();
        assert_eq!(next(Turn::Own { since }), INTERVAL / 2);
        assert_eq!(next(Turn::Own { since: last }), INTERVAL * 9 / 10);
    }

    #[tokio::test(start_paused = true)]
    async fn spec_6_3_a_node_leaves_ends_to_the_one_that_makes_passes_and_no_longer_than_that() {
        let last = Instant::now();
        let until = last + INTERVAL * 3;
        let next = |last| in_turn(Turn::Other { until }).next_look(Some((last, None)), INTERVAL);
        assert_eq!(next(last), Some(until));
        assert_eq!(next(until), Some(until + INTERVAL * 9 / 10));
        // Lock events must be in time here too.
        let follows = Reasons {
            followers: 1,
            ..in_turn(Turn::Other { until })
        };
        let next = |due| follows.next_look(Some((last, due)), INTERVAL);
        assert_eq!(next(None), Some(last + INTERVAL / 2));
        assert_eq!(next(Some(INTERVAL / 4)), Some(last + INTERVAL / 4));
        assert_eq!(next(Some(Duration::ZERO)), Some(last + GATHER));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_only_uses_locks_looks_rarely() {
        let last = Instant::now();
        let uses = Reasons {
            uses_locks: true,
            ..Reasons::default()
        };
        assert_eq!(uses.next_look(None, INTERVAL), Some(last));
        assert_eq!(
            uses.next_look(Some((last, None)), INTERVAL),
            Some(last + RARELY)
        );
        assert_eq!(
            Reasons::default().next_look(Some((last, None)), INTERVAL),
            None
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_is_noticed_and_one_that_is_slow_or_ahead_is_none() {
        let mut clock = StoreClock::default();
        assert!(clock.may_be_set_back(1_000_000), "nothing is known yet");
        assert!(!clock.may_be_set_back(1_000_000));
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(!clock.may_be_set_back(1_029_700), "one percent slow");
        assert!(!clock.may_be_set_back(9_000_000), "set ahead");
        assert!(clock.may_be_set_back(1_029_700), "set back");
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(clock.may_be_set_back(1_029_700), "set back by what passed");
    }
}
