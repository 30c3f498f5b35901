//! Waiting reads, by channel. Reads that arrive while a record is being read share its next read,
//! so that many readers of a large record need only one copy of its text at a time.

use crate::model::{
    error::Result,
    metadata::{Channel, response::Response},
};
use std::collections::HashMap;
use tokio::sync::oneshot;

pub(super) type Reader = oneshot::Sender<Result<Response>>;

/// A channel has an entry as long as its task runs.
#[derive(Default)]
pub(super) struct Reads(HashMap<Channel, Vec<Reader>>);

impl Reads {
    /// Adds a reader. Returns whether the channel needs a task, because it has none yet.
    pub fn push(&mut self, channel: &Channel, reader: Reader) -> bool {
        match self.0.get_mut(channel) {
            Some(readers) => {
                readers.push(reader);
                false
            }
            None => {
                self.0.insert(channel.clone(), vec![reader]);
                true
            }
        }
    }

    /// Takes the waiting readers.
    pub fn take(&mut self, channel: &Channel) -> Vec<Reader> {
        self.0
            .get_mut(channel)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Removes the channel's entry if no reader is waiting.
    pub fn end_if_empty(&mut self, channel: &Channel) -> bool {
        let is_empty = self.0.get(channel).is_none_or(Vec::is_empty);
        if is_empty {
            self.0.remove(channel);
        }
        is_empty
    }

    /// Drops the waiting readers, because the channel's task has ended.
    pub fn abandon(&mut self, channel: &Channel) {
        self.0.remove(channel);
    }
}
