//! The changes of one commit. They are applied one after the other, each with its own outcome.

use super::queues::Waiting;
use crate::{
    in_flight::Room,
    model::{
        error::{Error, Result},
        metadata::{
            Channel,
            change::{ChangedItems, Contents, LockCheck, LockState, Verdict},
            response::{Response, View},
        },
    },
    store::metadata::Write,
};
use std::{any::Any, sync::Arc};

/// Each change is answered with the whole record. A group of changes of large records is cut off
/// here, so that the texts of the answers do not exhaust the memory. This also bounds the arguments
/// of the commit: each time that the commit inserts adds one argument, and belongs to an item of
/// more than 40 bytes.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Group {
    waiting: Vec<Waiting>,
    /// The result of each change, if the stored record is the one that the changes were applied to.
    verdicts: Vec<Verdict>,
    write: Option<Write>,
    /// Bytes of the records in the answers. A record that several answers share counts once.
    bytes: usize,
}

impl Group {
    pub fn new(waiting: Vec<Waiting>) -> Self {
        Group {
            waiting,
            verdicts: Vec::new(),
            write: None,
            bytes: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the records in the answers, and of the events.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of changes that modify the record.
    pub fn changes(&self) -> u64 {
        self.write
            .as_ref()
            .map_or(0, |write| write.events.len() as u64)
    }

    /// Applies the changes to the record, in order. Returns those for which there is no room.
    pub fn apply(&mut self, channel: &Channel, contents: &mut Contents) -> Vec<Waiting> {
        self.verdicts.clear();
        self.bytes = 0;
        let mut events = Vec::new();
        let mut last: Option<(View, Option<u64>)> = None;
        let mut counted: Option<View> = None;
        let mut all = ChangedItems::Items(Vec::new());
        for waiting in &self.waiting {
            let mut verdict = waiting.change.apply(channel, contents);
            if let Verdict::Changed(view, event, touched) = &mut verdict {
                all = together(all, std::mem::replace(touched, ChangedItems::All));
                self.bytes += event.head.len();
                events.push(std::mem::take(event));
                last = Some((view.clone(), waiting.change.ttl_ms));
            }
            // Answers share a record that did not change between them.
            if let Some(view) = verdict.view()
                && counted.as_ref().is_none_or(|counted| counted != view)
            {
                self.bytes += view.bytes();
                counted = Some(view.clone());
            }
            self.verdicts.push(verdict);
            if self.bytes > MAX_ANSWER_BYTES {
                break;
            }
        }
        self.write = last.map(|(view, ttl_ms)| Write {
            items: view.items,
            total: view.total,
            major: view.major,
            events,
            ttl_ms,
            touched: all,
        });
        self.waiting.split_off(self.verdicts.len())
    }

    /// The write of this commit, if there is one.
    pub fn write(&self) -> Option<&Write> {
        self.write.as_ref()
    }

    /// The locks that must be held, without duplicates.
    pub fn locks(&self) -> Vec<&LockCheck> {
        let mut locks: Vec<&LockCheck> = Vec::new();
        for lock in self.waiting.iter().filter_map(|w| w.change.lock.as_ref()) {
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        locks
    }

    /// Removes and fails the changes that a lock does not allow. `refused` has indices into
    /// [`Group::locks`].
    pub fn refuse(&mut self, refused: &[(usize, LockState)]) {
        let locks = self.locks();
        let states: Vec<(LockCheck, LockState)> = refused
            .iter()
            .filter_map(|(place, state)| Some(((*locks.get(*place)?).clone(), *state)))
            .collect();
        for waiting in std::mem::take(&mut self.waiting) {
            let lock = waiting.change.lock.as_ref();
            match states.iter().find(|(refused, _)| Some(refused) == lock) {
                None => self.waiting.push(waiting),
                Some((lock, state)) => {
                    let error = lock.refusal(*state);
                    waiting.answer_with(Err(error));
                }
            }
        }
    }

    /// Answers each change with its outcome.
    pub fn answer(self, channel: &Channel, now_ms: u64, updated: &str, mut room: Room) {
        room.resize(self.bytes);
        let room: Arc<dyn Any + Send + Sync> = Arc::new(room);
        let updated: Arc<str> = updated.into();
        let response = |view| Response {
            view,
            channel: channel.clone(),
            now_ms,
            updated: updated.clone(),
            room: Some(room.clone()),
        };
        for (waiting, verdict) in self.waiting.into_iter().zip(self.verdicts) {
            waiting.answer_with(outcome(verdict, response));
        }
    }

    /// Fails all changes with one error.
    pub fn fail(self, error: &Error) {
        for waiting in self.waiting {
            waiting.answer_with(Err(error.clone()));
        }
    }
}

/// The items that two successive changes have touched.
fn together(first: ChangedItems, second: ChangedItems) -> ChangedItems {
    match (first, second) {
        (ChangedItems::Items(mut items), ChangedItems::Items(more)) => {
            items.extend(more);
            ChangedItems::Items(items)
        }
        _ => ChangedItems::All,
    }
}

fn outcome(verdict: Verdict, response: impl Fn(View) -> Response) -> Result<Response> {
    match verdict {
        Verdict::Changed(view, ..) | Verdict::Unchanged(view) => Ok(response(view)),
        Verdict::Refused(mut error, current) => {
            error.current = current.map(|view| Arc::new(response(view)));
            Err(error)
        }
    }
}
