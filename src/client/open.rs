//! From options to what a client works on: its store, and what its locks are come by through.

use crate::{
    keys::{Keys, Layout},
    lock::{Board, Keeper, Line, Quorum},
    model::{
        codec::Codecs,
        error::{Error, Result},
    },
    options::Options,
    store::{
        EventSink, LogLevel, Store,
        memory::MemoryStore,
        redis::{RedisStore, Settings, StorageOptions, config::Target, states::StateOptions},
    },
};
use std::{sync::Arc, time::Duration};

pub(super) async fn store(options: &Options, sink: Arc<dyn EventSink>) -> Result<Arc<dyn Store>> {
    let memory = match options.url.as_deref() {
        None => Some(None),
        Some(url) => url.strip_prefix("memory://").map(Some),
    };
    // Refused on every store, although only Redis compresses.
    let codecs = Codecs::new(options.state_compression.as_ref())?;
    if let Some(name) = memory {
        sink.log(
            LogLevel::Info,
            "Presence is kept in this process; nothing is shared beyond it. Give a Redis URL to \
             share it with other processes",
        );
        let name = name.filter(|name| !name.is_empty());
        return Ok(Arc::new(MemoryStore::open(name, sink)));
    }
    let url = options.url.as_deref().unwrap_or_default();
    let target = Target::parse(url, options.tls.as_ref(), &options.sentinel)?;
    let storage = StorageOptions {
        states: StateOptions {
            storage: options.state_storage,
            codecs,
        },
        metadata: options.metadata_storage,
    };
    let layout = match (&target, options.layout) {
        (Target::Cluster(_), Some(Layout::V1)) => {
            return Err(Error::invalid(
                "layout: \"v1\" is not possible on a Redis Cluster, whose scripts see one slot; \
                 leave layout out, or set it to \"slotted\"",
            ));
        }
        (Target::Cluster(_), _) => Layout::Slotted,
        (Target::One { .. }, layout) => layout.unwrap_or(Layout::V1),
    };
    let keys = keys(options).with_layout(layout);
    keys.check()?;
    let settings = Settings {
        keys,
        limits: &options.limits,
        storage,
        sink,
    };
    let store = RedisStore::open(target, options.pubsub, settings).await?;
    Ok(Arc::new(store))
}

fn keys(options: &Options) -> Keys {
    Keys::new(&options.key_prefix, options.shard_count)
        .with_channel_prefix(options.channel_prefix())
}

/// Where locks are: in the client's store, or on a majority of several servers.
pub(super) async fn keeper(
    options: &Options,
    store: &Arc<dyn Store>,
    board: &Arc<Board>,
    sink: &Arc<dyn EventSink>,
) -> Result<Arc<dyn Keeper>> {
    if options.locks.urls.is_empty() {
        return Ok(Arc::new(Line::new(store.clone(), board.clone())));
    }
    let keys = keys(options);
    let stores = options.locks.urls.iter().map(|url| {
        let target = Target::parse(url, options.tls.as_ref(), &options.sentinel)?;
        let settings = Settings {
            keys: keys.clone(),
            limits: &options.limits,
            storage: StorageOptions::default(),
            sink: sink.clone(),
        };
        let store = RedisStore::begin(target, settings)?;
        Ok(Arc::new(store) as Arc<dyn Store>)
    });
    let quorum = Quorum::new(stores.collect::<Result<_>>()?, options.locks.clone());
    quorum
        .connected(Duration::from_millis(options.limits.connect_timeout_ms))
        .await;
    Ok(Arc::new(quorum))
}
