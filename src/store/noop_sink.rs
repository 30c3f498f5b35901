//! A sink for tests that do not need events.

use super::{EventSink, Feed, StoreNotifications};

pub(crate) struct NoopSink;

impl EventSink for NoopSink {
    fn event(&self, _: Feed, _: &str) -> u64 {
        0
    }
    fn gap(&self) {}
}

impl StoreNotifications for NoopSink {}
