//! One subscriber connection: the channels that it should have, and recovery after it was lost. All
//! channels are subscribed again, then the gap is reported.

use crate::{
    model::{
        error::{Code, Error, Result},
        limits::Limits,
    },
    store::redis::{
        expiry,
        pubsub::{channel::Channel, gaps::Gaps, listener::Listener},
        transport::{
            errors,
            link::{Link, LinkConfig, Repeat, Role},
            server::Server,
        },
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::{Cmd, Pipeline, PushInfo, PushKind, aio::MultiplexedConnection};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, OnceCell};

pub struct SubscriberConnection {
    shared: Arc<Shared>,
    /// Created by the first subscription. A client without subscriptions needs no connection.
    link: OnceCell<Link>,
    limits: Limits,
    pings: AtomicU64,
}

/// Maximum number of channels in one write.
const AT_A_TIME: usize = 1_024;
/// Maximum number of attempts to subscribe when answers were out of step.
const MAX_TRIES: usize = 16;

/// The number of the last connection.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

struct Shared {
    number: u64,
    listener: Arc<Listener>,
    gaps: Arc<Gaps>,
    server: Arc<Server>,
    /// The channels that should be subscribed, now and after every reconnection.
    wanted: Mutex<BTreeSet<Channel>>,
    /// Notified when the server has ended a subscription, or refuses to renew it, because the slot
    /// has moved. `None` outside a cluster, where the server has all channels.
    lost: Option<Arc<Notify>>,
}

impl SubscriberConnection {
    pub fn new(
        server: Arc<Server>,
        listener: Arc<Listener>,
        gaps: Arc<Gaps>,
        limits: &Limits,
        lost: Option<Arc<Notify>>,
    ) -> Self {
        SubscriberConnection {
            shared: Arc::new(Shared {
                number: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
                listener,
                gaps,
                server,
                wanted: Mutex::default(),
                lost,
            }),
            link: OnceCell::new(),
            limits: limits.clone(),
            pings: AtomicU64::new(0),
        }
    }

    pub fn server(&self) -> Arc<Server> {
        self.shared.server.clone()
    }

    pub fn wanted(&self) -> BTreeSet<Channel> {
        self.shared.wanted.lock().clone()
    }

    /// Resolves when the server has confirmed the subscription.
    pub async fn add(&self, channel: &Channel) -> Result<()> {
        let link = self.link.get_or_try_init(|| self.connect()).await?;
        // Added to `wanted` first: if the connection breaks in between, the reconnection subscribes
        // the channel.
        self.shared.wanted.lock().insert(channel.clone());
        let done = link.command(&channel.subscribe(), Repeat::Harmless).await;
        if done.is_err() {
            self.shared.wanted.lock().remove(channel);
        }
        done.map(drop)
    }

    /// Subscribes many channels of a server that may not have all of their slots. Resolves when all
    /// are confirmed.
    ///
    /// A server ends a subscription by itself when its slot moves. redis-rs takes that message for
    /// the answer to the next command in flight. All later answers are then off by one, until no
    /// command is in flight. Therefore a PING follows whose answer identifies it. While its answer
    /// is that of another command, all channels are subscribed again.
    pub async fn add_many(&self, channels: &[Channel]) -> Result<()> {
        if channels.is_empty() {
            return Ok(());
        }
        let link = self.link.get_or_try_init(|| self.connect()).await?;
        self.shared.wanted.lock().extend(channels.iter().cloned());
        let done = self.ask_many(link, channels, Channel::subscribe).await;
        if done.is_err() {
            self.want_no_more(channels);
        }
        done
    }

    /// Ignores messages on these channels from now on.
    pub fn want_no_more(&self, channels: &[Channel]) {
        let mut wanted = self.shared.wanted.lock();
        for channel in channels {
            wanted.remove(channel);
        }
    }

    pub async fn remove_many(&self, channels: &[Channel]) -> Result<()> {
        self.want_no_more(channels);
        match self.link.get() {
            Some(link) if link.is_live() => {
                self.ask_many(link, channels, Channel::unsubscribe).await
            }
            _ => Ok(()),
        }
    }

    async fn ask_many(
        &self,
        link: &Link,
        channels: &[Channel],
        command: fn(&Channel) -> Cmd,
    ) -> Result<()> {
        for chunk in channels.chunks(AT_A_TIME) {
            let mut pipeline = Pipeline::with_capacity(chunk.len());
            for channel in chunk {
                pipeline.add_command(command(channel));
            }
            let mut in_step = false;
            for _ in 0..MAX_TRIES {
                for answer in link.pipeline(&pipeline, Repeat::Harmless).await? {
                    answer
                        .extract_error()
                        .map_err(|error| errors::request(&error))?;
                }
                if self.answers_are_in_step(link).await? {
                    in_step = true;
                    break;
                }
            }
            if !in_step {
                return Err(Error::new(
                    Code::Unavailable,
                    "the server kept ending subscriptions",
                ));
            }
        }
        Ok(())
    }

    async fn answers_are_in_step(&self, link: &Link) -> Result<bool> {
        let nonce = self.pings.fetch_add(1, Ordering::Relaxed).to_string();
        let ping = redis::cmd("PING").arg(&nonce).to_owned();
        let answer = link.command(&ping, Repeat::Harmless).await?;
        Ok(super::listener::text(&answer) == Some(&nonce))
    }

    pub async fn remove(&self, channel: &Channel) -> Result<()> {
        self.shared.wanted.lock().remove(channel);
        let Some(link) = self.link.get() else {
            return Ok(());
        };
        match link.command(&channel.unsubscribe(), Repeat::Harmless).await {
            Ok(_) => Ok(()),
            // Without a connection no channel is subscribed, and the next connection will not
            // subscribe this one.
            Err(error) if matches!(error.code, Code::Unavailable | Code::Timeout) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Enables notifications of expirations. Fails if the server forbids `CONFIG`.
    pub async fn ensure_flags(&self) -> Result<()> {
        let link = self.link.get_or_try_init(|| self.connect()).await?;
        link.with_connection(|mut c| async move { expiry::ensure_flags(&mut c).await })
            .await
    }

    pub fn close(&self) {
        self.shared.wanted.lock().clear();
        if let Some(link) = self.link.get() {
            link.close();
        }
    }

    async fn connect(&self) -> Result<Link> {
        let on_push = {
            let shared = self.shared.clone();
            Arc::new(move |push: PushInfo| shared.receive(&push))
        };
        let prepare = {
            let shared = self.shared.clone();
            Arc::new(move |connection: MultiplexedConnection, again: bool| {
                let shared = shared.clone();
                Box::pin(shared.resubscribe(connection, again)) as BoxFuture<'static, Result<()>>
            })
        };
        let config = LinkConfig {
            server: self.shared.server.clone(),
            connect_timeout: Duration::from_millis(self.limits.connect_timeout_ms),
            command_timeout: Duration::from_millis(self.limits.command_timeout_ms),
            on_push,
            prepare,
            notifications: self.shared.listener.sinks.notifications.clone(),
            role: Role::Subscriber,
        };
        if self.shared.lost.is_some() {
            // One of several servers may be down for long. Subscriptions at the others must not
            // wait for it.
            return Ok(Link::begin(config));
        }
        Link::open(config).await
    }
}

impl Shared {
    fn receive(&self, push: &PushInfo) {
        if push.kind == PushKind::SUnsubscribe
            && let Some(lost) = &self.lost
        {
            let channel = push.data.first().and_then(super::listener::text);
            let channel = channel.map(|channel| Channel::Sharded(channel.to_owned()));
            // Channels that this client unsubscribed are no longer wanted.
            if channel.is_some_and(|channel| self.wanted.lock().remove(&channel)) {
                lost.notify_one();
            }
            return;
        }
        if self.lost.is_none() {
            self.listener.receive(push, None);
        } else if self.is_wanted(push) {
            self.listener.receive(push, Some(self.number));
        }
    }

    /// Whether a message belongs to a current subscription of this connection. Subscriptions that
    /// have moved are ended at the old server too, but that server may be stopped or unreachable. A
    /// former master also receives what the new master publishes. Without this check, events could
    /// be emitted twice.
    fn is_wanted(&self, push: &PushInfo) -> bool {
        let Some(name) = push.data.first().and_then(super::listener::text) else {
            return false;
        };
        let channel = match push.kind {
            PushKind::SMessage => Channel::Sharded(name.to_owned()),
            PushKind::PMessage => Channel::Pattern(name.to_owned()),
            _ => Channel::Plain(name.to_owned()),
        };
        self.wanted.lock().contains(&channel)
    }

    async fn resubscribe(
        self: Arc<Self>,
        mut connection: MultiplexedConnection,
        again: bool,
    ) -> Result<()> {
        let wanted = self.wanted.lock().clone();
        if wanted.contains(&Channel::Plain(self.listener.expired_channel.clone())) {
            // A server that was restarted has lost the flags.
            match expiry::ensure_flags(&mut connection).await {
                // If this server forbids them, events still have to work. The sweep finds expired
                // connections.
                Err(error) if is_refusal(&error) => self.listener.flags_are_refused(),
                done => done?,
            }
        }
        let all: Vec<Channel> = wanted.iter().cloned().collect();
        for chunk in all.chunks(AT_A_TIME) {
            let mut pipeline = Pipeline::with_capacity(chunk.len());
            for channel in chunk {
                pipeline.add_command(channel.subscribe());
            }
            let answers = connection
                .send_packed_commands(&pipeline, 0, chunk.len())
                .await
                .map_err(|error| errors::request(&error))?;
            for (channel, answer) in chunk.iter().zip(answers) {
                match (answer.extract_error(), &self.lost) {
                    (Err(error), Some(lost)) if error.is_cluster_error() => {
                        self.wanted.lock().remove(channel);
                        lost.notify_one();
                    }
                    (done, _) => {
                        done.map_err(|error| errors::request(&error))?;
                    }
                }
            }
        }
        if again {
            self.gaps.missed(&wanted, [self.server.clone()]);
        }
        Ok(())
    }
}

/// Whether the server does not know the command, or forbids it to this user.
pub fn is_refusal(error: &Error) -> bool {
    matches!(
        error.code,
        Code::Permission | Code::Unsupported | Code::Internal
    )
}
