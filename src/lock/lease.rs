//! One lock that is held: until when it is held, and whether it still is. Once a lease was found to
//! be over, it stays over, even if a late answer extends it.

use super::Grant;
use crate::{failpoints::failpoint, store::lock::Claim};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::{
    sync::{MutexGuard, Notify},
    time::Instant,
};

pub(super) struct Lease {
    pub(super) claim: Claim,
    renews: bool,
    state: Mutex<State>,
    /// Serializes extensions and releases.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
}

struct State {
    grant: Grant,
    ttl_ms: u64,
    renew_at: Instant,
    /// The latest time at which the server may still hold the lease.
    latest: Instant,
    /// Whether the outcome of an extension is unknown: the server may hold the lease for longer.
    unsure: bool,
    /// The lease was found to be over.
    over: bool,
    /// The lease is not wanted any more, or its loss has been reported. Its end is not reported.
    ended: bool,
}

/// The next action for a lease.
#[derive(Debug)]
pub(super) enum Plan {
    /// Nothing before this time.
    Wait(Instant),
    Renew,
    Over,
    Ended,
}

impl Lease {
    pub(super) fn new(claim: Claim, grant: Grant, ttl_ms: u64, renews: bool) -> Lease {
        Lease {
            claim,
            renews,
            state: Mutex::new(State {
                grant,
                ttl_ms,
                renew_at: next_renewal(grant.until),
                latest: Instant::now() + ttl(ttl_ms),
                unsure: false,
                over: false,
                ended: false,
            }),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub(super) fn grant(&self) -> Grant {
        self.state.lock().grant
    }

    pub(super) fn ttl_ms(&self) -> u64 {
        self.state.lock().ttl_ms
    }

    /// Whether the lease is over. Once it was found to be over, it stays over.
    pub(super) fn is_over(&self) -> bool {
        self.state.lock().is_over()
    }

    pub(super) fn plan(&self) -> Plan {
        let mut state = self.state.lock();
        if state.ended {
            return Plan::Ended;
        }
        if state.is_over() {
            return Plan::Over;
        }
        match self.renews && !failpoint!(Renewing) {
            true if Instant::now() >= state.renew_at => Plan::Renew,
            true => Plan::Wait(state.renew_at.min(state.grant.until)),
            false => Plan::Wait(state.grant.until),
        }
    }

    /// Resolves when the plan may have changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    /// Called before an extension is sent. From here on, only the shorter of the old and the new
    /// end is certain. The server may hold the lease until the later one, whatever the outcome of
    /// the call.
    pub(super) fn about_to_extend(&self, ttl_ms: u64) {
        let mut state = self.state.lock();
        let ends = Instant::now() + ttl(ttl_ms);
        state.grant.until = state.grant.until.min(ends);
        state.latest = state.latest.max(ends);
        state.unsure = true;
    }

    /// Records a failed extension. It may have reached the server at any time until now.
    pub(super) fn extension_failed(&self, ttl_ms: u64) {
        let mut state = self.state.lock();
        state.latest = state.latest.max(Instant::now() + ttl(ttl_ms));
    }

    /// Records an extension by the server. Returns false if the lease was already over here.
    pub(super) fn extended(&self, until: Instant, ttl_ms: u64) -> bool {
        let mut state = self.state.lock();
        state.latest = state.latest.max(Instant::now() + ttl(ttl_ms));
        if state.is_over() {
            return false;
        }
        state.unsure = false;
        state.grant.until = until;
        state.ttl_ms = ttl_ms;
        state.renew_at = next_renewal(until);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// The latest time at which the server may still hold the lease.
    pub(super) fn latest(&self) -> Instant {
        self.state.lock().latest
    }

    /// Whether the server may hold the lease for longer than this client.
    pub(super) fn is_unsure(&self) -> bool {
        self.state.lock().unsure
    }

    /// Records that the lease is over. Returns whether its loss must be reported.
    pub(super) fn lose(&self) -> bool {
        let mut state = self.state.lock();
        state.over = true;
        // The loss is reported once: later calls find the lease ended.
        let is_first = !std::mem::replace(&mut state.ended, true);
        drop(state);
        self.changed.notify_one();
        is_first
    }

    /// Records that the lease is not wanted any more. Its end is not reported.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_one();
    }
}

impl State {
    fn is_over(&mut self) -> bool {
        self.over |= Instant::now() >= self.grant.until;
        self.over
    }
}

fn ttl(ttl_ms: u64) -> Duration {
    Duration::from_millis(ttl_ms)
}

/// Allows three tries in a TTL, so that one lost try does not end the lease.
fn next_renewal(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(ttl_ms: u64, renews: bool) -> Lease {
        let claim = Claim {
            name: "l".into(),
            owner: "u".into(),
            proof: "p".into(),
            number: 1,
            emits_events: true,
        };
        let grant = Grant {
            token: 7,
            until: Instant::now() + ttl(ttl_ms),
        };
        Lease::new(claim, grant, ttl_ms, renews)
    }

    #[tokio::test(start_paused = true)]
    async fn spec_8_5_a_lease_that_was_found_to_be_over_stays_over() {
        let lease = lease(100, true);
        assert!(!lease.is_over());
        tokio::time::advance(ttl(100)).await;
        assert!(lease.is_over());
        // A late answer.
        assert!(!lease.extended(Instant::now() + ttl(100), 100));
        assert!(lease.is_over());
        assert!(matches!(lease.plan(), Plan::Over));
        assert!(lease.lose());
        assert!(!lease.lose(), "told twice");
    }

    #[tokio::test(start_paused = true)]
    async fn spec_8_5_a_lease_is_renewed_at_a_third_of_its_ttl() {
        let lease = lease(300, true);
        assert!(matches!(lease.plan(), Plan::Wait(_)));
        tokio::time::advance(ttl(100)).await;
        assert!(matches!(lease.plan(), Plan::Renew));
        assert!(lease.extended(Instant::now() + ttl(300), 300));
        assert!(matches!(lease.plan(), Plan::Wait(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_ttl_counts_from_when_it_is_asked_for() {
        let lease = lease(1_000, false);
        lease.about_to_extend(100);
        tokio::time::advance(ttl(100)).await;
        assert!(lease.is_over());
    }

    #[test]
    fn what_was_released_is_not_told_to_be_lost() {
        let lease = lease(1_000, true);
        lease.end();
        assert!(!lease.lose());
        assert!(matches!(lease.plan(), Plan::Ended));
    }
}
