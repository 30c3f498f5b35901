//! The calls of a client for connections and rooms: joins, leaves, heartbeats and reads.

use super::Client;
use crate::{
    heartbeat::Request,
    in_flight::Room,
    metrics::count,
    model::{
        error::{Code, Error, Result},
        event::Reason,
        ids,
        presence::{Epoch, Member, Place},
        state::State,
    },
    offload::offload,
    presence::{self, readings::EachMemberPiece},
    store::Join,
};
use std::sync::Arc;

/// Maximum number of leases under which a join is tried.
const MAX_LEASES: usize = 3;

impl Client {
    /// Joins `conn` to a room (spec 3.1). `snapshot` receives the members of the room after the
    /// join.
    pub async fn join(
        &self,
        room: &str,
        user: &str,
        conn: &str,
        state: &str,
        snapshot: Option<EachMemberPiece<'_>>,
    ) -> Result<Epoch> {
        self.call(async {
            ids::check("roomId", room, &self.limits)?;
            ids::check("userId", user, &self.limits)?;
            ids::check_conn("connId", conn, &self.limits)?;
            self.limits.state("state", state.len())?;
            self.limits.depth("state", state)?;
            // Reserved before the join, so that nothing is written when there is no memory for the
            // snapshot.
            let room_taken = match &snapshot {
                Some(_) => Some(self.room_for(("room", room)).await?),
                None => None,
            };
            let mut join = Join {
                conn: conn.into(),
                place: Place::new(room, user),
                state: offload(state.len(), {
                    let state = state.to_owned();
                    move || State::parse("state", &state)
                })
                .await?,
                lifetime: self.liveness.lifetime().await?,
                floor: 0,
            };
            let epoch = self.join_with_lifetime(&mut join).await?;
            count(&self.metrics.counters.joins, 1);
            if let (Some(each), Some(taken)) = (snapshot, room_taken) {
                // The join is done. If the room cannot be read, the caller does not get its epoch,
                // so the outcome is unknown to it.
                let read = self.read_room(room, each, taken).await;
                read.map_err(Error::with_unknown_outcome)?;
            }
            Ok(epoch)
        })
        .await
    }

    /// Joins, with a new lifetime if this node was declared dead before the join.
    async fn join_with_lifetime(&self, join: &mut Join) -> Result<Epoch> {
        let (store, directory) = (&*self.presence, &*self.directory);
        for _ in 0..MAX_LEASES {
            let joined = presence::join(store, directory, &self.own_joins, join).await;
            match joined.inspect_err(|error| self.join_failed(&join.conn, error))? {
                Some(epoch) if self.liveness.keeps(&join.conn, epoch, &join.lifetime) => {
                    return Ok(epoch);
                }
                // This node was declared dead after the join. Whoever removes its connections may
                // not find this one, whose entry can be late.
                Some(epoch) => {
                    let owner = join.lifetime.owner.as_ref().map(|owner| &*owner.node);
                    self.leave_as(owner, &join.conn, Some(epoch), Reason::Timeout)
                        .await?;
                }
                None => self.liveness.owner_lost(&join.lifetime).await,
            }
            join.lifetime = self.liveness.lifetime().await?;
        }
        Err(Error::new(
            Code::Unavailable,
            "this node kept losing its lease (nodeLeaseMs) during the join; try again",
        ))
    }

    /// With `liveness: "node"`, a join of unknown outcome may have left a connection that no TTL
    /// ends. It is looked for until the store answers, unless another join of it succeeds.
    fn join_failed(&self, conn: &Arc<str>, error: &Error) {
        let Some(node) = self.liveness.node().filter(|_| error.outcome_unknown) else {
            return;
        };
        tokio::spawn(node.clone().end_unknown_join(conn.clone()));
    }

    /// Leaves, as this node or as the node with the id `node`.
    async fn leave_as(
        &self,
        node: Option<&str>,
        conn: &str,
        epoch: Option<Epoch>,
        reason: Reason,
    ) -> Result<Option<Place>> {
        presence::leave(
            &*self.presence,
            &self.directory,
            &self.own_joins,
            conn,
            epoch,
            node,
            reason,
        )
        .await
    }

    /// Queues heartbeats. Each is settled through the result sink exactly once.
    pub fn heartbeats(&self, mut requests: Vec<Request>) {
        if self.liveness.node().is_some() {
            for request in &mut requests {
                let current = |epoch| self.directory.current_epoch(&request.conn, epoch);
                request.epoch = request.epoch.map(current);
            }
        }
        let check = |request: &Request| ids::check_conn("connId", &request.conn, &self.limits);
        if requests.iter().all(|request| check(request).is_ok()) {
            return self.engine.submit(requests);
        }
        let mut refused = Vec::new();
        let fitting = requests
            .into_iter()
            .filter_map(|request| match check(&request) {
                Ok(()) => Some(request),
                Err(error) => {
                    refused.push((request.ticket, Err(Box::new(error))));
                    None
                }
            })
            .collect();
        self.settle.settle(refused);
        self.engine.submit(fitting);
    }

    /// Leaves the room. Returns `None` if the connection is unknown, or if its stored epoch is
    /// higher than `epoch`. The default for `epoch` is the epoch of this client's last join of the
    /// connection (spec 3.6).
    pub async fn leave(&self, conn: &str, epoch: Option<Epoch>) -> Result<Option<Place>> {
        self.call(async {
            ids::check_conn("connId", conn, &self.limits)?;
            let node = self.liveness.node().map(|node| node.id());
            let left = self
                .leave_as(node.as_deref(), conn, epoch, Reason::Left)
                .await?;
            if left.is_some() {
                count(&self.metrics.counters.leaves, 1);
            }
            Ok(left)
        })
        .await
    }

    /// Ends a connection that has been idle for too long, if this node owns it with this epoch.
    pub async fn leave_idle(&self, conn: &str, epoch: Epoch) -> Result<Option<Place>> {
        self.call(async {
            ids::check_conn("connId", conn, &self.limits)?;
            let node = self.liveness.node().map(|node| node.id());
            let left = self
                .leave_as(node.as_deref(), conn, Some(epoch), Reason::Timeout)
                .await?;
            count(&self.metrics.counters.expired, u64::from(left.is_some()));
            Ok(left)
        })
        .await
    }

    /// Until when this node certainly holds its lease, by [`clock_ms`](crate::lock::clock_ms);
    /// negative if it does not. The call shows that the JavaScript thread runs.
    pub fn node_lease(&self) -> f64 {
        let node = self.liveness.node();
        node.and_then(|node| node.script_runs())
            .map_or(-1.0, crate::lock::clock_ms)
    }

    /// The epoch of a connection; `None` if it is unknown.
    pub async fn epoch(&self, conn: &str) -> Result<Option<Epoch>> {
        self.call(async {
            ids::check_conn("connId", conn, &self.limits)?;
            let located = presence::locate(&*self.presence, conn).await?;
            Ok(located.map(|located| located.epoch))
        })
        .await
    }

    /// Reads the live connections of a room (spec 3.8) and passes them to `each` in pieces.
    pub async fn room_snapshot(&self, room: &str, each: EachMemberPiece<'_>) -> Result<()> {
        self.call(async {
            ids::check("roomId", room, &self.limits)?;
            let taken = self.room_for(("room", room)).await?;
            self.read_room(room, each, taken).await
        })
        .await
    }

    /// The live connections of a user (spec 3.9), and the reservation for the memory that they
    /// take.
    pub async fn user_connections(&self, user: &str) -> Result<(Vec<Member>, Room)> {
        self.call(async {
            ids::check("userId", user, &self.limits)?;
            let mut taken = self.room_for(("user", user)).await?;
            let connections = self.presence.user_connections(user).await?;
            let bytes = connections.iter().map(Member::bytes).sum();
            taken.resize(bytes);
            self.in_flight.learn(("user", user), bytes);
            Ok((connections, taken))
        })
        .await
    }

    /// Reserves memory for reading the connections of a room or of a user.
    async fn room_for(&self, what: (&str, &str)) -> Result<Room> {
        self.in_flight.reading(self.in_flight.expected(what)).await
    }

    async fn read_room(&self, room: &str, each: EachMemberPiece<'_>, _taken: Room) -> Result<()> {
        let bytes = self.readings.read(&*self.presence, room, each).await?;
        self.in_flight.learn(("room", room), bytes);
        Ok(())
    }
}
