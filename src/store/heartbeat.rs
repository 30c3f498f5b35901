//! What heartbeats ask of a store.

use super::{BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Located};
use crate::model::error::Result;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// The atomic operations of heartbeats.
pub trait HeartbeatStore: Send + Sync + 'static {
    /// Refreshes a batch of connections (spec 3.3), which must be sorted by room. Safe to run
    /// twice.
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>>;

    /// Whether a batch is carried out room by room: then one that is large costs the store less.
    fn refreshes_by_room(&self) -> bool {
        false
    }

    /// Refreshes connections one by one, with all that a heartbeat can bring, in order.
    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>>;

    /// Where connections are, each for itself; in order, `None` for the unknown.
    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>>;
}
