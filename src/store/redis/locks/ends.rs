//! Locks whose index of ends lies in another slot than they do.

use crate::{
    model::error::Result,
    store::redis::{
        RedisStore,
        scripts::{self, Script},
        transport::link::Repeat,
    },
};
use redis::{Cmd, Value};
use std::sync::Arc;

impl RedisStore {
    /// Calls a script that takes or extends a lock, for so many ms. On `slotted` its end is noted with it:
    /// the two go out together, the note first. Where the note is lost (its server is away), the next
    /// extension makes it again.
    pub(in crate::store::redis) async fn call_noted(
        &self,
        script: &'static Script,
        call: Cmd,
        name: &str,
        ttl_ms: u64,
    ) -> Result<Value> {
        if !self.keys.is_slotted() {
            return self.call(script, &call, Repeat::Harmless).await;
        }
        let mut note = scripts::LOCK_NOTE.call(1);
        note.arg(self.keys.lock_due()).arg(1).arg(name).arg(ttl_ms);
        let calls = vec![(&*scripts::LOCK_NOTE, note), (script, call)];
        let mut answers = self.call_each(calls, Repeat::Harmless).await;
        answers.swap_remove(1)
    }

    /// After a look at locks: in how many ms their leases end now, by `lock_settle.lua`. Where that is
    /// lost, the entries are overdue and looked at again.
    pub(in crate::store::redis) async fn note_lock_ends(
        &self,
        names: &[Arc<str>],
        left: &[Result<i64>],
    ) {
        let mut call = scripts::LOCK_NOTE.call(1);
        call.arg(self.keys.lock_due()).arg(0);
        for (name, left) in names.iter().zip(left) {
            if let Ok(left) = left {
                call.arg(&**name).arg(*left);
            }
        }
        let _ = self
            .call(&scripts::LOCK_NOTE, &call, Repeat::Harmless)
            .await;
    }
}
