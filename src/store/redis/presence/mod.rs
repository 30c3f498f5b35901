//! Presence on Redis. `rooms.rs` has the steps that every layout takes within a room, with heartbeats
//! (`heartbeat.rs`, `patch.rs`) and states as they are stored (`states.rs`). `layout.rs` has the
//! keys that layouts add to these steps. `v1.rs` and `slotted/` make the
//! operations of them; `open.rs` chooses one when it opens the store.

pub mod clock;
pub mod fields;
pub mod heartbeat;
pub mod layout;
mod patch;
mod read;
pub mod rooms;
pub mod slotted;
pub mod states;
pub mod v1;
