//! Establishes a connection, and retries until that succeeds.

use crate::{
    model::error::{Code, Error, Result},
    store::redis::transport::{
        link::shared::{FIRST_BACKOFF, Inner, LinkConfig, Live, MAX_BACKOFF},
        server::{Connected, Found, identify},
    },
};
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use std::sync::{Arc, atomic::Ordering};
use tokio::time::{Instant, sleep, timeout};

/// A connection that is ready for use.
pub(in crate::store::redis) struct Ready {
    connected: Connected,
    found: Found,
    /// The latest round of checks when the attempt to connect began.
    round: u64,
}

impl Inner {
    pub(in crate::store::redis) async fn connect(self: &Arc<Self>, again: bool) -> Result<Ready> {
        let config = &self.config;
        let (began, round) = (Instant::now(), config.server.peers.round());
        let on_push = config.on_push.clone();
        let weak = Arc::downgrade(self);
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(config.connect_timeout))
            // `request` enforces the deadlines. This timeout only prevents that a lost answer stays
            // pending for ever.
            .set_response_timeout(Some(config.command_timeout * 4))
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    if let Some(inner) = weak.upgrade() {
                        inner.health_check.notify_one();
                    }
                } else {
                    on_push(push);
                }
                Ok::<(), ()>(())
            });
        let attempt = async {
            let connected = config.server.connect(&settings).await?;
            // Both run at the same time.
            let (found, ()) = tokio::try_join!(
                identify(connected.connection.clone()),
                (config.prepare)(connected.connection.clone(), again),
            )?;
            if let Some(run_id) = &found.run_id {
                config.server.peers.found(run_id, began);
            }
            Ok(Ready {
                connected,
                found,
                round,
            })
        };
        match timeout(config.connect_timeout, attempt).await {
            Ok(done) => done,
            Err(_) => Err(Error::new(
                Code::Unavailable,
                format!(
                    "Redis at {} did not answer within {} ms (limits.connectTimeoutMs)",
                    config.server.display(),
                    config.connect_timeout.as_millis()
                ),
            )),
        }
    }

    /// Connects, and retries without limit. `again`: the connection replaces an earlier one.
    /// Returns the round of checks that the new connection satisfies.
    pub(in crate::store::redis) async fn connect_again(self: &Arc<Self>, again: bool) -> u64 {
        let LinkConfig {
            server,
            notifications,
            ..
        } = &self.config;
        let mut backoff = FIRST_BACKOFF;
        loop {
            match self.connect(again).await {
                Ok(ready) => {
                    self.refused.send_replace(None);
                    server.connected(self.number, &**notifications);
                    return self.put(ready);
                }
                Err(error) => {
                    self.remember(&error);
                    server
                        .outage
                        .begin(self.number, &**notifications, &error.to_string());
                }
            }
            // Jitter, so that many nodes do not reconnect at the same moment.
            sleep(backoff.mul_f64(0.5 + jitter())).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    fn remember(&self, error: &Error) {
        let lasting = matches!(error.code, Code::Permission | Code::Unsupported);
        self.refused.send_replace(lasting.then(|| error.clone()));
    }

    /// Whether the error of the first attempt may be temporary.
    pub(in crate::store::redis) fn passes(&self, error: &Error) -> bool {
        is_loading(error) || (self.config.server.moves() && error.code == Code::Unavailable)
    }

    pub(in crate::store::redis) fn put(&self, ready: Ready) -> u64 {
        let Ready {
            connected,
            found,
            round,
        } = ready;
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(server = self.config.server.display(), role = ?self.config.role, number, "connected");
        self.live.send_replace(Some(Live {
            number,
            connection: connected.connection.clone(),
            address: connected.address.clone(),
            run_id: found.run_id,
            was_master: found.is_master,
            _connected: connected,
        }));
        round
    }
}

fn is_loading(error: &Error) -> bool {
    error.code == Code::Unavailable && error.message.contains("loading")
}

/// A random number in 0..1. Its quality does not matter.
pub(in crate::store::redis) fn jitter() -> f64 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    f64::from(nanos % 1_000) / 1_000.0
}
