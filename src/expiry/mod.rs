//! The reaper: passes over what is due (spec section 6), at a pace that keeps a `leave` within
//! `sweepIntervalMs` of the connection's TTL. `docs/internals/expiry.md` says how it works.

use crate::{
    failpoints::failpoint,
    lock::Locks,
    metrics::{Metrics, count},
    model::{
        error::{Code, Error, Result},
        presence::Sweep,
    },
    store::{LogLevel, PresenceStore, Store, StoreNotifications, SweepSettings, Watch},
};
use serde::Deserialize;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::Notify, time::sleep};

/// What makes the reaper look (spec 6.4).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Expiry {
    /// The clock.
    #[default]
    Sweep,
    /// Keyspace notifications; the clock slowly behind them.
    Notifications,
    /// Both.
    Both,
}

/// The indices of every room are compared with each other once in so many `fallbackSweepMs`.
pub const CHECK_EVERY: u64 = 10;

/// Notifications that come within this time are answered by one pass.
const GATHER: Duration = Duration::from_millis(5);

/// How nodes take turns.
struct Pace {
    /// What dies right after a pass waits for the next one: three quarters of the interval to wait, the
    /// rest to work.
    pause: Duration,
    /// For how long a pass serves all. Less than the pause: whoever made a pass makes the next one, unless
    /// it is late.
    serves: Duration,
    /// Others look so long after that: a fifth of the pause after the next one is due, so that a node that
    /// died in between costs no more than that; less than an interval from pass to pass even then.
    behind: Duration,
}

impl Pace {
    fn new(interval: Duration) -> Self {
        let pause = interval * 3 / 4;
        let serves = pause * 3 / 4;
        Pace {
            pause,
            serves,
            behind: pause - serves + pause / 5,
        }
    }
}

/// For how long the reaper may fail before the log says so, where the log may say soon that the store is
/// away, or it may be back.
const PASSING_TROUBLE: Duration = Duration::from_millis(5_000);

/// Passes that have failed, one after the other.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    logged: bool,
}

impl Trouble {
    /// Whether it should be logged now that another one has failed; once. `is_known`: the log says why.
    fn is_news(&mut self, error: &Error, is_known: bool) -> bool {
        if is_known {
            // When the store is back, it may take a moment until it serves.
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let may_pass = matches!(error.code, Code::Unavailable | Code::Timeout);
        let is_news = !self.logged && (!may_pass || since.elapsed() >= PASSING_TROUBLE);
        self.logged |= is_news;
        is_news
    }
}

pub struct Reaper {
    pub store: Arc<dyn Store>,
    pub presence: Arc<dyn PresenceStore>,
    /// Those that ended with nobody there to say so are told of in passing.
    pub locks: Arc<Locks>,
    pub metrics: Arc<Metrics>,
    pub notifications: Arc<dyn StoreNotifications>,
    pub expiry: Expiry,
    pub sweep_interval: Duration,
    pub fallback_interval: Duration,
    pub settings: SweepSettings,
    /// Told when something may be due at once: a notification, or a gap in them.
    pub due: Arc<Notify>,
    pub ending_locks: tokio::sync::Mutex<()>,
}

impl Reaper {
    /// One full pass: all that is due is looked at, and rooms that only other nodes wrote are taken
    /// in.
    ///
    /// Fails only if nothing at all could be processed. What could not be is logged, and is part of the
    /// next pass.
    pub async fn pass(self: &Arc<Self>) -> Result<Sweep> {
        let look = self.look(true, Duration::ZERO);
        let sweep = if self.locks.emits_events() {
            let (sweep, ()) = tokio::join!(look, self.end_locks());
            sweep
        } else {
            // Servers of their own, of which one may hang, and no end of theirs is announced.
            let reaper = self.clone();
            tokio::spawn(async move { reaper.end_locks().await });
            look.await
        }?;
        if let Some(error) = sweep.failure.as_ref().filter(|error| !self.is_known(error)) {
            self.log_part(error);
        }
        Ok(sweep)
    }

    /// Whether the log says already why a pass has failed: the store, or a part of it, is away.
    fn is_known(&self, error: &Error) -> bool {
        error.code == Code::Unavailable && !self.store.all_reachable()
    }

    fn log_part(&self, error: &Error) {
        self.notifications.log(
            LogLevel::Warn,
            &format!("The reaper cannot process some of the rooms: {error}"),
        );
    }

    /// Has the ends of locks announced whose holders have died: apart from the rooms, and one at a time, so
    /// that a server of locks that does not answer holds up nothing else.
    async fn end_locks(&self) {
        let Ok(_one_at_a_time) = self.ending_locks.try_lock() else {
            return;
        };
        // What fails is found again by the next look.
        let _ = self.locks.settle().await;
    }

    /// A pass, unless another node has made one within the time that one serves all.
    async fn look(&self, adopt: bool, serves: Duration) -> Result<Sweep> {
        if failpoint!(Reaping) {
            return Ok(Sweep::default());
        }
        let counters = &self.metrics.counters;
        let start = Instant::now();
        let work = async {
            let settings = SweepSettings {
                serves_ms: serves.as_millis() as u64,
                ..self.settings
            };
            let mut sweep = self.presence.sweep(&settings).await?;
            if sweep.unindexed && adopt && !failpoint!(Adopting) {
                sweep += self.presence.adopt(self.settings.ttl_ms).await?;
            }
            match &sweep.failure {
                Some(error) if sweep.is_in_vain() => Err(error.clone()),
                _ => Ok(sweep),
            }
        };
        match work.await {
            Ok(sweep) => {
                if sweep.served_ms == 0 {
                    count(&counters.sweeps, 1);
                    count(&counters.sweeps_failed, u64::from(sweep.failure.is_some()));
                    self.metrics.sweep_duration.record(start.elapsed());
                }
                tracing::debug!(
                    rooms = sweep.rooms,
                    expired = sweep.expired,
                    repairs = sweep.repairs,
                    served_ms = sweep.served_ms,
                    "pass of the reaper"
                );
                count(&counters.rooms_swept, sweep.rooms);
                count(&counters.expired, sweep.expired);
                count(&counters.repairs, sweep.repairs);
                count(&counters.rooms_corrupt, sweep.corrupt);
                if sweep.expired > 0 {
                    self.metrics
                        .sweep_lag
                        .record(Duration::from_millis(sweep.lag_ms));
                }
                Ok(sweep)
            }
            Err(error) => {
                count(&counters.sweeps_failed, 1);
                Err(error)
            }
        }
    }

    /// Passes until the task is aborted, in turn with other nodes.
    pub async fn run(self: Arc<Self>) {
        let watching = self.watch().await;
        let interval = match self.expiry {
            Expiry::Notifications if watching => self.fallback_interval,
            _ => self.sweep_interval,
        };
        let pace = Pace::new(interval);
        // Looking for rooms of others costs a scan of all; often enough to be in time for most.
        let between_adoptions = self
            .sweep_interval
            .max(Duration::from_millis(self.settings.ttl_ms / 4));
        let mut adopted: Option<Instant> = None;
        let mut failing = false;
        let (mut trouble, mut part_trouble) = (Trouble::default(), Trouble::default());
        let mut corrupt = false;
        // The first pass comes in any case, and so does one that something calls for.
        let mut called_for = true;
        loop {
            let adopt = adopted.is_none_or(|at| at.elapsed() >= between_adoptions);
            let serves = if called_for || failing {
                Duration::ZERO
            } else {
                pace.serves
            };
            let pause = match self.look(adopt, serves).await {
                Ok(sweep) => {
                    failing = false;
                    trouble = Trouble::default();
                    match &sweep.failure {
                        Some(error) if part_trouble.is_news(error, self.is_known(error)) => {
                            self.log_part(error);
                        }
                        // A pass that was left to others says nothing.
                        None if sweep.served_ms == 0 => part_trouble = Trouble::default(),
                        _ => {}
                    }
                    if sweep.served_ms == 0 {
                        let reaper = self.clone();
                        tokio::spawn(async move { reaper.end_locks().await });
                    }
                    if sweep.corrupt > 0 && !corrupt {
                        corrupt = true;
                        self.notifications.log(
                            LogLevel::Warn,
                            "The reaper cannot look at some rooms: their keys hold values of other \
                             types; something else writes under the same key prefix",
                        );
                    }
                    if adopt && sweep.unindexed {
                        adopted = Some(Instant::now());
                    }
                    if sweep.served_ms > 0 {
                        Duration::from_millis(sweep.served_ms) + pace.behind
                    } else {
                        pace.pause
                    }
                }
                Err(error) => {
                    if trouble.is_news(&error, self.is_known(&error)) {
                        self.notifications
                            .log(LogLevel::Warn, &format!("The reaper cannot sweep: {error}"));
                    }
                    failing = true;
                    // The next pass must not wait for a slow fallback.
                    pace.pause.min(self.sweep_interval)
                }
            };
            called_for = tokio::select! {
                () = sleep(pause) => false,
                () = self.due.notified() => {
                    sleep(GATHER).await;
                    true
                }
            };
        }
    }

    /// Asks the store to tell of expirations, if that is wanted.
    async fn watch(self: &Arc<Self>) -> bool {
        if self.expiry == Expiry::Sweep {
            return false;
        }
        loop {
            match self.store.watch_expirations().await {
                Ok(Watch::Notified) => return true,
                Ok(Watch::Needless) => return false,
                Ok(Watch::Refused) => {
                    self.notifications.log(
                        LogLevel::Warn,
                        "The server does not let this user set notify-keyspace-events (CONFIG), or \
                         hear its notifications; dead connections are found by sweeping alone",
                    );
                    return false;
                }
                Err(error) if error.code == Code::Closed => return false,
                Err(_) => {
                    // The server is away: sweep as well as it goes, and ask again.
                    let _ = self.pass().await;
                    sleep(self.sweep_interval).await;
                }
            }
        }
    }
}
