//! Receives the store's calls for claims of this node. A call wakes a claim that waits, or ends one
//! that is lost. The registry is created before the store, which calls it from its own threads.

use super::Locks;
use crate::store::lock::LockCall;
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};
use tokio::sync::Notify;

#[derive(Default)]
pub struct WakeupRegistry {
    waiting: Mutex<HashMap<u64, Arc<Notify>>>,
    locks: OnceCell<Weak<Locks>>,
}

impl WakeupRegistry {
    pub(super) fn belongs_to(&self, locks: Weak<Locks>) {
        // A registry belongs to one client, so it is set only once.
        let _ = self.locks.set(locks);
    }

    pub(super) fn put(&self, number: u64, stir: Arc<Notify>) {
        self.waiting.lock().insert(number, stir);
    }

    pub(super) fn remove(&self, number: u64) {
        self.waiting.lock().remove(&number);
    }

    /// Handles a call. Does not block.
    pub fn call(&self, call: LockCall) {
        match call {
            LockCall::Turn(number) => {
                if let Some(stir) = self.waiting.lock().get(&number) {
                    stir.notify_one();
                }
            }
            LockCall::Lost(_) => {}
            LockCall::Gap => {
                for stir in self.waiting.lock().values() {
                    stir.notify_one();
                }
            }
        }
        if let Some(locks) = self.locks.get().and_then(Weak::upgrade) {
            locks.called(call);
        }
    }
}
