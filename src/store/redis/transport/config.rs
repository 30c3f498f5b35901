//! Parses a URL, TLS options and credentials into a connection target. Only this file, `url.rs` and
//! `access.rs` read passwords.

use crate::{
    model::error::{Error, Result},
    store::redis::transport::{
        access::Access,
        address::Address,
        outage::Outage,
        server::{Endpoint, Sentinels, Server},
        tls::{Tls, TlsContext},
        url::{self, Login, Url},
    },
};
use parking_lot::Mutex;
use serde::Deserialize;
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Weak},
};

/// Options for connections to sentinels. The user, password and db of the URL are for the Redis
/// servers.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SentinelOptions {
    pub username: Option<String>,
    pub password: Option<String>,
    /// TLS to the sentinels. Default: no TLS.
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

/// The servers of a cluster: the addresses of the URL, and the credentials for all servers.
pub struct Nodes {
    pub first: Vec<Address>,
    access: Access,
    /// The addresses of the URL, for messages.
    pub display: String,
    pub outage: Arc<Outage>,
    /// The servers that have links. All links to one server share its entry.
    servers: Mutex<HashMap<Address, Weak<Server>>>,
}

impl Nodes {
    pub fn server(&self, address: &Address) -> Result<Arc<Server>> {
        let mut servers = self.servers.lock();
        if let Some(server) = servers.get(address).and_then(Weak::upgrade) {
            return Ok(server);
        }
        let endpoint = Endpoint::at(address.clone(), &self.access)?;
        let server = Server::in_cluster(endpoint, self.outage.clone());
        servers.retain(|_, known| known.strong_count() > 0);
        servers.insert(address.clone(), Arc::downgrade(&server));
        Ok(server)
    }
}

const SENTINEL_FORM: &str = "url must have the form redis-sentinel://user:password@host:26379,host:26379/master/0, the \
     name of the master being one that the sentinels know";
const SENTINEL_PORT: u16 = 26379;

const CLUSTER_FORM: &str = "url must have the form redis-cluster://user:password@host:7000,host:7001; a cluster has no \
     database but 0";
const REDIS_PORT: u16 = 6379;

impl Target {
    /// If `tls` is given, connections to the Redis servers use TLS, whatever the scheme of the URL.
    pub fn parse(
        url: &str,
        tls: Option<&Tls>,
        sentinel: Option<&SentinelOptions>,
    ) -> Result<Target> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "redis" | "valkey" => parse_single(url, tls),
            "rediss" | "valkeys" => parse_single(url, Some(tls.unwrap_or(&Tls::default()))),
            "redis+unix" | "valkey+unix" | "unix" => parse_unix(url, tls),
            "redis-sentinel" => parse_sentinel(url, tls, sentinel),
            "redis-cluster" => parse_cluster(url, tls),
            _ => Err(Error::invalid(
                "url must begin with redis://, rediss://, redis+unix://, redis-sentinel://, \
                 redis-cluster:// or memory://",
            )),
        }
    }

    pub fn has_sentinels(url: &str) -> bool {
        url.starts_with("redis-sentinel:")
    }

    /// The address without secrets, for messages.
    pub fn display(&self) -> &str {
        match self {
            Target::One { server, .. } => server.display(),
            Target::Cluster(nodes) => &nodes.display,
        }
    }
}

fn parse_single(text: &str, tls: Option<&Tls>) -> Result<Target> {
    let url = Url::parse(text, false)?;
    let db = url.database(url.path.as_deref())?;
    let access = Access::new(&url.login, db, context(&url, tls)?);
    let mut addresses = url.addresses(REDIS_PORT);
    match (addresses.pop(), addresses.is_empty()) {
        (Some(address), true) => Ok(Target::One {
            server: Server::fixed(Endpoint::at(address, &access)?),
            db,
        }),
        (None, _) => Err(Error::invalid("url names no host")),
        (Some(_), false) => Err(Error::invalid(
            "url names several hosts; use redis-cluster:// or redis-sentinel:// for servers that belong \
             together, and an array of URLs for independent ones",
        )),
    }
}

fn parse_unix(text: &str, tls: Option<&Tls>) -> Result<Target> {
    let url = Url::parse(text, true)?;
    if tls.is_some() || url.insecure {
        return Err(Error::invalid(
            "tls is not possible on a unix socket (redis+unix://); leave it out",
        ));
    }
    let path = match url.path.as_deref() {
        Some(path) if !path.is_empty() && url.hosts.is_empty() => url::decoded(path, "path")?,
        _ => {
            return Err(Error::invalid(
                "url must have the form redis+unix:///path/to/redis.sock?user=…&pass=…&db=0",
            ));
        }
    };
    let db = url.db.unwrap_or(0);
    let access = Access::new(&url.login, db, None);
    let endpoint = Endpoint::unix(PathBuf::from(format!("/{path}")), &access)?;
    Ok(Target::One {
        server: Server::fixed(endpoint),
        db,
    })
}

fn parse_cluster(text: &str, tls: Option<&Tls>) -> Result<Target> {
    let url = Url::parse(text, false)?;
    if url.hosts.is_empty() || url.database(url.path.as_deref()).is_ok_and(|db| db != 0) {
        return Err(Error::invalid(CLUSTER_FORM));
    }
    let db = url.database(url.path.as_deref())?;
    let access = Access::new(&url.login, db, context(&url, tls)?);
    let first = url.addresses(REDIS_PORT);
    for address in &first {
        Endpoint::at(address.clone(), &access)?;
    }
    let names: Vec<String> = first.iter().map(Address::to_string).collect();
    Ok(Target::Cluster(Arc::new(Nodes {
        display: names.join(", "),
        first,
        access,
        outage: Arc::default(),
        servers: Mutex::default(),
    })))
}

fn parse_sentinel(
    text: &str,
    tls: Option<&Tls>,
    sentinel: Option<&SentinelOptions>,
) -> Result<Target> {
    let sentinel = sentinel.cloned().unwrap_or_default();
    let malformed = || Error::invalid(SENTINEL_FORM);
    let url = Url::parse(text, false)?;
    let path = url.path.as_deref().ok_or_else(malformed)?;
    let (master, db) = match path.split_once('/') {
        Some((master, db)) => (master, Some(db)),
        None => (path, None),
    };
    let master = url::decoded(master, "name of the master")?;
    if master.is_empty() || url.hosts.is_empty() {
        return Err(malformed());
    }
    let db = url.database(db)?;
    let access = Access::new(&url.login, db, context(&url, tls)?);
    let login = Login::new(sentinel.username.clone(), sentinel.password.clone());
    let to_sentinels = match &sentinel.tls {
        Some(tls) => Some(TlsContext::new(tls, false)?),
        None => None,
    };
    let to_sentinels = Access::new(&login, 0, to_sentinels);
    let sentinels = url
        .addresses(SENTINEL_PORT)
        .into_iter()
        .map(|address| Endpoint::at(address, &to_sentinels))
        .collect::<Result<_>>()?;
    Ok(Target::One {
        server: Server::by_sentinels(Sentinels::new(master, sentinels, access)),
        db,
    })
}

/// Creates the TLS settings when the client is opened, so that invalid options fail then and not at
/// the first failover.
fn context(url: &Url, tls: Option<&Tls>) -> Result<Option<Arc<TlsContext>>> {
    match tls {
        Some(tls) => TlsContext::new(tls, url.insecure).map(Some),
        None if url.insecure => Err(Error::invalid(
            "url: #insecure is about TLS; use rediss:// or the option tls",
        )),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Code;

    fn parse(url: &str) -> Result<Target> {
        Target::parse(url, None, None)
    }

    #[test]
    fn tls_is_used_or_refused_but_never_dropped() {
        let tls = Tls::default();
        let uses_tls = |url: &str, tls: Option<&Tls>| match Target::parse(url, tls, None)
            .map_err(|error| error.code)
        {
            Ok(Target::One { server, .. }) => Ok(server.uses_tls()),
            Ok(Target::Cluster(nodes)) => Ok(nodes.access.tls.is_some()),
            Err(code) => Err(code),
        };
        for (url, plain, with_tls) in [
            ("redis://h", Ok(false), Ok(true)),
            ("valkey://h", Ok(false), Ok(true)),
            ("rediss://h", Ok(true), Ok(true)),
            ("valkeys://h", Ok(true), Ok(true)),
            ("redis-sentinel://h/main", Ok(false), Ok(true)),
            ("redis-cluster://h", Ok(false), Ok(true)),
            ("redis+unix:///tmp/s", Ok(false), Err(Code::InvalidArgument)),
        ] {
            assert_eq!(uses_tls(url, None), plain, "{url}");
            assert_eq!(uses_tls(url, Some(&tls)), with_tls, "{url}");
        }
        let strict = Tls {
            reject_unauthorized: Some(true),
            ..Tls::default()
        };
        assert!(uses_tls("rediss://h#insecure", Some(&strict)).is_err());
        assert_eq!(uses_tls("rediss://h#insecure", None), Ok(true));
    }

    #[test]
    fn no_secret_is_shown() {
        let target = parse("redis://user:hush@localhost:1/2").ok().unwrap();
        assert_eq!(target.display(), "localhost:1");
        let target = parse("redis-sentinel://user:hush@a,b:5,[::1]/main/3")
            .ok()
            .unwrap();
        assert_eq!(
            target.display(),
            "\"main\" (by the sentinels a:26379, b:5, ::1:26379)"
        );
        assert!(matches!(target, Target::One { db: 3, .. }));
        let target = parse("redis-cluster://user:hush@a,b:5,[::1]:7/0")
            .ok()
            .unwrap();
        assert_eq!(target.display(), "a:6379, b:5, ::1:7");
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
            "redis-cluster://u:hush@h/x",
            "redis-cluster://u:hush@h?db=1",
            "redis-cluster://u:hush@h#insecure",
            "redis-sentinel://u:hush@h/main/1/2",
            "redis-sentinel://u:hush@h/main#insecure",
            "redis://u:hush@h,g",
            "redis://u:hush@h#insecure",
            "redis://u:hush@h/1/2",
            "redis+unix://h/hush",
            "redis+unix://u:hush@/tmp/s?pass=hush",
            "redis+unix://",
            "redis+unix:///?pass=hush",
            "redis+unix:///tmp/s?pass=hush&password=hush",
            "redis+unix:///tmp/s?pass=hush#insecure",
        ] {
            let error = parse(bad).err().unwrap();
            assert_eq!(error.code, Code::InvalidArgument, "{bad}");
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
