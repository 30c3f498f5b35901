//! Join, leave, snapshots: `join.lua`, `leave.lua`, and plain reads.

use crate::{
    keys::Keys,
    model::{
        error::{Code, Error, Result},
        json::quote,
        presence::{Epoch, Member, Place},
    },
    store::{
        EachPiece, Join, Joined, Leave, Left, Located, StoreNotifications,
        redis::{
            presence::{
                clock::ServerClock,
                fields::{unknown_code, utf8},
                layout::{LayoutCalls, RoomScripts},
                states::{Encoded, Found, States},
            },
            scripts::{self, Reply, ScriptClient},
            transport::link::Repeat,
        },
    },
};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use redis::{Cmd, Value};
use serde::Deserialize;
use std::sync::{Arc, atomic::AtomicBool};

/// Number of hashes that one pipeline reads. Large rooms are read in pieces, so that heartbeats on
/// the same connection are sent in between.
const READ_CHUNK: usize = 384;
/// Number of pieces in flight, so that the server reads one while the node processes another.
const READS_AT_ONCE: usize = 4;

/// Maximum number of attempts of a join to remove an expired connection from the room. More than
/// one attempt means that other clients join and the connection expires in between.
const MAX_GHOSTS: usize = 16;

/// The rooms of a layout, and the steps within one room.
pub(in crate::store::redis) struct Rooms {
    pub keys: Keys,
    pub layout: Box<dyn LayoutCalls>,
    /// The layout's scripts.
    pub room_scripts: RoomScripts,
    pub scripts: Arc<ScriptClient>,
    pub states: States,
    pub clock: ServerClock,
    /// Whether the server supports the transactions of `patch.rs` and the user has permission for
    /// them.
    pub transactions: Arc<AtomicBool>,
    pub notifications: Arc<dyn StoreNotifications>,
}

impl Rooms {
    /// The result of a join that wrote `encoded`.
    pub fn joined(&self, joined: RoomJoined, encoded: Encoded) -> Result<Joined> {
        match joined {
            RoomJoined::Joined { epoch, .. } => {
                let separate = self.states.are_separate();
                let encoding = encoded.into_encoding(separate.then_some(1));
                Ok(Joined::Joined { epoch, encoding })
            }
            RoomJoined::Elsewhere(place) => Ok(Joined::Elsewhere(place)),
            RoomJoined::Early { wait_ms } => Ok(Joined::Early { wait_ms }),
            RoomJoined::OwnerLost => Ok(Joined::OwnerLost),
            RoomJoined::Behind { .. } => Err(Error::internal("a join was behind itself")),
        }
    }

    /// The step of a join within the room.
    pub(in crate::store::redis) async fn join_room(
        &self,
        join: &Join,
        encoded: &Encoded,
        previous: Option<&Place>,
    ) -> Result<RoomJoined> {
        let mut before: Vec<PreviousPlace> = previous
            .filter(|place| **place != join.place)
            .map(|place| PreviousPlace {
                place: place.clone(),
                ghost: Vec::new(),
                epoch: 0,
            })
            .into_iter()
            .collect();
        for _ in 0..MAX_GHOSTS {
            let call = self.join_call(join, encoded, &before);
            let value = self
                .scripts
                .call(self.room_scripts.join, &call, Repeat::Never)
                .await?;
            match scripts::read(value, |reply| read_join(reply, before.len()))? {
                JoinReply::Done(joined) => return Ok(joined),
                JoinReply::Ghost(ghost) => {
                    let meta = Meta::parse(&ghost);
                    before.retain(|place| place.ghost.is_empty());
                    before.push(PreviousPlace {
                        place: Place::new(&join.place.room, &meta.user),
                        epoch: meta.epoch(),
                        ghost,
                    });
                }
            }
        }
        Err(Error::internal(
            "a connection kept expiring while it was joined",
        ))
    }

    /// The keys of a connection and its place, in the order in which `join.lua` and `leave.lua`
    /// take them.
    fn place_keys(&self, conn: &str, place: &Place) -> Vec<String> {
        let (room, user) = (&*place.room, &*place.user);
        let own = self.keys.room(room);
        let mut keys = vec![
            self.keys.conn(room, conn),
            own.conns,
            own.members,
            own.last_seen,
            own.conn_meta,
            own.events,
            self.layout.user_conns(room, user),
            self.keys.conn_state(room, conn),
        ];
        self.layout.add_indices(&mut keys, room, user);
        keys
    }

    fn join_call(&self, join: &Join, encoded: &Encoded, before: &[PreviousPlace]) -> Cmd {
        let (room, user, conn) = (&*join.place.room, &*join.place.user, &*join.conn);
        let mut keys = self.place_keys(conn, &join.place);
        for PreviousPlace { place, .. } in before {
            self.layout.add_previous(&mut keys, place);
        }
        let owner = join.lifetime.owner.as_ref();
        if let Some(owner) = owner {
            self.layout.add_owner(&mut keys, &owner.node);
        }
        let mut call = self.room_scripts.join.call_with(&keys);
        call.arg(conn)
            .arg(user)
            .arg(room)
            .arg(quote(conn))
            .arg(quote(user))
            .arg(quote(room))
            .arg(join.state.as_str())
            .arg(join.lifetime.ttl_ms)
            .arg(join.floor)
            .arg(encoded.bytes.as_deref().unwrap_or_default())
            .arg(encoded.compressed)
            .arg(i32::from(self.states.are_separate()))
            .arg(owner.map_or("", |owner| &owner.node))
            .arg(owner.map_or(0, |owner| owner.number))
            .arg(self.keys.node_calls(""));
        for PreviousPlace {
            place,
            ghost,
            epoch,
        } in before
        {
            call.arg(&*place.user)
                .arg(&*place.room)
                .arg(quote(&place.user))
                .arg(quote(&place.room))
                .arg(ghost)
                .arg(*epoch);
        }
        self.layout.add_last_argument(&mut call);
        call
    }

    /// The step of a leave within the room. `below`: leave only if the stored epoch is lower.
    pub(in crate::store::redis) async fn leave_room(
        &self,
        leave: &Leave<'_>,
        below: Option<Epoch>,
    ) -> Result<RoomLeft> {
        let &Leave {
            conn,
            place,
            node,
            reason,
            ..
        } = leave;
        let (room, user) = (&*place.room, &*place.user);
        let script = self.room_scripts.leave;
        let mut keys = self.place_keys(conn, place);
        if let Some(node) = node {
            self.layout.add_caller(&mut keys, node);
        }
        let mut call = script.call_with(&keys);
        call.arg(conn)
            .arg(user)
            .arg(room)
            .arg(quote(conn))
            .arg(quote(user))
            .arg(quote(room))
            .arg(reason.as_str())
            .arg(below.map(|epoch| epoch.to_string()).unwrap_or_default())
            .arg(node.unwrap_or_default())
            .arg(self.keys.node_calls(""));
        self.layout.add_last_argument(&mut call);
        let value = self.scripts.call(script, &call, Repeat::Never).await?;
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                scripts::leave::LEFT => RoomLeft::Left {
                    epoch: reply.integer()?.unsigned_abs(),
                },
                scripts::leave::EARLY => RoomLeft::Early {
                    wait_ms: reply.integer()?.unsigned_abs(),
                },
                scripts::leave::UNKNOWN => RoomLeft::Unknown,
                scripts::leave::ELSEWHERE => {
                    RoomLeft::Elsewhere(Place::new(&reply.text()?, &reply.text()?))
                }
                scripts::leave::NEWER => RoomLeft::Newer {
                    epoch: reply.integer()?.unsigned_abs(),
                },
                code => return Err(unknown_code("leave", code)),
            })
        })
    }

    pub(in crate::store::redis) async fn read_located(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Vec<Result<Option<Located>>> {
        let found = self.read_connections(pairs).await.into_iter();
        found
            .map(|found| Ok(found?.map(|found| self.located(found))))
            .collect()
    }

    fn located(&self, found: Found) -> Located {
        Located {
            place: Place::new(&found.room, &found.user),
            epoch: found.epoch,
            stored: self.stored_state(found),
        }
    }

    pub(in crate::store::redis) async fn room_snapshot(
        &self,
        room: &str,
        each: EachPiece<'_>,
    ) -> Result<()> {
        let pairs = self.pairs(&self.keys.room_conns(room), room).await?;
        self.read_members(&pairs, |mut members| {
            // An entry whose hash has another room belongs to an expired connection, which the
            // reaper removes.
            members.retain(|member| member.room == room);
            each(members)
        })
        .await
    }

    /// The live connections of a user, out of those in an index.
    pub async fn connections_of(
        &self,
        user: &str,
        pairs: &[(impl AsRef<str> + Sync, String)],
    ) -> Result<Vec<Member>> {
        let mut members = Vec::new();
        let add = |piece: Vec<Member>| {
            members.extend(piece);
            std::future::ready(())
        };
        self.read_members(pairs, add).await?;
        members.retain(|member| member.user == user);
        Ok(members)
    }

    /// The connections whose ids are in a set, each with `room`, the room of the set.
    pub async fn pairs<'a>(&self, set: &str, room: &'a str) -> Result<Vec<(&'a str, String)>> {
        let mut smembers = redis::cmd("SMEMBERS");
        smembers.arg(set);
        let ids = match self
            .scripts
            .commands
            .command(&smembers, Repeat::Harmless)
            .await?
        {
            Value::Array(ids) | Value::Set(ids) => ids,
            other => return Err(Error::internal(format!("SMEMBERS answered {other:?}"))),
        };
        // Neither this implementation nor legacy nodes write ids that are not UTF-8.
        let with_room = |id| match id {
            Value::BulkString(bytes) => Some((room, utf8(bytes)?)),
            _ => None,
        };
        Ok(ids.into_iter().filter_map(with_room).collect())
    }

    /// Reads the live connections among `pairs`, in pieces.
    async fn read_members<F: Future<Output = ()>>(
        &self,
        pairs: &[(impl AsRef<str> + Sync, String)],
        mut each: impl FnMut(Vec<Member>) -> F,
    ) -> Result<()> {
        let pieces: Vec<_> = pairs
            .chunks(READ_CHUNK)
            .map(|piece| self.members_of(piece))
            .collect();
        let mut pieces = stream::iter(pieces).buffered(READS_AT_ONCE);
        while let Some(piece) = pieces.try_next().await? {
            each(piece).await;
        }
        Ok(())
    }

    /// The time of a room's server in ms, from earlier answers if there are any.
    async fn server_time(&self, room: &str) -> Result<u64> {
        if let Some(now) = self.clock.now() {
            return Ok(now);
        }
        let mut call = scripts::SERVER_TIME.call(1);
        call.arg(self.keys.room_conns(room));
        let value = self
            .scripts
            .call(&scripts::SERVER_TIME, &call, Repeat::Harmless)
            .await?;
        let now: u64 = redis::from_redis_value(value)
            .map_err(|error| Error::internal(format!("server_time: {error}")))?;
        self.clock.heard(now);
        Ok(now)
    }

    async fn members_of(&self, pairs: &[(impl AsRef<str> + Sync, String)]) -> Result<Vec<Member>> {
        let read = self.read_states(pairs).await;
        let owned =
            |read: &Result<Option<(Found, _)>>| matches!(read, Ok(Some((found, _))) if found.owned);
        // The lease of its owner has not ended, so the connection counts as seen now.
        let now = match read.iter().position(owned) {
            Some(index) => self.server_time(pairs[index].0.as_ref()).await?,
            None => 0,
        };
        let mut members = Vec::with_capacity(read.len());
        for ((_, conn), read) in pairs.iter().zip(read) {
            let (found, state) = match read {
                Ok(Some(read)) => read,
                Ok(None) => continue,
                // One corrupt connection does not make the room unreadable.
                Err(error) if error.code == Code::CorruptData => continue,
                Err(error) => return Err(error),
            };
            members.push(Member {
                conn: conn.clone(),
                state,
                user: found.user,
                room: found.room,
                last_seen_ms: match found.owned {
                    true => now.max(found.last_seen_ms),
                    false => found.last_seen_ms,
                },
                epoch: found.epoch,
            });
        }
        Ok(members)
    }
}

/// A place that a join removes its connection from first.
struct PreviousPlace {
    place: Place,
    /// The `conn_meta` of an expired connection; empty if the connection is live there.
    ghost: Vec<u8>,
    epoch: Epoch,
}

/// The result of the step of a join within the room.
pub(in crate::store::redis) enum RoomJoined {
    Joined {
        epoch: Epoch,
        /// Whether the room was empty before.
        was_empty: bool,
        /// The number of earlier places in the room that the connection was removed from.
        left: usize,
    },
    Elsewhere(Place),
    Early {
        wait_ms: u64,
    },
    /// The connection has this epoch in the room, which is not lower than the one that it should
    /// get.
    Behind {
        epoch: Epoch,
    },
    OwnerLost,
}

/// The result of the step of a leave within the room.
pub(in crate::store::redis) enum RoomLeft {
    Left { epoch: Epoch },
    Early { wait_ms: u64 },
    Unknown,
    Elsewhere(Place),
    Newer { epoch: Epoch },
}

impl From<RoomLeft> for Left {
    fn from(left: RoomLeft) -> Left {
        match left {
            RoomLeft::Left { .. } => Left::Left,
            RoomLeft::Early { wait_ms } => Left::Early { wait_ms },
            RoomLeft::Elsewhere(place) => Left::Elsewhere(place),
            RoomLeft::Newer { .. } => Left::Newer,
            RoomLeft::Unknown => Left::Unknown,
        }
    }
}

enum JoinReply {
    Done(RoomJoined),
    Ghost(Vec<u8>),
}

fn read_join(reply: &mut Reply, left: usize) -> Result<JoinReply, redis::RedisError> {
    Ok(JoinReply::Done(match reply.integer()? {
        scripts::join::JOINED => RoomJoined::Joined {
            epoch: reply.integer()?.unsigned_abs(),
            was_empty: reply.integer()? == 1,
            left,
        },
        scripts::join::ELSEWHERE => {
            RoomJoined::Elsewhere(Place::new(&reply.text()?, &reply.text()?))
        }
        scripts::join::GHOST => return Ok(JoinReply::Ghost(reply.bytes()?)),
        scripts::join::EARLY => RoomJoined::Early {
            wait_ms: reply.integer()?.unsigned_abs(),
        },
        scripts::join::BEHIND => RoomJoined::Behind {
            epoch: reply.integer()?.unsigned_abs(),
        },
        scripts::join::LOST => RoomJoined::OwnerLost,
        code => return Err(unknown_code("join", code)),
    }))
}

/// The content of a `conn_meta` entry.
#[derive(Default, Deserialize)]
pub(in crate::store::redis) struct Meta {
    /// Empty if the user is unknown.
    #[serde(rename = "userId")]
    pub user: String,
    epoch: f64,
}

impl Meta {
    /// Parses an entry. Invalid text yields an empty user and epoch 0.
    pub fn parse(text: &[u8]) -> Meta {
        serde_json::from_slice(text).unwrap_or_default()
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch as Epoch
    }
}
