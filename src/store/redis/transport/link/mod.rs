//! One supervised connection to a Redis server. It is checked by pings, and replaced when it
//! breaks. Requests wait for it until their deadline. A request that was sent and not answered
//! fails with unknown outcome, or is sent again if that is harmless.

mod connecting;
mod shared;
mod supervisor;

use crate::{
    failpoints::failpoint,
    model::error::{Code, Error, Result},
    store::redis::transport::{errors, server::Server},
};
use redis::{Cmd, Pipeline, Value, aio::MultiplexedConnection};
use shared::{FIRST_BACKOFF, Inner, Live};
pub use shared::{LinkConfig, Prepare, Role};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

/// Whether a request may be sent again after the connection broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Running it twice has the same effect as once: reads, refreshes.
    Harmless,
    /// It could be applied twice. The caller gets an error of unknown outcome.
    Never,
}

/// The result of one attempt to send.
pub enum Attempt {
    /// An answer for each command, which may be an error of the server.
    Answers(Vec<Value>),
    /// There is no connection, so nothing was sent.
    Away,
    /// The connection broke, or no answer came.
    Broken(Error),
}

/// The server does not have the script that was called.
#[derive(Debug)]
pub struct NoScript;

/// The commands to send.
#[derive(Clone, Copy)]
enum Outgoing<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
}

impl Outgoing<'_> {
    async fn send(
        self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Value, redis::RedisError> {
        match self {
            Outgoing::One(cmd) => connection
                .send_packed_command(cmd)
                .await
                .and_then(Value::extract_error),
            Outgoing::Many(pipeline) => {
                let mut answers = connection
                    .send_packed_commands(pipeline, 0, pipeline.len())
                    .await?;
                // If all commands were refused, the whole pipeline can be sent again.
                if !answers.is_empty() && answers.iter().all(errors::says_read_only) {
                    answers.swap_remove(0).extract_error()?;
                }
                Ok(Value::Array(answers))
            }
        }
    }
}

pub struct Link {
    inner: Arc<Inner>,
    supervisor: JoinHandle<()>,
}

impl Link {
    /// Connects. Fails if the server is not reachable or not usable within the connect timeout.
    pub async fn open(config: LinkConfig) -> Result<Link> {
        let inner = Inner::new(config);
        let deadline = Instant::now() + inner.config.connect_timeout;
        let first = loop {
            match inner.connect(false).await {
                Ok(connection) => break connection,
                Err(error) if inner.passes(&error) && Instant::now() < deadline => {
                    sleep(FIRST_BACKOFF * 5).await;
                }
                Err(error) => return Err(error),
            }
        };
        let round = inner.put(first);
        let supervisor = tokio::spawn(supervisor::supervise(inner.clone(), round));
        Ok(Link { inner, supervisor })
    }

    /// Connects in the background, to a server that other servers can substitute.
    pub fn begin(config: LinkConfig) -> Link {
        let inner = Inner::new(config);
        let supervisor = tokio::spawn({
            let inner = inner.clone();
            async move {
                let round = inner.connect_again(false).await;
                supervisor::supervise(inner, round).await;
            }
        });
        Link { inner, supervisor }
    }

    /// Resolves when there is a connection.
    pub async fn becomes_live(&self) {
        let mut live = self.inner.live.subscribe();
        // An error means that the link was closed.
        if live.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Sends commands once, if there is a connection, and returns the result. The caller decides
    /// about retries.
    pub async fn attempt(&self, pipeline: &Pipeline, deadline: Instant) -> Attempt {
        let inner = &self.inner;
        let Some(mut live) = inner.live.borrow().clone() else {
            return Attempt::Away;
        };
        match timeout_at(
            deadline,
            Outgoing::Many(pipeline).send(&mut live.connection),
        )
        .await
        {
            Ok(Ok(Value::Array(answers))) if answers.len() == pipeline.len() => {
                Attempt::Answers(answers)
            }
            Ok(Ok(_)) => Attempt::Broken(Error::internal("a pipeline got an unexpected reply")),
            Ok(Err(error)) => {
                if errors::breaks_connection(&error) {
                    inner.forget(live.number);
                }
                Attempt::Broken(errors::request(&error))
            }
            Err(_) => {
                inner.health_check.notify_one();
                Attempt::Broken(
                    Error::new(
                        Code::Timeout,
                        format!(
                            "Redis at {} did not answer within {} ms (limits.commandTimeoutMs)",
                            inner.config.server.display(),
                            inner.config.command_timeout.as_millis()
                        ),
                    )
                    .with_unknown_outcome(),
                )
            }
        }
    }

    /// Sends one command.
    pub async fn command(&self, cmd: &Cmd, repeat: Repeat) -> Result<Value> {
        self.request(Outgoing::One(cmd), repeat)
            .await?
            .map_err(|error| errors::request(&error))
    }

    /// Sends commands together. Each has its own answer, which may be an error of the server.
    pub async fn pipeline(&self, pipeline: &Pipeline, repeat: Repeat) -> Result<Vec<Value>> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        match self.request(Outgoing::Many(pipeline), repeat).await? {
            Ok(Value::Array(answers)) => Ok(answers),
            Ok(other) => Ok(vec![other]),
            Err(error) => Err(errors::request(&error)),
        }
    }

    /// The same, with a separate outcome for each command.
    pub async fn pipeline_each(&self, pipeline: &Pipeline, repeat: Repeat) -> Vec<Result<Value>> {
        match self.pipeline(pipeline, repeat).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); pipeline.len()],
        }
    }

    /// Like [`Link::command`], for script calls. The inner error means that the server does not
    /// know the script, so nothing ran.
    pub async fn call(&self, cmd: &Cmd, repeat: Repeat) -> Result<Result<Value, NoScript>> {
        Ok(self
            .request(Outgoing::One(cmd), repeat)
            .await?
            .map_err(|_| NoScript))
    }

    /// Runs a function that makes several requests on the live connection, within one deadline.
    pub async fn with_connection<T, F: Future<Output = Result<T>>>(
        &self,
        run: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T> {
        let deadline = Instant::now() + self.inner.config.command_timeout;
        let live = self.live(deadline).await?;
        match timeout_at(deadline, run(live.connection)).await {
            Ok(done) => done,
            Err(_) => {
                self.inner.health_check.notify_one();
                Err(Error::new(Code::Timeout, "Redis did not answer in time"))
            }
        }
    }

    /// The inner error is always `NOSCRIPT`.
    async fn request(
        &self,
        outgoing: Outgoing<'_>,
        repeat: Repeat,
    ) -> Result<Result<Value, redis::RedisError>> {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.config.command_timeout;
        let queue_timeout = match deadline {
            deadline if failpoint!(Deadlines) => deadline + Duration::from_secs(3600),
            deadline if failpoint!(QueueTimeout) => {
                deadline - inner.config.command_timeout * 9 / 10
            }
            deadline => deadline,
        };
        let mut refused = None;
        loop {
            let mut live = match self.live(deadline).await {
                Ok(live) => live,
                Err(error) => return Err(refused.unwrap_or(error)),
            };
            let error = match timeout_at(queue_timeout, outgoing.send(&mut live.connection)).await {
                Ok(Ok(value)) => {
                    if let Value::Array(answers) = &value
                        && answers.iter().any(errors::says_read_only)
                    {
                        inner.forget(live.number);
                    }
                    return Ok(Ok(value));
                }
                Ok(Err(error)) if errors::is_no_script(&error) => return Ok(Err(error)),
                Ok(Err(error)) => error,
                Err(_) => {
                    inner.health_check.notify_one();
                    return Err(Error::new(
                        Code::Timeout,
                        format!(
                            "Redis at {} did not answer within {} ms (limits.commandTimeoutMs)",
                            inner.config.server.display(),
                            inner.config.command_timeout.as_millis()
                        ),
                    )
                    .with_unknown_outcome());
                }
            };
            if errors::breaks_connection(&error) {
                inner.forget(live.number);
            }
            if errors::is_read_only(&error) {
                // The server is no longer the master. Nothing ran, and there may be a new master.
                inner.demoted.store(true, Ordering::Relaxed);
                refused = Some(errors::request(&error));
                continue;
            }
            let error = errors::request(&error);
            let harmless = repeat == Repeat::Harmless || failpoint!(Once);
            if !(error.outcome_unknown && harmless) {
                return Err(error);
            }
            // If the second attempt is not sent at all, the first one may still have been carried
            // out.
            refused = Some(error);
        }
    }

    /// The live connection. Waits for it until the deadline.
    async fn live(&self, deadline: Instant) -> Result<Live> {
        let mut live = self.inner.live.subscribe();
        let mut refused = self.inner.refused.subscribe();
        let waiting = async {
            tokio::select! {
                biased;
                live = live.wait_for(Option::is_some) => match live {
                    Ok(live) => live.clone().ok_or_else(Error::closed),
                    Err(_) => Err(Error::closed()),
                },
                // Waiting would not help.
                Ok(refused) = refused.wait_for(Option::is_some) => {
                    Err(refused.clone().unwrap_or_else(Error::closed))
                }
            }
        };
        timeout_at(deadline, waiting).await.unwrap_or_else(|_| {
            Err(Error::new(
                Code::Unavailable,
                format!(
                    "Redis at {} cannot be reached; nothing was sent, reconnecting goes on",
                    self.inner.config.server.display()
                ),
            ))
        })
    }

    pub fn leads_to(&self, server: &Arc<Server>) -> bool {
        Arc::ptr_eq(&self.inner.config.server, server)
    }

    /// Whether there is a usable connection.
    pub fn is_live(&self) -> bool {
        self.inner.live.borrow().is_some()
    }

    /// How long there has been no connection; `None` if there is one.
    pub fn away_for(&self) -> Option<Duration> {
        let lost_at = *self.inner.lost_at.lock();
        (!self.is_live()).then(|| lost_at.elapsed())
    }

    /// The number of connections made so far.
    pub fn connections(&self) -> u64 {
        self.inner.connections.load(Ordering::Relaxed)
    }

    pub fn close(&self) {
        self.supervisor.abort();
        self.inner.live.send_replace(None);
        let config = &self.inner.config;
        if config.role != Role::Subscriber {
            config.server.peers.calls_ended();
        }
        config.server.outage.forget(self.inner.number);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.close();
    }
}
