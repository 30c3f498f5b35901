//! The heartbeats of one connection in flight, with what is known of the connection.

use super::request::{Group, Waiting};
use crate::{
    model::{
        error::Error,
        presence::{Epoch, Place},
        state::State,
    },
    store::{HeartbeatUpdate, StateWrite, Stored},
};
use foldhash::HashMap;
use parking_lot::Mutex;
use std::sync::Arc;

/// A group in flight.
pub(super) struct Work {
    pub group: Group,
    pub epoch: Option<Epoch>,
    pub place: Option<Place>,
    /// The state that patches are merged into, as it is stored.
    pub base: Option<Stored>,
    /// The epoch that the directory knew; `None` once the store has contradicted the directory.
    pub expected_epoch: Option<Epoch>,
    /// The merged state, if it differs from the base.
    pub next: Option<State>,
    /// For each waiting heartbeat: whether its patch changed the state, or the error that refuses
    /// it.
    pub verdicts: Vec<Verdict>,
    pub open_tickets: OpenTickets,
}

/// The tickets of a batch that are not settled, with the bytes of their patches. They are settled
/// when the batch panics or passes its deadline.
pub(super) type OpenTickets = Arc<Mutex<HashMap<u64, usize>>>;

/// The result of merging one patch.
#[derive(Clone)]
pub(super) enum Verdict {
    Accepted { changed: bool },
    Refused(Error),
}

impl Work {
    pub fn new(group: Group, open_tickets: OpenTickets) -> Work {
        Work {
            epoch: group.epoch(),
            place: None,
            base: None,
            expected_epoch: None,
            next: None,
            verdicts: Vec::new(),
            open_tickets,
            group,
        }
    }

    /// Splits off the heartbeats with an epoch that may be older than the stored one. They are sent
    /// separately, before the others. If they were combined with newer heartbeats, a heartbeat of a
    /// former owner would be accepted.
    pub fn split_older(&mut self, newest: Epoch) -> Option<Work> {
        let is_older = |waiting: &Waiting| waiting.request.epoch.is_some_and(|e| e < newest);
        if self.group.waiting.iter().all(is_older) {
            return None;
        }
        let waiting = std::mem::take(&mut self.group.waiting);
        let (older, others): (Vec<Waiting>, Vec<Waiting>) = waiting.into_iter().partition(is_older);
        self.group.waiting = others;
        self.epoch = self.group.epoch();
        let group = Group {
            conn: self.group.conn.clone(),
            waiting: older,
        };
        (!group.waiting.is_empty()).then(|| Work::new(group, self.open_tickets.clone()))
    }

    pub fn heartbeat(&self) -> Option<HeartbeatUpdate> {
        Some(HeartbeatUpdate {
            conn: self.group.conn.clone(),
            place: self.place.clone()?,
            epoch: self.epoch,
            write: self.group.has_patch().then(|| StateWrite {
                base: self.base.clone().unwrap_or_else(Stored::none),
                next: self.next.clone(),
                expected_epoch: self.expected_epoch,
            }),
        })
    }
}
