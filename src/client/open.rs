//! Opens the store and the lock backend that the options ask for.

use crate::{
    keys::{Keys, Layout},
    lock::{LockBackend, QueuedLock, Quorum, WakeupRegistry},
    model::{
        codec::Codecs,
        error::{Error, Result},
    },
    options::Options,
    store::{
        LogLevel, Sinks, Store,
        memory::MemoryStore,
        redis::{
            PubSub, RedisStore, Settings, StorageOptions, presence::states::StateOptions,
            transport::config::Target,
        },
    },
};
use std::{sync::Arc, time::Duration};

pub(super) async fn store(options: &Options, sinks: Sinks) -> Result<Arc<dyn Store>> {
    let memory = match options.url.as_deref() {
        None => Some(None),
        Some(url) => url.strip_prefix("memory://").map(Some),
    };
    check_connection_options(options, memory.is_some())?;
    // Checked on every store, although only Redis compresses, so that invalid options always fail.
    let codecs = Codecs::new(options.state_compression.as_ref())?;
    if let Some(name) = memory {
        sinks
            .notifications
            .log(LogLevel::Info, in_process_notice(name.is_some()));
        let name = name.filter(|name| !name.is_empty());
        return Ok(Arc::new(MemoryStore::open(name, sinks.events)));
    }
    let url = options.url.as_deref().unwrap_or_default();
    let target = Target::parse(url, options.tls.as_ref(), options.sentinel.as_ref())?;
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
    if matches!(target, Target::One { .. }) && options.pubsub == PubSub::Sharded {
        return Err(Error::invalid(
            "pubsub: \"sharded\" is for a Redis Cluster; leave pubsub out",
        ));
    }
    let keys = keys(options)?.with_layout(layout);
    keys.check()?;
    let settings = Settings {
        keys,
        limits: &options.limits,
        storage,
        sinks,
    };
    let store = RedisStore::open(target, options.pubsub, settings).await?;
    Ok(Arc::new(store))
}

/// `chosen`: the caller asked for the in-process store (memory://), so the notice gives no advice.
fn in_process_notice(chosen: bool) -> &'static str {
    if chosen {
        "Presence is kept in this process; nothing is shared beyond it"
    } else {
        "Presence is kept in this process; nothing is shared beyond it. Give a Redis URL to share it with \
         other processes"
    }
}

/// Refuses connection options that would have no effect. An option that is silently ignored would
/// mislead the caller.
fn check_connection_options(options: &Options, in_memory: bool) -> Result<()> {
    let urls = || options.url.iter().chain(&options.locks.urls);
    if options.tls.is_some() && in_memory && options.locks.urls.is_empty() {
        return Err(Error::invalid(
            "tls is not possible with an in-process store (memory://); leave it out, or give the URL of \
             a Redis server",
        ));
    }
    if options.sentinel.is_some() && !urls().any(|url| Target::has_sentinels(url)) {
        return Err(Error::invalid(
            "sentinel is for redis-sentinel:// URLs, and there is none; leave it out",
        ));
    }
    Ok(())
}

fn keys(options: &Options) -> Result<Keys> {
    Ok(Keys::new(&options.key_prefix, options.shard_count)
        .with_channel_prefix(options.channel_prefix())
        .with_channel_types(options.channel_types()?))
}

/// Selects the lock backend: the client's store, or a majority of several servers.
pub(super) async fn backend(
    options: &Options,
    store: &Arc<dyn Store>,
    wakeups: &Arc<WakeupRegistry>,
    sinks: &Sinks,
) -> Result<Arc<dyn LockBackend>> {
    if options.locks.urls.is_empty() {
        return Ok(Arc::new(QueuedLock::new(store.clone(), wakeups.clone())));
    }
    let keys = keys(options)?;
    let stores = options.locks.urls.iter().enumerate().map(|(at, url)| {
        let target = Target::parse(url, options.tls.as_ref(), options.sentinel.as_ref()).map_err(
            |error| Error {
                message: format!("locks.urls[{at}]: {}", error.message),
                ..error
            },
        )?;
        let settings = Settings {
            keys: keys.clone(),
            limits: &options.limits,
            storage: StorageOptions::default(),
            sinks: sinks.clone(),
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
