//! Channel metadata: changes of one channel that come while a commit is on its way form the next
//! one (spec 7.8). Changes are applied in order of arrival to the record that this node remembers,
//! and written in one atomic step that first compares it with what is stored; if it is another one,
//! the changes are applied to that and tried again, so that none is lost and none runs twice.
//!
//! `group.rs`: the changes of one commit; `queues.rs`: what waits, by channel; `remembered.rs`: records
//! as this node last saw them. `docs/metadata.md` has the whole story.

mod group;
mod queues;
mod remembered;
#[cfg(test)]
pub(crate) mod tests;

use crate::{
    metrics::{Metrics, count},
    model::{
        error::{Code, Error, Result},
        limits::Limits,
        metadata::{Channel, change::Change, record::Stored},
    },
    offload::offload,
    store::metadata::{Commit, Committed, MetadataStore},
};
use group::Group;
use parking_lot::Mutex;
use queues::{Queues, Waiting};
use remembered::{Known, Remembered};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::oneshot};

/// How often changes are applied anew because others changed the record in between, at least. Each
/// time means that somebody else's change was written.
const LEAST_ROUNDS: u32 = 100;

/// Settings of the capability.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Most changes in one commit.
    pub most_in_group: usize,
    /// Most changes that wait, and most bytes of them.
    pub most_waiting: usize,
    pub most_waiting_bytes: usize,
    /// How deep values that others wrote may be nested.
    pub max_depth: usize,
    /// How long a change waits for its turn before it fails.
    pub patience: Duration,
}

impl From<&Limits> for Settings {
    fn from(limits: &Limits) -> Self {
        Settings {
            most_in_group: limits.max_batch_size,
            most_waiting: limits.max_queue,
            most_waiting_bytes: limits.max_metadata_record_bytes.saturating_mul(8),
            max_depth: limits.max_depth,
            patience: Duration::from_millis(limits.command_timeout_ms),
        }
    }
}

pub struct Metadata {
    store: Arc<dyn MetadataStore>,
    metrics: Arc<Metrics>,
    settings: Settings,
    /// Changes are taken in on whatever thread they come.
    runtime: Handle,
    queues: Mutex<Queues>,
    remembered: Mutex<Remembered>,
}

impl Metadata {
    /// Needs a tokio runtime around it.
    pub fn new(store: Arc<dyn MetadataStore>, metrics: Arc<Metrics>, settings: Settings) -> Self {
        Metadata {
            store,
            metrics,
            settings,
            runtime: Handle::current(),
            queues: Mutex::new(Queues::new(&settings)),
            remembered: Mutex::default(),
        }
    }

    /// The record as it is, as the JSON text of the response (spec 7.4).
    pub async fn get(&self, channel: &Channel) -> Result<String> {
        let (stored, now_ms) = self.store.read_metadata(channel).await?;
        let known = self.read(stored).await;
        let record = known.contents.as_ref();
        let record = record.map_err(|unreadable| unreadable.error(channel))?;
        let response = record.view().response(channel, now_ms, "");
        self.remembered.lock().learn(channel, known);
        Ok(response)
    }

    /// Takes a change in; changes are carried out in the order in which they are taken in. The future
    /// resolves to the JSON text of the response. The change is carried out whether or not anybody
    /// waits for it.
    pub fn change(
        self: &Arc<Self>,
        channel: Channel,
        change: Change,
    ) -> Result<impl Future<Output = Result<String>> + Send + use<>> {
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            change,
            since: Instant::now(),
            answer,
        };
        let is_first = self
            .queues
            .lock()
            .push(&channel, waiting)
            .inspect_err(|_| count(&self.metrics.counters.overloaded, 1))?;
        if is_first {
            // A task of its own: it serves those that come later too, whoever waits for them.
            self.runtime.spawn(self.clone().serve(channel));
        }
        Ok(async move {
            answered.await.unwrap_or_else(|_| {
                let error = Error::internal("Rollcall failed inside; please report this");
                Err(error.with_unknown_outcome())
            })
        })
    }

    pub fn waiting(&self) -> usize {
        self.queues.lock().len()
    }

    /// Serves a channel until nothing waits for it any more.
    async fn serve(self: Arc<Self>, channel: Channel) {
        let turn = Turn {
            metadata: &self,
            channel: &channel,
        };
        loop {
            let next = self.queues.lock().next(&channel);
            let Some(next) = next else {
                // The queue is gone: the next change begins a new one.
                std::mem::forget(turn);
                return;
            };
            for late in next.late {
                late.answer_with(Err(self.too_late()));
            }
            if !next.group.is_empty() {
                self.carry_out(&channel, Group::new(next.group)).await;
            }
        }
    }

    async fn carry_out(&self, channel: &Channel, mut group: Group) {
        let mut base = self.remembered.lock().take(channel).unwrap_or_default();
        let began = Instant::now();
        let mut rounds = 0;
        // When the record was seen to be this one, with the locks as they should be, if it was.
        let mut seen_at = None;
        loop {
            let left_over = group.apply(channel, &mut base.contents);
            if !left_over.is_empty() {
                self.queues.lock().put_back(channel, left_over);
            }
            if let Some(now_ms) = seen_at
                && group.write().is_none()
            {
                // Nothing is to be written: what was seen is the answer.
                self.remembered.lock().put(channel, base);
                return group.answer(channel, now_ms, "");
            }
            count(&self.metrics.counters.metadata_commits, 1);
            let commit = Commit {
                channel,
                base: &base.stored,
                locks: &group.locks(),
                write: group.write(),
            };
            match self.store.commit_metadata(commit).await {
                // What is stored now is anybody's guess, so nothing is remembered.
                Err(error) => return group.fail(&error),
                Ok(Committed::Done(time)) => {
                    let changes = group.changes();
                    count(&self.metrics.counters.metadata_changes, changes);
                    self.metrics.group_size.record_value(group.len() as u64);
                    if changes > 0 {
                        base.settle(&time.iso);
                    }
                    // Before the answers: who gets one may ask for the next change at once.
                    self.remembered.lock().put(channel, base);
                    return group.answer(channel, time.ms, &time.iso);
                }
                Ok(Committed::Locked(refused)) => {
                    group.refuse(&refused);
                    if group.is_empty() {
                        return;
                    }
                    seen_at = None;
                    base = self.read(base.stored).await;
                }
                Ok(Committed::Changed(stored, now_ms)) => {
                    count(&self.metrics.counters.metadata_retries, 1);
                    rounds += 1;
                    if rounds > LEAST_ROUNDS && began.elapsed() > self.settings.patience {
                        return group.fail(&contended(channel, rounds));
                    }
                    seen_at = Some(now_ms);
                    base = self.read(stored).await;
                }
            }
        }
    }

    async fn read(&self, stored: Stored) -> Known {
        let max_depth = self.settings.max_depth;
        offload(stored.items.len(), move || Known::read(stored, max_depth)).await
    }

    fn too_late(&self) -> Error {
        Error::new(
            Code::Unavailable,
            format!(
                "the change waited {} ms for those before it; Redis does not answer in time. \
                 Nothing was sent",
                self.settings.patience.as_millis()
            ),
        )
    }
}

/// Should a channel's task end otherwise than by running out of work (it panics, the runtime goes),
/// nobody would serve the channel again: what waits fails then.
struct Turn<'a> {
    metadata: &'a Metadata,
    channel: &'a Channel,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.metadata.queues.lock().abandon(self.channel);
    }
}

fn contended(channel: &Channel, rounds: u32) -> Error {
    Error::new(
        Code::Unavailable,
        format!(
            "the metadata of channel {} was changed by others {rounds} times while this change was \
             tried; nothing was written",
            channel.shown()
        ),
    )
}
