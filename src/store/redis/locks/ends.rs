//! The index of locks by the end of their leases, and how new ends are written to it.

use crate::{
    keys::Keys,
    model::error::Result,
    store::redis::{
        scripts::{Script, ScriptClient, slotted::LOCK_NOTE},
        transport::link::Repeat,
    },
};
use futures_util::future::BoxFuture;
use redis::{Cmd, Value};
use std::sync::Arc;

pub(in crate::store::redis) trait Ends: Send + Sync {
    /// The key of the index, for scripts that write it.
    fn index_key(&self) -> Option<String>;

    /// Calls a script that acquires or extends a lock for `ttl_ms`, and indexes the end of its
    /// lease.
    fn call<'a>(
        &'a self,
        script: &'static Script,
        call: Cmd,
        name: &'a str,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Value>>;

    /// Indexes the ends of leases that `lock_settle.lua` has returned: the remaining time of each
    /// lock in ms.
    fn settled<'a>(&'a self, names: &'a [Arc<str>], left: &'a [Result<i64>]) -> BoxFuture<'a, ()>;
}

/// The scripts write the index themselves.
pub(in crate::store::redis) struct InSameStep {
    pub keys: Keys,
    pub scripts: Arc<ScriptClient>,
}

impl Ends for InSameStep {
    fn index_key(&self) -> Option<String> {
        Some(self.keys.lock_due())
    }

    fn call<'a>(
        &'a self,
        script: &'static Script,
        call: Cmd,
        _name: &'a str,
        _ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move { self.scripts.call(script, &call, Repeat::Harmless).await })
    }

    fn settled<'a>(
        &'a self,
        _names: &'a [Arc<str>],
        _left: &'a [Result<i64>],
    ) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The index is in another slot than the lock. The node writes it with a separate call, sent
/// together with the lock's call. If that call is lost, the next extension repeats it, and overdue
/// entries are checked again.
pub(in crate::store::redis) struct InOwnStep {
    pub keys: Keys,
    pub scripts: Arc<ScriptClient>,
}

impl Ends for InOwnStep {
    fn index_key(&self) -> Option<String> {
        None
    }

    fn call<'a>(
        &'a self,
        script: &'static Script,
        call: Cmd,
        name: &'a str,
        ttl_ms: u64,
    ) -> BoxFuture<'a, Result<Value>> {
        Box::pin(async move {
            let mut note = LOCK_NOTE.call(1);
            note.arg(self.keys.lock_due()).arg(1).arg(name).arg(ttl_ms);
            let calls = vec![(&*LOCK_NOTE, note), (script, call)];
            let mut answers = self.scripts.call_each(calls, Repeat::Harmless).await;
            answers.swap_remove(1)
        })
    }

    fn settled<'a>(&'a self, names: &'a [Arc<str>], left: &'a [Result<i64>]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let mut call = LOCK_NOTE.call(1);
            call.arg(self.keys.lock_due()).arg(0);
            for (name, left) in names.iter().zip(left) {
                if let Ok(left) = left {
                    call.arg(&**name).arg(*left);
                }
            }
            let _ = self.scripts.call(&LOCK_NOTE, &call, Repeat::Harmless).await;
        })
    }
}
