//! Owners of connections on the layout `slotted`: what belongs to a node is in the node's slot, and is
//! written before and after the steps in rooms (docs/internals/liveness.md).

use super::{Call, Slotted, node_claimed};
use crate::{
    model::error::Result,
    store::{
        HeartbeatOutcome, HeartbeatUpdate, Leave, Lifetime, Owner,
        redis::{nodes::entry, scripts, transport::link::Repeat},
    },
};

impl Slotted {
    /// The call that adds a connection to those of its owner.
    pub(super) fn node_claim(&self, owner: &Owner, conn: &str, room: &str) -> Call {
        let script = &*scripts::slotted::NODE_CLAIM;
        let mut claim = script.call(2);
        claim
            .arg(self.rooms.keys.node(&owner.node))
            .arg(self.rooms.keys.node_conns(&owner.node))
            .arg(conn)
            .arg(entry(owner.number, room));
        (script, claim)
    }

    /// Updates heartbeats. Those of connections that this node does not own yet are claimed, and
    /// updated again.
    pub(super) async fn update_claimed(
        &self,
        heartbeats: &[HeartbeatUpdate],
        lifetime: &Lifetime,
    ) -> Vec<Result<HeartbeatOutcome>> {
        let unclaimed = Lifetime {
            ttl_ms: lifetime.ttl_ms,
            owner: lifetime
                .owner
                .clone()
                .map(|owner| Owner { number: 0, ..owner }),
        };
        let mut results = self.rooms.update_heartbeats(heartbeats, &unclaimed).await;
        self.lower_released(heartbeats, &results, lifetime.ttl_ms)
            .await;
        let open: Vec<usize> = results
            .iter()
            .enumerate()
            .filter(|(_, result)| matches!(result, Ok(HeartbeatOutcome::Unclaimed)))
            .map(|(at, _)| at)
            .collect();
        let Some(owner) = lifetime.owner.as_ref().filter(|_| !open.is_empty()) else {
            return results;
        };
        let claims = open
            .iter()
            .map(|&at| self.node_claim(owner, &heartbeats[at].conn, &heartbeats[at].place.room))
            .collect();
        let mut claimed = Vec::with_capacity(open.len());
        for (at, answer) in open.into_iter().zip(self.send(claims).await) {
            match answer.and_then(node_claimed) {
                Ok(true) => claimed.push(at),
                Ok(false) => results[at] = Ok(HeartbeatOutcome::OwnerLost),
                Err(error) => results[at] = Err(error),
            }
        }
        let again: Vec<HeartbeatUpdate> =
            claimed.iter().map(|&at| heartbeats[at].clone()).collect();
        let updated = self.rooms.update_heartbeats(&again, lifetime).await;
        for (at, result) in claimed.into_iter().zip(updated) {
            results[at] = result;
        }
        results
    }

    /// Connections that have no owner any more can be due earlier. If this fails, the room is looked
    /// at within a minute.
    async fn lower_released(
        &self,
        heartbeats: &[HeartbeatUpdate],
        results: &[Result<HeartbeatOutcome>],
        ttl_ms: u64,
    ) {
        let wait = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        let rooms: Vec<(&str, i64)> = heartbeats
            .iter()
            .zip(results)
            .filter(|(_, result)| {
                matches!(
                    result,
                    Ok(HeartbeatOutcome::Refreshed { released: true, .. })
                )
            })
            .map(|(heartbeat, _)| (&*heartbeat.place.room, wait))
            .collect();
        if !rooms.is_empty() {
            let _ = self.move_due(&rooms, true).await;
        }
    }

    /// Removes a connection that has left from those of its owner. If that fails, the entry stays
    /// until the node compares its connections, or ends.
    pub(super) async fn forget_left(&self, leave: &Leave<'_>) {
        let Some(node) = leave.node.filter(|_| leave.number > 0) else {
            return;
        };
        let mut forget = scripts::NODE_FORGET.call(1);
        forget
            .arg(self.rooms.keys.node_conns(node))
            .arg(leave.conn)
            .arg(leave.number);
        let _ = self
            .rooms
            .scripts
            .call(&scripts::NODE_FORGET, &forget, Repeat::Harmless)
            .await;
    }
}
