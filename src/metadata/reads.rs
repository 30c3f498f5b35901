//! Reads that wait, by channel: those that come while a record is being read share the next read of it,
//! so that many readers of one large record cost one text of it at a time.

use crate::model::{
    error::Result,
    metadata::{Channel, response::Response},
};
use std::collections::HashMap;
use tokio::sync::oneshot;

pub(super) type Reader = oneshot::Sender<Result<Response>>;

/// A channel is in here as long as its task runs.
#[derive(Default)]
pub(super) struct Reads(HashMap<Channel, Vec<Reader>>);

impl Reads {
    /// Takes a reader in. Says whether it is the first, so that the channel needs a task.
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

    /// Takes out those that wait.
    pub fn take(&mut self, channel: &Channel) -> Vec<Reader> {
        self.0
            .get_mut(channel)
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Ends the channel's task if nobody waits.
    pub fn end_if_empty(&mut self, channel: &Channel) -> bool {
        let is_empty = self.0.get(channel).is_none_or(Vec::is_empty);
        if is_empty {
            self.0.remove(channel);
        }
        is_empty
    }

    /// Drops those that wait: nobody serves them any more.
    pub fn abandon(&mut self, channel: &Channel) {
        self.0.remove(channel);
    }
}
