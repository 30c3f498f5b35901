//! Loads the map of slots, and keeps it up to date.

use crate::{
    model::error::{Code, Error, Result},
    store::{
        ConnectionState,
        redis::transport::{
            address::Address,
            cluster::{map::Map, shared::Shared},
            errors,
            link::{Attempt, Link},
        },
    },
};
use redis::{Pipeline, Value};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// Interval of refreshes without signs of a change.
const REFRESH_EVERY: Duration = Duration::from_millis(1_000);
/// Pause before a refresh that was requested.
const REFRESH_PAUSE: Duration = Duration::from_millis(50);
/// Maximum time for a server to return the map before another is asked.
const REFRESH_TIMEOUT: Duration = Duration::from_millis(500);

impl Shared {
    /// Loads the first map, from the first server that answers.
    pub(in crate::store::redis) async fn find(&self) -> Result<()> {
        let mut failed = None;
        for address in &self.settings.nodes.first {
            match Link::open(self.config(address)?).await {
                Ok(link) => {
                    let link = Arc::new(link);
                    self.links.lock().insert(address.clone(), link.clone());
                    match self.ask(address, &link).await {
                        Ok(map) if !map.masters().is_empty() => {
                            self.adopt(map);
                            return Ok(());
                        }
                        Ok(_) => {
                            failed = Some(Error::new(
                                Code::Unavailable,
                                format!("the Redis Cluster at {address} has no slots yet"),
                            ));
                        }
                        Err(error) => failed = Some(error),
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::invalid("url names no server")))
    }

    async fn ask(&self, address: &Address, link: &Link) -> Result<Map> {
        let mut pipeline = Pipeline::new();
        pipeline
            .cmd("CLUSTER")
            .arg("INFO")
            .cmd("CLUSTER")
            .arg("SLOTS");
        let deadline = Instant::now() + REFRESH_TIMEOUT.max(self.settings.command_timeout / 4);
        match link.attempt(&pipeline, deadline).await {
            Attempt::Answers(answers) => {
                let mut parts = Vec::with_capacity(2);
                for answer in answers {
                    parts.push(answer.extract_error().map_err(|error| {
                        if error.to_string().contains("cluster support disabled") {
                            return Error::new(
                                Code::Unsupported,
                                format!(
                                    "Redis at {address} is not part of a cluster: its URL begins \
                                     with redis:// or rediss://"
                                ),
                            );
                        }
                        errors::request(&error)
                    })?);
                }
                let slots = parts.pop().unwrap_or(Value::Nil);
                Map::parse(parts.pop().unwrap_or(Value::Nil), slots, address)
            }
            Attempt::Away => Err(self.out_of_reach(0)),
            Attempt::Broken(error) => Err(error),
        }
    }

    /// Adopts a map, unless a newer one of the same cluster is known, and closes links to servers
    /// that are no longer masters.
    fn adopt(&self, map: Map) {
        let mut kept = None;
        self.map.send_if_modified(|known| {
            if !self.succession.lock().accepts(known, &map) {
                return false;
            }
            kept = Some(map.masters().to_vec());
            *known = Arc::new(map);
            true
        });
        if let Some(masters) = kept {
            self.links.lock().retain(|address, link| {
                // A request in flight keeps its link until it is answered.
                masters.contains(address) || Arc::strong_count(link) > 1
            });
            for address in &masters {
                let _ = self.link(address);
            }
        }
    }

    /// Emits the connection state if it has changed. Returns whether all masters are connected.
    pub(in crate::store::redis) fn report_state(&self) -> bool {
        let (notifications, display) = (&self.settings.notifications, &self.settings.nodes.display);
        let mut whole = self.whole.lock();
        let is_whole = self.masters().iter().all(|link| link.is_live());
        if is_whole != std::mem::replace(&mut *whole, is_whole) {
            let state = if is_whole {
                ConnectionState::Connected
            } else {
                ConnectionState::Disconnected
            };
            notifications.state(state, display);
        }
        if is_whole {
            // A link that had failed may have been closed together with its server's removal.
            self.settings
                .nodes
                .outage
                .log_end(&**notifications, display);
        }
        is_whole
    }

    /// Asks one server after the other for the map, until one answers.
    async fn refresh(&self) {
        let known: Vec<(Address, Arc<Link>)> = self
            .links
            .lock()
            .iter()
            .map(|(address, link)| (address.clone(), link.clone()))
            .collect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        for i in 0..known.len() {
            let (address, link) = &known[(turn + i) % known.len()];
            if let Ok(Ok(map)) = timeout(REFRESH_TIMEOUT, self.ask(address, link)).await {
                return self.adopt(map);
            }
        }
        // All known servers are unreachable. The servers of the URL may be reachable again.
        for address in &self.settings.nodes.first {
            let _ = self.link(address);
        }
    }
}

/// Keeps the map up to date, and emits changes of the connection state.
pub(in crate::store::redis) async fn keep(shared: Arc<Shared>) {
    loop {
        let pause = if shared.report_state() {
            REFRESH_EVERY
        } else {
            2 * REFRESH_PAUSE
        };
        tokio::select! {
            () = shared.stale.notified() => sleep(REFRESH_PAUSE).await,
            () = sleep(pause) => {}
        }
        shared.refresh().await;
    }
}
