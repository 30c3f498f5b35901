//! What locks are come by through: a [`LockBackend`], and until when what it granted is certainly ours.

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

/// By how much two clocks may differ in their speed, as part of a TTL, and what is added for the
/// milliseconds that clocks are read in.
pub const DRIFT_FACTOR: f64 = 0.01;
const DRIFT: Duration = Duration::from_millis(2);

/// Pause between two tries to release a lock.
const RELEASE_PAUSE: Duration = Duration::from_millis(100);

/// A lock as it was granted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grant {
    pub token: FencingToken,
    /// Until when it is certainly ours, by this machine's monotonic clock.
    pub until: Instant,
}

/// How long a call for a lock may take in all, whatever it waits for: a connection, a subscription, an
/// answer, its turn.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimit {
    pub until: Instant,
    /// Whether it waits while others hold the lock.
    pub queues: bool,
}

/// How locks are come by and kept: on one store, or on a majority of several.
pub trait LockBackend: Send + Sync + 'static {
    /// Waits for the lock as long as `limit` says, or until `stop`. If it fails, nothing is left behind
    /// that outlives the TTL.
    fn acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Grant>>;

    /// Another TTL from now; the time of the answer's `Yes` is until when it is ours.
    fn extend<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<(Holds, Instant)>>;

    /// Gives a lock up, also one of which it is not known whether it was granted. Where that fails it
    /// is tried again in the background until `until`, when the lease has ended; the error of a call that
    /// takes longer than `answer_timeout` says so.
    fn release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
        until: Instant,
        answer_timeout: Duration,
    ) -> BoxFuture<'a, Result<Holds>>;

    fn revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>>;

    fn inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>>;

    /// Has turns and losses told on the [`WakeupRegistry`](super::WakeupRegistry).
    fn listen(&self) -> BoxFuture<'_, Result<()>>;

    /// Whether events of locks come from one place.
    fn emits_events(&self) -> bool;

    fn stores(&self) -> &[Arc<dyn Store>];

    /// Ends what goes on in the background: the client is gone.
    fn end(&self);
}

/// Failures that pass by themselves.
pub(super) fn may_pass(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::Timeout)
}

/// A release that goes on by itself until its outcome is known or the lease has ended.
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
                        // An earlier try has done it: until the lease is over nobody else could.
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

    /// The outcome, if it comes in time. What went wrong so far is no outcome: it goes on.
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

/// Until when a lease that was asked for at `sent` is certainly ours: the server counts from later
/// on, and its clock may be a little faster than ours.
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
        // Too short to be of any use; never a time before it was asked for.
        assert_eq!(ends(1, DRIFT_FACTOR), 0);
    }
}
