//! Waiting changes, by channel. Each channel has its own queue and task, so that a busy channel
//! does not delay the others. The limits apply to all channels together.

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

/// The sender for a change's answer.
pub(super) type Answer = oneshot::Sender<Result<Response>>;

/// A change that is not answered: in a queue or in flight.
pub(super) struct Waiting {
    pub change: Change,
    pub since: Instant,
    answer: Answer,
    held: Held,
}

impl Waiting {
    pub fn answer_with(self, result: Result<Response>) {
        // Before the answer: the caller that gets it may make the next change at once.
        drop(self.held);
        // A caller that has gone away needs no answer.
        let _ = self.answer.send(result);
    }
}

/// The number of changes that are not answered, and their bytes. Includes changes in flight.
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

/// The next changes of a channel.
pub(super) struct Next {
    pub group: Vec<Waiting>,
    /// Changes that have waited too long.
    pub late: Vec<Waiting>,
}

pub(super) struct Queues {
    /// A channel has an entry as long as its task runs.
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

    /// Queues a change. Returns whether the channel needs a task, because it has none yet.
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

    /// Removes the channel's queue if it is empty.
    pub fn end_if_empty(&mut self, channel: &Channel) -> bool {
        let is_empty = self.channels.get(channel).is_none_or(VecDeque::is_empty);
        if is_empty {
            self.channels.remove(channel);
        }
        is_empty
    }

    /// Takes the next changes, and those that have waited for longer than `queue_timeout`.
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

    /// Takes the changes that have waited for longer than `queue_timeout`.
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

    /// Puts taken changes back, before all that arrived later.
    pub fn put_back(&mut self, channel: &Channel, waiting: Vec<Waiting>) {
        let queue = self.channels.entry(channel.clone()).or_default();
        for waiting in waiting.into_iter().rev() {
            queue.push_front(waiting);
        }
    }

    /// Drops the channel's queue, because its task has ended.
    pub fn abandon(&mut self, channel: &Channel) {
        self.channels.remove(channel);
    }

    /// The number of changes that are not answered.
    pub fn len(&self) -> usize {
        self.counts.changes.load(Ordering::Relaxed)
    }
}

fn full(what: String) -> Error {
    Error::new(
        Code::Overloaded,
        format!("{what}; the server cannot keep up, send fewer changes"),
    )
}
