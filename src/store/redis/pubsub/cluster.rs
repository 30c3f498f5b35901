//! Subscriptions on a cluster. Sharded channels are subscribed at the masters of their slots,
//! keyspace notifications at every master, and all other channels at one master. When slots move,
//! their subscriptions move too, and `resync` is emitted for the gap.

use crate::{
    failpoints::failpoint,
    keys::{SLOTS, slot_of},
    model::{
        error::{Code, Error, Result},
        limits::Limits,
    },
    store::{
        Topic,
        redis::{
            pubsub::{
                channel::Channel, connection::SubscriberConnection, gaps::Gaps, listener::Listener,
            },
            transport::{
                address::Address,
                cluster::{Cluster, Map},
            },
        },
    },
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Pause before a subscription that found no server is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub struct ClusterSubscriber {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    cluster: Arc<Cluster>,
    listener: Arc<Listener>,
    gaps: Arc<Gaps>,
    limits: Limits,
    topics: Mutex<BTreeSet<Topic>>,
    /// Only one change of subscriptions runs at a time.
    active: tokio::sync::Mutex<ActiveSubscriptions>,
    lost: Arc<Notify>,
}

#[derive(Default)]
struct ActiveSubscriptions {
    connections: BTreeMap<Address, Arc<SubscriberConnection>>,
    /// The channels that were subscribed at any server, and are still wanted.
    channels: HashSet<Channel>,
}

/// What a change of subscriptions could not do. Servers are independent: a failure of one says
/// nothing about the others.
struct Unplaced {
    map: Arc<Map>,
    /// The channels that each server did not accept, and the error.
    refused: BTreeMap<Address, (BTreeSet<Channel>, Error)>,
    /// Whether a channel is in a slot that no master serves.
    unrouted: bool,
}

impl Unplaced {
    fn is_nothing(&self) -> bool {
        self.refused.is_empty() && !self.unrouted
    }

    /// The error of a topic that is not subscribed everywhere.
    fn error_of(&self, topic: &Topic, listener: &Listener) -> Option<Error> {
        let mut error = None;
        each_channel(topic, &self.map, listener, |address, channel| {
            let Some(address) = address else {
                error.get_or_insert_with(|| {
                    Error::new(
                        Code::Unavailable,
                        "the Redis Cluster has slots that no master serves",
                    )
                });
                return;
            };
            if let Some((channels, refusal)) = self.refused.get(address)
                && channels.contains(&channel)
            {
                error.get_or_insert_with(|| refusal.clone());
            }
        });
        error
    }
}

/// Passes each channel of a topic and its server to `put`. The server is `None` if the slot has no
/// master.
fn each_channel<'a>(
    topic: &Topic,
    map: &'a Map,
    listener: &Listener,
    mut put: impl FnMut(Option<&'a Address>, Channel),
) {
    let keys = &listener.keys;
    match topic {
        Topic::Expirations => {
            for master in map.masters() {
                put(
                    Some(master),
                    Channel::Plain(listener.expired_channel.clone()),
                );
            }
        }
        Topic::AllRooms if keys.has_sharded_events() => {
            for slot in 0..SLOTS {
                put(map.owner(slot), Channel::Sharded(keys.slot_events(slot)));
            }
        }
        Topic::Room(room) if keys.has_sharded_events() => {
            let channel = keys.room_events(room);
            put(
                map.owner(slot_of(channel.as_bytes())),
                Channel::Sharded(channel),
            );
        }
        // Plain pub/sub reaches every server. The lowest address is used because it rarely changes.
        plain => put(map.masters().iter().min(), Channel::of(plain, listener)),
    }
}

impl ClusterSubscriber {
    pub fn new(
        cluster: Arc<Cluster>,
        listener: Arc<Listener>,
        gaps: Arc<Gaps>,
        limits: &Limits,
    ) -> ClusterSubscriber {
        let shared = Arc::new(Shared {
            cluster,
            listener,
            gaps,
            limits: limits.clone(),
            topics: Mutex::default(),
            active: tokio::sync::Mutex::default(),
            lost: Arc::new(Notify::new()),
        });
        let keeper = tokio::spawn(keep(shared.clone()));
        ClusterSubscriber { shared, keeper }
    }

    /// Resolves when all servers with channels of the topic have confirmed. Fails after
    /// `limits.commandTimeoutMs`, or at once if the user lacks permission.
    pub async fn subscribe(&self, topic: &Topic) -> Result<()> {
        let shared = &self.shared;
        let deadline = Instant::now() + Duration::from_millis(shared.limits.command_timeout_ms);
        shared.topics.lock().insert(topic.clone());
        loop {
            let unplaced = shared.place().await;
            let Some(error) = unplaced.error_of(topic, &shared.listener) else {
                return Ok(());
            };
            if error.code == Code::Permission || Instant::now() >= deadline {
                shared.topics.lock().remove(topic);
                let _ = shared.place().await;
                return Err(error);
            }
            shared.cluster.health_check();
            sleep(RETRY_PAUSE).await;
        }
    }

    pub async fn unsubscribe(&self, topic: &Topic) -> Result<()> {
        self.shared.topics.lock().remove(topic);
        // A subscription that cannot be ended now ends with its connection.
        let _ = self.shared.place().await;
        Ok(())
    }

    /// Enables notifications of expirations on all masters.
    pub async fn ensure_flags(&self) -> Result<()> {
        let connections: Vec<Result<Arc<SubscriberConnection>>> = {
            let mut active = self.shared.active.lock().await;
            let map = self.shared.cluster.map().borrow().clone();
            let masters = map.masters().iter();
            masters
                .map(|address| self.shared.connection(&mut active, address))
                .collect()
        };
        let done = connections
            .into_iter()
            .map(async |connection| connection?.ensure_flags().await);
        join_all(done).await.into_iter().collect()
    }

    pub fn close(&self) {
        self.keeper.abort();
        self.shared.topics.lock().clear();
        if let Ok(active) = self.shared.active.try_lock() {
            active
                .connections
                .values()
                .for_each(|connection| connection.close());
        }
    }
}

impl Drop for ClusterSubscriber {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn connection(
        &self,
        active: &mut ActiveSubscriptions,
        address: &Address,
    ) -> Result<Arc<SubscriberConnection>> {
        if let Some(connection) = active.connections.get(address) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(SubscriberConnection::new(
            self.cluster.nodes().server(address)?,
            self.listener.clone(),
            self.gaps.clone(),
            &self.limits,
            Some(self.lost.clone()),
        ));
        active
            .connections
            .insert(address.clone(), connection.clone());
        Ok(connection)
    }

    /// Changes the subscriptions to the wanted ones, as far as the servers accept them.
    async fn place(&self) -> Unplaced {
        let mut active = self.active.lock().await;
        let map = self.cluster.map().borrow().clone();
        let mut wanted: BTreeMap<Address, BTreeSet<Channel>> = BTreeMap::new();
        let mut unrouted = HashSet::new();
        for topic in self.topics.lock().iter() {
            each_channel(topic, &map, &self.listener, |address, channel| {
                match address {
                    Some(address) => {
                        wanted.entry(address.clone()).or_default().insert(channel);
                    }
                    None => {
                        unrouted.insert(channel);
                    }
                };
            });
        }
        for address in active.connections.keys() {
            wanted.entry(address.clone()).or_default();
        }
        let mut refused = BTreeMap::new();
        let mut steps = Vec::new();
        for (address, channels) in wanted {
            let connection = match self.connection(&mut active, &address) {
                Ok(connection) => connection,
                Err(error) => {
                    refused.insert(address, (channels, error));
                    continue;
                }
            };
            let has = connection.wanted();
            let add: Vec<Channel> = channels.difference(&has).cloned().collect();
            let remove: Vec<Channel> = has.difference(&channels).cloned().collect();
            // Before any channel is subscribed elsewhere.
            connection.want_no_more(&remove);
            steps.push((address, connection, channels, add, remove));
        }
        let outcomes = join_all(
            steps
                .iter()
                .map(|(_, connection, _, add, remove)| async move {
                    // A subscription that cannot be ended now ends with its connection.
                    let _ = connection.remove_many(remove).await;
                    connection.add_many(add).await
                }),
        )
        .await;
        // Channels that are wanted but not subscribed stay in `channels`, so that a gap is reported
        // once they are subscribed again. Channels that are no longer wanted are removed:
        // subscribing them later is no gap.
        let mut known: HashSet<Channel> = unrouted.iter().cloned().collect();
        known.extend(refused.values().flat_map(|(channels, _)| channels).cloned());
        known.extend(steps.iter().flat_map(|(_, _, all, ..)| all).cloned());
        active.channels.retain(|channel| known.contains(channel));
        // A channel that was subscribed before and was subscribed again: messages in between were
        // missed.
        let (mut moved, mut moved_to) = (Vec::new(), Vec::new());
        let mut confirmed = Vec::new();
        for ((address, connection, channels, add, _), outcome) in steps.into_iter().zip(outcomes) {
            if channels.is_empty() {
                connection.close();
                active.connections.remove(&address);
            }
            match outcome {
                Ok(()) => {
                    let before = moved.len();
                    let had = |channel: &Channel| active.channels.contains(channel);
                    moved.extend(add.into_iter().filter(had));
                    if moved.len() > before {
                        moved_to.push(connection.server());
                    }
                    confirmed.extend(channels);
                }
                Err(error) => {
                    refused.insert(address, (add.into_iter().collect(), error));
                }
            }
        }
        active.channels.extend(confirmed);
        if refused.is_empty() || !failpoint!(MovedInPart) {
            self.gaps.missed(&moved, moved_to);
        }
        Unplaced {
            map,
            refused,
            unrouted: !unrouted.is_empty(),
        }
    }
}

/// Updates the subscriptions when the slot map changes or a server ends a subscription.
async fn keep(shared: Arc<Shared>) {
    let mut map = shared.cluster.map();
    loop {
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            () = shared.lost.notified() => shared.cluster.health_check(),
        }
        while !shared.place().await.is_nothing() {
            shared.cluster.health_check();
            sleep(2 * RETRY_PAUSE).await;
        }
    }
}
