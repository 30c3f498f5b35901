//! The client: one store, the connection directory, the heartbeat engine, the reaper and the lock
//! manager, with one lifetime. `src/node/` exposes it to JavaScript; Rust tests use it directly.
//! `connections.rs` has the calls for connections and rooms. `open.rs` opens the store and the lock
//! backend that the options ask for. `sink.rs` counts and forwards what the store emits.

mod connections;
mod open;
mod sink;

pub use sink::{ClientCallbacks, LivenessNotice};

use crate::{
    expiry::{self, Reaper},
    heartbeat::{self, Engine, ResultSink},
    in_flight::InFlight,
    liveness::{DeadNodes, Liveness, LivenessMode, Node, NodeSettings},
    lock::{Locks, WakeupRegistry},
    metadata::Metadata,
    metrics::{Gauges, Metrics, MetricsValues},
    model::{
        error::{Error, Result},
        ids,
        limits::Limits,
        metadata::{Channel, ColonTypes, MetadataStorage, change::Change, response::Response},
        presence::Sweep,
    },
    options::Options,
    presence::{directory::Directory, own_joins::OwnJoins, readings::Readings},
    store::{PresenceStore, Sinks, Store, SweepSettings, Topic},
};
use parking_lot::Mutex;
use sink::{CountingSink, LivenessNotices};
use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
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
    liveness: Liveness,
    /// The number of subscriptions of each topic in this client. The store subscribes to each topic
    /// once.
    topics: tokio::sync::Mutex<HashMap<Topic, usize>>,
    calls: TaskTracker,
    closed: AtomicBool,
    closing: tokio::sync::OnceCell<()>,
    engine_task: Mutex<Option<JoinHandle<()>>>,
    reaper_task: Mutex<Option<AbortHandle>>,
    upkeep_task: AbortHandle,
    lease_task: Option<AbortHandle>,
}

impl Client {
    /// Connects. Must be called inside a Tokio runtime, which must outlive the client.
    pub async fn connect(options: Options, callbacks: Arc<dyn ClientCallbacks>) -> Result<Client> {
        let metrics = Arc::new(Metrics::default());
        let due = Arc::new(Notify::new());
        let wakeups = Arc::new(WakeupRegistry::default());
        let sink = Arc::new(CountingSink {
            callbacks: callbacks.clone(),
            metrics: metrics.clone(),
            due: due.clone(),
            wakeups: wakeups.clone(),
            node: OnceLock::new(),
        });
        let sinks = Sinks::new(sink.clone());
        let store = open::store(&options, sinks.clone()).await?;
        let presence = store.clone().presence();
        let directory = Arc::new(Directory::default());
        let own_joins = Arc::new(OwnJoins::default());
        let limits = options.limits.clone();
        let node = match options.liveness {
            LivenessMode::Heartbeat => None,
            LivenessMode::Node => {
                let node = Node::new(
                    store.clone(),
                    presence.clone(),
                    directory.clone(),
                    Arc::new(LivenessNotices(callbacks.clone())),
                    sinks.notifications.clone(),
                    metrics.clone(),
                    NodeSettings {
                        lease: Duration::from_millis(options.node_lease_ms),
                        watchdog: Duration::from_millis(options.node_watchdog_ms),
                        backstop: Duration::from_millis(options.node_backstop_ms),
                        max_wait: Duration::from_millis(limits.command_timeout_ms),
                    },
                )?;
                let _ = sink.node.set(Arc::downgrade(&node));
                Some(node)
            }
        };
        let liveness = Liveness::new(options.ttl_ms, node);
        let by_room = presence.refreshes_by_room();
        let max_batch = limits.max_batch_size * if by_room { heartbeat::BY_ROOM } else { 1 };
        let engine = Engine::new(
            presence.clone(),
            directory.clone(),
            own_joins.clone(),
            liveness.clone(),
            metrics.clone(),
            callbacks.clone(),
            heartbeat::Settings {
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
        let lease_task = liveness
            .node()
            .map(|node| tokio::spawn(node.clone().run()).abort_handle());
        let reaper = Arc::new(Reaper {
            dead_nodes: DeadNodes::new(
                presence.clone(),
                metrics.clone(),
                Duration::from_millis(options.node_lease_ms),
                Duration::from_millis(options.sweep_interval_ms),
            ),
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
            liveness,
            topics: tokio::sync::Mutex::default(),
            calls: TaskTracker::new(),
            closed: AtomicBool::new(false),
            closing: tokio::sync::OnceCell::new(),
            engine_task: Mutex::new(Some(engine_task)),
            reaper_task: Mutex::new(None),
            upkeep_task,
            lease_task,
        })
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
                if let Some(task) = &self.lease_task {
                    task.abort();
                }
                if let Some(node) = self.liveness.node() {
                    node.end().await;
                }
                // This also closes the store.
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
        if let Some(task) = &self.lease_task {
            task.abort();
        }
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
