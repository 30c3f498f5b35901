//! Pauses within a call. Every wait that a call makes because the store answered "not yet" uses
//! this function, so that a test can count them. A pause belongs after the check that something is
//! left to do.

use std::time::Duration;

/// Waits. Counted in tests of the core.
pub async fn pause(time: Duration) {
    #[cfg(test)]
    in_tests::PAUSES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(time).await;
}

#[cfg(test)]
pub(crate) use in_tests::pauses;

#[cfg(test)]
mod in_tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    pub(super) static PAUSES: AtomicU64 = AtomicU64::new(0);

    /// The number of pauses of this process.
    pub(crate) fn pauses() -> u64 {
        PAUSES.load(Ordering::Relaxed)
    }
}
