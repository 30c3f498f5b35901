//! The operations on a store for locks. Each is atomic and publishes its event. `lock/` does the
//! rest: waiting, renewal, and agreement among several servers.
//!
//! A store serves one node. It knows which node to notify of turns and losses
//! ([`Topic::LockCalls`](super::Topic)).

use crate::model::{
    error::Result,
    lock::{FencingToken, Inspection},
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// How long the newest token of a lock is kept after its last use, in ms: a week. No write with an
/// old token is expected to be later than that. After it, the clock alone makes the next token
/// greater.
pub const TOKEN_KEPT_MS: u64 = 7 * 24 * 3600 * 1000;

/// One request for a lock. Describes the holder once the lock is granted.
#[derive(Clone, Debug)]
pub struct Claim {
    pub name: Arc<str>,
    pub owner: Arc<str>,
    /// Identifies the holder. Random and secret.
    pub proof: Arc<str>,
    /// Identifies the claim within its node in notifications of turns and losses.
    pub number: u64,
    /// Whether the lock's events are published.
    pub emits_events: bool,
}

/// Which fencing token a grant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The next token, which the store saves.
    Next,
    /// The next token as far as this store knows. The store does not save it, because several
    /// stores have to agree on it ([`LockStore::lock_raise`]).
    Ask,
    /// This token, on which the stores have agreed. Refused by a store that knows a newer one.
    Agreed(FencingToken),
}

/// A place in a lock's queue.
#[derive(Clone, Copy, Debug)]
pub struct WaitRequest {
    /// The place that the store assigned; `None` to get a new one.
    pub place: Option<u64>,
    /// Time after which the node counts as dead unless it asks again.
    pub lease: Duration,
}

/// The parameters of an acquisition.
#[derive(Clone, Copy, Debug)]
pub struct Take {
    pub ttl_ms: u64,
    pub token: Token,
    /// `None`: grant the lock now or not at all.
    pub wait: Option<WaitRequest>,
}

/// The result of [`LockStore::lock_take`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    Granted {
        token: FencingToken,
        /// The newest token that the store knew before.
        stored: FencingToken,
    },
    Waiting {
        place: u64,
        /// Time after which the lock may be free without a notification; `None` if another waiter
        /// has to watch for that.
        look_again: Option<Duration>,
        /// Whether the node still counted as alive. If not, its waiters may have been removed from
        /// the queue.
        known: bool,
    },
    Held {
        /// `None`: the lock is free, but others wait for it, or a newer token is known.
        owner: Option<String>,
        /// `None`: the lock has no TTL.
        ttl_left_ms: Option<u64>,
        stored: FencingToken,
        waiters: u64,
    },
}

/// Whether the claim holds the lock, or held it until this release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    Yes,
    /// Another claim or no claim holds it. The owner, if there is one.
    No(Option<String>),
}

/// The result of a revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    pub owner: String,
    /// `None` for a lock that was not written by Rollcall.
    pub token: Option<FencingToken>,
}

/// The position at which to read the index of the ends of locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DueLook {
    /// The number of entries to skip at the start. They were already checked and are still there.
    pub skip: usize,
    /// Whether to include entries whose end is later, according to the index.
    pub all: bool,
}

/// Locks whose lease has ended, according to the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub names: Vec<Arc<str>>,
    /// Time until the next one is due, if it is known.
    pub next: Option<Duration>,
    /// The time (ms since 1970) of the clock that the index uses, if that clock can be set back.
    pub server_ms: Option<u64>,
}

/// A notification for a node about one of its claims, identified by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockCall {
    /// The lock is free, and this claim is the first in the queue.
    Turn(u64),
    /// This claim no longer holds the lock.
    Lost(u64),
    /// Notifications may have been missed.
    Gap,
}

/// The atomic operations on locks.
pub trait LockStore: Send + Sync + 'static {
    /// Acquires a lock, or adds a place to its queue, or refreshes that place. Safe to run twice: a
    /// claim that holds the lock gets the same token again.
    fn lock_take<'a>(&'a self, claim: &'a Claim, take: &'a Take) -> BoxFuture<'a, Result<Taken>>;

    /// Sets the holder's remaining time to the TTL. Safe to run twice.
    fn lock_extend<'a>(&'a self, claim: &'a Claim, ttl_ms: u64) -> BoxFuture<'a, Result<Holds>>;

    /// Releases the lock, or leaves the queue, and notifies the next waiter. `token` is the token
    /// that several stores have agreed on, or 0.
    fn lock_release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Holds>>;

    /// Saves a token that several stores have agreed on. Returns the stored token if it is newer.
    fn lock_raise<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Option<FencingToken>>>;

    /// Revokes a lock; `None` if it is free.
    fn lock_revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>>;

    /// The holder of a lock; `None` if it is free.
    fn lock_inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>>;

    /// Locks whose lease has ended, so that the end can be published.
    fn lock_due(&self, look: DueLook) -> BoxFuture<'_, Result<Due>>;

    /// Publishes the end of those of these locks that have ended. Each end is published once, even
    /// if several nodes ask. Returns for each lock whether it is still held. An error of one lock
    /// does not affect the others.
    fn lock_settle<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<bool>>>;

    /// Whether the store is reachable now, as far as is known.
    fn reachable(&self) -> bool;
}
