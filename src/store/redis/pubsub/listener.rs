//! Checks incoming messages and passes them to the sink.

use crate::{
    failpoints::failpoint,
    keys::{Keys, slot_of},
    model::{event, json, limits::Limits, lock::is_lock_event, metadata::event::is_metadata_event},
    store::{
        Feed, LogLevel, Sinks,
        redis::{expiry, locks, nodes, pubsub::dedup::MessageDedup},
    },
};
use redis::{PushInfo, PushKind, Value};
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum bytes of an event beside its state: ids (escaped, at most six times as long), numbers,
/// names.
const EVENT_OVERHEAD: usize = 3 * 6 * 4096 + 1024;

/// Maximum depth at which an event nests values.
const EVENT_DEPTH: usize = 3;

pub struct Listener {
    pub keys: Keys,
    pub sinks: Sinks,
    most_event_bytes: usize,
    most_metadata_event_bytes: usize,
    /// Maximum nesting depth of values in events, for encoders that recurse.
    max_depth: usize,
    /// The channel on which a server publishes expired keys.
    pub expired_channel: String,
    /// The channel on which scripts notify this node of changes of its claims on locks.
    pub wake_channel: String,
    /// Whether the refusal of the flags was already logged.
    told_refusal: AtomicBool,
    dedup: MessageDedup,
}

impl Listener {
    pub fn new(db: i64, keys: Keys, wake_channel: &str, limits: &Limits, sinks: Sinks) -> Self {
        Listener {
            sinks,
            most_event_bytes: limits.max_state_bytes.saturating_add(EVENT_OVERHEAD),
            // An item is up to a third longer in an event than in a record.
            most_metadata_event_bytes: limits
                .max_metadata_record_bytes
                .saturating_mul(2)
                .saturating_add(EVENT_OVERHEAD),
            max_depth: limits.max_depth,
            expired_channel: expiry::expired_channel(db),
            wake_channel: wake_channel.into(),
            keys,
            told_refusal: AtomicBool::new(false),
            dedup: MessageDedup::default(),
        }
    }

    /// Logs, once, that a server no longer allows notifications to be enabled.
    pub fn flags_are_refused(&self) {
        if !self.told_refusal.swap(true, Ordering::Relaxed) {
            self.sinks.notifications.log(
                LogLevel::Warn,
                "The server does not let this user set notify-keyspace-events (CONFIG) \
                 any more; without notifications, dead connections are found within \
                 fallbackSweepMs",
            );
        }
    }

    /// Runs on the connection's task, in the order in which the server sent. `of_cluster`: the
    /// number of that connection, if there are several.
    pub fn receive(&self, push: &PushInfo, of_cluster: Option<u64>) {
        let (is_pattern, channel, payload) = match (&push.kind, push.data.as_slice()) {
            (PushKind::Message | PushKind::SMessage, [channel, payload]) => {
                (false, channel, payload)
            }
            (PushKind::PMessage, [_, channel, payload]) => (true, channel, payload),
            _ => return,
        };
        if text(channel).is_some_and(|channel| channel == self.expired_channel) {
            if text(payload).is_some_and(|key| self.keys.is_conn(key)) {
                self.sinks.notifications.expired();
            }
            return;
        }
        let (Some(channel), Some(payload)) = (text(channel), text(payload)) else {
            return self.sinks.events.malformed();
        };
        if channel == self.wake_channel {
            return match locks::parse_call(payload) {
                Some(call) => self.sinks.events.lock_call(call),
                None => self.sinks.events.malformed(),
            };
        }
        if self.keys.is_node_calls(channel) {
            return match nodes::parse_call(payload) {
                Some(gone) => self.sinks.events.dispossessed(Some(gone)),
                None => self.sinks.events.malformed(),
            };
        }
        // On a cluster, a message reaches all servers, and a sharded message the replicas of its
        // master, each at its own time.
        if let Some(connection) = of_cluster
            && !self
                .dedup
                .is_new(connection, (is_pattern, channel, payload))
        {
            return;
        }
        let Some(feed) = self.feed(is_pattern, channel, payload) else {
            return self.sinks.events.malformed();
        };
        if !json::is_deeper(payload, self.max_depth.saturating_add(EVENT_DEPTH)) {
            self.sinks.events.event(feed, payload);
            return;
        }
        // The event was written by a node without this limit, or with another one.
        match self.shallow(feed, payload) {
            Some(payload) => {
                self.sinks.notifications.unreadable_state();
                self.sinks.events.event(feed, &payload);
            }
            None => self.sinks.events.malformed(),
        }
    }

    /// A presence event without its state, which is nested too deeply; `None` for other events.
    fn shallow(&self, feed: Feed, payload: &str) -> Option<String> {
        let is_presence = matches!(feed, Feed::AllRooms | Feed::Room);
        let shallow = event::without_state(payload).filter(|_| is_presence)?;
        let too_deep = json::is_deeper(&shallow, self.max_depth.saturating_add(EVENT_DEPTH));
        (!too_deep).then_some(shallow)
    }

    /// The feed of a message; `None` if the payload is not an event of the channel that it was
    /// published on.
    fn feed(&self, is_pattern: bool, channel: &str, payload: &str) -> Option<Feed> {
        let fits = || payload.len() <= self.most_event_bytes;
        if self.keys.is_slot_events(channel) {
            let room = event::room_of_presence_event(payload).filter(|_| fits())?;
            let events = self.keys.room_events(&room);
            let fits = slot_of(events.as_bytes()) == slot_of(channel.as_bytes());
            return fits.then_some(Feed::AllRooms);
        }
        let (fits, of_all, of_one) = if let Some(room) = self.keys.room_of_events(channel) {
            let fits = fits() && event::is_presence_event(payload, &room);
            (fits, Feed::AllRooms, Feed::Room)
        } else if let Some(of) = self.keys.channel_of_events(channel) {
            let fits =
                payload.len() <= self.most_metadata_event_bytes && is_metadata_event(payload, &of);
            (fits, Feed::AllChannels, Feed::Channel)
        } else {
            let name = self.keys.lock_of_events(channel)?;
            (is_lock_event(payload, &name), Feed::AllLocks, Feed::Lock)
        };
        (fits || failpoint!(Forged)).then_some(if is_pattern { of_all } else { of_one })
    }
}

pub fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
