//! Channel metadata in the process: what `metadata_commit.lua` does.

use super::{MemoryStore, feeds::Feeds};
use crate::{
    model::{
        error::Result,
        metadata::{Channel, change::LockState, record::Stored},
    },
    store::metadata::{Commit, Committed, MetadataStore, Time},
};
use futures_util::future::BoxFuture;
use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

#[derive(Default)]
pub(super) struct Metadata {
    records: HashMap<Channel, Stored>,
}

impl Metadata {
    fn read(&self, channel: &Channel) -> Stored {
        self.records.get(channel).cloned().unwrap_or_default()
    }

    fn commit(&mut self, feeds: &Feeds, now: u64, commit: &Commit<'_>) -> Committed {
        let missing = Stored::default();
        let stored = self.records.get(commit.channel).unwrap_or(&missing);
        if stored != commit.base {
            return Committed::Changed(stored.clone(), now);
        }
        let iso = iso_time(now);
        if let Some(write) = commit.write {
            let after = Stored {
                items: write.items.filled(&iso).into(),
                major: write.major.to_string().into(),
            };
            self.records.insert(commit.channel.clone(), after);
            for event in &write.events {
                feeds.publish_metadata(commit.channel, || event.at(now));
            }
        }
        Committed::Done(Time { ms: now, iso })
    }
}

/// Milliseconds since 1970 as JavaScript writes them.
fn iso_time(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

impl MetadataStore for MemoryStore {
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>> {
        Box::pin(async move { self.step(|data, now| (data.metadata.read(channel), now)) })
    }

    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>> {
        Box::pin(async move {
            self.step(|data, now| {
                let refused: Vec<(usize, LockState)> = commit
                    .locks
                    .iter()
                    .map(|check| data.locks.refusal(now, check))
                    .enumerate()
                    .filter_map(|(place, state)| Some((place, state?)))
                    .collect();
                if !refused.is_empty() {
                    return Committed::Locked(refused);
                }
                data.metadata.commit(&data.feeds, now, &commit)
            })
        })
    }
}
