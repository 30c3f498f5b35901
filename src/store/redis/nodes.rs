//! The leases of nodes: `node_*.lua`. What belongs to a node is in one slot, so both layouts share
//! these operations. `docs/internals/liveness.md` describes them.

use crate::{
    model::{
        error::{Error, Result},
        presence::Sweep,
    },
    store::{
        NodeStore,
        node::{Dispossessed, Lease, NodeLook, Removal, Renewal},
        redis::{
            expiry::{CONNECTIONS_AT_A_TIME, Candidate, Reap},
            presence::{fields::unknown_code, rooms::Rooms},
            scripts::{self, Script, node_look, node_page, node_renew},
            transport::link::Repeat,
        },
    },
};
use futures_util::future::BoxFuture;
use redis::{Cmd, Pipeline, Value};
use std::{collections::BTreeMap, sync::Arc};

/// Approximate number of connections of a dead node in one page.
const PAGE: usize = 256;
/// Maximum number of nodes in one read of the index.
const MAX_DUE: usize = 64;
/// On `slotted`: how long an entry stays although its room does not have the connection. The step
/// of a join in its room comes after the entry, and takes less time than this.
const LATE_MS: u64 = 10_000;
/// Pause before connections that may be late are looked for again.
const LATE_PAUSE_MS: u64 = 1_000;

/// The entry of a connection in the connections of its owner.
pub(in crate::store::redis) fn entry(number: u64, room: &str) -> String {
    format!("{number}:{room}")
}

/// A message on the channel of a node: `gone <epoch> <connId>`.
pub(in crate::store::redis) fn parse_call(payload: &str) -> Option<Dispossessed> {
    let (epoch, conn) = payload.strip_prefix("gone ")?.split_once(' ')?;
    Some(Dispossessed {
        conn: conn.into(),
        epoch: epoch.parse().ok()?,
    })
}

/// A store with rooms in Redis.
pub(in crate::store::redis) trait InRooms: Send + Sync + 'static {
    fn rooms(&self) -> &Rooms;

    /// Whether a join writes the connections of its owner in another step than the room.
    const IN_STEPS: bool;

    /// What is left to do after connections were removed from a room. The reaper's passes do what
    /// fails here.
    fn after_removal<'a>(&'a self, room: &'a str) -> BoxFuture<'a, ()>;
}

/// A page of the connections of a dead node.
enum Page {
    Some {
        connections: Vec<(String, String)>,
        age_ms: u64,
    },
    Empty {
        wait_ms: u64,
    },
    Ended,
}

impl Rooms {
    async fn send_each(&self, calls: Vec<(&'static Script, Cmd)>) -> Vec<Result<Value>> {
        self.scripts.call_each(calls, Repeat::Harmless).await
    }

    fn index_call(&self, node: &str, wait_ms: i64) -> (&'static Script, Cmd) {
        let script = &*scripts::NODE_INDEX;
        let mut call = script.call(1);
        call.arg(self.keys.nodes()).arg(node).arg(wait_ms);
        (script, call)
    }

    /// Writes when a node has to be looked at. If that fails, it is looked at too early, or the
    /// next renewal writes it.
    async fn index(&self, node: &str, wait_ms: i64) {
        let _ = self.send_each(vec![self.index_call(node, wait_ms)]).await;
    }

    async fn do_renew_lease(&self, lease: &Lease) -> Result<Renewal> {
        let script = &*scripts::NODE_RENEW;
        let mut renew = script.call(2);
        renew
            .arg(self.keys.node(&lease.node))
            .arg(self.keys.node_conns(&lease.node))
            .arg(lease.lease_ms)
            .arg(lease.kept_ms)
            .arg(i32::from(lease.begins));
        let half = i64::try_from(lease.lease_ms / 2).unwrap_or(i64::MAX);
        let calls = vec![(script, renew), self.index_call(&lease.node, half)];
        let mut answers = self.send_each(calls).await.into_iter();
        let renewed = answers.next().unwrap_or_else(|| Err(Error::closed()))?;
        let renewal = scripts::read(renewed, |reply| {
            Ok(match reply.integer()? {
                node_renew::RENEWED => Renewal::Renewed,
                node_renew::DEAD => Renewal::Dead,
                node_renew::MISSING => Renewal::Missing,
                code => return Err(unknown_code("node_renew", code)),
            })
        })?;
        match renewal {
            Renewal::Renewed => {}
            // Its connections are removed now, or it has none.
            Renewal::Dead => self.index(&lease.node, 0).await,
            Renewal::Missing => self.index(&lease.node, -1).await,
        }
        Ok(renewal)
    }

    async fn do_due_nodes(&self, lease_ms: u64) -> Result<Vec<Arc<str>>> {
        let mut call = scripts::NODE_DUE.call(1);
        call.arg(self.keys.nodes()).arg(lease_ms / 2).arg(MAX_DUE);
        let value = self
            .scripts
            .call(&scripts::NODE_DUE, &call, Repeat::Harmless)
            .await?;
        scripts::read(value, |reply| {
            (0..reply.left())
                .map(|_| Ok(reply.text()?.into()))
                .collect()
        })
    }

    async fn do_look_at_node(&self, node: &str) -> Result<NodeLook> {
        let mut call = scripts::NODE_LOOK.call(1);
        call.arg(self.keys.node(node));
        let value = self
            .scripts
            .call(&scripts::NODE_LOOK, &call, Repeat::Harmless)
            .await?;
        let look = scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                node_look::LIVES => NodeLook::Lives {
                    again_ms: reply.integer()?.unsigned_abs(),
                },
                node_look::DEAD => NodeLook::Dead,
                node_look::MISSING => NodeLook::Missing,
                code => return Err(unknown_code("node_look", code)),
            })
        })?;
        match look {
            NodeLook::Lives { again_ms } if again_ms > 0 => {
                self.index(node, again_ms.cast_signed()).await;
            }
            NodeLook::Missing => self.index(node, -1).await,
            _ => {}
        }
        Ok(look)
    }

    async fn do_end_lease(&self, node: &str) -> Result<()> {
        let script = &*scripts::NODE_END;
        let mut end = script.call(1);
        end.arg(self.keys.node(node));
        let calls = vec![(script, end), self.index_call(node, 0)];
        for answer in self.send_each(calls).await {
            answer?;
        }
        Ok(())
    }

    async fn page(&self, node: &str, kept_ms: u64) -> Result<Page> {
        let mut call = scripts::NODE_PAGE.call(2);
        call.arg(self.keys.node(node))
            .arg(self.keys.node_conns(node))
            .arg(PAGE)
            .arg(kept_ms);
        let value = self
            .scripts
            .call(&scripts::NODE_PAGE, &call, Repeat::Harmless)
            .await?;
        scripts::read(value, |reply| {
            Ok(match reply.integer()? {
                node_page::PAGE => {
                    let age_ms = reply.integer()?.unsigned_abs();
                    let mut connections = Vec::with_capacity(reply.left() / 2);
                    while reply.left() > 1 {
                        connections.push((reply.text()?, reply.text()?));
                    }
                    Page::Some {
                        connections,
                        age_ms,
                    }
                }
                node_page::EMPTY => Page::Empty {
                    wait_ms: reply.integer()?.unsigned_abs(),
                },
                node_page::ENDED => Page::Ended,
                code => return Err(unknown_code("node_page", code)),
            })
        })
    }

    /// The `conn_meta` of connections, room by room.
    async fn metas<'a>(
        &self,
        rooms: &[(&'a str, Vec<&'a (String, String)>)],
    ) -> Vec<Result<Vec<Candidate>>> {
        let mut read = Pipeline::with_capacity(rooms.len());
        for (room, connections) in rooms {
            let command = read.cmd("HMGET").arg(self.keys.room(room).conn_meta);
            for (conn, _) in connections {
                command.arg(conn);
            }
        }
        let answers = self
            .scripts
            .commands
            .pipeline_each(&read, Repeat::Harmless)
            .await;
        rooms
            .iter()
            .zip(answers)
            .map(|((_, connections), answer)| {
                let metas: Vec<Option<Vec<u8>>> = scripts::read(answer?, |reply| {
                    (0..reply.left()).map(|_| reply.bytes_or_nil()).collect()
                })?;
                Ok(connections
                    .iter()
                    .zip(metas)
                    .map(|((conn, _), meta)| Candidate {
                        conn: conn.clone(),
                        meta: meta.unwrap_or_default(),
                    })
                    .collect())
            })
            .collect()
    }

    async fn do_remove_connections(
        &self,
        node: &str,
        late_ms: u64,
        sweep: &mut Sweep,
    ) -> Result<(Removal, Vec<String>)> {
        let (connections, age_ms) = match self.page(node, late_ms).await? {
            Page::Some {
                connections,
                age_ms,
            } => (connections, age_ms),
            Page::Empty { wait_ms } => {
                return Ok((Removal::More { after_ms: wait_ms }, Vec::new()));
            }
            Page::Ended => {
                self.index(node, -1).await;
                return Ok((Removal::Done, Vec::new()));
            }
        };
        let mut by_room: BTreeMap<&str, Vec<&(String, String)>> = BTreeMap::new();
        for connection in &connections {
            let room = connection.1.split_once(':').map_or("", |(_, room)| room);
            by_room.entry(room).or_default().push(connection);
        }
        let rooms: Vec<(&str, Vec<&(String, String)>)> = by_room
            .into_iter()
            .flat_map(|(room, all)| {
                all.chunks(CONNECTIONS_AT_A_TIME)
                    .map(|some| (room, some.to_vec()))
                    .collect::<Vec<_>>()
            })
            .collect();
        let (mut reaps, mut done) = (Vec::new(), Vec::new());
        for ((room, connections), metas) in rooms.iter().zip(self.metas(&rooms).await) {
            match metas {
                Ok(candidates) => {
                    let known = candidates.iter().map(|found| !found.meta.is_empty());
                    let known: Vec<bool> = known.collect();
                    reaps.push((*room, candidates));
                    done.push((connections, known));
                }
                Err(error) => sweep.fail(error),
            }
        }
        let reaped = self.reap(&reaps, Reap::DeadNode(node), sweep).await;
        let mut forget = scripts::NODE_FORGET.call(1);
        forget.arg(self.keys.node_conns(node));
        let mut forgotten = 0;
        let mut rooms = Vec::new();
        for ((room, reaped), (connections, known)) in reaped.into_iter().zip(done) {
            let Some(reaped) = reaped else { continue };
            if reaped.removed > 0 {
                rooms.push(room.to_owned());
            }
            for ((conn, entry), known) in connections.iter().zip(known) {
                // The step of a join in the room may be late.
                if known || age_ms >= late_ms {
                    let number = entry.split_once(':').map_or("", |(number, _)| number);
                    forget
                        .arg(conn)
                        .arg(number.parse::<u64>().unwrap_or(u64::MAX >> 11));
                    forgotten += 1;
                }
            }
        }
        if forgotten == 0 {
            let after_ms = LATE_PAUSE_MS;
            return Ok((Removal::More { after_ms }, rooms));
        }
        self.scripts
            .call(&scripts::NODE_FORGET, &forget, Repeat::Harmless)
            .await?;
        Ok((Removal::More { after_ms: 0 }, rooms))
    }

    async fn do_forget_connections(
        &self,
        node: &str,
        connections: &[(Arc<str>, u64)],
    ) -> Result<()> {
        let mut forget = scripts::NODE_FORGET.call(1);
        forget.arg(self.keys.node_conns(node));
        for (conn, number) in connections {
            forget.arg(&**conn).arg(*number);
        }
        self.scripts
            .call(&scripts::NODE_FORGET, &forget, Repeat::Harmless)
            .await
            .map(drop)
    }
}

impl<T: InRooms> NodeStore for T {
    fn renew_lease<'a>(&'a self, lease: &'a Lease) -> BoxFuture<'a, Result<Renewal>> {
        Box::pin(self.rooms().do_renew_lease(lease))
    }

    fn due_nodes(&self, lease_ms: u64) -> BoxFuture<'_, Result<Vec<Arc<str>>>> {
        Box::pin(self.rooms().do_due_nodes(lease_ms))
    }

    fn look_at_node<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<NodeLook>> {
        Box::pin(self.rooms().do_look_at_node(node))
    }

    fn end_lease<'a>(&'a self, node: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.rooms().do_end_lease(node))
    }

    fn remove_connections<'a>(
        &'a self,
        node: &'a str,
        ended: bool,
        sweep: &'a mut Sweep,
    ) -> BoxFuture<'a, Result<Removal>> {
        Box::pin(async move {
            let late_ms = if T::IN_STEPS && !ended { LATE_MS } else { 0 };
            let removal = self.rooms().do_remove_connections(node, late_ms, sweep);
            let (removal, rooms) = removal.await?;
            let after: Vec<_> = rooms.iter().map(|room| self.after_removal(room)).collect();
            futures_util::future::join_all(after).await;
            Ok(removal)
        })
    }

    fn forget_connections<'a>(
        &'a self,
        node: &'a str,
        connections: &'a [(Arc<str>, u64)],
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.rooms().do_forget_connections(node, connections))
    }
}
