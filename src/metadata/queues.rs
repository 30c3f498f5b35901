//! The changes that wait, by channel: each channel has its own queue and its own task, so that a hot
//! one does not hold up the others; all together are bounded.

use super::Settings;
use crate::model::{
    error::{Code, Error, Result},
    metadata::{Channel, change::Change},
};
use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// A change that waits for its outcome.
pub(super) struct Waiting {
    pub change: Change,
    pub since: Instant,
    pub answer: oneshot::Sender<Result<String>>,
}

impl Waiting {
    pub fn answer_with(self, result: Result<String>) {
        // Who has gone needs no answer.
        let _ = self.answer.send(result);
    }
}

/// What is to be done next on a channel.
pub(super) struct Next {
    pub group: Vec<Waiting>,
    /// These have waited too long.
    pub late: Vec<Waiting>,
}

pub(super) struct Queues {
    /// A channel is in here as long as its task runs.
    channels: HashMap<Channel, VecDeque<Waiting>>,
    waiting: usize,
    bytes: usize,
    most_waiting: usize,
    most_bytes: usize,
    most_in_group: usize,
    patience: Duration,
}

impl Queues {
    pub fn new(settings: &Settings) -> Self {
        Queues {
            channels: HashMap::new(),
            waiting: 0,
            bytes: 0,
            most_waiting: settings.most_waiting,
            most_bytes: settings.most_waiting_bytes,
            most_in_group: settings.most_in_group,
            patience: settings.patience,
        }
    }

    /// Takes a change in. Says whether it is the first, so that the channel needs a task.
    pub fn push(&mut self, channel: &Channel, waiting: Waiting) -> Result<bool> {
        if self.waiting >= self.most_waiting {
            return Err(full(format!(
                "{} changes of metadata are waiting already, the limit is {} (limits.maxQueue)",
                self.waiting, self.most_waiting
            )));
        }
        let bytes = self.bytes + waiting.change.bytes;
        if bytes > self.most_bytes && self.waiting > 0 {
            return Err(full(format!(
                "changes of metadata with {} bytes are waiting already, the limit is {} bytes \
                 (eight times limits.maxMetadataRecordBytes)",
                self.bytes, self.most_bytes
            )));
        }
        self.waiting += 1;
        self.bytes = bytes;
        match self.channels.get_mut(channel) {
            Some(queue) => {
                queue.push_back(waiting);
                Ok(false)
            }
            None => {
                self.channels.insert(channel.clone(), [waiting].into());
                Ok(true)
            }
        }
    }

    /// Takes out what is to be done next; with nothing left the channel's queue ends.
    pub fn next(&mut self, channel: &Channel) -> Option<Next> {
        let queue = self.channels.get_mut(channel)?;
        if queue.is_empty() {
            self.channels.remove(channel);
            return None;
        }
        let late = queue
            .iter()
            .take_while(|waiting| waiting.since.elapsed() >= self.patience)
            .count();
        let late: Vec<Waiting> = queue.drain(..late).collect();
        let group: Vec<Waiting> = queue.drain(..self.most_in_group.min(queue.len())).collect();
        self.uncount(late.iter().chain(&group));
        Some(Next { group, late })
    }

    /// Puts back what was taken but has to wait: before everything that came later.
    pub fn put_back(&mut self, channel: &Channel, waiting: Vec<Waiting>) {
        self.waiting += waiting.len();
        self.bytes += waiting.iter().map(|w| w.change.bytes).sum::<usize>();
        let queue = self.channels.entry(channel.clone()).or_default();
        for waiting in waiting.into_iter().rev() {
            queue.push_front(waiting);
        }
    }

    /// Drops the channel's queue: nobody serves it any more.
    pub fn abandon(&mut self, channel: &Channel) {
        if let Some(queue) = self.channels.remove(channel) {
            self.uncount(queue.iter());
        }
    }

    pub fn len(&self) -> usize {
        self.waiting
    }

    fn uncount<'a>(&mut self, gone: impl Iterator<Item = &'a Waiting>) {
        for waiting in gone {
            self.waiting -= 1;
            self.bytes -= waiting.change.bytes;
        }
    }
}

fn full(what: String) -> Error {
    Error::new(
        Code::Overloaded,
        format!("{what}; the server is slower than the changes come, send fewer"),
    )
}
