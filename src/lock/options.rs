//! Options of locks on several servers, as JavaScript passes them, with defaults and checks.

use super::DRIFT_FACTOR;
use crate::model::error::{Error, Result};
use serde::Deserialize;
use std::collections::HashSet;

/// Options of locks on several servers. Times are in milliseconds.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct QuorumOptions {
    /// The servers. If there are none, locks are on the same server as all other data.
    pub urls: Vec<String>,
    /// Maximum difference in speed between two clocks, as a fraction of a TTL. Default 0.01.
    pub drift_factor: f64,
    /// Maximum number of retries. Default 3.
    pub retry_count: u32,
    /// Pause before a retry. Default 200.
    pub retry_delay_ms: u64,
    /// Maximum random time that is added to a pause. Default 200.
    pub retry_jitter_ms: u64,
}

impl Default for QuorumOptions {
    fn default() -> Self {
        QuorumOptions {
            urls: Vec::new(),
            drift_factor: DRIFT_FACTOR,
            retry_count: 3,
            retry_delay_ms: 200,
            retry_jitter_ms: 200,
        }
    }
}

/// Minimum number of servers: if one of two is down, no majority is left.
const MIN_SERVERS: usize = 3;

impl QuorumOptions {
    pub fn check(&self) -> Result<()> {
        let mut seen = HashSet::new();
        if !self.urls.is_empty() && self.urls.len() < MIN_SERVERS {
            return Err(Error::invalid(format!(
                "locks.urls (or url) must name at least {MIN_SERVERS} servers, got {}: of fewer, none may be \
                 down",
                self.urls.len()
            )));
        }
        if !self.urls.iter().all(|url| seen.insert(url)) {
            return Err(Error::invalid(
                "locks.urls names a server twice; each must be a server of its own",
            ));
        }
        if !(0.0..=0.5).contains(&self.drift_factor) {
            return Err(Error::invalid(format!(
                "locks.driftFactor must be between 0 and 0.5, got {}",
                self.drift_factor
            )));
        }
        for (field, value, most) in [
            ("locks.retryCount", u64::from(self.retry_count), 1_000),
            ("locks.retryDelayMs", self.retry_delay_ms, 60_000),
            ("locks.retryJitterMs", self.retry_jitter_ms, 60_000),
        ] {
            if value > most {
                return Err(Error::invalid(format!(
                    "{field} must be between 0 and {most}, got {value}"
                )));
            }
        }
        Ok(())
    }
}
