//! The time of the in-process store.

use once_cell::sync::Lazy;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The start of the process's time. It is read once for all stores, so that the time and the epochs
/// of stores opened under the same name, one after the other, never go back.
static START: Lazy<(Instant, u64)> = Lazy::new(|| {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (Instant::now(), wall.as_millis() as u64)
});

/// Milliseconds since 1970 on a monotonic clock. A jump of the wall clock expires no connection.
#[derive(Clone, Debug)]
pub(super) enum Clock {
    Monotone,
    #[cfg(test)]
    Manual(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    pub(super) fn now(&self) -> u64 {
        match self {
            Clock::Monotone => {
                let (instant, unix_ms) = *START;
                unix_ms + instant.elapsed().as_millis() as u64
            }
            #[cfg(test)]
            Clock::Manual(now) => now.load(std::sync::atomic::Ordering::SeqCst),
        }
    }
}
