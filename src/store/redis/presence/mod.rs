//! Presence on Redis. `rooms.rs` has the steps within a room that all layouts share, with
//! heartbeats (`heartbeat.rs`, `patches.rs`, `patch.rs`) and the stored form of states (`states.rs`). `layout.rs`
//! has the keys that layouts add to these steps. `v1.rs` and `slotted/` combine the steps to
//! operations. `open.rs` chooses one of them when it opens the store.

mod batch;
pub mod clock;
pub mod fields;
pub mod heartbeat;
pub mod layout;
mod patch;
mod patches;
mod read;
pub mod rooms;
pub mod slotted;
pub mod states;
pub mod v1;
