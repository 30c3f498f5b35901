//! What has been heard lately, so that nothing is heard twice when a subscription goes from one server of
//! a cluster to another: a message that the old one has handed over may still be on its way to the new one.

use foldhash::{HashMap, fast::RandomState};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    hash::{BuildHasher, Hash},
};

/// How many messages are remembered: more than are on their way between servers.
const MAX_MESSAGES: usize = 4_096;

#[derive(Default)]
pub struct MessageDedup {
    hashing: RandomState,
    recent: Mutex<Recent>,
}

#[derive(Default)]
struct Recent {
    /// Hash of a message → the subscriber connection that heard it first.
    by: HashMap<u64, u64>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl MessageDedup {
    /// Whether nobody else has heard the message. One server sends each once, so what a connection hears
    /// again is another message.
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
        // Another one that says the same.
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
