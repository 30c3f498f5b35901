//! The client: one store, the connection directory, the heartbeat engine, the reaper and the lock
//! manager, with one lifetime. `src/node/` exposes it to JavaScript; Rust tests use it directly.
//! `open.rs` opens the store and the lock backend that the options ask for. `sink.rs` counts and
//! forwards what the store emits.

mod open;
mod sink;

pub use sink::ClientCallbacks;

use crate::{
    expiry::{self, Reaper},
    heartbeat::{self, Engine, Request, ResultSink},
    in_flight::{InFlight, Room},
    lock::{Locks, WakeupRegistry},
    metadata::Metadata,
    metrics::{Gauges, Metrics, MetricsValues, count},
    model::{
        error::{Error, Result},
        ids,
        limits::Limits,
        metadata::{Channel, ColonTypes, MetadataStorage, change::Change, response::Response},
        presence::{Epoch, Member, Place, Sweep},
        state::State,
    },
    offload::offload,
    options::Options,
    presence::{
        self,
        directory::Directory,
        own_joins::OwnJoins,
        readings::{EachMemberPiece, Readings},
    },
    store::{Join, PresenceStore, Sinks, Store, SweepSettings, Topic},
};
use parking_lot::Mutex;
use sink::CountingSink;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};
use tokio_util::task::TaskTracker;

pub struct Client {
    store: Arc<dyn Store>,
    presence: Arc<dyn PresenceStore>,
    directory: Arc<Directory>,
    own_joins: Arc<OwnJoins>,
    readings: Readings,
    engine: Arc<Engine>,
    settle: Arc<dyn ResultSink>,
    reaper: Arc<Reaper>,
    metadata: Arc<Metadata>,
    locks: Arc<Locks>,
    /// The storage in use. The in-process store accepts every setting.
    metadata_storage: MetadataStorage,
    metadata_ttl_ms: Option<u64>,
    channel_types: ColonTypes,
    metrics: Arc<Metrics>,
    in_flight: Arc<InFlight>,
    limits: Limits,
    ttl_ms: u64,
    /// The number of subscriptions of each topic in this client. The store subscribes to each topic
    /// once.
    topics: tokio::sync::Mutex<HashMap<Topic, usize>>,
    calls: TaskTracker,
    closed: AtomicBool,
    closing: tokio::sync::OnceCell<()>,
    engine_task: Mutex<Option<JoinHandle<()>>>,
    reaper_task: Mutex<Option<AbortHandle>>,
    upkeep_task: AbortHandle,
}

impl Client {
    /// Connects. Must be called inside a Tokio runtime, which must outlive the client.
    pub async fn connect(options: Options, callbacks: Arc<dyn ClientCallbacks>) -> Result<Client> {
        let metrics = Arc::new(Metrics::default());
        let due = Arc::new(Notify::new());
        let wakeups = Arc::new(WakeupRegistry::default());
        let sinks = Sinks::new(Arc::new(CountingSink {
            callbacks: callbacks.clone(),
            metrics: metrics.clone(),
            due: due.clone(),
            wakeups: wakeups.clone(),
        }));
        let store = open::store(&options, sinks.clone()).await?;
        let presence = store.clone().presence();
        let directory = Arc::new(Directory::default());
        let own_joins = Arc::new(OwnJoins::default());
        let limits = options.limits.clone();
        let by_room = presence.refreshes_by_room();
        let max_batch = limits.max_batch_size * if by_room { heartbeat::BY_ROOM } else { 1 };
        let engine = Engine::new(
            presence.clone(),
            directory.clone(),
            own_joins.clone(),
            metrics.clone(),
            callbacks.clone(),
            heartbeat::Settings {
                ttl_ms: options.ttl_ms,
                window: Duration::from_millis(options.batch_window_ms),
                max_batch,
                second_from: if by_room {
                    max_batch
                } else {
                    heartbeat::SECOND_FLIGHT_FROM.min(max_batch)
                },
                queue: (&limits).into(),
                max_state_bytes: limits.max_state_bytes,
                max_depth: limits.max_depth,
                timeout: Duration::from_millis(limits.command_timeout_ms),
            },
        );
        let locks = Locks::new(
            open::backend(&options, &store, &wakeups, &sinks).await?,
            &wakeups,
            callbacks.clone(),
            metrics.clone(),
            limits.clone(),
            Duration::from_millis(options.sweep_interval_ms),
        );
        let engine_task = tokio::spawn(engine.clone().run());
        let upkeep_task = tokio::spawn(upkeep(
            presence.clone(),
            directory.clone(),
            own_joins.clone(),
            options.ttl_ms,
        ))
        .abort_handle();
        let reaper = Arc::new(Reaper {
            turn_listener: locks.clone(),
            store: store.clone(),
            presence: presence.clone(),
            metrics: metrics.clone(),
            notifications: sinks.notifications,
            expiry: options.expiry,
            sweep_interval: Duration::from_millis(options.sweep_interval_ms),
            fallback_interval: Duration::from_millis(options.fallback_sweep_ms),
            settings: SweepSettings {
                ttl_ms: options.ttl_ms,
                serves_ms: 0,
                claim_ms: options.sweep_interval_ms.clamp(100, 5_000),
                check_ms: expiry::CHECK_EVERY * options.fallback_sweep_ms,
                settle_ms: options.fallback_sweep_ms,
            },
            due,
        });
        let in_flight = InFlight::new(&limits, metrics.clone());
        let metadata = Metadata::new(
            store.clone().metadata(),
            metrics.clone(),
            in_flight.clone(),
            (&limits).into(),
        );
        Ok(Client {
            store,
            presence,
            directory,
            own_joins,
            readings: Readings::default(),
            engine,
            settle: callbacks,
            reaper,
            locks,
            metadata: Arc::new(metadata),
            metadata_storage: options.metadata_storage,
            metadata_ttl_ms: options.metadata_ttl_ms,
            channel_types: options.channel_types()?,
            metrics,
            in_flight,
            limits,
            ttl_ms: options.ttl_ms,
            topics: tokio::sync::Mutex::default(),
            calls: TaskTracker::new(),
            closed: AtomicBool::new(false),
            closing: tokio::sync::OnceCell::new(),
            engine_task: Mutex::new(Some(engine_task)),
            reaper_task: Mutex::new(None),
            upkeep_task,
        })
    }

    /// Joins `conn` to a room (spec 3.1). `snapshot` receives the members of the room after the
    /// join.
    pub async fn join(
        &self,
        room: &str,
        user: &str,
        conn: &str,
        state: &str,
        snapshot: Option<EachMemberPiece<'_>>,
    ) -> Result<Epoch> {
        self.call(async {
            ids::check("roomId", room, &self.limits)?;
            ids::check("userId", user, &self.limits)?;
            ids::check_conn("connId", conn, &self.limits)?;
            self.limits.state("state", state.len())?;
            self.limits.depth("state", state)?;
            // Reserved before the join, so that nothing is written when there is no memory for the
            // snapshot.
            let room_taken = match &snapshot {
                Some(_) => Some(self.room_for(("room", room)).await?),
                None => None,
            };
            let mut join = Join {
                conn: conn.into(),
                place: Place::new(room, user),
                state: offload(state.len(), {
                    let state = state.to_owned();
                    move || State::parse("state", &state)
                })
                .await?,
                ttl_ms: self.ttl_ms,
                floor: 0,
            };
            let epoch =
                presence::join(&*self.presence, &self.directory, &self.own_joins, &mut join)
                    .await?;
            count(&self.metrics.counters.joins, 1);
            if let (Some(each), Some(taken)) = (snapshot, room_taken) {
                // The join is done. If the room cannot be read, the caller does not get its epoch,
                // so the outcome is unknown to it.
                let read = self.read_room(room, each, taken).await;
                read.map_err(Error::with_unknown_outcome)?;
            }
            Ok(epoch)
        })
        .await
    }

    /// Queues heartbeats. Each is settled through the result sink exactly once.
    pub fn heartbeats(&self, requests: Vec<Request>) {
        let check = |request: &Request| ids::check_conn("connId", &request.conn, &self.limits);
        if requests.iter().all(|request| check(request).is_ok()) {
            return self.engine.submit(requests);
        }
        let mut refused = Vec::new();
        let fitting = requests
            .into_iter()
            .filter_map(|request| match check(&request) {
                Ok(()) => Some(request),
                Err(error) => {
                    refused.push((request.ticket, Err(Box::new(error))));
                    None
                }
            })
            .collect();
        self.settle.settle(refused);
        self.engine.submit(fitting);
    }

    /// Leaves the room. Returns `None` if the connection is unknown, or if its stored epoch is
    /// higher than `epoch`. The default for `epoch` is the epoch of this client's last join of the
    /// connection (spec 3.6).
    pub async fn leave(&self, conn: &str, epoch: Option<Epoch>) -> Result<Option<Place>> {
        self.call(async {
            ids::check_conn("connId", conn, &self.limits)?;
            let (store, own_joins) = (&*self.presence, &self.own_joins);
            let left = presence::leave(store, &self.directory, own_joins, conn, epoch).await?;
            if left.is_some() {
                count(&self.metrics.counters.leaves, 1);
            }
            Ok(left)
        })
        .await
    }

    /// The epoch of a connection; `None` if it is unknown.
    pub async fn epoch(&self, conn: &str) -> Result<Option<Epoch>> {
        self.call(async {
            ids::check_conn("connId", conn, &self.limits)?;
            let located = presence::locate(&*self.presence, conn).await?;
            Ok(located.map(|located| located.epoch))
        })
        .await
    }

    /// Reads the live connections of a room (spec 3.8) and passes them to `each` in pieces.
    pub async fn room_snapshot(&self, room: &str, each: EachMemberPiece<'_>) -> Result<()> {
        self.call(async {
            ids::check("roomId", room, &self.limits)?;
            let taken = self.room_for(("room", room)).await?;
            self.read_room(room, each, taken).await
        })
        .await
    }

    /// The live connections of a user (spec 3.9), and the reservation for the memory that they
    /// take.
    pub async fn user_connections(&self, user: &str) -> Result<(Vec<Member>, Room)> {
        self.call(async {
            ids::check("userId", user, &self.limits)?;
            let mut taken = self.room_for(("user", user)).await?;
            let connections = self.presence.user_connections(user).await?;
            let bytes = connections.iter().map(Member::bytes).sum();
            taken.resize(bytes);
            self.in_flight.learn(("user", user), bytes);
            Ok((connections, taken))
        })
        .await
    }

    /// Reserves memory for reading the connections of a room or of a user.
    async fn room_for(&self, what: (&str, &str)) -> Result<Room> {
        self.in_flight.reading(self.in_flight.expected(what)).await
    }

    async fn read_room(&self, room: &str, each: EachMemberPiece<'_>, _taken: Room) -> Result<()> {
        let bytes = self.readings.read(&*self.presence, room, each).await?;
        self.in_flight.learn(("room", room), bytes);
        Ok(())
    }

    /// Changes a channel's metadata (spec section 7). The change is queued before this function
    /// returns, so changes are carried out in the order of the calls. The future resolves to the
    /// record after the change.
    pub fn change_metadata(
        &self,
        channel: Channel,
        mut change: Change,
    ) -> Result<impl Future<Output = Result<Response>> + Send + use<>> {
        self.check_open()?;
        channel.check(&self.limits, &self.channel_types)?;
        if self.metadata_storage == MetadataStorage::Json {
            change.check_whole_characters()?;
        }
        change.ttl_ms = change.ttl_ms.or(self.metadata_ttl_ms);
        let start = Instant::now();
        let outcome = self.metadata.change(channel, change)?;
        let outcome = self.calls.track_future(outcome);
        let metrics = self.metrics.clone();
        Ok(async move {
            let outcome = outcome.await;
            metrics.call_latency.record(start.elapsed());
            outcome
        })
    }

    /// A channel's metadata (spec 7.4).
    pub async fn metadata(&self, channel: &Channel) -> Result<Response> {
        self.call(async {
            channel.check(&self.limits, &self.channel_types)?;
            self.metadata.get(channel).await
        })
        .await
    }

    /// Emits the topic's events to the sink once this resolves. Subscriptions are counted: each
    /// call needs one [`Client::unsubscribe`].
    pub async fn subscribe(&self, topic: Topic) -> Result<()> {
        self.call(async {
            match &topic {
                Topic::Room(room) => ids::check("roomId", room, &self.limits)?,
                Topic::Lock(name) => ids::check("name", name, &self.limits)?,
                Topic::Channel(channel) => channel.check(&self.limits, &self.channel_types)?,
                _ => {}
            }
            let of_locks = is_of_locks(&topic);
            if of_locks {
                self.locks.check_tells()?;
            }
            // The mutex is held during the call. Otherwise a subscribe and an unsubscribe of one
            // topic could overtake each other on their way to the server.
            let mut topics = self.topics.lock().await;
            if !topics.contains_key(&topic) {
                self.store.subscribe(&topic).await?;
            }
            *topics.entry(topic).or_default() += 1;
            if of_locks {
                self.locks.watch(true);
            }
            Ok(())
        })
        .await
    }

    pub async fn unsubscribe(&self, topic: Topic) -> Result<()> {
        self.call(async {
            let mut topics = self.topics.lock().await;
            if is_of_locks(&topic) && topics.contains_key(&topic) {
                self.locks.watch(false);
            }
            match topics.get_mut(&topic) {
                None => Ok(()),
                Some(1) => {
                    topics.remove(&topic);
                    self.store.unsubscribe(&topic).await
                }
                Some(subscriptions) => {
                    *subscriptions -= 1;
                    Ok(())
                }
            }
        })
        .await
    }

    /// Starts the reaper of this node. A second call does nothing.
    pub fn start_reaper(&self) -> Result<()> {
        self.check_open()?;
        let mut task = self.reaper_task.lock();
        if task.is_none() {
            *task = Some(tokio::spawn(self.reaper.clone().run()).abort_handle());
        }
        Ok(())
    }

    /// Runs one full pass of the reaper and one over locks that may have ended. Returns the result of
    /// the reaper's and the duration of both. Locks never make it fail.
    pub async fn reap_once(&self) -> Result<(Sweep, Duration)> {
        self.call(async {
            let start = Instant::now();
            let (sweep, ()) = tokio::join!(self.reaper.pass(), self.locks.expire_once());
            Ok((sweep?, start.elapsed()))
        })
        .await
    }

    /// Runs a call of the lock manager. Fails with `CLOSED` after [`Client::close`].
    pub async fn locks<T>(&self, work: impl AsyncFnOnce(&Arc<Locks>) -> Result<T>) -> Result<T> {
        self.call(work(&self.locks)).await
    }

    /// The lock manager, for calls that do not block.
    pub fn leases(&self) -> &Arc<Locks> {
        &self.locks
    }

    /// The calls in flight. Callers of this client register each call there.
    pub fn in_flight(&self) -> &Arc<InFlight> {
        &self.in_flight
    }

    pub fn metrics(&self) -> MetricsValues {
        let (request_bytes, answer_bytes) = self.in_flight.bytes();
        self.metrics.values(Gauges {
            heartbeat_queue: self.engine.queued() as u64,
            metadata_queue: self.metadata.waiting() as u64,
            known_connections: self.directory.len() as u64,
            pending_calls: self.in_flight.calls() as u64,
            request_bytes: request_bytes as u64,
            answer_bytes: answer_bytes as u64,
            locks_held: self.locks.held() as u64,
            locks_waiting: self.locks.waiting() as u64,
        })
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Settles all pending calls, then ends connections and tasks. Later calls fail with `CLOSED`.
    /// A second close waits for the first.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing
            .get_or_init(|| async {
                if let Some(task) = self.reaper_task.lock().take() {
                    task.abort();
                }
                self.locks.stop_waiting();
                self.engine.stop();
                let engine_task = self.engine_task.lock().take();
                if let Some(task) = engine_task {
                    // The task ends by itself once all heartbeats are settled.
                    let _ = task.await;
                }
                self.calls.close();
                self.calls.wait().await;
                self.locks.close().await;
                self.upkeep_task.abort();
                self.store.close().await;
            })
            .await;
    }

    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            Err(Error::closed())
        } else {
            Ok(())
        }
    }

    async fn call<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.check_open()?;
        let start = Instant::now();
        let result = self.calls.track_future(work).await;
        self.metrics.call_latency.record(start.elapsed());
        result
    }
}

impl Drop for Client {
    /// Ends the tasks and connections of a client that was not closed.
    fn drop(&mut self) {
        if let Some(task) = self.engine_task.lock().take() {
            task.abort();
        }
        if let Some(task) = self.reaper_task.lock().take() {
            task.abort();
        }
        self.upkeep_task.abort();
        self.locks.drop_all();
    }
}

fn is_of_locks(topic: &Topic) -> bool {
    matches!(topic, Topic::AllLocks | Topic::Lock(_))
}

/// Periodically removes directory entries that were unused for so long that their connections must
/// have expired, and records of own joins that are over.
async fn upkeep(
    store: Arc<dyn PresenceStore>,
    directory: Arc<Directory>,
    own_joins: Arc<OwnJoins>,
    ttl_ms: u64,
) {
    let unused = Duration::from_millis(ttl_ms.saturating_mul(2)).max(Duration::from_secs(10));
    let mut ticks = tokio::time::interval(unused / 2);
    loop {
        ticks.tick().await;
        directory.prune(unused);
        own_joins.prune(&*store).await;
    }
}
