//! What a store hands over: events for whoever subscribed ([`EventSink`]), and notifications about the store
//! itself ([`StoreNotifications`]). Methods are called on the store's threads and must not block.

use super::{Feed, lock::LockCall};
use std::sync::Arc;

/// Takes what comes in on subscriptions, in the order in which the store applied it.
pub trait EventSink: Send + Sync + 'static {
    /// An event, as the text that was published. `feed` says which kind of subscription it belongs
    /// to: with a room and all rooms subscribed, an event comes once for each. Returns how many
    /// events were dropped because too many wait to be taken; then the sink has reported the gap
    /// itself.
    fn event(&self, feed: Feed, payload: &str) -> u64;
    /// Events may have been missed from here on back to the last one.
    fn gap(&self);
    /// A message on one of our channels that is no event of ours was dropped.
    fn malformed(&self) {}
    /// Something about a claim of this node on a lock.
    fn lock_call(&self, _call: LockCall) {}
}

/// Takes what a store reports about itself and its data.
pub trait StoreNotifications: Send + Sync + 'static {
    /// The connection to the store changed.
    fn state(&self, _state: ConnectionState, _detail: &str) {}
    /// A connection has expired, says the store: something may be due.
    fn expired(&self) {}
    /// A stored state could not be read and is shown as `null`.
    fn unreadable_state(&self) {}
    /// Something for the log.
    fn log(&self, _level: LogLevel, _message: &str) {}
}

/// Where a store hands over what it hears: both parts.
#[derive(Clone)]
pub struct Sinks {
    pub events: Arc<dyn EventSink>,
    pub notifications: Arc<dyn StoreNotifications>,
}

impl Sinks {
    /// One sink for both.
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
