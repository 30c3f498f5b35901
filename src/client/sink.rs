//! Counts the events and notifications of a client's store, and passes them on.

use crate::{
    heartbeat::ResultSink,
    liveness::{Node, NodeListener},
    lock::{LockLostListener, WakeupRegistry},
    metrics::{Metrics, count},
    model::presence::Epoch,
    store::{
        ConnectionState, EventSink, Feed, LogLevel, StoreNotifications, lock::LockCall,
        node::Dispossessed,
    },
};
use std::sync::{Arc, OnceLock, Weak};
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
    /// A notice about the connections that this node answers for.
    fn liveness(&self, notice: LivenessNotice<'_>);
}

/// A notice about the connections that this node answers for.
#[derive(Clone, Copy, Debug)]
pub enum LivenessNotice<'a> {
    /// This node does not own the connection with this epoch any more.
    Dispossessed(&'a str, Epoch),
    /// The connection was joined again, and has this epoch now.
    Restored(&'a str, Epoch),
    /// The node was declared dead, and owns nothing any more.
    LeaseLost,
}

/// Passes the notices of a node on.
pub(super) struct LivenessNotices(pub Arc<dyn ClientCallbacks>);

impl NodeListener for LivenessNotices {
    fn dispossessed(&self, conn: &str, epoch: Epoch) {
        self.0.liveness(LivenessNotice::Dispossessed(conn, epoch));
    }

    fn restored(&self, conn: &str, epoch: Epoch) {
        self.0.liveness(LivenessNotice::Restored(conn, epoch));
    }

    fn lease_lost(&self) {
        self.0.liveness(LivenessNotice::LeaseLost);
    }
}

/// Counts events and notifications.
pub(super) struct CountingSink {
    pub callbacks: Arc<dyn ClientCallbacks>,
    pub metrics: Arc<Metrics>,
    /// Wakes the reaper.
    pub due: Arc<Notify>,
    pub wakeups: Arc<WakeupRegistry>,
    /// Set when the client is complete.
    pub node: OnceLock<Weak<Node>>,
}

impl CountingSink {
    fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }
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

    fn dispossessed(&self, connection: Option<Dispossessed>) {
        if let Some(node) = self.node() {
            node.handle(connection);
        }
    }
}

impl StoreNotifications for CountingSink {
    fn state(&self, state: ConnectionState, detail: &str) {
        if state == ConnectionState::Disconnected {
            count(&self.metrics.counters.disconnects, 1);
        } else if let Some(node) = self.node() {
            node.reconnected();
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
