//! The layout `v1`. Each operation is one step, because a script may use keys of several slots. The
//! layout therefore only works on one server, not on a cluster.

use super::rooms::Rooms;
use crate::{
    model::{
        error::Result,
        presence::{Member, Place, Sweep},
    },
    store::{
        BatchMiss, EachPiece, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join, Joined,
        Leave, Left, Lifetime, Located, PresenceStore, SweepSettings,
        heartbeat::HeartbeatStore,
        redis::{expiry::Checks, nodes::InRooms},
    },
};
use futures_util::future::BoxFuture;
use std::sync::Arc;

pub(in crate::store::redis) struct V1 {
    pub rooms: Rooms,
    pub checks: Checks,
}

impl V1 {
    pub fn new(rooms: Rooms) -> Self {
        V1 {
            rooms,
            checks: Checks::default(),
        }
    }
}

impl InRooms for V1 {
    const IN_STEPS: bool = false;

    fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    fn after_removal<'a>(&'a self, _room: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl HeartbeatStore for V1 {
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>> {
        Box::pin(self.rooms.refresh_isolated(heartbeats, lifetime))
    }

    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>> {
        Box::pin(self.rooms.update_heartbeats(heartbeats, lifetime))
    }

    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>> {
        Box::pin(async {
            let pairs: Vec<(&str, &str)> = conns.iter().map(|conn| ("", &**conn)).collect();
            self.rooms.read_located(&pairs).await
        })
    }
}

impl PresenceStore for V1 {
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<Joined>> {
        Box::pin(async move {
            let encoded = self.rooms.states.encode(&join.state).await;
            let joined = self.rooms.join_room(join, &encoded, previous).await?;
            self.rooms.joined(joined, encoded)
        })
    }

    fn leave<'a>(&'a self, leave: &'a Leave<'a>) -> BoxFuture<'a, Result<Left>> {
        Box::pin(async move {
            let left = self.rooms.leave_room(leave, leave.below()).await?;
            Ok(left.into())
        })
    }

    fn room_snapshot<'a>(
        &'a self,
        room: &'a str,
        each: EachPiece<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.rooms.room_snapshot(room, each))
    }

    fn user_connections<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Vec<Member>>> {
        Box::pin(async move {
            let conns = self.rooms.keys.user_conns(user);
            let pairs = self.rooms.pairs(&conns, "").await?;
            self.rooms.connections_of(user, &pairs).await
        })
    }

    fn sweep<'a>(&'a self, settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>> {
        Box::pin(self.do_sweep(settings))
    }

    fn adopt(&self, ttl_ms: u64) -> BoxFuture<'_, Result<Sweep>> {
        Box::pin(self.do_adopt(ttl_ms))
    }
}
