//! Pauses in the course of a call: every wait that a call makes because the store said "not yet" goes
//! through here, so that a test can count them. A pause belongs after the check that something is left to
//! do.

use std::time::Duration;

/// Waits, and is counted in the tests' own build.
pub async fn pause(time: Duration) {
    #[cfg(feature = "test-faults")]
    in_tests::PAUSES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(time).await;
}

#[cfg(feature = "test-faults")]
pub use in_tests::pauses;

#[cfg(feature = "test-faults")]
mod in_tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) static PAUSES: AtomicU64 = AtomicU64::new(0);

    /// How many pauses this process has made.
    pub fn pauses() -> u64 {
        PAUSES.load(Ordering::Relaxed)
    }
}
