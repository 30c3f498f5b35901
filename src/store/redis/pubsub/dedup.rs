//! Recently received messages. They prevent duplicates when a subscription moves from one server of
//! a cluster to another: a message that the old server has delivered may still be on its way to the
//! new one.

use foldhash::{HashMap, fast::RandomState};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hash},
};

/// Maximum number of messages that are remembered. More than are in transit between servers.
const MAX_MESSAGES: usize = 4_096;

#[derive(Default)]
pub struct MessageDedup {
    hashing: RandomState,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    /// Hash of a message → the subscriber connection that received it first.
    by: HashMap<u64, u64>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl MessageDedup {
    /// Whether no other connection has received the message. One server sends each message once, so
    /// an equal message on the same connection is a new one.
    pub fn is_new(&self, connection: u64, message: impl Hash) -> bool {
        let hash = self.hashing.hash_one(message);
        let mut recent = self.recent.lock();
        if let Some(first) = recent.by.get(&hash) {
            return *first == connection;
        }
        if recent.order.len() == MAX_MESSAGES
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.by.remove(&oldest);
        }
        recent.by.insert(hash, connection);
        recent.order.push_back(hash);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_connection_has_heard_no_other_hears_again() {
        let dedup = MessageDedup::default();
        assert!(dedup.is_new(1, "a"));
        assert!(!dedup.is_new(2, "a"));
        // Another message with the same content.
        assert!(dedup.is_new(1, "a"));
        assert!(dedup.is_new(2, "b"));
        assert!(!dedup.is_new(1, "b"));
    }

    #[test]
    fn it_remembers_a_bounded_number() {
        let dedup = MessageDedup::default();
        for i in 0..=MAX_MESSAGES {
            assert!(dedup.is_new(1, i));
        }
        assert!(!dedup.is_new(2, MAX_MESSAGES));
        assert!(dedup.is_new(2, 0));
        let recent = dedup.recent.lock();
        assert_eq!(
            (recent.order.len(), recent.by.len()),
            (MAX_MESSAGES, MAX_MESSAGES)
        );
    }
}
