//! The leases of nodes that answer for their connections: the equivalent of `lua/node_*.lua`. Every
//! method runs under the core's mutex, and gets the time of that step. The connections themselves
//! are in `presence.rs`.

use crate::store::node::{Lease, NodeLook, Renewal};
use std::{collections::BTreeMap, sync::Arc};

struct Record {
    /// When the lease ends.
    ends: u64,
    lease_ms: u64,
    /// When the record is removed, unless the lease is renewed.
    kept_until: u64,
    /// Final: a node that was declared dead never comes back under the same id.
    dead: bool,
    /// The looks since the last renewal.
    watch: Option<Watch>,
}

/// Looks at a node that is late, without a break of more than a quarter of its lease.
#[derive(Clone, Copy)]
struct Watch {
    first: u64,
    last: u64,
}

/// The nodes of a core that have begun their leases. There are few, so a search looks at each.
#[derive(Default)]
pub(super) struct Nodes(BTreeMap<Arc<str>, Record>);

impl Nodes {
    /// `node_renew.lua`.
    pub(super) fn renew(&mut self, now: u64, lease: &Lease) -> Renewal {
        self.expire(now);
        match self.0.get(&lease.node) {
            Some(record) if record.dead => return Renewal::Dead,
            None if !lease.begins => return Renewal::Missing,
            _ => {}
        }
        let record = Record {
            ends: now.saturating_add(lease.lease_ms),
            lease_ms: lease.lease_ms,
            kept_until: now.saturating_add(lease.kept_ms),
            dead: false,
            watch: None,
        };
        self.0.insert(lease.node.clone(), record);
        Renewal::Renewed
    }

    /// Whether a node has a record and was not declared dead. Only such a node can become the owner
    /// of a connection.
    pub(super) fn lives(&self, now: u64, node: &str) -> bool {
        self.kept(now, node).is_some_and(|record| !record.dead)
    }

    /// Whether a node has a record and was declared dead. Then its connections can be removed.
    pub(super) fn is_dead(&self, now: u64, node: &str) -> bool {
        self.kept(now, node).is_some_and(|record| record.dead)
    }

    /// `node_due.lua`: the nodes whose leases end within half of their length, and dead ones. The
    /// record of a dead node is removed together with its last connection.
    pub(super) fn due(&mut self, now: u64) -> Vec<Arc<str>> {
        self.expire(now);
        self.0
            .iter()
            .filter(|(_, record)| record.dead || record.is_late(now))
            .map(|(node, _)| node.clone())
            .collect()
    }

    /// `node_look.lua`. The clock is monotonic, so an end is never more than a lease ahead. A break
    /// between looks shows that this process, and its nodes with it, has not run. They then get
    /// half of the lease to renew.
    pub(super) fn look(&mut self, now: u64, node: &str) -> NodeLook {
        self.expire(now);
        let Some(record) = self.0.get_mut(node) else {
            return NodeLook::Missing;
        };
        if record.dead {
            return NodeLook::Dead;
        }
        let half = record.lease_ms / 2;
        if !record.is_late(now) {
            return NodeLook::Lives {
                again_ms: record.ends - now - half,
            };
        }
        let unbroken = |watch: &Watch| now - watch.last <= record.lease_ms / 4;
        let first = record.watch.filter(unbroken).map_or(now, |it| it.first);
        if now >= record.ends && now - first >= half {
            record.dead = true;
            return NodeLook::Dead;
        }
        record.watch = Some(Watch { first, last: now });
        NodeLook::Lives { again_ms: 0 }
    }

    /// `node_end.lua`.
    pub(super) fn end(&mut self, now: u64, node: &str) {
        self.expire(now);
        if let Some(record) = self.0.get_mut(node) {
            record.dead = true;
        }
    }

    /// Removes the record of a node.
    pub(super) fn remove(&mut self, node: &str) {
        self.0.remove(node);
    }

    fn kept(&self, now: u64, node: &str) -> Option<&Record> {
        self.0.get(node).filter(|record| now < record.kept_until)
    }

    /// Removes records that were not renewed for too long. Nobody else asks for them again.
    fn expire(&mut self, now: u64) {
        self.0.retain(|_, record| now < record.kept_until);
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Record {
    /// Whether the lease ends within half of its length, or has ended. A node renews three times in
    /// that period.
    fn is_late(&self, now: u64) -> bool {
        self.ends <= now.saturating_add(self.lease_ms / 2)
    }
}
