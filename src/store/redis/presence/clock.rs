//! An estimate of the server's clock between two answers. It is only used for times that must be
//! written before the server answers: the time in an event that a transaction publishes
//! (`patch.rs`). The server checks that time (patch_check.lua). All other operations use the
//! server's `TIME`.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// How long an answer can be used.
const KEEPS: Duration = Duration::from_secs(60);
/// Clocks run at different rates. In each 1000 ms here, at least this many ms pass on the server.
const SURE_OF_1000: u64 = 999;

/// Never ahead of the server's clock, unless that clock is set back.
#[derive(Default)]
pub struct ServerClock(Mutex<Option<(u64, Instant)>>);

impl ServerClock {
    /// Records the time of an answer (ms since 1970).
    pub fn heard(&self, at_ms: u64) {
        let mut last = self.0.lock();
        // Answers are delayed by different amounts. Each gives a lower bound, and the highest is
        // the best.
        if read(*last).is_none_or(|now| at_ms > now) {
            *last = Some((at_ms, Instant::now()));
        }
    }

    /// The clock was set back, so earlier answers are wrong.
    pub fn reset(&self, at_ms: u64) {
        *self.0.lock() = Some((at_ms, Instant::now()));
    }

    /// A lower bound of the server's time in ms since 1970, if there is one.
    pub fn now(&self) -> Option<u64> {
        read(*self.0.lock())
    }
}

fn read(last: Option<(u64, Instant)>) -> Option<u64> {
    let (at_ms, heard) = last?;
    let since = heard.elapsed();
    let passed = since.as_millis() as u64 * SURE_OF_1000 / 1000;
    (since < KEEPS).then_some(at_ms + passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_time_counts_until_the_clock_is_set_back() {
        let clock = ServerClock::default();
        assert_eq!(clock.now(), None);
        clock.heard(1_000_000);
        clock.heard(2_000_000);
        clock.heard(1_500_000);
        assert!((2_000_000..2_010_000).contains(&clock.now().unwrap()));
        clock.reset(1_000_000);
        assert!((1_000_000..1_010_000).contains(&clock.now().unwrap()));
    }
}
