//! [`LockBackend`]: acquires locks, and says until when a granted lock is certainly held.

use crate::{
    model::{
        error::{Code, Error, Result},
        lock::{FencingToken, Inspection},
    },
    store::{
        Store,
        lock::{Claim, Holds, Revoked},
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

/// Maximum difference in speed between two clocks, as a fraction of a TTL. `DRIFT` is added because
/// clocks are read in milliseconds.
pub const DRIFT_FACTOR: f64 = 0.01;
const DRIFT: Duration = Duration::from_millis(2);

/// Pause between two tries to release a lock.
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// A lock that was granted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grant {
    pub token: FencingToken,
    /// Until when the lock is certainly held, by this machine's monotonic clock.
    pub until: Instant,
}

/// Total time limit of a call for a lock. It includes every wait: for a connection, a subscription,
/// an answer, and the turn in the queue.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimit {
    pub until: Instant,
    /// Whether the call waits while others hold the lock.
    pub queues: bool,
}

/// Acquires and keeps locks: on one store, or on a majority of several.
pub trait LockBackend: Send + Sync + 'static {
    /// Waits for the lock until `limit` ends or `stop` is cancelled. If it fails, it leaves nothing
    /// in the store that outlives the TTL.
    fn acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Grant>>;

    /// Extends the lease by another TTL from now. With `Yes`, the returned time is the new end of
    /// the lease.
    fn extend<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<(Holds, Instant)>>;

    /// Releases a lock, also one whose grant is uncertain. If the release fails, it is retried in
    /// the background until `until`, when the lease has ended. If the call takes longer than
    /// `answer_timeout`, it fails with an error that says so.
    fn release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
        until: Instant,
        answer_timeout: Duration,
    ) -> BoxFuture<'a, Result<Holds>>;

    fn revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>>;

    fn inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>>;

    /// Subscribes to turns and losses, which go to the [`WakeupRegistry`](super::WakeupRegistry).
    fn listen(&self) -> BoxFuture<'_, Result<()>>;

    /// Whether one store emits all events of locks.
    fn emits_events(&self) -> bool;

    fn stores(&self) -> &[Arc<dyn Store>];

    /// Ends background work, because the client is gone.
    fn end(&self);
}

/// Whether the cause of a failure may pass without intervention.
pub(super) fn may_pass(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::Timeout)
}

/// A release that runs in the background until its outcome is known or the lease has ended.
#[derive(Clone)]
pub(super) struct Release {
    outcome: watch::Receiver<Option<Result<Holds>>>,
    failed: Arc<Mutex<Option<Error>>>,
}

impl Release {
    pub(super) fn begin(
        store: Arc<dyn Store>,
        claim: Claim,
        token: FencingToken,
        until: Instant,
        gone: CancellationToken,
    ) -> Release {
        let (settle, outcome) = watch::channel(None);
        let failed = Arc::<Mutex<_>>::default();
        let last = failed.clone();
        tokio::spawn(async move {
            let mut unknown = false;
            let work = async {
                loop {
                    let error = match store.locks().lock_release(&claim, token).await {
                        // An earlier try has released the lock: nobody else could before the lease
                        // was over.
                        Ok(Holds::No(_)) if unknown => return Ok(Holds::Yes),
                        Ok(holds) => return Ok(holds),
                        Err(error) => error,
                    };
                    unknown |= error.outcome_unknown;
                    *last.lock() = Some(error.clone());
                    if !may_pass(&error) || Instant::now() + RELEASE_PAUSE >= until {
                        return Err(error);
                    }
                    sleep(RELEASE_PAUSE).await;
                }
            };
            tokio::select! {
                done = work => { let _ = settle.send(Some(done)); }
                () = gone.cancelled() => {}
            }
        });
        Release { outcome, failed }
    }

    /// The outcome, if it comes in time. Otherwise the last failure; the release continues.
    pub(super) async fn within(mut self, answer_timeout: Duration) -> Result<Holds> {
        let outcome = self.outcome.wait_for(Option::is_some);
        if let Ok(Ok(outcome)) = tokio::time::timeout(answer_timeout, outcome).await
            && let Some(outcome) = &*outcome
        {
            return outcome.clone();
        }
        Err(self.failed.lock().clone().unwrap_or_else(|| {
            Error::new(Code::Timeout, "Redis did not answer in time").with_unknown_outcome()
        }))
    }
}

/// Until when a lease that was requested at `sent` is certainly held. The server's TTL begins later
/// than `sent`, and the server's clock may be slightly faster than this machine's clock.
pub fn until(sent: Instant, ttl_ms: u64, drift_factor: f64) -> Instant {
    let ttl = Duration::from_millis(ttl_ms);
    sent + ttl.saturating_sub(ttl.mul_f64(drift_factor) + DRIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_8_6_a_lease_ends_here_before_it_can_end_on_the_server() {
        let sent = Instant::now();
        let ends = |ttl_ms, drift| until(sent, ttl_ms, drift).duration_since(sent).as_millis();
        assert_eq!(ends(10_000, DRIFT_FACTOR), 9_898);
        assert_eq!(ends(10_000, 0.5), 4_998);
        // Too short to be usable, but never a time before the request.
        assert_eq!(ends(1, DRIFT_FACTOR), 0);
    }
}
