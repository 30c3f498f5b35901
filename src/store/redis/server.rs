//! Which server to connect to: always the same one, or the one that Sentinel says is the master now.
//! Asked at every connection, so that a client finds the new master by connecting again.

use super::{
    config::{self, Tls},
    errors,
};
use crate::{
    model::error::{Code, Error, Result},
    switches::{Defence, off},
};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, RedisFuture, Value,
    aio::MultiplexedConnection, io::AsyncDNSResolver,
};
use std::{
    fmt,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::time::timeout;

/// How long one sentinel may take to answer before the next is asked.
const SENTINEL_PATIENCE: Duration = Duration::from_millis(1_000);

/// One address, and how it may be named in messages.
pub struct Endpoint {
    pub client: Client,
    pub shown: String,
    /// The host whose address to connect to, where TLS knows the server by another name.
    pub resolve_as: Option<String>,
}

pub enum Server {
    Fixed(Endpoint),
    Sentinels(Sentinels),
}

impl Server {
    /// A connection, and the address that it leads to (without secrets).
    pub async fn connect(
        &self,
        settings: &AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, String)> {
        match self {
            Server::Fixed(endpoint) => endpoint
                .connect(settings)
                .await
                .map(|connection| (connection, endpoint.shown.clone()))
                .map_err(|error| errors::connecting(&error, &endpoint.shown)),
            Server::Sentinels(sentinels) => sentinels.connect(settings).await,
        }
    }

    /// Whether the sentinels name another master than the one at `address`. After a failover by
    /// command the old one goes on as a master until it is told, ten seconds or more: what it
    /// acknowledges in that time is lost.
    pub async fn has_moved(&self, address: &str) -> bool {
        match self {
            Server::Fixed(_) => false,
            Server::Sentinels(_) if off(Defence::Moved) => false,
            Server::Sentinels(sentinels) => {
                matches!(sentinels.find().await, Ok(master) if master.shown != address)
            }
        }
    }

    /// The address without secrets, for messages.
    pub fn shown(&self) -> &str {
        match self {
            Server::Fixed(endpoint) => &endpoint.shown,
            Server::Sentinels(sentinels) => &sentinels.shown,
        }
    }

    /// Whether an attempt that failed may succeed a moment later, because it is asked anew where to
    /// connect.
    pub fn moves(&self) -> bool {
        matches!(self, Server::Sentinels(_))
    }

    /// What to ask of a connection from time to time.
    pub fn probe(&self) -> Cmd {
        redis::cmd(match self {
            Server::Fixed(_) => "PING",
            Server::Sentinels(_) => "ROLE",
        })
    }

    /// Whether the connection with this answer to the probe is still one to the right server: a
    /// master that came back as a replica goes on answering.
    pub fn is_right(&self, answer: &Value) -> bool {
        match self {
            Server::Fixed(_) => true,
            Server::Sentinels(_) => is_master(answer),
        }
    }
}

/// Several sentinels, and the name under which they know the master.
pub struct Sentinels {
    master: String,
    nodes: Vec<Endpoint>,
    /// User, password, db and TLS of the Redis servers; only the address is not theirs.
    data: ConnectionInfo,
    tls: Option<Tls>,
    shown: String,
    /// Which sentinel to begin with: not one whose answer led nowhere.
    first: AtomicUsize,
}

impl Sentinels {
    pub fn new(
        master: String,
        nodes: Vec<Endpoint>,
        data: ConnectionInfo,
        tls: Option<Tls>,
    ) -> Self {
        let shown = format!("{master:?} (by the sentinels {})", Names(&nodes));
        Sentinels {
            master,
            nodes,
            data,
            tls,
            shown,
            first: AtomicUsize::new(0),
        }
    }

    async fn connect(
        &self,
        settings: &AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, String)> {
        let found = self.find().await?;
        let result = Self::connect_master(&found, settings).await;
        if result.is_err() {
            // A sentinel that is cut off from the others names the old master for ever.
            self.first.fetch_add(1, Ordering::Relaxed);
        }
        result.map(|connection| (connection, found.shown))
    }

    async fn connect_master(
        found: &Endpoint,
        settings: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection> {
        let mut connection = found
            .connect(settings)
            .await
            .map_err(|error| errors::connecting(&error, &found.shown))?;
        // Between the fall of a master and the news of it, sentinels name the one that was.
        match connection.send_packed_command(&redis::cmd("ROLE")).await {
            Ok(role) if !is_master(&role) => Err(Error::new(
                Code::Unavailable,
                format!(
                    "Redis at {} is a read-only replica, though its sentinels call it the master",
                    found.shown
                ),
            )),
            Err(error) if errors::breaks_connection(&error) => Err(errors::request(&error)),
            // A server that does not let this user ask is taken at the sentinels' word.
            _ => Ok(connection),
        }
    }

    /// The master, by the first sentinel that knows it.
    async fn find(&self) -> Result<Endpoint> {
        let first = self.first.load(Ordering::Relaxed);
        let mut unknown = false;
        let mut refused = None;
        for turn in 0..self.nodes.len() {
            let node = &self.nodes[(first + turn) % self.nodes.len()];
            match timeout(SENTINEL_PATIENCE, self.ask(node)).await {
                Ok(Ok(Some((host, port)))) => return self.endpoint(host, port),
                Ok(Ok(None)) => unknown = true,
                Ok(Err(error)) if error.code == Code::Permission => refused = Some(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Err(match refused {
            _ if unknown => Error::invalid(format!(
                "url: the sentinels {} know no master named {:?}",
                Names(&self.nodes),
                self.master
            )),
            Some(error) => error,
            None => Error::new(
                Code::Unavailable,
                format!(
                    "none of the sentinels {} can be reached",
                    Names(&self.nodes)
                ),
            ),
        })
    }

    async fn ask(&self, node: &Endpoint) -> Result<Option<(String, u16)>> {
        let failed = |error| errors::connecting(&error, &format!("{} (a sentinel)", node.shown));
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SENTINEL_PATIENCE))
            .set_response_timeout(Some(SENTINEL_PATIENCE));
        let mut connection = node.connect(&settings).await.map_err(failed)?;
        redis::cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(&self.master)
            .query_async(&mut connection)
            .await
            .map_err(failed)
    }

    fn endpoint(&self, host: String, port: u16) -> Result<Endpoint> {
        config::endpoint_at(&self.data, host, port, self.tls.as_ref())
    }
}

impl Endpoint {
    async fn connect(
        &self,
        settings: &AsyncConnectionConfig,
    ) -> redis::RedisResult<MultiplexedConnection> {
        let mut settings = settings.clone();
        if let Some(host) = &self.resolve_as {
            settings = settings.set_dns_resolver(ResolveAs(host.clone()));
        }
        self.client
            .get_multiplexed_async_connection_with_config(&settings)
            .await
    }
}

/// Whatever the name, the addresses of this host.
struct ResolveAs(String);

impl AsyncDNSResolver for ResolveAs {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        _name: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((self.0.as_str(), port)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as _)
        })
    }
}

fn is_master(role: &Value) -> bool {
    match role {
        Value::Array(parts) => match parts.first() {
            Some(Value::BulkString(role)) => role == b"master",
            Some(Value::SimpleString(role)) => role == "master",
            _ => false,
        },
        // Not a role at all: the user may not ask.
        _ => true,
    }
}

struct Names<'a>(&'a [Endpoint]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, node) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}", node.shown)?;
        }
        Ok(())
    }
}
