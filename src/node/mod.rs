//! The Node.js binding. It only converts arguments and results. JavaScript owns the Promises: each
//! call has a number, and results are returned later under that number, many at a time
//! (`inbox.rs`). Only the façade in `js/` uses this interface.

mod client;
mod heartbeats;
mod inbox;
mod keys;
mod liveness;
mod locks;
mod logging;
mod messages;
mod metadata;

use crate::model::error::Code;
use napi_derive::napi;
use once_cell::sync::Lazy;
use tokio::runtime::{Builder, Runtime};

/// One runtime for all clients of the process, created by the first client, so that a client needs
/// no thread of its own. It has one worker, because moving tasks between workers costs more than it
/// gains here: the tasks only move small messages, and a batch grows while the worker is busy with
/// the previous one.
static RUNTIME: Lazy<Result<Runtime, String>> = Lazy::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("rollcall")
        .enable_all()
        .build()
        .map_err(|error| error.to_string())
});

fn runtime() -> napi::Result<&'static Runtime> {
    RUNTIME.as_ref().map_err(|error| {
        napi::Error::from_reason(format!(
            "the thread for Rollcall could not be started: {error}"
        ))
    })
}

/// All error codes, so that a test can compare the façade's table with the core's.
#[napi]
#[cfg_attr(
    test,
    allow(dead_code, reason = "exported by the macro, which tests leave out")
)]
pub fn error_codes() -> Vec<&'static str> {
    Code::ALL.iter().map(|code| code.as_str()).collect()
}

/// Activates the named failpoints and deactivates all others, in the tests' own build.
#[cfg(feature = "test-faults")]
#[napi]
#[cfg_attr(
    test,
    allow(dead_code, reason = "exported by the macro, which tests leave out")
)]
pub fn test_defences_off(names: Vec<String>) -> napi::Result<()> {
    crate::failpoints::activate(names.iter().map(String::as_str)).map_err(napi::Error::from_reason)
}

/// Selects the step in which the process crashes, in the tests' own build. `sent`: one bit for each
/// call of the step that is sent before.
#[cfg(feature = "test-faults")]
#[napi]
#[cfg_attr(
    test,
    allow(dead_code, reason = "exported by the macro, which tests leave out")
)]
pub fn test_crash_in(step: String, sent: u32) -> napi::Result<()> {
    crate::failpoints::crash_in(&step, sent).map_err(napi::Error::from_reason)
}
