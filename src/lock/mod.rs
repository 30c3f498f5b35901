//! Locks (spec section 8). A lock is a lease. The core renews leases, so a busy JavaScript thread
//! does not lose them. This machine's monotonic clock decides when a lease is over, so a lease ends
//! here before another client can get the lock. `docs/internals/locks.md` describes the design.
//!
//! A [`LockBackend`] acquires locks: on one store with a fair queue (`queued_lock.rs`), on several
//! servers by a majority (`quorum.rs`). `renewal.rs` keeps a lock that is held. When the holder of
//! a lease dies, `expiry_monitor.rs` has the end of the lease announced.

mod backend;
mod errors;
mod expiry_monitor;
mod lease;
mod options;
mod queued_lock;
mod quorum;
mod renewal;
#[cfg(test)]
mod tests;
mod wakeups;

pub use backend::{DRIFT_FACTOR, Grant, LockBackend, WaitLimit, until};
pub use options::QuorumOptions;
pub use queued_lock::QueuedLock;
pub use quorum::Quorum;
pub use wakeups::WakeupRegistry;

use crate::{
    expiry::{Turn, TurnListener},
    metrics::{Metrics, count},
    model::{
        error::{Code, Error, Result},
        ids,
        limits::Limits,
        lock::Inspection,
    },
    store::lock::{Claim, Holds, LockCall, Revoked},
};
use backend::may_pass;
use errors::{over, taken};
use expiry_monitor::ExpiryMonitor;
use lease::Lease;
use once_cell::sync::Lazy;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Minimum TTL: the round trip to the server uses up a shorter one.
pub const MIN_TTL_MS: u64 = 10;
/// Ten years. Redis accepts this TTL without overflow, and no caller needs a longer one.
pub const MAX_MS: u64 = 10 * 365 * 24 * 3600 * 1000;

/// Pause between two attempts to subscribe. Until one succeeds, waiters and renewals poll the
/// store.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// A request for a lock.
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    /// Identifies the lock between the client and its caller.
    pub number: u64,
    pub name: Arc<str>,
    pub owner: Arc<str>,
    pub ttl_ms: u64,
    /// When the request was made. `wait_ms` counts from this time.
    pub since: Instant,
    /// Maximum duration of the call. 0: one try, which takes at most as long as a command may.
    pub wait_ms: u64,
    pub renew: bool,
}

/// Approximate start of the process. JavaScript gets times as milliseconds since then.
static ORIGIN: Lazy<Instant> = Lazy::new(Instant::now);

/// A time in the form in which JavaScript gets it.
pub fn clock_ms(at: Instant) -> f64 {
    at.saturating_duration_since(*ORIGIN).as_secs_f64() * 1_000.0
}

/// Is notified when a lease is over although nobody released it. Called once for each lease.
pub trait LockLostListener: Send + Sync + 'static {
    fn lock_lost(&self, number: u64, error: &Error);
}

pub struct Locks {
    backend: Arc<dyn LockBackend>,
    lost_listener: Arc<dyn LockLostListener>,
    metrics: Arc<Metrics>,
    limits: Limits,
    /// Claims that wait or are being requested, each with the token that stops it.
    asking: Mutex<HashMap<u64, CancellationToken>>,
    held: Mutex<HashMap<u64, Arc<Lease>>>,
    /// Renewals and other background work. All of it is cancelled when the client is gone.
    tasks: TaskTracker,
    gone: CancellationToken,
    /// Cancelled when callers must not wait for locks any more.
    closing: CancellationToken,
    /// Whether this node has subscribed to the calls for its claims, or is about to.
    listening: AtomicBool,
    expiry_monitor: ExpiryMonitor,
    /// Held by the pass of [`Locks::expire_once`].
    expiring: tokio::sync::Mutex<()>,
}

impl Locks {
    pub fn new(
        backend: Arc<dyn LockBackend>,
        wakeups: &WakeupRegistry,
        lost_listener: Arc<dyn LockLostListener>,
        metrics: Arc<Metrics>,
        limits: Limits,
        sweep_interval: Duration,
    ) -> Arc<Locks> {
        Lazy::force(&ORIGIN);
        Arc::new_cyclic(|locks: &Weak<Locks>| {
            wakeups.belongs_to(locks.clone());
            Locks {
                backend,
                lost_listener,
                metrics,
                limits,
                asking: Mutex::default(),
                held: Mutex::default(),
                tasks: TaskTracker::new(),
                gone: CancellationToken::new(),
                closing: CancellationToken::new(),
                listening: AtomicBool::new(false),
                expiry_monitor: ExpiryMonitor::new(sweep_interval),
                expiring: tokio::sync::Mutex::default(),
            }
        })
    }

    /// Acquires a lock (spec 8.1). The first poll of the future sends the first request, so callers
    /// queue in the order of their first polls.
    pub async fn acquire(self: &Arc<Self>, request: AcquireRequest) -> Result<Grant> {
        ids::check("name", &request.name, &self.limits)?;
        ids::check("ownerId", &request.owner, &self.limits)?;
        check_ttl(request.ttl_ms)?;
        if self.closing.is_cancelled() {
            return Err(Error::closed());
        }
        let claim = Claim {
            name: request.name,
            owner: request.owner,
            proof: ids::random()?.into(),
            number: request.number,
            emits_events: self.backend.emits_events(),
        };
        let stop = self.closing.child_token();
        self.asking.lock().insert(claim.number, stop.clone());
        self.expiry_monitor
            .use_locks(self.backend.stores(), &self.gone);
        let queues = request.wait_ms > 0;
        let wait_ms = match queues {
            true => request.wait_ms.min(MAX_MS),
            false => self.limits.command_timeout_ms,
        };
        let limit = WaitLimit {
            until: request.since + Duration::from_millis(wait_ms),
            queues,
        };
        if queues {
            self.listen();
        }
        let result = self
            .backend
            .acquire(&claim, request.ttl_ms, limit, &stop)
            .await;
        let number = claim.number;
        let granted = result.map(|grant| {
            let lease = Arc::new(Lease::new(claim, grant, request.ttl_ms, request.renew));
            self.held.lock().insert(number, lease.clone());
            (grant, lease)
        });
        // Removed only now: until the lock is in `held`, a caller that abandons it finds it in
        // `asking`.
        self.asking.lock().remove(&number);
        let (grant, lease) =
            granted.inspect_err(|_| count(&self.metrics.counters.locks_unavailable, 1))?;
        count(&self.metrics.counters.locks_acquired, 1);
        self.metrics.lock_wait.record(request.since.elapsed());
        if stop.is_cancelled() {
            // The caller does not wait for the lock any more.
            self.abandon(number);
            return Err(Error::closed());
        }
        self.spawn(self.clone().keep(lease));
        self.listen();
        Ok(grant)
    }

    /// Gives up a lock that its caller no longer wants: leaves the queue, or releases the lock if
    /// it has been granted. An unknown number has no effect.
    pub fn abandon(self: &Arc<Self>, number: u64) {
        if let Some(stop) = self.asking.lock().get(&number) {
            stop.cancel();
        }
        if let Some(lease) = self.held.lock().remove(&number) {
            lease.end();
            let locks = self.clone();
            self.spawn(async move {
                let _ = locks.give_back(&lease).await;
            });
        }
    }

    /// Sets another TTL, from now on and for every later renewal.
    pub async fn extend(self: &Arc<Self>, number: u64, ttl_ms: Option<u64>) -> Result<Grant> {
        let lease = self.lease(number)?;
        let ttl_ms = ttl_ms.unwrap_or_else(|| lease.ttl_ms());
        check_ttl(ttl_ms)?;
        match self.extend_lease(&lease, ttl_ms).await? {
            Holds::Yes => Ok(lease.grant()),
            Holds::No(owner) => {
                let error = taken(&lease.claim, owner);
                self.lose(&lease, &error);
                Err(error)
            }
        }
    }

    /// Releases the lock. Fails with `LOCK_LOST` if this client no longer held it. In any case, the
    /// lock is no longer renewed and no longer counts as held. If a release cannot reach the store,
    /// it is retried in the background until the lease has ended (spec 8.9).
    pub async fn release(self: &Arc<Self>, number: u64) -> Result<()> {
        let lease = self.lease(number)?;
        let was_over = lease.is_over();
        lease.end();
        let released = self.give_back(&lease).await;
        self.held.lock().remove(&number);
        match released? {
            Holds::Yes if !was_over => {
                count(&self.metrics.counters.locks_released, 1);
                Ok(())
            }
            Holds::Yes => Err(over(&lease.claim)),
            Holds::No(owner) => {
                let error = taken(&lease.claim, owner);
                self.lose(&lease, &error);
                Err(error)
            }
        }
    }

    /// The time until which this client holds the lease, by [`clock_ms`]; negative if it is over.
    /// Once this has reported that a lease is over, the lease stays over.
    pub fn lease_ends(&self, number: u64) -> f64 {
        match self.held.lock().get(&number) {
            Some(lease) if !lease.is_over() => clock_ms(lease.grant().until),
            _ => -1.0,
        }
    }

    pub async fn revoke(&self, name: &str) -> Result<Option<Revoked>> {
        ids::check("name", name, &self.limits)?;
        self.backend.revoke(name).await
    }

    pub async fn inspect(&self, name: &str) -> Result<Option<Inspection>> {
        ids::check("name", name, &self.limits)?;
        self.backend.inspect(name).await
    }

    /// Adds (`wanted`) or removes a subscription to lock events.
    pub fn watch(self: &Arc<Self>, wanted: bool) {
        self.expiry_monitor
            .follow(wanted, self.backend.stores(), &self.gone);
    }

    /// Has locks announced that have ended, for `reapOnce()`. Only one such pass runs at a time.
    /// The next pass finds what fails, and a failure affects nothing else.
    pub async fn expire_once(self: &Arc<Self>) {
        let locks = self.clone();
        let pass = async move {
            if let Ok(_one_at_a_time) = locks.expiring.try_lock() {
                expiry_monitor::look_at_all(&*locks.backend).await;
            }
        };
        if self.emits_events() {
            return pass.await;
        }
        // These servers do not store presence and do not announce the ends of locks, and one of
        // them may hang. So the caller does not wait for them.
        let gone = self.gone.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = pass => {}
            }
        });
    }

    /// Whether the store emits events of locks.
    pub fn emits_events(&self) -> bool {
        self.backend.emits_events()
    }

    /// Fails if events of locks are not available.
    pub fn check_tells(&self) -> Result<()> {
        if self.emits_events() {
            return Ok(());
        }
        Err(Error::new(
            Code::Unsupported,
            "locks on several servers have no events: no single server knows what the majority \
             has decided",
        ))
    }

    pub fn held(&self) -> usize {
        self.held.lock().len()
    }

    pub fn waiting(&self) -> usize {
        self.asking.lock().len()
    }

    /// Ends all waits for locks.
    pub fn stop_waiting(&self) {
        self.closing.cancel();
    }

    /// Releases every lock that is held.
    pub async fn close(self: &Arc<Self>) {
        self.stop_waiting();
        let held: Vec<_> = self.held.lock().drain().map(|(_, lease)| lease).collect();
        for lease in held {
            lease.end();
            let locks = self.clone();
            self.tasks.spawn(async move {
                let _ = locks.give_back(&lease).await;
            });
        }
        self.expiry_monitor.end();
        self.tasks.close();
        self.tasks.wait().await;
        self.gone.cancel();
        self.backend.end();
        for store in self.backend.stores() {
            store.close().await;
        }
    }

    /// Ends everything at once, because the client is gone without a `close`.
    pub fn drop_all(&self) {
        self.closing.cancel();
        self.gone.cancel();
        self.backend.end();
    }

    /// Handles a call from the store for a claim of this node (see [`WakeupRegistry`]).
    fn called(self: &Arc<Self>, call: LockCall) {
        match call {
            LockCall::Lost(number) => {
                let lease = self.held.lock().get(&number).cloned();
                if let Some(lease) = lease {
                    self.lose(&lease, &taken(&lease.claim, None));
                }
            }
            LockCall::Gap => self.look_at_held(),
            LockCall::Turn(_) => {}
        }
    }

    /// Subscribes to turns and losses, from the first lock on. Callers do not wait for the
    /// subscription: without it, turns and losses are still found, only later.
    fn listen(self: &Arc<Self>) {
        if !self.backend.emits_events() || self.listening.swap(true, Ordering::Relaxed) {
            return;
        }
        let locks = self.clone();
        let work = async move {
            loop {
                match locks.backend.listen().await {
                    Ok(()) => return,
                    Err(error) if may_pass(&error) && locks.held() + locks.waiting() > 0 => {
                        sleep(LISTEN_PAUSE).await;
                    }
                    // The next lock tries again.
                    Err(_) => break,
                }
            }
            locks.listening.store(false, Ordering::Relaxed);
        };
        // A close does not wait for a subscription.
        let closing = self.closing.clone();
        self.spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Checks every held lock in the store, because calls may have been missed.
    fn look_at_held(self: &Arc<Self>) {
        let held: Vec<_> = self.held.lock().values().cloned().collect();
        for lease in held {
            let locks = self.clone();
            self.spawn(async move {
                let Ok(found) = locks.backend.inspect(&lease.claim.name).await else {
                    return;
                };
                if found.as_ref().and_then(|found| found.token) != Some(lease.grant().token) {
                    // The lock may have been removed without an event. Settling it announces its
                    // end.
                    for store in locks.backend.stores() {
                        let _ = store
                            .locks()
                            .lock_settle(std::slice::from_ref(&lease.claim.name))
                            .await;
                    }
                    let owner = found.map(|found| found.owner);
                    locks.lose(&lease, &taken(&lease.claim, owner));
                }
            });
        }
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let gone = self.gone.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = work => {}
            }
        });
    }

    fn lease(&self, number: u64) -> Result<Arc<Lease>> {
        let lease = self.held.lock().get(&number).cloned();
        lease.ok_or_else(|| {
            Error::new(
                Code::LockLost,
                "the lock is not held any more; acquire it again",
            )
        })
    }
}

impl TurnListener for Locks {
    fn turn(&self, turn: Turn) {
        self.expiry_monitor
            .reap(turn, self.backend.stores(), &self.gone);
    }
}

fn check_ttl(ttl_ms: u64) -> Result<()> {
    if (MIN_TTL_MS..=MAX_MS).contains(&ttl_ms) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "ttlMs must be between {MIN_TTL_MS} and {MAX_MS}, got {ttl_ms}"
    )))
}
