//! The changes that wait, by channel: each channel has its own queue and its own task, so that a hot
//! one does not hold up the others; all together are bounded.

use super::settings::Settings;
use crate::model::{
    error::{Code, Error, Result},
    metadata::{Channel, change::Change, response::Response},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// What a change is answered with.
pub(super) type Answer = oneshot::Sender<Result<Response>>;

/// A change that waits for its outcome, in a queue or on its way to the store.
pub(super) struct Waiting {
    pub change: Change,
    pub since: Instant,
    answer: Answer,
    held: Held,
}

impl Waiting {
    pub fn answer_with(self, result: Result<Response>) {
        // Before the answer: who gets it may ask for the next change at once.
        drop(self.held);
        // Who has gone needs no answer.
        let _ = self.answer.send(result);
    }
}

/// The changes that are not answered, and their bytes: the bounds cover those on their way, too.
#[derive(Default)]
struct Counts {
    changes: AtomicUsize,
    bytes: AtomicUsize,
}

/// Counts a change until it is dropped.
struct Held {
    counts: Arc<Counts>,
    bytes: usize,
}

impl Held {
    fn new(counts: &Arc<Counts>, bytes: usize) -> Held {
        counts.changes.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        Held {
            counts: counts.clone(),
            bytes,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.counts.changes.fetch_sub(1, Ordering::Relaxed);
        self.counts.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
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
    counts: Arc<Counts>,
    most_waiting: usize,
    most_bytes: usize,
    most_in_group: usize,
}

impl Queues {
    pub fn new(settings: &Settings) -> Self {
        Queues {
            channels: HashMap::new(),
            counts: Arc::default(),
            most_waiting: settings.most_waiting,
            most_bytes: settings.most_waiting_bytes,
            most_in_group: settings.most_in_group,
        }
    }

    /// Takes a change in. Says whether it is the first, so that the channel needs a task.
    pub fn push(&mut self, channel: &Channel, change: Change, answer: Answer) -> Result<bool> {
        let changes = self.len();
        let bytes = self.counts.bytes.load(Ordering::Relaxed);
        if changes >= self.most_waiting {
            return Err(full(format!(
                "{changes} changes of metadata are waiting already, the limit is {} (limits.maxQueue)",
                self.most_waiting
            )));
        }
        if bytes + change.bytes > self.most_bytes && changes > 0 {
            return Err(full(format!(
                "changes of metadata with {bytes} bytes are waiting already, the limit is {} bytes \
                 (eight times limits.maxMetadataRecordBytes)",
                self.most_bytes
            )));
        }
        let waiting = Waiting {
            since: Instant::now(),
            answer,
            held: Held::new(&self.counts, change.bytes),
            change,
        };
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

    /// Ends the channel's queue if nothing is left in it.
    pub fn end_if_empty(&mut self, channel: &Channel) -> bool {
        let is_empty = self.channels.get(channel).is_none_or(VecDeque::is_empty);
        if is_empty {
            self.channels.remove(channel);
        }
        is_empty
    }

    /// Takes out what is to be done next, and what has waited for longer than `queue_timeout`.
    pub fn next(&mut self, channel: &Channel, queue_timeout: Duration) -> Next {
        let late = self.late(channel, queue_timeout);
        let most = self.most_in_group;
        let group = self
            .channels
            .get_mut(channel)
            .map(|queue| queue.drain(..most.min(queue.len())).collect());
        Next {
            group: group.unwrap_or_default(),
            late,
        }
    }

    /// Takes out what has waited for longer than `queue_timeout`.
    pub fn late(&mut self, channel: &Channel, queue_timeout: Duration) -> Vec<Waiting> {
        let Some(queue) = self.channels.get_mut(channel) else {
            return Vec::new();
        };
        let late = queue
            .iter()
            .take_while(|waiting| waiting.since.elapsed() >= queue_timeout)
            .count();
        queue.drain(..late).collect()
    }

    /// Puts back what was taken but has to wait: before everything that came later.
    pub fn put_back(&mut self, channel: &Channel, waiting: Vec<Waiting>) {
        let queue = self.channels.entry(channel.clone()).or_default();
        for waiting in waiting.into_iter().rev() {
            queue.push_front(waiting);
        }
    }

    /// Drops the channel's queue: nobody serves it any more.
    pub fn abandon(&mut self, channel: &Channel) {
        self.channels.remove(channel);
    }

    /// Changes that are not answered.
    pub fn len(&self) -> usize {
        self.counts.changes.load(Ordering::Relaxed)
    }
}

fn full(what: String) -> Error {
    Error::new(
        Code::Overloaded,
        format!("{what}; the server is slower than the changes come, send fewer"),
    )
}
