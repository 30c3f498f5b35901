//! Presence data and operations: the equivalent of the Lua scripts, on maps. Every method runs
//! under the core's mutex, publishes in the same step, and gets the time of that step.
//!
//! An expired connection behaves like an expired Redis hash: lookups do not find it, but it stays
//! in the indices, and its `leave` is not published, until a sweep or a join of the same id removes
//! it.

use super::feeds::Feeds;
use crate::{
    model::{
        event::{Change, Reason, presence_event},
        presence::{Epoch, MAX_EPOCH_AHEAD_MS, Member, Place, epoch_after},
        state::State,
    },
    store::{
        BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join, Joined, Left,
        Located, Stored,
    },
};
use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map},
    sync::Arc,
};

/// Maximum wait, as in `join.lua` and `leave.lua`. A caller gave an epoch that is further ahead.
const MAX_WAIT_MS: u64 = 5;

/// The sequence number of a join, which orders snapshots.
type JoinNumber = u64;
type InJoinOrder = BTreeMap<JoinNumber, Arc<str>>;

/// One connection. A clone copies pointers, not text.
#[derive(Clone)]
pub(super) struct Entry {
    conn: Arc<str>,
    place: Place,
    state: State,
    epoch: Epoch,
    last_seen_ms: u64,
    expires_at: u64,
    joined: JoinNumber,
}

impl Entry {
    fn is_live(&self, now: u64) -> bool {
        now < self.expires_at
    }

    /// Extends the connection's life to one TTL from now.
    fn refresh(&mut self, due: &mut Due, now: u64, ttl_ms: u64) {
        self.last_seen_ms = now;
        let expires_at = now.saturating_add(ttl_ms);
        if expires_at != self.expires_at
            && let Some(conn) = due.remove(&(self.expires_at, self.joined))
        {
            due.insert((expires_at, self.joined), conn);
        }
        self.expires_at = expires_at;
    }

    fn stored(&self) -> Stored {
        self.state.clone().into()
    }

    fn event(&self, change: Change<'_>, now: u64) -> String {
        presence_event(change, &self.place, &self.conn, now, self.epoch)
    }
}

impl From<Entry> for Member {
    fn from(entry: Entry) -> Self {
        Member {
            conn: entry.conn.as_ref().into(),
            user: entry.place.user.as_ref().into(),
            room: entry.place.room.as_ref().into(),
            state: Some(entry.state),
            last_seen_ms: entry.last_seen_ms,
            epoch: entry.epoch,
        }
    }
}

/// Every connection, ordered by the exact time at which it expires. The join number separates
/// connections that expire in the same millisecond. It is cheaper than the id.
type Due = BTreeMap<(u64, JoinNumber), Arc<str>>;

#[derive(Default)]
pub(super) struct Presence {
    conns: HashMap<Arc<str>, Entry>,
    rooms: HashMap<Arc<str>, InJoinOrder>,
    users: HashMap<Arc<str>, InJoinOrder>,
    due: Due,
    joins: JoinNumber,
}

impl Presence {
    /// `join.lua`. One difference: Redis leaves the index entry of an expired connection in another
    /// room to the next sweep. Here its `leave` (`timeout`, with its own epoch and user) is
    /// published before the `join`.
    pub(super) fn join(
        &mut self,
        feeds: &Feeds,
        now: u64,
        join: &Join,
        previous: Option<&Place>,
    ) -> Joined {
        let before = self.conns.get(&join.conn);
        let epoch = now
            .max(join.floor)
            .max(before.map_or(0, |before| epoch_after(before.epoch)));
        if let wait_ms @ 1..=MAX_WAIT_MS = epoch - now {
            return Joined::Early { wait_ms };
        }
        if let Some(before) = before {
            let moves = before.place != join.place;
            if !before.is_live(now) {
                self.depart(feeds, now, &join.conn, Reason::Timeout);
            } else if !moves {
                self.remove(&join.conn);
            } else if previous == Some(&before.place) {
                self.depart(feeds, now, &join.conn, Reason::Replaced);
            } else {
                return Joined::Elsewhere(before.place.clone());
            }
        }
        self.joins += 1;
        let entry = Entry {
            conn: join.conn.clone(),
            place: join.place.clone(),
            state: join.state.clone(),
            epoch,
            last_seen_ms: now,
            expires_at: now.saturating_add(join.ttl_ms),
            joined: self.joins,
        };
        feeds.publish(&entry.place.room, || {
            entry.event(Change::Join(&entry.state), now)
        });
        self.insert(entry);
        Joined::Joined {
            epoch,
            encoding: None,
        }
    }

    /// `leave.lua`.
    pub(super) fn leave(
        &mut self,
        feeds: &Feeds,
        now: u64,
        conn: &str,
        place: &Place,
        fence: Option<Epoch>,
    ) -> Left {
        match self.live(conn, now) {
            None => Left::Unknown,
            Some(entry) if fence.is_some_and(|fence| entry.epoch > fence) => Left::Newer,
            Some(entry) if entry.place != *place => Left::Elsewhere(entry.place.clone()),
            Some(entry) => match (entry.epoch + 1).saturating_sub(now) {
                wait_ms @ 1..=MAX_WAIT_MS => Left::Early { wait_ms },
                _ => {
                    self.depart(feeds, now, conn, Reason::Left);
                    Left::Left
                }
            },
        }
    }

    /// `heartbeat_batch.lua`. The room need not be compared, because an equal epoch means the same
    /// join.
    pub(super) fn refresh_heartbeats(
        &mut self,
        now: u64,
        heartbeats: &[HeartbeatRefresh],
        ttl_ms: u64,
    ) -> Vec<BatchMiss> {
        let mut misses = Vec::new();
        for (index, heartbeat) in heartbeats.iter().enumerate() {
            match self
                .conns
                .get_mut(&heartbeat.conn)
                .filter(|entry| entry.is_live(now))
            {
                Some(entry) if entry.epoch == heartbeat.epoch => {
                    entry.refresh(&mut self.due, now, ttl_ms);
                }
                other => misses.push(BatchMiss {
                    index,
                    stored: Ok(other.map(|e| e.epoch)),
                }),
            }
        }
        misses
    }

    /// `heartbeat.lua`.
    pub(super) fn update_heartbeats(
        &mut self,
        feeds: &Feeds,
        now: u64,
        heartbeat: &HeartbeatUpdate,
        ttl_ms: u64,
    ) -> HeartbeatOutcome {
        let Some(entry) = self
            .conns
            .get_mut(&heartbeat.conn)
            .filter(|entry| entry.is_live(now))
        else {
            return HeartbeatOutcome::Unknown;
        };
        if heartbeat.epoch.is_some_and(|given| given < entry.epoch) {
            return HeartbeatOutcome::Stale {
                stored: entry.epoch,
            };
        }
        if entry.place != heartbeat.place {
            return HeartbeatOutcome::Elsewhere(entry.place.clone());
        }
        let adopted = heartbeat.epoch.filter(|given| *given > entry.epoch);
        let max = now + MAX_EPOCH_AHEAD_MS;
        if adopted.is_some_and(|given| given > max) {
            return HeartbeatOutcome::Ahead { max };
        }
        if let Some(write) = &heartbeat.write
            && write.base.state != entry.state
        {
            return HeartbeatOutcome::Conflict {
                stored: entry.stored(),
            };
        }
        entry.epoch = adopted.unwrap_or(entry.epoch);
        entry.refresh(&mut self.due, now, ttl_ms);
        if let Some(next) = heartbeat
            .write
            .as_ref()
            .and_then(|write| write.next.as_ref())
        {
            entry.state = next.clone();
            feeds.publish(&entry.place.room, || entry.event(Change::Update(next), now));
        }
        HeartbeatOutcome::Refreshed {
            epoch: entry.epoch,
            adopted: adopted.is_some(),
            encoding: None,
        }
    }

    pub(super) fn locate(&self, now: u64, conn: &str) -> Option<Located> {
        self.live(conn, now).map(|entry| Located {
            place: entry.place.clone(),
            epoch: entry.epoch,
            stored: entry.stored(),
        })
    }

    /// The live connections of a room, in the order in which they joined.
    pub(super) fn in_room(&self, room: &str, now: u64) -> Vec<Entry> {
        self.live_of(self.rooms.get(room), now)
    }

    /// The live connections of a user, in the order in which they joined.
    pub(super) fn of_user(&self, user: &str, now: u64) -> Vec<Entry> {
        self.live_of(self.users.get(user), now)
    }

    /// Removes at most `most` connections that expired at `until` or before, and adds their rooms
    /// to `rooms`. Returns how many were removed.
    pub(super) fn reap(
        &mut self,
        feeds: &Feeds,
        now: u64,
        until: u64,
        most: usize,
        rooms: &mut HashSet<Arc<str>>,
    ) -> usize {
        let mut removed = 0;
        while removed < most
            && let Some((&(expires_at, _), conn)) = self.due.first_key_value()
            && expires_at <= until
        {
            let conn = conn.clone();
            if let Some(gone) = self.depart(feeds, now, &conn, Reason::Timeout) {
                rooms.insert(gone.place.room);
            }
            removed += 1;
        }
        removed
    }

    fn live(&self, conn: &str, now: u64) -> Option<&Entry> {
        self.conns.get(conn).filter(|entry| entry.is_live(now))
    }

    fn live_of(&self, index: Option<&InJoinOrder>, now: u64) -> Vec<Entry> {
        let conns = index.into_iter().flat_map(BTreeMap::values);
        conns
            .filter_map(|conn| self.live(conn, now).cloned())
            .collect()
    }

    fn insert(&mut self, entry: Entry) {
        let (conn, joined) = (&entry.conn, entry.joined);
        self.rooms
            .entry(entry.place.room.clone())
            .or_default()
            .insert(joined, conn.clone());
        self.users
            .entry(entry.place.user.clone())
            .or_default()
            .insert(joined, conn.clone());
        self.due.insert((entry.expires_at, joined), conn.clone());
        self.conns.insert(entry.conn.clone(), entry);
    }

    /// Removes a connection and publishes its `leave`.
    fn depart(&mut self, feeds: &Feeds, now: u64, conn: &str, reason: Reason) -> Option<Entry> {
        let gone = self.remove(conn)?;
        feeds.publish(&gone.place.room, || gone.event(Change::Leave(reason), now));
        Some(gone)
    }

    fn remove(&mut self, conn: &str) -> Option<Entry> {
        let gone = self.conns.remove(conn)?;
        self.due.remove(&(gone.expires_at, gone.joined));
        for (index, id) in [
            (&mut self.rooms, &gone.place.room),
            (&mut self.users, &gone.place.user),
        ] {
            if let hash_map::Entry::Occupied(mut conns) = index.entry(id.clone()) {
                conns.get_mut().remove(&gone.joined);
                if conns.get().is_empty() {
                    conns.remove();
                }
            }
        }
        Some(gone)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty()
            && self.rooms.is_empty()
            && self.users.is_empty()
            && self.due.is_empty()
    }

    /// All connections as (connection, room, user, epoch, alive). Asserts that the indices contain
    /// exactly these.
    #[cfg(test)]
    pub(super) fn audit(&self, now: u64) -> Vec<(String, String, String, Epoch, bool)> {
        let of = |index: &HashMap<Arc<str>, InJoinOrder>, id: &str, entry: &Entry| {
            index.get(id).and_then(|conns| conns.get(&entry.joined)) == Some(&entry.conn)
        };
        let count = |index: &HashMap<Arc<str>, InJoinOrder>| {
            assert!(index.values().all(|conns| !conns.is_empty()));
            index.values().map(BTreeMap::len).sum::<usize>()
        };
        for (conn, entry) in &self.conns {
            assert_eq!(conn, &entry.conn);
            assert!(
                of(&self.rooms, &entry.place.room, entry),
                "{conn} is not in its room"
            );
            assert!(
                of(&self.users, &entry.place.user, entry),
                "{conn} is not its user's"
            );
            assert_eq!(self.due.get(&(entry.expires_at, entry.joined)), Some(conn));
        }
        let indexed = [count(&self.rooms), count(&self.users), self.due.len()];
        assert_eq!(indexed, [self.conns.len(); 3]);
        let text = |id: &Arc<str>| id.to_string();
        let all = self.conns.values().map(|entry| {
            let Place { room, user } = &entry.place;
            (
                text(&entry.conn),
                text(room),
                text(user),
                entry.epoch,
                entry.is_live(now),
            )
        });
        all.collect()
    }
}
