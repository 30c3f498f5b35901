//! The arguments that a layout adds to the calls of its scripts within a room: keys, and a last
//! argument.

use crate::{
    keys::Keys,
    model::presence::Place,
    store::redis::scripts::{Script, slotted, v1},
};
use redis::Cmd;

/// The scripts of a layout that work on one room.
pub(in crate::store::redis) struct RoomScripts {
    pub join: &'static Script,
    pub leave: &'static Script,
    pub heartbeat: &'static Script,
    pub patch_batch: &'static Script,
    pub reap: &'static Script,
    pub repair: &'static Script,
}

/// The keys that a layout's scripts take. Each method appends to the keys that are common to all
/// layouts.
pub(in crate::store::redis) trait LayoutCalls: Send + Sync {
    fn scripts(&self) -> RoomScripts;

    /// The index of a user's connections that scripts within the room write.
    fn user_conns(&self, room: &str, user: &str) -> String;

    /// `join.lua`, `leave.lua`: the indices besides the room's own.
    fn add_indices(&self, keys: &mut Vec<String>, room: &str, user: &str);

    /// `join.lua`, `heartbeat.lua`: the record and the connections of the owner.
    fn add_owner(&self, keys: &mut Vec<String>, node: &str);

    /// `leave.lua`: the connections of the node that calls.
    fn add_caller(&self, keys: &mut Vec<String>, node: &str);

    /// `join.lua`: the place that the connection leaves first.
    fn add_previous(&self, keys: &mut Vec<String>, place: &Place);

    /// `room_inspect.lua`: the room's outbox, if the layout has one.
    fn add_outbox(&self, keys: &mut Vec<String>, room: &str);

    /// `reap.lua`, `repair.lua`: the indices of rooms.
    fn add_room_indices(&self, keys: &mut Vec<String>, room: &str);

    /// `reap.lua`, `repair.lua`: the indices of a connection's user, or of a member.
    fn add_user_indices(&self, keys: &mut Vec<String>, room: &str, user: &str);

    /// `heartbeat.lua`, `patch_batch.lua`: the channels of events besides the room's channel.
    fn add_event_channels(&self, keys: &mut Vec<String>, room: &str);

    /// `heartbeat.lua`: the room's shard of the due index, if the script writes it.
    fn add_due(&self, keys: &mut Vec<String>, room: &str);

    /// The last argument of all these scripts.
    fn add_last_argument(&self, call: &mut Cmd);
}

/// The layout `v1`: scripts write all indices.
pub(in crate::store::redis) struct V1Calls {
    pub keys: Keys,
}

impl LayoutCalls for V1Calls {
    fn scripts(&self) -> RoomScripts {
        RoomScripts {
            join: &v1::JOIN,
            leave: &v1::LEAVE,
            heartbeat: &v1::HEARTBEAT,
            patch_batch: &v1::PATCH_BATCH,
            reap: &v1::REAP,
            repair: &v1::REPAIR,
        }
    }

    fn user_conns(&self, _room: &str, user: &str) -> String {
        self.keys.user_conns(user)
    }

    fn add_indices(&self, keys: &mut Vec<String>, room: &str, user: &str) {
        keys.push(self.keys.user_rooms(user));
        self.add_room_indices(keys, room);
    }

    fn add_owner(&self, keys: &mut Vec<String>, node: &str) {
        keys.extend([self.keys.node(node), self.keys.node_conns(node)]);
    }

    fn add_caller(&self, keys: &mut Vec<String>, node: &str) {
        keys.push(self.keys.node_conns(node));
    }

    fn add_previous(&self, keys: &mut Vec<String>, place: &Place) {
        let room = self.keys.room(&place.room);
        keys.extend([
            room.conns,
            room.members,
            room.last_seen,
            room.conn_meta,
            room.events,
        ]);
        self.add_user_indices(keys, &place.room, &place.user);
        keys.push(self.keys.due_of(&place.room));
    }

    fn add_room_indices(&self, keys: &mut Vec<String>, room: &str) {
        keys.extend([self.keys.active_rooms(), self.keys.due_of(room)]);
    }

    fn add_user_indices(&self, keys: &mut Vec<String>, _room: &str, user: &str) {
        keys.extend([self.keys.user_conns(user), self.keys.user_rooms(user)]);
    }

    fn add_outbox(&self, _keys: &mut Vec<String>, _room: &str) {}

    fn add_event_channels(&self, _keys: &mut Vec<String>, _room: &str) {}

    fn add_due(&self, keys: &mut Vec<String>, room: &str) {
        keys.push(self.keys.due_of(room));
    }

    fn add_last_argument(&self, _call: &mut Cmd) {}
}

/// The layout `slotted`: scripts write the keys in the room's slot, and an outbox for the other
/// keys.
pub(in crate::store::redis) struct SlottedCalls {
    pub keys: Keys,
}

impl LayoutCalls for SlottedCalls {
    fn scripts(&self) -> RoomScripts {
        RoomScripts {
            join: &slotted::JOIN,
            leave: &slotted::LEAVE,
            heartbeat: &slotted::HEARTBEAT,
            patch_batch: &slotted::PATCH_BATCH,
            reap: &slotted::REAP,
            repair: &slotted::REPAIR,
        }
    }

    fn user_conns(&self, room: &str, user: &str) -> String {
        self.keys.user_conns_in_room(room, user)
    }

    fn add_indices(&self, keys: &mut Vec<String>, room: &str, _user: &str) {
        self.add_room_indices(keys, room);
    }

    fn add_owner(&self, _keys: &mut Vec<String>, _node: &str) {}

    fn add_caller(&self, _keys: &mut Vec<String>, _node: &str) {}

    /// The previous place is in the same room.
    fn add_previous(&self, keys: &mut Vec<String>, place: &Place) {
        keys.push(self.user_conns(&place.room, &place.user));
    }

    fn add_outbox(&self, keys: &mut Vec<String>, room: &str) {
        keys.push(self.keys.outbox(room));
    }

    fn add_room_indices(&self, keys: &mut Vec<String>, room: &str) {
        self.add_outbox(keys, room);
        self.add_event_channels(keys, room);
    }

    fn add_user_indices(&self, keys: &mut Vec<String>, room: &str, user: &str) {
        keys.push(self.user_conns(room, user));
    }

    fn add_event_channels(&self, keys: &mut Vec<String>, room: &str) {
        keys.push(self.keys.slot_events_of(room));
    }

    fn add_due(&self, _keys: &mut Vec<String>, _room: &str) {}

    fn add_last_argument(&self, call: &mut Cmd) {
        call.arg(if self.keys.has_sharded_events() {
            "SPUBLISH"
        } else {
            "PUBLISH"
        });
    }
}
