//! The operations on a store for heartbeats, and how a store represents states.

use super::Lifetime;
use crate::model::{
    codec::Fault,
    error::Result,
    presence::{Epoch, Place},
    state::State,
};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// A heartbeat of a connection whose epoch the node knows.
#[derive(Clone, Debug)]
pub struct HeartbeatRefresh {
    pub conn: Arc<str>,
    pub room: Arc<str>,
    pub epoch: Epoch,
    /// The state is stored under a separate key ([`StateEncoding::separate`]).
    pub separate: bool,
}

/// A heartbeat of a batch that was not written, because the stored epoch differs or because it
/// failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchMiss {
    /// Its index in the batch.
    pub index: usize,
    /// The stored epoch; `None` if there is no such connection. An error if a part of the store
    /// failed; the other heartbeats of the batch are not affected.
    pub stored: Result<Option<Epoch>>,
}

/// A heartbeat with optional epoch and state write.
#[derive(Clone, Debug)]
pub struct HeartbeatUpdate {
    pub conn: Arc<str>,
    pub place: Place,
    /// The epoch that the caller gave.
    pub epoch: Option<Epoch>,
    pub write: Option<StateWrite>,
}

impl HeartbeatUpdate {
    /// Whether it changes the state. If so, it must not be sent twice.
    pub fn writes_state(&self) -> bool {
        self.write
            .as_ref()
            .is_some_and(|write| write.next.is_some())
    }
}

/// A compare-and-set of a state.
#[derive(Clone, Debug)]
pub struct StateWrite {
    /// The state that is expected to be stored.
    pub base: Stored,
    /// The state to write; `None` to only check `base`.
    pub next: Option<State>,
    /// The connection's epoch, if the caller has reason to believe that `base` is current. A store
    /// may then try a path that is cheap if it is, and that costs another round trip if it is not.
    pub expected_epoch: Option<Epoch>,
}

/// A state as a store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Empty if there is no state, or none that can be read. A patch then replaces it.
    pub state: State,
    /// What the store needs in addition to the state's text to compare it.
    pub encoding: Option<Arc<StateEncoding>>,
}

/// How a state is stored, if it is not stored as plain text in the connection's hash.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateEncoding {
    /// The stored bytes, if they are not the state's text: compressed, missing or unreadable.
    pub raw: Option<Vec<u8>>,
    /// The field `compressed`; empty if the hash does not have it.
    pub compressed: Vec<u8>,
    /// The state is under a separate key, not in the connection's hash.
    pub separate: bool,
    /// The field `state_rev` of a state under a separate key. It grows with every write. 0 for
    /// other states.
    pub revision: u64,
    /// Why this client cannot read a state that other clients can read. Overwriting it would
    /// destroy their data.
    pub foreign: Option<Fault>,
}

impl From<State> for Stored {
    /// A state that is stored as its text.
    fn from(state: State) -> Self {
        Stored {
            state,
            encoding: None,
        }
    }
}

impl Stored {
    /// No state is stored.
    pub fn none() -> Self {
        Stored {
            state: State::empty(),
            encoding: Some(Arc::new(StateEncoding {
                raw: Some(Vec::new()),
                ..StateEncoding::default()
            })),
        }
    }

    /// The bytes that are stored.
    pub fn bytes(&self) -> &[u8] {
        self.encoding
            .as_ref()
            .and_then(|encoding| encoding.raw.as_deref())
            .unwrap_or(self.state.as_str().as_bytes())
    }

    /// Why the state must not be overwritten ([`StateEncoding::foreign`]).
    pub fn foreign(&self) -> Option<Fault> {
        self.encoding.as_ref().and_then(|encoding| encoding.foreign)
    }

    pub fn is_separate(&self) -> bool {
        self.encoding
            .as_ref()
            .is_some_and(|encoding| encoding.separate)
    }
}

/// The result of a [`HeartbeatUpdate`]. Only `Refreshed` has written anything.
#[derive(Clone, Debug, PartialEq)]
pub enum HeartbeatOutcome {
    Refreshed {
        epoch: Epoch,
        /// The heartbeat raised the connection's epoch to its own.
        adopted: bool,
        /// The connection had an owner, and has none now.
        released: bool,
        /// How the state is stored now, if the update wrote or checked one.
        encoding: Option<Arc<StateEncoding>>,
    },
    Unknown,
    Stale {
        stored: Epoch,
    },
    Elsewhere(Place),
    /// The caller's epoch is higher than the stored one and than `max`, the highest that a
    /// heartbeat may have.
    Ahead {
        max: Epoch,
    },
    /// The caller's epoch is higher than `stored`. In this layout only joins issue epochs, so no
    /// join has issued it.
    Unissued {
        stored: Epoch,
    },
    /// The node that should own the connection from now on was declared dead, or has no record.
    OwnerLost,
    /// The node has to claim the connection before it can become its owner. Only between the parts
    /// of a store.
    Unclaimed,
    /// The stored state is `stored`, which differs from the expected one.
    Conflict {
        stored: Stored,
    },
}

/// The location of a connection, for a node that did not join it.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    pub place: Place,
    pub epoch: Epoch,
    pub stored: Stored,
}

/// The atomic operations of heartbeats.
pub trait HeartbeatStore: Send + Sync + 'static {
    /// Refreshes a batch of connections (spec 3.3), which must be sorted by room. Safe to run
    /// twice. With an owner in `lifetime`, it refreshes connections that have owners only, and
    /// without one, only those that have none; others are misses.
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>>;

    /// Whether the store splits a batch into one call for each room. Large batches then cost the
    /// store less.
    fn refreshes_by_room(&self) -> bool {
        false
    }

    /// Applies updates one by one, in order. Connections get the owner in `lifetime`, or none.
    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>>;

    /// Looks connections up. Returns one result for each, in order; `None` if the connection is
    /// unknown.
    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>>;
}
