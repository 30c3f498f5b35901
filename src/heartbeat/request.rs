//! Heartbeat requests, and the sink for their results.

use crate::model::{
    error::Error,
    presence::{Epoch, HeartbeatResult},
    state::Patch,
};
use std::sync::Arc;
use tokio::time::Instant;

/// A connection id within a text that many requests share, so that no id needs an allocation.
#[derive(Clone, Debug)]
pub struct ConnId {
    text: Arc<str>,
    start: u32,
    end: u32,
}

impl ConnId {
    /// The part of `text` between two byte offsets, which must be character boundaries.
    pub fn within(text: &Arc<str>, start: usize, end: usize) -> Self {
        let bound = |at: usize| u32::try_from(at.min(text.len())).unwrap_or(u32::MAX);
        ConnId {
            text: text.clone(),
            start: bound(start),
            end: bound(end),
        }
    }
}

impl From<&str> for ConnId {
    fn from(text: &str) -> Self {
        ConnId::within(&text.into(), 0, text.len())
    }
}

impl std::ops::Deref for ConnId {
    type Target = str;

    fn deref(&self) -> &str {
        self.text
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// One heartbeat as its caller requested it.
#[derive(Debug)]
pub struct Request {
    pub conn: ConnId,
    pub epoch: Option<Epoch>,
    pub patch: Option<Box<Patch>>,
    /// Identifies the caller when the request is settled.
    pub ticket: u64,
}

impl Request {
    /// The bytes of the patch, which count against the queue's bound.
    pub(super) fn patch_bytes(&self) -> usize {
        self.patch.as_ref().map_or(0, |patch| patch.size())
    }
}

/// A request and its time of arrival.
#[derive(Debug)]
pub(super) struct Waiting {
    pub request: Request,
    pub since: Instant,
}

/// The result of a request. Errors are boxed because they are rare and results are moved often.
pub type Outcome = std::result::Result<HeartbeatResult, Box<Error>>;

/// Receives the results of heartbeats. Called once for each request.
pub trait ResultSink: Send + Sync + 'static {
    fn settle(&self, results: Vec<(u64, Outcome)>);
}

/// All heartbeats of one connection in a batch, in the order of the calls.
#[derive(Debug)]
pub(super) struct Group {
    pub conn: Arc<str>,
    pub waiting: Vec<Waiting>,
}

impl Group {
    /// The highest epoch that any caller gave (spec 5.2).
    pub fn epoch(&self) -> Option<Epoch> {
        self.waiting
            .iter()
            .filter_map(|waiting| waiting.request.epoch)
            .max()
    }

    pub fn has_patch(&self) -> bool {
        self.waiting
            .iter()
            .any(|waiting| waiting.request.patch.is_some())
    }
}
