//! What heartbeats ask of a store, and how a store holds states.

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
    /// Its state is stored apart from it ([`StateEncoding::separate`]).
    pub separate: bool,
}

/// A heartbeat in a batch that was not written, because the stored epoch is another one, or that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchMiss {
    /// Its place in the batch.
    pub index: usize,
    /// The stored epoch; `None` if there is no such connection. An error where a part of the store failed:
    /// the others of the batch have nothing to do with it.
    pub stored: Result<Option<Epoch>>,
}

/// A heartbeat with all that one can bring.
#[derive(Clone, Debug)]
pub struct HeartbeatUpdate {
    pub conn: Arc<str>,
    pub place: Place,
    /// The epoch that the caller has.
    pub epoch: Option<Epoch>,
    pub write: Option<StateWrite>,
}

impl HeartbeatUpdate {
    /// It changes the state, and must not be sent a second time.
    pub fn writes_state(&self) -> bool {
        self.write
            .as_ref()
            .is_some_and(|write| write.next.is_some())
    }
}

/// A compare-and-set of a state.
#[derive(Clone, Debug)]
pub struct StateWrite {
    /// What is expected to be stored.
    pub base: Stored,
    /// The state to write, or `None` to only check.
    pub next: Option<State>,
    /// The connection's epoch, if the caller has reason to believe that the expectation holds. A
    /// store may then try what is cheap if it does and costs another round trip if not.
    pub expected_epoch: Option<Epoch>,
}

/// A state as a store holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Empty if there is none, or none that can be read: then a patch mends it.
    pub state: State,
    /// What the store needs beside the state's text to recognise it.
    pub encoding: Option<Arc<StateEncoding>>,
}

/// How a state is stored, where that is not just its text in the connection's hash.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StateEncoding {
    /// What is stored, where it is not the state's text: compressed, missing or not to be read.
    pub raw: Option<Vec<u8>>,
    /// The field `compressed`; empty if there is none.
    pub compressed: Vec<u8>,
    /// In a key of its own, not in the connection's hash.
    pub separate: bool,
    /// Of one in a key of its own, the field `state_rev`: grows with every write. 0 of others.
    pub revision: u64,
    /// Why this client cannot read it, where others can: to write over it would destroy their data.
    pub foreign: Option<Fault>,
}

impl From<State> for Stored {
    /// Stored as its text.
    fn from(state: State) -> Self {
        Stored {
            state,
            encoding: None,
        }
    }
}

impl Stored {
    /// Nothing is stored.
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

    /// Why it must not be written over ([`StateEncoding::foreign`]).
    pub fn foreign(&self) -> Option<Fault> {
        self.encoding.as_ref().and_then(|encoding| encoding.foreign)
    }

    pub fn is_separate(&self) -> bool {
        self.encoding
            .as_ref()
            .is_some_and(|encoding| encoding.separate)
    }
}

/// What a [`HeartbeatUpdate`] came to. Only `Refreshed` has written anything.
#[derive(Clone, Debug, PartialEq)]
pub enum HeartbeatOutcome {
    Refreshed {
        epoch: Epoch,
        /// The heartbeat has raised the connection's epoch to its own.
        adopted: bool,
        /// How the state is stored now, if there was one to write or check.
        encoding: Option<Arc<StateEncoding>>,
    },
    Unknown,
    Stale {
        stored: Epoch,
    },
    Elsewhere(Place),
    /// The caller's epoch is higher than the stored one and than this one, which is the highest that a
    /// heartbeat may bring.
    Ahead {
        max: Epoch,
    },
    /// The caller's epoch is higher than this one, which is stored. Only joins give epochs here, so no join
    /// has it.
    Unissued {
        stored: Epoch,
    },
    /// The stored state is this one, not the one that was expected.
    Conflict {
        stored: Stored,
    },
}

/// Where a connection is, as a node finds it that did not make it.
#[derive(Clone, Debug, PartialEq)]
pub struct Located {
    pub place: Place,
    pub epoch: Epoch,
    pub stored: Stored,
}

/// The atomic operations of heartbeats.
pub trait HeartbeatStore: Send + Sync + 'static {
    /// Refreshes a batch of connections (spec 3.3), which must be sorted by room. Safe to run
    /// twice.
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>>;

    /// Whether a batch is carried out room by room: then one that is large costs the store less.
    fn refreshes_by_room(&self) -> bool {
        false
    }

    /// Refreshes connections one by one, with all that a heartbeat can bring, in order.
    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>>;

    /// Where connections are, each for itself; in order, `None` for the unknown.
    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>>;
}
