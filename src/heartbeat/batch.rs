//! One batch: heartbeats of the same connection are combined (spec 5.2), and the connections are
//! sorted into those that one script call refreshes and those that need more.

use super::{Engine, Outcome, Waiting};
use crate::{
    model::{
        error::Error,
        presence::{Beat, Epoch},
    },
    presence::directory::{Directory, Look},
    store::PlainBeat,
};
use std::{collections::HashMap, sync::Arc};

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

/// A group that one entry of the batch script refreshes.
pub(super) struct Plain {
    pub beat: PlainBeat,
    pub waiting: OneOrMore,
}

/// Nearly always one: no allocation for it.
pub(super) enum OneOrMore {
    One(Waiting),
    More(Vec<Waiting>),
}

impl OneOrMore {
    fn push(&mut self, another: Waiting) {
        *self = match std::mem::replace(self, OneOrMore::More(Vec::new())) {
            OneOrMore::One(first) => OneOrMore::More(vec![first, another]),
            OneOrMore::More(mut more) => {
                more.push(another);
                OneOrMore::More(more)
            }
        };
    }
}

impl From<OneOrMore> for Vec<Waiting> {
    fn from(waiting: OneOrMore) -> Self {
        match waiting {
            OneOrMore::One(one) => vec![one],
            OneOrMore::More(more) => more,
        }
    }
}

#[derive(Default)]
pub(super) struct Batch {
    pub plain: Vec<Plain>,
    pub full: Vec<Group>,
}

impl Batch {
    pub fn sort(waiting: Vec<Waiting>, directory: &Directory) -> Batch {
        let mut batch = Batch {
            plain: Vec::with_capacity(waiting.len()),
            full: Vec::new(),
        };
        let mut strangers: HashMap<Arc<str>, Vec<Waiting>> = HashMap::new();
        let mut known: Vec<(PlainBeat, OneOrMore)> = Vec::with_capacity(waiting.len());
        directory.in_batch(|look| {
            for one in waiting {
                match look(&one.request.conn, known.len()) {
                    Look::First { conn, room, epoch } => {
                        known.push((PlainBeat { conn, room, epoch }, OneOrMore::One(one)));
                    }
                    Look::Again(index) => known[index].1.push(one),
                    Look::Unknown => match strangers.get_mut(&*one.request.conn) {
                        Some(more) => more.push(one),
                        None => {
                            strangers.insert((&*one.request.conn).into(), vec![one]);
                        }
                    },
                }
            }
        });
        for (beat, waiting) in known {
            if is_plain(&waiting, beat.epoch) {
                batch.plain.push(Plain { beat, waiting });
            } else {
                batch.full.push(Group {
                    conn: beat.conn,
                    waiting: waiting.into(),
                });
            }
        }
        batch.full.extend(
            strangers
                .into_iter()
                .map(|(conn, waiting)| Group { conn, waiting }),
        );
        // Rooms are one copy each in the directory, so the address is the room.
        batch
            .plain
            .sort_unstable_by_key(|plain| plain.beat.room.as_ptr().addr());
        batch
    }
}

fn is_plain(waiting: &OneOrMore, known: Epoch) -> bool {
    let fits = |waiting: &Waiting| {
        waiting.request.patch.is_none() && waiting.request.epoch.is_none_or(|epoch| epoch == known)
    };
    match waiting {
        OneOrMore::One(one) => fits(one),
        OneOrMore::More(more) => more.iter().all(fits),
    }
}

impl Engine {
    /// Sends the plain part of a batch and settles it; what turns out to need more comes back.
    pub(super) async fn fly(&self, plain: Vec<Plain>) -> Vec<Group> {
        let (beats, waiting): (Vec<PlainBeat>, Vec<OneOrMore>) = plain
            .into_iter()
            .map(|plain| (plain.beat, plain.waiting))
            .unzip();
        let answer = self.store.beat_batch(&beats, self.settings.ttl_ms).await;
        let mut results: Vec<(Waiting, Outcome)> = Vec::with_capacity(waiting.len());
        let mut exceptions = Vec::new();
        match answer {
            Err(error) => {
                for waiting in waiting {
                    each(waiting, |one| {
                        results.push((one, Err(Box::new(error.clone()))))
                    });
                }
            }
            Ok(found) => {
                let mut found = found.into_iter().peekable();
                for (index, (beat, waiting)) in beats.iter().zip(waiting).enumerate() {
                    match found.next_if(|exception| exception.index == index) {
                        None => each(waiting, |one| {
                            results.push((
                                one,
                                Ok(Beat {
                                    changed: false,
                                    epoch: beat.epoch,
                                }),
                            ));
                        }),
                        Some(exception) => {
                            self.directory.forget(&beat.conn);
                            if exception.stored.is_none() {
                                each(waiting, |one| {
                                    results
                                        .push((one, Err(Box::new(Error::not_found(&beat.conn)))));
                                });
                            } else {
                                exceptions.push(Group {
                                    conn: beat.conn.clone(),
                                    waiting: waiting.into(),
                                });
                            }
                        }
                    }
                }
            }
        }
        self.settle(results);
        exceptions
    }
}

fn each(waiting: OneOrMore, mut with: impl FnMut(Waiting)) {
    match waiting {
        OneOrMore::One(one) => with(one),
        OneOrMore::More(more) => more.into_iter().for_each(with),
    }
}
