//! What Rollcall asks of a store for locks: atomic operations, each with its event. Waiting,
//! renewal, and what several servers agree on, are the capability's part (`lock/`).
//!
//! A store serves one node: it knows by itself who is to be told of turns and losses
//! ([`Topic::LockCalls`](super::Topic)).

use crate::model::{
    error::Result,
    lock::{FencingToken, Inspection},
};
use futures_util::future::BoxFuture;
use std::{sync::Arc, time::Duration};

/// How long the newest token of a lock is kept after its last use: a week. Longer than anybody is
/// late with it; and after that the clock alone makes the next one greater.
pub const TOKEN_KEPT_MS: u64 = 7 * 24 * 3600 * 1000;

/// One request for a lock, and what it becomes when it is granted.
#[derive(Clone, Debug)]
pub struct Claim {
    pub name: Arc<str>,
    pub owner: Arc<str>,
    /// What proves the holder: random, and told to nobody.
    pub proof: Arc<str>,
    /// Names the claim within its node, where turns and losses are told.
    pub number: u64,
    /// Whether the lock's events are published.
    pub emits_events: bool,
}

/// Which fencing token a grant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The next one, which the store keeps.
    Next,
    /// The next one as far as this store knows, but it is not kept: several stores have to agree
    /// ([`LockStore::lock_raise`]).
    Ask,
    /// This one, which others have agreed on. Refused where a newer one is known.
    Agreed(FencingToken),
}

/// A place in a lock's queue.
#[derive(Clone, Copy, Debug)]
pub struct WaitRequest {
    /// The place, as the store gave it; `None` for a new one.
    pub place: Option<u64>,
    /// For how long the node counts as living.
    pub lease: Duration,
}

/// What is asked for with a claim.
#[derive(Clone, Copy, Debug)]
pub struct Take {
    pub ttl_ms: u64,
    pub token: Token,
    /// `None`: the lock now, or not at all.
    pub wait: Option<WaitRequest>,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    Granted {
        token: FencingToken,
        /// The newest token that the store knew before.
        stored: FencingToken,
    },
    Waiting {
        place: u64,
        /// When the lock may be had without anybody telling; `None`: that is for others to watch.
        look_again: Option<Duration>,
        /// Whether the node still counted as living. If not, its waiters may have been taken out.
        known: bool,
    },
    Held {
        /// `None`: it is free, and others are waiting for it (or a newer token is known).
        owner: Option<String>,
        /// `None`: it never ends.
        ttl_left_ms: Option<u64>,
        stored: FencingToken,
        waiters: u64,
    },
}

/// Whether the claim holds the lock (or held it, until it was released just now).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    Yes,
    /// Who does, if anybody.
    No(Option<String>),
}

/// What was revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    pub owner: String,
    /// `None` for a lock that was written by something other than Rollcall.
    pub token: Option<FencingToken>,
}

/// Where to look in the index of the ends of locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DueLook {
    /// How many of the first entries to skip: they have been looked at and are still there.
    pub skip: usize,
    /// All entries, also those that end later by the index.
    pub all: bool,
}

/// Locks whose lease has ended by the index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub names: Vec<Arc<str>>,
    /// When the next one is due, as far as is known.
    pub next: Option<Duration>,
    /// The time (ms since 1970) by the clock that the index goes by, if that clock can be set back.
    pub server_ms: Option<u64>,
}

/// What a node is told of its own claims, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockCall {
    /// The lock is free, and it is this claim's turn.
    Turn(u64),
    /// The lock was taken away from this claim.
    Lost(u64),
    /// Calls may have been missed.
    Gap,
}

/// The atomic operations on locks.
pub trait LockStore: Send + Sync + 'static {
    /// Takes a lock, or a place in its queue, or refreshes that place. Safe to run twice: a claim
    /// that holds the lock gets the same token again.
    fn lock_take<'a>(&'a self, claim: &'a Claim, take: &'a Take) -> BoxFuture<'a, Result<Taken>>;

    /// Gives the holder another TTL from now. Safe to run twice.
    fn lock_extend<'a>(&'a self, claim: &'a Claim, ttl_ms: u64) -> BoxFuture<'a, Result<Holds>>;

    /// Gives up the lock, or the place in the queue, whichever the claim has; the next waiter is
    /// told. `token`: what others have agreed on, 0 if nothing.
    fn lock_release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Holds>>;

    /// Has the store know a token that was agreed on. Gives a newer one if it knows one.
    fn lock_raise<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Option<FencingToken>>>;

    /// Takes a lock away from whoever holds it; `None` if nobody does.
    fn lock_revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>>;

    /// Who holds a lock; `None` if nobody does.
    fn lock_inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>>;

    /// Locks whose lease has ended, so that it can be told.
    fn lock_due(&self, look: DueLook) -> BoxFuture<'_, Result<Due>>;

    /// Tells of the end of those of these locks that have ended, once, whoever asks. For each lock:
    /// whether it is still held. One that fails does not keep the others from being processed.
    fn lock_settle<'a>(&'a self, names: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<bool>>>;

    /// Whether the store can be reached at the moment, as far as is known.
    fn reachable(&self) -> bool;
}
