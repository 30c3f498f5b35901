//! One batch: heartbeats of the same connection are combined (spec 5.2), and the connections are
//! sorted into those that one script call refreshes and those that need more.

use super::{Engine, Waiting};
use crate::{
    model::{
        error::{Error, Result},
        presence::{Beat, Epoch},
    },
    presence::directory::Directory,
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
        let groups = combine(waiting);
        let mut known = Vec::with_capacity(groups.len());
        directory.with(groups.iter().map(|(conn, _)| &**conn), |_, found| {
            known.push(
                found.map(|(conn, known)| (conn.clone(), known.place.room.clone(), known.epoch)),
            );
        });
        for ((conn, waiting), known) in groups.into_iter().zip(known) {
            match known {
                Some((conn, room, epoch)) if is_plain(&waiting, epoch) => batch.plain.push(Plain {
                    beat: PlainBeat { conn, room, epoch },
                    waiting,
                }),
                Some((conn, ..)) => batch.full.push(Group {
                    conn,
                    waiting: waiting.into(),
                }),
                None => batch.full.push(Group {
                    conn: conn.into(),
                    waiting: waiting.into(),
                }),
            }
        }
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

fn combine(waiting: Vec<Waiting>) -> Vec<(Box<str>, OneOrMore)> {
    let mut at: HashMap<Box<str>, usize> = HashMap::with_capacity(waiting.len());
    let mut groups: Vec<(Box<str>, OneOrMore)> = Vec::with_capacity(waiting.len());
    for mut one in waiting {
        let conn = std::mem::take(&mut one.request.conn);
        match at.get(&conn) {
            Some(&index) => {
                let group = &mut groups[index].1;
                match std::mem::replace(group, OneOrMore::More(Vec::new())) {
                    OneOrMore::One(first) => *group = OneOrMore::More(vec![first, one]),
                    OneOrMore::More(mut more) => {
                        more.push(one);
                        *group = OneOrMore::More(more);
                    }
                }
            }
            None => {
                at.insert(conn.clone(), groups.len());
                groups.push((conn, OneOrMore::One(one)));
            }
        }
    }
    groups
}

impl Engine {
    /// Sends the plain part of a batch and settles it; what turns out to need more comes back.
    pub(super) async fn fly(&self, plain: Vec<Plain>) -> Vec<Group> {
        let (beats, waiting): (Vec<PlainBeat>, Vec<OneOrMore>) = plain
            .into_iter()
            .map(|plain| (plain.beat, plain.waiting))
            .unzip();
        let answer = self.store.beat_batch(&beats, self.settings.ttl_ms).await;
        let mut results: Vec<(Waiting, Result<Beat>)> = Vec::with_capacity(waiting.len());
        let mut exceptions = Vec::new();
        match answer {
            Err(error) => {
                for waiting in waiting {
                    each(waiting, |one| results.push((one, Err(error.clone()))));
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
                                    results.push((one, Err(Error::not_found(&beat.conn))));
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
