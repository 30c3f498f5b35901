//! From a URL and TLS material to what redis-rs connects with. The only place that sees a password.

use crate::model::error::{Code, Error, Result};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    TlsCertificates, io::tcp::TcpSettings,
};
use serde::Deserialize;
use std::time::Duration;

/// TLS options beside a `rediss://` URL. Texts are PEM.
#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// The certificate authority to trust, in place of the system's.
    pub ca: Option<String>,
    /// Client certificate and its key, for servers that ask for one.
    pub cert: Option<String>,
    pub key: Option<String>,
    /// `false` accepts any certificate. Default `true`.
    pub reject_unauthorized: Option<bool>,
}

/// Where to connect, and how it may be named in messages.
pub struct Target {
    pub client: Client,
    pub shown: String,
    /// The database's number.
    pub db: i64,
}

/// How long sent data may stay unacknowledged before the kernel gives the connection up: a host
/// that is gone is noticed although nothing closes the connection.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(4);

impl Target {
    pub fn parse(url: &str, tls: &Tls) -> Result<Target> {
        let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "redis" | "rediss" | "redis+unix" | "unix" | "valkey" | "valkeys" => {}
            "redis-cluster" | "redis-sentinel" => {
                return Err(Error::new(
                    Code::Unsupported,
                    format!("{scheme}:// is not supported by this version of Rollcall"),
                ));
            }
            _ => {
                return Err(Error::invalid(
                    "url must begin with redis://, rediss://, redis+unix:// or memory://",
                ));
            }
        }
        // redis-rs's errors do not repeat the URL, and neither may we: it can hold a password.
        let info = url
            .into_connection_info()
            .map_err(|error| Error::invalid("url is not a valid Redis URL").with_cause(error))?;
        if info.redis_settings().db() < 0 {
            return Err(Error::invalid("url: the db must not be negative"));
        }
        let info = settled(info, tls);
        let shown = info.addr().to_string();
        let db = info.redis_settings().db();
        let client = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
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
            let root_cert = tls.ca.clone().map(String::into_bytes);
            Client::build_with_tls(
                info,
                TlsCertificates {
                    client_tls,
                    root_cert,
                },
            )
        } else {
            Client::open(info)
        }
        .map_err(|error| {
            Error::invalid(format!("cannot connect to {shown} as configured")).with_cause(error)
        })?;
        Ok(Target { client, shown, db })
    }
}

fn settled(info: ConnectionInfo, tls: &Tls) -> ConnectionInfo {
    let redis = info
        .redis_settings()
        .clone()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("rollcall", env!("CARGO_PKG_VERSION"));
    let tcp = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let tcp = tcp.set_user_timeout(TCP_USER_TIMEOUT);
    let addr = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure,
            tls_params,
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure: insecure || tls.reject_unauthorized == Some(false),
            tls_params,
        },
        other => other,
    };
    info.set_addr(addr)
        .set_redis_settings(redis)
        .set_tcp_settings(tcp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        let target = Target::parse("redis://user:hush@localhost:1/2", &Tls::default()).unwrap();
        assert_eq!(target.shown, "localhost:1");
        for bad in [
            "redis://user:hush@/x",
            "redis://u:hush@h/notanumber",
            "hush://hush@x",
        ] {
            let error = Target::parse(bad, &Tls::default()).err().unwrap();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(!format!("{error:?}").contains("hush"), "{error:?}");
        }
    }
}
