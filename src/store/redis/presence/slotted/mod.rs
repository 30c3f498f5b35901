//! The layout `slotted` (docs/internals/cluster.md). Operations have several steps, because each
//! script can only use one slot. `heartbeats.rs` has heartbeats. `outbox.rs` applies the outbox
//! entries that a step in a room leaves for other slots.

mod heartbeats;
pub mod outbox;
mod owners;

use crate::{
    failpoints::crash_point,
    model::{
        error::{Error, Result},
        presence::{Epoch, Member, Place, Sweep, epoch_after},
    },
    store::{
        BatchMiss, EachPiece, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join, Joined,
        Leave, Left, Lifetime, Located, PresenceStore, SweepSettings,
        heartbeat::HeartbeatStore,
        redis::{
            expiry::CheckSchedule,
            nodes::InRooms,
            presence::{
                fields::{owned_score, unknown_code},
                rooms::{RoomJoined, RoomLeft, Rooms},
                states::Encoded,
            },
            scripts::{self, Reply, Script, location_claim, node_claim},
            transport::{cluster, errors, link::Repeat},
        },
    },
};
use futures_util::future::BoxFuture;
use redis::{Cmd, Pipeline, Value};
use std::sync::Arc;

/// How long an unconfirmed claim stays, in ms. Longer than any join takes.
const CLAIM_MS: u64 = 10_000;

/// Maximum number of attempts of a step when other clients move the connection in between.
const MAX_ROUNDS: usize = 32;

type Call = (&'static Script, Cmd);

/// An entry of `prs:at:<connId>`.
pub struct Entry {
    room: String,
    user: String,
    epoch: Epoch,
    settled: bool,
}

impl Entry {
    fn parse(field: &str, value: &str) -> Option<Entry> {
        let (kind, room) = field.split_once(':')?;
        let (epoch, user) = value.split_once(':')?;
        Some(Entry {
            room: room.to_owned(),
            user: user.to_owned(),
            epoch: epoch.parse().ok()?,
            settled: kind == "s",
        })
    }

    /// All entries of a flat list of fields and values, newest first. Invalid entries are skipped.
    fn read_all(reply: &mut Reply) -> Result<Vec<Entry>, redis::RedisError> {
        let mut entries = Vec::with_capacity(reply.left() / 2);
        while reply.left() > 1 {
            entries.extend(Entry::parse(&reply.text()?, &reply.text()?));
        }
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.epoch));
        Ok(entries)
    }

    fn place(&self) -> Place {
        Place::new(&self.room, &self.user)
    }
}

enum Claim {
    Claimed { epoch: Epoch, before: Vec<Entry> },
    Early { wait_ms: u64 },
    OwnerLost,
}

pub(in crate::store::redis) struct Slotted {
    pub rooms: Rooms,
    pub check_schedule: CheckSchedule,
}

impl InRooms for Slotted {
    const IN_STEPS: bool = true;

    fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    fn after_removal<'a>(&'a self, room: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let _ = self.settle_and_drop(room).await;
        })
    }
}

impl HeartbeatStore for Slotted {
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>> {
        Box::pin(cluster::with_queue_timeout_once(
            self.do_refresh_heartbeats(heartbeats, lifetime),
        ))
    }

    fn refreshes_by_room(&self) -> bool {
        self.rooms.scripts.commands.is_cluster()
    }

    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        lifetime: &'a Lifetime,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>> {
        Box::pin(cluster::with_queue_timeout_once(async move {
            let mut results = self.update_claimed(heartbeats, lifetime).await;
            self.find_unknown_full(heartbeats, &mut results).await;
            results
        }))
    }

    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>> {
        Box::pin(cluster::with_queue_timeout_once(async {
            let conns: Vec<&str> = conns.iter().map(|conn| &**conn).collect();
            self.find(&conns).await
        }))
    }
}

impl PresenceStore for Slotted {
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<Joined>> {
        Box::pin(async move {
            let encoded = self.rooms.states.encode(&join.state).await;
            let joined = self.join_in_steps(join, &encoded, previous).await?;
            self.rooms.joined(joined, encoded)
        })
    }

    fn leave<'a>(&'a self, leave: &'a Leave<'a>) -> BoxFuture<'a, Result<Left>> {
        Box::pin(async move {
            let left = self.rooms.leave_room(leave, leave.below()).await?;
            match left {
                RoomLeft::Left { epoch } => {
                    crash_point!(Left);
                    tokio::join!(
                        self.settle_left(leave.conn, leave.place, epoch),
                        self.forget_left(leave),
                    );
                }
                RoomLeft::Unknown => return self.left_elsewhere(leave.conn, leave.place).await,
                _ => {}
            }
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
            let pairs = self.user_pairs(user).await?;
            self.rooms.connections_of(user, &pairs).await
        })
    }

    fn sweep<'a>(&'a self, settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>> {
        Box::pin(async move { Ok(cluster::without_queue_timeout(self.do_sweep(settings)).await) })
    }

    fn adopt(&self, ttl_ms: u64) -> BoxFuture<'_, Result<Sweep>> {
        Box::pin(async move { Ok(cluster::without_queue_timeout(self.do_adopt(ttl_ms)).await) })
    }
}

impl Slotted {
    pub fn new(rooms: Rooms) -> Self {
        Slotted {
            rooms,
            check_schedule: CheckSchedule::default(),
        }
    }

    /// Executes a join step by step. `previous` is the place that this node remembers. The
    /// connection may be there although its location entry was lost.
    pub(in crate::store::redis) async fn join_in_steps(
        &self,
        join: &Join,
        encoded: &Encoded,
        previous: Option<&Place>,
    ) -> Result<RoomJoined> {
        let mut join = join.clone();
        for _ in 0..MAX_ROUNDS {
            let (epoch, before) = match self.claim_room(&join).await? {
                Claim::Early { wait_ms } => return Ok(RoomJoined::Early { wait_ms }),
                Claim::OwnerLost => return Ok(RoomJoined::OwnerLost),
                Claim::Claimed { epoch, before } => (epoch, before),
            };
            let cache = previous
                .filter(|place| before.iter().all(|entry| entry.room != *place.room))
                .cloned();
            let elsewhere = before.iter().map(Entry::place).chain(cache);
            let mut newer = None;
            let mut same_room = None;
            for place in elsewhere {
                if place.room == join.place.room {
                    same_room = Some(place);
                } else if let Some(stored) = self.replace(&join, place, epoch).await? {
                    newer = newer.max(Some(stored));
                }
            }
            if let Some(stored) = newer {
                join.floor = epoch_after(stored);
                continue;
            }
            join.floor = epoch;
            match self.join_here(&join, encoded, same_room).await? {
                RoomJoined::Behind { epoch } => join.floor = epoch_after(epoch),
                RoomJoined::Joined {
                    epoch,
                    was_empty,
                    left,
                } => {
                    crash_point!(Joined);
                    self.settle_joined(&join, epoch, was_empty, left > 0, &before)
                        .await;
                    return Ok(RoomJoined::Joined {
                        epoch,
                        was_empty,
                        left,
                    });
                }
                other => return Ok(other),
            }
        }
        Err(Error::internal("newer joins kept overtaking a join"))
    }

    /// Sends the calls of one step together.
    async fn send(&self, calls: Vec<Call>) -> Vec<Result<Value>> {
        self.rooms.scripts.call_each(calls, Repeat::Harmless).await
    }

    /// Step 1 of a join: claims the room.
    async fn claim_room(&self, join: &Join) -> Result<Claim> {
        let mut claim = scripts::slotted::LOCATION_CLAIM.call(1);
        claim
            .arg(self.rooms.keys.at(&join.conn))
            .arg(&*join.place.room)
            .arg(&*join.place.user)
            .arg(join.floor)
            .arg(CLAIM_MS);
        let mut calls = vec![
            (&*scripts::slotted::LOCATION_CLAIM, claim),
            (&*scripts::slotted::DUE_RESCHEDULE, self.lower_due(join)),
        ];
        if let Some(owner) = &join.lifetime.owner {
            calls.push(self.node_claim(owner, &join.conn, &join.place.room));
        }
        crash_point!(Claim, calls, self.send(calls));
        // Repeating a claim is safe: the second one is a newer claim.
        let mut answers = self.send(calls).await.into_iter();
        let value = answers.next().unwrap_or_else(|| Err(Error::closed()))?;
        answers.next().unwrap_or_else(|| Err(Error::closed()))?;
        if let Some(claimed) = answers.next()
            && !node_claimed(claimed?)?
        {
            return Ok(Claim::OwnerLost);
        }
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                location_claim::EARLY => Claim::Early {
                    wait_ms: reply.integer()?.unsigned_abs(),
                },
                _ => Claim::Claimed {
                    epoch: reply.integer()?.unsigned_abs(),
                    before: Entry::read_all(reply)?,
                },
            })
        })
    }

    /// The call that lowers a room's entry in the due index to at most one TTL from now.
    fn lower_due(&self, join: &Join) -> Cmd {
        let mut call = scripts::slotted::DUE_RESCHEDULE.call(1);
        call.arg(self.rooms.keys.due_of(&join.place.room))
            .arg(1)
            .arg(&*join.place.room)
            .arg(match join.lifetime.owner {
                Some(_) => owned_score(join.lifetime.ttl_ms),
                None => join.lifetime.ttl_ms,
            });
        call
    }

    /// Step 3 of a join: joins within the room, whichever user the connection has there.
    async fn join_here(
        &self,
        join: &Join,
        encoded: &Encoded,
        mut previous: Option<Place>,
    ) -> Result<RoomJoined> {
        for _ in 0..MAX_ROUNDS {
            match self
                .rooms
                .join_room(join, encoded, previous.as_ref())
                .await?
            {
                RoomJoined::Elsewhere(place) => previous = Some(place),
                joined => return Ok(joined),
            }
        }
        Err(Error::internal("a connection kept changing its user"))
    }

    /// Removes a connection from another room for a join with `epoch`. Returns the connection's
    /// epoch there if that is not lower.
    async fn replace(&self, join: &Join, place: Place, epoch: Epoch) -> Result<Option<Epoch>> {
        let node = join.lifetime.owner.as_ref().map(|owner| &*owner.node);
        let conn = &*join.conn;
        match self.evict(conn, place, epoch, node).await? {
            (place, RoomLeft::Left { epoch }) => {
                crash_point!(Left);
                self.settle_left(conn, &place, epoch).await;
                Ok(None)
            }
            (_, RoomLeft::Newer { epoch }) => Ok(Some(epoch)),
            _ => Ok(None),
        }
    }

    /// The first step of `replace`: removes the connection, whichever user it has there. The room
    /// writes an outbox entry.
    async fn evict(
        &self,
        conn: &str,
        mut place: Place,
        epoch: Epoch,
        node: Option<&str>,
    ) -> Result<(Place, RoomLeft)> {
        for _ in 0..MAX_ROUNDS {
            let leave = Leave::replaced(conn, &place, node);
            match self.rooms.leave_room(&leave, Some(epoch)).await? {
                RoomLeft::Elsewhere(actual) => place = actual,
                left => return Ok((place, left)),
            }
        }
        Err(Error::internal("a connection kept changing its user"))
    }

    /// Looks for a connection in other rooms, after it was not found in the place that this node
    /// remembers.
    pub(in crate::store::redis) async fn left_elsewhere(
        &self,
        conn: &str,
        place: &Place,
    ) -> Result<Left> {
        let found = self.find(&[conn]).await.pop().transpose()?;
        Ok(match found.flatten() {
            Some(found) if found.place.room != place.room => Left::Elsewhere(found.place),
            _ => Left::Unknown,
        })
    }

    /// Looks connections up one by one. Their location entries tell which rooms to read.
    pub(in crate::store::redis) async fn find(
        &self,
        conns: &[&str],
    ) -> Vec<Result<Option<Located>>> {
        let mut read = Pipeline::with_capacity(conns.len());
        for conn in conns {
            read.cmd("HGETALL").arg(self.rooms.keys.at(conn));
        }
        let answers = self
            .rooms
            .scripts
            .commands
            .pipeline_each(&read, Repeat::Harmless)
            .await;
        let rooms: Vec<Result<Vec<String>>> = answers.into_iter().map(rooms_of).collect();
        let pairs: Vec<(&str, &str)> = conns
            .iter()
            .zip(&rooms)
            .flat_map(|(conn, rooms)| {
                let rooms = rooms.iter().flatten();
                rooms.map(|room| (room.as_str(), *conn))
            })
            .collect();
        let mut found = self.rooms.read_located(&pairs).await.into_iter();
        rooms
            .into_iter()
            .map(|rooms| {
                let mut newest: Result<Option<Located>> = Ok(None);
                for here in found.by_ref().take(rooms?.len()) {
                    newest = match (newest, here) {
                        (Ok(Some(a)), Ok(Some(b))) if a.epoch >= b.epoch => Ok(Some(a)),
                        (_, Ok(Some(there))) | (Ok(Some(there)), _) => Ok(Some(there)),
                        (Err(error), _) | (Ok(None), Err(error)) => Err(error),
                        (Ok(None), Ok(None)) => Ok(None),
                    };
                }
                newest
            })
            .collect()
    }

    /// The rooms and ids of a user's connections, according to the user's index.
    pub(in crate::store::redis) async fn user_pairs(
        &self,
        user: &str,
    ) -> Result<Vec<(String, String)>> {
        let read = redis::cmd("HGETALL")
            .arg(self.rooms.keys.user_at(user))
            .to_owned();
        let answer = self
            .rooms
            .scripts
            .commands
            .command(&read, Repeat::Harmless)
            .await?;
        let read = || {
            let mut reply = Reply::flat(answer)?;
            let mut pairs = Vec::with_capacity(reply.left() / 2);
            while reply.left() > 1 {
                let (conn, value) = (reply.text()?, reply.text()?);
                pairs.extend(
                    value
                        .split_once(':')
                        .map(|(_, room)| (room.to_owned(), conn)),
                );
            }
            Ok(pairs)
        };
        read().map_err(|error: redis::RedisError| errors::request(&error))
    }
}

/// The rooms that a connection is or may be in, according to its location entries, newest first.
fn rooms_of(answer: Result<Value>) -> Result<Vec<String>> {
    let entries = Reply::flat(answer?).and_then(|mut reply| Entry::read_all(&mut reply));
    let entries = entries.map_err(|error| errors::request(&error))?;
    let mut rooms: Vec<String> = entries.into_iter().map(|entry| entry.room).collect();
    rooms.dedup();
    Ok(rooms)
}

/// Whether the node could claim the connection, because it was not declared dead.
fn node_claimed(value: Value) -> Result<bool> {
    scripts::read(value, |reply| match reply.integer()? {
        node_claim::CLAIMED => Ok(true),
        node_claim::LOST => Ok(false),
        code => Err(unknown_code("node_claim", code)),
    })
}
