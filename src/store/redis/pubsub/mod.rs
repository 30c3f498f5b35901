//! Subscriptions: one connection to a server (`connection.rs`), or several to a cluster
//! (`cluster.rs`). `listener.rs` checks messages, `dedup.rs` drops those that arrive on two
//! connections, and `gaps.rs` reports missed messages. `channel.rs` names the channels.

mod channel;
mod cluster;
mod connection;
mod dedup;
mod gaps;
mod listener;

use crate::{
    model::{error::Result, limits::Limits},
    store::{
        Topic, Watch,
        redis::transport::{cluster::Cluster, server::Server},
    },
};
use channel::Channel;
use cluster::ClusterSubscriber;
use connection::{SubscriberConnection, is_refusal};
use gaps::Gaps;
pub use listener::Listener;
use std::sync::Arc;

pub struct Subscriber {
    listener: Arc<Listener>,
    gaps: Arc<Gaps>,
    at: At,
}

enum At {
    One(SubscriberConnection),
    Cluster(ClusterSubscriber),
}

impl Subscriber {
    pub fn of_server(server: Arc<Server>, listener: Listener, limits: &Limits) -> Self {
        let listener = Arc::new(listener);
        let gaps = Gaps::new(listener.clone(), None);
        let connection =
            SubscriberConnection::new(server, listener.clone(), gaps.clone(), limits, None);
        Subscriber {
            at: At::One(connection),
            gaps,
            listener,
        }
    }

    pub fn of_cluster(cluster: Arc<Cluster>, listener: Listener, limits: &Limits) -> Self {
        let listener = Arc::new(listener);
        let gaps = Gaps::new(listener.clone(), Some(cluster.clone()));
        let cluster = ClusterSubscriber::new(cluster, listener.clone(), gaps.clone(), limits);
        Subscriber {
            at: At::Cluster(cluster),
            gaps,
            listener,
        }
    }

    /// Resolves when the server has confirmed the subscription.
    pub async fn subscribe(&self, topic: &Topic) -> Result<()> {
        match &self.at {
            At::One(connection) => connection.add(&Channel::of(topic, &self.listener)).await,
            At::Cluster(cluster) => cluster.subscribe(topic).await,
        }
    }

    pub async fn unsubscribe(&self, topic: &Topic) -> Result<()> {
        match &self.at {
            At::One(connection) => connection.remove(&Channel::of(topic, &self.listener)).await,
            At::Cluster(cluster) => cluster.unsubscribe(topic).await,
        }
    }

    /// Enables and subscribes to notifications of expirations, unless the server forbids it.
    pub async fn watch_expirations(&self) -> Result<Watch> {
        let flags = match &self.at {
            At::One(connection) => connection.ensure_flags().await,
            At::Cluster(cluster) => cluster.ensure_flags().await,
        };
        match flags {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => return Ok(Watch::Refused),
            Err(error) => return Err(error),
        }
        match self.subscribe(&Topic::Expirations).await {
            Ok(()) => Ok(Watch::Notified),
            Err(error) if is_refusal(&error) => Ok(Watch::Refused),
            Err(error) => Err(error),
        }
    }

    pub fn close(&self) {
        self.gaps.close();
        match &self.at {
            At::One(connection) => connection.close(),
            At::Cluster(cluster) => cluster.close(),
        }
    }
}
