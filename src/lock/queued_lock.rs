//! Waits for a lock on one store. The queue is in the store, in order of arrival across all nodes.
//! Of a node's own waiters for a lock, the first keeps the places of all.

use super::{
    DRIFT_FACTOR, Grant, LockBackend, WaitLimit, WakeupRegistry,
    backend::{Release, may_pass},
    until,
};
use crate::{
    model::{
        error::{Code, Error, Result},
        ids,
        lock::{FencingToken, Inspection},
    },
    store::{
        Store, Topic,
        lock::{Claim, Holds, LockCall, Revoked, Take, Taken, Token, WaitRequest},
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OnceCell},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a node counts as alive after its last call. If a node is killed, the waiters behind it
/// are delayed by this time. A node that gets no CPU time for this long loses its turn, but not its
/// place in the queue.
const LEASE: Duration = Duration::from_millis(1_500);
/// Interval at which a node calls. It also bounds the delay of a lost wake-up.
const REFRESH: Duration = Duration::from_millis(400);
/// Pause after a call that failed.
const PAUSE: Duration = Duration::from_millis(100);
/// How much longer than its limit a call that gives up may take to leave the queue and to find who
/// holds the lock. After that, the work continues in the background.
const LEAVING: Duration = Duration::from_millis(100);
/// The same limit if the caller does not wait for the answer. A closing client loses its
/// connections afterwards.
const CLOSING: Duration = Duration::from_secs(2);

/// The locks of one store.
pub struct QueuedLock {
    stores: [Arc<dyn Store>; 1],
    wakeups: Arc<WakeupRegistry>,
    /// This node's waiters for each lock, in the order in which they asked.
    waiting: Mutex<HashMap<Arc<str>, Vec<Arc<Waiter>>>>,
    listening: OnceCell<()>,
    /// Cancelled when the client is gone.
    gone: CancellationToken,
}

/// The last answer that a waiter got.
#[derive(Default)]
struct LastAnswer {
    failed: Option<Error>,
    /// The waiter has a place in the queue.
    queued: bool,
    /// The store refused the request and keeps nothing of it.
    refused: bool,
}

/// A caller that waits for a lock.
struct Waiter {
    number: u64,
    /// Notified when the waiter should ask the store again.
    stir: Arc<Notify>,
    /// Its entry in the queue may have been removed.
    lost_place: AtomicBool,
}

impl QueuedLock {
    pub fn new(store: Arc<dyn Store>, wakeups: Arc<WakeupRegistry>) -> QueuedLock {
        QueuedLock {
            stores: [store],
            wakeups,
            waiting: Mutex::default(),
            listening: OnceCell::new(),
            gone: CancellationToken::new(),
        }
    }

    fn store(&self) -> &dyn Store {
        &*self.stores[0]
    }

    async fn do_acquire(
        &self,
        claim: &Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        stop: &CancellationToken,
    ) -> Result<Grant> {
        let mut last = LastAnswer::default();
        let granted = {
            let waiting = self.wait_in_line(claim, ttl_ms, limit, &mut last);
            tokio::select! {
                biased;
                granted = waiting => Some(granted),
                () = stop.cancelled() => Some(Err(Error::closed())),
                () = sleep_until(limit.until) => None,
            }
        };
        let error = match granted {
            Some(Ok(grant)) => return Ok(grant),
            Some(Err(error)) if last.refused => return Err(error),
            Some(Err(error)) => error,
            None => match last.failed {
                Some(error) => error,
                None if last.queued => match timeout(LEAVING, self.still_held(claim)).await {
                    Ok(error) => error,
                    Err(_) => unanswered(claim, Code::LockUnavailable),
                },
                None => unanswered(claim, Code::Timeout).with_unknown_outcome(),
            },
        };
        // The request may have been carried out, or may have a place in the queue.
        let until = Instant::now() + Duration::from_millis(ttl_ms);
        let answer_timeout = match error.code {
            Code::Closed => CLOSING,
            _ => LEAVING,
        };
        match self
            .begin_release(claim, until)
            .within(answer_timeout)
            .await
        {
            // Nothing is held, so the outcome is known now.
            Ok(_) => Err(Error {
                outcome_unknown: false,
                ..error
            }),
            Err(_) => Err(error),
        }
    }

    /// Asks the store until the lock is granted or there is no use in asking again.
    async fn wait_in_line(
        &self,
        claim: &Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        last: &mut LastAnswer,
    ) -> Result<Grant> {
        let waiter = WaiterGuard::enter(self, claim);
        let mut take = Take {
            ttl_ms,
            token: Token::Next,
            wait: limit.queues.then_some(WaitRequest {
                place: None,
                lease: LEASE,
            }),
        };
        loop {
            let sent = Instant::now();
            let (pause, failed) = match self.store().locks().lock_take(claim, &take).await {
                Ok(Taken::Granted { token, .. }) => {
                    let until = until(sent, ttl_ms, DRIFT_FACTOR);
                    if until > Instant::now() {
                        return Ok(Grant { token, until });
                    }
                    return Err(Error::new(
                        Code::LockUnavailable,
                        format!(
                            "lock {} was granted too late to be of use: the answer took longer \
                             than its ttlMs of {ttl_ms}",
                            ids::display_id(&claim.name)
                        ),
                    ));
                }
                Ok(Taken::Held {
                    owner,
                    ttl_left_ms,
                    waiters,
                    ..
                }) => {
                    last.refused = true;
                    return Err(unavailable(claim, owner.as_deref(), ttl_left_ms, waiters));
                }
                Ok(Taken::Waiting {
                    place,
                    look_again,
                    known,
                }) => {
                    if let Some(wait) = &mut take.wait {
                        let had_place = wait.place.replace(place).is_some();
                        if had_place && !known {
                            waiter.others_lost_their_place();
                        }
                    }
                    last.failed = None;
                    last.queued = true;
                    (look_again.unwrap_or(REFRESH).min(REFRESH), false)
                }
                Err(error) if may_pass(&error) && limit.queues => {
                    last.failed = Some(error);
                    (PAUSE, true)
                }
                Err(error) => return Err(error),
            };
            waiter.stirred(pause, failed).await;
        }
    }

    /// The reason why the lock was not granted in time.
    async fn still_held(&self, claim: &Claim) -> Error {
        match self.store().locks().lock_inspect(&claim.name).await {
            Ok(Some(held)) => unavailable(
                claim,
                Some(&held.owner),
                held.ttl_left_ms,
                // The waiter that gives up is among them.
                held.waiters.saturating_sub(1),
            ),
            Ok(None) => unavailable(claim, None, None, 0),
            Err(error) => error,
        }
    }

    /// One store saves each token when it grants it, so there is no token to pass.
    fn begin_release(&self, claim: &Claim, until: Instant) -> Release {
        let store = self.stores[0].clone();
        Release::begin(store, claim.clone(), 0, until, self.gone.clone())
    }
}

/// The call ended before Redis answered.
fn unanswered(claim: &Claim, code: Code) -> Error {
    Error::new(
        code,
        format!(
            "Redis did not answer in time whether lock {} is to be had; try again, or wait longer \
             (waitMs)",
            ids::display_id(&claim.name)
        ),
    )
}

fn unavailable(
    claim: &Claim,
    owner: Option<&str>,
    ttl_left_ms: Option<u64>,
    waiters: u64,
) -> Error {
    let name = ids::display_id(&claim.name);
    let ahead = match waiters {
        0 => String::new(),
        1 => "; 1 other waits for it".into(),
        n => format!("; {n} others wait for it"),
    };
    let held = match (owner, ttl_left_ms) {
        (None, _) => "was let go a moment ago, and goes to somebody else".into(),
        (Some(owner), None) => format!("is held by {}, without an end", ids::display_id(owner)),
        (Some(owner), Some(left)) => {
            format!(
                "is held by {}, for {left} ms unless that is extended",
                ids::display_id(owner)
            )
        }
    };
    Error::new(
        Code::LockUnavailable,
        format!("lock {name} {held}{ahead}; try again, or wait longer (waitMs)"),
    )
}

impl LockBackend for QueuedLock {
    fn acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Grant>> {
        Box::pin(self.do_acquire(claim, ttl_ms, limit, stop))
    }

    fn extend<'a>(
        &'a self,
        claim: &'a Claim,
        _token: FencingToken,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<(Holds, Instant)>> {
        Box::pin(async move {
            let sent = Instant::now();
            let holds = self.store().locks().lock_extend(claim, ttl_ms).await?;
            Ok((holds, until(sent, ttl_ms, DRIFT_FACTOR)))
        })
    }

    fn release<'a>(
        &'a self,
        claim: &'a Claim,
        _token: FencingToken,
        until: Instant,
        answer_timeout: Duration,
    ) -> BoxFuture<'a, Result<Holds>> {
        Box::pin(self.begin_release(claim, until).within(answer_timeout))
    }

    fn revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>> {
        self.store().locks().lock_revoke(name)
    }

    fn inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>> {
        self.store().locks().lock_inspect(name)
    }

    fn listen(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let listen = async || {
                self.store().subscribe(&Topic::LockCalls).await?;
                // Calls before the subscription were missed.
                self.wakeups.call(LockCall::Gap);
                Ok(())
            };
            self.listening.get_or_try_init(listen).await.map(drop)
        })
    }

    fn emits_events(&self) -> bool {
        true
    }

    fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    fn end(&self) {
        self.gone.cancel();
    }
}

/// A waiter that is registered until this guard is dropped.
struct WaiterGuard<'a> {
    queued_lock: &'a QueuedLock,
    name: Arc<str>,
    waiter: Arc<Waiter>,
}

impl<'a> WaiterGuard<'a> {
    fn enter(queued_lock: &'a QueuedLock, claim: &Claim) -> WaiterGuard<'a> {
        let waiter = Arc::new(Waiter {
            number: claim.number,
            stir: Arc::default(),
            lost_place: AtomicBool::new(false),
        });
        queued_lock.wakeups.put(claim.number, waiter.stir.clone());
        let mut waiting = queued_lock.waiting.lock();
        waiting
            .entry(claim.name.clone())
            .or_default()
            .push(waiter.clone());
        WaiterGuard {
            queued_lock,
            name: claim.name.clone(),
            waiter,
        }
    }

    /// Resolves when the store should be asked again: when the waiter is notified, or after `pause`
    /// in two cases. The first of this node's waiters asks after `pause` because it keeps the
    /// places of all. A waiter whose call `failed` does so because it may have no place that could
    /// be kept.
    async fn stirred(&self, pause: Duration, failed: bool) {
        if self.waiter.lost_place.swap(false, Ordering::Relaxed) {
            return;
        }
        if failed || self.is_first() {
            tokio::select! {
                () = self.waiter.stir.notified() => {}
                () = sleep(pause) => {}
            }
        } else {
            self.waiter.stir.notified().await;
        }
    }

    fn is_first(&self) -> bool {
        let waiting = self.queued_lock.waiting.lock();
        let first = waiting.get(&self.name).and_then(|waiters| waiters.first());
        first.is_some_and(|first| first.number == self.waiter.number)
    }

    /// Wakes this node's other waiters. The store had not heard of this node for so long that they
    /// may be out of the queue. Each waiter remembers its place and takes it again.
    fn others_lost_their_place(&self) {
        for waiter in self
            .queued_lock
            .waiting
            .lock()
            .get(&self.name)
            .into_iter()
            .flatten()
        {
            if waiter.number != self.waiter.number {
                waiter.lost_place.store(true, Ordering::Relaxed);
                waiter.stir.notify_one();
            }
        }
    }
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.queued_lock.wakeups.remove(self.waiter.number);
        let mut waiting = self.queued_lock.waiting.lock();
        let Some(waiters) = waiting.get_mut(&self.name) else {
            return;
        };
        waiters.retain(|waiter| waiter.number != self.waiter.number);
        match waiters.first() {
            // This waiter keeps the places of the others now.
            Some(first) => first.stir.notify_one(),
            None => {
                waiting.remove(&self.name);
            }
        }
    }
}
