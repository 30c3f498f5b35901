//! The server to connect to: a fixed one, or the master that Sentinel names. Sentinel is asked for
//! every connection, so that a client finds a new master by reconnecting.

use crate::{
    failpoints::failpoint,
    model::error::{Code, Error, Result},
    store::{
        StoreNotifications,
        redis::transport::{
            access::Access, address::Address, errors, info::info_field, outage::Outage,
            peers::Peers, tls::TlsContext,
        },
    },
};
use futures_util::future::select_ok;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    Value, aio::MultiplexedConnection, io::tcp::TcpSettings,
};
use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpStream, lookup_host},
    task::AbortHandle,
    time::timeout,
};

/// Maximum time for a sentinel to answer before the next is asked.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Maximum time that sent data may stay unacknowledged before the kernel closes the connection.
/// This detects a host that is gone without closing its connections.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(4);

/// One address, and its name for messages.
pub struct Endpoint {
    way: Way,
    pub display: String,
}

enum Way {
    Plain(Client),
    Tls {
        address: Address,
        redis: RedisConnectionInfo,
        context: Arc<TlsContext>,
    },
}

/// A connection. It ends with its last clone, or with its driver.
#[derive(Clone)]
pub struct Connected {
    pub connection: MultiplexedConnection,
    /// The address, without secrets.
    pub address: Arc<str>,
    /// Only for TLS: there, the connection does not end its driver while an answer is pending.
    _driver: Option<Arc<Driver>>,
}

struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An endpoint, shared by all links of a client to it.
pub struct Server {
    route: Route,
    pub peers: Peers,
    /// All servers of a cluster share one.
    pub outage: Arc<Outage>,
}

enum Route {
    Fixed(Endpoint),
    /// The cluster's map tells which servers are masters.
    InCluster(Endpoint),
    Sentinels(Sentinels),
}

impl Server {
    pub fn fixed(endpoint: Endpoint) -> Arc<Server> {
        Server::new(Route::Fixed(endpoint), Arc::default())
    }

    pub fn in_cluster(endpoint: Endpoint, outage: Arc<Outage>) -> Arc<Server> {
        Server::new(Route::InCluster(endpoint), outage)
    }

    pub fn by_sentinels(sentinels: Sentinels) -> Arc<Server> {
        Server::new(Route::Sentinels(sentinels), Arc::default())
    }

    fn new(route: Route, outage: Arc<Outage>) -> Arc<Server> {
        Arc::new(Server {
            route,
            peers: Peers::default(),
            outage,
        })
    }

    pub async fn connect(&self, settings: &AsyncConnectionConfig) -> Result<Connected> {
        match &self.route {
            Route::Fixed(endpoint) | Route::InCluster(endpoint) => {
                endpoint.connect(settings, &endpoint.display).await
            }
            Route::Sentinels(sentinels) => sentinels.connect(settings).await,
        }
    }

    /// Whether the sentinels name another master than the one at `address`. After a manual
    /// failover, the old master accepts writes until it is reconfigured, which takes ten seconds or
    /// more. Writes that it acknowledges in that time are lost.
    pub async fn has_moved(&self, address: &str) -> bool {
        match &self.route {
            Route::Fixed(_) | Route::InCluster(_) => false,
            Route::Sentinels(_) if failpoint!(Moved) => false,
            Route::Sentinels(sentinels) => {
                matches!(sentinels.find().await, Ok(master) if master.display != address)
            }
        }
    }

    /// A link is connected. On a cluster, the outage only ends when all masters are connected.
    pub fn connected(&self, link: u64, notifications: &dyn StoreNotifications) {
        self.outage.forget(link);
        if !matches!(self.route, Route::InCluster(_)) {
            self.outage.log_end(notifications, self.display());
        }
    }

    /// The address without secrets, for messages.
    pub fn display(&self) -> &str {
        match &self.route {
            Route::Fixed(endpoint) | Route::InCluster(endpoint) => &endpoint.display,
            Route::Sentinels(sentinels) => &sentinels.display,
        }
    }

    #[cfg(test)]
    pub fn uses_tls(&self) -> bool {
        match &self.route {
            Route::Fixed(endpoint) | Route::InCluster(endpoint) => {
                matches!(endpoint.way, Way::Tls { .. })
            }
            Route::Sentinels(sentinels) => sentinels.access.tls.is_some(),
        }
    }

    /// Whether a failed attempt may succeed a moment later, because sentinels are asked again where
    /// to connect.
    pub fn moves(&self) -> bool {
        matches!(self.route, Route::Sentinels(_))
    }

    /// Whether a connection is only usable while its server is a master. `was_master`: it was one
    /// at first.
    fn wants_master(&self, was_master: bool) -> bool {
        match &self.route {
            Route::Fixed(_) => was_master && !failpoint!(Replaced),
            Route::InCluster(_) => false,
            Route::Sentinels(_) => true,
        }
    }

    /// The command for periodic checks of a connection.
    pub fn probe(&self, was_master: bool) -> Cmd {
        redis::cmd(if self.wants_master(was_master) {
            "ROLE"
        } else {
            "PING"
        })
    }

    /// Whether the answer to the probe shows that the connection leads to the right server. A
    /// master that has become a replica still answers, but its endpoint may lead to another server
    /// by now.
    pub fn is_right(&self, answer: &Value, was_master: bool) -> bool {
        !self.wants_master(was_master) || is_master(answer)
    }
}

/// Several sentinels, and their name for the master.
pub struct Sentinels {
    master: String,
    nodes: Vec<Endpoint>,
    /// For connections to the Redis servers.
    access: Access,
    display: String,
    /// The index of the sentinel to ask first. Moves on when an answer did not lead to a master.
    first: AtomicUsize,
}

impl Sentinels {
    pub fn new(master: String, nodes: Vec<Endpoint>, access: Access) -> Self {
        let display = format!("{master:?} (by the sentinels {})", Names(&nodes));
        Sentinels {
            master,
            nodes,
            access,
            display,
            first: AtomicUsize::new(0),
        }
    }

    async fn connect(&self, settings: &AsyncConnectionConfig) -> Result<Connected> {
        let found = self.find().await?;
        let result = Self::connect_master(&found, settings).await;
        if result.is_err() {
            // A sentinel that is isolated from the others may name the old master for ever.
            self.first.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn connect_master(
        found: &Endpoint,
        settings: &AsyncConnectionConfig,
    ) -> Result<Connected> {
        let mut connected = found.connect(settings, &found.display).await?;
        let role = redis::cmd("ROLE");
        // Between the failure of a master and its detection, sentinels name the old master.
        match connected.connection.send_packed_command(&role).await {
            Ok(role) if !is_master(&role) => Err(Error::new(
                Code::Unavailable,
                format!(
                    "Redis at {} is a read-only replica, though its sentinels call it the master",
                    found.display
                ),
            )),
            Err(error) if errors::breaks_connection(&error) => Err(errors::request(&error)),
            // If the server does not allow this user to run ROLE, the sentinels' answer is trusted.
            _ => Ok(connected),
        }
    }

    /// The master, from the first sentinel that knows it.
    async fn find(&self) -> Result<Endpoint> {
        let first = self.first.load(Ordering::Relaxed);
        let mut unknown = false;
        let mut refused = None;
        for turn in 0..self.nodes.len() {
            let node = &self.nodes[(first + turn) % self.nodes.len()];
            match timeout(SENTINEL_TIMEOUT, self.ask(node)).await {
                Ok(Ok(Some((host, port)))) => return self.endpoint(host, port),
                Ok(Ok(None)) => unknown = true,
                Ok(Err(error)) if error.code != Code::Unavailable => refused = Some(error),
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
        let display = format!("{} (a sentinel)", node.display);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(SENTINEL_TIMEOUT))
            .set_response_timeout(Some(SENTINEL_TIMEOUT));
        let mut connected = node.connect(&settings, &display).await?;
        redis::cmd("SENTINEL")
            .arg("get-master-addr-by-name")
            .arg(&self.master)
            .query_async(&mut connected.connection)
            .await
            .map_err(|error| errors::connecting(&error, &display))
    }

    fn endpoint(&self, host: String, port: u16) -> Result<Endpoint> {
        Endpoint::at(Address { host, port }, &self.access)
    }
}

impl Endpoint {
    /// A server that is reached by TCP or TLS.
    pub fn at(address: Address, access: &Access) -> Result<Endpoint> {
        let display = address.to_string();
        let way = match &access.tls {
            Some(context) => {
                context.check_host(&address.host)?;
                Way::Tls {
                    address,
                    redis: access.redis.clone(),
                    context: context.clone(),
                }
            }
            None => {
                let Address { host, port } = address;
                plain(ConnectionAddr::Tcp(host, port), access, &display)?
            }
        };
        Ok(Endpoint { way, display })
    }

    pub fn unix(path: PathBuf, access: &Access) -> Result<Endpoint> {
        let display = path.display().to_string();
        let way = plain(ConnectionAddr::Unix(path), access, &display)?;
        Ok(Endpoint { way, display })
    }

    /// `display`: the name of the server for messages.
    async fn connect(&self, settings: &AsyncConnectionConfig, display: &str) -> Result<Connected> {
        let address = self.display.as_str().into();
        match &self.way {
            Way::Plain(client) => client
                .get_multiplexed_async_connection_with_config(settings)
                .await
                .map(|connection| Connected {
                    connection,
                    address,
                    _driver: None,
                })
                .map_err(|error| errors::connecting(&error, display)),
            Way::Tls {
                address: at,
                redis,
                context,
            } => {
                let stream = tcp(at).await.map_err(|error| {
                    Error::new(
                        Code::Unavailable,
                        format!("Redis at {display} cannot be reached"),
                    )
                    .with_cause(error)
                })?;
                let secured = context.handshake(at, stream, display).await?;
                let settings = settings.clone();
                let (connection, driver) =
                    MultiplexedConnection::new_with_config(redis, secured.stream, settings)
                        .await
                        .map_err(|error| {
                            // The server's refusal of the certificate may be lost when it closes
                            // the connection.
                            if secured.certificate.was_asked() && error.is_io_error() {
                                secured.certificate.refused(display).with_cause(error)
                            } else {
                                errors::connecting(&error, display)
                            }
                        })?;
                let driver = tokio::spawn(driver).abort_handle();
                Ok(Connected {
                    connection,
                    address,
                    _driver: Some(Arc::new(Driver(driver))),
                })
            }
        }
    }
}

fn plain(addr: ConnectionAddr, access: &Access, display: &str) -> Result<Way> {
    let tcp = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(TCP_USER_TIMEOUT);
    addr.into_connection_info()
        .map(|info| {
            info.set_redis_settings(access.redis.clone())
                .set_tcp_settings(tcp)
        })
        .and_then(Client::open)
        .map(Way::Plain)
        .map_err(|error| {
            Error::invalid(format!("cannot connect to {display} as configured")).with_cause(error)
        })
}

/// Connects to the first address of the host that answers.
async fn tcp(Address { host, port }: &Address) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host.as_str(), *port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::other("the host has no address"));
    }
    let attempts = addresses
        .into_iter()
        .map(|address| Box::pin(TcpStream::connect(address)));
    let (stream, _) = select_ok(attempts).await?;
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT))?;
    Ok(stream)
}

/// The server of a connection. Values that the user has no permission to read stay unknown.
pub struct Found {
    pub run_id: Option<Arc<str>>,
    pub is_master: bool,
}

pub async fn identify(mut connection: MultiplexedConnection) -> Result<Found> {
    let mut pipeline = redis::Pipeline::with_capacity(2);
    pipeline.cmd("INFO").arg("server").cmd("ROLE");
    let answers = connection
        .send_packed_commands(&pipeline, 0, 2)
        .await
        .map_err(|error| errors::request(&error))?;
    let mut answers = answers.into_iter();
    let info = answers.next().unwrap_or(Value::Nil);
    let info = redis::from_redis_value::<String>(info).unwrap_or_default();
    let is_master = match answers.next() {
        Some(role @ Value::Array(_)) => is_master(&role),
        _ => false,
    };
    Ok(Found {
        run_id: info_field(&info, "run_id").map(Into::into),
        is_master,
    })
}

fn is_master(role: &Value) -> bool {
    match role {
        Value::Array(parts) => match parts.first() {
            Some(Value::BulkString(role)) => role == b"master",
            Some(Value::SimpleString(role)) => role == "master",
            _ => false,
        },
        // Not a role: the user has no permission to run ROLE.
        _ => true,
    }
}

struct Names<'a>(&'a [Endpoint]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, node) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}", node.display)?;
        }
        Ok(())
    }
}
