//! Every key, channel and pattern name, and nothing else spells one (spec section 2).
//!
//! No two ids share a key: each family has its own literal start, holds one id, and ends in a
//! literal that contains no part of an id, so the id can be read back from the name. The one
//! exception, `prs:conn:<connId>:state` against a connection id that ends in `:state`, is refused
//! in `model/ids.rs`.

use crate::model::metadata::Channel;
use std::fmt::Write as _;

/// How many shards the due index has by default.
pub const DEFAULT_SHARD_COUNT: u32 = 10;

/// Builds names under one prefix, which channels may not share with keys: ioredis puts its own prefix
/// before keys only.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: Box<str>,
    channel_prefix: Box<str>,
    shard_count: u32,
}

/// All names that belong to a room.
#[derive(Clone, Debug)]
pub struct RoomKeys {
    pub conns: String,
    pub members: String,
    pub last_seen: String,
    pub conn_meta: String,
    pub events: String,
    pub due: String,
}

impl Keys {
    pub fn new(prefix: &str, shard_count: u32) -> Self {
        Keys {
            prefix: prefix.into(),
            channel_prefix: prefix.into(),
            shard_count: shard_count.max(1),
        }
    }

    /// The same with channels under a prefix of their own.
    pub fn with_channel_prefix(self, prefix: &str) -> Self {
        Keys {
            channel_prefix: prefix.into(),
            ..self
        }
    }

    pub fn conn(&self, conn: &str) -> String {
        self.join(&["conn:", conn])
    }

    /// Where a connection keeps its state if that is stored apart from it.
    pub fn conn_state(&self, conn: &str) -> String {
        self.join(&["conn:", conn, ":state"])
    }

    pub fn room(&self, room: &str) -> RoomKeys {
        RoomKeys {
            conns: self.room_part(room, "conns"),
            members: self.room_part(room, "members"),
            last_seen: self.room_last_seen(room),
            conn_meta: self.room_part(room, "conn_meta"),
            events: self.room_events(room),
            due: self.due_of(room),
        }
    }

    pub fn room_conns(&self, room: &str) -> String {
        self.room_part(room, "conns")
    }

    pub fn room_last_seen(&self, room: &str) -> String {
        self.room_part(room, "last_seen")
    }

    pub fn room_events(&self, room: &str) -> String {
        join(&self.channel_prefix, &["{room:", room, "}:events"])
    }

    pub fn user_conns(&self, user: &str) -> String {
        self.join(&["user:", user, ":conns"])
    }

    pub fn user_rooms(&self, user: &str) -> String {
        self.join(&["user:", user, ":rooms"])
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
        self.due_shard(fnv1a(room.as_bytes()) % self.shard_count)
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
        self.join(&["lock:", name])
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
        join(prefix, &["{", prefix, "lock:", name, "}:lock_events"])
    }

    /// The pattern that matches the event channel of every lock.
    pub fn lock_events_pattern(&self) -> String {
        let prefix = glob_escape(&self.channel_prefix);
        format!("{prefix}{{{prefix}lock:*}}:lock_events")
    }

    /// The lock whose event channel this is, if it is one.
    pub fn lock_of_events<'a>(&self, channel: &'a str) -> Option<&'a str> {
        channel
            .strip_prefix(&*self.channel_prefix)?
            .strip_prefix('{')?
            .strip_prefix(&*self.channel_prefix)?
            .strip_prefix("lock:")?
            .strip_suffix("}:lock_events")
    }

    /// The index of locks by the end of their leases.
    pub fn lock_due(&self) -> String {
        self.join(&["lock_due"])
    }

    /// The channel on which a node hears that a lock is its turn, or lost.
    pub fn lock_wake(&self, node: &str) -> String {
        join(&self.channel_prefix, &["lock_wake:", node])
    }

    /// What belongs to a lock hashes to the same slot as the lock itself (but for names with braces
    /// of their own), so that one script can have it all.
    fn lock_part(&self, name: &str, part: &str) -> String {
        self.join(&["{", &self.prefix, "lock:", name, "}:", part])
    }

    /// The pattern that matches the event channel of every room.
    pub fn events_pattern(&self) -> String {
        format!("{}{{room:*}}:events", glob_escape(&self.channel_prefix))
    }

    /// The room whose event channel this is, if it is one.
    pub fn room_of_events<'a>(&self, channel: &'a str) -> Option<&'a str> {
        channel
            .strip_prefix(&*self.channel_prefix)?
            .strip_prefix("{room:")?
            .strip_suffix("}:events")
    }

    /// The hash with a channel's record.
    pub fn channel_meta(&self, Channel { kind, name }: &Channel) -> String {
        // No kind holds a colon, so the first one ends it.
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
        Channel::read(both)
    }

    fn room_part(&self, room: &str, part: &str) -> String {
        self.join(&["{room:", room, "}:", part])
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys() -> Keys {
        Keys::new("prs:", DEFAULT_SHARD_COUNT)
    }

    #[test]
    fn spec_2_names_are_those_of_the_table() {
        let room = keys().room("r1");
        assert_eq!(keys().conn("c1"), "prs:conn:c1");
        assert_eq!(room.conns, "prs:{room:r1}:conns");
        assert_eq!(room.members, "prs:{room:r1}:members");
        assert_eq!(room.last_seen, "prs:{room:r1}:last_seen");
        assert_eq!(room.conn_meta, "prs:{room:r1}:conn_meta");
        assert_eq!(room.events, "prs:{room:r1}:events");
        assert_eq!(keys().user_conns("u1"), "prs:user:u1:conns");
        assert_eq!(keys().user_rooms("u1"), "prs:user:u1:rooms");
        assert_eq!(keys().active_rooms(), "prs:active_rooms");
        assert_eq!(keys().events_pattern(), "prs:{room:*}:events");
        assert_eq!(keys().lock("l1"), "prs:lock:l1");
        assert_eq!(keys().lock_token("l1"), "prs:{prs:lock:l1}:token");
        let channel = Channel::new("doc", "a:b");
        assert_eq!(keys().channel_meta(&channel), "prs:{chan:doc:a:b}:meta");
        assert_eq!(
            keys().channel_events(&channel),
            "prs:{chan:doc:a:b}:meta_events"
        );
        assert_eq!(keys().channel_events_pattern(), "prs:{chan:*}:meta_events");
        assert_eq!(keys().lock_events_pattern(), "prs:{prs:lock:*}:lock_events");
    }

    #[test]
    fn a_room_can_be_cut_out_of_its_last_seen() {
        let (from, to) = keys().room_in_last_seen();
        let key = keys().room_last_seen("r}1:");
        let end = key.len().checked_add_signed(to + 1).unwrap();
        assert_eq!(&key[from - 1..end], "r}1:");
    }

    #[test]
    fn a_prefix_with_glob_characters_is_matched_as_it_stands() {
        assert_eq!(
            Keys::new("a*[b]:", 1).events_pattern(),
            "a\\*\\[b\\]:{room:*}:events"
        );
    }

    #[test]
    fn channels_can_have_a_prefix_of_their_own() {
        let keys = Keys::new("app:prs:", 1).with_channel_prefix("prs:");
        assert_eq!(keys.room_conns("r"), "app:prs:{room:r}:conns");
        assert_eq!(keys.room_events("r"), "prs:{room:r}:events");
        assert_eq!(keys.events_pattern(), "prs:{room:*}:events");
        assert_eq!(keys.room_of_events("prs:{room:r}:events"), Some("r"));
        assert_eq!(keys.room_of_events("app:prs:{room:r}:events"), None);
    }

    proptest! {
        #[test]
        fn spec_2_2_a_room_can_be_read_back_from_its_channel(room in ".*") {
            let channel = keys().room_events(&room);
            prop_assert_eq!(keys().room_of_events(&channel), Some(room.as_str()));
        }

        #[test]
        fn spec_2_2_a_channel_can_be_read_back_from_its_events(kind in "[^:]*", name in ".*") {
            let channel = Channel::new(&kind, &name);
            let events = keys().channel_events(&channel);
            prop_assert_eq!(keys().channel_of_events(&events), Some(channel));
            prop_assert_eq!(keys().room_of_events(&events), None);
        }

        #[test]
        fn spec_2_2_a_lock_can_be_read_back_from_its_channel(name in ".*") {
            let channel = keys().lock_events(&name);
            prop_assert_eq!(keys().lock_of_events(&channel), Some(name.as_str()));
        }

        #[test]
        fn spec_2_2_different_ids_never_make_the_same_key(
            a in "(\\{prs:lock:)?[:{}a-c]{0,6}(conns|rooms|:state|\\}:conns|\\}:token|\\}:queue)?",
            b in "(\\{prs:lock:)?[:{}a-c]{0,6}(conns|rooms|:state|\\}:conns|\\}:token|\\}:queue)?",
        ) {
            let names = |id: &str| {
                let r = keys().room(id);
                vec![
                    keys().conn(id), r.conns, r.members, r.last_seen, r.conn_meta, r.events,
                    keys().user_conns(id), keys().user_rooms(id),
                    keys().channel_meta(&Channel::new("t", id)),
                    keys().channel_events(&Channel::new("t", id)),
                    keys().lock(id), keys().lock_token(id), keys().lock_holder(id),
                    keys().lock_queue(id), keys().lock_living(id), keys().lock_events(id),
                    keys().lock_wake(id),
                ]
            };
            let (of_a, of_b) = (names(&a), names(&b));
            for (i, x) in of_a.iter().enumerate() {
                for (j, y) in of_b.iter().enumerate() {
                    prop_assert_eq!(x == y, i == j && a == b, "{} {}", x, y);
                }
            }
        }
    }
}
