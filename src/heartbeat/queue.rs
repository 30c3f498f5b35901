//! The bounded queue of heartbeats that wait for the next batch (spec 5.4). The bounds cover every
//! heartbeat that is not settled, wherever it is in the engine: in this queue, parked behind
//! another heartbeat of its connection, or in flight.

use super::request::{Outcome, Request, Waiting};
use crate::model::{
    error::{Code, Error},
    limits::Limits,
};
use std::collections::VecDeque;
use tokio::time::Instant;

/// Maximum of patch bytes that the engine holds, with the default `maxStateBytes`.
const MAX_PATCH_BYTES: usize = 64 * 1024 * 1024;
/// The bound always allows this many patches of the largest size.
const MIN_LARGEST_PATCHES: usize = 8;

/// Maximum of what the engine holds.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    pub heartbeats: usize,
    pub patch_bytes: usize,
}

impl From<&Limits> for QueueLimits {
    fn from(limits: &Limits) -> Self {
        let largest = limits.max_state_bytes.saturating_mul(MIN_LARGEST_PATCHES);
        QueueLimits {
            heartbeats: limits.max_queue,
            patch_bytes: MAX_PATCH_BYTES.max(largest),
        }
    }
}

pub(super) struct Queue {
    /// In order of arrival.
    waiting: VecDeque<Waiting>,
    /// The number of heartbeats that are not settled, and the bytes of their patches.
    held: usize,
    held_bytes: usize,
    limits: QueueLimits,
}

impl Queue {
    pub fn new(limits: QueueLimits) -> Self {
        Queue {
            waiting: VecDeque::new(),
            held: 0,
            held_bytes: 0,
            limits,
        }
    }

    /// Adds requests to the queue. Returns those that were refused because the queue is full.
    pub fn push(&mut self, requests: Vec<Request>, since: Instant) -> Vec<(u64, Outcome)> {
        let mut refused = Vec::new();
        self.waiting.reserve(
            requests
                .len()
                .min(self.limits.heartbeats.saturating_sub(self.held)),
        );
        for request in requests {
            let bytes = request.patch_bytes();
            if let Some(error) = self.refusal(bytes) {
                refused.push((request.ticket, Err(Box::new(error))));
                continue;
            }
            self.held += 1;
            self.held_bytes += bytes;
            self.waiting.push_back(Waiting { request, since });
        }
        refused
    }

    /// The error if there is no room for a heartbeat with a patch of this size. A single patch
    /// always fits.
    fn refusal(&self, bytes: usize) -> Option<Error> {
        let limits = &self.limits;
        let message = if self.held >= limits.heartbeats {
            format!(
                "{} heartbeats are not settled yet, the limit is {} (limits.maxQueue)",
                self.held, limits.heartbeats
            )
        } else if bytes > 0
            && self.held_bytes > 0
            && self.held_bytes.saturating_add(bytes) > limits.patch_bytes
        {
            format!(
                "patchState of {bytes} bytes does not fit: heartbeats with {} bytes of patches are not \
                 settled yet, the limit is {} bytes (64 MiB, or {MIN_LARGEST_PATCHES} times \
                 limits.maxStateBytes if that is more)",
                self.held_bytes, limits.patch_bytes
            )
        } else {
            return None;
        };
        Some(Error::new(
            Code::Overloaded,
            format!("{message}; the server cannot keep up, send fewer heartbeats"),
        ))
    }

    /// Releases the room of heartbeats that are settled, and of the bytes of their patches.
    pub fn release(&mut self, heartbeats: usize, bytes: usize) {
        self.held = self.held.saturating_sub(heartbeats);
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
    }

    pub fn take(&mut self, max: usize) -> Vec<Waiting> {
        let n = max.min(self.waiting.len());
        let taken = self.waiting.drain(..n).collect();
        // Free the memory of a burst.
        if self.waiting.is_empty() && self.waiting.capacity() > 16 * 1024 {
            self.waiting = VecDeque::new();
        }
        taken
    }

    /// Takes heartbeats that arrived at this time or before.
    pub fn take_until(&mut self, time: Instant) -> Vec<Waiting> {
        let n = self
            .waiting
            .iter()
            .take_while(|waiting| waiting.since <= time)
            .count();
        self.take(n)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the oldest arrived.
    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.since)
    }

    #[cfg(test)]
    pub fn held(&self) -> (usize, usize) {
        (self.held, self.held_bytes)
    }
}
