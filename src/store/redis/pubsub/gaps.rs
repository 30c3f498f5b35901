//! Telling of gaps. The handlers of `resync` read again what they follow, so they are called when calls
//! work: the connection for calls is checked first, or made anew, and `state` has said so.

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

/// On a cluster: for how long it is waited for a master to serve its slots again.
const CLUSTER_TIMEOUT: Duration = Duration::from_millis(10_000);

/// On a cluster: gaps that can be told of within this time are told of as one.
const GATHER: Duration = Duration::from_millis(50);

pub struct Gaps {
    listener: Arc<Listener>,
    /// If there are several servers.
    cluster: Option<Arc<Cluster>>,
    state: Mutex<State>,
    /// There are more servers.
    more: Notify,
}

#[derive(Default)]
struct State {
    /// Servers on which messages were missed, of which nothing is told yet.
    servers: Vec<Arc<Server>>,
    /// Those of them that are not looked at yet.
    new: Vec<Arc<Server>>,
    /// What is about to tell.
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

    /// What came on these channels may have been missed. They are subscribed again, at `servers`.
    pub fn missed<'a>(
        self: &Arc<Self>,
        channels: impl IntoIterator<Item = &'a Channel>,
        servers: impl IntoIterator<Item = Arc<Server>>,
    ) {
        let (mut calls, mut events) = (false, false);
        for channel in channels {
            match channel {
                Channel::Plain(name) if *name == self.listener.wake_channel => calls = true,
                _ => events = true,
            }
        }
        if calls {
            self.listener.sink.lock_call(LockCall::Gap);
        }
        if !events || failpoint!(Gaps) {
            return;
        }
        if failpoint!(GapsLast) {
            return self.listener.sink.gap();
        }
        let mut state = self.state.lock();
        for server in servers {
            // What is not told yet is one gap with this one.
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

    /// Tells of gaps, each as soon as its server takes calls: one that does not holds up no other.
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
            self.listener.sink.gap();
        }
    }

    /// Resolves when the server takes calls; on a cluster, in any case after some time.
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
        // What is missed from here on is another gap.
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
