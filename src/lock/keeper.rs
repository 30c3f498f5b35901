//! What locks are come by through: a [`Keeper`], and until when what it granted is certainly ours.

use crate::{
    model::{
        error::Result,
        lock::{FencingToken, Inspection},
    },
    store::{
        Store,
        lock::{Claim, Holds, Revoked},
    },
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// By how much two clocks may differ in their speed, as part of a TTL, and what is added for the
/// milliseconds that clocks are read in.
pub const DRIFT_FACTOR: f64 = 0.01;
const DRIFT: Duration = Duration::from_millis(2);

/// A lock as it was granted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grant {
    pub token: FencingToken,
    /// Until when it is certainly ours, by this machine's monotonic clock.
    pub until: Instant,
}

/// How locks are come by and kept: on one store, or on a majority of several.
pub trait Keeper: Send + Sync + 'static {
    /// Waits for the lock until `deadline`, or until `stop`. If it fails, nothing is left behind that
    /// outlives the TTL.
    fn acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl_ms: u64,
        deadline: Instant,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Grant>>;

    /// Another TTL from now; the time of the answer's `Yes` is until when it is ours.
    fn extend<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<(Holds, Instant)>>;

    fn release<'a>(&'a self, claim: &'a Claim, token: FencingToken)
    -> BoxFuture<'a, Result<Holds>>;

    fn revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>>;

    fn inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>>;

    /// Has turns and losses told on the [`Board`].
    fn listen(&self) -> BoxFuture<'_, Result<()>>;

    /// Whether events of locks come from one place.
    fn tells(&self) -> bool;

    fn stores(&self) -> &[Arc<dyn Store>];
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
