//! Channel metadata in the process: the equivalent of `metadata_commit.lua`.

use super::feeds::Feeds;
use crate::{
    model::metadata::{Channel, record::Stored},
    store::metadata::{Commit, Committed, Time},
};
use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, UNIX_EPOCH},
};

#[derive(Default)]
pub(super) struct Metadata {
    records: HashMap<Channel, Record>,
    /// The records that expire, ordered by the time at which they do.
    due: BTreeSet<(u64, Channel)>,
}

struct Record {
    stored: Stored,
    expires_at: Option<u64>,
}

/// Maximum number of records that one step removes, because a step holds the mutex of the whole
/// store.
const EXPIRED_AT_A_TIME: usize = 256;

impl Metadata {
    pub(super) fn read(&mut self, now: u64, channel: &Channel) -> Stored {
        self.expire(now);
        let stored = self.live(now, channel).cloned();
        stored.unwrap_or_default()
    }

    fn live(&self, now: u64, channel: &Channel) -> Option<&Stored> {
        let record = self.records.get(channel)?;
        let expired = record.expires_at.is_some_and(|at| at <= now);
        (!expired).then_some(&record.stored)
    }

    /// Removes expired records. Records that are never read again would otherwise stay in memory.
    pub(super) fn expire(&mut self, now: u64) {
        for _ in 0..EXPIRED_AT_A_TIME {
            match self.due.first() {
                Some((at, _)) if *at <= now => {}
                _ => return,
            }
            if let Some((_, channel)) = self.due.pop_first() {
                self.records.remove(&channel);
            }
        }
    }

    fn put(&mut self, channel: &Channel, record: Record) {
        if let Some(at) = record.expires_at {
            self.due.insert((at, channel.clone()));
        }
        let at = record.expires_at;
        let before = self.records.insert(channel.clone(), record);
        if let Some(old) = before.and_then(|before| before.expires_at)
            && Some(old) != at
        {
            self.due.remove(&(old, channel.clone()));
        }
    }

    /// The number of records and of index entries.
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.records.len(), self.due.len())
    }

    pub(super) fn commit(&mut self, feeds: &Feeds, now: u64, commit: &Commit<'_>) -> Committed {
        self.expire(now);
        let missing = Stored::default();
        let stored = self.live(now, commit.channel).unwrap_or(&missing);
        if stored != commit.base {
            return Committed::Changed(stored.clone(), now);
        }
        let iso = iso_time(now);
        if let Some(write) = commit.write {
            let after = Stored {
                items: write.items.filled(&iso).into(),
                major: write.major.to_string().into(),
                ..Stored::default()
            };
            let record = Record {
                stored: after,
                expires_at: write.ttl_ms.map(|ttl_ms| now.saturating_add(ttl_ms)),
            };
            self.put(commit.channel, record);
            for event in &write.events {
                feeds.publish_metadata(commit.channel, || event.at(now));
            }
        }
        Committed::Done(Time {
            ms: now,
            iso,
            id: Vec::new(),
        })
    }
}

/// Formats milliseconds since 1970 as JavaScript's `toISOString` does.
fn iso_time(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}
