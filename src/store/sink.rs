//! The output of a store: events for subscriptions ([`EventSink`]), and notifications about the
//! store itself ([`StoreNotifications`]). Methods are called on the store's threads and must not
//! block.

use super::{Feed, lock::LockCall, node::Dispossessed};
use std::sync::Arc;

/// Receives the messages of subscriptions, in the order in which the store applied them.
pub trait EventSink: Send + Sync + 'static {
    /// An event, as the text that was published. `feed` is the kind of its subscription: if both a
    /// room and all rooms are subscribed, an event comes once for each. Returns the number of
    /// events that were dropped because too many wait to be taken. In that case, the sink has
    /// reported the gap itself.
    fn event(&self, feed: Feed, payload: &str) -> u64;
    /// Events between the last one and this call may have been missed.
    fn gap(&self);
    /// A message on a channel of Rollcall was dropped because it is not a valid event.
    fn malformed(&self) {}
    /// A call for a claim of this node on a lock.
    fn lock_call(&self, _call: LockCall) {}
    /// This node does not own a connection any more. `None`: such messages may have been missed.
    fn dispossessed(&self, _connection: Option<Dispossessed>) {}
}

/// Receives what a store reports about itself and its data.
pub trait StoreNotifications: Send + Sync + 'static {
    /// The connection to the store changed.
    fn state(&self, _state: ConnectionState, _detail: &str) {}
    /// The store reports that a connection has expired, so something may be due.
    fn expired(&self) {}
    /// A stored state could not be read and is returned as `null`.
    fn unreadable_state(&self) {}
    /// A message for the log.
    fn log(&self, _level: LogLevel, _message: &str) {}
}

/// Both sinks of a store.
#[derive(Clone)]
pub struct Sinks {
    pub events: Arc<dyn EventSink>,
    pub notifications: Arc<dyn StoreNotifications>,
}

impl Sinks {
    /// Uses one sink for both.
    pub fn new(sink: Arc<impl EventSink + StoreNotifications>) -> Sinks {
        Sinks {
            events: sink.clone(),
            notifications: sink,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    Connected,
    Disconnected,
}

impl ConnectionState {
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectionState::Connected => "connected",
            ConnectionState::Disconnected => "disconnected",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
        }
    }
}
