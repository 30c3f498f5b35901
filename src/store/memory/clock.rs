//! The time of the in-process store.

use once_cell::sync::Lazy;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Where the process's time starts: read once, so that stores opened one after the other under the
/// same name never go back in time, and their epochs neither.
static START: Lazy<(Instant, u64)> = Lazy::new(|| {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (Instant::now(), wall.as_millis() as u64)
});

/// Milliseconds since 1970 that only ever grow: a jump of the wall clock expires nobody.
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
