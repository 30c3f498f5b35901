//! The store on one Redis server: the connections, and the operations as calls of scripts.
//! Operations are grouped as the capabilities are: `presence.rs`, `heartbeat.rs`, `expiry/`,
//! `metadata.rs`, `lock.rs`.

mod clock;
pub mod config;
mod errors;
mod expiry;
mod heartbeat;
mod link;
mod lock;
mod metadata;
mod metadata_json;
mod patch;
mod presence;
pub mod scripts;
mod server;
pub mod states;
mod subscriber;

use crate::{
    keys::Keys,
    model::{
        error::{Code, Error, Result},
        ids,
        limits::Limits,
        metadata::{Channel, MetadataStorage},
        presence::{Member, Place, Sweep},
    },
    store::{
        Beaten, EventSink, Exception, FullBeat, Join, Joined, Left, Located, PlainBeat, Store,
        SweepSettings, Topic, Watch,
    },
    switches::{Defence, off},
};
use clock::ServerClock;
use config::Target;
use futures_util::future::BoxFuture;
use link::{Link, LinkConfig, NoScript, Repeat};
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use scripts::Script;
use states::{StateOptions, States};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use subscriber::Subscriber;

/// The oldest server that has what the scripts need (`ZADD LT`, `ZMSCORE`).
const OLDEST_SERVER: (u32, u32) = (6, 2);

/// How things are stored, where there is a choice.
#[derive(Debug, Default)]
pub struct StorageOptions {
    pub states: StateOptions,
    pub metadata: MetadataStorage,
}

pub struct RedisStore {
    keys: Keys,
    commands: Link,
    subscriber: Subscriber,
    /// The channel on which this node is told of its claims on locks.
    wake: Box<str>,
    states: States,
    metadata: MetadataStorage,
    clock: ServerClock,
    /// The user may send what `patch.rs` sends, and the server does with it what it should.
    transactions: Arc<AtomicBool>,
    sink: Arc<dyn EventSink>,
}

impl RedisStore {
    /// Connects, or says why not.
    pub async fn open(
        target: Target,
        keys: Keys,
        limits: &Limits,
        storage: StorageOptions,
        sink: Arc<dyn EventSink>,
    ) -> Result<RedisStore> {
        let (config, store) = Self::parts(target, keys, limits, storage, sink, true)?;
        Ok(store(Link::open(config).await?))
    }

    /// Connects in the background: one of several servers, of which some may be down.
    pub fn begin(
        target: Target,
        keys: Keys,
        limits: &Limits,
        sink: Arc<dyn EventSink>,
    ) -> Result<RedisStore> {
        let (config, store) =
            Self::parts(target, keys, limits, StorageOptions::default(), sink, false)?;
        Ok(store(Link::begin(config)))
    }

    /// What the link for commands needs, and what makes a store of it.
    fn parts(
        target: Target,
        keys: Keys,
        limits: &Limits,
        storage: StorageOptions,
        sink: Arc<dyn EventSink>,
        reports_state: bool,
    ) -> Result<(LinkConfig, impl FnOnce(Link) -> RedisStore)> {
        let wake = keys.lock_wake(&ids::random()?);
        let subscriber = Subscriber::new(&target, keys.clone(), &wake, limits, sink.clone());
        let transactions = Arc::new(AtomicBool::new(false));
        let (tried, key) = (transactions.clone(), keys.conn(""));
        let json = (storage.metadata == MetadataStorage::Json)
            .then(|| keys.channel_meta(&Channel::new("", "")));
        let config = LinkConfig {
            server: target.server,
            connect_timeout: Duration::from_millis(limits.connect_timeout_ms),
            command_timeout: Duration::from_millis(limits.command_timeout_ms),
            on_push: Arc::new(|_| {}),
            prepare: Arc::new(move |connection, _| {
                let (tried, key, json) = (tried.clone(), key.clone(), json.clone());
                Box::pin(async move {
                    let works = prepare(connection.clone(), &key).await?;
                    tried.store(works, Ordering::Relaxed);
                    match json {
                        Some(key) => metadata_json::require_module(connection, &key).await,
                        None => Ok(()),
                    }
                })
            }),
            sink: sink.clone(),
            reports_state,
        };
        let store = move |commands| RedisStore {
            keys,
            commands,
            subscriber,
            wake: wake.into(),
            states: States::new(storage.states, limits, sink.clone()),
            metadata: storage.metadata,
            clock: ServerClock::default(),
            transactions,
            sink,
        };
        Ok((config, store))
    }

    /// Calls a script. A server that has lost it gets it with the call: `NOSCRIPT` means that
    /// nothing ran, so a second call is always harmless.
    async fn call(&self, script: &Script, call: &Cmd, repeat: Repeat) -> Result<Value> {
        match self.commands.call(call, repeat).await? {
            Ok(value) => Ok(value),
            Err(NoScript) if off(Defence::NoScript) => Err(Error::internal(
                "the script is not there, and is not to be sent",
            )),
            Err(NoScript) => self.commands.command(&script.with_text(call), repeat).await,
        }
    }

    /// Calls scripts in one go; each call has its own result.
    async fn call_all(
        &self,
        script: &Script,
        calls: Vec<Cmd>,
        repeat: Repeat,
    ) -> Vec<Result<Value>> {
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for call in &calls {
            pipeline.add_command(call.clone());
        }
        let answers = match self.commands.pipeline(&pipeline, repeat).await {
            Ok(answers) => answers,
            Err(error) => return vec![Err(error); calls.len()],
        };
        let mut results = Vec::with_capacity(calls.len());
        for (call, answer) in calls.iter().zip(answers) {
            results.push(match answer.extract_error() {
                Ok(value) => Ok(value),
                Err(error) if errors::is_no_script(&error) => {
                    self.commands.command(&script.with_text(call), repeat).await
                }
                Err(error) => Err(errors::request(&error)),
            });
        }
        results
    }
}

/// Checks the server's version, loads the scripts, and finds out whether transactions that a script
/// lets through (`patch.rs`) work here: not where the user lacks the rights, or where a proxy does not
/// know them. All in one go; what is forbidden to the user, the first call that needs it says. `key`:
/// one that is never written.
async fn prepare(mut connection: MultiplexedConnection, key: &str) -> Result<bool> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("INFO").arg("server");
    for script in scripts::all() {
        pipeline.add_command(script.load());
    }
    let mut check = scripts::PATCH_CHECK.eval(2);
    // Nothing is there: it refuses.
    check.arg(key).arg(key).arg("").arg("").arg(&[0; 6]);
    pipeline.cmd("WATCH").arg(key);
    pipeline.add_command(check);
    pipeline.cmd("MULTI");
    pipeline.cmd("EXEC");
    let answers = connection
        .send_packed_commands(&pipeline, 0, pipeline.len())
        .await
        .map_err(|error| errors::request(&error))?;
    for answer in &answers {
        if let Err(error) = answer.clone().extract_error() {
            let error = errors::request(&error);
            if error.code == Code::Unavailable {
                return Err(error);
            }
        }
    }
    let transactions = matches!(
        &answers[..],
        [.., Value::Okay, Value::Array(check), Value::Okay, Value::Nil]
            if check.first() == Some(&Value::Int(scripts::patch_check::REFUSED))
    );
    if let Some(Ok(info)) = answers
        .into_iter()
        .next()
        .map(redis::from_redis_value::<String>)
        && let Some(version) = server_version(&info)
        && version < OLDEST_SERVER
    {
        return Err(Error::new(
            Code::Unsupported,
            format!(
                "Rollcall needs Redis {}.{} or later, this server is {}.{}",
                OLDEST_SERVER.0, OLDEST_SERVER.1, version.0, version.1
            ),
        ));
    }
    Ok(transactions)
}

fn server_version(info: &str) -> Option<(u32, u32)> {
    let version = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_version:"))?;
    let mut parts = version.trim().split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

impl Store for RedisStore {
    fn join<'a>(
        &'a self,
        join: &'a Join,
        previous: Option<&'a Place>,
        snapshot: bool,
    ) -> BoxFuture<'a, Result<Joined>> {
        Box::pin(self.do_join(join, previous, snapshot))
    }

    fn leave<'a>(&'a self, conn: &'a str, place: &'a Place) -> BoxFuture<'a, Result<Left>> {
        Box::pin(self.do_leave(conn, place))
    }

    fn beat_batch<'a>(
        &'a self,
        beats: &'a [PlainBeat],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Vec<Exception>>> {
        Box::pin(self.do_beat_batch(beats, ttl_ms))
    }

    fn beat_full<'a>(
        &'a self,
        beats: &'a [FullBeat],
        ttl_ms: u64,
    ) -> BoxFuture<'a, Vec<Result<Beaten>>> {
        Box::pin(self.do_beat_full(beats, ttl_ms))
    }

    fn locate<'a>(&'a self, conns: &'a [Arc<str>]) -> BoxFuture<'a, Vec<Result<Option<Located>>>> {
        Box::pin(self.do_locate(conns))
    }

    fn room_snapshot<'a>(&'a self, room: &'a str) -> BoxFuture<'a, Result<Vec<Member>>> {
        Box::pin(self.do_room_snapshot(room))
    }

    fn user_connections<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<Vec<Member>>> {
        Box::pin(self.do_user_connections(user))
    }

    fn sweep<'a>(&'a self, settings: &'a SweepSettings) -> BoxFuture<'a, Result<Sweep>> {
        Box::pin(self.do_sweep(settings))
    }

    fn adopt(&self, ttl_ms: u64) -> BoxFuture<'_, Result<Sweep>> {
        Box::pin(self.do_adopt(ttl_ms))
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

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.subscriber.close();
            self.commands.close();
        })
    }
}
