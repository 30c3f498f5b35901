//! Reports gaps. Handlers of `resync` read again what they follow, so `resync` is emitted only when
//! calls work: the command connection is first checked or reconnected, and `state` is emitted.

use crate::{
    failpoints::failpoint,
    store::{
        lock::LockCall,
        redis::{
            pubsub::{channel::Channel, listener::Listener},
            transport::{cluster::Cluster, server::Server},
        },
    },
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};

/// On a cluster: maximum time to wait for a master to serve its slots again.
const CLUSTER_TIMEOUT: Duration = Duration::from_millis(10_000);

/// On a cluster: gaps that are ready within this time are reported as one.
const GATHER: Duration = Duration::from_millis(50);

pub struct Gaps {
    listener: Arc<Listener>,
    /// The cluster, if there are several servers.
    cluster: Option<Arc<Cluster>>,
    state: Mutex<State>,
    /// Notified when `State::new` has more servers.
    more: Notify,
}

#[derive(Default)]
struct State {
    /// Servers on which messages were missed, for gaps that are not reported yet.
    servers: Vec<Arc<Server>>,
    /// Those of them that `notify` has not taken yet.
    new: Vec<Arc<Server>>,
    /// The task that will report them.
    notifying: Option<AbortHandle>,
    closed: bool,
}

impl Gaps {
    pub fn new(listener: Arc<Listener>, cluster: Option<Arc<Cluster>>) -> Arc<Gaps> {
        Arc::new(Gaps {
            listener,
            cluster,
            state: Mutex::default(),
            more: Notify::new(),
        })
    }

    /// Messages on these channels may have been missed. The channels are subscribed again, at
    /// `servers`.
    pub fn missed<'a>(
        self: &Arc<Self>,
        channels: impl IntoIterator<Item = &'a Channel>,
        servers: impl IntoIterator<Item = Arc<Server>>,
    ) {
        let (mut calls, mut node_calls, mut events) = (false, false, false);
        for channel in channels {
            match channel {
                Channel::Plain(name) if *name == self.listener.wake_channel => calls = true,
                Channel::Plain(name) if self.listener.keys.is_node_calls(name) => node_calls = true,
                _ => events = true,
            }
        }
        if calls {
            self.listener.sinks.events.lock_call(LockCall::Gap);
        }
        if node_calls {
            self.listener.sinks.events.dispossessed(None);
        }
        if !events || failpoint!(Gaps) {
            return;
        }
        if failpoint!(GapsLast) {
            return self.listener.sinks.events.gap();
        }
        let mut state = self.state.lock();
        for server in servers {
            // Gaps that are not reported yet are merged with this one.
            if !state
                .servers
                .iter()
                .any(|known| Arc::ptr_eq(known, &server))
            {
                state.servers.push(server.clone());
                state.new.push(server);
            }
        }
        if state.notifying.is_some() {
            self.more.notify_one();
        } else if !state.closed && !state.new.is_empty() {
            let this = self.clone();
            state.notifying = Some(tokio::spawn(async move { this.notify().await }).abort_handle());
        }
    }

    /// Reports gaps, each as soon as its server accepts calls. A server that does not accept calls
    /// does not delay the others.
    async fn notify(&self) {
        let mut waiting = FuturesUnordered::new();
        loop {
            {
                let mut state = self.state.lock();
                waiting.extend(state.new.drain(..).map(|server| self.ready(server)));
                if waiting.is_empty() {
                    state.notifying = None;
                    return;
                }
            }
            tokio::select! {
                Some(()) = waiting.next() => {}
                () = self.more.notified() => continue,
            }
            let gathered = Instant::now() + GATHER;
            while !waiting.is_empty() {
                tokio::select! {
                    Some(()) = waiting.next() => {}
                    () = sleep_until(gathered) => break,
                }
            }
            if let Some(cluster) = &self.cluster {
                cluster.report_state();
            }
            self.listener.sinks.events.gap();
        }
    }

    /// Resolves when the server accepts calls; on a cluster, after [`CLUSTER_TIMEOUT`] at the
    /// latest.
    async fn ready(&self, server: Arc<Server>) {
        match &self.cluster {
            None => server.peers.calls_work().await,
            Some(cluster) => {
                let work = async {
                    server.peers.calls_work().await;
                    cluster.serves(&server).await;
                };
                let _ = timeout(CLUSTER_TIMEOUT, work).await;
            }
        }
        // Messages that are missed from here on are another gap.
        let mut state = self.state.lock();
        state.servers.retain(|known| !Arc::ptr_eq(known, &server));
    }

    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        if let Some(notifying) = state.notifying.take() {
            notifying.abort();
        }
    }
}
