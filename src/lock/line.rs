//! Waiting in line for a lock on one store. The queue is in the store, in order of arrival whatever
//! the node; of a node's own waiters for a lock, the first looks after the place of all.

use super::{Board, DRIFT_FACTOR, Grant, Keeper, until};
use crate::{
    model::{
        error::{Code, Error, Result},
        ids,
        lock::{FencingToken, Inspection},
    },
    store::{
        Store, Topic,
        lock::{Claim, Holds, Revoked, Take, Taken, Token, Waiter},
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, OnceCell},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// For how long a node counts as living after it was heard of. One that is killed delays those behind
/// it by that; one that does not get a processor for as long loses its turn, but not its place.
const LEASE: Duration = Duration::from_millis(1_500);
/// How often a node is heard of; also how late a wake is made good that was lost.
const REFRESH: Duration = Duration::from_millis(400);
/// Pause after a call that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// One store's locks.
pub struct Line {
    stores: [Arc<dyn Store>; 1],
    board: Arc<Board>,
    /// This node's waiters for each lock, in the order in which they asked.
    waiting: Mutex<HashMap<Arc<str>, Vec<Arc<Spot>>>>,
    listening: OnceCell<()>,
}

/// One waiter.
struct Spot {
    number: u64,
    /// Something has happened: look again.
    stir: Arc<Notify>,
    /// Its entry in the queue may be gone.
    lost_place: AtomicBool,
}

impl Line {
    pub fn new(store: Arc<dyn Store>, board: Arc<Board>) -> Line {
        Line {
            stores: [store],
            board,
            waiting: Mutex::default(),
            listening: OnceCell::new(),
        }
    }

    fn store(&self) -> &dyn Store {
        &*self.stores[0]
    }

    async fn do_acquire(
        &self,
        claim: &Claim,
        ttl_ms: u64,
        deadline: Instant,
        stop: &CancellationToken,
    ) -> Result<Grant> {
        let spot = InLine::enter(self, claim);
        let waits = deadline > Instant::now();
        let mut take = Take {
            ttl_ms,
            token: Token::Next,
            wait: waits.then_some(Waiter {
                place: None,
                lease: LEASE,
            }),
        };
        loop {
            let sent = Instant::now();
            let taken = tokio::select! {
                taken = self.store().lock_take(claim, &take) => taken,
                // It may have been carried out.
                () = stop.cancelled() => return self.give_up(claim, ttl_ms, Error::closed()).await,
            };
            let (look_again, failed) = match taken {
                Ok(Taken::Granted { token, .. }) => {
                    let until = until(sent, ttl_ms, DRIFT_FACTOR);
                    if until > Instant::now() {
                        return Ok(Grant { token, until });
                    }
                    let error = Error::new(
                        Code::LockUnavailable,
                        format!(
                            "lock {} was granted too late to be of use: the answer took longer \
                             than its ttlMs of {ttl_ms}",
                            ids::shown(&claim.name)
                        ),
                    );
                    return self.give_up(claim, ttl_ms, error).await;
                }
                Ok(Taken::Held {
                    owner,
                    ttl_left_ms,
                    waiters,
                    ..
                }) => {
                    return Err(unavailable(claim, owner.as_deref(), ttl_left_ms, waiters));
                }
                Ok(Taken::Waiting {
                    place,
                    look_again,
                    known,
                }) => {
                    if let Some(wait) = &mut take.wait {
                        let had_place = wait.place.replace(place).is_some();
                        if had_place && !known {
                            spot.others_lost_their_place();
                        }
                    }
                    if self.listening.get().is_none() && self.listen().await.is_ok() {
                        // A turn may have been called before.
                        continue;
                    }
                    (look_again.unwrap_or(REFRESH).min(REFRESH), None)
                }
                Err(error) if may_pass(&error) && Instant::now() < deadline => (PAUSE, Some(error)),
                Err(error) => return self.give_up(claim, ttl_ms, error).await,
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.give_up(claim, ttl_ms, Error::closed()).await,
                () = spot.stirred(look_again) => {}
                () = sleep_until(deadline) => {
                    let error = match failed {
                        Some(error) => error,
                        None => self.still_held(claim).await,
                    };
                    return self.give_up(claim, ttl_ms, error).await;
                }
            }
        }
    }

    /// Why the lock was not to be had in time.
    async fn still_held(&self, claim: &Claim) -> Error {
        match self.store().lock_inspect(&claim.name).await {
            Ok(Some(held)) => unavailable(
                claim,
                Some(&held.owner),
                held.ttl_left_ms,
                // The one that gives up is among them.
                held.waiters.saturating_sub(1),
            ),
            Ok(None) => unavailable(claim, None, None, 0),
            Err(error) => error,
        }
    }

    /// Leaves nothing behind. Where the store cannot be reached that goes on in the background, until
    /// what it may still have has ended with the TTL.
    async fn give_up<T>(&self, claim: &Claim, ttl_ms: u64, error: Error) -> Result<T> {
        if may_pass(&error) {
            let (store, claim) = (self.stores[0].clone(), claim.clone());
            let until = Instant::now() + Duration::from_millis(ttl_ms);
            tokio::spawn(async move {
                while let Err(error) = store.lock_release(&claim, 0).await
                    && may_pass(&error)
                    && Instant::now() < until
                {
                    sleep(PAUSE).await;
                }
            });
            return Err(error);
        }
        match self.store().lock_release(claim, 0).await {
            // Nothing is held: the outcome is known now.
            Ok(_) => Err(Error {
                outcome_unknown: false,
                ..error
            }),
            Err(_) => Err(error),
        }
    }
}

/// Failures that waiting may mend.
fn may_pass(error: &Error) -> bool {
    matches!(error.code, Code::Unavailable | Code::Timeout)
}

fn unavailable(
    claim: &Claim,
    owner: Option<&str>,
    ttl_left_ms: Option<u64>,
    waiters: u64,
) -> Error {
    let name = ids::shown(&claim.name);
    let ahead = match waiters {
        0 => String::new(),
        1 => "; 1 other waits for it".into(),
        n => format!("; {n} others wait for it"),
    };
    let held = match (owner, ttl_left_ms) {
        (None, _) => "was let go a moment ago, and goes to somebody else".into(),
        (Some(owner), None) => format!("is held by {}, without an end", ids::shown(owner)),
        (Some(owner), Some(left)) => {
            format!(
                "is held by {}, for {left} ms unless that is extended",
                ids::shown(owner)
            )
        }
    };
    Error::new(
        Code::LockUnavailable,
        format!("lock {name} {held}{ahead}; try again, or wait longer (waitMs)"),
    )
}

impl Keeper for Line {
    fn acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl_ms: u64,
        deadline: Instant,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Grant>> {
        Box::pin(self.do_acquire(claim, ttl_ms, deadline, stop))
    }

    fn extend<'a>(
        &'a self,
        claim: &'a Claim,
        _token: FencingToken,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<(Holds, Instant)>> {
        Box::pin(async move {
            let sent = Instant::now();
            let holds = self.store().lock_extend(claim, ttl_ms).await?;
            Ok((holds, until(sent, ttl_ms, DRIFT_FACTOR)))
        })
    }

    fn release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
    ) -> BoxFuture<'a, Result<Holds>> {
        self.store().lock_release(claim, token)
    }

    fn revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>> {
        self.store().lock_revoke(name)
    }

    fn inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>> {
        self.store().lock_inspect(name)
    }

    fn listen(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let listen = || self.store().subscribe(&Topic::LockCalls);
            self.listening.get_or_try_init(listen).await.map(drop)
        })
    }

    fn tells(&self) -> bool {
        true
    }

    fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }
}

/// A waiter in line, for as long as this lives.
struct InLine<'a> {
    line: &'a Line,
    name: Arc<str>,
    spot: Arc<Spot>,
}

impl<'a> InLine<'a> {
    fn enter(line: &'a Line, claim: &Claim) -> InLine<'a> {
        let spot = Arc::new(Spot {
            number: claim.number,
            stir: Arc::default(),
            lost_place: AtomicBool::new(false),
        });
        line.board.put(claim.number, spot.stir.clone());
        let mut waiting = line.waiting.lock();
        waiting
            .entry(claim.name.clone())
            .or_default()
            .push(spot.clone());
        InLine {
            line,
            name: claim.name.clone(),
            spot,
        }
    }

    /// Resolves when the store should be asked again: when told to, or after `pause` for the first of
    /// this node's waiters, which keeps the place of all.
    async fn stirred(&self, pause: Duration) {
        if self.spot.lost_place.swap(false, Ordering::Relaxed) {
            return;
        }
        if self.is_first() {
            tokio::select! {
                () = self.spot.stir.notified() => {}
                () = sleep(pause) => {}
            }
        } else {
            self.spot.stir.notified().await;
        }
    }

    fn is_first(&self) -> bool {
        let waiting = self.line.waiting.lock();
        let first = waiting.get(&self.name).and_then(|spots| spots.first());
        first.is_some_and(|first| first.number == self.spot.number)
    }

    /// The store had not heard of this node for so long that its other waiters may be out of the
    /// queue: each takes its place again, which it remembers.
    fn others_lost_their_place(&self) {
        for spot in self
            .line
            .waiting
            .lock()
            .get(&self.name)
            .into_iter()
            .flatten()
        {
            if spot.number != self.spot.number {
                spot.lost_place.store(true, Ordering::Relaxed);
                spot.stir.notify_one();
            }
        }
    }
}

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.line.board.remove(self.spot.number);
        let mut waiting = self.line.waiting.lock();
        let Some(spots) = waiting.get_mut(&self.name) else {
            return;
        };
        spots.retain(|spot| spot.number != self.spot.number);
        match spots.first() {
            // It looks after the others now.
            Some(first) => first.stir.notify_one(),
            None => {
                waiting.remove(&self.name);
            }
        }
    }
}
