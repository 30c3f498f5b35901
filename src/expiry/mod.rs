//! The reaper: makes passes over connections that are due (spec section 6). Its interval keeps the
//! delay of a `leave` after the connection's TTL within `sweepIntervalMs`.
//! `docs/internals/expiry.md` describes the design.

mod turn;

pub use turn::{Turn, TurnListener};

use crate::{
    failpoints::failpoint,
    liveness::DeadNodes,
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

/// What triggers the passes of the reaper (spec 6.4).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Expiry {
    /// A timer.
    #[default]
    Sweep,
    /// Keyspace notifications, and a slow timer as a fallback.
    Notifications,
    /// Keyspace notifications, and a timer at the usual interval.
    Both,
}

/// Number of `fallbackSweepMs` between two comparisons of the indices of a room.
pub const CHECK_EVERY: u64 = 10;

/// Notifications within this time cause one pass.
const GATHER: Duration = Duration::from_millis(5);

/// The timing by which nodes share the passes.
struct Pace {
    /// Pause between two passes: three quarters of the interval. A connection that dies right after
    /// a pass waits for the next one, and the rest of the interval is for the work of that pass.
    pause: Duration,
    /// How long a pass serves all nodes. It is less than `pause`, so the node that made a pass
    /// makes the next one, unless it is late.
    serves: Duration,
    /// Other nodes look this long after `serves` has ended: a fifth of `pause` after the next pass
    /// is due. If the node that makes the passes died in between, the delay is no more than that.
    /// Even then, the time from pass to pass is less than an interval.
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

/// How long the reaper may fail before this is logged, in cases where the log may soon report that
/// the store is away, or the store may soon be back.
const PASSING_TROUBLE: Duration = Duration::from_millis(5_000);

/// Consecutive passes that have failed.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    logged: bool,
}

impl Trouble {
    /// Whether the failure of another pass should be logged now. It is logged once. `is_known`: the
    /// log already says why.
    fn is_news(&mut self, error: &Error, is_known: bool) -> bool {
        if is_known {
            // When the store is back, it may take a moment until it serves requests.
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
    /// Part of every pass: nodes that have died.
    pub dead_nodes: Arc<DeadNodes>,
    /// Work other than passes that is done once for all nodes.
    pub turn_listener: Arc<dyn TurnListener>,
    pub metrics: Arc<Metrics>,
    pub notifications: Arc<dyn StoreNotifications>,
    pub expiry: Expiry,
    pub sweep_interval: Duration,
    pub fallback_interval: Duration,
    pub settings: SweepSettings,
    /// Notified when something may be due at once: after an expiry notification, or a gap in the
    /// notifications.
    pub due: Arc<Notify>,
}

impl Reaper {
    /// Makes one full pass: processes everything that is due, and adds rooms that only legacy nodes
    /// wrote.
    ///
    /// Fails only if nothing at all could be processed. A part that could not be processed is
    /// logged, and is retried in the next pass.
    pub async fn pass(&self) -> Result<Sweep> {
        let mut sweep = self.look(true, Duration::ZERO).await?;
        if let Err(error) = self.dead_nodes.pass_once(&mut sweep).await {
            sweep.fail(error);
        }
        if let Some(error) = sweep.failure.as_ref().filter(|error| !self.is_known(error)) {
            self.log_part(error);
        }
        Ok(sweep)
    }

    /// Whether the log already says why a pass has failed: the store, or a part of it, is away.
    fn is_known(&self, error: &Error) -> bool {
        error.code == Code::Unavailable && !self.store.all_reachable()
    }

    fn log_part(&self, error: &Error) {
        self.notifications.log(
            LogLevel::Warn,
            &format!("The reaper cannot process some of the rooms: {error}"),
        );
    }

    /// Makes a pass, unless another node has made one within `serves`.
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
            if sweep.served_ms == 0
                && let Err(error) = self.dead_nodes.pass().await
            {
                sweep.fail(error);
            }
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

    /// Makes passes until the task is aborted. Nodes share the passes.
    pub async fn run(self: Arc<Self>) {
        // Before the first pass, because the listener must start even if passes hang or fail.
        self.turn_listener.turn(Turn::own());
        let watching = self.watch().await;
        let interval = match self.expiry {
            Expiry::Notifications if watching => self.fallback_interval,
            _ => self.sweep_interval,
        };
        let pace = Pace::new(interval);
        // With notifications, passes come too rarely to rely on those of other nodes.
        let relies_on_others = interval == self.sweep_interval;
        let mut is_own_turn = true;
        // Adoption scans all active rooms, so it is done rarely, but often enough to be in time for
        // most rooms.
        let between_adoptions = self
            .sweep_interval
            .max(Duration::from_millis(self.settings.ttl_ms / 4));
        let mut adopted: Option<Instant> = None;
        let mut failing = false;
        let (mut trouble, mut part_trouble) = (Trouble::default(), Trouble::default());
        let mut corrupt = false;
        // The first pass is made even if another node has just made one, and so is a pass after a
        // notification.
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
                        // A pass that another node made says nothing about failures.
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
                // This node has just taken over the passes.
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

    /// Has the store notify of expirations, if the options ask for it. Returns whether it does.
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
                    // The server is away: sweep as far as possible, and ask again.
                    let _ = self.pass().await;
                    sleep(self.sweep_interval).await;
                }
            }
        }
    }
}
