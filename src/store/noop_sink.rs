//! A sink for tests that listen to nothing.

use super::{ConnectionState, EventSink, Feed, LogLevel, lock::LockCall};

pub(crate) struct NoopSink;

impl EventSink for NoopSink {
    fn event(&self, _: Feed, _: &str) -> u64 {
        0
    }
    fn gap(&self) {}
    fn malformed(&self) {}
    fn expired(&self) {}
    fn state(&self, _: ConnectionState, _: &str) {}
    fn log(&self, _: LogLevel, _: &str) {}
    fn lock_call(&self, _: LockCall) {}
}
