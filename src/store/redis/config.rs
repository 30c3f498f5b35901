//! From a URL, TLS material and credentials to where and how to connect. The only place that sees a
//! password.

use super::server::{Endpoint, Sentinels, Server};
use crate::{
    model::error::{Error, Result},
    switches::{Defence, off},
};
use percent_encoding::percent_decode_str;
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    TlsCertificates, io::tcp::TcpSettings,
};
use serde::Deserialize;
use std::{sync::Arc, time::Duration};

/// TLS material. Texts are PEM.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate authority to trust, in place of the system's.
    pub ca: Option<String>,
    /// Client certificate and its key, for servers that ask for one.
    pub cert: Option<String>,
    pub key: Option<String>,
    /// The name that the certificate must have, where that is not the host.
    pub servername: Option<String>,
    /// `false` accepts any certificate. Default `true`.
    pub reject_unauthorized: Option<bool>,
}

/// How to talk to sentinels; the URL's user, password and db are for the Redis servers.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SentinelOptions {
    pub username: Option<String>,
    pub password: Option<String>,
    /// TLS to the sentinels; without it they are talked to in the clear.
    pub tls: Option<Tls>,
}

/// Where to connect.
pub enum Target {
    One {
        server: Arc<Server>,
        /// The database's number.
        db: i64,
    },
    Cluster(Arc<Nodes>),
}

/// The servers of a cluster: some addresses to begin with, and what leads to any of them.
pub struct Nodes {
    pub first: Vec<Address>,
    /// User, password and TLS; only the address is not theirs.
    data: ConnectionInfo,
    tls: Option<Tls>,
    /// The first addresses, for messages.
    pub shown: String,
}

/// Host and port of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Nodes {
    pub fn server(&self, address: &Address) -> Result<Arc<Server>> {
        let Address { host, port } = address.clone();
        let endpoint = endpoint_at(&self.data, host, port, self.tls.as_ref())?;
        Ok(Arc::new(Server::Fixed(endpoint)))
    }
}

/// One of several servers that have all but the address in common.
pub fn endpoint_at(
    data: &ConnectionInfo,
    host: String,
    port: u16,
    tls: Option<&Tls>,
) -> Result<Endpoint> {
    let addr = match data.addr() {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            tls_params: None,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    endpoint(data.clone().set_addr(addr), tls)
}

/// How long sent data may stay unacknowledged before the kernel gives the connection up: a host
/// that is gone is noticed although nothing closes the connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(4);

const SENTINEL_SCHEME: &str = "redis-sentinel://";
const SENTINEL_FORM: &str = "url must have the form redis-sentinel://user:password@host:26379,host:26379/master/0, the \
     name of the master being one that the sentinels know";
const SENTINEL_PORT: u16 = 26379;

const CLUSTER_SCHEME: &str = "redis-cluster://";
const CLUSTER_FORM: &str = "url must have the form redis-cluster://user:password@host:7000,host:7001; a cluster has no \
     database but 0";
const REDIS_PORT: u16 = 6379;

impl Target {
    /// `tls` stands beside `rediss://`; beside `redis-sentinel://` it makes the connections to the
    /// Redis servers TLS ones.
    pub fn parse(url: &str, tls: Option<&Tls>, sentinel: &SentinelOptions) -> Result<Target> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "redis" | "rediss" | "redis+unix" | "unix" | "valkey" | "valkeys" => {}
            "redis-sentinel" => return parse_sentinel(url, tls, sentinel),
            "redis-cluster" => return parse_cluster(url, tls),
            _ => {
                return Err(Error::invalid(
                    "url must begin with redis://, rediss://, redis+unix://, redis-sentinel://, \
                     redis-cluster:// or memory://",
                ));
            }
        }
        let info = connection_info(url)?;
        let db = info.redis_settings().db();
        Ok(Target::One {
            server: Arc::new(Server::Fixed(endpoint(info, tls)?)),
            db,
        })
    }

    /// The address without secrets, for messages.
    pub fn shown(&self) -> &str {
        match self {
            Target::One { server, .. } => server.shown(),
            Target::Cluster(nodes) => &nodes.shown,
        }
    }
}

fn parse_cluster(url: &str, tls: Option<&Tls>) -> Result<Target> {
    let malformed = || Error::invalid(CLUSTER_FORM);
    let rest = url.strip_prefix(CLUSTER_SCHEME).ok_or_else(malformed)?;
    let (authority, db) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(db, "" | "0") {
        return Err(malformed());
    }
    let (user, hosts) = user_and_hosts(authority);
    let scheme = scheme_with(tls);
    let data = connection_info(&format!("{scheme}://{user}cluster")).map_err(|_| malformed())?;
    // Whether the material fits is known now, not at the first failover.
    endpoint(data.clone(), tls)?;
    let mut first = Vec::new();
    for info in each_host(hosts, "redis", REDIS_PORT) {
        match info.map_err(|_| malformed())?.addr() {
            ConnectionAddr::Tcp(host, port) if !host.is_empty() => first.push(Address {
                host: host.clone(),
                port: *port,
            }),
            _ => return Err(malformed()),
        }
    }
    let names: Vec<String> = first.iter().map(Address::to_string).collect();
    Ok(Target::Cluster(Arc::new(Nodes {
        shown: names.join(", "),
        first,
        data,
        tls: tls.cloned(),
    })))
}

/// `user:password@`, if it is there, and the hosts behind it.
fn user_and_hosts(authority: &str) -> (String, &str) {
    match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    }
}

fn scheme_with(tls: Option<&Tls>) -> &'static str {
    if tls.is_some() { "rediss" } else { "redis" }
}

/// Each of the hosts as if it were the only one. `port`: of those that name none.
fn each_host(hosts: &str, scheme: &str, port: u16) -> impl Iterator<Item = Result<ConnectionInfo>> {
    hosts.split(',').map(move |host| {
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.ends_with(']'));
        connection_info(&if has_port {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{port}")
        })
    })
}

/// redis-rs's errors do not repeat the URL, and neither may we: it can hold a password.
fn connection_info(url: &str) -> Result<ConnectionInfo> {
    let info = url
        .into_connection_info()
        .map_err(|error| Error::invalid("url is not a valid Redis URL").with_cause(error))?;
    if info.redis_settings().db() < 0 {
        return Err(Error::invalid("url: the db must not be negative"));
    }
    Ok(info)
}

fn parse_sentinel(url: &str, tls: Option<&Tls>, sentinel: &SentinelOptions) -> Result<Target> {
    let malformed = || Error::invalid(SENTINEL_FORM);
    let rest = url.strip_prefix(SENTINEL_SCHEME).ok_or_else(malformed)?;
    let (authority, path) = rest.split_once('/').ok_or_else(malformed)?;
    let (user, hosts) = user_and_hosts(authority);
    let (master, db) = path.split_once('/').unwrap_or((path, "0"));
    let master = percent_decode_str(master)
        .decode_utf8()
        .map_err(|_| malformed())?;
    if master.is_empty() || hosts.is_empty() {
        return Err(malformed());
    }
    // redis-rs reads what a URL of one server can say; the addresses are put in later.
    let scheme = scheme_with(tls);
    let data = connection_info(&format!("{scheme}://{user}sentinel/{db}"))?;
    let db = data.redis_settings().db();
    // Whether the material fits is known now, not at the first failover.
    endpoint(data.clone(), tls)?;

    let scheme = scheme_with(sentinel.tls.as_ref());
    let mut sentinels = Vec::new();
    for info in each_host(hosts, scheme, SENTINEL_PORT) {
        let info = info.map_err(|_| malformed())?;
        let mut settings = info.redis_settings().clone();
        if let Some(username) = &sentinel.username {
            settings = settings.set_username(username);
        }
        if let Some(password) = &sentinel.password {
            settings = settings.set_password(password);
        }
        sentinels.push(endpoint(
            info.set_redis_settings(settings),
            sentinel.tls.as_ref(),
        )?);
    }
    Ok(Target::One {
        server: Arc::new(Server::Sentinels(Sentinels::new(
            master.into_owned(),
            sentinels,
            data,
            tls.cloned(),
        ))),
        db,
    })
}

/// A client for one address, with all that belongs to the way there.
pub(super) fn endpoint(info: ConnectionInfo, tls: Option<&Tls>) -> Result<Endpoint> {
    let shown = info.addr().to_string();
    let default = Tls::default();
    let tls = tls.unwrap_or(&default);
    let (info, resolve_as) = settled(info, tls);
    let client = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        Client::build_with_tls(info, certificates(tls)?)
    } else {
        Client::open(info)
    }
    .map_err(|error| {
        Error::invalid(format!("cannot connect to {shown} as configured")).with_cause(error)
    })?;
    Ok(Endpoint {
        client,
        shown,
        resolve_as,
    })
}

fn certificates(tls: &Tls) -> Result<TlsCertificates> {
    let client_tls = match (&tls.cert, &tls.key) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: cert.clone().into_bytes(),
            client_key: key.clone().into_bytes(),
        }),
        (None, None) => None,
        _ => {
            return Err(Error::invalid(
                "tls.cert and tls.key must be given together",
            ));
        }
    };
    // Without a certificate in it, nothing at all would be trusted.
    if tls
        .ca
        .as_ref()
        .is_some_and(|ca| !ca.contains("-----BEGIN CERTIFICATE-----"))
    {
        return Err(Error::invalid("tls.ca holds no certificate in PEM form"));
    }
    Ok(TlsCertificates {
        client_tls,
        root_cert: tls.ca.clone().map(String::into_bytes),
    })
}

/// The settings that all our connections have. A certificate's name that is not the host's takes the
/// host's place, and the host is what the name is resolved as.
fn settled(info: ConnectionInfo, tls: &Tls) -> (ConnectionInfo, Option<String>) {
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("rollcall", env!("CARGO_PKG_VERSION"));
    let tcp = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(TCP_USER_TIMEOUT);
    let mut resolve_as = None;
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure,
            tls_params,
        } => {
            let name = tls.servername.clone().filter(|name| !name.is_empty());
            ConnectionAddr::TcpTls {
                host: match name {
                    Some(name) => {
                        resolve_as = Some(host);
                        name
                    }
                    None => host,
                },
                port,
                insecure: insecure
                    || tls.reject_unauthorized == Some(false)
                    || off(Defence::Certificates),
                tls_params,
            }
        }
        other => other,
    };
    let info = info
        .set_addr(addr)
        .set_redis_settings(redis)
        .set_tcp_settings(tcp);
    (info, resolve_as)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Code;

    fn parse(url: &str) -> Result<Target> {
        Target::parse(url, None, &SentinelOptions::default())
    }

    #[test]
    fn no_secret_is_shown() {
        let target = parse("redis://user:hush@localhost:1/2").ok().unwrap();
        assert_eq!(target.shown(), "localhost:1");
        let target = parse("redis-sentinel://user:hush@a,b:5,[::1]/main/3")
            .ok()
            .unwrap();
        assert_eq!(
            target.shown(),
            "\"main\" (by the sentinels a:26379, b:5, ::1:26379)"
        );
        assert!(matches!(target, Target::One { db: 3, .. }));
        let target = parse("redis-cluster://user:hush@a,b:5,[::1]:7/0")
            .ok()
            .unwrap();
        assert_eq!(target.shown(), "a:6379, b:5, ::1:7");
        for bad in [
            "redis://user:hush@/x",
            "redis://u:hush@h/notanumber",
            "hush://hush@x",
            "redis-sentinel://u:hush@h",
            "redis-sentinel://u:hush@h/",
            "redis-sentinel://u:hush@/main",
            "redis-sentinel://u:hush@h,/main",
            "redis-sentinel://u:hush@h:x/main",
            "redis-sentinel://u:hush@h/main/notanumber",
            "redis-sentinel://u:hush@h/main/-1",
            "redis-sentinel://u:hush@h/%ff",
            "redis-cluster://u:hush@",
            "redis-cluster://u:hush@h,",
            "redis-cluster://u:hush@h:x",
            "redis-cluster://u:hush@h/1",
        ] {
            let error = parse(bad).err().unwrap();
            assert_eq!(error.code, Code::InvalidArgument, "{bad}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
