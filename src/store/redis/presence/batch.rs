//! The connections of a call of `heartbeat_batch.lua` or `patch_batch.lua`, sorted by room.

use crate::{keys::Keys, model::presence::Epoch, store::Lifetime};
use redis::Cmd;
use std::sync::Arc;

/// A connection of a batch.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    pub room: &'a Arc<str>,
    pub conn: &'a str,
    /// The epoch that is expected to be stored.
    pub epoch: Epoch,
}

pub(super) struct Batch<'a> {
    /// Each room with the number of its connections.
    pub rooms: Vec<(&'a Arc<str>, usize)>,
    pub items: Vec<Item<'a>>,
}

impl<'a> Batch<'a> {
    /// `items` are sorted by room.
    pub fn new(items: impl Iterator<Item = Item<'a>>) -> Self {
        let items: Vec<Item> = items.collect();
        let mut rooms: Vec<(&Arc<str>, usize)> = Vec::new();
        for item in &items {
            match rooms.last_mut() {
                Some((room, n)) if Arc::ptr_eq(room, item.room) || **room == *item.room => *n += 1,
                _ => rooms.push((item.room, 1)),
            }
        }
        Batch { rooms, items }
    }

    /// The keys of the connections' hashes.
    pub fn add_conn_keys(&self, call: &mut Cmd, keys: &Keys) {
        let mut key = String::new();
        let (mut room, mut prefix) = (None, 0);
        for item in &self.items {
            if room.is_none_or(|room| !Arc::ptr_eq(room, item.room)) {
                keys.conn_prefix(item.room, &mut key);
                room = Some(item.room);
                prefix = key.len();
            }
            key.truncate(prefix);
            key.push_str(item.conn);
            call.arg(key.as_bytes());
        }
    }

    /// The arguments that both scripts begin with. `width`: the length of all epochs, in digits.
    pub fn add_arguments(&self, call: &mut Cmd, keys: &Keys, width: usize, lifetime: &Lifetime) {
        // The stored epoch of a connection with an owner begins with '+'.
        let owned = lifetime.owner.is_some();
        let width = width + usize::from(owned);
        let mut epochs = String::with_capacity(width * self.items.len());
        let mut digits = itoa::Buffer::new();
        for item in &self.items {
            if owned {
                epochs.push('+');
            }
            epochs.push_str(digits.format(item.epoch));
        }
        // Two bytes are enough: `limits.maxBatchSize` is 2000 at most.
        let counts: Vec<u8> = self
            .rooms
            .iter()
            .flat_map(|(_, n)| (*n as u16).to_be_bytes())
            .collect();
        call.arg(lifetime.ttl_ms)
            .arg(self.rooms.len())
            .arg(keys.id_in_conn())
            .arg(epochs)
            .arg(width)
            .arg(counts);
    }
}
