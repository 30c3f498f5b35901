//! Tests of the capability, and the stores that they run on. `linearizable.rs`: what concurrent
//! clients see of one record. `groups.rs`: groups when the store misbehaves.

mod groups;
mod linearizable;
pub(crate) mod redis;

use crate::{
    model::{
        error::Result,
        metadata::{Channel, record::Stored},
    },
    store::{
        metadata::{Commit, Committed, MetadataStore},
        noop_sink::NoopSink,
    },
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};
use std::sync::Arc;

/// The seed of this run; `ROLLCALL_SEED` sets it. Printed by every test that uses it.
fn seed() -> u32 {
    static SEED: once_cell::sync::Lazy<u32> = once_cell::sync::Lazy::new(|| {
        let given = std::env::var("ROLLCALL_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |since| since.subsec_nanos())
        });
        println!("ROLLCALL_SEED={seed}");
        seed
    });
    *SEED
}

/// Reproducible random choices. Each `stream` is a different sequence.
struct Random(TestRng);

impl Random {
    fn new(stream: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&seed().to_le_bytes());
        bytes[8..16].copy_from_slice(&stream.to_le_bytes());
        Random(TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
    }

    /// A number below `end`.
    fn below(&mut self, end: u32) -> u32 {
        self.0.next_u32() % end
    }
}

/// A store with delayed answers, so that calls of several clients interleave even if the store
/// answers at once. On a single-threaded runtime, the interleaving follows from the seed.
struct Slow<S> {
    store: S,
    random: Mutex<Random>,
}

impl<S> Slow<S> {
    fn new(store: S, stream: u64) -> Self {
        Slow {
            store,
            random: Mutex::new(Random::new(stream)),
        }
    }

    async fn pause(&self) {
        let turns = self.random.lock().below(6);
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
    }
}

impl<S: MetadataStore> MetadataStore for Slow<S> {
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>> {
        Box::pin(async move {
            self.pause().await;
            let read = self.store.read_metadata(channel).await;
            self.pause().await;
            read
        })
    }

    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>> {
        Box::pin(async move {
            self.pause().await;
            let done = self.store.commit_metadata(commit).await;
            self.pause().await;
            done
        })
    }
}

/// A store with the compare disabled: a change that was computed on one record overwrites any
/// other.
struct Careless(Arc<dyn MetadataStore>);

impl MetadataStore for Careless {
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>> {
        self.0.read_metadata(channel)
    }

    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>> {
        Box::pin(async move {
            let mut done = self.0.commit_metadata(commit).await?;
            while let Committed::Changed(stored, _) = &done {
                let anyway = Commit {
                    base: stored,
                    ..commit
                };
                done = self.0.commit_metadata(anyway).await?;
            }
            Ok(done)
        })
    }
}
