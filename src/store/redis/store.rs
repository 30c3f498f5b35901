//! The store on Redis: presence on one of the layouts, metadata, locks, subscriptions.

use crate::{
    model::error::Result,
    store::{
        PresenceStore, Store, Topic, Watch,
        lock::LockStore,
        metadata::MetadataStore,
        redis::{locks::Locks, metadata::Metadata, pubsub::Subscriber, scripts::ScriptClient},
    },
};
use futures_util::future::BoxFuture;
use std::sync::Arc;

pub struct RedisStore {
    pub(super) scripts: Arc<ScriptClient>,
    /// For the layout that was chosen when the store was opened.
    pub(super) presence: Arc<dyn PresenceStore>,
    pub(super) metadata: Arc<Metadata>,
    pub(super) locks: Locks,
    pub(super) subscriber: Subscriber,
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
