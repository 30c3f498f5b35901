//! The in-process store: the equivalent of the Redis scripts, on maps under one mutex. It passes
//! the same conformance suite (spec 11.2). It is for development, tests and servers of one process.
//!
//! Handles opened under one name share a core. Its data live as long as one of them is open. Lists
//! of connections are in the order in which the connections joined; a rejoin moves a connection to
//! the end.

mod clock;
mod feeds;
mod lock;
mod metadata;
mod nodes;
mod presence;
#[cfg(test)]
mod tests;

use self::{
    clock::Clock,
    feeds::{Feeds, HandleId},
    lock::Locks,
    metadata::Metadata,
    nodes::Nodes,
    presence::Presence,
};
use crate::{
    model::{
        error::{Error, Result},
        lock::{FencingToken, Inspection},
        metadata::{Channel, change::LockState, record},
        presence::{Member, Place, Sweep},
    },
    store::{
        BatchMiss, EachPiece, EventSink, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join,
        Joined, Leave, Left, Lifetime, Located, NodeStore, PresenceStore, Store, SweepSettings,
        Topic, Watch,
        heartbeat::HeartbeatStore,
        lock::{Claim, Due, DueLook, Holds, LockStore, Revoked, Take, Taken},
        metadata::{Commit, Committed, MetadataStore},
        node::{Lease, NodeLook, Removal, Renewal},
    },
};
use futures_util::future::BoxFuture;
use once_cell::sync::Lazy;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

/// Maximum number of connections that are removed before the mutex is released.
const REAPED_AT_A_TIME: usize = 256;

/// Number of members of a room that are passed to the caller at once.
const PIECE: usize = 256;

/// The cores that have a name. A core removes itself when its last handle is dropped.
static NAMED: Lazy<Mutex<HashMap<Box<str>, Weak<Core>>>> = Lazy::new(Mutex::default);

/// The data that handles share.
struct Core {
    name: Option<Box<str>>,
    clock: Clock,
    /// One mutex for all data. Sinks are called while it is held, so operations are atomic with
    /// their events, and events are emitted in the order in which operations are applied.
    data: Mutex<Data>,
}

#[derive(Default)]
struct Data {
    presence: Presence,
    nodes: Nodes,
    locks: Locks,
    metadata: Metadata,
    feeds: Feeds,
}

impl Core {
    fn new(name: Option<&str>, clock: Clock) -> Arc<Core> {
        Arc::new(Core {
            name: name.map(Into::into),
            clock,
            data: Mutex::default(),
        })
    }

    fn named(name: &str) -> Arc<Core> {
        let mut named = NAMED.lock();
        if let Some(core) = named.get(name).and_then(Weak::upgrade) {
            return core;
        }
        let core = Core::new(Some(name), Clock::Monotone);
        named.insert(name.into(), Arc::downgrade(&core));
        core
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let Some(name) = &self.name else { return };
        let mut named = NAMED.lock();
        // A new core may have been registered under the name after this one's last handle was
        // dropped.
        if named.get(name).is_some_and(|core| core.strong_count() == 0) {
            named.remove(name);
        }
    }
}

/// One client's handle on an in-process store, with its own subscriptions and sink.
pub struct MemoryStore {
    /// `None` once closed. Every operation holds the read lock, so no operation that could
    /// subscribe or publish is running when `close` returns.
    core: RwLock<Option<Arc<Core>>>,
    id: HandleId,
    sink: Arc<dyn EventSink>,
}

impl MemoryStore {
    /// Opens the store of this process with this `name`, or a private one.
    pub fn open(name: Option<&str>, sink: Arc<dyn EventSink>) -> MemoryStore {
        let core = match name {
            Some(name) => Core::named(name),
            None => Core::new(None, Clock::Monotone),
        };
        Self::on(core, sink)
    }

    fn on(core: Arc<Core>, sink: Arc<dyn EventSink>) -> MemoryStore {
        static HANDLES: AtomicU64 = AtomicU64::new(0);
        let id = HandleId(HANDLES.fetch_add(1, Ordering::Relaxed));
        MemoryStore {
            core: RwLock::new(Some(core)),
            id,
            sink,
        }
    }

    /// Runs one atomic step at one time. The clock is read under the mutex, so that times follow
    /// the order of application.
    fn step<T>(&self, step: impl FnOnce(&mut Data, u64) -> T) -> Result<T> {
        let core = self.core.read();
        let core = core.as_ref().ok_or_else(Error::closed)?;
        let mut data = core.data.lock();
        let now = core.clock.now();
        Ok(step(&mut data, now))
    }

    async fn do_sweep(&self) -> Result<Sweep> {
        // Connections that expire during the pass are left to the next one, so that the pass ends.
        let until = self.step(|data, now| {
            data.metadata.expire(now);
            now
        })?;
        let mut rooms = HashSet::new();
        let mut expired = 0;
        loop {
            let removed = self.step(|data, now| {
                data.presence
                    .reap(&data.feeds, now, until, REAPED_AT_A_TIME, &mut rooms)
            })?;
            expired += removed as u64;
            if removed < REAPED_AT_A_TIME {
                return Ok(Sweep {
                    rooms: rooms.len() as u64,
                    expired,
                    ..Sweep::default()
                });
            }
            tokio::task::yield_now().await;
        }
    }

    fn close_now(&self) {
        if let Some(core) = self.core.write().take() {
            let mut data = core.data.lock();
            let Data { locks, feeds, .. } = &mut *data;
            locks.drop_handle(feeds, self.id);
            feeds.drop_handle(self.id);
        }
    }

    /// Whether there are no connections, nodes, subscriptions or index entries.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.step(|data, _| {
            data.presence.is_empty() && data.nodes.is_empty() && data.feeds.is_empty()
        })
        .unwrap_or(true)
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        self.close_now();
    }
}

impl HeartbeatStore for MemoryStore {
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>> {
        Box::pin(async move {
            self.step(|data, now| data.presence.refresh_heartbeats(now, heartbeats, lifetime))
        })
    }

    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>> {
        let heartbeat = move |heartbeat| {
            self.step(|data, now| {
                data.presence
                    .update_heartbeats(&data.feeds, &data.nodes, now, heartbeat, lifetime)
            })
        };
        Box::pin(async move { heartbeats.iter().map(heartbeat).collect() })
    }

    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>> {
        let locate = move |conn: &Arc<str>| self.step(|data, now| data.presence.locate(now, conn));
        Box::pin(async move { conns.iter().map(locate).collect() })
    }
}

impl NodeStore for MemoryStore {
    fn renew_lease<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Renewal>> {
        Box::pin(async move { self.step(|data, now| data.nodes.renew(now, lease)) })
    }

    /// Every record has the length of its own lease, so the caller's is not needed.
    fn due_nodes(&self, _lease_ms: u64) -> BoxFuture<'_, Result<Vec<Arc<str>>>> {
        Box::pin(async move { self.step(|data, now| data.nodes.due(now)) })
    }

    fn look_at_node<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeLook>> {
        Box::pin(async move { self.step(|data, now| data.nodes.look(now, node)) })
    }

    fn end_lease<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.step(|data, now| data.nodes.end(now, node)) })
    }

    /// No operation takes more than one step, so no join can come late. The record therefore ends
    /// with the last connection, and joins of the node are refused because it has none.
    fn remove_connections<'a>(
        &'a self,
        node: &'a str,
        _ended: bool,
        sweep: &'a mut Sweep,
    ) -> BoxFuture<'a, Result<Removal>> {
        Box::pin(async move {
            self.step(|data, now| {
                if !data.nodes.is_dead(now, node) {
                    return Removal::Done;
                }
                let removed = data
                    .presence
                    .reap_owned(&data.feeds, now, node, REAPED_AT_A_TIME);
                sweep.expired += removed as u64;
                if removed == REAPED_AT_A_TIME {
                    return Removal::More { after_ms: 0 };
                }
                data.nodes.remove(node);
                Removal::Done
            })
        })
    }

    /// The step that ends an ownership also removes the connection from those of the node, so there
    /// is nothing to forget.
    fn forget_connections<'a>(
        &'a self,
        _node: &'a str,
        _connections: &'a [(Arc<str>, u64)],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.step(|_, _| ()) })
    }
}

impl PresenceStore for MemoryStore {
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<Joined>> {
        Box::pin(async move {
            self.step(|data, now| {
                data.presence
                    .join(&data.feeds, &data.nodes, now, join, previous)
            })
        })
    }

    fn leave<'a>(&'a self, leave: &'a Leave<'a>) -> BoxFuture<'a, Result<Left>> {
        Box::pin(async move { self.step(|data, now| data.presence.leave(&data.feeds, now, leave)) })
    }

    fn room_snapshot<'a>(
        &'a self,
        room: &'a str,
        each: EachPiece<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let found = self.step(|data, now| data.presence.in_room(room, now))?;
            for piece in found.chunks(PIECE) {
                each(piece.iter().cloned().map(Member::from).collect()).await;
            }
            Ok(())
        })
    }

    fn user_connections<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Vec<Member>>> {
        Box::pin(async move {
            let found = self.step(|data, now| data.presence.of_user(user, now))?;
            Ok(found.into_iter().map(Member::from).collect())
        })
    }

    /// Every connection has its own expiry time, so the TTL is not needed.
    fn sweep<'a>(&'a self, _settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>> {
        Box::pin(self.do_sweep())
    }

    /// There are no other writers, so there is nothing to adopt.
    fn adopt(&self, _ttl_ms: u64) -> BoxFuture<'_, Result<Sweep>> {
        Box::pin(std::future::ready(Ok(Sweep::default())))
    }
}

impl Store for MemoryStore {
    fn presence(self: Arc<Self>) -> Arc<dyn PresenceStore> {
        self
    }

    fn metadata(self: Arc<Self>) -> Arc<dyn MetadataStore> {
        self
    }

    fn locks(&self) -> &dyn LockStore {
        self
    }

    /// A sweep only costs as much as there is due, so notifications are not needed.
    fn watch_expirations(&self) -> BoxFuture<'_, Result<Watch>> {
        Box::pin(std::future::ready(Ok(Watch::Needless)))
    }

    fn subscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>> {
        Box::pin(
            async move { self.step(|data, _| data.feeds.subscribe(topic, self.id, &self.sink)) },
        )
    }

    fn unsubscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.step(|data, _| data.feeds.unsubscribe(topic, self.id)) })
    }

    fn all_reachable(&self) -> bool {
        true
    }

    /// Ends the subscriptions and releases the data. Later calls fail with `CLOSED`.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.close_now() })
    }
}

impl LockStore for MemoryStore {
    fn lock_take<'a>(&'a self, claim: &'a Claim, take: &'a Take) -> BoxFuture<'a, Result<Taken>> {
        Box::pin(async move {
            self.step(|data, now| data.locks.take(&data.feeds, now, self.id, claim, take))
        })
    }

    fn lock_extend<'a>(&'a self, claim: &'a Claim, ttl_ms: u64) -> BoxFuture<'a, Result<Holds>> {
        Box::pin(async move {
            self.step(|data, now| data.locks.extend(&data.feeds, now, claim, ttl_ms))
        })
    }

    fn lock_release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Holds>> {
        Box::pin(async move {
            self.step(|data, now| data.locks.release(&data.feeds, now, self.id, claim, token))
        })
    }

    fn lock_raise<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Option<FencingToken>>> {
        Box::pin(async move { self.step(|data, _| data.locks.raise(claim, token)) })
    }

    fn lock_revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>> {
        Box::pin(async move { self.step(|data, now| data.locks.revoke(&data.feeds, now, name)) })
    }

    fn lock_inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>> {
        Box::pin(async move { self.step(|data, now| data.locks.inspect(now, name)) })
    }

    fn lock_due(&self, look: DueLook) -> BoxFuture<'_, Result<Due>> {
        Box::pin(async move { self.step(|data, now| data.locks.due(now, look)) })
    }

    fn lock_settle<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<bool>>> {
        Box::pin(async move {
            names
                .iter()
                .map(|name| self.step(|data, now| data.locks.settle(&data.feeds, now, name)))
                .collect()
        })
    }

    fn reachable(&self) -> bool {
        self.core.read().is_some()
    }
}

impl MetadataStore for MemoryStore {
    fn read_metadata<'a>(
        &'a self,
        channel: &'a Channel,
    ) -> BoxFuture<'a, Result<(record::Stored, u64)>> {
        Box::pin(async move { self.step(|data, now| (data.metadata.read(now, channel), now)) })
    }

    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>> {
        Box::pin(async move {
            self.step(|data, now| {
                let refused: Vec<(usize, LockState)> = commit
                    .locks
                    .iter()
                    .map(|check| data.locks.refusal(now, check))
                    .enumerate()
                    .filter_map(|(place, state)| Some((place, state?)))
                    .collect();
                if !refused.is_empty() {
                    return Committed::Locked(refused);
                }
                data.metadata.commit(&data.feeds, now, &commit)
            })
        })
    }
}
