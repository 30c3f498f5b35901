//! The epochs of this client's own joins. They fence a `leave` without an epoch (spec 3.6): a late
//! `leave` must not end the connection after another client has joined it.
//!
//! Unlike the directory, these records are not hints. A record outlives its connection for a while,
//! so that a second or late `leave` is fenced too. When a record was not used for [`RETENTION`], or
//! when more than [`MAX_IDLE`] records are idle, the store is asked. A record is only removed if
//! its join is over. The number of records is therefore bounded by the number of connections that
//! are still joined, plus those joined in the meantime.

use crate::{model::presence::Epoch, store::PresenceStore};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// Minimum time that a record is kept after its last use.
const RETENTION: Duration = Duration::from_secs(600);
/// Maximum number of idle records that wait for the end of their retention.
const MAX_IDLE: usize = 100_000;
/// The number of connections in one request to the store.
const PAGE: usize = 256;

struct OwnJoin {
    epoch: Epoch,
    used: Instant,
}

#[derive(Default)]
pub struct OwnJoins(Mutex<HashMap<Arc<str>, OwnJoin>>);

impl OwnJoins {
    /// Records a join of this client. Answers can overtake each other, so the highest epoch is
    /// kept.
    pub fn joined(&self, conn: &Arc<str>, epoch: Epoch) {
        let used = Instant::now();
        let mut joins = self.0.lock();
        let join = joins.entry(conn.clone()).or_insert(OwnJoin { epoch, used });
        join.epoch = join.epoch.max(epoch);
        join.used = used;
    }

    /// Records that a heartbeat of this client raised the connection's epoch to the one that its
    /// caller gave.
    pub fn adopted(&self, conn: &str, epoch: Epoch) {
        if let Some(join) = self.0.lock().get_mut(conn) {
            join.epoch = join.epoch.max(epoch);
            join.used = Instant::now();
        }
    }

    /// Removes the record of a join of unknown outcome, because its epoch is unknown. A later
    /// `leave` is then not fenced, so that it removes a connection that may exist (spec 3.12).
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
                // If the store cannot answer for a connection now, the next run asks again.
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
        model::{event::Reason, presence::Place, state::State},
        presence::{self, directory::Directory},
        store::{Join, Lifetime, memory::MemoryStore, noop_sink::NoopSink},
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
                lifetime: Lifetime::of_heartbeats(600_000),
                floor: 0,
            };
            presence::join(&store, &directory, &own, &mut join)
                .await
                .unwrap();
        }
        let epoch = |conn| own.epoch(conn).unwrap();
        let moved = epoch("moved");
        presence::leave(&store, &directory, &own, "left", None, None, Reason::Left)
            .await
            .unwrap();
        // Another client has joined this connection since.
        let mut join = Join {
            conn: "moved".into(),
            place: Place::new("q", "u"),
            state: State::empty(),
            lifetime: Lifetime::of_heartbeats(600_000),
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
