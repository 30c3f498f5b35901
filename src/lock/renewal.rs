//! Renewal, extension, release and loss of a lock that is held.

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

/// Pause before a failed renewal is tried again.
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
                        // The server may have extended the lease. It would then outlast its holder.
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

    /// Extends a lease that is not over. If it is over, fails without a call to the server.
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

    /// Releases the lock in the store. If that takes longer than a command may take, the release
    /// continues in the background until the lease has ended in the store.
    pub(super) async fn give_back(&self, lease: &Lease) -> Result<Holds> {
        // An extension in progress would arrive after the release.
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
                    // The release may still be carried out.
                    outcome_unknown: true,
                    ..error
                },
                false => error,
            })
    }

    /// Handles a lease that is over although nobody released it. The listener is notified once.
    pub(super) fn lose(&self, lease: &Arc<Lease>, error: &Error) {
        if lease.lose() {
            tracing::debug!(name = &*lease.claim.name, %error, "lock lost");
            count(&self.metrics.counters.locks_lost, 1);
            self.lost_listener.lock_lost(lease.claim.number, error);
        }
        self.held.lock().remove(&lease.claim.number);
    }
}
