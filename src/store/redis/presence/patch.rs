//! Patches of large states that are under separate keys. Redis hashes every string that it passes
//! to Lua, which at 60 KB costs more than everything else together
//! (docs/decisions/0002-large-states.md). A small script therefore checks, without reading the
//! state, that it is the one that the patch was merged into. Depending on the result, a transaction
//! of plain commands is executed or aborted. This takes one round trip and is atomic.

use crate::{
    model::{
        error::{Error, Result},
        event::{Change, presence_event},
        presence::Epoch,
        state::State,
    },
    store::{
        HeartbeatOutcome, HeartbeatUpdate, Lifetime, LogLevel, StateEncoding, StateWrite,
        redis::{
            presence::{
                fields::{owned_score, stored_epoch},
                rooms::Rooms,
                states::Encoded,
            },
            scripts::{self, Reply},
            transport::{errors, link::Repeat},
        },
    },
};
use redis::{Pipeline, Value};
use std::sync::atomic::Ordering;

/// Size (bytes of JSON) from which patched states are written by transactions. Below it,
/// heartbeat.lua is cheaper.
const LARGE: usize = 4 * 1024;

/// A patch that a transaction may write.
struct Patch<'a> {
    heartbeat: &'a HeartbeatUpdate,
    base: &'a StateWrite,
    encoding: &'a StateEncoding,
    next: &'a State,
    epoch: Epoch,
    ts: u64,
}

/// The result of a patch.
enum Outcome {
    Written(HeartbeatOutcome),
    Failed(Error),
    /// Nothing was written. heartbeat.lua then finds the reason, or writes the state.
    Refused,
}

impl Rooms {
    /// Tries to write patches by transactions. Returns results in the order of `heartbeats`.
    /// `None`: nothing was written, and the heartbeat has no result yet.
    pub(in crate::store::redis) async fn patch_large(
        &self,
        heartbeats: &[HeartbeatUpdate],
        lifetime: &Lifetime,
    ) -> Vec<Option<Result<HeartbeatOutcome>>> {
        let mut results = vec![None; heartbeats.len()];
        // Each patch is sent separately, so that the server executes one while the next is
        // prepared.
        let transactions: Vec<_> = heartbeats
            .iter()
            .zip(&mut results)
            .filter_map(|(heartbeat, result)| Some((self.as_patch(heartbeat)?, result)))
            .map(async |(patch, result)| *result = self.patch(&patch, lifetime).await)
            .collect();
        futures_util::future::join_all(transactions).await;
        results
    }

    async fn patch(
        &self,
        patch: &Patch<'_>,
        lifetime: &Lifetime,
    ) -> Option<Result<HeartbeatOutcome>> {
        let encoded = self.states.encode(patch.next).await;
        let mut pipeline = Pipeline::with_capacity(11);
        self.add_transaction(&mut pipeline, patch, &encoded, lifetime);
        let answers = match self
            .scripts
            .commands
            .pipeline(&pipeline, Repeat::Never)
            .await
        {
            Ok(answers) => answers,
            Err(error) => return Some(Err(error)),
        };
        match self.read_transaction(patch, encoded, answers) {
            Outcome::Written(beaten) => Some(Ok(beaten)),
            Outcome::Failed(error) => Some(Err(error)),
            Outcome::Refused => None,
        }
    }

    /// The heartbeat as a patch that a transaction may write; `None` if it is not one.
    fn as_patch<'a>(&self, heartbeat: &'a HeartbeatUpdate) -> Option<Patch<'a>> {
        let base = heartbeat.write.as_ref()?;
        let next = base.next.as_ref()?;
        let encoding = base.base.encoding.as_deref()?;
        let fits = next.as_str().len() >= LARGE && encoding.separate;
        let may = fits && self.transactions.load(Ordering::Relaxed);
        Some(Patch {
            heartbeat,
            base,
            encoding,
            next,
            epoch: base.expected_epoch?,
            ts: self.clock.now().filter(|_| may)?,
        })
    }

    fn add_transaction(
        &self,
        pipeline: &mut Pipeline,
        patch: &Patch<'_>,
        encoded: &Encoded,
        lifetime: &Lifetime,
    ) {
        let Patch {
            heartbeat,
            encoding,
            next,
            ..
        } = patch;
        let room = &*heartbeat.place.room;
        let conn = self.keys.conn(room, &heartbeat.conn);
        let state = self.keys.conn_state(room, &heartbeat.conn);
        let room = self.keys.room(room);
        let (before, after) = (patch.base.base.bytes(), encoded.bytes(next));
        let owned = lifetime.owner.is_some();
        let score = match owned {
            true => owned_score(patch.ts + lifetime.ttl_ms),
            false => patch.ts,
        };

        pipeline.cmd("WATCH").arg(&conn).arg(&state);
        let mut check = scripts::PATCH_CHECK.eval(2);
        check
            .arg(&conn)
            .arg(&state)
            .arg(&*heartbeat.place.user)
            .arg(&*heartbeat.place.room)
            .arg(stored_epoch(patch.epoch, owned))
            .arg(encoding.revision)
            .arg(before.len())
            .arg(patch.ts);
        pipeline.add_command(check);
        pipeline.cmd("MULTI");
        let hash = pipeline.cmd("HSET").arg(&conn);
        hash.arg("state_rev").arg(encoding.revision + 1);
        hash.arg("last_seen_ms").arg(patch.ts);
        if !encoded.compressed.is_empty() {
            hash.arg("compressed").arg(encoded.compressed);
        } else if !encoding.compressed.is_empty() {
            pipeline.cmd("HDEL").arg(&conn).arg("compressed");
        }
        if before.len() == after.len() {
            let (start, end) = difference(before, after);
            pipeline
                .cmd("SETRANGE")
                .arg(&state)
                .arg(start)
                .arg(&after[start..end]);
        } else {
            pipeline.cmd("SET").arg(&state).arg(after);
        }
        pipeline.cmd("PEXPIRE").arg(&state).arg(lifetime.ttl_ms);
        pipeline.cmd("PEXPIRE").arg(&conn).arg(lifetime.ttl_ms);
        pipeline
            .cmd("ZADD")
            .arg(&room.last_seen)
            .arg(score)
            .arg(&*heartbeat.conn);
        pipeline
            .cmd("PUBLISH")
            .arg(&room.events)
            .arg(presence_event(
                Change::Update(next),
                &heartbeat.place,
                &heartbeat.conn,
                patch.ts,
                patch.epoch,
            ));
        pipeline.cmd("EXEC");
    }

    /// `answers`: those to WATCH, the script, MULTI, each queued command, and EXEC.
    fn read_transaction(
        &self,
        patch: &Patch<'_>,
        encoded: Encoded,
        mut answers: Vec<Value>,
    ) -> Outcome {
        let done = answers.pop().unwrap_or(Value::Nil).extract_error();
        let passed = match answers.get_mut(1).map(std::mem::take).map(read_check) {
            Some(Ok((passed, now))) => {
                self.clock.heard(now);
                if patch.ts > now {
                    self.clock.reset(now);
                }
                passed
            }
            _ => false,
        };
        match done {
            Ok(Value::Array(results)) if passed => {
                for result in results {
                    if let Err(error) = result.extract_error() {
                        return Outcome::Failed(errors::request(&error));
                    }
                }
                Outcome::Written(HeartbeatOutcome::Refreshed {
                    epoch: patch.epoch,
                    adopted: false,
                    released: false,
                    encoding: encoded.into_encoding(Some(patch.encoding.revision + 1)),
                })
            }
            Ok(Value::Nil) => Outcome::Refused,
            // EXEC ran although the script did not allow it. The server does not behave as it did
            // in the probe at connecting.
            Ok(_) => {
                self.give_up_transactions("a transaction was carried out unchecked");
                Outcome::Failed(
                    Error::internal("the state may have overwritten a newer one")
                        .with_unknown_outcome(),
                )
            }
            // The server is no longer the master. The heartbeat is sent again by script, to the new
            // master.
            Err(_) if answers.iter().any(errors::says_read_only) => Outcome::Refused,
            Err(error) => {
                // EXEC only reports that a command failed. The answer to that command has the
                // reason.
                let first = answers
                    .into_iter()
                    .find_map(|answer| answer.extract_error().err());
                let error = errors::request(&first.unwrap_or(error));
                if error.code == crate::model::error::Code::Permission {
                    self.give_up_transactions(&error.message);
                    return Outcome::Refused;
                }
                Outcome::Failed(error)
            }
        }
    }

    fn give_up_transactions(&self, why: &str) {
        self.transactions.store(false, Ordering::Relaxed);
        self.notifications.log(
            LogLevel::Warn,
            &format!("Patches of large states are written by scripts from here on, which is slower: {why}"),
        );
    }
}

fn read_check(answer: Value) -> Result<(bool, u64), redis::RedisError> {
    let mut reply = Reply::new(answer)?;
    let passed = reply.integer()? == scripts::patch_check::PASSED;
    Ok((passed, reply.integer()?.unsigned_abs()))
}

/// The range in which two texts of equal length differ, from the first differing byte to after the
/// last.
fn difference(before: &[u8], after: &[u8]) -> (usize, usize) {
    const BLOCK: usize = 64;
    let same_blocks = before
        .chunks(BLOCK)
        .zip(after.chunks(BLOCK))
        .take_while(|(a, b)| a == b)
        .count();
    let start = (same_blocks * BLOCK).min(after.len());
    let start = start
        + before[start..]
            .iter()
            .zip(&after[start..])
            .take_while(|(a, b)| a == b)
            .count();
    let same_blocks = before[start..]
        .rchunks(BLOCK)
        .zip(after[start..].rchunks(BLOCK))
        .take_while(|(a, b)| a == b)
        .count();
    let end = after.len() - (same_blocks * BLOCK).min(after.len() - start);
    let end = end
        - before[start..end]
            .iter()
            .rev()
            .zip(after[start..end].iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
    (start, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_difference_is_all_that_has_to_be_written(
            text in prop::collection::vec(0u8..3, 0..400),
            edits in prop::collection::vec((0usize..400, 0u8..3), 0..3),
        ) {
            let mut after = text.clone();
            for (at, byte) in edits {
                if let Some(there) = after.get_mut(at) {
                    *there = byte;
                }
            }
            let (start, end) = difference(&text, &after);
            let mut patched = text.clone();
            patched[start..end].copy_from_slice(&after[start..end]);
            prop_assert_eq!(&patched, &after);
            if start < end {
                prop_assert!(text[start] != after[start] && text[end - 1] != after[end - 1]);
            }
        }
    }
}
