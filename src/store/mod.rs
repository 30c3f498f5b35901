//! What Rollcall asks of a store: a dozen atomic operations, implemented on Redis
//! (`store/redis/`) and in the process (`store/memory/`), and held to one conformance suite.
//!
//! An operation is atomic with its event (spec 3.10). It knows nothing of retries, batching or
//! what the node remembers: that is the capabilities' part (`presence/`, `heartbeat/`, `expiry/`,
//! `metadata/`).

pub mod heartbeat;
pub mod lock;
pub mod memory;
pub mod metadata;
#[cfg(test)]
pub(crate) mod noop_sink;
pub mod redis;
mod sink;

pub use heartbeat::{
    BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatStore, HeartbeatUpdate, Located,
    StateEncoding, StateWrite, Stored,
};
pub use sink::{ConnectionState, EventSink, LogLevel, Sinks, StoreNotifications};

use crate::model::{
    error::Result,
    metadata::Channel,
    presence::{Epoch, Member, Place, Sweep},
    state::State,
};
use futures_util::future::BoxFuture;
use lock::LockStore;
use metadata::MetadataStore;
use std::sync::Arc;

/// A connection that is to join.
#[derive(Clone, Debug)]
pub struct Join {
    pub conn: Arc<str>,
    pub place: Place,
    pub state: State,
    pub ttl_ms: u64,
    /// The new epoch is at least this: one more than the highest that the caller has seen, 0 if
    /// none. Keeps epochs growing although the store has forgotten the connection.
    pub floor: Epoch,
}

/// What a join came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Joined {
    Joined {
        epoch: Epoch,
        /// How the state is stored.
        encoding: Option<Arc<StateEncoding>>,
    },
    /// The connection is in this place; nothing was written, call again with it.
    Elsewhere(Place),
    /// The clock has not come to the epoch that the join would get. Nothing was written, call again
    /// in so many ms.
    Early { wait_ms: u64 },
}

/// What a leave came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Left {
    Left,
    /// The clock has not passed the connection's epoch: a join that follows at once would get the
    /// same epoch again. Nothing was written, call again in so many ms.
    Early {
        wait_ms: u64,
    },
    Unknown,
    /// The stored epoch is higher than the fence. Nothing was written.
    Newer,
    /// The connection is in this place; nothing was written, call again with it.
    Elsewhere(Place),
}

/// Which events a subscription gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Presence events of every room.
    AllRooms,
    /// Presence events of one room.
    Room(Arc<str>),
    /// Expirations of connections, as the store notices them.
    Expirations,
    /// Metadata events of every channel.
    AllChannels,
    /// Metadata events of one channel.
    Channel(Channel),
    /// Events of every lock.
    AllLocks,
    /// Events of one lock.
    Lock(Arc<str>),
    /// What this node is told of its own claims on locks.
    LockCalls,
}

/// A kind of subscription whose events go to JavaScript, which knows it by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// Presence events of every room.
    AllRooms,
    /// Presence events of single rooms.
    Room,
    /// Metadata events of every channel.
    AllChannels,
    /// Metadata events of single channels.
    Channel,
    /// Events of every lock.
    AllLocks,
    /// Events of single locks.
    Lock,
}

impl Feed {
    /// Every feed, in the order of their numbers.
    pub const ALL: [Feed; 6] = [
        Feed::AllRooms,
        Feed::Room,
        Feed::AllChannels,
        Feed::Channel,
        Feed::AllLocks,
        Feed::Lock,
    ];

    /// Its number; `js/dispatcher.ts` has the same.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// What is to be subscribed to for this feed. `name`: the room, `<bytes of the type>:<type><name>` of
    /// the channel, or the lock, for a feed of single ones; `None` if that is no name.
    pub fn topic(self, name: &str) -> Option<Topic> {
        Some(match self {
            Feed::AllRooms => Topic::AllRooms,
            Feed::Room => Topic::Room(name.into()),
            Feed::AllChannels => Topic::AllChannels,
            Feed::AllLocks => Topic::AllLocks,
            Feed::Lock => Topic::Lock(name.into()),
            Feed::Channel => {
                let (bytes, both) = name.split_once(':')?;
                let (kind, name) = both.split_at_checked(bytes.parse().ok()?)?;
                Topic::Channel(Channel::new(kind, name))
            }
        })
    }
}

/// Whether a store tells of expirations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It does, from now on.
    Notified,
    /// It may not be asked to.
    Refused,
    /// It does not, and sweeping is as good.
    Needless,
}

/// How a sweep goes about it. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct SweepSettings {
    pub ttl_ms: u64,
    /// For how long one node's sweep serves all: there is none in that time. 0 to sweep in any case.
    pub serves_ms: u64,
    /// For how long a node keeps a room in which something may be dead; then it is anybody's again.
    pub claim_ms: u64,
    /// Time between two checks of whether a room's indices agree.
    pub check_ms: u64,
    /// Time between two looks for what an operation of several steps has left half way, in layouts that
    /// have such.
    pub settle_ms: u64,
}

/// Takes a piece of a snapshot. Resolves when the next may be read: what takes the pieces may be slower than
/// the store.
pub type EachPiece<'a> = &'a (dyn Fn(Vec<Member>) -> BoxFuture<'static, ()> + Send + Sync);

/// The atomic operations of presence.
pub trait PresenceStore: HeartbeatStore {
    /// Joins (spec 3.1, 3.2). `previous`: where the connection is, if the caller knows.
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<Joined>>;

    /// Leaves (spec 3.6) a place, unless the stored epoch is higher than `fence`.
    fn leave<'a>(
        &'a self,
        conn: &'a str,
        place: &'a Place,
        fence: Option<Epoch>,
    ) -> BoxFuture<'a, Result<Left>>;

    /// The live connections of a room (spec 3.8), in pieces as they are read: what is done with the first
    /// need not wait for the last. An error can come after some.
    fn room_snapshot<'a>(&'a self, room: &'a str, each: EachPiece<'a>)
    -> BoxFuture<'a, Result<()>>;

    /// The live connections of a user, in whatever room (spec 3.9).
    fn user_connections<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Vec<Member>>>;

    /// Removes what is due now (spec 6.1), publishing `leave` with reason `timeout` for each; unless
    /// another node has just done so.
    fn sweep<'a>(&'a self, settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>>;

    /// Takes rooms that no node of ours has made under the reaper's care (spec 6.5).
    fn adopt(&self, ttl_ms: u64) -> BoxFuture<'_, Result<Sweep>>;
}

/// A store: presence, metadata, locks, and subscriptions to what happens to them.
pub trait Store: Send + Sync + 'static {
    fn presence(self: Arc<Self>) -> Arc<dyn PresenceStore>;

    fn metadata(self: Arc<Self>) -> Arc<dyn MetadataStore>;

    fn locks(&self) -> &dyn LockStore;

    /// Has the store notify when a connection expires (spec 6.4).
    fn watch_expirations(&self) -> BoxFuture<'_, Result<Watch>>;

    /// Events of this topic go to the sink once this resolves.
    fn subscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>>;

    fn unsubscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>>;

    /// Whether all of its servers can be reached now.
    fn all_reachable(&self) -> bool;

    /// Ends connections and tasks.
    fn close(&self) -> BoxFuture<'_, ()>;
}
