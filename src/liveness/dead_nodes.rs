//! Finds nodes that have died, and removes their connections. Part of the reaper's passes.

use crate::{
    metrics::{Metrics, count},
    model::{error::Result, presence::Sweep},
    store::{
        PresenceStore,
        node::{NodeLook, Removal},
    },
};
use parking_lot::Mutex;
use std::{collections::HashSet, sync::Arc, time::Duration};
use tokio::time::sleep;

/// Minimum pause between two looks at a node.
const MIN_PAUSE: Duration = Duration::from_millis(10);

pub struct DeadNodes {
    store: Arc<dyn PresenceStore>,
    metrics: Arc<Metrics>,
    /// The length of leases in this fleet, as far as this node knows.
    lease: Duration,
    /// Pause between two looks at a node whose lease ends soon.
    pause: Duration,
    /// The nodes that this node looks at now.
    watched: Mutex<HashSet<Arc<str>>>,
}

impl DeadNodes {
    pub fn new(
        store: Arc<dyn PresenceStore>,
        metrics: Arc<Metrics>,
        lease: Duration,
        sweep_interval: Duration,
    ) -> Arc<DeadNodes> {
        Arc::new(DeadNodes {
            store,
            metrics,
            lease,
            pause: (lease / 8).min(sweep_interval / 2).max(MIN_PAUSE),
            watched: Mutex::default(),
        })
    }

    /// Looks at the nodes that are late. A node is watched until it renews its lease or is dead and
    /// its connections are removed. Watching goes on in the background.
    pub async fn pass(self: &Arc<Self>) -> Result<()> {
        let lease_ms = self.lease.as_millis() as u64;
        for node in self.store.due_nodes(lease_ms).await? {
            if !self.watched.lock().insert(node.clone()) {
                continue;
            }
            let dead_nodes = self.clone();
            tokio::spawn(async move {
                // The next pass continues after a failure.
                if let Err(error) = dead_nodes.watch(&node).await {
                    tracing::debug!(node = &*node, %error, "a node that is late");
                }
                dead_nodes.watched.lock().remove(&node);
            });
        }
        Ok(())
    }

    /// Removes the connections of nodes that are known to be dead now, for `reapOnce()`.
    pub async fn pass_once(self: &Arc<Self>, sweep: &mut Sweep) -> Result<()> {
        let lease_ms = self.lease.as_millis() as u64;
        for node in self.store.due_nodes(lease_ms).await? {
            if self.store.look_at_node(&node).await? == NodeLook::Dead {
                while let Removal::More { after_ms: 0 } =
                    self.store.remove_connections(&node, false, sweep).await?
                {}
            }
        }
        self.pass().await
    }

    async fn watch(&self, node: &str) -> Result<()> {
        loop {
            match self.store.look_at_node(node).await? {
                NodeLook::Lives { again_ms: 0 } => sleep(self.pause).await,
                NodeLook::Lives { .. } | NodeLook::Missing => return Ok(()),
                NodeLook::Dead => break,
            }
        }
        let removed = remove(&*self.store, node, false).await?;
        count(&self.metrics.counters.expired, removed);
        Ok(())
    }
}

/// Removes the connections of a dead node. `ended`: it is this node, and no call of it is in
/// flight. Returns how many there were.
pub(super) async fn remove(store: &dyn PresenceStore, node: &str, ended: bool) -> Result<u64> {
    let mut sweep = Sweep::default();
    loop {
        match store.remove_connections(node, ended, &mut sweep).await? {
            Removal::More { after_ms: 0 } => {}
            Removal::More { after_ms } => sleep(Duration::from_millis(after_ms)).await,
            Removal::Done => return Ok(sweep.expired),
        }
    }
}
