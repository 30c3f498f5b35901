//! What this node remembers of connections: their place, epoch and state. A hint that saves round
//! trips, never the truth: every script checks it against the store.

use crate::model::{
    presence::{Epoch, Place},
    state::State,
};
use parking_lot::Mutex;
use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// What is remembered of one connection.
#[derive(Clone, Debug)]
pub struct Known {
    pub place: Place,
    pub epoch: Epoch,
    /// The state as this node last wrote or read it.
    pub state: Option<State>,
    /// Seconds since the directory was made when it was last of use.
    touched: Cell<u32>,
    /// The batch that it was last in, and where.
    batch: Cell<(u32, u32)>,
}

impl Known {
    pub fn new(place: Place, epoch: Epoch, state: Option<State>) -> Self {
        Known {
            place,
            epoch,
            state,
            touched: Cell::new(0),
            batch: Cell::new((0, 0)),
        }
    }
}

pub struct Directory {
    born: Instant,
    inner: Mutex<Inner>,
}

/// What a look at a connection for a batch finds.
pub enum Look {
    /// It is not in the batch yet.
    First {
        conn: Arc<str>,
        room: Arc<str>,
        epoch: Epoch,
    },
    /// It is in the batch already, at this place.
    Again(usize),
    Unknown,
}

#[derive(Default)]
struct Inner {
    /// Numbers batches; 0 is none.
    batches: u32,
    conns: HashMap<Arc<str>, Known>,
    /// One copy of each room's name, however many connections are in it.
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
        self.inner.lock().conns.get(conn).cloned()
    }

    /// Remembers, unless something newer is known (answers can overtake each other).
    pub fn learn(&self, conn: &str, mut known: Known) {
        known.touched.set(self.now());
        let mut inner = self.inner.lock();
        known.place.room = match inner.rooms.get(&known.place.room) {
            Some(room) => room.clone(),
            None => {
                inner.rooms.insert(known.place.room.clone());
                known.place.room
            }
        };
        match inner.conns.get_mut(conn) {
            Some(old) if old.epoch > known.epoch => {}
            Some(old) => *old = known,
            None => {
                inner.conns.insert(conn.into(), known);
            }
        }
    }

    pub fn forget(&self, conn: &str) {
        self.inner.lock().conns.remove(conn);
    }

    /// Runs `read` for many connections under one lock; `read` gets what is known of each.
    pub fn with<'a>(
        &self,
        conns: impl Iterator<Item = &'a str>,
        mut read: impl FnMut(&'a str, Option<(&Arc<str>, &Known)>),
    ) {
        let now = self.now();
        let inner = self.inner.lock();
        for conn in conns {
            let found = inner.conns.get_key_value(conn);
            if let Some((_, known)) = found {
                known.touched.set(now);
            }
            read(conn, found);
        }
    }

    /// Looks connections up for one batch, under one lock. The look takes an id and the place that
    /// it would get in the batch, and tells ids that come a second time.
    pub fn in_batch(&self, with: impl FnOnce(&dyn Fn(&str, usize) -> Look)) {
        let now = self.now();
        let mut inner = self.inner.lock();
        inner.batches = inner.batches.wrapping_add(1).max(1);
        let inner = &*inner;
        with(&|conn, place| match inner.conns.get_key_value(conn) {
            None => Look::Unknown,
            Some((_, known)) if known.batch.get().0 == inner.batches => {
                Look::Again(known.batch.get().1 as usize)
            }
            Some((conn, known)) => {
                known.touched.set(now);
                known
                    .batch
                    .set((inner.batches, u32::try_from(place).unwrap_or(u32::MAX)));
                Look::First {
                    conn: conn.clone(),
                    room: known.place.room.clone(),
                    epoch: known.epoch,
                }
            }
        });
    }

    pub fn len(&self) -> usize {
        self.inner.lock().conns.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets connections that were of no use for `unused`: theirs have expired, or live on
    /// another node. Without this, sockets that vanish would stay in memory.
    pub fn prune(&self, unused: Duration) {
        let now = self.now();
        let unused = u32::try_from(unused.as_secs()).unwrap_or(u32::MAX).max(1);
        let mut inner = self.inner.lock();
        let before = inner.conns.len();
        inner
            .conns
            .retain(|_, known| now.saturating_sub(known.touched.get()) <= unused);
        if inner.conns.len() < before / 2 {
            inner.conns.shrink_to_fit();
        }
        // A name that only the set itself holds is in nobody's use.
        inner.rooms.retain(|room| Arc::strong_count(room) > 1);
    }

    fn now(&self) -> u32 {
        u32::try_from(self.born.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(epoch: Epoch) -> Known {
        Known::new(Place::new("r", "u"), epoch, None)
    }

    #[test]
    fn an_older_answer_does_not_replace_a_newer_one() {
        let directory = Directory::default();
        directory.learn("c", known(5));
        directory.learn("c", known(4));
        let mut epoch = 0;
        directory.with(["c"].into_iter(), |_, found| epoch = found.unwrap().1.epoch);
        assert_eq!(epoch, 5);
    }

    #[test]
    fn rooms_are_kept_once_and_go_with_their_last_connection() {
        let directory = Directory::default();
        for conn in ["a", "b"] {
            directory.learn(conn, known(1));
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
