//! Plain types that every other module speaks: ids, states, events, errors, limits. No I/O, no
//! async, nothing of Redis or Node.

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
