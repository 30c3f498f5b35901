//! Subscriptions on a cluster: sharded channels at the masters that have their slots, the others at
//! one master, notifications at each. When slots move, so do subscriptions, and the gap is told.

use super::{Channel, ear::Ear, listener::Listener};
use crate::{
    keys::{SLOTS, slot_of},
    model::{
        error::{Code, Error, Result},
        limits::Limits,
    },
    store::{
        Topic,
        redis::{cluster::Cluster, config::Address},
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

/// Pause before a subscription is tried again that found no server.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

pub struct Ears {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    cluster: Arc<Cluster>,
    listener: Arc<Listener>,
    limits: Limits,
    topics: Mutex<BTreeSet<Topic>>,
    /// One change of subscriptions at a time.
    placed: tokio::sync::Mutex<Placed>,
    lost: Arc<Notify>,
}

#[derive(Default)]
struct Placed {
    ears: BTreeMap<Address, Arc<Ear>>,
    /// What has been subscribed, wherever.
    channels: HashSet<Channel>,
}

impl Ears {
    pub fn new(cluster: Arc<Cluster>, listener: Arc<Listener>, limits: &Limits) -> Ears {
        let shared = Arc::new(Shared {
            cluster,
            listener,
            limits: limits.clone(),
            topics: Mutex::default(),
            placed: tokio::sync::Mutex::default(),
            lost: Arc::new(Notify::new()),
        });
        let keeper = tokio::spawn(keep(shared.clone()));
        Ears { shared, keeper }
    }

    /// Resolves when all servers that matter have confirmed.
    pub async fn subscribe(&self, topic: &Topic) -> Result<()> {
        let shared = &self.shared;
        let deadline = Instant::now() + Duration::from_millis(shared.limits.command_timeout_ms);
        shared.topics.lock().insert(topic.clone());
        loop {
            let error = match shared.place().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.code == Code::Permission || Instant::now() >= deadline {
                shared.topics.lock().remove(topic);
                let _ = shared.place().await;
                return Err(error);
            }
            shared.cluster.suspect();
            sleep(RETRY_PAUSE).await;
        }
    }

    pub async fn unsubscribe(&self, topic: &Topic) -> Result<()> {
        self.shared.topics.lock().remove(topic);
        // What cannot be ended now ends with its connection.
        let _ = self.shared.place().await;
        Ok(())
    }

    /// Has all masters tell of expirations.
    pub async fn ensure_flags(&self) -> Result<()> {
        let ears = {
            let mut placed = self.shared.placed.lock().await;
            let map = self.shared.cluster.map().borrow().clone();
            let ears = map.masters().iter();
            let ears: Result<Vec<_>> = ears
                .map(|address| self.shared.ear(&mut placed, address))
                .collect();
            ears?
        };
        for ear in ears {
            ear.ensure_flags().await?;
        }
        Ok(())
    }

    pub fn close(&self) {
        self.keeper.abort();
        self.shared.topics.lock().clear();
        if let Ok(placed) = self.shared.placed.try_lock() {
            placed.ears.values().for_each(|ear| ear.close());
        }
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn ear(&self, placed: &mut Placed, address: &Address) -> Result<Arc<Ear>> {
        if let Some(ear) = placed.ears.get(address) {
            return Ok(ear.clone());
        }
        let ear = Arc::new(Ear::new(
            self.cluster.nodes().server(address)?,
            self.listener.clone(),
            &self.limits,
            Some(self.lost.clone()),
        ));
        placed.ears.insert(address.clone(), ear.clone());
        Ok(ear)
    }

    /// Which channels belong to which server. What no server has is left out.
    fn wanted(&self) -> (BTreeMap<Address, BTreeSet<Channel>>, bool) {
        let map = self.cluster.map().borrow().clone();
        let keys = &self.listener.keys;
        let mut wanted: BTreeMap<Address, BTreeSet<Channel>> = BTreeMap::new();
        let mut complete = true;
        let mut put = |address: Option<&Address>, channel: Channel| match address {
            Some(address) => {
                wanted.entry(address.clone()).or_default().insert(channel);
            }
            None => complete = false,
        };
        // Plain pub/sub reaches every server; the least address changes least.
        let any = map.masters().iter().min();
        for topic in self.topics.lock().iter() {
            match topic {
                Topic::Expirations => {
                    for master in map.masters() {
                        put(
                            Some(master),
                            Channel::Plain(self.listener.expired_channel.clone()),
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
                plain => put(any, Channel::of(plain, &self.listener)),
            }
        }
        (wanted, complete)
    }

    /// Makes subscriptions what they are to be.
    async fn place(&self) -> Result<()> {
        let mut placed = self.placed.lock().await;
        let (mut wanted, complete) = self.wanted();
        for address in placed.ears.keys() {
            wanted.entry(address.clone()).or_default();
        }
        let mut steps = Vec::new();
        for (address, channels) in wanted {
            let ear = self.ear(&mut placed, &address)?;
            let has = ear.wanted();
            let add: Vec<Channel> = channels.difference(&has).cloned().collect();
            let remove: Vec<Channel> = has.difference(&channels).cloned().collect();
            // Before anything is subscribed elsewhere.
            ear.want_no_more(&remove);
            steps.push((address, ear, channels, add, remove));
        }
        // Something that was subscribed already, and is to be again: it was lost in between.
        let moved: Vec<Channel> = steps
            .iter()
            .flat_map(|(_, _, _, add, _)| add)
            .filter(|channel| placed.channels.contains(channel))
            .cloned()
            .collect();
        let outcomes = join_all(steps.iter().map(|(_, ear, _, add, remove)| async move {
            // What cannot be ended now ends with its connection.
            let _ = ear.remove_many(remove).await;
            ear.add_many(add).await
        }))
        .await;
        let mut all = BTreeSet::new();
        let mut done = Ok(());
        for ((address, ear, channels, ..), outcome) in steps.into_iter().zip(outcomes) {
            if channels.is_empty() {
                ear.close();
                placed.ears.remove(&address);
            }
            all.extend(channels);
            if outcome.is_err() {
                done = outcome;
            }
        }
        // What was ended can be begun again without a gap.
        placed.channels.retain(|channel| all.contains(channel));
        done?;
        placed.channels.extend(all);
        self.listener.missed(&moved);
        if complete {
            Ok(())
        } else {
            Err(Error::new(
                Code::Unavailable,
                "the Redis Cluster has slots that no master serves",
            ))
        }
    }
}

/// Follows the map, and what servers end.
async fn keep(shared: Arc<Shared>) {
    let mut map = shared.cluster.map();
    loop {
        tokio::select! {
            changed = map.changed() => if changed.is_err() { return },
            () = shared.lost.notified() => shared.cluster.suspect(),
        }
        while shared.place().await.is_err() {
            shared.cluster.suspect();
            sleep(2 * RETRY_PAUSE).await;
        }
    }
}
