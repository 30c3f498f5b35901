//! Checks a connection, and replaces it when it breaks.

use crate::{
    failpoints::failpoint,
    store::{
        ConnectionState,
        redis::transport::{
            errors,
            link::{
                connecting::jitter,
                shared::{FIRST_BACKOFF, Inner, Live, MAX_BACKOFF, Role},
            },
        },
    },
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// Pause between two pings of a connection. Together with [`PING_TIMEOUT`], a half-open connection
/// is detected within five seconds.
const PING_EVERY: Duration = Duration::from_millis(2_000);
const PING_TIMEOUT: Duration = Duration::from_millis(2_000);

/// Checks the connection and replaces it when it breaks, as long as the link lives. `round`: the
/// round of checks that the first connection satisfies.
pub async fn supervise(inner: Arc<Inner>, mut round: u64) {
    let reports_state = inner.config.role == Role::Client;
    let (server, notifications) = (&inner.config.server, &inner.config.notifications);
    let mut demoted_pause = FIRST_BACKOFF;
    loop {
        watch_until_broken(&inner, round).await;
        *inner.lost_at.lock() = Instant::now();
        inner.live.send_replace(None);
        tracing::debug!(server = server.display(), role = ?inner.config.role, "connection lost");
        // The cause may have broken other connections that have not noticed it.
        server.peers.check();
        if reports_state {
            notifications.state(ConnectionState::Disconnected, server.display());
        }
        if failpoint!(Reconnect) {
            return;
        }
        if inner.demoted.swap(false, Ordering::Relaxed) {
            // The server is reachable, so no connect timeout would slow down the retries.
            sleep(demoted_pause.mul_f64(0.5 + jitter())).await;
            demoted_pause = (demoted_pause * 2).min(MAX_BACKOFF / 4);
        } else {
            demoted_pause = FIRST_BACKOFF;
        }
        round = inner.connect_again(true).await;
        if reports_state {
            notifications.state(ConnectionState::Connected, server.display());
        }
    }
}

/// Returns when the connection is broken. `round`: the last round of checks that it satisfies.
async fn watch_until_broken(inner: &Inner, mut round: u64) {
    let server = &inner.config.server;
    loop {
        if inner.config.role != Role::Subscriber {
            server.peers.calls_worked(round);
        }
        let run_id = inner
            .live
            .borrow()
            .as_ref()
            .and_then(|live| live.run_id.clone());
        tokio::select! {
            () = inner.health_check.notified() => {}
            () = server.peers.round_after(round) => {}
            () = sleep(PING_EVERY), if !failpoint!(Pings) => {}
            () = server.peers.lead_elsewhere(run_id.as_ref()) => return,
        }
        let Some(Live {
            mut connection,
            address,
            was_master,
            ..
        }) = inner.live.borrow().clone()
        else {
            return;
        };
        let called_for = server.peers.round();
        let probe = server.probe(was_master);
        match timeout(PING_TIMEOUT, connection.send_packed_command(&probe)).await {
            Ok(Ok(answer)) if server.is_right(&answer, was_master) => {}
            // An error reply (LOADING, NOAUTH, …) is an answer, so the connection works.
            Ok(Err(error)) if !errors::breaks_connection(&error) => {}
            _ => return,
        }
        if server.has_moved(&address).await {
            return;
        }
        round = called_for;
    }
}
