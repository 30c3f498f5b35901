//! Connections for commands: to one server (`link/`), or to each master of a cluster (`cluster/`).
//! `config.rs` and `url.rs` parse the target (`address.rs`, `access.rs`). `server.rs` and `tls/`
//! connect. `errors.rs` maps errors of servers.

pub mod access;
pub mod address;
pub mod cluster;
pub mod commands;
pub mod config;
pub mod errors;
pub mod info;
pub mod link;
pub mod outage;
pub mod peers;
pub mod scan;
pub mod server;
pub mod tls;
pub mod url;
