//! One line in the log when a server, or a part of a cluster, is away, and one when it is back, whatever
//! the number of links that find it so.

use crate::store::{EventSink, LogLevel};
use parking_lot::Mutex;
use std::collections::HashSet;

#[derive(Default)]
pub struct Outage(Mutex<State>);

#[derive(Default)]
struct State {
    /// The links that are trying to connect, and have failed to.
    away: HashSet<u64>,
    logged: bool,
}

impl Outage {
    /// A link cannot connect.
    pub fn begin(&self, link: u64, sink: &dyn EventSink, why: &str) {
        let mut state = self.0.lock();
        state.away.insert(link);
        if !std::mem::replace(&mut state.logged, true) {
            sink.log(LogLevel::Warn, &format!("Redis is away: {why}"));
        }
    }

    /// A link is connected, or has ended.
    pub fn forget(&self, link: u64) {
        self.0.lock().away.remove(&link);
    }

    /// Says that it is over, if it is.
    pub fn log_end(&self, sink: &dyn EventSink, display: &str) {
        let mut state = self.0.lock();
        if state.logged && state.away.is_empty() {
            state.logged = false;
            sink.log(LogLevel::Info, &format!("Redis is back: {display}"));
        }
    }
}
