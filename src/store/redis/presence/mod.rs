//! Presence on Redis: joins, leaves and snapshots (`rooms.rs`), heartbeats (`heartbeat.rs`, `patch.rs`), and
//! states as they are stored (`states.rs`). `slotted/` has what takes several steps on the layout of that
//! name.

pub mod clock;
pub mod heartbeat;
mod patch;
pub mod rooms;
pub mod slotted;
pub mod states;
