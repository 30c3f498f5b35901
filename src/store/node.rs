//! The operations on the leases of nodes that answer for their connections
//! (docs/internals/liveness.md).

use crate::model::{
    error::Result,
    presence::{Epoch, Sweep},
};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Who answers for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The id of a node that has begun its lease.
    pub node: Arc<str>,
    /// Grows with each call of the node that may make it the owner of a connection.
    pub number: u64,
}

/// How long a connection lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// How long it lives without a sign of life. With an owner, the owner's lease ends before.
    pub ttl_ms: u64,
    /// `None`: heartbeats keep it alive.
    pub owner: Option<Owner>,
}

impl Lifetime {
    /// The lifetime of a connection that heartbeats keep alive.
    pub fn of_heartbeats(ttl_ms: u64) -> Lifetime {
        Lifetime {
            ttl_ms,
            owner: None,
        }
    }
}

/// A lease that is begun or renewed.
#[derive(Clone, Debug)]
pub struct Lease {
    pub node: Arc<str>,
    pub lease_ms: u64,
    /// How long the store keeps the record of the node without a renewal.
    pub kept_ms: u64,
    /// Begin the lease, if the node has none.
    pub begins: bool,
}

/// The outcome of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    Renewed,
    /// The node was declared dead.
    Dead,
    /// The store has no record of the node.
    Missing,
}

/// The result of looking at a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeLook {
    Lives {
        /// When to look again; 0: within an eighth of the lease, because it ends soon or has ended.
        again_ms: u64,
    },
    /// It was declared dead, now or before.
    Dead,
    Missing,
}

/// How far the removal of a dead node's connections is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// There are more: call again after so many ms.
    More {
        after_ms: u64,
    },
    Done,
}

/// A message for a node: it does not own a connection any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispossessed {
    pub conn: Arc<str>,
    /// The epoch that it owned.
    pub epoch: Epoch,
}

pub trait NodeStore: Send + Sync + 'static {
    /// Begins or renews a lease. Safe to run twice.
    fn renew_lease<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Renewal>>;

    /// The nodes to look at: those whose leases end soon or have ended, and dead ones that have
    /// connections left. `lease_ms`: the length of this node's own lease.
    fn due_nodes(&self, lease_ms: u64) -> BoxFuture<'_, Result<Vec<Arc<str>>>>;

    /// Declares a node dead if it has not renewed its lease in time.
    fn look_at_node<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeLook>>;

    /// Declares a node dead at its own request.
    fn end_lease<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Removes some of the connections of a dead node, each with its `leave` (reason `timeout`),
    /// and counts them in `sweep`. `ended`: the node itself calls, and no call of it is in flight.
    fn remove_connections<'a>(
        &'a self,
        node: &'a str,
        ended: bool,
        sweep: &'a mut Sweep,
    ) -> BoxFuture<'a, Result<Removal>>;

    /// Removes connections from those of a node, after others have ended or taken them. Each comes
    /// with the number with which the node became its owner.
    fn forget_connections<'a>(
        &'a self,
        node: &'a str,
        connections: &'a [(Arc<str>, u64)],
    ) -> BoxFuture<'a, Result<()>>;
}
