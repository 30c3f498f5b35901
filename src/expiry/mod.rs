//! The reaper: passes over what is due (spec section 6), at a pace that keeps a `leave` within
//! `sweepIntervalMs` of the connection's TTL. `docs/internals/expiry.md` says how it works.

mod turn;

pub use turn::{Turn, TurnListener};

use crate::{
    failpoints::failpoint,
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
    /// How long the answer of that look may take before this node no longer relies on the others.
    answer: Duration,
}

impl Pace {
    fn new(interval: Duration) -> Self {
        let pause = interval * 3 / 4;
        let serves = pause * 3 / 4;
        Pace {
            pause,
            serves,
            behind: pause - serves + pause / 5,
            answer: interval / 20,
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
    /// What else is done once for all nodes.
    pub turn_listener: Arc<dyn TurnListener>,
    pub metrics: Arc<Metrics>,
    pub notifications: Arc<dyn StoreNotifications>,
    pub expiry: Expiry,
    pub sweep_interval: Duration,
    pub fallback_interval: Duration,
    pub settings: SweepSettings,
    /// Told when something may be due at once: a notification, or a gap in them.
    pub due: Arc<Notify>,
}

impl Reaper {
    /// One full pass: all that is due is looked at, and rooms that only other nodes wrote are taken
    /// in.
    ///
    /// Fails only if nothing at all could be processed. What could not be is logged, and is part of the
    /// next pass.
    pub async fn pass(&self) -> Result<Sweep> {
        let sweep = self.look(true, Duration::ZERO).await?;
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
        // Whatever becomes of the passes from here on.
        self.turn_listener.turn(Turn::own());
        let watching = self.watch().await;
        let interval = match self.expiry {
            Expiry::Notifications if watching => self.fallback_interval,
            _ => self.sweep_interval,
        };
        let pace = Pace::new(interval);
        // Passes behind notifications come too rarely to rely on those of others.
        let relies_on_others = interval == self.sweep_interval;
        let mut is_own_turn = true;
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
            let mut served = false;
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
                        served = true;
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
            if served && relies_on_others {
                is_own_turn = false;
                self.turn_listener.turn(Turn::other(pause, pace.answer));
            } else if !std::mem::replace(&mut is_own_turn, true) {
                // It has just fallen to this node.
                self.turn_listener.turn(Turn::own());
            }
            called_for = tokio::select! {
                () = sleep(pause) => false,
                () = self.due.notified() => {
                    sleep(GATHER).await;
                    true
                }
            };
            if is_own_turn {
                // Before the pass, which may take long or fail.
                self.turn_listener.turn(Turn::own());
            }
        }
    }

    /// Asks the store to tell of expirations, if that is wanted.
    async fn watch(&self) -> bool {
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
