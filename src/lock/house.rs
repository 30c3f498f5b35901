//! Keeping house: a lock whose holder died ends with nobody there to say so. Every node that uses
//! locks looks now and then for such ends and has them told; one that listens to events of locks looks
//! as often as it takes for the events to be in time.

use super::{Keeper, Locks};
use crate::{model::error::Result, store::Store};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle, time::sleep};

/// How often a node looks that only uses locks.
const RARELY: Duration = Duration::from_secs(30);
/// The shortest pause: ends that come together are told together.
const GATHER: Duration = Duration::from_millis(5);

/// Lots of ended locks that one look takes.
const MOST_ROUNDS: usize = 16;

pub(super) struct House {
    interval: Duration,
    watchers: AtomicUsize,
    watched: Arc<Notify>,
    begun: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

impl House {
    /// `interval`: within what time of its end a lock is to be found.
    pub(super) fn new(interval: Duration) -> House {
        House {
            interval,
            watchers: AtomicUsize::new(0),
            watched: Arc::default(),
            begun: AtomicBool::new(false),
            task: Mutex::default(),
        }
    }

    pub(super) fn watch(&self, wanted: bool) {
        if wanted {
            self.watchers.fetch_add(1, Ordering::Relaxed);
            self.watched.notify_one();
        } else {
            self.watchers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Begins, if it has not yet.
    pub(super) fn begin(&self, locks: &Arc<Locks>) {
        if !self.begun.swap(true, Ordering::Relaxed) {
            let keeper = locks.keeper.clone();
            let gone = locks.gone.clone();
            let weak = Arc::downgrade(locks);
            let watched = self.watched.clone();
            let work = async move {
                while let Some(locks) = weak.upgrade() {
                    let next = look_at_all(&*keeper).await.unwrap_or_default();
                    let mut pause = locks.house.pause();
                    if locks.house.is_watched() {
                        pause = pause.min(next.unwrap_or(pause));
                    }
                    drop(locks);
                    tokio::select! {
                        () = sleep(pause.max(GATHER)) => {}
                        () = watched.notified() => {}
                        () = gone.cancelled() => return,
                    }
                }
            };
            *self.task.lock() = Some(tokio::spawn(work).abort_handle());
        }
    }

    pub(super) fn end(&self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }

    fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    fn pause(&self) -> Duration {
        if self.is_watched() {
            self.interval / 2
        } else {
            RARELY
        }
    }
}

/// Has the ends told that are due; gives when the next one is, as far as is known.
pub(super) async fn look_at_all(keeper: &dyn Keeper) -> Result<Option<Duration>> {
    let mut next: Option<Duration> = None;
    for store in keeper.stores() {
        // One that is away is asked again the next time.
        if store.reachable() {
            let first = look(&**store).await?;
            next = next.into_iter().chain(first).min();
        }
    }
    Ok(next)
}

async fn look(store: &dyn Store) -> Result<Option<Duration>> {
    for _ in 0..MOST_ROUNDS {
        let due = store.lock_due().await?;
        if due.names.is_empty() {
            return Ok(due.next);
        }
        store.lock_settle(&due.names).await?;
    }
    // So many end at once that the rest has to wait for its turn.
    Ok(Some(Duration::ZERO))
}
