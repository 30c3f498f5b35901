//! Watching a connection, and making a new one when it breaks.

use super::{FIRST_BACKOFF, Inner, Live, MOST_BACKOFF, jitter};
use crate::{
    store::{ConnectionState, redis::errors},
    switches::{Defence, off},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Pause between two pings of a connection; with [`PING_TIMEOUT`] a half-open one is noticed
/// within five seconds.
const PING_EVERY: Duration = Duration::from_millis(2_000);
const PING_TIMEOUT: Duration = Duration::from_millis(2_000);

/// Watches the connection and replaces it when it breaks, for as long as the link lives.
pub async fn supervise(inner: Arc<Inner>) {
    let mut demoted_pause = FIRST_BACKOFF;
    loop {
        watch_until_broken(&inner).await;
        inner.live.send_replace(None);
        if inner.config.reports_state {
            inner
                .config
                .sink
                .state(ConnectionState::Disconnected, inner.config.server.shown());
        }
        if off(Defence::Reconnect) {
            return;
        }
        if inner.demoted.swap(false, Ordering::Relaxed) {
            // It can be reached, so there is nothing that would slow us down.
            sleep(demoted_pause.mul_f64(0.5 + jitter())).await;
            demoted_pause = (demoted_pause * 2).min(MOST_BACKOFF / 4);
        } else {
            demoted_pause = FIRST_BACKOFF;
        }
        inner.connect_again(true).await;
        if inner.config.reports_state {
            inner
                .config
                .sink
                .state(ConnectionState::Connected, inner.config.server.shown());
        }
    }
}

async fn watch_until_broken(inner: &Inner) {
    loop {
        tokio::select! {
            () = inner.suspect.notified() => {}
            () = sleep(PING_EVERY), if !off(Defence::Pings) => {}
        }
        let Some(Live {
            mut connection,
            address,
            ..
        }) = inner.live.borrow().clone()
        else {
            return;
        };
        let server = &inner.config.server;
        let probe = server.probe();
        match timeout(PING_TIMEOUT, connection.send_packed_command(&probe)).await {
            Ok(Ok(answer)) if server.is_right(&answer) => {}
            // An error reply (LOADING, NOAUTH, …) is an answer: the connection itself is sound.
            Ok(Err(error)) if !errors::breaks_connection(&error) => {}
            _ => return,
        }
        if server.has_moved(&address).await {
            return;
        }
    }
}
