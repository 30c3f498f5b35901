//! Heartbeats that need an update: those with a patch, with an epoch that differs from the one this
//! node knows, or of a connection that another node joined. An update takes one round trip if this
//! node joined the connection, and one more for each conflict with another writer.

use super::{
    engine::Engine,
    merge,
    request::{Group, Outcome, Waiting},
    work::{OpenTickets, Verdict, Work},
};
use crate::{
    model::{
        error::{Code, Error, Result},
        ids,
        presence::{Epoch, HeartbeatResult},
    },
    presence::directory::Known,
    store::{HeartbeatOutcome, HeartbeatUpdate, Lifetime, StateEncoding, Stored},
};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::Instant;

/// Maximum rounds for a connection whose state or place keeps changing. Each further round means
/// that another writer succeeded in between.
const MAX_ROUNDS: usize = 100;

impl Engine {
    /// Sends groups and settles them. Returns the groups to send next: the heartbeats that were
    /// parked behind these meanwhile.
    pub(super) async fn send_updates(&self, groups: Vec<Group>) -> Vec<Group> {
        let conns: Vec<Arc<str>> = groups.iter().map(|group| group.conn.clone()).collect();
        let waiting = || groups.iter().flat_map(|group| &group.waiting);
        let deadline = waiting()
            .map(|waiting| waiting.since)
            .min()
            .map_or_else(Instant::now, |oldest| self.settings.deadline(oldest));
        let tickets =
            waiting().map(|waiting| (waiting.request.ticket, waiting.request.patch_bytes()));
        let open_tickets = OpenTickets::new(Mutex::new(tickets.collect()));
        let flight = self.send_groups(groups, open_tickets.clone());
        if let Err(error) = self.guarded(deadline, flight).await {
            // It is unknown what was written.
            for conn in &conns {
                self.directory.forget(conn);
            }
            self.settle_lost(open_tickets.lock().drain().collect(), &error);
        }
        self.busy.lock().next(conns, self.settings.max_batch)
    }

    async fn send_groups(&self, groups: Vec<Group>, open_tickets: OpenTickets) {
        let mut open = self.load_cached(groups, &open_tickets);
        for _ in 0..MAX_ROUNDS {
            open = self.round(open).await;
            if open.is_empty() {
                break;
            }
        }
        for work in open {
            let error = Error::new(
                Code::Unavailable,
                format!(
                    "connection {} was changed by others {MAX_ROUNDS} times while this call ran",
                    ids::display_id(&work.group.conn)
                ),
            );
            self.fail(work, &error);
        }
    }

    /// Fills in the cached data of the connections from the directory.
    fn load_cached(&self, groups: Vec<Group>, open_tickets: &OpenTickets) -> Vec<Work> {
        let mut works: Vec<Work> = groups
            .into_iter()
            .map(|group| Work::new(group, open_tickets.clone()))
            .collect();
        let cached = self
            .directory
            .all(works.iter().map(|work| &*work.group.conn));
        let mut older = Vec::new();
        for (work, cached) in works.iter_mut().zip(cached) {
            let newest = cached.as_ref().map(|known| known.epoch).or(work.epoch);
            older.extend(newest.and_then(|newest| work.split_older(newest)));
            if let Some(known) = cached {
                let fits = work.epoch.is_none_or(|epoch| epoch == known.epoch);
                work.expected_epoch = fits.then_some(known.epoch);
                work.place = Some(known.place);
                work.base = known.stored;
            }
        }
        older.append(&mut works);
        older
    }

    /// Sends each piece in one round trip, or two if a connection has to be looked up. Returns the
    /// works that are not settled.
    async fn round(&self, works: Vec<Work>) -> Vec<Work> {
        let works = self.look_up(works).await;
        let works = self.refuse_foreign_states(works);
        let mut open = Vec::new();
        for piece in merge::pieces(works) {
            let piece = merge::merge(piece, self.settings.max_state_bytes).await;
            open.extend(self.send(piece).await);
        }
        open
    }

    /// Sends works whose patches are merged. Returns those that are not settled.
    async fn send(&self, works: Vec<Work>) -> Vec<Work> {
        let heartbeats: Vec<HeartbeatUpdate> = works.iter().filter_map(Work::heartbeat).collect();
        let lifetime = match self.liveness.lifetime().await {
            Ok(lifetime) => lifetime,
            Err(error) => {
                for work in works {
                    self.fail(work, &error);
                }
                return Vec::new();
            }
        };
        let outcomes = self.store.update_heartbeats(&heartbeats, &lifetime).await;
        let owner_lost = |outcome: &Result<_>| matches!(outcome, Ok(HeartbeatOutcome::OwnerLost));
        if outcomes.iter().any(owner_lost) {
            self.liveness.owner_lost(&lifetime).await;
        }
        let open_tickets = works.first().map(|work| work.open_tickets.clone());
        let mut open = Vec::new();
        // Settled together, because each time takes locks and can wake JavaScript.
        let mut results = Vec::with_capacity(works.len());
        for (mut work, outcome) in works.into_iter().zip(outcomes) {
            match outcome {
                Err(error) => {
                    // It is unknown whether the write happened, so the state is unknown too.
                    self.directory.forget(&work.group.conn);
                    self.fail(work, &error);
                }
                Ok(HeartbeatOutcome::Refreshed {
                    epoch,
                    adopted,
                    encoding,
                    ..
                }) => {
                    if adopted {
                        self.own_joins.adopted(&work.group.conn, epoch);
                        self.directory.adopted(&work.group.conn, epoch);
                    }
                    self.finish(work, epoch, encoding, &lifetime, &mut results);
                }
                Ok(HeartbeatOutcome::OwnerLost | HeartbeatOutcome::Unclaimed) => {
                    work.expected_epoch = None;
                    open.push(work);
                }
                Ok(HeartbeatOutcome::Unknown) => {
                    self.directory.remove(&work.group.conn);
                    let error = Error::not_found(&work.group.conn);
                    self.fail(work, &error);
                }
                Ok(HeartbeatOutcome::Stale { stored }) => {
                    self.directory.outdated(&work.group.conn, stored);
                    let given = work.epoch.unwrap_or_default();
                    let error = Error::stale(&work.group.conn, given, stored);
                    open.extend(self.fail_some(work, |epoch| epoch < stored, &error));
                }
                Ok(HeartbeatOutcome::Ahead { max }) => {
                    let given = work.epoch.unwrap_or_default();
                    let error = Error::ahead(&work.group.conn, given, max);
                    open.extend(self.fail_some(work, |epoch| epoch > max, &error));
                }
                Ok(HeartbeatOutcome::Unissued { stored }) => {
                    let error = Error::not_found(&work.group.conn);
                    open.extend(self.fail_some(work, |epoch| epoch > stored, &error));
                }
                Ok(HeartbeatOutcome::Elsewhere(place)) => {
                    work.place = Some(place);
                    work.expected_epoch = None;
                    open.push(work);
                }
                Ok(HeartbeatOutcome::Conflict { stored }) => {
                    work.base = Some(stored);
                    work.expected_epoch = None;
                    open.push(work);
                }
            }
        }
        if let Some(open_tickets) = open_tickets {
            self.settle_of(&open_tickets, results);
        }
        open
    }

    /// Looks up place and state of connections that the directory does not know well enough.
    async fn look_up(&self, works: Vec<Work>) -> Vec<Work> {
        let (mut ready, unknown): (Vec<Work>, Vec<Work>) = works.into_iter().partition(|work| {
            work.place.is_some()
                && (work.base.is_some()
                    || !(work.group.has_patch() || self.liveness.node().is_some()))
        });
        if unknown.is_empty() {
            return ready;
        }
        let conns: Vec<Arc<str>> = unknown.iter().map(|work| work.group.conn.clone()).collect();
        let located = self.store.locate(&conns).await;
        for (mut work, located) in unknown.into_iter().zip(located) {
            match located {
                Err(error) => self.fail(work, &error),
                Ok(None) => {
                    let error = Error::not_found(&work.group.conn);
                    self.fail(work, &error);
                }
                Ok(Some(located)) => {
                    work.place = Some(located.place);
                    work.base = Some(located.stored);
                    ready.push(work);
                }
            }
        }
        ready
    }

    /// Refuses patches of states that this client cannot read but other clients can. These states
    /// are left unchanged.
    fn refuse_foreign_states(&self, works: Vec<Work>) -> Vec<Work> {
        let mut readable = Vec::with_capacity(works.len());
        for work in works {
            let foreign = work.base.as_ref().and_then(Stored::foreign);
            let Some(fault) = foreign.filter(|_| work.group.has_patch()) else {
                readable.push(work);
                continue;
            };
            let error = Error::new(
                Code::CorruptData,
                format!(
                    "patchState: the state of connection {} was left as it is: {fault}; {}",
                    ids::display_id(&work.group.conn),
                    fault.remedy()
                ),
            );
            self.fail(work, &error);
        }
        readable
    }

    /// Caches what was written, and adds the results of the work to `results`.
    fn finish(
        &self,
        work: Work,
        epoch: Epoch,
        encoding: Option<Arc<StateEncoding>>,
        lifetime: &Lifetime,
        results: &mut Vec<(Waiting, Outcome)>,
    ) {
        let written = work.next.is_some();
        let stored = match work.next {
            Some(state) => Some(Stored { state, encoding }),
            None => work.base,
        };
        if let Some(place) = work.place {
            let known = Known {
                place,
                epoch,
                stored,
            };
            self.directory.learn(&work.group.conn, &known);
            if !self.liveness.keeps(&work.group.conn, epoch, lifetime) {
                // This node was declared dead since, and the connection with it.
                self.directory.remove(&work.group.conn);
                let error = Error::not_found(&work.group.conn);
                let refused = work.group.waiting.into_iter();
                results.extend(refused.map(|one| (one, Err(Box::new(error.clone())))));
                return;
            }
        }
        let outcomes = work.verdicts.into_iter().map(|verdict| match verdict {
            Verdict::Accepted { changed } => Ok(HeartbeatResult {
                changed: changed && written,
                epoch,
            }),
            Verdict::Refused(error) => Err(Box::new(error)),
        });
        results.extend(work.group.waiting.into_iter().zip(outcomes));
    }

    fn settle_of(&self, open_tickets: &OpenTickets, results: Vec<(Waiting, Outcome)>) {
        let mut open = open_tickets.lock();
        for (waiting, _) in &results {
            open.remove(&waiting.request.ticket);
        }
        drop(open);
        self.settle(results);
    }

    /// Fails the heartbeats of a group whose epochs are refused, and returns the work with the
    /// others. One bad item fails only itself (spec 5.3).
    fn fail_some(
        &self,
        mut work: Work,
        refused: impl Fn(Epoch) -> bool,
        error: &Error,
    ) -> Option<Work> {
        let (failed, waiting): (Vec<Waiting>, Vec<Waiting>) = work
            .group
            .waiting
            .into_iter()
            .partition(|waiting| waiting.request.epoch.is_some_and(&refused));
        let failed = failed
            .into_iter()
            .map(|waiting| (waiting, Err(Box::new(error.clone()))))
            .collect();
        self.settle_of(&work.open_tickets, failed);
        work.group.waiting = waiting;
        work.epoch = work.group.epoch();
        work.expected_epoch = None;
        (!work.group.waiting.is_empty()).then_some(work)
    }

    fn fail(&self, work: Work, error: &Error) {
        self.settle_of(
            &work.open_tickets,
            work.group
                .waiting
                .into_iter()
                .map(|waiting| (waiting, Err(Box::new(error.clone()))))
                .collect(),
        );
    }
}
