//! State that the connections to a cluster share with the task that refreshes the map of slots.

use crate::{
    model::error::{Code, Error, Result},
    store::{
        StoreNotifications,
        redis::transport::{
            address::Address,
            cluster::map::{Map, Succession},
            config::Nodes,
            link::{Link, LinkConfig, Prepare, Role},
        },
    },
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// Settings of all connections of a client.
pub struct Settings {
    pub nodes: Arc<Nodes>,
    pub connect_timeout: Duration,
    pub command_timeout: Duration,
    pub prepare: Prepare,
    pub notifications: Arc<dyn StoreNotifications>,
}

pub struct Shared {
    pub settings: Settings,
    pub map: watch::Sender<Arc<Map>>,
    pub succession: Mutex<Succession>,
    pub links: Mutex<HashMap<Address, Arc<Link>>>,
    /// Notified when there is a sign that the map has changed.
    pub stale: Notify,
    /// Servers that have not answered in time, and since when. An answer removes a server.
    pub silent: Mutex<HashMap<Address, Instant>>,
    /// The index of the server to ask next.
    pub turn: AtomicUsize,
    /// Whether all masters were connected when the state was last emitted.
    pub whole: Mutex<bool>,
}

impl Shared {
    pub fn masters(&self) -> Vec<Arc<Link>> {
        let map = self.map.borrow().clone();
        let links = map.masters().iter().map(|address| self.link(address));
        links.filter_map(Result::ok).collect()
    }

    /// The link to a server. Creates it if necessary.
    pub fn link(&self, address: &Address) -> Result<Arc<Link>> {
        let mut links = self.links.lock();
        if let Some(link) = links.get(address) {
            return Ok(link.clone());
        }
        let link = Arc::new(Link::begin(self.config(address)?));
        links.insert(address.clone(), link.clone());
        Ok(link)
    }

    pub fn config(&self, address: &Address) -> Result<LinkConfig> {
        let settings = &self.settings;
        Ok(LinkConfig {
            server: settings.nodes.server(address)?,
            connect_timeout: settings.connect_timeout,
            command_timeout: settings.command_timeout,
            on_push: Arc::new(|_| {}),
            prepare: settings.prepare.clone(),
            notifications: settings.notifications.clone(),
            role: Role::Calls,
        })
    }

    pub fn out_of_reach(&self, slot: u16) -> Error {
        let map = self.map.borrow().clone();
        let message = match map.owner(slot) {
            Some(owner) => format!(
                "the master {owner} of the Redis Cluster cannot be reached or does not serve its \
                 slots; nothing was sent, reconnecting goes on"
            ),
            None => format!(
                "no master of the Redis Cluster at {} has slot {slot}; nothing was sent",
                self.settings.nodes.display
            ),
        };
        Error::new(Code::Unavailable, message)
    }
}
