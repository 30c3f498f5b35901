//! Compares the connections of this node with the store. Connections that the store has lost are
//! joined again. Those that others have ended or taken are not this node's any more.

use super::Node;
use crate::{
    metrics::count,
    model::{
        error::Result,
        presence::{Epoch, epoch_after},
    },
    pause::pause,
    presence::directory::{Known, OwnedConnection},
    store::{HeartbeatRefresh, Join, Joined, Lifetime, StateEncoding, Stored},
};
use futures_util::{
    FutureExt,
    future::BoxFuture,
    stream::{self, StreamExt},
};
use std::{sync::Arc, time::Duration};

/// Number of connections in one refresh.
const PAGE: usize = 256;
/// Number of joins in flight when connections are restored.
const JOINS_AT_ONCE: usize = 64;
/// Maximum number of attempts of a join that finds the connection in another place.
const MAX_ROUNDS: usize = 32;

impl Node {
    /// Refreshes all connections of this node, page by page. `lossy`: the store may have lost data,
    /// so a connection that it lacks is restored. Otherwise others have ended it.
    pub(super) async fn compare(&self, lossy: bool) -> Result<()> {
        let lifetime = self.lifetime().await?;
        for page in self.directory.all_owned().chunks(PAGE) {
            let refreshes: Vec<HeartbeatRefresh> = page
                .iter()
                .map(|owned| HeartbeatRefresh {
                    conn: owned.conn.clone(),
                    room: owned.room.clone(),
                    epoch: owned.epoch,
                    separate: owned.separate,
                })
                .collect();
            let misses = self.store.refresh_heartbeats(&refreshes, &lifetime).await?;
            let mut lost = Vec::new();
            for miss in misses {
                let owned = &page[miss.index];
                match miss.stored? {
                    // A join of this node may have replaced it meanwhile; then this does nothing.
                    Some(stored) if stored >= owned.epoch => {
                        self.dispossess(&owned.conn, owned.epoch);
                    }
                    _ if lossy => lost.push(owned),
                    _ => self.dispossess(&owned.conn, owned.epoch),
                }
            }
            let joins: Vec<BoxFuture<'_, Result<()>>> = lost
                .into_iter()
                .map(|owned| self.restore(owned).boxed())
                .collect();
            let mut joins = stream::iter(joins).buffer_unordered(JOINS_AT_ONCE);
            while let Some(joined) = joins.next().await {
                joined?;
            }
        }
        Ok(())
    }

    /// Joins a connection again that the store has lost.
    async fn restore(&self, owned: &OwnedConnection) -> Result<()> {
        // It may have left or joined again meanwhile.
        let known = match self.directory.get(&owned.conn) {
            Some(known) if known.epoch == owned.epoch => known,
            _ => return Ok(()),
        };
        let lifetime = self.lifetime().await?;
        let Some(state) = self.directory.owned_state(&owned.conn) else {
            return Ok(());
        };
        let mut join = Join {
            conn: owned.conn.clone(),
            place: known.place.clone(),
            state,
            lifetime,
            floor: epoch_after(owned.epoch),
        };
        let mut previous = None;
        for _ in 0..MAX_ROUNDS {
            match self.store.join(&join, previous.as_ref()).await? {
                Joined::Joined { epoch, encoding } => {
                    self.restored(owned, &known, &join, epoch, encoding);
                    return Ok(());
                }
                Joined::Elsewhere(place) => previous = Some(place),
                Joined::Early { wait_ms } => {
                    pause(Duration::from_millis(wait_ms)).await;
                    join.floor = epoch_after(owned.epoch);
                }
                // The next renewal finds out.
                Joined::OwnerLost => return Ok(()),
            }
        }
        Ok(())
    }

    fn restored(
        &self,
        owned: &OwnedConnection,
        known: &Known,
        join: &Join,
        epoch: Epoch,
        encoding: Option<Arc<StateEncoding>>,
    ) {
        let known = Known {
            place: known.place.clone(),
            epoch,
            stored: Some(Stored {
                state: join.state.clone(),
                encoding,
            }),
        };
        self.directory.learn(&owned.conn, &known);
        let Lifetime { owner, .. } = &join.lifetime;
        if let Some(owner) = owner
            && self.keeps(&owned.conn, epoch, owner)
        {
            self.directory.restored(&owned.conn, owned.since);
            count(&self.metrics.counters.connections_restored, 1);
            self.listener.restored(&owned.conn, epoch);
        }
    }
}
