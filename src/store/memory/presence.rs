//! Presence data and operations: the equivalent of the Lua scripts, on maps. Every method runs
//! under the core's mutex, publishes in the same step, and gets the time of that step.
//!
//! An expired connection behaves like an expired Redis hash: lookups do not find it, but it stays
//! in the indices, and its `leave` is not published, until a sweep or a join of the same id removes
//! it.
//!
//! The index of the connections of each node is exact: it changes in the step that changes the
//! owner. So a node needs no numbers to tell its ownerships of one connection apart.

use super::{feeds::Feeds, nodes::Nodes};
use crate::{
    model::{
        event::{Change, Reason, presence_event},
        presence::{Epoch, MAX_EPOCH_AHEAD_MS, Member, Place, epoch_after},
        state::State,
    },
    store::{
        BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join, Joined, Leave, Left,
        Lifetime, Located, Stored, node::Dispossessed,
    },
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// Maximum wait, as in `join.lua` and `leave.lua`. A caller gave an epoch that is further ahead.
const MAX_WAIT_MS: u64 = 5;

/// The sequence number of a join, which orders snapshots.
type JoinNumber = u64;
type InJoinOrder = BTreeMap<JoinNumber, Arc<str>>;
/// The connections of each room, user or owner.
type Index = HashMap<Arc<str>, InJoinOrder>;

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
    /// The node that answers for it. `None`: heartbeats keep it alive.
    owner: Option<Arc<str>>,
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

    /// Makes `owner` the owner from now on. Notifies the former one with the epoch that it owned,
    /// so this must come before the epoch changes.
    fn give_to(&mut self, owner: Option<&Arc<str>>, owned: &mut Index, feeds: &Feeds) {
        if let Some(former) = &self.owner {
            remove_from(owned, former, self.joined);
            self.dispossess(feeds);
        }
        if let Some(owner) = owner {
            add_to(owned, owner, self.joined, &self.conn);
        }
        self.owner = owner.cloned();
    }

    /// Notifies the owner that it does not own the connection any more.
    fn dispossess(&self, feeds: &Feeds) {
        if let Some(owner) = &self.owner {
            feeds.dispossess(owner, || Dispossessed {
                conn: self.conn.clone(),
                epoch: self.epoch,
            });
        }
    }

    /// A copy for a caller that reads it now. The lease of an owner has not ended, so the
    /// connection counts as seen at this time.
    fn read(&self, now: u64) -> Entry {
        let mut copy = self.clone();
        if copy.owner.is_some() {
            copy.last_seen_ms = now;
        }
        copy
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
    rooms: Index,
    users: Index,
    /// The connections of each node that owns any.
    owned: Index,
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
        nodes: &Nodes,
        now: u64,
        join: &Join,
        previous: Option<&Place>,
    ) -> Joined {
        let owner = owner_in(&join.lifetime);
        if owner.is_some_and(|owner| !nodes.lives(now, owner)) {
            return Joined::OwnerLost;
        }
        let before = self.conns.get(&join.conn);
        let epoch = now
            .max(join.floor)
            .max(before.map_or(0, |before| epoch_after(before.epoch)));
        if let wait_ms @ 1..=MAX_WAIT_MS = epoch - now {
            return Joined::Early { wait_ms };
        }
        if let Some(before) = before {
            let leaves = if !before.is_live(now) {
                Some(Reason::Timeout)
            } else if before.place == join.place {
                None
            } else if previous == Some(&before.place) {
                Some(Reason::Replaced)
            } else {
                return Joined::Elsewhere(before.place.clone());
            };
            if before.owner.as_ref() != owner {
                before.dispossess(feeds);
            }
            match leaves {
                Some(reason) => self.depart(feeds, now, &join.conn, reason),
                None => self.remove(&join.conn),
            };
        }
        self.joins += 1;
        let entry = Entry {
            conn: join.conn.clone(),
            place: join.place.clone(),
            state: join.state.clone(),
            epoch,
            last_seen_ms: now,
            expires_at: now.saturating_add(join.lifetime.ttl_ms),
            joined: self.joins,
            owner: owner.cloned(),
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
    pub(super) fn leave(&mut self, feeds: &Feeds, now: u64, leave: &Leave<'_>) -> Left {
        let reason = leave.reason;
        match self.live(leave.conn, now) {
            None => Left::Unknown,
            Some(entry) if leave.fence.is_some_and(|fence| entry.epoch > fence) => Left::Newer,
            Some(entry) if entry.place != *leave.place => Left::Elsewhere(entry.place.clone()),
            // A node ends connections by itself only if it owns them.
            Some(entry)
                if reason == Reason::Timeout
                    && (entry.owner.as_deref() != leave.node
                        || leave.fence.is_some_and(|fence| entry.epoch < fence)) =>
            {
                Left::Newer
            }
            Some(entry) => match (entry.epoch + 1).saturating_sub(now) {
                wait_ms @ 1..=MAX_WAIT_MS if reason == Reason::Left => Left::Early { wait_ms },
                _ => {
                    if entry.owner.as_deref() != leave.node {
                        entry.dispossess(feeds);
                    }
                    self.depart(feeds, now, leave.conn, reason);
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
        lifetime: &Lifetime,
    ) -> Vec<BatchMiss> {
        let owned = lifetime.owner.is_some();
        let mut misses = Vec::new();
        for (index, heartbeat) in heartbeats.iter().enumerate() {
            match self
                .conns
                .get_mut(&heartbeat.conn)
                .filter(|entry| entry.is_live(now))
            {
                Some(entry) if entry.epoch == heartbeat.epoch && entry.owner.is_some() == owned => {
                    entry.refresh(&mut self.due, now, lifetime.ttl_ms);
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
        nodes: &Nodes,
        now: u64,
        heartbeat: &HeartbeatUpdate,
        lifetime: &Lifetime,
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
        let owner = owner_in(lifetime);
        let is_taken = entry.owner.as_ref() != owner;
        if is_taken && owner.is_some_and(|owner| !nodes.lives(now, owner)) {
            return HeartbeatOutcome::OwnerLost;
        }
        if let Some(write) = &heartbeat.write
            && write.base.state != entry.state
        {
            return HeartbeatOutcome::Conflict {
                stored: entry.stored(),
            };
        }
        if is_taken {
            entry.give_to(owner, &mut self.owned, feeds);
        }
        entry.epoch = adopted.unwrap_or(entry.epoch);
        entry.refresh(&mut self.due, now, lifetime.ttl_ms);
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
            released: false,
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
    /// to `rooms`. Returns how many were removed. Owners are notified: a living one has failed to
    /// refresh the connection.
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
                gone.dispossess(feeds);
                rooms.insert(gone.place.room);
            }
            removed += 1;
        }
        removed
    }

    /// Removes at most `most` connections of a dead node. Returns how many were removed. The node
    /// is not notified, because it has lost all of them.
    pub(super) fn reap_owned(&mut self, feeds: &Feeds, now: u64, node: &str, most: usize) -> usize {
        let owned = self.owned.get(node).into_iter();
        let conns: Vec<Arc<str>> = owned
            .flat_map(BTreeMap::values)
            .take(most)
            .cloned()
            .collect();
        for conn in &conns {
            self.depart(feeds, now, conn, Reason::Timeout);
        }
        conns.len()
    }

    fn live(&self, conn: &str, now: u64) -> Option<&Entry> {
        self.conns.get(conn).filter(|entry| entry.is_live(now))
    }

    fn live_of(&self, index: Option<&InJoinOrder>, now: u64) -> Vec<Entry> {
        let conns = index.into_iter().flat_map(BTreeMap::values);
        conns
            .filter_map(|conn| Some(self.live(conn, now)?.read(now)))
            .collect()
    }

    fn insert(&mut self, entry: Entry) {
        let (conn, joined) = (&entry.conn, entry.joined);
        add_to(&mut self.rooms, &entry.place.room, joined, conn);
        add_to(&mut self.users, &entry.place.user, joined, conn);
        if let Some(owner) = &entry.owner {
            add_to(&mut self.owned, owner, joined, conn);
        }
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
        remove_from(&mut self.rooms, &gone.place.room, gone.joined);
        remove_from(&mut self.users, &gone.place.user, gone.joined);
        if let Some(owner) = &gone.owner {
            remove_from(&mut self.owned, owner, gone.joined);
        }
        Some(gone)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.conns.is_empty()
            && self.rooms.is_empty()
            && self.users.is_empty()
            && self.owned.is_empty()
            && self.due.is_empty()
    }

    /// All connections as (connection, room, user, epoch, alive). Asserts that the indices contain
    /// exactly these.
    #[cfg(test)]
    pub(super) fn audit(&self, now: u64) -> Vec<(String, String, String, Epoch, bool)> {
        let of = |index: &Index, id: &str, entry: &Entry| {
            index.get(id).and_then(|conns| conns.get(&entry.joined)) == Some(&entry.conn)
        };
        let count = |index: &Index| {
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
            assert!(
                entry
                    .owner
                    .iter()
                    .all(|owner| of(&self.owned, owner, entry)),
                "{conn} is not its owner's"
            );
            assert_eq!(self.due.get(&(entry.expires_at, entry.joined)), Some(conn));
        }
        let owned = self.conns.values().filter(|entry| entry.owner.is_some());
        assert_eq!(count(&self.owned), owned.count());
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

fn add_to(index: &mut Index, id: &Arc<str>, joined: JoinNumber, conn: &Arc<str>) {
    index
        .entry(id.clone())
        .or_default()
        .insert(joined, conn.clone());
}

/// Removes a connection from an index, and its room, user or owner with the last one.
fn remove_from(index: &mut Index, id: &str, joined: JoinNumber) {
    if let Some(conns) = index.get_mut(id) {
        conns.remove(&joined);
        if conns.is_empty() {
            index.remove(id);
        }
    }
}

/// The node that answers for connections with this lifetime.
fn owner_in(lifetime: &Lifetime) -> Option<&Arc<str>> {
    lifetime.owner.as_ref().map(|owner| &owner.node)
}
