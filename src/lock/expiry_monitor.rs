//! Expiry of locks: a lock whose holder died ends with nobody there to say so. A node looks for such ends, has
//! them announced and wakes the next waiter; how often depends on what the node does:
//!
//! - It uses locks: every [`RARELY`].
//! - It follows events of locks: as often as it takes for the events to be in time.
//! - Its reaper runs: once in each pass that this node makes for all nodes ([`Turn`]), and by its own clock when
//!   no word of a pass comes for nine tenths of `sweepIntervalMs`. So a pass that fails or hangs delays no lock.
//!
//! What that costs an idle node, whose reaper runs and which follows no events: one call of `lock_due.lua` for each
//! pass that it makes, so at most 4/3 in `sweepIntervalMs`, and none while another node makes the passes. With
//! `expiry: "notifications"` passes come too rarely; each node then looks by its own clock, 10/9 calls in
//! `sweepIntervalMs`.
//!
//! Each store has a task of its own, so that one that does not answer delays no other.

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

/// How often a node looks that only uses locks.
const RARELY: Duration = Duration::from_secs(30);
/// The shortest pause: ends that come together are announced together.
const GATHER: Duration = Duration::from_millis(5);

/// Lots of ended locks that one look takes.
const MAX_ROUNDS: usize = 16;
/// The same where all locks are looked at.
const MAX_ROUNDS_OF_ALL: usize = 4_096;
/// How far the server's clock may be behind what it said before until it counts as set back; two percent
/// of the time since are added, for a clock that runs slower than ours.
const SET_BACK: Duration = Duration::from_millis(500);

pub(super) struct ExpiryMonitor {
    interval: Duration,
    reasons: watch::Sender<Reasons>,
    uses_locks: AtomicBool,
    begun: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

/// Why this node looks for the ends of locks.
#[derive(Clone, Copy, Default)]
struct Reasons {
    /// It has used locks or followed their events.
    uses_locks: bool,
    /// Subscriptions to events of locks.
    followers: usize,
    /// Its reaper runs.
    turn: Option<Turn>,
}

impl Reasons {
    /// When to look next. `last`: when the last look began, and in what time the next lease ends by what it
    /// found.
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
            uses_locks: AtomicBool::new(false),
            begun: AtomicBool::new(false),
            tasks: Mutex::default(),
        }
    }

    /// This node uses locks from now on.
    pub(super) fn use_locks(&self, stores: &[Arc<dyn Store>], gone: &CancellationToken) {
        if !self.uses_locks.swap(true, Ordering::Relaxed) {
            self.reasons
                .send_modify(|reasons| reasons.uses_locks = true);
            self.begin(stores, gone);
        }
    }

    /// There is one subscription more to events of locks, or one less.
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

    /// The reaper of this node runs, and this is whose turn it is.
    pub(super) fn reap(&self, turn: Turn, stores: &[Arc<dyn Store>], gone: &CancellationToken) {
        self.reasons
            .send_modify(|reasons| reasons.turn = Some(turn));
        self.begin(stores, gone);
    }

    /// Begins, if it has not yet; ends with `gone`, or when the monitor is dropped.
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

/// Looks at one store, as often as there is reason to.
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
            // Another time may be the right one now.
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

/// Has the ends announced that are due, on all stores at once. One that fails does not keep the others from
/// being processed.
pub(super) async fn look_at_all(backend: &dyn LockBackend) {
    // What is due, not more: the tasks see to clocks that are set back.
    let looks = backend.stores().iter().map(|store| look(&**store, None));
    for error in join_all(looks).await.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "pass over ended locks failed");
    }
}

/// The clock of a store as it was read last.
#[derive(Default)]
struct StoreClock {
    seen: Option<(u64, Instant)>,
}

impl StoreClock {
    /// Whether entries of the index may lie further in the future than they can: nothing is known of
    /// the clock yet, or it was set back (also by a failover to a server with another clock).
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

/// Gives when the next end is due, as far as is known.
async fn look(store: &dyn Store, clock: Option<&mut StoreClock>) -> Result<Option<Duration>> {
    // One that is away is asked again the next time.
    if !store.locks().reachable() {
        return Ok(None);
    }
    let first = store.locks().lock_due(DueLook::default()).await?;
    let set_back = clock
        .zip(first.server_ms)
        .is_some_and(|(clock, server_ms)| clock.may_be_set_back(server_ms));
    if set_back {
        // Each look at a lock also corrects an end that is too far away.
        settle(store, None, true).await?;
        return Ok(store.locks().lock_due(DueLook::default()).await?.next);
    }
    settle(store, Some(first), false).await
}

async fn settle(store: &dyn Store, first: Option<Due>, all: bool) -> Result<Option<Duration>> {
    let mut look = DueLook { skip: 0, all };
    // On slotted, the entry of a lock that is not held stays until its time: it must not come up for ever.
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
                // It has left the index, does so with its new end, or is seen again.
                Ok(false) => {}
                Ok(true) => look.skip += usize::from(all),
                Err(error) => {
                    look.skip += 1;
                    failed.get_or_insert(error);
                }
            }
        }
    }
    // So many end at once that the rest has to wait for its turn.
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
        // Events have to be in time here, too.
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
