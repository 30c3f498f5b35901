//! The connections to a cluster: one supervised link for each master. Commands are routed by slot.
//!
//! A command is sent to another server, or again, only if the server reported that nothing ran
//! (`MOVED`, `ASK`, `TRYAGAIN`, `CLUSTERDOWN`), or if running it twice is harmless. The deadline of
//! the request covers all attempts.

mod map;
mod refresh;
mod shared;

use crate::{
    keys::slot_of,
    model::error::{Code, Error, Result},
    store::redis::transport::{
        address::Address,
        config::Nodes,
        errors,
        link::{Attempt, Link, Repeat},
        server::Server,
    },
};
use futures_util::future::{join_all, select_all};
pub use map::Map;
use map::redirected;
use parking_lot::Mutex;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, ServerErrorKind, Value};
pub use shared::Settings;
use shared::Shared;
use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};

/// Pause before a command is sent again that a server could not execute yet.
const RETRY_PAUSE: Duration = Duration::from_millis(15);
/// Number of redirections of one request that are followed without a pause.
const FAST_REDIRECTIONS: usize = 3;

/// Pause between two checks of whether a server serves its slots.
const SERVES_PAUSE: Duration = Duration::from_millis(50);

/// Time before its deadline in which a refused request is not sent again.
const LAST_MOMENT: Duration = Duration::from_millis(250);

/// How long `QueueTimeout::None` skips a server that has not answered in time. By then, pings have
/// found out whether its connection works.
const LEFT_OUT: Duration = Duration::from_secs(5);

/// How long commands wait for a server that is not connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueTimeout {
    /// Until their deadline.
    Full,
    /// Until their deadline, unless the server has been away for longer than `command_timeout`.
    Once,
    /// Not at all.
    None,
}

tokio::task_local! {
    static QUEUE_TIMEOUT: QueueTimeout;
}

/// Runs work on many independent keys. Commands to a server that is not connected, or has just not
/// answered in time, fail at once, so that they do not delay the keys on other servers.
pub async fn without_queue_timeout<T>(work: impl Future<Output = T>) -> T {
    QUEUE_TIMEOUT.scope(QueueTimeout::None, work).await
}

/// The same for work that callers wait for. Commands wait for a server that was lost recently. They
/// do not wait for one that has been away for as long as a command may wait.
pub async fn with_queue_timeout_once<T>(work: impl Future<Output = T>) -> T {
    QUEUE_TIMEOUT.scope(QueueTimeout::Once, work).await
}

pub struct Cluster {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

impl Cluster {
    /// Connects to one of the given servers, then to all masters.
    pub async fn open(settings: Settings) -> Result<Cluster> {
        let deadline = Instant::now() + settings.connect_timeout;
        let (map, _) = watch::channel(Arc::new(Map::empty()));
        let shared = Arc::new(Shared {
            settings,
            map,
            succession: Mutex::default(),
            links: Mutex::default(),
            stale: Notify::new(),
            silent: Mutex::default(),
            turn: AtomicUsize::new(0),
            whole: Mutex::new(true),
        });
        shared.find().await?;
        for link in shared.masters() {
            tokio::select! {
                () = link.becomes_live() => {}
                // The cluster works without this master, except for its slots.
                () = sleep_until(deadline) => {}
            }
        }
        let keeper = tokio::spawn(refresh::keep(shared.clone()));
        Ok(Cluster { shared, keeper })
    }

    /// The links to all masters.
    pub fn masters(&self) -> Vec<Arc<Link>> {
        self.shared.masters()
    }

    /// The current map, and its changes.
    pub fn map(&self) -> watch::Receiver<Arc<Map>> {
        self.shared.map.subscribe()
    }

    pub fn nodes(&self) -> &Nodes {
        &self.shared.settings.nodes
    }

    /// Emits the connection state (whether all masters are connected) if it has changed.
    pub fn report_state(&self) {
        self.shared.report_state();
    }

    /// Resolves when the server serves its slots. A server that was restarted does not serve them
    /// at once.
    pub async fn serves(&self, server: &Arc<Server>) {
        let mut info = Pipeline::with_capacity(1);
        info.cmd("CLUSTER").arg("INFO");
        loop {
            let link = {
                let links = self.shared.links.lock();
                links.values().find(|link| link.leads_to(server)).cloned()
            };
            let deadline = Instant::now() + self.shared.settings.command_timeout;
            match link {
                Some(link) => match link.attempt(&info, deadline).await {
                    Attempt::Answers(answers) if !says_down(&answers) => return,
                    _ => sleep(SERVES_PAUSE).await,
                },
                // The server is no longer a master.
                None => return,
            }
        }
    }

    /// Requests a refresh of the map, because it may be outdated.
    pub fn health_check(&self) {
        self.shared.stale.notify_one();
    }

    /// Sends each command to the master of its key. Each has its own outcome. Error replies other
    /// than redirections are outcomes too.
    pub async fn send(&self, commands: &[Cmd], repeat: Repeat) -> Vec<Result<Value>> {
        let shared = &self.shared;
        let deadline = Instant::now() + shared.settings.command_timeout;
        let mut outcomes: Vec<Option<Result<Value>>> = vec![None; commands.len()];
        let mut slot = 0;
        let mut open: Vec<Sending> = commands
            .iter()
            .enumerate()
            .map(|(index, command)| {
                // A command without a key is sent to the server of the command before it.
                slot = key_of(command).map_or(slot, slot_of);
                Sending {
                    index,
                    slot,
                    asking: None,
                    refusal: None,
                }
            })
            .collect();
        let queue_timeout = QUEUE_TIMEOUT
            .try_with(|it| *it)
            .unwrap_or(QueueTimeout::Full);
        let last_moment = LAST_MOMENT.min(shared.settings.command_timeout / 4);
        for round in 0.. {
            let (groups, unrouted) = shared.group(open);
            let (groups, left_out): (Vec<_>, Vec<_>) = groups
                .into_iter()
                .partition(|(address, _)| shared.is_worth_waiting_for(address, queue_timeout));
            for sending in left_out.into_iter().flat_map(|(_, group)| group) {
                outcomes[sending.index] = Some(Err(shared.out_of_reach(sending.slot)));
            }
            let answers = groups.into_iter().map(|(address, group)| async move {
                let link = shared.link(&address);
                let mut pipeline = Pipeline::with_capacity(group.len());
                for sending in &group {
                    if sending.asking.is_some() {
                        pipeline.cmd("ASKING");
                    }
                    pipeline.add_command(commands[sending.index].clone());
                }
                let attempt = match &link {
                    Ok(link) => link.attempt(&pipeline, deadline).await,
                    Err(error) => Attempt::Broken(error.clone()),
                };
                (address, group, attempt)
            });
            let mut again = unrouted;
            let mut pause = !again.is_empty();
            for (address, group, attempt) in join_all(answers).await {
                match attempt {
                    Attempt::Answers(answers) => {
                        shared.silent.lock().remove(&address);
                        let mut answers = answers.into_iter();
                        for mut sending in group {
                            if sending.asking.take().is_some() {
                                answers.next();
                            }
                            let answer = answers.next().unwrap_or(Value::Nil);
                            match shared.redirection(&answer, &address, sending.slot) {
                                None => outcomes[sending.index] = Some(Ok(answer)),
                                Some(Redirection::Elsewhere) => again.push(sending),
                                Some(Redirection::Ask(address)) => {
                                    sending.asking = Some(address);
                                    again.push(sending);
                                }
                                Some(Redirection::Later(refusal)) => {
                                    pause = true;
                                    sending.refusal = Some(refusal);
                                    again.push(sending);
                                }
                            }
                        }
                    }
                    Attempt::Away => {
                        pause = true;
                        shared.stale.notify_one();
                        again.extend(group);
                    }
                    Attempt::Broken(error) => {
                        shared.stale.notify_one();
                        let late = error.code == Code::Timeout;
                        if late {
                            shared.silent.lock().insert(address, Instant::now());
                        }
                        for sending in group {
                            if error.outcome_unknown && repeat == Repeat::Harmless && !late {
                                again.push(sending);
                            } else {
                                outcomes[sending.index] = Some(Err(error.clone()));
                            }
                        }
                    }
                }
            }
            if again.is_empty() {
                break;
            }
            if Instant::now() >= deadline || (pause && queue_timeout == QueueTimeout::None) {
                for sending in again {
                    outcomes[sending.index] = Some(Err(shared.why_not(&sending)));
                }
                break;
            }
            if pause || round >= FAST_REDIRECTIONS {
                shared.wait(&again, deadline).await;
            }
            // If there is no time left for an answer, the known refusal is a better result than a
            // command that was sent and not answered.
            let (hopeless, hopeful): (Vec<_>, Vec<_>) = again.into_iter().partition(|sending| {
                sending.refusal.is_some() && Instant::now() + last_moment >= deadline
            });
            for sending in hopeless {
                outcomes[sending.index] = Some(Err(shared.why_not(&sending)));
            }
            if hopeful.is_empty() {
                break;
            }
            open = hopeful;
        }
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|| Err(Error::closed())))
            .collect()
    }

    pub fn close(&self) {
        self.keeper.abort();
        for (_, link) in self.shared.links.lock().drain() {
            link.close();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.close();
    }
}

/// A command in flight.
struct Sending {
    index: usize,
    slot: u16,
    /// The target of an `ASK` redirection, for one attempt.
    asking: Option<Address>,
    /// Why the last server refused it.
    refusal: Option<Error>,
}

enum Redirection {
    /// The slot is on another server, and the map is corrected.
    Elsewhere,
    /// The slot is being migrated, and the command's keys are already on the target.
    Ask(Address),
    /// The server cannot execute it yet.
    Later(Error),
}

impl Shared {
    /// Whether to send commands to a server, or wait for it.
    fn is_worth_waiting_for(&self, address: &Address, queue_timeout: QueueTimeout) -> bool {
        let (longest, left_out) = match queue_timeout {
            QueueTimeout::Full => return true,
            // Work that callers wait for has to notice soon when the server answers again.
            QueueTimeout::Once => (self.settings.command_timeout, LEFT_OUT / 5),
            QueueTimeout::None => (Duration::ZERO, LEFT_OUT),
        };
        let is_silent = self
            .silent
            .lock()
            .get(address)
            .is_some_and(|since| since.elapsed() < left_out);
        let is_near = |link: Arc<Link>| link.away_for().is_none_or(|away| away < longest);
        !is_silent && self.link(address).is_ok_and(is_near)
    }

    /// Groups commands by server. The second value has the commands whose slot has no master.
    fn group(&self, open: Vec<Sending>) -> (Vec<(Address, Vec<Sending>)>, Vec<Sending>) {
        let map = self.map.borrow().clone();
        let mut groups: Vec<(Address, Vec<Sending>)> = Vec::new();
        let mut unrouted = Vec::new();
        for sending in open {
            let address = sending.asking.as_ref().or_else(|| map.owner(sending.slot));
            let Some(address) = address else {
                self.stale.notify_one();
                unrouted.push(sending);
                continue;
            };
            match groups.iter_mut().find(|(known, _)| known == address) {
                Some((_, group)) => group.push(sending),
                None => groups.push((address.clone(), vec![sending])),
            }
        }
        (groups, unrouted)
    }

    /// Whether an answer means that nothing ran, and what to do next.
    fn redirection(&self, answer: &Value, asked: &Address, slot: u16) -> Option<Redirection> {
        let Value::ServerError(error) = answer else {
            return None;
        };
        let error = RedisError::from(error.clone());
        let ErrorKind::Server(kind) = error.kind() else {
            return None;
        };
        let to = error
            .redirect_node()
            .and_then(|(address, _)| redirected(address, asked));
        match (kind, to) {
            (ServerErrorKind::Moved, Some(to)) => {
                self.map.send_if_modified(|map| {
                    let moved = map.owner(slot) != Some(&to);
                    if moved {
                        *map = Arc::new(map.with_owner(slot, &to));
                    }
                    moved
                });
                self.stale.notify_one();
                Some(Redirection::Elsewhere)
            }
            (ServerErrorKind::Ask, Some(to)) => Some(Redirection::Ask(to)),
            (ServerErrorKind::TryAgain, _) => Some(Redirection::Later(errors::request(&error))),
            (
                ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::BusyLoading,
                _,
            ) => {
                self.stale.notify_one();
                Some(Redirection::Later(errors::request(&error)))
            }
            _ => None,
        }
    }

    /// Waits until a retry may succeed: for a short pause, a new map, or a new connection.
    async fn wait(&self, again: &[Sending], deadline: Instant) {
        let mut map = self.map.subscribe();
        let owners: Vec<Arc<Link>> = {
            let map = map.borrow_and_update();
            let owners = again.iter().filter_map(|sending| map.owner(sending.slot));
            owners.filter_map(|owner| self.link(owner).ok()).collect()
        };
        let away: Vec<_> = owners.iter().filter(|link| !link.is_live()).collect();
        if away.is_empty() {
            return sleep(RETRY_PAUSE).await;
        }
        let becoming = select_all(away.iter().map(|link| Box::pin(link.becomes_live())));
        tokio::select! {
            _ = becoming => {}
            _ = map.changed() => {}
            () = sleep_until(deadline) => {}
        }
    }

    /// The error of a request that was never executed.
    fn why_not(&self, sending: &Sending) -> Error {
        let refusal = sending.refusal.clone();
        refusal.unwrap_or_else(|| self.out_of_reach(sending.slot))
    }
}

/// Whether `CLUSTER INFO` of this server reports that the cluster is down.
fn says_down(answers: &[Value]) -> bool {
    matches!(answers, [Value::BulkString(info)]
        if String::from_utf8_lossy(info).contains("cluster_state:fail"))
        || matches!(answers, [Value::VerbatimString { text, .. }]
            if text.contains("cluster_state:fail"))
}

/// The first key of a command that this client sends.
fn key_of(command: &Cmd) -> Option<&[u8]> {
    let mut args = command.args_iter().map(|arg| match arg {
        Arg::Simple(bytes) => bytes,
        _ => b"",
    });
    match args.next()? {
        b"EVALSHA" | b"EVAL" => args.nth(2),
        b"TIME" | b"MULTI" | b"EXEC" | b"INFO" | b"SCRIPT" | b"CONFIG" => None,
        _ => args.next(),
    }
}
