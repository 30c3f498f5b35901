//! The reaper: passes over what is due (spec section 6), at a pace that keeps a `leave` within
//! `sweepIntervalMs` of the connection's TTL.

use crate::{
    metrics::{Metrics, count},
    model::{error::Result, presence::Sweep},
    store::{EventSink, LogLevel, Store},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

pub struct Reaper {
    pub store: Arc<dyn Store>,
    pub metrics: Arc<Metrics>,
    pub sink: Arc<dyn EventSink>,
    pub ttl_ms: u64,
    pub sweep_interval: Duration,
    pub fallback_interval: Duration,
}

impl Reaper {
    /// One full pass: rooms that only other nodes wrote are taken in, then all that is due is
    /// looked at.
    pub async fn pass(&self) -> Result<Sweep> {
        self.store.adopt().await?;
        self.sweep().await
    }

    /// Passes until the task is aborted. A connection whose TTL runs out right after a pass waits
    /// for the next one, so passes come twice in an interval: half of it to wait, half to work.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.sweep_interval / 2);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut adopted: Option<Instant> = None;
        let mut failing = false;
        loop {
            ticks.tick().await;
            let adopt = adopted.is_none_or(|at| at.elapsed() >= self.fallback_interval);
            let done = if adopt {
                self.pass().await
            } else {
                self.sweep().await
            };
            match done {
                Ok(_) => {
                    if adopt {
                        adopted = Some(Instant::now());
                    }
                    failing = false;
                }
                Err(error) if !failing => {
                    failing = true;
                    self.sink
                        .log(LogLevel::Warn, &format!("The reaper cannot sweep: {error}"));
                }
                Err(_) => {}
            }
        }
    }

    async fn sweep(&self) -> Result<Sweep> {
        let counters = &self.metrics.counters;
        match self.store.sweep(self.ttl_ms).await {
            Ok(sweep) => {
                count(&counters.sweeps, 1);
                count(&counters.rooms_swept, sweep.rooms);
                count(&counters.expired, sweep.expired);
                Ok(sweep)
            }
            Err(error) => {
                count(&counters.sweeps_failed, 1);
                Err(error)
            }
        }
    }
}
