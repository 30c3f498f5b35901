//! The store on Redis, on one server or a cluster. `open.rs` connects and constructs the store of
//! `store.rs`. `transport/` sends commands, `scripts/` calls scripts, `pubsub/` receives events.
//! The capabilities are `presence/`, `expiry/`, `metadata/` and `locks/`; `nodes.rs` has
//! the leases of nodes.

mod expiry;
mod locks;
mod metadata;
mod nodes;
mod open;
pub mod presence;
mod pubsub;
pub mod scripts;
mod store;
pub mod transport;

pub use open::{PubSub, Settings, StorageOptions};
pub use store::RedisStore;
