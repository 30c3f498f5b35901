//! What a link shares with its supervisor: its settings, and the connection that is live.

use crate::{
    model::error::{Error, Result},
    store::{
        EventSink,
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

/// Numbers for links.
static LINKS: AtomicU64 = AtomicU64::new(0);

pub const FIRST_BACKOFF: Duration = Duration::from_millis(20);
pub const MAX_BACKOFF: Duration = Duration::from_millis(1_000);

/// What is done on a fresh connection before anybody else may use it. The flag says whether it
/// replaces an earlier one.
pub type Prepare =
    Arc<dyn Fn(MultiplexedConnection, bool) -> BoxFuture<'static, Result<()>> + Send + Sync>;

pub struct LinkConfig {
    pub server: Arc<Server>,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
    /// Receives what the server pushes. Must not block.
    pub on_push: Arc<dyn Fn(PushInfo) + Send + Sync>,
    pub prepare: Prepare,
    pub sink: Arc<dyn EventSink>,
    pub role: Role,
}

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Calls; its state is the client's state.
    Client,
    /// Calls, of one of several servers.
    Calls,
    /// Subscriptions.
    Subscriber,
}

/// A connection with its number: one that broke must not take its successor down with it.
#[derive(Clone)]
pub struct Live {
    pub number: u64,
    pub connection: MultiplexedConnection,
    /// Where it leads.
    pub address: Arc<str>,
    /// The server there.
    pub run_id: Option<Arc<str>>,
    pub was_master: bool,
    /// Keeps the connection going.
    pub _connected: Connected,
}

pub struct Inner {
    /// Among all links of the process.
    pub number: u64,
    pub config: LinkConfig,
    /// `None` while there is no connection that can be used.
    pub live: watch::Sender<Option<Live>>,
    /// When there was a connection last, or when the link was made.
    pub lost_at: Mutex<Instant>,
    pub connections: AtomicU64,
    /// Told when a request failed in a way that makes the connection suspect.
    pub health_check: Notify,
    /// Why the last attempt to connect failed, if that will not go away by itself.
    pub refused: watch::Sender<Option<Error>>,
    /// Whether the last connection was given up because the server is a replica.
    pub demoted: AtomicBool,
}

impl Inner {
    pub fn new(config: LinkConfig) -> Arc<Inner> {
        let (live, _) = watch::channel(None);
        if config.role != Role::Subscriber {
            // Whoever waits for calls to work waits for this link from now on.
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

    /// Takes a broken connection out of use, so that the next request waits for a new one.
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
