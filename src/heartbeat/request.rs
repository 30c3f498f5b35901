//! Heartbeats as they are asked for, and who is told what came of them.

use crate::model::{
    error::Error,
    presence::{Epoch, HeartbeatResult},
    state::Patch,
};
use std::sync::Arc;
use tokio::time::Instant;

/// A connection id within a text that many requests share: no allocation for each.
#[derive(Clone, Debug)]
pub struct ConnId {
    text: Arc<str>,
    start: u32,
    end: u32,
}

impl ConnId {
    /// The part of `text` between two bytes, which must be at characters' bounds.
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

/// One heartbeat as a caller asked for it.
#[derive(Debug)]
pub struct Request {
    pub conn: ConnId,
    pub epoch: Option<Epoch>,
    pub patch: Option<Box<Patch>>,
    /// Names the caller when it is settled.
    pub ticket: u64,
}

impl Request {
    /// How much of the memory for patches it takes, in bytes.
    pub(super) fn patch_bytes(&self) -> usize {
        self.patch.as_ref().map_or(0, |patch| patch.size())
    }
}

/// A request with the time at which it came.
#[derive(Debug)]
pub(super) struct Waiting {
    pub request: Request,
    pub since: Instant,
}

/// What came of a request. Errors are boxed: there are few, and results are moved around a lot.
pub type Outcome = std::result::Result<HeartbeatResult, Box<Error>>;

/// Who is told what came of heartbeats. Called once for every request.
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
