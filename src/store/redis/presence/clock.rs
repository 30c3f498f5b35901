//! The server's clock as a node can tell it between two answers. Only for what has to be written down
//! before the server is asked: the time in an event that a transaction publishes (`patch.rs`). The
//! server checks it (patch_check.lua); everything else takes its own `TIME`.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// For how long an answer is of use.
const KEEPS: Duration = Duration::from_secs(60);
/// Clocks do not run equally fast: of each 1000 ms here, so many are sure to have passed there.
const SURE_OF_1000: u64 = 999;

/// Never ahead of the server, as long as the server's clock is not set back.
#[derive(Default)]
pub struct ServerClock(Mutex<Option<(u64, Instant)>>);

impl ServerClock {
    /// An answer said that it was made at this time (ms since 1970).
    pub fn heard(&self, at_ms: u64) {
        let mut last = self.0.lock();
        // Answers come late, some later than others: of two lower bounds the higher is the better.
        if read(*last).is_none_or(|now| at_ms > now) {
            *last = Some((at_ms, Instant::now()));
        }
    }

    /// The clock has been set back: what was heard before is wrong.
    pub fn reset(&self, at_ms: u64) {
        *self.0.lock() = Some((at_ms, Instant::now()));
    }

    /// What time it is at least, in ms since 1970, if that can be told.
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
