//! What becomes of a lock that is held: it is renewed until it ends, extended, given back or lost.

use super::{
    Locks,
    backend::may_pass,
    errors::{over, released, taken},
    lease::{Lease, Plan},
};
use crate::{
    metrics::count,
    model::{
        error::{Code, Error, Result},
        ids,
    },
    store::lock::{Claim, Holds},
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Pause between tries to renew a lease that failed.
const RETRY: Duration = Duration::from_millis(100);

impl Locks {
    /// Renews a lease until it ends.
    pub(super) async fn keep(self: Arc<Self>, lease: Arc<Lease>) {
        loop {
            let pause = match lease.plan() {
                Plan::Ended => return,
                Plan::Over => {
                    self.lose(&lease, &over(&lease.claim));
                    if lease.is_unsure() {
                        // The server may have extended it, for longer than anybody holds it.
                        let _ = self.give_back(&lease).await;
                    }
                    return;
                }
                Plan::Wait(until) => until,
                Plan::Renew => {
                    let until = lease.grant().until;
                    let renewal = self.extend_lease(&lease, lease.ttl_ms());
                    match timeout_at(until, renewal).await {
                        Ok(Ok(Holds::Yes)) => continue,
                        Ok(Ok(Holds::No(owner))) => {
                            return self.lose(&lease, &taken(&lease.claim, owner));
                        }
                        Ok(Err(error)) if error.code == Code::LockLost => continue,
                        Ok(Err(_)) => {
                            count(&self.metrics.counters.lock_renewals_failed, 1);
                            until.min(Instant::now() + RETRY)
                        }
                        Err(_) => continue,
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(pause) => {}
                () = lease.changed() => {}
            }
        }
    }

    /// Extends a lease that is not over; refused here, without a word to the server, if it is.
    pub(super) async fn extend_lease(&self, lease: &Lease, ttl_ms: u64) -> Result<Holds> {
        let _turn = lease.turn().await;
        if lease.is_over() {
            return Err(over(&lease.claim));
        }
        if lease.is_ended() {
            return Err(released(&lease.claim));
        }
        lease.about_to_extend(ttl_ms);
        let (holds, until) = self
            .backend
            .extend(&lease.claim, lease.grant().token, ttl_ms)
            .await
            .inspect_err(|_| lease.extension_failed(ttl_ms))?;
        if holds == Holds::Yes && !lease.extended(until, ttl_ms) {
            return Err(over(&lease.claim));
        }
        Ok(holds)
    }

    /// Releases in the store. Where that takes longer than a call may, it goes on in the background until
    /// the lease has ended there.
    pub(super) async fn give_back(&self, lease: &Lease) -> Result<Holds> {
        // An extension that is on its way would come after it.
        let _turn = lease.turn().await;
        let answer_timeout = Duration::from_millis(self.limits.command_timeout_ms);
        let Claim { name, .. } = &lease.claim;
        self.backend
            .release(&lease.claim, lease.grant().token, lease.latest(), answer_timeout)
            .await
            .map_err(|error| match may_pass(&error) {
                true => Error {
                    message: format!(
                        "{}; lock {} is not renewed any more, and its release is tried again in the \
                         background until its lease has ended",
                        error.message,
                        ids::display_id(name)
                    ),
                    // It may yet be carried out.
                    outcome_unknown: true,
                    ..error
                },
                false => error,
            })
    }

    /// The lease is over although nobody released it: told once.
    pub(super) fn lose(&self, lease: &Arc<Lease>, error: &Error) {
        if lease.lose() {
            tracing::debug!(name = &*lease.claim.name, %error, "lock lost");
            count(&self.metrics.counters.locks_lost, 1);
            self.lost_listener.lock_lost(lease.claim.number, error);
        }
        self.held.lock().remove(&lease.claim.number);
    }
}
