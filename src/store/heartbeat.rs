//! What heartbeats ask of a store.

use super::{Beaten, Exception, FullBeat, Located, PlainBeat};
use crate::model::error::Result;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// The atomic operations of heartbeats.
pub trait HeartbeatStore: Send + Sync + 'static {
    /// Refreshes a batch of connections (spec 3.3), which must be sorted by room. Safe to run
    /// twice.
    fn beat_batch<'a>(
        &'a self,
        beats: &'a [PlainBeat],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<Exception>>>;

    /// Whether a batch is carried out room by room: then one that is large costs the store less.
    fn beats_by_room(&self) -> bool {
        false
    }

    /// Refreshes connections one by one, with all that a heartbeat can bring, in order.
    fn beat_full<'a>(
        &'a self,
        beats: &'a [FullBeat],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Vec<Result<Beaten>>>;

    /// Where connections are, each for itself; in order, `None` for the unknown.
    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>>;
}
