//! Rollcall: presence, channel metadata and locks for realtime servers, on Redis.
//!
//! Dependencies point inwards: `node` → `client` → capabilities (`presence`, `heartbeat`, `expiry`,
//! `metadata`, `lock`) → `store` → `model`. Without the feature `node`, the crate has no Node-API
//! symbols.

pub mod client;
pub mod expiry;
pub mod failpoints;
pub mod heartbeat;
pub mod in_flight;
pub mod keys;
pub mod liveness;
pub mod lock;
pub mod metadata;
pub mod metrics;
pub mod model;
pub mod offload;
pub mod options;
pub mod pace;
pub mod pause;
pub mod presence;
pub mod store;

#[cfg(feature = "node")]
mod node;
