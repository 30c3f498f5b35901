//! The credentials and settings of connections to servers, whatever their address.

use crate::store::redis::transport::{tls::TlsContext, url::Login};
use redis::{ProtocolVersion, RedisConnectionInfo};
use std::sync::Arc;

/// User, password, database and TLS for connections to a server, apart from its address.
#[derive(Clone)]
pub struct Access {
    pub redis: RedisConnectionInfo,
    pub tls: Option<Arc<TlsContext>>,
}

impl Access {
    pub fn new(login: &Login, db: i64, tls: Option<Arc<TlsContext>>) -> Access {
        let mut redis = RedisConnectionInfo::default()
            .set_db(db)
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("rollcall", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &login.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &login.password {
            redis = redis.set_password(password);
        }
        Access { redis, tls }
    }
}
