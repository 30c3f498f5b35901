//! The connection directory: what this node remembers of connections (place, epoch and state). It
//! is a hint that saves round trips. Every script checks it against the store.

use crate::{
    model::{
        presence::{Epoch, Place},
        state::State,
    },
    store::Stored,
};
use foldhash::{HashMap, HashSet};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    sync::Arc,
    time::{Duration, Instant},
};

/// What is known of one connection.
#[derive(Clone, Debug)]
pub struct Known {
    pub place: Place,
    pub epoch: Epoch,
    /// The state as this node last wrote or read it.
    pub stored: Option<Stored>,
}

/// Size in bytes from which states are shared instead of copied.
const LARGE: usize = 1024;

/// `Known`, as it is stored. A node may have a hundred thousand entries, so each has only two
/// allocations: the id and `text`.
struct Entry {
    room: Arc<str>,
    /// The user's id, followed by the state if it is known and not in `large_state`. A state is
    /// never empty.
    text: Box<str>,
    /// A state that is large, or that is not stored as plain text.
    large_state: Option<Box<Stored>>,
    // What a batch needs is in the entry itself. Reading it from `large_state` would cost a cache
    // miss for each heartbeat.
    /// Whether the state is stored under a separate key.
    separate: bool,
    user_len: u32,
    /// When the entry was last used, in seconds since the directory was created.
    touched: Cell<u32>,
    epoch: Epoch,
    /// Whether this node owns the connection.
    owned: bool,
    /// The highest number of a call that made this node its owner, also with an earlier epoch.
    number: u64,
    /// The epoch with which this node became the owner. It is lower than `epoch` if the node has
    /// joined the connection again because the store had lost it.
    since: Epoch,
    /// A write of unknown outcome: the state may be another one by now.
    unsure: Cell<bool>,
    /// The last batch that contained the connection, and its index in that batch.
    batch: Cell<(u32, u32)>,
}

impl Entry {
    fn new(room: Arc<str>, known: &Known, now: u32) -> Self {
        let user = &*known.place.user;
        let large_state = known
            .stored
            .as_ref()
            .filter(|stored| stored.encoding.is_some() || stored.state.as_str().len() >= LARGE);
        let state = match &known.stored {
            Some(stored) if large_state.is_none() => stored.state.as_str(),
            _ => "",
        };
        let mut text = String::with_capacity(user.len() + state.len());
        text.push_str(user);
        text.push_str(state);
        Entry {
            room,
            text: text.into(),
            separate: large_state.is_some_and(Stored::is_separate),
            large_state: large_state.cloned().map(Box::new),
            user_len: u32::try_from(user.len()).unwrap_or(u32::MAX),
            touched: Cell::new(now),
            epoch: known.epoch,
            owned: false,
            number: 0,
            since: known.epoch,
            unsure: Cell::new(false),
            batch: Cell::new((0, 0)),
        }
    }

    fn owned_connection(&self, conn: &Arc<str>) -> OwnedConnection {
        OwnedConnection {
            conn: conn.clone(),
            room: self.room.clone(),
            epoch: self.epoch,
            since: self.since,
            number: self.number,
            separate: self.separate,
        }
    }

    fn known(&self) -> Known {
        let at = (self.user_len as usize).min(self.text.len());
        let (user, state) = self.text.split_at(at);
        Known {
            place: Place {
                room: self.room.clone(),
                user: user.into(),
            },
            epoch: self.epoch,
            stored: match &self.large_state {
                _ if self.unsure.get() => None,
                Some(stored) => Some(Stored::clone(stored)),
                None => (!state.is_empty()).then(|| State::from_known(state).into()),
            },
        }
    }

    /// The state as this node last knew it.
    fn state(&self) -> State {
        let at = (self.user_len as usize).min(self.text.len());
        match &self.large_state {
            Some(stored) => stored.state.clone(),
            None if self.text.len() == at => State::empty(),
            None => State::from_known(&self.text[at..]),
        }
    }
}

/// A connection that this node answers for.
#[derive(Clone, Debug)]
pub struct OwnedConnection {
    pub conn: Arc<str>,
    pub room: Arc<str>,
    pub epoch: Epoch,
    /// The epoch with which this node became the owner.
    pub since: Epoch,
    /// The number with which this node became the owner.
    pub number: u64,
    /// Whether its state is stored under a separate key.
    pub separate: bool,
}

pub struct Directory {
    born: Instant,
    inner: Mutex<Inner>,
}

/// The result of looking a connection up for a batch.
pub enum Look {
    /// The connection is not in the batch yet.
    First {
        conn: Arc<str>,
        room: Arc<str>,
        epoch: Epoch,
        /// Whether its state is stored under a separate key.
        separate: bool,
        /// Whether this node owns it.
        owned: bool,
    },
    /// The connection is already in the batch, at this index.
    Again(usize),
    Unknown,
}

#[derive(Default)]
struct Inner {
    /// The number of the last batch; 0 stands for no batch.
    batches: u32,
    conns: HashMap<Arc<str>, Entry>,
    /// One copy of each room's name, shared by all connections in it.
    rooms: HashSet<Arc<str>>,
}

impl Default for Directory {
    fn default() -> Self {
        Directory {
            born: Instant::now(),
            inner: Mutex::default(),
        }
    }
}

impl Directory {
    pub fn get(&self, conn: &str) -> Option<Known> {
        self.inner.lock().conns.get(conn).map(Entry::known)
    }

    /// Stores what is known, unless the entry has a higher epoch: answers can overtake each other.
    pub fn learn(&self, conn: &str, known: &Known) {
        let now = self.now();
        let Inner { conns, rooms, .. } = &mut *self.inner.lock();
        let room = &known.place.room;
        match conns.get_mut(conn) {
            Some(old) if old.epoch > known.epoch => {}
            Some(old) => {
                let room = match old.room == *room {
                    true => old.room.clone(),
                    false => shared_copy(room, rooms),
                };
                let (owned, since) = match old.epoch == known.epoch {
                    true => (old.owned, old.since),
                    false => (false, known.epoch),
                };
                let number = old.number;
                *old = Entry::new(room, known, now);
                (old.owned, old.number, old.since) = (owned, number, since);
            }
            None => {
                conns.insert(
                    conn.into(),
                    Entry::new(shared_copy(room, rooms), known, now),
                );
            }
        }
    }

    /// What is known may be wrong, because the outcome of a write is unknown. Of a connection that
    /// this node owns, only the state is in doubt.
    pub fn forget(&self, conn: &str) {
        let mut inner = self.inner.lock();
        match inner.conns.get(conn) {
            Some(entry) if entry.owned => entry.unsure.set(true),
            _ => drop(inner.conns.remove(conn)),
        }
    }

    /// The store has another epoch than a caller, `stored`. What is known stays if it is of that
    /// epoch.
    pub fn outdated(&self, conn: &str, stored: Epoch) {
        let mut inner = self.inner.lock();
        if inner
            .conns
            .get(conn)
            .is_some_and(|entry| entry.epoch != stored)
        {
            inner.conns.remove(conn);
        }
    }

    /// The connection is gone, or another one by now.
    pub fn remove(&self, conn: &str) {
        self.inner.lock().conns.remove(conn);
    }

    /// Returns what is known of many connections, in order. Takes the lock once.
    pub fn all<'a>(&self, conns: impl Iterator<Item = &'a str>) -> Vec<Option<Known>> {
        let now = self.now();
        let inner = self.inner.lock();
        conns
            .map(|conn| {
                let entry = inner.conns.get(conn)?;
                entry.touched.set(now);
                Some(entry.known())
            })
            .collect()
    }

    /// Looks connections up for one batch, under one lock. The closure takes an id and the index
    /// that it would get in the batch. It detects ids that were looked up before in the same batch.
    pub fn in_batch(&self, with: impl FnOnce(&dyn Fn(&str, usize) -> Look)) {
        let now = self.now();
        let mut inner = self.inner.lock();
        inner.batches = inner.batches.wrapping_add(1).max(1);
        let inner = &*inner;
        with(&|conn, place| match inner.conns.get_key_value(conn) {
            None => Look::Unknown,
            Some((_, entry)) if entry.batch.get().0 == inner.batches => {
                Look::Again(entry.batch.get().1 as usize)
            }
            Some((conn, entry)) => {
                entry.touched.set(now);
                entry
                    .batch
                    .set((inner.batches, u32::try_from(place).unwrap_or(u32::MAX)));
                Look::First {
                    conn: conn.clone(),
                    room: entry.room.clone(),
                    epoch: entry.epoch,
                    separate: entry.separate,
                    owned: entry.owned,
                }
            }
        });
    }

    /// Records that this node owns a connection with this epoch, since the call with this number.
    /// `is_over`: another node owns it by now. If this node does not own the connection, with this
    /// epoch or a higher one, returns the highest number of an entry that is not needed any more.
    pub fn own(&self, conn: &str, epoch: Epoch, number: u64, is_over: bool) -> Option<u64> {
        let mut inner = self.inner.lock();
        let Some(entry) = inner.conns.get_mut(conn) else {
            return Some(number);
        };
        // Of joins at the same time, the store keeps the highest number.
        entry.number = entry.number.max(number);
        entry.owned |= entry.epoch == epoch && !is_over;
        (!entry.owned).then_some(entry.number)
    }

    /// Records that this node has joined a connection again that it has owned since the epoch
    /// `since`.
    pub fn restored(&self, conn: &str, since: Epoch) {
        if let Some(entry) = self.inner.lock().conns.get_mut(conn) {
            entry.since = since;
        }
    }

    /// The epoch that a caller means by `epoch`: its own connection may have got a higher one when
    /// this node joined it again.
    pub fn current_epoch(&self, conn: &str, epoch: Epoch) -> Epoch {
        match self.inner.lock().conns.get(conn) {
            Some(entry) if entry.owned && (entry.since..entry.epoch).contains(&epoch) => {
                entry.epoch
            }
            _ => epoch,
        }
    }

    /// This node stops owning a connection, because it leaves. Returns the number with which it
    /// became the owner; 0 if it was not. `fence`: the connection stays if its epoch is higher.
    pub fn let_go(&self, conn: &str, fence: Option<Epoch>) -> u64 {
        let mut inner = self.inner.lock();
        match inner.conns.get_mut(conn) {
            Some(entry) if entry.owned && fence.is_none_or(|fence| entry.epoch <= fence) => {
                entry.owned = false;
                entry.number
            }
            _ => 0,
        }
    }

    /// The leave of a connection has failed, so this node still owns it.
    pub fn keep(&self, conn: &str, number: u64) {
        if let Some(entry) = self.inner.lock().conns.get_mut(conn) {
            entry.owned |= number > 0;
        }
    }

    /// A heartbeat of this node has raised the connection's epoch.
    pub fn adopted(&self, conn: &str, epoch: Epoch) {
        if let Some(entry) = self.inner.lock().conns.get_mut(conn)
            && entry.epoch < epoch
        {
            (entry.epoch, entry.since) = (epoch, epoch);
        }
    }

    /// Whether this node owns the connection: its room, its epoch and the number.
    pub fn owned(&self, conn: &str) -> Option<OwnedConnection> {
        let inner = self.inner.lock();
        let (conn, entry) = inner.conns.get_key_value(conn)?;
        entry.owned.then(|| entry.owned_connection(conn))
    }

    /// The state, as this node last knew it, of a connection that it owns.
    pub fn owned_state(&self, conn: &str) -> Option<State> {
        let inner = self.inner.lock();
        let entry = inner.conns.get(conn)?;
        entry.owned.then(|| entry.state())
    }

    /// All connections that this node owns, sorted by room.
    pub fn all_owned(&self) -> Vec<OwnedConnection> {
        let inner = self.inner.lock();
        let owned = inner.conns.iter().filter(|(_, entry)| entry.owned);
        let mut owned: Vec<_> = owned
            .map(|(conn, entry)| entry.owned_connection(conn))
            .collect();
        drop(inner);
        owned.sort_unstable_by(|a, b| a.room.cmp(&b.room));
        owned
    }

    /// This node does not own the connection with this epoch any more. Returns it if it did.
    pub fn disown(&self, conn: &str, epoch: Epoch) -> Option<OwnedConnection> {
        let mut inner = self.inner.lock();
        let entry = inner.conns.get(conn)?;
        if !entry.owned || entry.epoch != epoch {
            return None;
        }
        let (conn, entry) = inner.conns.remove_entry(conn)?;
        Some(entry.owned_connection(&conn))
    }

    /// Forgets all connections that this node owns. Returns how many there were.
    pub fn disown_all(&self) -> usize {
        let mut inner = self.inner.lock();
        let before = inner.conns.len();
        inner.conns.retain(|_, entry| !entry.owned);
        inner.rooms.retain(is_in_use);
        before - inner.conns.len()
    }

    pub fn len(&self) -> usize {
        self.inner.lock().conns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes connections that were not used for `unused`: they have expired, or live on another
    /// node. Without this, sockets that vanish would stay in memory. Connections that this node owns
    /// stay.
    pub fn prune(&self, unused: Duration) {
        let now = self.now();
        let unused = u32::try_from(unused.as_secs()).unwrap_or(u32::MAX).max(1);
        let mut inner = self.inner.lock();
        let before = inner.conns.len();
        inner
            .conns
            .retain(|_, entry| entry.owned || now.saturating_sub(entry.touched.get()) <= unused);
        if inner.conns.len() < before / 2 {
            inner.conns.shrink_to_fit();
        }
        inner.rooms.retain(is_in_use);
    }

    fn now(&self) -> u32 {
        u32::try_from(self.born.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

/// The copy of a room name that all connections in it share.
fn shared_copy(room: &Arc<str>, rooms: &mut HashSet<Arc<str>>) -> Arc<str> {
    match rooms.get(room) {
        Some(room) => room.clone(),
        None => {
            rooms.insert(room.clone());
            room.clone()
        }
    }
}

/// A room name is unused if only the set itself holds it.
fn is_in_use(room: &Arc<str>) -> bool {
    Arc::strong_count(room) > 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(epoch: Epoch) -> Known {
        Known {
            place: Place::new("r", "u"),
            epoch,
            stored: None,
        }
    }

    #[test]
    fn an_older_answer_does_not_replace_a_newer_one() {
        let directory = Directory::default();
        directory.learn("c", &known(5));
        directory.learn("c", &known(4));
        assert_eq!(directory.get("c").unwrap().epoch, 5);
    }

    #[test]
    fn what_is_remembered_comes_back_as_it_was() {
        let directory = Directory::default();
        for (conn, state) in [("a", None), ("b", Some("{}")), ("c", Some(r#"{"ü":1}"#))] {
            let state = state.map(|text| State::parse("state", text).unwrap());
            let known = Known {
                place: Place::new("r", "ü{}"),
                epoch: 7,
                stored: state.map(Stored::from),
            };
            directory.learn(conn, &known);
            let found = directory.all([conn, "stranger"].into_iter());
            let [Some(found), None] = &found[..] else {
                panic!("{found:?}");
            };
            assert_eq!((&found.place, &found.stored), (&known.place, &known.stored));
        }
    }

    #[test]
    fn rooms_are_kept_once_and_go_with_their_last_connection() {
        let directory = Directory::default();
        for conn in ["a", "b"] {
            directory.learn(conn, &known(1));
        }
        assert!(Arc::ptr_eq(
            &directory.get("a").unwrap().place.room,
            &directory.get("b").unwrap().place.room
        ));
        directory.forget("a");
        directory.forget("b");
        directory.prune(Duration::from_secs(1));
        assert!(directory.is_empty());
        assert!(directory.inner.lock().rooms.is_empty());
    }
}
