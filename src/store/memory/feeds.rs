//! The subscriptions of the in-process store.

use crate::{
    model::metadata::Channel,
    store::{EventSink, Feed, Topic, lock::LockCall, node::Dispossessed},
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// Identifies one handle on a core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HandleId(pub(super) u64);

/// The subscriptions of every handle on a core.
#[derive(Default)]
pub(super) struct Feeds(HashMap<Topic, BTreeMap<HandleId, Arc<dyn EventSink>>>);

impl Feeds {
    pub(super) fn subscribe(&mut self, topic: &Topic, handle: HandleId, sink: &Arc<dyn EventSink>) {
        self.0
            .entry(topic.clone())
            .or_default()
            .insert(handle, sink.clone());
    }

    pub(super) fn unsubscribe(&mut self, topic: &Topic, handle: HandleId) {
        if let Some(sinks) = self.0.get_mut(topic) {
            sinks.remove(&handle);
            if sinks.is_empty() {
                self.0.remove(topic);
            }
        }
    }

    pub(super) fn drop_handle(&mut self, handle: HandleId) {
        self.0.retain(|_, sinks| {
            sinks.remove(&handle);
            !sinks.is_empty()
        });
    }

    /// Emits the event of a room to its subscribers: first to subscribers of the room, then to
    /// those of all rooms, in the order in which Redis delivers to channels and patterns.
    pub(super) fn publish(&self, room: &Arc<str>, text: impl FnOnce() -> String) {
        if self.0.is_empty() {
            return;
        }
        self.hand_out(
            [
                (Feed::Room, Topic::Room(room.clone())),
                (Feed::AllRooms, Topic::AllRooms),
            ],
            text,
        );
    }

    /// Emits a metadata event of a channel in the same way.
    pub(super) fn publish_metadata(&self, channel: &Channel, text: impl FnOnce() -> String) {
        if self.0.is_empty() {
            return;
        }
        self.hand_out(
            [
                (Feed::Channel, Topic::Channel(channel.clone())),
                (Feed::AllChannels, Topic::AllChannels),
            ],
            text,
        );
    }

    /// Notifies a handle of a change of one of its claims, if it has subscribed.
    pub(super) fn call(&self, handle: HandleId, call: LockCall) {
        let listening = self.0.get(&Topic::LockCalls);
        if let Some(sink) = listening.and_then(|sinks| sinks.get(&handle)) {
            sink.lock_call(call);
        }
    }

    /// Notifies a node that it does not own a connection any more, if it has subscribed. Only its
    /// own handle subscribes to the topic, because the topic contains its id.
    pub(super) fn dispossess(&self, node: &Arc<str>, connection: impl FnOnce() -> Dispossessed) {
        if let Some(sinks) = self.0.get(&Topic::NodeCalls(node.clone())) {
            let connection = connection();
            for sink in sinks.values() {
                sink.dispossessed(Some(connection.clone()));
            }
        }
    }

    /// Emits an event to every subscriber of some topics, in the order of the topics. The text is
    /// only built if there is a subscriber.
    pub(super) fn hand_out<const N: usize>(
        &self,
        topics: [(Feed, Topic); N],
        text: impl FnOnce() -> String,
    ) {
        let heard = topics.map(|(feed, topic)| (feed, self.0.get(&topic)));
        if heard.iter().all(|(_, sinks)| sinks.is_none()) {
            return;
        }
        let text = text();
        for (feed, sinks) in heard {
            for sink in sinks.into_iter().flat_map(BTreeMap::values) {
                sink.event(feed, &text);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
