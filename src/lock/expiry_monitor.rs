//! Keeping house: a lock whose holder died ends with nobody there to say so. Every node that uses
//! locks looks now and then for such ends and has them told; one that listens to events of locks looks
//! as often as it takes for the events to be in time. Each store has a task of its own, so that one that
//! does not answer delays no other.

use super::backend::LockBackend;
use crate::{
    model::error::{Error, Result},
    store::{
        Store,
        lock::{Due, DueLook},
    },
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    task::AbortHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// How often a node looks that only uses locks.
const RARELY: Duration = Duration::from_secs(30);
/// The shortest pause: ends that come together are told together.
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
    watchers: watch::Sender<usize>,
    begun: AtomicBool,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl ExpiryMonitor {
    /// `interval`: within what time of its end a lock is to be found.
    pub(super) fn new(interval: Duration) -> ExpiryMonitor {
        ExpiryMonitor {
            interval,
            watchers: watch::Sender::new(0),
            begun: AtomicBool::new(false),
            tasks: Mutex::default(),
        }
    }

    pub(super) fn watch(&self, wanted: bool) {
        self.watchers.send_modify(|watchers| {
            *watchers = if wanted {
                *watchers + 1
            } else {
                watchers.saturating_sub(1)
            };
        });
    }

    /// Begins, if it has not yet; ends with `gone`, or when the monitor is dropped.
    pub(super) fn begin(&self, stores: &[Arc<dyn Store>], gone: &CancellationToken) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let tasks = stores.iter().map(|store| {
            let store = store.clone();
            let gone = gone.clone();
            let interval = self.interval;
            let mut watchers = self.watchers.subscribe();
            let work = async move {
                let mut clock = StoreClock::default();
                loop {
                    let next = look(&*store, Some(&mut clock)).await.unwrap_or_default();
                    let pause = if *watchers.borrow() == 0 {
                        RARELY
                    } else {
                        (interval / 2).min(next.unwrap_or(Duration::MAX))
                    };
                    tokio::select! {
                        () = sleep(pause.max(GATHER)) => {}
                        changed = watchers.changed() => if changed.is_err() { return },
                        () = gone.cancelled() => return,
                    }
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

/// Has the ends told that are due, on all stores at once. One that fails does not keep the others from
/// being processed.
pub(super) async fn look_at_all(backend: &dyn LockBackend) -> Result<()> {
    // What is due, not more: the tasks see to clocks that are set back.
    let looks = backend
        .stores()
        .iter()
        .map(|store| async { look(&**store, None).await.map(drop) });
    join_all(looks).await.into_iter().collect()
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
        for outcome in store.locks().lock_settle(&due.names).await {
            match outcome {
                // It has left the index, or does so with its new end.
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
