//! The lease of this node. A task renews it, so a busy JavaScript thread does not lose it, unless
//! that thread has not run for `nodeWatchdogMs`. The node counts the lease on its monotonic clock,
//! from before each renewal was sent, so it ends here before it can end in the store.

use crate::{
    metrics::{Metrics, count},
    model::{
        error::{Code, Error, Result},
        event::Reason,
        ids,
        presence::Epoch,
    },
    presence::{self, directory::Directory},
    store::{
        Leave, Lifetime, LogLevel, Owner, PresenceStore, Store, StoreNotifications, Topic,
        node::{Dispossessed, Lease, Renewal},
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

/// Maximum difference in speed between two clocks, as a fraction of a lease. `DRIFT` is added
/// because clocks are read in milliseconds.
const DRIFT_FACTOR: f64 = 0.01;
const DRIFT: Duration = Duration::from_millis(2);

/// Maximum number of connections that others took over early. Beyond it, all are compared.
const MAX_EARLY: usize = 4096;

#[derive(Clone, Copy, Debug)]
pub struct NodeSettings {
    pub lease: Duration,
    /// The lease is not renewed while the JavaScript thread has not run for so long.
    pub watchdog: Duration,
    /// How long connections live in the store without a refresh by their owner.
    pub backstop: Duration,
    /// Maximum time that a call waits for the lease.
    pub max_wait: Duration,
}

/// Is notified of connections that this node does not own any more. Methods must not block.
pub trait NodeListener: Send + Sync + 'static {
    /// Others have ended the connection, or own it now.
    fn dispossessed(&self, conn: &str, epoch: Epoch);
    /// The store had lost the connection. It was joined again, and has a new epoch.
    fn restored(&self, conn: &str, epoch: Epoch);
    /// The node was declared dead. It owns nothing any more.
    fn lease_lost(&self);
}

struct State {
    /// The id of this node, until it loses its lease.
    id: Arc<str>,
    /// Whether the store has a record of this id.
    begun: bool,
    /// Whether a renewal under this id was sent.
    sent: bool,
    /// Until when the lease is certainly held.
    until: Instant,
    /// The last number of a call that may make this node an owner.
    numbers: u64,
    /// When the JavaScript thread ran last.
    script_ran: Instant,
    /// The store may have lost data, so connections that it lacks are restored.
    lossy: bool,
    /// When the connections were refreshed last.
    refreshed: Instant,
    /// They have to be refreshed now.
    refresh_due: bool,
    /// Connections that others took over before this node knew that it owned them, with their
    /// epochs.
    early: HashMap<Arc<str>, Early>,
}

/// A message that a connection has another owner, which came before the answer that made this node
/// its owner.
struct Early {
    epoch: Epoch,
    /// The newest number when it came. Calls with higher numbers began later.
    number: u64,
    since: Instant,
}

impl Early {
    /// Whether it ends what a call with this number has got.
    fn is_about(&self, epoch: Epoch, number: u64) -> bool {
        self.epoch >= epoch && self.number >= number
    }
}

pub struct Node {
    topics: Arc<dyn Store>,
    pub(super) store: Arc<dyn PresenceStore>,
    pub(super) directory: Arc<Directory>,
    pub(super) listener: Arc<dyn NodeListener>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: NodeSettings,
    notifications: Arc<dyn StoreNotifications>,
    state: Mutex<State>,
    /// Notified when the lease was renewed or lost.
    renewed: Notify,
    /// Notified when the lease should be renewed now.
    wake: Notify,
    /// Notified when the connections should be compared now.
    compare_due: Notify,
}

impl Node {
    pub fn new(
        topics: Arc<dyn Store>,
        store: Arc<dyn PresenceStore>,
        directory: Arc<Directory>,
        listener: Arc<dyn NodeListener>,
        notifications: Arc<dyn StoreNotifications>,
        metrics: Arc<Metrics>,
        settings: NodeSettings,
    ) -> Result<Arc<Node>> {
        let now = Instant::now();
        Ok(Arc::new(Node {
            topics,
            store,
            directory,
            listener,
            metrics,
            settings,
            notifications,
            state: Mutex::new(State {
                id: ids::random()?.into(),
                begun: false,
                sent: false,
                until: now,
                numbers: 0,
                script_ran: now,
                lossy: false,
                refreshed: now,
                refresh_due: false,
                early: HashMap::new(),
            }),
            renewed: Notify::new(),
            wake: Notify::new(),
            compare_due: Notify::new(),
        }))
    }

    /// The id of this node.
    pub fn id(&self) -> Arc<str> {
        self.state.lock().id.clone()
    }

    /// The JavaScript thread runs. Returns the time until which the lease is certainly held; `None`
    /// if it is over.
    pub fn script_runs(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state.lock();
        let was_stuck = now.duration_since(state.script_ran) >= self.settings.watchdog;
        state.script_ran = now;
        let until = (state.begun && state.until > now).then_some(state.until);
        drop(state);
        if was_stuck {
            self.wake.notify_one();
        }
        until
    }

    /// Resolves when the lease is held.
    pub async fn held(&self) -> Result<()> {
        let wait = async {
            loop {
                let renewed = self.renewed.notified();
                {
                    let state = self.state.lock();
                    if state.begun && state.until > Instant::now() {
                        return;
                    }
                }
                self.wake.notify_one();
                renewed.await;
            }
        };
        timeout(self.settings.max_wait, wait).await.map_err(|_| {
            Error::new(
                Code::Unavailable,
                "this node could not renew its lease (nodeLeaseMs): Redis did not answer in time",
            )
        })
    }

    /// A lifetime with this node as owner.
    pub(super) async fn lifetime(&self) -> Result<Lifetime> {
        self.held().await?;
        let mut state = self.state.lock();
        state.numbers += 1;
        Ok(Lifetime {
            ttl_ms: self.settings.backstop.as_millis() as u64,
            owner: Some(Owner {
                node: state.id.clone(),
                number: state.numbers,
            }),
        })
    }

    /// Records that this node owns a connection, unless it has another id by now.
    pub(super) fn keeps(&self, conn: &str, epoch: Epoch, owner: &Owner) -> bool {
        let state = self.state.lock();
        if *state.id != *owner.node {
            return false;
        }
        let is_over = state
            .early
            .get(conn)
            .is_some_and(|early| early.is_about(epoch, owner.number));
        // If another call of this node has got a higher epoch and lost it, this one is over too.
        if let Some(number) = self.directory.own(conn, epoch, owner.number, is_over) {
            self.forget(owner.node.clone(), conn.into(), number);
        }
        true
    }

    /// The store may have lost data: the connection to a server is back.
    pub fn reconnected(&self) {
        self.state.lock().lossy = true;
        self.compare_due.notify_one();
    }

    /// Handles a message about a connection of this node. `None`: some may have been missed.
    pub fn handle(self: &Arc<Self>, message: Option<Dispossessed>) {
        match message {
            Some(Dispossessed { conn, epoch }) => self.dispossess(&conn, epoch),
            None => self.handle_gap(),
        }
    }

    fn handle_gap(&self) {
        self.state.lock().refresh_due = true;
        self.compare_due.notify_one();
    }

    pub(super) fn dispossess(&self, conn: &str, epoch: Epoch) {
        self.listener.dispossessed(conn, epoch);
        if let Some(owned) = self.directory.disown(conn, epoch) {
            self.forget(self.id(), owned.conn, owned.number);
        }
        self.note_early(conn, epoch);
    }

    /// A message can come before the answer to the join that it is about, or to an earlier join of
    /// this node, which nobody reports.
    fn note_early(&self, conn: &str, epoch: Epoch) {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.early.len() >= MAX_EARLY {
            let max_wait = self.settings.max_wait;
            state
                .early
                .retain(|_, early| now.duration_since(early.since) < 2 * max_wait);
        }
        if state.early.len() >= MAX_EARLY {
            state.refresh_due = true;
            self.compare_due.notify_one();
        } else {
            let number = state.numbers;
            let early = state.early.entry(conn.into()).or_insert(Early {
                epoch,
                number,
                since: now,
            });
            *early = Early {
                epoch: epoch.max(early.epoch),
                number,
                since: now,
            };
        }
    }

    /// Removes a connection from those of this node in the store.
    fn forget(&self, node: Arc<str>, conn: Arc<str>, number: u64) {
        let store = self.store.clone();
        tokio::spawn(async move {
            // If this fails, the entry stays until this node ends.
            let _ = store.forget_connections(&node, &[(conn, number)]).await;
        });
    }

    /// Renews the lease, and compares the connections with the store when there is a reason, until
    /// the task is aborted. Comparing may take longer than a lease.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.keep_lease(), self.keep_connections());
    }

    async fn keep_lease(&self) {
        let third = self.settings.lease / 3;
        loop {
            let pause = match self.renew().await {
                Ok(()) => third,
                Err(_) => (third / 8).max(Duration::from_millis(10)),
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    async fn keep_connections(&self) {
        loop {
            let pause = match self.compare_if_due().await {
                Ok(()) => self.settings.backstop / 3,
                Err(_) => self.settings.lease / 24,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.compare_due.notified() => {}
            }
        }
    }

    /// Checks the lease, after the store refused a call of this node under the id `node`.
    pub(super) async fn check_lease(&self, node: &str) {
        if *self.state.lock().id == *node {
            // If this fails, the next renewal finds it.
            let _ = self.renew().await;
        }
    }

    fn renew(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.do_renew())
    }

    async fn do_renew(&self) -> Result<()> {
        let lease = {
            let mut state = self.state.lock();
            if state.script_ran.elapsed() >= self.settings.watchdog {
                return Ok(());
            }
            state.sent = true;
            Lease {
                node: state.id.clone(),
                lease_ms: self.settings.lease.as_millis() as u64,
                kept_ms: self.settings.backstop.as_millis() as u64,
                begins: !state.begun,
            }
        };
        if lease.begins {
            // Before this node owns anything. If it fails, the renewal does too, or connections
            // are compared when the subscription is there.
            let topic = Topic::NodeCalls(lease.node.clone());
            if self.topics.subscribe(&topic).await.is_err() {
                self.handle_gap();
            }
        }
        let sent = Instant::now();
        let renewal = self.store.renew_lease(&lease).await?;
        if *self.state.lock().id != *lease.node {
            return Ok(());
        }
        match renewal {
            Renewal::Renewed => {
                let until = sent + self.settings.lease.mul_f64(1.0 - DRIFT_FACTOR) - DRIFT;
                {
                    let mut state = self.state.lock();
                    state.begun = true;
                    state.until = state.until.max(until);
                }
                self.renewed.notify_waiters();
                Ok(())
            }
            // The store has lost the record: this node's own lease has not ended.
            Renewal::Missing if self.state.lock().until > Instant::now() => {
                self.begin_again(true)?;
                self.renew().await
            }
            Renewal::Missing | Renewal::Dead => {
                let lost = self.directory.disown_all();
                self.begin_again(false)?;
                count(&self.metrics.counters.node_leases_lost, 1);
                self.notifications.log(
                    LogLevel::Warn,
                    &format!(
                        "This node did not renew its lease in time (nodeLeaseMs), so its {lost} \
                         connections have left"
                    ),
                );
                self.listener.lease_lost();
                self.renew().await
            }
        }
    }

    /// Takes a new id, whose lease has not begun.
    fn begin_again(&self, lossy: bool) -> Result<()> {
        let id = ids::random()?.into();
        let mut state = self.state.lock();
        let former = std::mem::replace(&mut state.id, id);
        state.begun = false;
        state.sent = false;
        state.lossy |= lossy;
        if lossy {
            self.compare_due.notify_one();
        } else {
            state.until = Instant::now();
        }
        drop(state);
        let topics = self.topics.clone();
        tokio::spawn(async move {
            let _ = topics.unsubscribe(&Topic::NodeCalls(former)).await;
        });
        Ok(())
    }

    async fn compare_if_due(&self) -> Result<()> {
        let lossy = {
            let mut state = self.state.lock();
            let is_old = state.refreshed.elapsed() >= self.settings.backstop / 3;
            if !(state.lossy || state.refresh_due || is_old) {
                return Ok(());
            }
            state.refresh_due = false;
            state.refreshed = Instant::now();
            std::mem::take(&mut state.lossy)
        };
        let compared = self.compare(lossy).await;
        if compared.is_err() {
            let mut state = self.state.lock();
            state.lossy |= lossy;
            state.refresh_due = true;
        }
        compared
    }

    /// Ends what a join of unknown outcome may have left, unless another join has succeeded since.
    pub async fn end_unknown_join(self: Arc<Self>, conn: Arc<str>) {
        loop {
            sleep(self.settings.max_wait).await;
            let id = self.id();
            if self.directory.owned(&conn).is_some() {
                return;
            }
            let located = match presence::locate(&*self.store, &conn).await {
                Ok(Some(located)) => located,
                Ok(None) => return,
                Err(error) if error.code == Code::Closed => return,
                Err(_) => continue,
            };
            // Fenced by the epoch: a later join has a higher one.
            let leave = Leave {
                conn: &conn,
                place: &located.place,
                fence: Some(located.epoch),
                node: Some(&id),
                number: 0,
                reason: Reason::Timeout,
            };
            if self.directory.owned(&conn).is_none() && self.store.leave(&leave).await.is_ok() {
                return;
            }
        }
    }

    /// Ends the lease of a client that closes, and removes its connections as a reaper does, for a
    /// bounded time. Others remove the rest.
    pub async fn end(&self) {
        let node = {
            let mut state = self.state.lock();
            state.until = Instant::now();
            state.begun = false;
            if !std::mem::take(&mut state.sent) {
                return;
            }
            state.id.clone()
        };
        let work = async {
            self.store.end_lease(&node).await?;
            super::dead_nodes::remove(&*self.store, &node, true).await
        };
        let _ = timeout(MAX_END, work).await;
    }
}

/// Maximum time that a closing client removes its connections.
const MAX_END: Duration = Duration::from_secs(5);
