//! A rate limit with bursts, for actions that can be deferred. It is the generic cell rate
//! algorithm (ITU-T I.371), which stores one time instead of a count of tokens.

use std::time::{Duration, Instant};

/// Permits an action each `interval` on average, and `burst` actions at once after a pause.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    tolerance: Duration,
    /// The time at which the actions so far would have ended at one per interval.
    paid_until: Option<Instant>,
}

impl Pace {
    pub const fn new(interval: Duration, burst: u32) -> Self {
        Pace {
            interval,
            tolerance: interval.saturating_mul(burst.saturating_sub(1)),
            paid_until: None,
        }
    }

    /// Takes one action.
    ///
    /// # Errors
    ///
    /// The time from which the action is permitted.
    pub fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let paid_until = self.paid_until.map_or(now, |until| until.max(now));
        let permitted = paid_until.checked_sub(self.tolerance).unwrap_or(now);
        if permitted > now {
            return Err(permitted);
        }
        self.paid_until = Some(paid_until + self.interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);

    #[test]
    fn a_burst_is_permitted_at_once_and_then_one_each_interval() {
        let mut pace = Pace::new(INTERVAL, 3);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(pace.take(start), Ok(()));
        }
        assert_eq!(pace.take(start), Err(start + INTERVAL));
        assert_eq!(pace.take(start + INTERVAL), Ok(()));
        assert_eq!(pace.take(start + INTERVAL), Err(start + 2 * INTERVAL));
        // A pause permits no more than one burst.
        let later = start + 100 * INTERVAL;
        let permitted = (0..10).filter(|_| pace.take(later).is_ok()).count();
        assert_eq!(permitted, 3);
    }

    #[test]
    fn actions_at_the_rate_are_all_permitted() {
        let mut pace = Pace::new(INTERVAL, 1);
        let start = Instant::now();
        assert!((0..100).all(|n| pace.take(start + n * INTERVAL).is_ok()));
    }
}
