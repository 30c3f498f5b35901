//! What a client's store tells, counted, and passed on to whom it is for.

use crate::{
    heartbeat::ResultSink,
    lock::{LockLostListener, WakeupRegistry},
    metrics::{Metrics, count},
    store::{ConnectionState, EventSink, Feed, LogLevel, lock::LockCall},
};
use std::sync::Arc;
use tokio::sync::Notify;

/// What leaves the core. Methods must not block; they are called from the core's threads.
pub trait ClientCallbacks: EventSink + ResultSink + LockLostListener {}
impl<T: EventSink + ResultSink + LockLostListener> ClientCallbacks for T {}

/// Counts what passes.
pub(super) struct CountingSink {
    pub callbacks: Arc<dyn ClientCallbacks>,
    pub metrics: Arc<Metrics>,
    /// Wakes the reaper.
    pub due: Arc<Notify>,
    pub wakeups: Arc<WakeupRegistry>,
}

impl EventSink for CountingSink {
    fn event(&self, feed: Feed, payload: &str) -> u64 {
        let counter = match feed {
            Feed::AllLocks | Feed::Lock => &self.metrics.counters.lock_events,
            _ => &self.metrics.counters.events,
        };
        count(counter, 1);
        let dropped = self.callbacks.event(feed, payload);
        if dropped > 0 {
            tracing::debug!(dropped, "the queue of events is full; resync");
            count(&self.metrics.counters.events_dropped, dropped);
            count(&self.metrics.counters.resyncs, 1);
        }
        dropped
    }

    fn gap(&self) {
        count(&self.metrics.counters.resyncs, 1);
        tracing::debug!("events may have been missed; resync");
        // Notifications may be among what was missed.
        self.due.notify_one();
        self.callbacks.gap();
    }

    fn expired(&self) {
        count(&self.metrics.counters.notifications, 1);
        self.due.notify_one();
    }

    fn lock_call(&self, call: LockCall) {
        self.wakeups.call(call);
    }

    fn unreadable_state(&self) {
        count(&self.metrics.counters.states_unreadable, 1);
    }

    fn malformed(&self) {
        count(&self.metrics.counters.events_malformed, 1);
        self.callbacks.malformed();
    }

    fn state(&self, state: ConnectionState, detail: &str) {
        if state == ConnectionState::Disconnected {
            count(&self.metrics.counters.disconnects, 1);
        }
        self.callbacks.state(state, detail);
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.callbacks.log(level, message);
    }
}
