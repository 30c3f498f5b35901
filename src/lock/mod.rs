//! Locks (spec section 8): leases that are renewed here, so that a busy JavaScript thread does not
//! lose them, and judged by this machine's monotonic clock, so that they end here before they can be
//! somebody else's. `docs/internals/locks.md` says how it works.
//!
//! How a lock is come by is a [`LockBackend`]'s part: on one store by a fair queue (`queued_lock.rs`), on several
//! servers by a majority (`quorum.rs`). `renewal.rs` keeps a lock that is held. When a lease ends with nobody there
//! to say so, `expiry_monitor.rs` has it announced.

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

/// The least TTL: less than that is used up by the way to the server and back.
pub const MIN_TTL_MS: u64 = 10;
/// Ten years: what Redis takes as a TTL without overflow, and nobody needs more.
pub const MAX_MS: u64 = 10 * 365 * 24 * 3600 * 1000;

/// Pause between tries to listen. Until one succeeds, waiters and renewals look by themselves.
const LISTEN_PAUSE: Duration = Duration::from_millis(500);

/// A lock as it is asked for.
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    /// Names the lock between the client and its caller.
    pub number: u64,
    pub name: Arc<str>,
    pub owner: Arc<str>,
    pub ttl_ms: u64,
    /// When it was asked for: from then on `wait_ms` counts.
    pub since: Instant,
    /// How long the call may take; 0: one try, which takes as long as a command may.
    pub wait_ms: u64,
    pub renew: bool,
}

/// What begins when the process does: times are handed to JavaScript as milliseconds since then.
static ORIGIN: Lazy<Instant> = Lazy::new(Instant::now);

/// A time as JavaScript gets it.
pub fn clock_ms(at: Instant) -> f64 {
    at.saturating_duration_since(*ORIGIN).as_secs_f64() * 1_000.0
}

/// Who is told that a lease is over although nobody released it. Called once for each.
pub trait LockLostListener: Send + Sync + 'static {
    fn lock_lost(&self, number: u64, error: &Error);
}

pub struct Locks {
    backend: Arc<dyn LockBackend>,
    lost_listener: Arc<dyn LockLostListener>,
    metrics: Arc<Metrics>,
    limits: Limits,
    /// Claims that wait or are asked for, with what makes them stop.
    asking: Mutex<HashMap<u64, CancellationToken>>,
    held: Mutex<HashMap<u64, Arc<Lease>>>,
    /// Renewals and what else goes on behind; cancelled as a whole when the client is gone.
    tasks: TaskTracker,
    gone: CancellationToken,
    /// No lock is waited for any more.
    closing: CancellationToken,
    /// Whether this node hears what it is told of its claims.
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

    /// Acquires (spec 8.1). Its first step is made when it is first polled: who asks first, waits in
    /// front.
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
        // Only now: whoever abandons it finds it there until it is held.
        self.asking.lock().remove(&number);
        let (grant, lease) =
            granted.inspect_err(|_| count(&self.metrics.counters.locks_unavailable, 1))?;
        count(&self.metrics.counters.locks_acquired, 1);
        self.metrics.lock_wait.record(request.since.elapsed());
        if stop.is_cancelled() {
            // Nobody waits for it any more.
            self.abandon(number);
            return Err(Error::closed());
        }
        self.spawn(self.clone().keep(lease));
        self.listen();
        Ok(grant)
    }

    /// Nobody wants this lock any more: out of the queue with it, or back, if it has been granted. Of a
    /// number that is not known, nothing.
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

    /// Another TTL from now, and for every renewal after it.
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

    /// Gives the lock up. `LOCK_LOST` if it was not this client's any more. Whatever comes of it, the lock
    /// is not renewed any more and not among those held; a release that could not reach the store is
    /// tried again in the background until the lease has ended (spec 8.9).
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

    /// Until when the lease is ours by [`clock_ms`]; negative if it is over. Once it was said that a
    /// lease is over, it is.
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

    /// That events of locks are wanted here, or not any more.
    pub fn watch(self: &Arc<Self>, wanted: bool) {
        self.expiry_monitor
            .follow(wanted, self.backend.stores(), &self.gone);
    }

    /// Has the ends of locks announced that are due now, for `reapOnce()`: one such pass at a time. What
    /// fails is found again by the next one, and fails nothing else.
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
        // The servers are not those of presence, no end of theirs is announced, and one may hang: nobody
        // waits for them.
        let gone = self.gone.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = gone.cancelled() => {}
                () = pass => {}
            }
        });
    }

    /// Whether the store announces what becomes of locks.
    pub fn emits_events(&self) -> bool {
        self.backend.emits_events()
    }

    /// Whether events of locks can be had at all.
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

    /// Whoever waits for a lock waits no more.
    pub fn stop_waiting(&self) {
        self.closing.cancel();
    }

    /// Gives back every lock that is held.
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

    /// Ends everything at once: the client is gone without a close.
    pub fn drop_all(&self) {
        self.closing.cancel();
        self.gone.cancel();
        self.backend.end();
    }

    /// What the store tells this node of a claim (see [`WakeupRegistry`]).
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

    /// Has the node told of turns and losses, from its first lock on. Nobody waits for that: without it
    /// they are found all the same, only later.
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

    /// Calls may have been missed: looks at every lock that is held, whether it still is.
    fn look_at_held(self: &Arc<Self>) {
        let held: Vec<_> = self.held.lock().values().cloned().collect();
        for lease in held {
            let locks = self.clone();
            self.spawn(async move {
                let Ok(found) = locks.backend.inspect(&lease.claim.name).await else {
                    return;
                };
                if found.as_ref().and_then(|found| found.token) != Some(lease.grant().token) {
                    // Whoever took it away without a word: its end is to be told, too.
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
