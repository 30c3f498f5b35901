//! Logs one line when a server or a part of a cluster becomes unreachable, and one when it is
//! reachable again, whatever the number of links to it.

use crate::store::{LogLevel, StoreNotifications};
use parking_lot::Mutex;
use std::collections::HashSet;

#[derive(Default)]
pub struct Outage(Mutex<State>);

#[derive(Default)]
struct State {
    /// The links that have failed to connect and are retrying.
    away: HashSet<u64>,
    logged: bool,
}

impl Outage {
    /// A link failed to connect.
    pub fn begin(&self, link: u64, notifications: &dyn StoreNotifications, why: &str) {
        let mut state = self.0.lock();
        state.away.insert(link);
        if !std::mem::replace(&mut state.logged, true) {
            notifications.log(LogLevel::Warn, &format!("Redis is away: {why}"));
        }
    }

    /// A link is connected or closed.
    pub fn forget(&self, link: u64) {
        self.0.lock().away.remove(&link);
    }

    /// Logs the end of the outage if no link is still retrying.
    pub fn log_end(&self, notifications: &dyn StoreNotifications, display: &str) {
        let mut state = self.0.lock();
        if state.logged && state.away.is_empty() {
            state.logged = false;
            notifications.log(LogLevel::Info, &format!("Redis is back: {display}"));
        }
    }
}
