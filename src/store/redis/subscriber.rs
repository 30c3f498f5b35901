//! The subscriber connection: which channels are wanted, what comes in on them, and what happens
//! when the connection was lost (everything is subscribed again, then the gap is told).

use crate::{
    keys::Keys,
    model::{
        error::{Code, Error, Result},
        event,
        limits::Limits,
        lock::is_lock_event,
        metadata::event::is_metadata_event,
    },
    store::{
        EventSink, Feed, LogLevel, Topic, Watch,
        lock::LockCall,
        redis::{
            config::Target,
            errors, expiry,
            link::{Link, LinkConfig, Repeat},
            lock,
            server::Server,
        },
    },
    switches::{Defence, off},
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use redis::{Cmd, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::OnceCell;

/// Bytes that an event may have beside its state: ids (escaped at worst six-fold), numbers, names.
const EVENT_OVERHEAD: usize = 3 * 6 * 4096 + 1024;

pub struct Subscriber {
    shared: Arc<Shared>,
    /// Made by the first subscription: a client that follows nothing costs the server nothing.
    link: OnceCell<Link>,
    server: Arc<Server>,
    limits: Limits,
}

struct Shared {
    keys: Keys,
    sink: Arc<dyn EventSink>,
    most_event_bytes: usize,
    most_metadata_event_bytes: usize,
    /// Start of the keys of connections, and where the server says which of them have expired.
    conn_prefix: String,
    expired_channel: String,
    /// Where the scripts tell this node of its claims on locks.
    wake_channel: String,
    /// What should be subscribed, now and after every reconnection.
    wanted: Mutex<BTreeSet<Topic>>,
    /// Whether the log says already that the flags cannot be set.
    told_refusal: AtomicBool,
}

impl Subscriber {
    pub fn new(
        target: &Target,
        keys: Keys,
        wake_channel: &str,
        limits: &Limits,
        sink: Arc<dyn EventSink>,
    ) -> Self {
        Subscriber {
            shared: Arc::new(Shared {
                sink,
                most_event_bytes: limits.max_state_bytes.saturating_add(EVENT_OVERHEAD),
                // An item is a little longer in an event than in a record: at worst by a third.
                most_metadata_event_bytes: limits
                    .max_metadata_record_bytes
                    .saturating_mul(2)
                    .saturating_add(EVENT_OVERHEAD),
                conn_prefix: keys.conn(""),
                expired_channel: expiry::expired_channel(target.db),
                wake_channel: wake_channel.into(),
                keys,
                wanted: Mutex::default(),
                told_refusal: AtomicBool::new(false),
            }),
            link: OnceCell::new(),
            server: target.server.clone(),
            limits: limits.clone(),
        }
    }

    /// Resolves when the server has confirmed the subscription.
    pub async fn subscribe(&self, topic: &Topic) -> Result<()> {
        let link = self.link.get_or_try_init(|| self.connect()).await?;
        // Wanted first: should the connection break in between, the reconnection subscribes it.
        self.shared.wanted.lock().insert(topic.clone());
        let done = link
            .command(&self.shared.subscribe_cmd(topic), Repeat::Harmless)
            .await;
        if done.is_err() {
            self.shared.wanted.lock().remove(topic);
        }
        done.map(drop)
    }

    pub async fn unsubscribe(&self, topic: &Topic) -> Result<()> {
        self.shared.wanted.lock().remove(topic);
        let Some(link) = self.link.get() else {
            return Ok(());
        };
        match link
            .command(&self.shared.unsubscribe_cmd(topic), Repeat::Harmless)
            .await
        {
            Ok(_) => Ok(()),
            // Without a connection nothing is subscribed, and the next one will not have it.
            Err(error) if matches!(error.code, Code::Unavailable | Code::Timeout) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has the server tell of expirations, unless it forbids `CONFIG`.
    pub async fn watch_expirations(&self) -> Result<Watch> {
        let link = self.link.get_or_try_init(|| self.connect()).await?;
        match link
            .with_connection(|mut c| async move { expiry::ensure_flags(&mut c).await })
            .await
        {
            Ok(()) => {}
            Err(error) if is_refusal(&error) => return Ok(Watch::Refused),
            Err(error) => return Err(error),
        }
        match self.subscribe(&Topic::Expirations).await {
            Ok(()) => Ok(Watch::Told),
            Err(error) if is_refusal(&error) => Ok(Watch::Refused),
            Err(error) => Err(error),
        }
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
            Arc::new(move |push: PushInfo| shared.receive(push))
        };
        let prepare = {
            let shared = self.shared.clone();
            Arc::new(move |connection: MultiplexedConnection, again: bool| {
                let shared = shared.clone();
                Box::pin(shared.resubscribe(connection, again)) as BoxFuture<'static, Result<()>>
            })
        };
        Link::open(LinkConfig {
            server: self.server.clone(),
            connect_timeout: Duration::from_millis(self.limits.connect_timeout_ms),
            command_timeout: Duration::from_millis(self.limits.command_timeout_ms),
            on_push,
            prepare,
            sink: self.shared.sink.clone(),
            reports_state: false,
        })
        .await
    }
}

impl Shared {
    async fn resubscribe(
        self: Arc<Self>,
        mut connection: MultiplexedConnection,
        again: bool,
    ) -> Result<()> {
        let wanted: Vec<Topic> = self.wanted.lock().iter().cloned().collect();
        if wanted.contains(&Topic::Expirations) {
            // A server that was restarted has forgotten the flags.
            match expiry::ensure_flags(&mut connection).await {
                // What this server does not allow must not cost the events: the sweep is there.
                Err(error) if is_refusal(&error) => {
                    if !self.told_refusal.swap(true, Ordering::Relaxed) {
                        self.sink.log(
                            LogLevel::Warn,
                            "The server does not let this user set notify-keyspace-events (CONFIG) \
                             any more; without notifications, dead connections are found within \
                             fallbackSweepMs",
                        );
                    }
                }
                done => done?,
            }
        }
        for topic in &wanted {
            connection
                .send_packed_command(&self.subscribe_cmd(topic))
                .await
                .and_then(Value::extract_error)
                .map_err(|error| errors::request(&error))?;
        }
        if again && wanted.contains(&Topic::LockCalls) {
            self.sink.lock_call(LockCall::Gap);
        }
        let follows = wanted.iter().any(|topic| *topic != Topic::LockCalls);
        if again && follows && !off(Defence::Gaps) {
            self.sink.gap();
        }
        Ok(())
    }

    fn subscribe_cmd(&self, topic: &Topic) -> Cmd {
        self.cmd(topic, "SUBSCRIBE", "PSUBSCRIBE")
    }

    fn unsubscribe_cmd(&self, topic: &Topic) -> Cmd {
        self.cmd(topic, "UNSUBSCRIBE", "PUNSUBSCRIBE")
    }

    fn cmd(&self, topic: &Topic, channel: &str, pattern: &str) -> Cmd {
        match topic {
            Topic::AllRooms => redis::cmd(pattern)
                .arg(self.keys.events_pattern())
                .to_owned(),
            Topic::Room(room) => redis::cmd(channel)
                .arg(self.keys.room_events(room))
                .to_owned(),
            Topic::Expirations => redis::cmd(channel).arg(&self.expired_channel).to_owned(),
            Topic::AllChannels => redis::cmd(pattern)
                .arg(self.keys.channel_events_pattern())
                .to_owned(),
            Topic::Channel(of) => redis::cmd(channel)
                .arg(self.keys.channel_events(of))
                .to_owned(),
            Topic::AllLocks => redis::cmd(pattern)
                .arg(self.keys.lock_events_pattern())
                .to_owned(),
            Topic::Lock(name) => redis::cmd(channel)
                .arg(self.keys.lock_events(name))
                .to_owned(),
            Topic::LockCalls => redis::cmd(channel).arg(&self.wake_channel).to_owned(),
        }
    }

    /// Runs on the connection's task, in the order in which the server sent.
    fn receive(&self, push: PushInfo) {
        let (is_pattern, channel, payload) = match (push.kind, push.data.as_slice()) {
            (PushKind::Message, [channel, payload]) => (false, channel, payload),
            (PushKind::PMessage, [_, channel, payload]) => (true, channel, payload),
            _ => return,
        };
        if text(channel).is_some_and(|channel| channel == self.expired_channel) {
            if text(payload).is_some_and(|key| key.starts_with(&self.conn_prefix)) {
                self.sink.expired();
            }
            return;
        }
        let (Some(channel), Some(payload)) = (text(channel), text(payload)) else {
            return self.sink.malformed();
        };
        if channel == self.wake_channel {
            return match lock::parse_call(payload) {
                Some(call) => self.sink.lock_call(call),
                None => self.sink.malformed(),
            };
        }
        match self.feed(is_pattern, channel, payload) {
            Some(feed) => {
                self.sink.event(feed, payload);
            }
            None => self.sink.malformed(),
        }
    }

    /// To which feed a message belongs; `None` if it is no event of the channel that it came on.
    fn feed(&self, is_pattern: bool, channel: &str, payload: &str) -> Option<Feed> {
        let (fits, of_all, of_one) = if let Some(room) = self.keys.room_of_events(channel) {
            let fits =
                payload.len() <= self.most_event_bytes && event::is_presence_event(payload, room);
            (fits, Feed::AllRooms, Feed::Room)
        } else if let Some(of) = self.keys.channel_of_events(channel) {
            let fits =
                payload.len() <= self.most_metadata_event_bytes && is_metadata_event(payload, &of);
            (fits, Feed::AllChannels, Feed::Channel)
        } else {
            let name = self.keys.lock_of_events(channel)?;
            (is_lock_event(payload, name), Feed::AllLocks, Feed::Lock)
        };
        (fits || off(Defence::Forged)).then_some(if is_pattern { of_all } else { of_one })
    }
}

/// Whether the server knows no such command, or does not allow it to this user.
fn is_refusal(error: &Error) -> bool {
    matches!(error.code, Code::Permission | Code::Internal)
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
