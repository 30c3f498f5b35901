//! Counts the events and notifications of a client's store, and passes them on.

use crate::{
    heartbeat::ResultSink,
    lock::{LockLostListener, WakeupRegistry},
    metrics::{Metrics, count},
    store::{ConnectionState, EventSink, Feed, LogLevel, StoreNotifications, lock::LockCall},
};
use std::sync::Arc;
use tokio::sync::Notify;

/// The callbacks of the core. Methods are called on the core's threads and must not block.
pub trait ClientCallbacks: ResultSink + LockLostListener {
    /// An event, as for [`EventSink::event`].
    fn event(&self, feed: Feed, payload: &str) -> u64;
    /// Events between the last one and this call may have been missed.
    fn gap(&self);
    /// The connection to the store changed.
    fn state(&self, state: ConnectionState, detail: &str);
    /// A message for the log.
    fn log(&self, level: LogLevel, message: &str);
}

/// Counts events and notifications.
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
        // Notifications of expirations may have been missed too.
        self.due.notify_one();
        self.callbacks.gap();
    }

    fn malformed(&self) {
        count(&self.metrics.counters.events_malformed, 1);
    }

    fn lock_call(&self, call: LockCall) {
        self.wakeups.call(call);
    }
}

impl StoreNotifications for CountingSink {
    fn state(&self, state: ConnectionState, detail: &str) {
        if state == ConnectionState::Disconnected {
            count(&self.metrics.counters.disconnects, 1);
        }
        self.callbacks.state(state, detail);
    }

    fn expired(&self) {
        count(&self.metrics.counters.notifications, 1);
        self.due.notify_one();
    }

    fn unreadable_state(&self) {
        count(&self.metrics.counters.states_unreadable, 1);
    }

    fn log(&self, level: LogLevel, message: &str) {
        self.callbacks.log(level, message);
    }
}
