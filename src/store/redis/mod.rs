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
    model::{error::Result, metadata::MetadataStorage},
    store::{PresenceStore, Store, Topic, Watch, lock::LockStore, metadata::MetadataStore},
};
use futures_util::future::BoxFuture;
use locks::Locks;
use metadata::Metadata;
use presence::states::StateOptions;
use pubsub::Subscriber;
use scripts::ScriptClient;
use serde::Deserialize;
use std::sync::Arc;

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
    scripts: Arc<ScriptClient>,
    /// On the layout that was chosen when the store was opened.
    presence: Arc<dyn PresenceStore>,
    metadata: Arc<Metadata>,
    locks: Locks,
    subscriber: Subscriber,
}

/// What `INFO` says under a name.
fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    Some(info.lines().find_map(value)?.trim())
}

impl Store for RedisStore {
    fn presence(self: Arc<Self>) -> Arc<dyn PresenceStore> {
        self.presence.clone()
    }

    fn metadata(self: Arc<Self>) -> Arc<dyn MetadataStore> {
        self.metadata.clone()
    }

    fn locks(&self) -> &dyn LockStore {
        &self.locks
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
        self.scripts
            .commands
            .servers()
            .iter()
            .all(|link| link.is_live())
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.subscriber.close();
            self.scripts.commands.close();
        })
    }
}
