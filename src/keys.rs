//! Every key, channel and pattern name, and nothing else spells one (spec section 2).
//!
//! No two ids share a key: each family has its own literal start, holds one id, and ends in a
//! literal that contains no part of an id, so the id can be read back from the name. The one
//! exception, `prs:conn:<connId>:state` against a connection id that ends in `:state`, is refused
//! in `model/ids.rs`.
//!
//! On the layout `slotted` (docs/internals/cluster.md) everything of a room has the room's hash tag; scripts
//! get the same keys in the same places, and in place of keys that would lie in another slot the
//! room's own `outbox`.

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

/// Ends the key of a connection's separate state.
const STATE_SUFFIX: &str = ":state";

/// How many shards the due index has by default.
pub const DEFAULT_SHARD_COUNT: u32 = 10;

/// How data are spread over keys.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// The table of spec section 2, shared with TypeScript nodes.
    V1,
    /// Everything of a room in one slot.
    Slotted,
}

/// Builds names under one prefix, which channels may not share with keys: ioredis puts its own prefix
/// before keys only.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Box<str>,
    channel_prefix: Box<str>,
    shard_count: u32,
    layout: Layout,
    /// Events are published in their slot, and once more for whoever follows all rooms.
    sharded: bool,
    channel_types: ColonTypes,
}

/// All names that belong to a room.
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

    /// The same with events published in their slots.
    pub fn with_sharded_events(self, sharded: bool) -> Self {
        Keys { sharded, ..self }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn has_sharded_events(&self) -> bool {
        self.sharded
    }

    /// On `slotted`, the prefixes must let a room's hash tag be one.
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

    /// The same with channels under a prefix of their own.
    pub fn with_channel_prefix(self, prefix: &str) -> Self {
        Keys {
            channel_prefix: prefix.into(),
            ..self
        }
    }

    /// The same with channel types that hold a colon.
    pub fn with_channel_types(self, channel_types: ColonTypes) -> Self {
        Keys {
            channel_types,
            ..self
        }
    }

    /// A connection's hash. The room is part of the key on `slotted` only.
    pub fn conn(&self, room: &str, conn: &str) -> String {
        let mut key = String::new();
        self.conn_prefix(room, &mut key);
        key.push_str(conn);
        key
    }

    /// What the keys of all connections of a room begin with; replaces what `key` holds.
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

    /// Where the id begins in the key of a connection, as `heartbeat_batch.lua` takes it: 1-based, or, where
    /// the room is part of the key, counted from the length of the room's `last_seen`.
    pub fn id_in_conn(&self) -> i64 {
        match self.layout {
            Layout::V1 => (self.prefix.len() + "conn:".len() + 1) as i64,
            Layout::Slotted => ":conn:".len() as i64 - ":last_seen".len() as i64 + 1,
        }
    }

    /// Where a connection keeps its state if that is stored apart from it.
    pub fn conn_state(&self, room: &str, conn: &str) -> String {
        let mut key = self.conn(room, conn);
        key.push_str(STATE_SUFFIX);
        key
    }

    /// Whether this is the key of a connection's hash. The key of its separate state begins alike and ends in
    /// `:state`, which no connection id does.
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

    /// `slotted`: joins and leaves of a room whose other indices may lag.
    pub fn outbox(&self, room: &str) -> String {
        self.in_room(room, &["unsettled"])
    }

    /// `slotted`: where a connection is.
    pub fn at(&self, conn: &str) -> String {
        self.join(&["at:", conn])
    }

    /// `slotted`: where the connections of a user are.
    pub fn user_at(&self, user: &str) -> String {
        self.join(&["user:", user, ":at"])
    }

    /// `slotted`: matches the sets of connections of all rooms.
    pub fn room_conns_pattern(&self) -> String {
        format!("{}{{room:*}}:conns", glob_escape(&self.prefix))
    }

    /// The room whose set of connections this is, on `slotted`.
    pub fn room_of_conns<'a>(&self, key: &'a str) -> Option<Cow<'a, str>> {
        let room = key
            .strip_prefix(&*self.prefix)?
            .strip_prefix("{room:")?
            .strip_suffix("}:conns")?;
        self.untag(room)
    }

    /// The channel of a slot on which all events of its rooms are.
    pub fn slot_events(&self, slot: u16) -> String {
        let tag = &SLOT_TAGS[usize::from(slot)];
        join(&self.channel_prefix, &["{", tag, "}:events"])
    }

    /// That of the slot that a room lies in.
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

    /// Where the id of a room begins (1-based) and ends (from the end) in the name of its `last_seen`,
    /// as Lua's `string.sub` takes it.
    pub fn room_in_last_seen(&self) -> (usize, isize) {
        let after = "}:last_seen".len();
        let begin = self.room_last_seen("").len() - after + 1;
        (begin, -1 - after.cast_signed())
    }

    /// The shard of the due index (room → a time before which nobody in it was last heard of) that a
    /// room belongs to.
    pub fn due_of(&self, room: &str) -> String {
        self.due_shard(self.shard_of(room))
    }

    /// The place of that shard among [`Keys::due_shards`].
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

    /// A lock: the id of its owner, for as long as it is held.
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

    /// Who holds a lock, with the proof and the end of the lease; it outlives the lock.
    pub fn lock_holder(&self, name: &str) -> String {
        self.lock_part(name, "holder")
    }

    /// The waiters of a lock by arrival.
    pub fn lock_queue(&self, name: &str) -> String {
        self.lock_part(name, "queue")
    }

    /// Until when the nodes count as living that have waiters for a lock.
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

    /// The pattern that matches the event channel of every lock.
    pub fn lock_events_pattern(&self) -> String {
        let prefix = glob_escape(&self.channel_prefix);
        match self.layout {
            Layout::V1 => format!("{prefix}{{{prefix}lock:*}}:lock_events"),
            Layout::Slotted => format!("{prefix}{{lock:*}}:lock_events"),
        }
    }

    /// The lock whose event channel this is, if it is one.
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

    /// The channel on which a node hears that a lock is its turn, or lost.
    pub fn lock_wake(&self, node: &str) -> String {
        join(&self.channel_prefix, &["lock_wake:", node])
    }

    /// What belongs to a lock hashes to the same slot as the lock itself (on `v1` but for names with
    /// braces of their own), so that one script can have it all.
    fn lock_part(&self, name: &str, part: &str) -> String {
        match self.layout {
            Layout::V1 => self.join(&["{", &self.prefix, "lock:", name, "}:", part]),
            Layout::Slotted => self.join(&["{lock:", &self.tag(name), "}:", part]),
        }
    }

    /// The pattern that matches the event channel of every room.
    pub fn events_pattern(&self) -> String {
        format!("{}{{room:*}}:events", glob_escape(&self.channel_prefix))
    }

    /// The room whose event channel this is, if it is one.
    pub fn room_of_events<'a>(&self, channel: &'a str) -> Option<Cow<'a, str>> {
        let room = channel
            .strip_prefix(&*self.channel_prefix)?
            .strip_prefix("{room:")?
            .strip_suffix("}:events")?;
        self.untag(room)
    }

    /// The hash with a channel's record.
    pub fn channel_meta(&self, Channel { kind, name }: &Channel) -> String {
        // `Channel::check` has seen that the two can be told apart again.
        self.join(&["{chan:", kind, ":", name, "}:meta"])
    }

    pub fn channel_events(&self, Channel { kind, name }: &Channel) -> String {
        join(
            &self.channel_prefix,
            &["{chan:", kind, ":", name, "}:meta_events"],
        )
    }

    /// The pattern that matches the event channel of every channel's metadata.
    pub fn channel_events_pattern(&self) -> String {
        let prefix = glob_escape(&self.channel_prefix);
        format!("{prefix}{{chan:*}}:meta_events")
    }

    /// The channel whose metadata events come on this Redis channel, if it is one of those.
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

    /// A room in its keys. On `slotted` without `}`, so that all of it is the hash tag, and nothing
    /// of it can be taken for what follows.
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

/// FNV-1a, 32 bit: spreads rooms over shards; every node has to compute the same.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Escapes what Redis's glob patterns give a meaning to.
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
