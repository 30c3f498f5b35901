//! The store interface: a dozen atomic operations, implemented on Redis (`store/redis/`) and in the
//! process (`store/memory/`). One conformance suite tests both.
//!
//! An operation and its event are one atomic step (spec 3.10). A store does not retry, batch or
//! cache. The modules above it do (`presence/`, `heartbeat/`, `expiry/`, `metadata/`).

pub mod heartbeat;
pub mod lock;
pub mod memory;
pub mod metadata;
pub mod node;
#[cfg(test)]
pub(crate) mod noop_sink;
pub mod redis;
mod sink;

pub use heartbeat::{
    BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatStore, HeartbeatUpdate, Located,
    StateEncoding, StateWrite, Stored,
};
pub use node::{Lifetime, NodeStore, Owner};
pub use sink::{ConnectionState, EventSink, LogLevel, Sinks, StoreNotifications};

use crate::model::{
    error::Result,
    event::Reason,
    metadata::Channel,
    presence::{Epoch, Member, Place, Sweep},
    state::State,
};
use futures_util::future::BoxFuture;
use lock::LockStore;
use metadata::MetadataStore;
use std::sync::Arc;

/// The parameters of a join.
#[derive(Clone, Debug)]
pub struct Join {
    pub conn: Arc<str>,
    pub place: Place,
    pub state: State,
    pub lifetime: Lifetime,
    /// Minimum of the new epoch: one more than the highest epoch that the caller has seen, or 0 if
    /// it has seen none. Epochs then grow even if the store has forgotten the connection.
    pub floor: Epoch,
}

/// The outcome of a join.
#[derive(Clone, Debug, PartialEq)]
pub enum Joined {
    Joined {
        epoch: Epoch,
        /// How the state is stored.
        encoding: Option<Arc<StateEncoding>>,
    },
    /// The connection is in this place. Nothing was written; call again with this place.
    Elsewhere(Place),
    /// The store's clock has not reached the epoch that the join would get. Nothing was written;
    /// call again after `wait_ms`.
    Early { wait_ms: u64 },
    /// The node that should own the connection was declared dead, or has no record. Nothing was
    /// written.
    OwnerLost,
}

/// The outcome of a leave.
#[derive(Clone, Debug, PartialEq)]
pub enum Left {
    Left,
    /// The store's clock has not passed the connection's epoch, so a join that follows at once
    /// would get the same epoch again. Nothing was written; call again after `wait_ms`.
    Early {
        wait_ms: u64,
    },
    Unknown,
    /// The stored epoch is higher than the fence. Nothing was written.
    Newer,
    /// The connection is in this place. Nothing was written; call again with this place.
    Elsewhere(Place),
}

/// The events that a subscription gets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Presence events of every room.
    AllRooms,
    /// Presence events of one room.
    Room(Arc<str>),
    /// Expirations of connections, as the store detects them.
    Expirations,
    /// Metadata events of every channel.
    AllChannels,
    /// Metadata events of one channel.
    Channel(Channel),
    /// Events of every lock.
    AllLocks,
    /// Events of one lock.
    Lock(Arc<str>),
    /// Calls for this node's own claims on locks.
    LockCalls,
    /// Messages for the node with this id about its connections.
    NodeCalls(Arc<str>),
}

/// A kind of subscription whose events go to JavaScript. JavaScript identifies it by its number.
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

    /// The number of the feed; `js/dispatcher.ts` has the same numbers.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The topic of this feed. `name`: the room, `<bytes of the type>:<type><name>` of the channel,
    /// or the lock, if the feed is for single ones. Returns `None` if `name` is not valid.
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

/// Whether a store notifies of expirations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// It does from now on.
    Notified,
    /// The server does not permit it.
    Refused,
    /// It does not, and sweeping is as good.
    Needless,
}

/// Parameters of a sweep. Times are in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct SweepSettings {
    pub ttl_ms: u64,
    /// How long one node's sweep serves all nodes: no other sweep runs in that time. 0: sweep in
    /// any case.
    pub serves_ms: u64,
    /// How long a node keeps a room in which something may be dead. After that, any node can take
    /// the room.
    pub claim_ms: u64,
    /// Time between two checks of whether a room's indices agree.
    pub check_ms: u64,
    /// Time between two searches for operations of several steps that were interrupted, in layouts
    /// that have such operations.
    pub settle_ms: u64,
}

/// A leave.
#[derive(Clone, Debug)]
pub struct Leave<'a> {
    pub conn: &'a str,
    pub place: &'a Place,
    /// The connection stays if the stored epoch is higher.
    pub fence: Option<Epoch>,
    /// The node that calls, if it answers for connections.
    pub node: Option<&'a str>,
    /// The number with which that node became the owner of the connection; 0 if it did not.
    pub number: u64,
    /// With `Timeout`, the connection leaves only if `node` owns it with the epoch `fence`.
    pub reason: Reason,
}

impl<'a> Leave<'a> {
    /// The leave of a connection that a newer join replaces.
    pub fn replaced(conn: &'a str, place: &'a Place, node: Option<&'a str>) -> Leave<'a> {
        Leave {
            conn,
            place,
            fence: None,
            node,
            number: 0,
            reason: Reason::Replaced,
        }
    }

    /// The connection leaves only if its stored epoch is lower than this.
    pub fn below(&self) -> Option<Epoch> {
        self.fence.map(|fence| fence.saturating_add(1))
    }
}

/// Takes a piece of a snapshot. The future resolves when the next piece may be read, because the
/// consumer of the pieces may be slower than the store.
pub type EachPiece<'a> = &'a (dyn Fn(Vec<Member>) -> BoxFuture<'static, ()> + Send + Sync);

/// The atomic operations of presence.
pub trait PresenceStore: HeartbeatStore + NodeStore {
    /// Joins (spec 3.1, 3.2). `previous`: the place of the connection, if the caller knows it.
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<Joined>>;

    /// Leaves a place (spec 3.6).
    fn leave<'a>(&'a self, leave: &'a Leave<'a>) -> BoxFuture<'a, Result<Left>>;

    /// Reads the live connections of a room (spec 3.8), and passes pieces on as they are read, so
    /// that the first piece can be processed before the last is read. An error can come after some
    /// pieces.
    fn room_snapshot<'a>(&'a self, room: &'a str, each: EachPiece<'a>)
    -> BoxFuture<'a, Result<()>>;

    /// The live connections of a user in all rooms (spec 3.9).
    fn user_connections<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Vec<Member>>>;

    /// Removes what is due now (spec 6.1), and publishes `leave` with reason `timeout` for each
    /// connection. Does nothing if another node has just swept.
    fn sweep<'a>(&'a self, settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>>;

    /// Adds rooms that only legacy nodes wrote to those that are reaped (spec 6.5).
    fn adopt(&self, ttl_ms: u64) -> BoxFuture<'_, Result<Sweep>>;
}

/// A store: presence, metadata, locks, and subscriptions to what happens to them.
pub trait Store: Send + Sync + 'static {
    fn presence(self: Arc<Self>) -> Arc<dyn PresenceStore>;

    fn metadata(self: Arc<Self>) -> Arc<dyn MetadataStore>;

    fn locks(&self) -> &dyn LockStore;

    /// Makes the store notify when a connection expires (spec 6.4).
    fn watch_expirations(&self) -> BoxFuture<'_, Result<Watch>>;

    /// Subscribes to a topic. Its events go to the sink once this resolves.
    fn subscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>>;

    fn unsubscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>>;

    /// Whether all servers of the store are reachable now.
    fn all_reachable(&self) -> bool;

    /// Ends connections and tasks.
    fn close(&self) -> BoxFuture<'_, ()>;
}
