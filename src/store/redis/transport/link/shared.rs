//! State that a link shares with its supervisor: its settings and the live connection.

use crate::{
    model::error::{Error, Result},
    store::{
        StoreNotifications,
        redis::transport::server::{Connected, Server},
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::{PushInfo, aio::MultiplexedConnection};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// The number of the last link.
static LINKS: AtomicU64 = AtomicU64::new(0);

pub const FIRST_BACKOFF: Duration = Duration::from_millis(20);
pub const MAX_BACKOFF: Duration = Duration::from_millis(1_000);

/// Runs on a new connection before it is used. The flag is true if the connection replaces an
/// earlier one.
pub type Prepare =
    Arc<dyn Fn(MultiplexedConnection, bool) -> BoxFuture<'static, Result<()>> + Send + Sync>;

pub struct LinkConfig {
    pub server: Arc<Server>,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
    /// Receives push messages of the server. Must not block.
    pub on_push: Arc<dyn Fn(PushInfo) + Send + Sync>,
    pub prepare: Prepare,
    pub notifications: Arc<dyn StoreNotifications>,
    pub role: Role,
}

/// The purpose of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Calls. The link's state is the client's connection state.
    Client,
    /// Calls to one of several servers.
    Calls,
    /// Subscriptions.
    Subscriber,
}

/// A connection with its number. The number ensures that the failure of a connection does not end
/// its successor.
#[derive(Clone)]
pub struct Live {
    pub number: u64,
    pub connection: MultiplexedConnection,
    /// The address of the server.
    pub address: Arc<str>,
    /// The run id of the server.
    pub run_id: Option<Arc<str>>,
    pub was_master: bool,
    /// Keeps the connection open.
    pub _connected: Connected,
}

pub struct Inner {
    /// Unique within the process.
    pub number: u64,
    pub config: LinkConfig,
    /// `None` while there is no usable connection.
    pub live: watch::Sender<Option<Live>>,
    /// When the last connection was lost, or when the link was created.
    pub lost_at: Mutex<Instant>,
    pub connections: AtomicU64,
    /// Notified when a request failed in a way that makes a check of the connection necessary.
    pub health_check: Notify,
    /// Why the last attempt to connect failed, if the cause is permanent.
    pub refused: watch::Sender<Option<Error>>,
    /// Whether the last connection was closed because the server is a replica.
    pub demoted: AtomicBool,
}

impl Inner {
    pub fn new(config: LinkConfig) -> Arc<Inner> {
        let (live, _) = watch::channel(None);
        if config.role != Role::Subscriber {
            // From now on, [`Peers::calls_work`] waits for this link.
            config.server.peers.calls_worked(0);
        }
        Arc::new(Inner {
            number: LINKS.fetch_add(1, Ordering::Relaxed),
            config,
            live,
            lost_at: Mutex::new(Instant::now()),
            connections: AtomicU64::new(0),
            refused: watch::Sender::new(None),
            health_check: Notify::new(),
            demoted: AtomicBool::new(false),
        })
    }

    /// Removes a broken connection, so that the next request waits for a new one.
    pub fn forget(&self, number: u64) {
        self.live.send_if_modified(|live| {
            let is_it = live.as_ref().is_some_and(|live| live.number == number);
            if is_it {
                *self.lost_at.lock() = Instant::now();
                *live = None;
            }
            is_it
        });
        self.health_check.notify_one();
    }
}
