//! The epochs of this client's own joins. A `leave` without an epoch is fenced by them (spec 3.6): a late
//! one must not end the connection that somebody else has joined since.
//!
//! Unlike what the directory remembers, a record is no hint. It outlives the connection for a while, so
//! that a second or late `leave` is fenced, too. When it has not been used for [`RETENTION`], or when there
//! are more than [`MAX_IDLE`] that were not used lately, the store is asked: a record goes only if its join
//! is over. So their number is bounded by that of the connections that are still joined, plus what was
//! joined in the meantime.

use crate::{model::presence::Epoch, store::PresenceStore};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// For how long a record stays at least after its last use.
const RETENTION: Duration = Duration::from_secs(600);
/// How many records may wait for the end of their retention.
const MAX_IDLE: usize = 100_000;
/// How many connections the store is asked about at a time.
const PAGE: usize = 256;

struct OwnJoin {
    epoch: Epoch,
    used: Instant,
}

#[derive(Default)]
pub struct OwnJoins(Mutex<HashMap<Arc<str>, OwnJoin>>);

impl OwnJoins {
    /// This client has joined the connection. Answers can overtake each other: the newest join counts.
    pub fn joined(&self, conn: &Arc<str>, epoch: Epoch) {
        let used = Instant::now();
        let mut joins = self.0.lock();
        let join = joins.entry(conn.clone()).or_insert(OwnJoin { epoch, used });
        join.epoch = join.epoch.max(epoch);
        join.used = used;
    }

    /// A heartbeat of this client has raised the connection's epoch to the one that its caller gave.
    pub fn adopted(&self, conn: &str, epoch: Epoch) {
        if let Some(join) = self.0.lock().get_mut(conn) {
            join.epoch = join.epoch.max(epoch);
            join.used = Instant::now();
        }
    }

    /// Nobody knows whether a join of this client was carried out, so nobody knows its epoch. A `leave` is
    /// not fenced then: what may exist is cleaned up (spec 3.12).
    pub fn forget(&self, conn: &str) {
        self.0.lock().remove(conn);
    }

    /// The epoch of this client's last join of the connection.
    pub fn epoch(&self, conn: &str) -> Option<Epoch> {
        let mut joins = self.0.lock();
        let join = joins.get_mut(conn)?;
        join.used = Instant::now();
        Some(join.epoch)
    }

    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops records whose joins are over.
    pub async fn prune(&self, store: &dyn PresenceStore) {
        self.prune_idle(store, RETENTION, MAX_IDLE).await;
    }

    async fn prune_idle(&self, store: &dyn PresenceStore, retention: Duration, max_idle: usize) {
        let mut idle: Vec<(Instant, Arc<str>)> = {
            let joins = self.0.lock();
            joins
                .iter()
                .map(|(conn, join)| (join.used, conn.clone()))
                .collect()
        };
        idle.sort_unstable_by_key(|(used, _)| *used);
        let over = idle.partition_point(|(used, _)| used.elapsed() >= retention);
        let over = over.max(idle.len().saturating_sub(max_idle));
        let conns: Vec<Arc<str>> = idle.into_iter().take(over).map(|(_, conn)| conn).collect();
        for page in conns.chunks(PAGE) {
            let located = store.locate(page).await;
            let mut joins = self.0.lock();
            for (conn, located) in page.iter().zip(located) {
                // What cannot be asked about now is asked about the next time.
                let Ok(located) = located else { continue };
                let Some(join) = joins.get_mut(conn) else {
                    continue;
                };
                let lives = located.is_some_and(|located| located.epoch == join.epoch);
                if lives {
                    join.used = Instant::now();
                } else {
                    joins.remove(conn);
                }
            }
        }
        let mut joins = self.0.lock();
        if joins.len() < joins.capacity() / 4 {
            joins.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{presence::Place, state::State},
        presence::{self, directory::Directory},
        store::{Join, memory::MemoryStore, noop_sink::NoopSink},
    };

    #[tokio::test]
    async fn spec_3_6_a_record_goes_only_when_its_join_is_over() {
        let store = MemoryStore::open(None, Arc::new(NoopSink));
        let (directory, own) = (Directory::default(), OwnJoins::default());
        for conn in ["lives", "left", "moved"] {
            let mut join = Join {
                conn: conn.into(),
                place: Place::new("r", "u"),
                state: State::empty(),
                ttl_ms: 600_000,
                floor: 0,
            };
            presence::join(&store, &directory, &own, &mut join)
                .await
                .unwrap();
        }
        let epoch = |conn| own.epoch(conn).unwrap();
        let moved = epoch("moved");
        presence::leave(&store, &directory, &own, "left", None)
            .await
            .unwrap();
        // Another client has joined this one since.
        let mut join = Join {
            conn: "moved".into(),
            place: Place::new("q", "u"),
            state: State::empty(),
            ttl_ms: 600_000,
            floor: moved + 1,
        };
        presence::join(
            &store,
            &Directory::default(),
            &OwnJoins::default(),
            &mut join,
        )
        .await
        .unwrap();

        own.prune_idle(&store, RETENTION, MAX_IDLE).await;
        assert_eq!(own.len(), 3, "all were used within their retention");
        let lives = epoch("lives");
        own.prune_idle(&store, RETENTION, 0).await;
        assert_eq!(own.epoch("lives"), Some(lives));
        assert_eq!(own.len(), 1);
    }

    #[test]
    fn spec_3_6_the_newest_own_join_counts_and_heartbeats_of_strangers_leave_no_record() {
        let own = OwnJoins::default();
        let conn: Arc<str> = "c".into();
        own.adopted("c", 9);
        assert_eq!(own.epoch("c"), None);
        own.joined(&conn, 5);
        own.joined(&conn, 4);
        assert_eq!(own.epoch("c"), Some(5));
        own.adopted("c", 9);
        assert_eq!(own.epoch("c"), Some(9));
        own.forget("c");
        assert!(own.is_empty());
    }
}
