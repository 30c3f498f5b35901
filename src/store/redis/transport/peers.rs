//! What the links to one endpoint share.
//!
//! An endpoint (a proxy, a DNS name, the master that sentinels name) can begin to lead to another
//! server while connections to the old server stay open. Only a new connection detects this. Each
//! new connection therefore reports its server, and the links to another server reconnect. When a
//! link breaks, the others check their connections, because the same cause may have broken all of
//! them.

use crate::failpoints::failpoint;
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// Maximum number of former servers of an endpoint that are remembered.
const MAX_FORMER: usize = 16;
/// How long links stay with their servers when an endpoint leads to a former server again. Each
/// return doubles the pause. If an endpoint leads to several servers at once, links must not
/// reconnect all the time.
const FIRST_PAUSE: Duration = Duration::from_millis(1_000);
const MAX_PAUSE: Duration = Duration::from_secs(3_600);

pub struct Peers {
    current: watch::Sender<Current>,
    history: Mutex<History>,
    /// The last round of checks that was requested.
    round: watch::Sender<u64>,
    /// The last round in which the link for calls was found to work. `None`: there is no such link.
    calls: watch::Sender<Option<u64>>,
}

/// The server of the latest connection.
struct Current {
    /// Its run id; `None` if it is unknown.
    run_id: Option<Arc<str>>,
    /// When the attempt for that connection began. Attempts that began earlier are ignored.
    began: Instant,
    /// When links begin to move to that server.
    moves_at: Instant,
}

#[derive(Default)]
struct History {
    /// Oldest first.
    former: VecDeque<Arc<str>>,
    /// The last return to a former server, and the pause at that time.
    returned: Option<(Instant, Duration)>,
}

impl History {
    /// How long links stay with their servers when the endpoint leads from `from` to `to`.
    fn pause(&mut self, from: &Arc<str>, to: &Arc<str>, now: Instant) -> Duration {
        self.former.retain(|former| former != from);
        if self.former.len() == MAX_FORMER {
            self.former.pop_front();
        }
        self.former.push_back(from.clone());
        if !self.former.contains(to) {
            return Duration::ZERO;
        }
        let pause = match self.returned {
            Some((at, pause)) if now.duration_since(at) <= 2 * pause + MAX_PAUSE / 60 => {
                (2 * pause).min(MAX_PAUSE)
            }
            _ => FIRST_PAUSE,
        };
        self.returned = Some((now, pause));
        pause
    }
}

impl Default for Peers {
    fn default() -> Self {
        let now = Instant::now();
        Peers {
            current: watch::Sender::new(Current {
                run_id: None,
                began: now,
                moves_at: now,
            }),
            history: Mutex::default(),
            round: watch::Sender::new(0),
            calls: watch::Sender::new(None),
        }
    }
}

impl Peers {
    /// Reports that a connection whose attempt began at `began` leads to the server with this run
    /// id.
    pub fn found(&self, run_id: &Arc<str>, began: Instant) {
        let now = Instant::now();
        self.current.send_if_modified(|current| {
            if began < current.began {
                return false;
            }
            current.began = began;
            let before = current.run_id.replace(run_id.clone());
            let Some(before) = before.filter(|before| before != run_id) else {
                return false;
            };
            current.moves_at = now + self.history.lock().pause(&before, run_id, now);
            true
        });
    }

    /// Resolves when a connection to the server `own` should be closed, because the endpoint leads
    /// to another server.
    pub async fn lead_elsewhere(&self, own: Option<&Arc<str>>) {
        let Some(own) = own.filter(|_| !failpoint!(Replaced)) else {
            return std::future::pending().await;
        };
        let mut current = self.current.subscribe();
        loop {
            let moves_at = {
                let current = current.borrow_and_update();
                let is_other = current.run_id.as_ref().is_some_and(|now| now != own);
                is_other.then_some(current.moves_at)
            };
            let moves = async {
                match moves_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = moves => return,
                // The sender lives as long as `self`.
                _ = current.changed() => {}
            }
        }
    }

    /// Requests a check of all links' connections. Returns the number of the round.
    pub fn check(&self) -> u64 {
        let mut called = 0;
        self.round.send_modify(|round| {
            *round += 1;
            called = *round;
        });
        called
    }

    pub fn round(&self) -> u64 {
        *self.round.borrow()
    }

    /// Resolves when a round after the given one is requested.
    pub async fn round_after(&self, round: u64) {
        // The sender lives as long as `self`.
        let _ = self.round.subscribe().wait_for(|now| *now > round).await;
    }

    /// Reports that there is a link for calls, and that it was found to work in the given round.
    pub fn calls_worked(&self, round: u64) {
        self.calls
            .send_modify(|last| *last = (*last).max(Some(round)));
    }

    /// Reports that there is no longer a link for calls.
    pub fn calls_ended(&self) {
        self.calls.send_replace(None);
    }

    /// Requests a check, and resolves when calls work. Resolves at once if there is no link for
    /// calls.
    pub async fn calls_work(&self) {
        let round = self.check();
        let mut calls = self.calls.subscribe();
        // The sender lives as long as `self`.
        let _ = calls
            .wait_for(|last| last.is_none_or(|last| last >= round))
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn id(text: &str) -> Arc<str> {
        text.into()
    }

    fn moves(peers: &Peers, own: &str) -> bool {
        peers
            .lead_elsewhere(Some(&id(own)))
            .now_or_never()
            .is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn links_move_to_a_new_server_at_once_and_to_a_former_one_after_growing_pauses() {
        let peers = Peers::default();
        peers.found(&id("a"), Instant::now());
        assert!(!moves(&peers, "a"));
        peers.found(&id("b"), Instant::now());
        assert!(moves(&peers, "a"));
        assert!(!moves(&peers, "b"));
        // Back and forth, as through a proxy in front of several servers.
        for (turn, seconds) in [1, 2, 4, 8].into_iter().enumerate() {
            let (own, other) = if turn % 2 == 0 {
                ("b", "a")
            } else {
                ("a", "b")
            };
            peers.found(&id(other), Instant::now());
            let began = Instant::now();
            peers.lead_elsewhere(Some(&id(own))).await;
            let waited = began.elapsed().as_millis();
            assert!(
                (seconds * 1000..=seconds * 1000 + 2).contains(&waited),
                "{waited}"
            );
        }
        // After a quiet time, the server counts as one that came back.
        tokio::time::advance(Duration::from_secs(600)).await;
        peers.found(&id("a"), Instant::now());
        let began = Instant::now();
        peers.lead_elsewhere(Some(&id("b"))).await;
        assert!(began.elapsed() < Duration::from_millis(1_100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_begun_before_says_nothing_new() {
        let peers = Peers::default();
        let before = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        peers.found(&id("b"), Instant::now());
        peers.found(&id("a"), before);
        assert!(moves(&peers, "a"));
        assert!(!moves(&peers, "b"));
    }

    #[tokio::test]
    async fn calls_work_once_their_link_was_checked_after_the_question() {
        let peers = Peers::default();
        // There is no link for calls.
        peers.calls_work().await;
        peers.calls_worked(peers.round());
        let mut question = Box::pin(peers.calls_work());
        assert!((&mut question).now_or_never().is_none());
        peers.round_after(1).await;
        peers.calls_worked(1);
        assert!((&mut question).now_or_never().is_none());
        peers.calls_worked(peers.round());
        question.await;
    }
}
