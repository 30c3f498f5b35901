//! The store in the process: what the Redis scripts do, done on maps under one lock, and held to
//! the same conformance suite (spec 11.2). For development, tests and servers of one process.
//!
//! Handles opened under one name share a core; its data lives as long as one of them is open.
//! Whatever lists connections lists them in the order in which they joined (a rejoin counts anew).

mod clock;
mod feeds;
mod lock;
mod metadata;
mod presence;
#[cfg(test)]
mod tests;

use self::{
    clock::Clock,
    feeds::{Feeds, HandleId},
    lock::Locks,
    metadata::Metadata,
    presence::Presence,
};
use crate::{
    model::{
        error::{Error, Result},
        lock::{FencingToken, Inspection},
        metadata::{Channel, change::LockState, record},
        presence::{Epoch, Member, Place, Sweep},
    },
    store::{
        BatchMiss, EachPiece, EventSink, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join,
        Joined, Left, Located, PresenceStore, Store, SweepSettings, Topic, Watch,
        heartbeat::HeartbeatStore,
        lock::{Claim, Due, DueLook, Holds, LockStore, Revoked, Take, Taken},
        metadata::{Commit, Committed, MetadataStore},
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

/// Connections that a sweep removes before it lets others at the data.
const REAPED_AT_A_TIME: usize = 256;

/// Members of a room that are handed over together.
const PIECE: usize = 256;

/// The cores that have a name. A core takes itself out when its last handle goes.
static NAMED: Lazy<Mutex<HashMap<Box<str>, Weak<Core>>>> = Lazy::new(Mutex::default);

/// What handles share.
struct Core {
    name: Option<Box<str>>,
    clock: Clock,
    /// One lock for all: operations are atomic with their events because sinks are called while
    /// it is held, in the order of application.
    data: Mutex<Data>,
}

#[derive(Default)]
struct Data {
    presence: Presence,
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
        // A new core may have taken the name since this one's last handle went.
        if named.get(name).is_some_and(|core| core.strong_count() == 0) {
            named.remove(name);
        }
    }
}

/// One client's handle on an in-process store, with its own subscriptions and its own sink.
pub struct MemoryStore {
    /// `None` once closed. Read-locked during every operation, so that after `close` none is under
    /// way that could subscribe or publish.
    core: RwLock<Option<Arc<Core>>>,
    id: HandleId,
    sink: Arc<dyn EventSink>,
}

impl MemoryStore {
    /// Opens the store that this process knows by `name`, or one that nobody else can reach.
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

    /// One atomic step at one time, which is read under the lock so that it never runs against the
    /// order of application.
    fn step<T>(&self, step: impl FnOnce(&mut Data, u64) -> T) -> Result<T> {
        let core = self.core.read();
        let core = core.as_ref().ok_or_else(Error::closed)?;
        let mut data = core.data.lock();
        let now = core.clock.now();
        Ok(step(&mut data, now))
    }

    async fn do_sweep(&self) -> Result<Sweep> {
        // What expires during the pass is left to the next one, so that a pass ends.
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

    /// Nobody is present, nobody listens, and no index remembers anybody.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.step(|data, _| data.presence.is_empty() && data.feeds.is_empty())
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
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>> {
        Box::pin(async move {
            self.step(|data, now| data.presence.refresh_heartbeats(now, heartbeats, ttl_ms))
        })
    }

    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>> {
        let heartbeat = move |heartbeat| {
            self.step(|data, now| {
                data.presence
                    .update_heartbeats(&data.feeds, now, heartbeat, ttl_ms)
            })
        };
        Box::pin(async move { heartbeats.iter().map(heartbeat).collect() })
    }

    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>> {
        let locate = move |conn: &Arc<str>| self.step(|data, now| data.presence.locate(now, conn));
        Box::pin(async move { conns.iter().map(locate).collect() })
    }
}

impl PresenceStore for MemoryStore {
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<Joined>> {
        Box::pin(async move {
            self.step(|data, now| data.presence.join(&data.feeds, now, join, previous))
        })
    }

    fn leave<'a>(
        &'a self,
        conn: &'a str,
        place: &'a Place,
        fence: Option<Epoch>,
    ) -> BoxFuture<'a, Result<Left>> {
        Box::pin(async move {
            self.step(|data, now| data.presence.leave(&data.feeds, now, conn, place, fence))
        })
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

    /// Every connection carries its own expiry, so the TTL is not needed.
    fn sweep<'a>(&'a self, _settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>> {
        Box::pin(self.do_sweep())
    }

    /// Nobody else writes here: there is nothing to adopt.
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

    /// A sweep costs what is due and no more: there is nothing to be told.
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

    /// Drops the subscriptions and lets go of the data; calls after it fail with `CLOSED`.
    fn all_reachable(&self) -> bool {
        true
    }

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
