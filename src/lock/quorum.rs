//! Locks on a majority of several independent servers (spec 8.6): the Redlock algorithm, with
//! fencing tokens that also grow from one majority to the next. `docs/internals/locks.md` describes
//! the guarantees.

use super::{Grant, LockBackend, QuorumOptions, WaitLimit, backend::Release, until};
use crate::{
    model::{
        error::{Code, Error, Result},
        ids,
        lock::{FencingToken, Inspection},
    },
    store::{
        Store,
        lock::{Claim, Holds, Revoked, Take, Taken, Token},
    },
};
use futures_util::{
    StreamExt,
    future::{BoxFuture, join_all},
    stream::FuturesUnordered,
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Limits of the time that one server has to answer before it counts as down. The time is a tenth
/// of the TTL, so that the other servers are asked while there is time left.
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_millis(50);
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_millis(1_000);
/// The same time for calls that have no TTL.
const ANSWER_TIMEOUT: Duration = MAX_ANSWER_TIMEOUT;
/// Interval at which a pending call checks that its server is still reachable.
const LOOK: Duration = Duration::from_millis(10);
/// Pause between two checks of which servers are connected.
const CONNECTING: Duration = Duration::from_millis(5);
/// How long the other servers have to connect after a majority has connected.
const OTHERS: Duration = Duration::from_millis(250);
/// How much longer than its limit a call that gives up may take to release what it was granted.
/// After that, the release continues in the background.
const LEAVING: Duration = Duration::from_millis(100);

pub struct Quorum {
    stores: Vec<Arc<dyn Store>>,
    options: QuorumOptions,
    /// Cancelled when the client is gone.
    gone: CancellationToken,
}

/// The result of one try on all servers.
struct Try {
    granted: usize,
    answered: usize,
    /// A token that is greater than all tokens that the servers reported.
    token: FencingToken,
    /// The owner of the lock, as a server that refused it reported.
    owner: Option<String>,
}

impl Quorum {
    /// Each of `stores` is on its own server.
    pub fn new(stores: Vec<Arc<dyn Store>>, options: QuorumOptions) -> Quorum {
        Quorum {
            stores,
            options,
            gone: CancellationToken::new(),
        }
    }

    /// Resolves when all servers are reachable. If a majority is reachable, the others get
    /// `OTHERS` to connect. After `most` it resolves in any case, with the servers that are
    /// reachable then.
    pub async fn connected(&self, most: Duration) {
        let mut deadline = Instant::now() + most;
        let mut enough = false;
        while Instant::now() < deadline {
            let reachable = self.stores.iter().filter(|store| store.locks().reachable());
            match reachable.count() {
                all if all == self.stores.len() => return,
                some if some >= self.majority() && !enough => {
                    enough = true;
                    deadline = deadline.min(Instant::now() + OTHERS);
                }
                _ => sleep(CONNECTING).await,
            }
        }
    }

    fn majority(&self) -> usize {
        self.stores.len() / 2 + 1
    }

    /// Sends a request to all reachable servers at the same time. Returns the answers in the order
    /// of the servers; `None` for a server that is not reachable, failed or did not answer in time.
    async fn request<'a, T: 'a>(
        &'a self,
        answer_timeout: Duration,
        request: impl Fn(&'a dyn Store) -> BoxFuture<'a, Result<T>>,
    ) -> Vec<Option<T>> {
        join_all(self.stores.iter().map(|store| {
            let call = store.locks().reachable().then(|| request(&**store));
            async move { answer(&**store, answer_timeout, call?).await }
        }))
        .await
    }

    /// Tries once. It succeeds if a majority grants the lock and a majority stores the token.
    async fn try_once(&self, claim: &Claim, ttl_ms: u64) -> std::result::Result<Grant, Try> {
        let sent = Instant::now();
        let answer_timeout = answer_timeout(ttl_ms);
        let take = Take {
            ttl_ms,
            token: Token::Ask,
            wait: None,
        };
        let answers = self
            .request(answer_timeout, |store| {
                store.locks().lock_take(claim, &take)
            })
            .await;
        let mut tried = Try {
            granted: 0,
            answered: 0,
            token: 0,
            owner: None,
        };
        for answer in answers.into_iter().flatten() {
            tried.answered += 1;
            match answer {
                Taken::Granted { token, stored } => {
                    tried.granted += 1;
                    tried.token = tried.token.max(token).max(stored + 1);
                }
                Taken::Held { owner, stored, .. } => {
                    // The server refused, but the new token must still be greater than the one it
                    // stores.
                    tried.token = tried.token.max(stored + 1);
                    tried.owner = tried.owner.or(owner);
                }
                // The request does not ask to wait.
                Taken::Waiting { .. } => {}
            }
        }
        if tried.granted < self.majority() {
            return Err(tried);
        }
        // Servers outside this majority also get the token: the next majority may include them.
        let raised = self
            .request(answer_timeout, |store| {
                store.locks().lock_raise(claim, tried.token)
            })
            .await;
        let know = raised
            .iter()
            .filter(|raised| **raised == Some(None))
            .count();
        let until = until(sent, ttl_ms, self.options.drift_factor);
        if know >= self.majority() && Instant::now() < until {
            return Ok(Grant {
                token: tried.token,
                until,
            });
        }
        tried.granted = 0;
        Err(tried)
    }

    async fn do_acquire(
        &self,
        claim: &Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        stop: &CancellationToken,
    ) -> Result<Grant> {
        let mut last = None;
        let granted = tokio::select! {
            biased;
            granted = self.try_again(claim, ttl_ms, limit, &mut last) => return granted,
            () = stop.cancelled() => Err(Error::closed()),
            () = sleep_until(limit.until), if limit.queues => Ok(()),
        };
        let answer_timeout = match granted {
            // The caller does not wait for the answer.
            Err(_) => answer_timeout(ttl_ms),
            Ok(()) => LEAVING,
        };
        self.clean_up(claim, ttl_ms, answer_timeout, &self.gone)
            .await;
        granted?;
        let nothing = Try {
            granted: 0,
            answered: 0,
            token: 0,
            owner: None,
        };
        let (tried, tries) = last.unwrap_or((nothing, 1));
        Err(self.unavailable(claim, &tried, tries))
    }

    /// With a `waitMs`, tries until the limit ends. Without one, retries up to `retryCount` times.
    async fn try_again(
        &self,
        claim: &Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        last: &mut Option<(Try, u32)>,
    ) -> Result<Grant> {
        for tries in 1.. {
            let tried = match self.try_once(claim, ttl_ms).await {
                Ok(grant) => return Ok(grant),
                Err(tried) => tried,
            };
            let tidying = self.gone.child_token();
            self.clean_up(claim, ttl_ms, answer_timeout(ttl_ms), &tidying)
                .await;
            if !limit.queues && tries > self.options.retry_count {
                return Err(self.unavailable(claim, &tried, tries));
            }
            *last = Some((tried, tries));
            sleep(self.pause()?).await;
            // A pending release must not remove what the next try is granted. A server that has
            // just come back may receive the new request before the old release.
            tidying.cancel();
        }
        Err(Error::internal("a lock was tried for too often to count"))
    }

    /// Releases what a minority has granted. If a server does not answer, the release is retried in
    /// the background until the grant on that server has ended with its TTL.
    async fn clean_up(
        &self,
        claim: &Claim,
        ttl_ms: u64,
        answer_timeout: Duration,
        end: &CancellationToken,
    ) {
        let until = Instant::now() + Duration::from_millis(ttl_ms);
        self.release_all(claim, 0, until, answer_timeout, end).await;
    }

    async fn release_all(
        &self,
        claim: &Claim,
        token: FencingToken,
        until: Instant,
        answer_timeout: Duration,
        end: &CancellationToken,
    ) {
        let releases = self.begin_releases(claim, token, until, end);
        self.released(&releases, answer_timeout).await;
    }

    fn begin_releases(
        &self,
        claim: &Claim,
        token: FencingToken,
        until: Instant,
        end: &CancellationToken,
    ) -> Vec<Release> {
        let begin = |store: &Arc<dyn Store>| {
            Release::begin(store.clone(), claim.clone(), token, until, end.clone())
        };
        self.stores.iter().map(begin).collect()
    }

    /// The outcomes on the servers that are reachable.
    async fn released(&self, releases: &[Release], answer_timeout: Duration) -> Vec<Option<Holds>> {
        join_all(self.stores.iter().zip(releases).map(|(store, release)| {
            let outcome = release.clone().within(answer_timeout);
            answer(&**store, answer_timeout, Box::pin(outcome))
        }))
        .await
    }

    async fn do_release(
        &self,
        claim: &Claim,
        token: FencingToken,
        until: Instant,
        answer_timeout: Duration,
    ) -> Result<Holds> {
        let deadline = Instant::now() + answer_timeout;
        let releases = self.begin_releases(claim, token, until, &self.gone);
        let mut answers = self
            .released(&releases, answer_timeout.min(ANSWER_TIMEOUT))
            .await;
        // The remaining servers decide: one that is away now may be back before the call must
        // answer.
        let left = deadline.saturating_duration_since(Instant::now());
        let mut late: FuturesUnordered<_> = releases
            .into_iter()
            .enumerate()
            .filter(|(at, _)| answers[*at].is_none())
            .map(async |(at, release)| (at, release.within(left).await.ok()))
            .collect();
        loop {
            let verdict = self.verdict(&answers);
            if verdict.is_ok() {
                return verdict;
            }
            // A majority does not hold the lock any more. It is not known that the lock was lost
            // before this release: some servers may have come back without it since the last
            // renewal.
            if answers.iter().flatten().count() >= self.majority() {
                return Ok(Holds::Yes);
            }
            let Some((at, outcome)) = late.next().await else {
                return verdict;
            };
            answers[at] = outcome;
        }
    }

    fn pause(&self) -> Result<Duration> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| {
            Error::internal("the system has no random numbers to give").with_cause(error)
        })?;
        let part = f64::from(u32::from_ne_bytes(random)) / f64::from(u32::MAX);
        let jitter = self.options.retry_jitter_ms as f64 * part;
        Ok(Duration::from_millis(self.options.retry_delay_ms)
            + Duration::from_secs_f64(jitter / 1_000.0))
    }

    fn unavailable(&self, claim: &Claim, tried: &Try, tries: u32) -> Error {
        let held = match &tried.owner {
            Some(owner) => format!("it is held by {}", ids::display_id(owner)),
            None => "nobody else is known to hold it".into(),
        };
        Error::new(
            Code::LockUnavailable,
            format!(
                "lock {} was not granted by a majority, which is {} of {} servers: {} answered, {held}; \
                 tried {tries} times",
                ids::display_id(&claim.name),
                self.majority(),
                self.stores.len(),
                tried.answered,
            ),
        )
    }

    async fn do_extend(
        &self,
        claim: &Claim,
        token: FencingToken,
        ttl_ms: u64,
    ) -> Result<(Holds, Instant)> {
        let sent = Instant::now();
        let answer_timeout = answer_timeout(ttl_ms);
        let answers = self
            .request(answer_timeout, |store| {
                store.locks().lock_extend(claim, ttl_ms)
            })
            .await;
        let until = until(sent, ttl_ms, self.options.drift_factor);
        let verdict = self.verdict(&answers)?;
        if matches!(verdict, Holds::No(_)) {
            // A minority has extended a lock that nobody holds any more.
            self.clean_up(claim, ttl_ms, Duration::ZERO, &self.gone)
                .await;
        }
        if verdict == Holds::Yes {
            // Servers that were down or have lost the lock take part in the next renewal. They do
            // not count in this one: another client may have had the lock there in the meantime.
            let take = Take {
                ttl_ms,
                token: Token::Agreed(token),
                wait: None,
            };
            let again = self.stores.iter().zip(&answers);
            join_all(again.map(|(store, answer)| {
                let free = matches!(answer, Some(Holds::No(None)));
                let call = free.then(|| store.locks().lock_take(claim, &take));
                // The next renewal learns the outcome.
                async move { self::answer(&**store, answer_timeout, call?).await }
            }))
            .await;
        }
        Ok((verdict, until))
    }

    /// The verdict of a majority. Fails with an unknown outcome if servers that did not answer
    /// could decide it.
    fn verdict(&self, answers: &[Option<Holds>]) -> Result<Holds> {
        let count =
            |wanted: fn(&Option<Holds>) -> bool| answers.iter().filter(|a| wanted(a)).count();
        let yes = count(|answer| matches!(answer, Some(Holds::Yes)));
        let silent = count(Option::is_none);
        if yes >= self.majority() {
            return Ok(Holds::Yes);
        }
        if yes + silent >= self.majority() {
            return Err(self.too_few(answers.len() - silent));
        }
        let owner = answers.iter().find_map(|answer| match answer {
            Some(Holds::No(owner)) => owner.clone(),
            _ => None,
        });
        Ok(Holds::No(owner))
    }

    fn too_few(&self, answered: usize) -> Error {
        Error::new(
            Code::Unavailable,
            format!(
                "{answered} of {} lock servers answered, {} are needed",
                self.stores.len(),
                self.majority()
            ),
        )
        .with_unknown_outcome()
    }

    async fn do_inspect(&self, name: &str) -> Result<Option<Inspection>> {
        let answers: Vec<_> = self
            .request(ANSWER_TIMEOUT, |store| store.locks().lock_inspect(name))
            .await
            .into_iter()
            .flatten()
            .collect();
        if answers.len() < self.majority() {
            return Err(Error {
                outcome_unknown: false,
                ..self.too_few(answers.len())
            });
        }
        let mut holders: HashMap<String, Vec<Inspection>> = HashMap::new();
        for found in answers.into_iter().flatten() {
            holders.entry(found.owner.clone()).or_default().push(found);
        }
        let held = holders
            .into_values()
            .find(|found| found.len() >= self.majority());
        Ok(held.and_then(|mut found| {
            // The lock is held as long as a majority of servers holds it. A grant without a TTL
            // never ends.
            found.sort_by_key(|one| std::cmp::Reverse(one.ttl_left_ms.unwrap_or(u64::MAX)));
            let token = found.iter().filter_map(|one| one.token).max();
            let last = found.into_iter().nth(self.majority() - 1)?;
            Some(Inspection { token, ..last })
        }))
    }

    async fn do_revoke(&self, name: &str) -> Result<Option<Revoked>> {
        let answers: Vec<_> = self
            .request(ANSWER_TIMEOUT, |store| store.locks().lock_revoke(name))
            .await
            .into_iter()
            .flatten()
            .collect();
        if answers.len() < self.majority() {
            return Err(self.too_few(answers.len()));
        }
        Ok(answers
            .into_iter()
            .flatten()
            .max_by_key(|revoked| revoked.token))
    }
}

/// The result of a call. If the connection breaks, this does not wait until it is restored.
async fn answer<T>(
    store: &dyn Store,
    answer_timeout: Duration,
    mut call: BoxFuture<'_, Result<T>>,
) -> Option<T> {
    let deadline = Instant::now() + answer_timeout;
    loop {
        tokio::select! {
            result = &mut call => return result.ok(),
            () = sleep(LOOK) => {}
        }
        if !store.locks().reachable() || Instant::now() >= deadline {
            return None;
        }
    }
}

fn answer_timeout(ttl_ms: u64) -> Duration {
    (Duration::from_millis(ttl_ms) / 10).clamp(MIN_ANSWER_TIMEOUT, MAX_ANSWER_TIMEOUT)
}

impl LockBackend for Quorum {
    fn acquire<'a>(
        &'a self,
        claim: &'a Claim,
        ttl_ms: u64,
        limit: WaitLimit,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Grant>> {
        Box::pin(self.do_acquire(claim, ttl_ms, limit, stop))
    }

    fn extend<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<(Holds, Instant)>> {
        Box::pin(self.do_extend(claim, token, ttl_ms))
    }

    fn release<'a>(
        &'a self,
        claim: &'a Claim,
        token: FencingToken,
        until: Instant,
        answer_timeout: Duration,
    ) -> BoxFuture<'a, Result<Holds>> {
        Box::pin(self.do_release(claim, token, until, answer_timeout))
    }

    fn revoke<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Revoked>>> {
        Box::pin(self.do_revoke(name))
    }

    fn inspect<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Inspection>>> {
        Box::pin(self.do_inspect(name))
    }

    /// Subscribes to nothing: a loss on one server is not the loss of the majority. A renewal finds
    /// a loss.
    fn listen(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn emits_events(&self) -> bool {
        false
    }

    fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    fn end(&self) {
        self.gone.cancel();
    }
}
