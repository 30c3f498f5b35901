//! Liveness: what keeps the connections of a client alive (spec section 14). With heartbeats, each
//! connection has a TTL. With `liveness: "node"`, this node answers for its connections with one
//! lease. `docs/internals/liveness.md` describes the design.
//!
//! `lease.rs` holds the lease, `compare.rs` compares the node's connections with the store and
//! restores those that the store has lost, and `dead_nodes.rs` removes the connections of other
//! nodes that have died.

mod compare;
mod dead_nodes;
mod lease;

pub use dead_nodes::DeadNodes;
pub use lease::{Node, NodeListener, NodeSettings};

use crate::{
    model::{error::Result, presence::Epoch},
    store::Lifetime,
};
use serde::Deserialize;
use std::sync::Arc;

/// What keeps connections alive.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LivenessMode {
    /// Heartbeats of each connection.
    #[default]
    Heartbeat,
    /// The lease of the node that joined them.
    Node,
}

/// How the connections of a client are kept alive.
#[derive(Clone)]
pub struct Liveness {
    ttl_ms: u64,
    node: Option<Arc<Node>>,
}

impl Liveness {
    pub fn new(ttl_ms: u64, node: Option<Arc<Node>>) -> Liveness {
        Liveness { ttl_ms, node }
    }

    pub fn node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The lifetime of a connection that joins or sends a heartbeat now. Waits until the node has
    /// its lease.
    pub async fn lifetime(&self) -> Result<Lifetime> {
        match &self.node {
            None => Ok(Lifetime::of_heartbeats(self.ttl_ms)),
            Some(node) => node.lifetime().await,
        }
    }

    /// Records that a connection was joined or refreshed with a lifetime. Returns false if the node
    /// has lost its lease since: the connection must not live.
    pub fn keeps(&self, conn: &str, epoch: Epoch, lifetime: &Lifetime) -> bool {
        match (&self.node, &lifetime.owner) {
            (Some(node), Some(owner)) => node.keeps(conn, epoch, owner),
            _ => true,
        }
    }

    /// Handles the answer that the owner in `lifetime` was declared dead, or has no record.
    pub async fn owner_lost(&self, lifetime: &Lifetime) {
        if let (Some(node), Some(owner)) = (&self.node, &lifetime.owner) {
            node.check_lease(&owner.node).await;
        }
    }
}
