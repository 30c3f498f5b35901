//! Plain types that all other modules use: ids, states, events, errors, limits. No I/O, no async
//! code, nothing specific to Redis or Node.js.

pub mod codec;
pub mod display;
pub mod error;
pub mod event;
pub mod ids;
pub mod json;
pub mod limits;
pub mod lock;
pub mod metadata;
pub mod presence;
pub mod state;

pub use error::{Code, Error, Result};
