//! The bounded queue of heartbeats that wait for the next batch (spec 5.4).

use super::{Outcome, Request, Waiting};
use crate::model::error::{Code, Error};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    most: usize,
}

impl Queue {
    pub fn new(most: usize) -> Self {
        Queue {
            waiting: VecDeque::new(),
            most,
        }
    }

    /// Takes requests in; those for which there is no room come back refused.
    pub fn push(&mut self, mut requests: Vec<Request>, since: Instant) -> Vec<(u64, Outcome)> {
        let room = self.most.saturating_sub(self.waiting.len());
        let refused = requests.split_off(room.min(requests.len()));
        self.waiting.extend(
            requests
                .into_iter()
                .map(|request| Waiting { request, since }),
        );
        refused
            .into_iter()
            .map(|request| (request.ticket, Err(Box::new(self.full()))))
            .collect()
    }

    /// Puts back what was taken but has to wait: before everything that came later. They have
    /// been counted against the bound before.
    pub fn put_back(&mut self, waiting: Vec<Waiting>) {
        for waiting in waiting.into_iter().rev() {
            self.waiting.push_front(waiting);
        }
    }

    pub fn take(&mut self, most: usize) -> Vec<Waiting> {
        let n = most.min(self.waiting.len());
        let taken = self.waiting.drain(..n).collect();
        // A burst must not keep its memory for ever.
        if self.waiting.is_empty() && self.waiting.capacity() > 16 * 1024 {
            self.waiting = VecDeque::new();
        }
        taken
    }

    /// Takes those that have waited that long. The queue is in order of arrival but for what was
    /// put back in front, which is older.
    pub fn take_older(&mut self, than: Duration) -> Vec<Waiting> {
        let n = self
            .waiting
            .iter()
            .take_while(|waiting| waiting.since.elapsed() >= than)
            .count();
        self.take(n)
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.since)
    }

    fn full(&self) -> Error {
        Error::new(
            Code::Overloaded,
            format!(
                "{} heartbeats are waiting already, the limit is {} (limits.maxQueue); \
                 the server is slower than the heartbeats come, send fewer",
                self.waiting.len(),
                self.most
            ),
        )
    }
}
