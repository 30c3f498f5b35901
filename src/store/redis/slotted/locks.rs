//! Locks whose index of ends lies in another slot than they do.

use crate::{
    model::error::Result,
    store::redis::{
        RedisStore,
        link::Repeat,
        scripts::{self, Script},
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

    /// After a look at locks: when their leases end now, by the answers of `lock_settle.lua`.
    pub(in crate::store::redis) async fn note_lock_ends(
        &self,
        names: &[Arc<str>],
        answers: Vec<Result<Value>>,
    ) -> Result<()> {
        let mut call = scripts::LOCK_NOTE.call(1);
        call.arg(self.keys.lock_due()).arg(0);
        let mut failed = None;
        for (name, answer) in names.iter().zip(answers) {
            let left = answer.and_then(|left| scripts::read(left, |left| left.integer()));
            match left {
                Ok(left) => {
                    call.arg(&**name).arg(left);
                }
                Err(error) => failed = Some(error),
            }
        }
        self.call(&scripts::LOCK_NOTE, &call, Repeat::Harmless)
            .await?;
        failed.map_or(Ok(()), Err)
    }
}
