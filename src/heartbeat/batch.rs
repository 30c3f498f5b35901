//! One batch. Heartbeats of the same connection are combined (spec 5.2). Connections are sorted
//! into those that one script call refreshes and those that need an update.

use super::{
    engine::Engine,
    request::{Group, Outcome, Waiting},
};
use crate::{
    model::{
        error::{Error, Result},
        presence::{Epoch, HeartbeatResult},
    },
    presence::directory::{Directory, Look},
    store::{BatchMiss, HeartbeatRefresh},
};
use std::{collections::HashMap, sync::Arc};

/// Splits groups into batches of at most `max` heartbeats. A group itself has at most `max`.
pub(super) fn split(groups: Vec<Group>, max: usize) -> Vec<Vec<Group>> {
    let mut batches: Vec<Vec<Group>> = Vec::new();
    let mut size = 0;
    for group in groups {
        size += group.waiting.len();
        match batches.last_mut() {
            Some(batch) if size <= max => batch.push(group),
            _ => {
                size = group.waiting.len();
                batches.push(vec![group]);
            }
        }
    }
    batches
}

/// What one call of the batch script refreshes: connections, sorted by room, and the heartbeats
/// that wait for each.
#[derive(Default)]
pub(super) struct Plain {
    pub heartbeats: Vec<HeartbeatRefresh>,
    pub waiting: Vec<OneOrMore>,
}

impl Plain {
    fn with_capacity(count: usize) -> Self {
        Plain {
            heartbeats: Vec::with_capacity(count),
            waiting: Vec::with_capacity(count),
        }
    }
}

/// Nearly always one heartbeat, which needs no allocation.
pub(super) enum OneOrMore {
    One(Waiting),
    More(Vec<Waiting>),
}

impl OneOrMore {
    fn all(&self) -> &[Waiting] {
        match self {
            OneOrMore::One(one) => std::slice::from_ref(one),
            OneOrMore::More(more) => more.as_slice(),
        }
    }

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
    pub plain: Plain,
    pub full: Vec<Group>,
}

impl Batch {
    /// `takes_over`: this node answers for its connections.
    pub fn sort(waiting: Vec<Waiting>, directory: &Directory, takes_over: bool) -> Batch {
        let mut batch = Batch::default();
        let mut strangers: HashMap<Arc<str>, Vec<Waiting>> = HashMap::new();
        let mut known: Vec<(HeartbeatRefresh, OneOrMore, bool)> = Vec::with_capacity(waiting.len());
        directory.in_batch(|look| {
            for one in waiting {
                match look(&one.request.conn, known.len()) {
                    Look::First {
                        conn,
                        room,
                        epoch,
                        separate,
                        owned,
                    } => {
                        let heartbeat = HeartbeatRefresh {
                            conn,
                            room,
                            epoch,
                            separate,
                        };
                        known.push((heartbeat, OneOrMore::One(one), owned));
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
        // The directory has one copy of each room name, so equal addresses mean equal rooms.
        // Indices are sorted instead of entries, because an entry takes four times as many bytes to
        // move.
        let mut order: Vec<(usize, usize)> = known
            .iter()
            .enumerate()
            .map(|(index, (heartbeat, ..))| (heartbeat.room.as_ptr().addr(), index))
            .collect();
        order.sort_unstable();
        let mut known: Vec<_> = known.into_iter().map(Some).collect();
        batch.plain = Plain::with_capacity(known.len());
        for (heartbeat, waiting, owned) in
            order.iter().filter_map(|(_, index)| known[*index].take())
        {
            // A node that answers for connections takes over those of others by an update.
            if (owned || !takes_over) && is_plain(&waiting, heartbeat.epoch) {
                batch.plain.heartbeats.push(heartbeat);
                batch.plain.waiting.push(waiting);
            } else {
                batch.full.push(Group {
                    conn: heartbeat.conn,
                    waiting: waiting.into(),
                });
            }
        }
        batch.full.extend(
            strangers
                .into_iter()
                .map(|(conn, waiting)| Group { conn, waiting }),
        );
        batch
    }
}

fn is_plain(waiting: &OneOrMore, known: Epoch) -> bool {
    let fits = |waiting: &Waiting| {
        waiting.request.patch.is_none() && waiting.request.epoch.is_none_or(|epoch| epoch == known)
    };
    waiting.all().iter().all(fits)
}

impl Engine {
    /// Sends the plain part of a batch and settles it. Returns the groups that need an update.
    pub(super) async fn send_batch(&self, plain: Plain) -> Vec<Group> {
        let waiting = || plain.waiting.iter().flat_map(OneOrMore::all);
        let tickets: Vec<u64> = waiting().map(|one| one.request.ticket).collect();
        let Some(oldest) = waiting().map(|one| one.since).min() else {
            return Vec::new();
        };
        // All heartbeats of the batch are settled together at the end. If the deadline passes
        // first, none is settled.
        let deadline = self.settings.deadline(oldest);
        match self.guarded(deadline, self.send_refreshes(plain)).await {
            Ok(misses) => misses,
            Err(error) => {
                // Plain heartbeats have no patch.
                let lost = tickets.into_iter().map(|ticket| (ticket, 0));
                self.settle_lost(lost.collect(), &error);
                Vec::new()
            }
        }
    }

    async fn send_refreshes(&self, plain: Plain) -> Vec<Group> {
        let Plain {
            heartbeats,
            waiting,
        } = plain;
        let answer = match self.liveness.node() {
            // This node answers for them, so there is nothing to send.
            Some(node) => node.held().await.map(|()| self.not_owned(&heartbeats)),
            None => self.refresh(&heartbeats).await,
        };
        let mut results: Vec<(Waiting, Outcome)> = Vec::with_capacity(waiting.len());
        let mut misses = Vec::new();
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
                for (index, (heartbeat, waiting)) in heartbeats.iter().zip(waiting).enumerate() {
                    match found.next_if(|miss| miss.index == index) {
                        None => each(waiting, |one| {
                            results.push((
                                one,
                                Ok(HeartbeatResult {
                                    changed: false,
                                    epoch: heartbeat.epoch,
                                }),
                            ));
                        }),
                        Some(miss) => {
                            let error = match miss.stored {
                                Ok(Some(_)) => {
                                    self.directory.remove(&heartbeat.conn);
                                    misses.push(Group {
                                        conn: heartbeat.conn.clone(),
                                        waiting: waiting.into(),
                                    });
                                    continue;
                                }
                                Ok(None) => {
                                    self.directory.remove(&heartbeat.conn);
                                    Error::not_found(&heartbeat.conn)
                                }
                                Err(error) => error,
                            };
                            each(waiting, |one| {
                                results.push((one, Err(Box::new(error.clone()))));
                            });
                        }
                    }
                }
            }
        }
        self.settle(results);
        misses
    }
}

impl Engine {
    async fn refresh(&self, heartbeats: &[HeartbeatRefresh]) -> Result<Vec<BatchMiss>> {
        let lifetime = self.liveness.lifetime().await?;
        self.store.refresh_heartbeats(heartbeats, &lifetime).await
    }

    /// The heartbeats of connections that this node has stopped owning meanwhile.
    fn not_owned(&self, heartbeats: &[HeartbeatRefresh]) -> Vec<BatchMiss> {
        let owned = |heartbeat: &HeartbeatRefresh| {
            let owned = self.directory.owned(&heartbeat.conn);
            owned.is_some_and(|owned| owned.epoch == heartbeat.epoch)
        };
        heartbeats
            .iter()
            .enumerate()
            .filter(|(_, heartbeat)| !owned(heartbeat))
            .map(|(index, heartbeat)| BatchMiss {
                index,
                stored: Ok(Some(heartbeat.epoch)),
            })
            .collect()
    }
}

fn each(waiting: OneOrMore, mut with: impl FnMut(Waiting)) {
    match waiting {
        OneOrMore::One(one) => with(one),
        OneOrMore::More(more) => more.into_iter().for_each(with),
    }
}
