//! Pub/sub channels, and the commands that subscribe to them.

use crate::store::{Topic, redis::pubsub::listener::Listener};
use redis::Cmd;

/// A pub/sub channel of the server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Channel {
    Pattern(String),
    Plain(String),
    /// A channel that belongs to a slot.
    Sharded(String),
}

impl Channel {
    /// The channel of a topic, without sharded pub/sub.
    pub fn of(topic: &Topic, listener: &Listener) -> Channel {
        let keys = &listener.keys;
        match topic {
            Topic::AllRooms => Channel::Pattern(keys.events_pattern()),
            Topic::Room(room) => Channel::Plain(keys.room_events(room)),
            Topic::Expirations => Channel::Plain(listener.expired_channel.clone()),
            Topic::AllChannels => Channel::Pattern(keys.channel_events_pattern()),
            Topic::Channel(of) => Channel::Plain(keys.channel_events(of)),
            Topic::AllLocks => Channel::Pattern(keys.lock_events_pattern()),
            Topic::Lock(name) => Channel::Plain(keys.lock_events(name)),
            Topic::NodeCalls(id) => Channel::Plain(keys.node_calls(id)),
            Topic::LockCalls => Channel::Plain(listener.wake_channel.clone()),
        }
    }

    pub fn subscribe(&self) -> Cmd {
        self.cmd("PSUBSCRIBE", "SUBSCRIBE", "SSUBSCRIBE")
    }

    pub fn unsubscribe(&self) -> Cmd {
        self.cmd("PUNSUBSCRIBE", "UNSUBSCRIBE", "SUNSUBSCRIBE")
    }

    fn cmd(&self, pattern: &str, plain: &str, sharded: &str) -> Cmd {
        let (verb, name) = match self {
            Channel::Pattern(name) => (pattern, name),
            Channel::Plain(name) => (plain, name),
            Channel::Sharded(name) => (sharded, name),
        };
        redis::cmd(verb).arg(name).to_owned()
    }
}
