//! Races between the caller of a lock and the grant.

use super::{AcquireRequest, LockLostListener, Locks, QueuedLock, WakeupRegistry};
use crate::{
    model::{error::Error, limits::Limits},
    store::{memory::MemoryStore, noop_sink::NoopSink},
};
use std::{hint::spin_loop, sync::Arc, time::Duration};
use tokio::{runtime::Builder, time::timeout};

impl LockLostListener for NoopSink {
    fn lock_lost(&self, _: u64, _: &Error) {}
}

/// A caller can give up at any moment between the grant and the moment it learns of the grant.
#[test]
fn spec_8_1_a_lock_that_is_abandoned_as_it_is_granted_is_given_back() {
    const ROUNDS: u64 = 20_000;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let _in_runtime = runtime.enter();
    let wakeups = Arc::new(WakeupRegistry::default());
    let store = Arc::new(MemoryStore::open(None, Arc::new(NoopSink)));
    let locks = Locks::new(
        Arc::new(QueuedLock::new(store, wakeups.clone())),
        &wakeups,
        Arc::new(NoopSink),
        Arc::default(),
        Limits::default(),
        Duration::from_secs(1),
    );
    for number in 0..ROUNDS {
        let request = AcquireRequest {
            number,
            name: "l".into(),
            owner: "ada".into(),
            ttl_ms: 600_000,
            since: tokio::time::Instant::now(),
            // The release of the previous lock may still be in progress.
            wait_ms: 60_000,
            renew: true,
        };
        let acquiring = runtime.spawn({
            let locks = locks.clone();
            async move { locks.acquire(request).await }
        });
        while locks.waiting() == 0 && locks.held() == 0 && !acquiring.is_finished() {
            spin_loop();
        }
        for _ in 0..number % 500 {
            spin_loop();
        }
        locks.abandon(number);
        let _ = runtime.block_on(acquiring).unwrap();
        let given_back = async {
            while locks.held() > 0 || locks.inspect("l").await.unwrap().is_some() {
                tokio::task::yield_now().await;
            }
        };
        runtime
            .block_on(async { timeout(Duration::from_secs(5), given_back).await })
            .unwrap_or_else(|_| panic!("round {number}: nobody holds the lock, and it is held"));
    }
}
