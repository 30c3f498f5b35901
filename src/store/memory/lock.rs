//! Locks and their operations: the equivalent of `lua/lock_*.lua`, on maps. Every method runs under
//! the core's mutex, publishes in the same step, and gets the time of that step.

use super::feeds::{Feeds, HandleId};
use crate::{
    model::{
        lock::{FencingToken, Inspection, LockChange, lock_event},
        metadata::change::{LockCheck, LockState},
    },
    store::{
        Feed, Topic,
        lock::{Claim, Due, DueLook, Holds, LockCall, Revoked, TOKEN_KEPT_MS, Take, Taken, Token},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// Maximum number of locks that one read of the index returns.
const MAX_DUE: usize = 256;

/// A claim number, and the handle of its node.
type Waiting = (HandleId, u64);

struct Held {
    claim: Claim,
    handle: HandleId,
    token: FencingToken,
    ends: u64,
}

#[derive(Default)]
struct Entry {
    held: Option<Held>,
    /// The newest token, and the time until which it is kept.
    token: FencingToken,
    kept_until: u64,
    queue: BTreeMap<u64, Waiting>,
}

impl Entry {
    fn place_of(&self, waiting: Waiting) -> Option<u64> {
        let found = self.queue.iter().find(|(_, other)| **other == waiting);
        found.map(|(place, _)| *place)
    }

    fn leave_queue(&mut self, waiting: Waiting) -> bool {
        let place = self.place_of(waiting);
        place.and_then(|place| self.queue.remove(&place)).is_some()
    }

    /// Notifies the first waiter, and only it, that the lock is free. `drop_handle` has removed the
    /// waiters of closed handles, so the first waiter is alive.
    fn wake_next(&self, feeds: &Feeds) {
        if let Some((handle, number)) = self.queue.values().next() {
            feeds.call(*handle, LockCall::Turn(*number));
        }
    }

    /// Whether the entry can be removed.
    fn is_idle(&self, now: u64) -> bool {
        self.held.is_none() && self.queue.is_empty() && self.kept_until <= now
    }
}

/// The locks of a core.
#[derive(Default)]
pub(super) struct Locks {
    entries: HashMap<Arc<str>, Entry>,
    /// Ordered by the end of the lease, or by the end of the time for which the token is kept.
    due: BTreeSet<(u64, Arc<str>)>,
    last_place: u64,
}

impl Locks {
    /// Returns the lock. If its lease has ended, publishes the end first.
    fn look(&mut self, feeds: &Feeds, now: u64, name: &Arc<str>) -> &mut Entry {
        let entry = self.entries.entry(name.clone()).or_default();
        if let Some(held) = entry.held.take_if(|held| now >= held.ends) {
            self.due.remove(&(held.ends, name.clone()));
            emit(feeds, LockChange::Expired, &held, now);
            feeds.call(held.handle, LockCall::Lost(held.claim.number));
            self.due.insert((entry.kept_until, name.clone()));
        }
        entry
    }

    /// As `look`, but does not create a missing entry.
    fn look_only(&mut self, feeds: &Feeds, now: u64, name: &str) -> Option<&mut Entry> {
        let name = self.entries.get_key_value(name)?.0.clone();
        Some(self.look(feeds, now, &name))
    }

    pub(super) fn take(
        &mut self,
        feeds: &Feeds,
        now: u64,
        handle: HandleId,
        claim: &Claim,
        take: &Take,
    ) -> Taken {
        let waiting = (handle, claim.number);
        let mut last_place = self.last_place;
        let entry = self.look(feeds, now, &claim.name);
        let stored = entry.token;
        let mine = entry
            .held
            .as_ref()
            .filter(|held| held.claim.proof == claim.proof)
            .map(|held| held.token);
        let first = entry.queue.values().next();
        let is_free = entry.held.is_none() && first.is_none_or(|first| *first == waiting);
        let newer = matches!(take.token, Token::Agreed(token) if stored > token);
        if mine.is_some() || (is_free && !newer) {
            entry.leave_queue(waiting);
            let token = mine.unwrap_or(match take.token {
                Token::Agreed(token) => token,
                Token::Next | Token::Ask => (stored + 1).max(now * 1_000),
            });
            if take.token != Token::Ask {
                entry.token = token;
            }
            let old = entry.held.replace(Held {
                claim: claim.clone(),
                handle,
                token,
                ends: now + take.ttl_ms,
            });
            let held = entry.held.as_ref().filter(|_| mine.is_none());
            if let Some(held) = held {
                emit(feeds, LockChange::Acquired, held, now);
            }
            self.keep(&claim.name, old.map(|old| old.ends), now + take.ttl_ms);
            return Taken::Granted { token, stored };
        }
        if entry.held.is_none() {
            entry.wake_next(feeds);
        }
        let Some(wait) = take.wait else {
            return Taken::Held {
                owner: entry.held.as_ref().map(|held| held.claim.owner.to_string()),
                ttl_left_ms: Some(entry.held.as_ref().map_or(0, |held| held.ends - now)),
                stored,
                waiters: entry.queue.len() as u64,
            };
        };
        let place = entry.place_of(waiting).or(wait.place).unwrap_or_else(|| {
            last_place += 1;
            last_place
        });
        entry.queue.insert(place, waiting);
        let is_first = entry.queue.values().next() == Some(&waiting);
        let left = entry.held.as_ref().map(|held| held.ends - now);
        self.last_place = last_place;
        Taken::Waiting {
            place,
            look_again: left.filter(|_| is_first).map(Duration::from_millis),
            known: true,
        }
    }

    /// Replaces the indexed end of a lease by a new one.
    fn keep(&mut self, name: &Arc<str>, old: Option<u64>, ends: u64) {
        if let Some(entry) = self.entries.get_mut(name) {
            self.due.remove(&(entry.kept_until, name.clone()));
            entry.kept_until = ends + TOKEN_KEPT_MS;
        }
        if let Some(old) = old {
            self.due.remove(&(old, name.clone()));
        }
        self.due.insert((ends, name.clone()));
    }

    pub(super) fn extend(&mut self, feeds: &Feeds, now: u64, claim: &Claim, ttl_ms: u64) -> Holds {
        let Some(entry) = self.look_only(feeds, now, &claim.name) else {
            return Holds::No(None);
        };
        match &mut entry.held {
            Some(held) if held.claim.proof == claim.proof => {
                let old = std::mem::replace(&mut held.ends, now + ttl_ms);
                self.keep(&claim.name, Some(old), now + ttl_ms);
                Holds::Yes
            }
            held => Holds::No(held.as_ref().map(|held| held.claim.owner.to_string())),
        }
    }

    pub(super) fn release(
        &mut self,
        feeds: &Feeds,
        now: u64,
        handle: HandleId,
        claim: &Claim,
        token: FencingToken,
    ) -> Holds {
        let Some(entry) = self.look_only(feeds, now, &claim.name) else {
            return Holds::No(None);
        };
        let waited = entry.leave_queue((handle, claim.number));
        let mine = |held: &mut Held| held.claim.proof == claim.proof;
        if let Some(held) = entry.held.take_if(mine) {
            entry.token = entry.token.max(token);
            emit(feeds, LockChange::Released, &held, now);
            entry.wake_next(feeds);
            self.free(&claim.name, held.ends);
            return Holds::Yes;
        }
        if waited && entry.held.is_none() {
            entry.wake_next(feeds);
        }
        let owner = entry.held.as_ref().map(|held| held.claim.owner.to_string());
        Holds::No(owner)
    }

    /// Indexes how long the token of a released lock is kept.
    fn free(&mut self, name: &Arc<str>, ends: u64) {
        self.due.remove(&(ends, name.clone()));
        if let Some(entry) = self.entries.get(name) {
            self.due.insert((entry.kept_until, name.clone()));
        }
    }

    pub(super) fn raise(&mut self, claim: &Claim, token: FencingToken) -> Option<FencingToken> {
        let entry = self.entries.entry(claim.name.clone()).or_default();
        if entry.token > token {
            return Some(entry.token);
        }
        entry.token = token;
        if let Some(held) = &mut entry.held
            && held.claim.proof == claim.proof
        {
            held.token = token;
        }
        None
    }

    pub(super) fn revoke(&mut self, feeds: &Feeds, now: u64, name: &str) -> Option<Revoked> {
        let entry = self.look_only(feeds, now, name)?;
        let held = entry.held.take()?;
        emit(feeds, LockChange::Revoked, &held, now);
        feeds.call(held.handle, LockCall::Lost(held.claim.number));
        entry.wake_next(feeds);
        self.free(&held.claim.name, held.ends);
        Some(Revoked {
            owner: held.claim.owner.to_string(),
            token: Some(held.token),
        })
    }

    pub(super) fn inspect(&self, now: u64, name: &str) -> Option<Inspection> {
        let entry = self.entries.get(name)?;
        let held = entry.held.as_ref().filter(|held| now < held.ends)?;
        Some(Inspection {
            owner: held.claim.owner.to_string(),
            token: Some(held.token),
            ttl_left_ms: Some(held.ends - now),
            waiters: entry.queue.len() as u64,
        })
    }

    /// Why the lock does not allow a change of metadata; `None` if it does.
    pub(super) fn refusal(&self, now: u64, check: &LockCheck) -> Option<LockState> {
        let entry = self.entries.get(&check.name);
        let held = entry.and_then(|entry| entry.held.as_ref().filter(|held| now < held.ends));
        let (Some(entry), Some(held)) = (entry, held) else {
            return Some(LockState::NotHeld);
        };
        if check.actor.as_ref() != Some(&held.claim.owner) {
            return Some(LockState::HeldByOther);
        }
        let outrun = check.token.is_some_and(|token| token < entry.token);
        outrun.then_some(LockState::Outrun {
            newest: entry.token,
        })
    }

    pub(super) fn due(&mut self, now: u64, look: DueLook) -> Due {
        let names = self.due.iter().take_while(|(ends, _)| *ends <= now);
        Due {
            names: names
                .skip(look.skip)
                .take(MAX_DUE)
                .map(|(_, name)| name.clone())
                .collect(),
            // The clock is monotonic, so the ends in the index are never too late.
            server_ms: None,
            next: self
                .due
                .first()
                .map(|(ends, _)| Duration::from_millis(ends.saturating_sub(now))),
        }
    }

    pub(super) fn settle(&mut self, feeds: &Feeds, now: u64, name: &Arc<str>) -> bool {
        let entry = self.look(feeds, now, name);
        let is_held = entry.held.is_some();
        if !is_held {
            entry.wake_next(feeds);
        }
        if entry.is_idle(now) {
            let kept_until = entry.kept_until;
            self.due.remove(&(kept_until, name.clone()));
            self.entries.remove(name);
        }
        is_held
    }

    /// Removes the waiters of a closed handle from all queues. If a lock is free, notifies the
    /// waiter that is first then.
    pub(super) fn drop_handle(&mut self, feeds: &Feeds, handle: HandleId) {
        for entry in self.entries.values_mut() {
            let before = entry.queue.len();
            entry.queue.retain(|_, (of, _)| *of != handle);
            if entry.queue.len() < before && entry.held.is_none() {
                entry.wake_next(feeds);
            }
        }
    }
}

fn emit(feeds: &Feeds, change: LockChange, held: &Held, now: u64) {
    let Claim { name, owner, .. } = &held.claim;
    if held.claim.emits_events {
        feeds.hand_out(
            [
                (Feed::Lock, Topic::Lock(name.clone())),
                (Feed::AllLocks, Topic::AllLocks),
            ],
            || lock_event(change, name, owner, Some(held.token), now),
        );
    }
}
