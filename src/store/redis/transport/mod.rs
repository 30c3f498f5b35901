//! Connections for commands: to one server (`link/`), or to each master of a cluster (`cluster/`). What
//! leads to a server (`url.rs`, `config.rs`, `server.rs`, `tls/`), and what its errors mean (`errors.rs`).

pub mod cluster;
pub mod commands;
pub mod config;
pub mod errors;
pub mod link;
pub mod outage;
pub mod peers;
pub mod scan;
pub mod server;
pub mod tls;
pub mod url;
