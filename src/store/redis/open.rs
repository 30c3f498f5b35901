//! Connects the store to one server or to a cluster, and prepares each new connection.

use crate::{
    keys::{Keys, Layout},
    model::{
        error::{Code, Error, Result},
        ids,
        limits::Limits,
        metadata::{Channel, MetadataStorage},
    },
    store::{
        PresenceStore, Sinks,
        redis::{
            locks::{
                Locks,
                ends::{Ends, InOwnStep, InSameStep},
            },
            metadata::{Metadata, json},
            presence::{
                clock::ServerClock,
                layout::{LayoutCalls, SlottedCalls, V1Calls},
                rooms::Rooms,
                slotted::Slotted,
                states::{StateOptions, States},
                v1::V1,
            },
            pubsub::{Listener, Subscriber},
            scripts::{self, ScriptClient},
            store::RedisStore,
            transport::{
                cluster::{self, Cluster},
                commands::Commands,
                config::{Nodes, Target},
                errors,
                info::info_field,
                link::{Link, LinkConfig, Repeat, Role},
                server::Server,
            },
        },
    },
};
use redis::{Pipeline, Value, aio::MultiplexedConnection};
use serde::Deserialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// The oldest server that has what the scripts need (`ZADD LT`, `ZMSCORE`).
const OLDEST_SERVER: (u32, u32) = (6, 2);

/// The oldest server that has `SSUBSCRIBE`.
const FIRST_WITH_SHARDED_EVENTS: (u32, u32) = (7, 0);

/// Options about how data are stored.
#[derive(Debug, Default)]
pub struct StorageOptions {
    pub states: StateOptions,
    pub metadata: MetadataStorage,
}

/// How events are published on a cluster.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PubSub {
    /// Sharded, if all masters support it (Redis 7).
    #[default]
    Auto,
    Sharded,
    Plain,
}

/// What a store needs, on one server or on a cluster.
pub struct Settings<'a> {
    pub keys: Keys,
    pub limits: &'a Limits,
    pub storage: StorageOptions,
    pub sinks: Sinks,
}

impl Settings<'_> {
    /// The listener of the store. `wake_channel`: the channel for notifications about its claims on
    /// locks.
    fn listener(&self, db: i64, wake_channel: &str) -> Listener {
        let (keys, sinks) = (self.keys.clone(), self.sinks.clone());
        Listener::new(db, keys, wake_channel, self.limits, sinks)
    }

    /// Constructs the store. The layout is chosen only here.
    fn into_store(
        self,
        commands: Commands,
        subscriber: Subscriber,
        wake_channel: &str,
        transactions: Arc<AtomicBool>,
    ) -> RedisStore {
        let scripts = Arc::new(ScriptClient::new(commands));
        let keys = self.keys.clone();
        let rooms = |layout: Box<dyn LayoutCalls>| Rooms {
            keys: keys.clone(),
            room_scripts: layout.scripts(),
            layout,
            scripts: scripts.clone(),
            states: States::new(
                self.storage.states,
                self.limits,
                self.sinks.notifications.clone(),
            ),
            clock: ServerClock::default(),
            transactions,
            notifications: self.sinks.notifications,
        };
        let (presence, ends): (Arc<dyn PresenceStore>, Box<dyn Ends>) = match keys.layout() {
            Layout::V1 => (
                Arc::new(V1::new(rooms(Box::new(V1Calls { keys: keys.clone() })))),
                Box::new(InSameStep {
                    keys: keys.clone(),
                    scripts: scripts.clone(),
                }),
            ),
            Layout::Slotted => (
                Arc::new(Slotted::new(rooms(Box::new(SlottedCalls {
                    keys: keys.clone(),
                })))),
                Box::new(InOwnStep {
                    keys: keys.clone(),
                    scripts: scripts.clone(),
                }),
            ),
        };
        RedisStore {
            presence,
            metadata: Arc::new(Metadata {
                keys: keys.clone(),
                scripts: scripts.clone(),
                storage: self.storage.metadata,
            }),
            locks: Locks {
                keys,
                scripts: scripts.clone(),
                wake_channel: wake_channel.into(),
                ends,
            },
            subscriber,
            scripts,
        }
    }
}

impl RedisStore {
    /// Connects. Fails if the server or the cluster is not reachable or not usable.
    pub async fn open(
        target: Target,
        pubsub: PubSub,
        settings: Settings<'_>,
    ) -> Result<RedisStore> {
        match target {
            Target::One { server, db } => {
                let (config, store) = Self::parts(server, db, settings, Role::Client)?;
                Ok(store(Link::open(config).await?))
            }
            Target::Cluster(nodes) => Self::open_cluster(nodes, pubsub, settings).await,
        }
    }

    async fn open_cluster(
        nodes: Arc<Nodes>,
        pubsub: PubSub,
        mut settings: Settings<'_>,
    ) -> Result<RedisStore> {
        let wake = settings.keys.lock_wake(&ids::random()?);
        let layout = settings.keys.layout();
        let json = module_key(&settings.keys, &settings.storage);
        let cluster = Cluster::open(cluster::Settings {
            nodes,
            connect_timeout: Duration::from_millis(settings.limits.connect_timeout_ms),
            command_timeout: Duration::from_millis(settings.limits.command_timeout_ms),
            prepare: Arc::new(move |connection, _| {
                let json = json.clone();
                Box::pin(async move {
                    prepare(connection.clone(), layout, Topology::InCluster).await?;
                    match json {
                        Some(key) => json::require_module(connection, &key).await,
                        None => Ok(()),
                    }
                })
            }),
            notifications: settings.sinks.notifications.clone(),
        })
        .await?;
        let sharded = match pubsub {
            PubSub::Plain => false,
            PubSub::Sharded => true,
            PubSub::Auto => can_shard(&cluster).await?,
        };
        settings.keys = settings.keys.with_sharded_events(sharded);
        let cluster = Arc::new(cluster);
        let listener = settings.listener(0, &wake);
        let subscriber = Subscriber::of_cluster(cluster.clone(), listener, settings.limits);
        // A slot may be migrated to a server between the check, which fails with MOVED, and EXEC.
        // The transaction would then write a state unchecked. Patches are therefore written by
        // scripts.
        let transactions = Arc::new(AtomicBool::new(false));
        Ok(settings.into_store(Commands::Cluster(cluster), subscriber, &wake, transactions))
    }

    /// Connects in the background, to one of several servers of which some may be down.
    pub fn begin(target: Target, settings: Settings<'_>) -> Result<RedisStore> {
        let Target::One { server, db } = target else {
            return Err(Error::invalid(
                "several independent servers are single ones: redis-cluster:// cannot be one of them",
            ));
        };
        let (config, store) = Self::parts(server, db, settings, Role::Calls)?;
        Ok(store(Link::begin(config)))
    }

    /// The configuration of the command link, and a function that constructs the store from the
    /// link.
    fn parts(
        server: Arc<Server>,
        db: i64,
        settings: Settings<'_>,
        role: Role,
    ) -> Result<(LinkConfig, impl FnOnce(Link) -> RedisStore)> {
        let wake = settings.keys.lock_wake(&ids::random()?);
        let listener = settings.listener(db, &wake);
        let subscriber = Subscriber::of_server(server.clone(), listener, settings.limits);
        let transactions = Arc::new(AtomicBool::new(false));
        let (tried, key) = (transactions.clone(), settings.keys.conn("", ""));
        let layout = settings.keys.layout();
        let json = module_key(&settings.keys, &settings.storage);
        let config = LinkConfig {
            server,
            connect_timeout: Duration::from_millis(settings.limits.connect_timeout_ms),
            command_timeout: Duration::from_millis(settings.limits.command_timeout_ms),
            on_push: Arc::new(|_| {}),
            prepare: Arc::new(move |connection, _| {
                let (tried, key, json) = (tried.clone(), key.clone(), json.clone());
                Box::pin(async move {
                    let works =
                        prepare(connection.clone(), layout, Topology::Alone { key: &key }).await?;
                    tried.store(works, Ordering::Relaxed);
                    match json {
                        Some(key) => json::require_module(connection, &key).await,
                        None => Ok(()),
                    }
                })
            }),
            notifications: settings.sinks.notifications.clone(),
            role,
        };
        let store = move |link| {
            let commands = Commands::One(Arc::new(link));
            settings.into_store(commands, subscriber, &wake, transactions)
        };
        Ok((config, store))
    }
}

/// A key for probing RedisJSON, if it is needed. The key is never written.
fn module_key(keys: &Keys, storage: &StorageOptions) -> Option<String> {
    (storage.metadata == MetadataStorage::Json).then(|| keys.channel_meta(&Channel::new("", "")))
}

/// Whether all masters have sharded pub/sub.
async fn can_shard(cluster: &Cluster) -> Result<bool> {
    for master in cluster.masters() {
        let info = redis::cmd("INFO").arg("server").to_owned();
        let info = master.command(&info, Repeat::Harmless).await?;
        let info: String = redis::from_redis_value(info).unwrap_or_default();
        if server_version(&info).is_some_and(|version| version < FIRST_WITH_SHARDED_EVENTS) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The kind of server that a connection leads to.
enum Topology<'a> {
    /// `key` is a key that is never written.
    Alone {
        key: &'a str,
    },
    InCluster,
}

/// Checks the server's version, loads the scripts, and probes whether transactions with a script as
/// guard (`patch.rs`) work here. They do not if the user lacks permissions, or if a proxy does not
/// support them. The probe is skipped in a cluster. All commands are sent at once. Missing
/// permissions are not reported here but by the first call that needs them.
async fn prepare(
    mut connection: MultiplexedConnection,
    layout: Layout,
    topology: Topology<'_>,
) -> Result<bool> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("INFO").arg("server");
    for script in scripts::of_layout(layout) {
        pipeline.add_command(script.load());
    }
    if let Topology::Alone { key } = topology {
        let mut check = scripts::PATCH_CHECK.eval(2);
        // There is no state, so the check must refuse.
        check.arg(key).arg(key).arg("").arg("").arg(&[0; 4]);
        pipeline.cmd("WATCH").arg(key);
        pipeline.add_command(check);
        pipeline.cmd("MULTI");
        pipeline.cmd("EXEC");
    }
    let answers = connection
        .send_packed_commands(&pipeline, 0, pipeline.len())
        .await
        .map_err(|error| errors::request(&error))?;
    // Checked first, because an unsupported server also refuses the other commands.
    let info = answers.first().cloned();
    if let Some(Ok(info)) = info.map(redis::from_redis_value::<String>) {
        check_server(&info, &topology)?;
    }
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
    Ok(transactions)
}

fn check_server(info: &str, topology: &Topology<'_>) -> Result<()> {
    if matches!(topology, Topology::Alone { .. }) && info.contains("redis_mode:cluster") {
        return Err(Error::new(
            Code::Unsupported,
            "this server is part of a Redis Cluster: give its URL as redis-cluster://",
        ));
    }
    if let Some(version) = server_version(info)
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
    Ok(())
}

fn server_version(info: &str) -> Option<(u32, u32)> {
    let version = info_field(info, "redis_version")?;
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}
