//! The names of all keys, channels and patterns (spec section 2). No other file builds such names.
//!
//! No two ids share a key. Each family of keys has its own literal start, contains one id, and ends
//! in a literal that no id can be part of, so the id can be parsed from the name. The one
//! exception, `prs:conn:<connId>:state` and a connection id that ends in `:state`, is refused in
//! `model/ids.rs`.
//!
//! On the layout `slotted` (docs/internals/cluster.md), all keys of a room have the room's hash
//! tag. Scripts get the same keys in the same positions as on `v1`. Keys that would be in another
//! slot are replaced by the room's `outbox`.

mod slots;
#[cfg(test)]
mod tests;

use crate::model::{
    error::{Error, Result},
    metadata::{Channel, ColonTypes},
};
use serde::Deserialize;
use slots::SLOT_TAGS;
pub use slots::{SLOTS, slot_of};
use std::{borrow::Cow, fmt::Write as _};

/// The suffix of the key of a connection's separate state.
const STATE_SUFFIX: &str = ":state";

/// Default number of shards of the due index.
pub const DEFAULT_SHARD_COUNT: u32 = 10;

/// How data are spread over keys.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The table of spec section 2, shared with legacy nodes.
    V1,
    /// All keys of a room in one slot.
    Slotted,
}

/// Builds names. Keys and channels may have different prefixes, because ioredis adds its own prefix
/// to keys only.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Box<str>,
    channel_prefix: Box<str>,
    shard_count: u32,
    layout: Layout,
    /// Whether events are published in their slots, and again for subscribers of all rooms.
    sharded: bool,
    channel_types: ColonTypes,
}

/// All names of a room.
#[derive(Clone, Debug)]
pub struct RoomKeys {
    pub conns: String,
    pub members: String,
    pub last_seen: String,
    pub conn_meta: String,
    pub events: String,
}

impl Keys {
    pub fn new(prefix: &str, shard_count: u32) -> Self {
        Keys {
            prefix: prefix.into(),
            channel_prefix: prefix.into(),
            shard_count: shard_count.max(1),
            layout: Layout::V1,
            sharded: false,
            channel_types: ColonTypes::default(),
        }
    }

    pub fn with_layout(self, layout: Layout) -> Self {
        Keys { layout, ..self }
    }

    /// The same, with events published in their slots.
    pub fn with_sharded_events(self, sharded: bool) -> Self {
        Keys { sharded, ..self }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn has_sharded_events(&self) -> bool {
        self.sharded
    }

    /// On `slotted`: fails if the prefixes would prevent a room's hash tag from being the key's
    /// hash tag.
    pub fn check(&self) -> Result<()> {
        let slots = [
            slot_of(self.room_conns("r").as_bytes()),
            slot_of(self.room_last_seen("r").as_bytes()),
            slot_of(self.room_events("r").as_bytes()),
        ];
        let lock = [self.lock("l"), self.lock_token("l"), self.lock_events("l")];
        let lock = lock.map(|key| slot_of(key.as_bytes()));
        let differ = |slots: [u16; 3]| slots.iter().any(|slot| *slot != slots[0]);
        if self.layout == Layout::Slotted && (differ(slots) || differ(lock)) {
            return Err(Error::invalid(
                "keyPrefix (and channelPrefix) must not hold `{}`, or braces that differ, with \
                 layout \"slotted\": everything of a room has to lie in one slot",
            ));
        }
        Ok(())
    }

    /// The same, with a separate prefix for channels.
    pub fn with_channel_prefix(self, prefix: &str) -> Self {
        Keys {
            channel_prefix: prefix.into(),
            ..self
        }
    }

    /// The same, with channel types that contain a colon.
    pub fn with_channel_types(self, channel_types: ColonTypes) -> Self {
        Keys {
            channel_types,
            ..self
        }
    }

    /// A connection's hash. The room is only part of the key on `slotted`.
    pub fn conn(&self, room: &str, conn: &str) -> String {
        let mut key = String::new();
        self.conn_prefix(room, &mut key);
        key.push_str(conn);
        key
    }

    /// Sets `key` to the common prefix of the keys of a room's connections.
    pub fn conn_prefix(&self, room: &str, key: &mut String) {
        key.clear();
        key.push_str(&self.prefix);
        if self.layout == Layout::Slotted {
            for part in ["{room:", &self.tag(room), "}:"] {
                key.push_str(part);
            }
        }
        key.push_str("conn:");
    }

    /// The position of the id in a connection's key, as `heartbeat_batch.lua` takes it: 1-based,
    /// or, if the room is part of the key, relative to the length of the room's `last_seen`.
    pub fn id_in_conn(&self) -> i64 {
        match self.layout {
            Layout::V1 => (self.prefix.len() + "conn:".len() + 1) as i64,
            Layout::Slotted => ":conn:".len() as i64 - ":last_seen".len() as i64 + 1,
        }
    }

    /// The separate key of a connection's state.
    pub fn conn_state(&self, room: &str, conn: &str) -> String {
        let mut key = self.conn(room, conn);
        key.push_str(STATE_SUFFIX);
        key
    }

    /// Whether this is the key of a connection's hash. The key of its separate state has the same
    /// prefix and ends in `:state`. No connection id ends so.
    pub fn is_conn(&self, key: &str) -> bool {
        let of_conn = key
            .strip_prefix(&*self.prefix)
            .and_then(|rest| match self.layout {
                Layout::V1 => rest.strip_prefix("conn:"),
                Layout::Slotted => rest
                    .strip_prefix("{room:")
                    .and_then(|rest| rest.split_once("}:conn:"))
                    .map(|(_, conn)| conn),
            });
        of_conn.is_some_and(|conn| !conn.ends_with(STATE_SUFFIX))
    }

    pub fn room(&self, room: &str) -> RoomKeys {
        RoomKeys {
            conns: self.room_part(room, "conns"),
            members: self.room_part(room, "members"),
            last_seen: self.room_last_seen(room),
            conn_meta: self.room_part(room, "conn_meta"),
            events: self.room_events(room),
        }
    }

    pub fn room_conns(&self, room: &str) -> String {
        self.room_part(room, "conns")
    }

    pub fn room_last_seen(&self, room: &str) -> String {
        self.room_part(room, "last_seen")
    }

    pub fn room_events(&self, room: &str) -> String {
        join(
            &self.channel_prefix,
            &["{room:", &self.tag(room), "}:events"],
        )
    }

    /// `v1`: the connections of a user.
    pub fn user_conns(&self, user: &str) -> String {
        self.join(&["user:", user, ":conns"])
    }

    /// `slotted`: the connections of a user in a room.
    pub fn user_conns_in_room(&self, room: &str, user: &str) -> String {
        self.in_room(room, &["user:", user])
    }

    /// `v1`: the rooms of a user.
    pub fn user_rooms(&self, user: &str) -> String {
        self.join(&["user:", user, ":rooms"])
    }

    /// `slotted`: joins and leaves of a room that may not be in the other indices yet.
    pub fn outbox(&self, room: &str) -> String {
        self.in_room(room, &["unsettled"])
    }

    /// `slotted`: the location of a connection.
    pub fn at(&self, conn: &str) -> String {
        self.join(&["at:", conn])
    }

    /// `slotted`: the locations of a user's connections.
    pub fn user_at(&self, user: &str) -> String {
        self.join(&["user:", user, ":at"])
    }

    /// `slotted`: a pattern for the sets of connections of all rooms.
    pub fn room_conns_pattern(&self) -> String {
        format!("{}{{room:*}}:conns", glob_escape(&self.prefix))
    }

    /// The room of a set of connections, on `slotted`.
    pub fn room_of_conns<'a>(&self, key: &'a str) -> Option<Cow<'a, str>> {
        let room = key
            .strip_prefix(&*self.prefix)?
            .strip_prefix("{room:")?
            .strip_suffix("}:conns")?;
        self.untag(room)
    }

    /// The channel of a slot, for the events of all its rooms.
    pub fn slot_events(&self, slot: u16) -> String {
        let tag = &SLOT_TAGS[usize::from(slot)];
        join(&self.channel_prefix, &["{", tag, "}:events"])
    }

    /// The channel of the slot that a room is in.
    pub fn slot_events_of(&self, room: &str) -> String {
        self.slot_events(slot_of(self.room_events(room).as_bytes()))
    }

    /// Whether this is the channel of a slot.
    pub fn is_slot_events(&self, channel: &str) -> bool {
        channel
            .strip_prefix(&*self.channel_prefix)
            .is_some_and(|rest| rest.starts_with("{slot:"))
    }

    pub fn active_rooms(&self) -> String {
        self.join(&["active_rooms"])
    }

    /// The start (1-based) and the end (from the end) of a room's id in the name of its
    /// `last_seen`, as Lua's `string.sub` takes them.
    pub fn room_in_last_seen(&self) -> (usize, isize) {
        let after = "}:last_seen".len();
        let begin = self.room_last_seen("").len() - after + 1;
        (begin, -1 - after.cast_signed())
    }

    /// The shard of the due index that a room belongs to. The index maps a room to a time that no
    /// connection in it was last seen before.
    pub fn due_of(&self, room: &str) -> String {
        self.due_shard(self.shard_of(room))
    }

    /// The index of that shard in [`Keys::due_shards`].
    pub fn shard_of(&self, room: &str) -> u32 {
        fnv1a(room.as_bytes()) % self.shard_count
    }

    /// All shards of the due index.
    pub fn due_shards(&self) -> Vec<String> {
        (0..self.shard_count)
            .map(|shard| self.due_shard(shard))
            .collect()
    }

    fn due_shard(&self, shard: u32) -> String {
        let mut key = self.join(&["due:"]);
        write!(key, "{shard}").expect("a String takes any text");
        key
    }

    /// A lock: the id of its owner while it is held.
    pub fn lock(&self, name: &str) -> String {
        match self.layout {
            Layout::V1 => self.join(&["lock:", name]),
            Layout::Slotted => self.join(&["{lock:", &self.tag(name), "}"]),
        }
    }

    /// The newest fencing token of a lock, as decimal text.
    pub fn lock_token(&self, name: &str) -> String {
        self.lock_part(name, "token")
    }

    /// The holder of a lock, with proof and end of the lease. It outlives the lock.
    pub fn lock_holder(&self, name: &str) -> String {
        self.lock_part(name, "holder")
    }

    /// The waiters of a lock, by arrival.
    pub fn lock_queue(&self, name: &str) -> String {
        self.lock_part(name, "queue")
    }

    /// Until when the nodes that have waiters for a lock count as alive.
    pub fn lock_living(&self, name: &str) -> String {
        self.lock_part(name, "living")
    }

    pub fn lock_events(&self, name: &str) -> String {
        let prefix = &self.channel_prefix;
        match self.layout {
            Layout::V1 => join(prefix, &["{", prefix, "lock:", name, "}:lock_events"]),
            Layout::Slotted => join(prefix, &["{lock:", &self.tag(name), "}:lock_events"]),
        }
    }

    /// The pattern of the event channels of all locks.
    pub fn lock_events_pattern(&self) -> String {
        let prefix = glob_escape(&self.channel_prefix);
        match self.layout {
            Layout::V1 => format!("{prefix}{{{prefix}lock:*}}:lock_events"),
            Layout::Slotted => format!("{prefix}{{lock:*}}:lock_events"),
        }
    }

    /// The lock of an event channel; `None` for other channels.
    pub fn lock_of_events<'a>(&self, channel: &'a str) -> Option<Cow<'a, str>> {
        let mut rest = channel
            .strip_prefix(&*self.channel_prefix)?
            .strip_prefix('{')?;
        if self.layout == Layout::V1 {
            rest = rest.strip_prefix(&*self.channel_prefix)?;
        }
        let name = rest.strip_prefix("lock:")?.strip_suffix("}:lock_events")?;
        self.untag(name)
    }

    /// The index of locks by the end of their leases.
    pub fn lock_due(&self) -> String {
        self.join(&["lock_due"])
    }

    /// The channel on which a node is notified that it is next for a lock, or that it lost one.
    pub fn lock_wake(&self, node: &str) -> String {
        join(&self.channel_prefix, &["lock_wake:", node])
    }

    /// The record of a node that answers for connections.
    pub fn node(&self, id: &str) -> String {
        self.join(&["{node:", id, "}"])
    }

    /// The connections that a node answers for.
    pub fn node_conns(&self, id: &str) -> String {
        self.join(&["{node:", id, "}:conns"])
    }

    /// The index of nodes by when they have to be looked at.
    pub fn nodes(&self) -> String {
        self.join(&["nodes"])
    }

    /// The channel on which a node is notified that it does not own a connection any more.
    pub fn node_calls(&self, id: &str) -> String {
        join(&self.channel_prefix, &["node_calls:", id])
    }

    /// Whether this is such a channel.
    pub fn is_node_calls(&self, channel: &str) -> bool {
        channel
            .strip_prefix(&*self.channel_prefix)
            .is_some_and(|rest| rest.starts_with("node_calls:"))
    }

    /// The other keys of a lock have the same slot as the lock itself, so that one script can use
    /// all of them. On `v1`, this is not so for names that contain braces.
    fn lock_part(&self, name: &str, part: &str) -> String {
        match self.layout {
            Layout::V1 => self.join(&["{", &self.prefix, "lock:", name, "}:", part]),
            Layout::Slotted => self.join(&["{lock:", &self.tag(name), "}:", part]),
        }
    }

    /// The pattern of the event channels of all rooms.
    pub fn events_pattern(&self) -> String {
        format!("{}{{room:*}}:events", glob_escape(&self.channel_prefix))
    }

    /// The room of an event channel; `None` for other channels.
    pub fn room_of_events<'a>(&self, channel: &'a str) -> Option<Cow<'a, str>> {
        let room = channel
            .strip_prefix(&*self.channel_prefix)?
            .strip_prefix("{room:")?
            .strip_suffix("}:events")?;
        self.untag(room)
    }

    /// The hash with a channel's record.
    pub fn channel_meta(&self, Channel { kind, name }: &Channel) -> String {
        // `Channel::check` ensures that type and name can be parsed from the key.
        self.join(&["{chan:", kind, ":", name, "}:meta"])
    }

    pub fn channel_events(&self, Channel { kind, name }: &Channel) -> String {
        join(
            &self.channel_prefix,
            &["{chan:", kind, ":", name, "}:meta_events"],
        )
    }

    /// The pattern of the event channels of all channels' metadata.
    pub fn channel_events_pattern(&self) -> String {
        let prefix = glob_escape(&self.channel_prefix);
        format!("{prefix}{{chan:*}}:meta_events")
    }

    /// The channel whose metadata events are on this Redis channel; `None` for other channels.
    pub fn channel_of_events(&self, channel: &str) -> Option<Channel> {
        let both = channel
            .strip_prefix(&*self.channel_prefix)?
            .strip_prefix("{chan:")?
            .strip_suffix("}:meta_events")?;
        self.channel_types.read(both)
    }

    fn room_part(&self, room: &str, part: &str) -> String {
        self.join(&["{room:", &self.tag(room), "}:", part])
    }

    fn in_room(&self, room: &str, parts: &[&str]) -> String {
        let mut key = self.join(&["{room:", &self.tag(room), "}:"]);
        parts.iter().for_each(|part| key.push_str(part));
        key
    }

    /// A room id as part of its keys. On `slotted`, `}` is escaped, so that the whole id is the
    /// hash tag and cannot be confused with what follows.
    fn tag<'a>(&self, room: &'a str) -> Cow<'a, str> {
        if self.layout == Layout::V1 || !room.contains(['%', '}']) {
            return Cow::Borrowed(room);
        }
        Cow::Owned(room.replace('%', "%25").replace('}', "%7D"))
    }

    fn untag<'a>(&self, tag: &'a str) -> Option<Cow<'a, str>> {
        if self.layout == Layout::V1 {
            return Some(Cow::Borrowed(tag));
        }
        if tag.contains('}') {
            return None;
        }
        Some(if tag.contains('%') {
            Cow::Owned(tag.replace("%7D", "}").replace("%25", "%"))
        } else {
            Cow::Borrowed(tag)
        })
    }

    fn join(&self, parts: &[&str]) -> String {
        join(&self.prefix, parts)
    }
}

fn join(prefix: &str, parts: &[&str]) -> String {
    let length = prefix.len() + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut name = String::with_capacity(length + 2);
    name.push_str(prefix);
    for part in parts {
        name.push_str(part);
    }
    name
}

/// FNV-1a, 32 bit. Distributes rooms over shards. Every node has to compute the same value.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Escapes the special characters of Redis's glob patterns.
fn glob_escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
