//! Connections for which a heartbeat that writes a state, or has to look the connection up, is in
//! flight. Later heartbeats of such a connection are parked here until the first is settled, so
//! that patches apply in the order of the calls.

use super::request::{Group, Waiting};
use foldhash::HashMap;
use std::{collections::VecDeque, sync::Arc};
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Busy {
    /// The parked heartbeats of each busy connection, in order of arrival.
    connections: HashMap<Arc<str>, VecDeque<Waiting>>,
    parked: usize,
    /// Lower bound of the arrival times of all parked heartbeats.
    oldest: Option<Instant>,
}

impl Busy {
    /// Marks connections as busy and returns their groups. Groups of connections that are already
    /// busy are parked.
    pub fn claim(&mut self, groups: Vec<Group>) -> Vec<Group> {
        let mut claimed = Vec::with_capacity(groups.len());
        for group in groups {
            match self.connections.get_mut(&group.conn) {
                None => {
                    self.connections.insert(group.conn.clone(), VecDeque::new());
                    claimed.push(group);
                }
                Some(parked) => {
                    let first = group.waiting.first().map(|waiting| waiting.since);
                    let overtaken = parked.back().map(|last| last.since) > first;
                    self.oldest = earliest(self.oldest, first);
                    self.parked += group.waiting.len();
                    parked.extend(group.waiting);
                    if overtaken {
                        // The group was sent in a batch of plain heartbeats and returned from it as
                        // a miss, so later heartbeats may be parked already.
                        parked
                            .make_contiguous()
                            .sort_by_key(|waiting| waiting.since);
                    }
                }
            }
        }
        claimed
    }

    /// Call when the heartbeats in flight of these connections are settled. Returns the heartbeats
    /// parked behind them, at most `max` of each. Connections without parked heartbeats are no
    /// longer busy.
    pub fn next(&mut self, connections: Vec<Arc<str>>, max: usize) -> Vec<Group> {
        let mut groups = Vec::new();
        for conn in connections {
            let Some(parked) = self.connections.get_mut(&conn) else {
                continue;
            };
            if parked.is_empty() {
                self.connections.remove(&conn);
                continue;
            }
            let waiting: Vec<Waiting> = parked.drain(..max.min(parked.len())).collect();
            self.parked -= waiting.len();
            groups.push(Group { conn, waiting });
        }
        if self.parked == 0 {
            self.oldest = None;
        }
        groups
    }

    /// Takes parked heartbeats that arrived at this time or before.
    pub fn take_until(&mut self, time: Instant) -> Vec<Waiting> {
        let mut taken = Vec::new();
        if self.oldest.is_none_or(|oldest| oldest > time) {
            return taken;
        }
        let mut oldest = None;
        for parked in self.connections.values_mut() {
            let n = parked
                .iter()
                .take_while(|waiting| waiting.since <= time)
                .count();
            taken.extend(parked.drain(..n));
            oldest = earliest(oldest, parked.front().map(|waiting| waiting.since));
        }
        self.parked -= taken.len();
        self.oldest = oldest;
        taken
    }

    /// How many heartbeats are parked.
    pub fn parked(&self) -> usize {
        self.parked
    }

    /// Lower bound of the arrival times of parked heartbeats; `None` if none is parked.
    pub fn oldest(&self) -> Option<Instant> {
        self.oldest
    }
}

/// The earlier of two optional times.
pub(super) fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}
