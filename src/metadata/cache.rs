//! Records as this node last wrote or read them. With them, a change of a channel that no other
//! node is changing takes one round trip. They are hints: a commit compares them with the stored
//! record.

use crate::{
    model::metadata::{
        Channel,
        change::Contents,
        record::{Record, Stored},
    },
    store::metadata::Time,
};
use lru::LruCache;

/// Approximate maximum of bytes and maximum of channels in the cache.
const MAX_BYTES: usize = 32 * 1024 * 1024;
const MAX_CHANNELS: usize = 10_000;

/// A record: the exact stored form, and its parsed contents.
pub(super) struct Known {
    pub stored: Stored,
    pub contents: Contents,
}

impl Known {
    pub fn new(stored: Stored, contents: Contents) -> Self {
        Known { stored, contents }
    }

    pub fn read(stored: Stored, max_depth: usize) -> Self {
        let contents = Record::read(&stored, max_depth);
        Known { stored, contents }
    }

    /// Call after the changes that `contents` has over `stored` were committed at this time.
    pub fn settle(&mut self, Time { iso, id, .. }: &Time) {
        if let Ok(record) = &mut self.contents {
            record.fill(iso);
            self.stored = Stored {
                items: record.text.bare().into(),
                major: record.major.to_string().into(),
                id: id.clone(),
            };
        }
    }

    /// An estimate. The text is stored twice: as a whole and for each item.
    fn bytes(&self) -> usize {
        let items = self
            .contents
            .as_ref()
            .map_or(0, |record| record.items.len());
        3 * self.stored.items.len() + 128 * items
    }
}

impl Default for Known {
    /// An unknown record is assumed not to exist. The commit corrects a wrong assumption.
    fn default() -> Self {
        Known::new(Stored::default(), Ok(Record::default()))
    }
}

pub(super) struct RecordCache {
    records: LruCache<Channel, Known>,
    bytes: usize,
}

impl Default for RecordCache {
    fn default() -> Self {
        RecordCache {
            records: LruCache::unbounded(),
            bytes: 0,
        }
    }
}

impl RecordCache {
    /// Removes a record from the cache, because it is about to change.
    pub fn take(&mut self, channel: &Channel) -> Option<Known> {
        let known = self.records.pop(channel)?;
        self.bytes -= known.bytes();
        Some(known)
    }

    pub fn put(&mut self, channel: &Channel, known: Known) {
        self.take(channel);
        self.bytes += known.bytes();
        self.records.put(channel.clone(), known);
        while self.bytes > MAX_BYTES || self.records.len() > MAX_CHANNELS {
            match self.records.pop_lru() {
                Some((_, oldest)) => self.bytes -= oldest.bytes(),
                None => break,
            }
        }
    }

    /// Stores what was read, unless the cache has a newer record: answers can overtake each other.
    pub fn learn(&mut self, channel: &Channel, known: Known) {
        let major = |known: &Known| known.contents.as_ref().map_or(0, |record| record.major);
        match self.records.peek(channel) {
            Some(old) if old.stored.id == known.stored.id && major(old) > major(&known) => {}
            _ => self.put(channel, known),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(major: u64, bytes: usize) -> Known {
        let stored = Stored {
            items: format!("{{\"k\":\"{}\"}}", "x".repeat(bytes)).into(),
            major: major.to_string().into(),
            id: Vec::new(),
        };
        Known::read(stored, 128)
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
        let mut cache = RecordCache::default();
        let channel = |i: usize| Channel::new("t", &i.to_string());
        for i in 0..15 {
            cache.put(&channel(i), known(1, 1024 * 1024));
            cache.put(&channel(0), known(i as u64, 10));
        }
        assert!(cache.bytes <= MAX_BYTES);
        assert!(cache.records.len() < 20);
        assert!(cache.take(&channel(0)).is_some());
        assert!(cache.take(&channel(1)).is_none());
        while cache.records.pop_lru().is_some_and(|(_, old)| {
            cache.bytes -= old.bytes();
            true
        }) {}
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn a_read_does_not_replace_what_is_newer() {
        let mut cache = RecordCache::default();
        let channel = Channel::new("t", "n");
        cache.put(&channel, known(5, 1));
        cache.learn(&channel, known(4, 1));
        assert_eq!(cache.take(&channel).unwrap().stored.major, b"5");
    }
}
