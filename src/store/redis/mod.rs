//! The store on Redis, one server or a cluster. `open.rs` connects and puts the store together;
//! `transport/` sends commands, `scripts/` calls scripts, `pubsub/` receives events. The capabilities are
//! `presence/`, `expiry/`, `metadata/` and `locks/`.

mod expiry;
mod locks;
mod metadata;
mod open;
pub mod presence;
mod pubsub;
pub mod scripts;
pub mod transport;

pub use open::Settings;

use crate::{
    failpoints::{Failpoint, off},
    keys::Keys,
    model::{
        error::{Error, Result},
        metadata::MetadataStorage,
        presence::{Epoch, Member, Place, Sweep},
    },
    store::{
        BatchMiss, EachPiece, EventSink, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Join,
        Joined, Left, Located, Store, SweepSettings, Topic, Watch, heartbeat::HeartbeatStore,
    },
};
use futures_util::future::BoxFuture;
use presence::{
    clock::ServerClock,
    states::{StateOptions, States},
};
use pubsub::Subscriber;
use redis::{Cmd, Value};
use scripts::Script;
use serde::Deserialize;
use std::sync::{Arc, atomic::AtomicBool};
use transport::{
    cluster,
    commands::Commands,
    errors,
    link::{NoScript, Repeat},
};

/// How things are stored, where there is a choice.
#[derive(Debug, Default)]
pub struct StorageOptions {
    pub states: StateOptions,
    pub metadata: MetadataStorage,
}

/// How events are published on a cluster.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PubSub {
    /// Sharded, if all masters can do it (Redis 7).
    #[default]
    Auto,
    Sharded,
    Plain,
}

pub struct RedisStore {
    keys: Keys,
    commands: Commands,
    subscriber: Subscriber,
    /// The channel on which this node is told of its claims on locks.
    wake: Box<str>,
    states: States,
    metadata: MetadataStorage,
    clock: ServerClock,
    /// The user may send what `patch.rs` sends, and the server does with it what it should.
    transactions: Arc<AtomicBool>,
    check_schedule: expiry::CheckSchedule,
    checks: expiry::Checks,
    sink: Arc<dyn EventSink>,
}

/// What `INFO` says under a name.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    Some(info.lines().find_map(value)?.trim())
}

impl RedisStore {
    /// Calls a script. A server that has lost it gets it with the call: `NOSCRIPT` means that
    /// nothing ran, so a second call is always harmless.
    async fn call(&self, script: &Script, call: &Cmd, repeat: Repeat) -> Result<Value> {
        match self.commands.call(call, repeat).await? {
            Ok(value) => Ok(value),
            Err(NoScript) if off(Failpoint::NoScript) => Err(Error::internal(
                "the script is not there, and is not to be sent",
            )),
            Err(NoScript) => self.commands.command(&script.with_text(call), repeat).await,
        }
    }

    /// Calls scripts in one go; each call has its own result.
    async fn call_all(
        &self,
        script: &'static Script,
        calls: Vec<Cmd>,
        repeat: Repeat,
    ) -> Vec<Result<Value>> {
        let calls = calls.into_iter().map(|call| (script, call)).collect();
        self.call_each(calls, repeat).await
    }

    /// The same with a script for each call.
    async fn call_each(
        &self,
        calls: Vec<(&'static Script, Cmd)>,
        repeat: Repeat,
    ) -> Vec<Result<Value>> {
        let (scripts, calls): (Vec<_>, Vec<Cmd>) = calls.into_iter().unzip();
        let answers = self.commands.each(&calls, repeat).await;
        let mut results = Vec::with_capacity(calls.len());
        for ((script, call), answer) in scripts.iter().zip(&calls).zip(answers) {
            results.push(match answer.map(Value::extract_error) {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(error)) if errors::is_no_script(&error) => {
                    self.commands.command(&script.with_text(call), repeat).await
                }
                Ok(Err(error)) => Err(errors::request(&error)),
                Err(error) => Err(error),
            });
        }
        results
    }
}

impl HeartbeatStore for RedisStore {
    fn refresh_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatRefresh],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<BatchMiss>>> {
        Box::pin(cluster::with_queue_timeout_once(
            self.do_refresh_heartbeats(heartbeats, ttl_ms),
        ))
    }

    fn refreshes_by_room(&self) -> bool {
        self.commands.is_cluster()
    }

    fn update_heartbeats<'a>(
        &'a self,
        heartbeats: &'a [HeartbeatUpdate],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Vec<Result<HeartbeatOutcome>>> {
        Box::pin(cluster::with_queue_timeout_once(
            self.do_update_heartbeats(heartbeats, ttl_ms),
        ))
    }

    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>> {
        Box::pin(cluster::with_queue_timeout_once(self.do_locate(conns)))
    }
}

impl Store for RedisStore {
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
    ) -> BoxFuture<'a, Result<Joined>> {
        Box::pin(self.do_join(join, previous))
    }

    fn leave<'a>(
        &'a self,
        conn: &'a str,
        place: &'a Place,
        fence: Option<Epoch>,
    ) -> BoxFuture<'a, Result<Left>> {
        Box::pin(self.do_leave(conn, place, fence))
    }

    fn room_snapshot<'a>(
        &'a self,
        room: &'a str,
        each: EachPiece<'a>,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.do_room_snapshot(room, each))
    }

    fn user_connections<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Vec<Member>>> {
        Box::pin(self.do_user_connections(user))
    }

    fn sweep<'a>(&'a self, settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>> {
        Box::pin(async move {
            if self.keys.is_slotted() {
                Ok(cluster::without_queue_timeout(self.sweep_slotted(settings)).await)
            } else {
                self.do_sweep(settings).await
            }
        })
    }

    fn adopt(&self, ttl_ms: u64) -> BoxFuture<'_, Result<Sweep>> {
        Box::pin(async move {
            if self.keys.is_slotted() {
                Ok(cluster::without_queue_timeout(self.adopt_slotted(ttl_ms)).await)
            } else {
                self.do_adopt(ttl_ms).await
            }
        })
    }

    fn watch_expirations(&self) -> BoxFuture<'_, Result<Watch>> {
        Box::pin(self.subscriber.watch_expirations())
    }

    fn subscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.subscriber.subscribe(topic))
    }

    fn unsubscribe<'a>(&'a self, topic: &'a Topic) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.subscriber.unsubscribe(topic))
    }

    fn all_reachable(&self) -> bool {
        self.commands.servers().iter().all(|link| link.is_live())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.subscriber.close();
            self.commands.close();
        })
    }
}
