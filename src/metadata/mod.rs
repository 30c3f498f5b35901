//! Channel metadata. Changes of one channel that arrive while a commit is in flight form the next
//! commit (spec 7.8). Changes are applied in order of arrival to the record that this node
//! remembers. One atomic step compares that record with the stored one and writes the result. If
//! the stored record differs, the changes are applied to it and the commit is tried again. No
//! change is lost, and none is applied twice.
//!
//! `group.rs`: the changes of one commit. `queues.rs`: waiting changes, by channel. `reads.rs`:
//! waiting reads. `cache.rs`: records as this node last saw them. `docs/internals/metadata.md`
//! describes the design.

mod cache;
mod group;
mod queues;
mod reads;
mod settings;
#[cfg(test)]
pub(crate) mod tests;

pub use settings::Settings;

use crate::{
    in_flight::{InFlight, Room},
    metrics::{Metrics, count},
    model::{
        error::{Code, Error, Result},
        metadata::{Channel, change::Change, record::Stored, response::Response},
    },
    offload::offload,
    store::metadata::{Commit, Committed, MetadataStore},
};
use cache::{Known, RecordCache};
use group::Group;
use parking_lot::Mutex;
use queues::Queues;
use reads::Reads;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{runtime::Handle, sync::oneshot};

/// Minimum number of times that changes are applied again because the record changed in between.
/// Each means that another client's change was written.
const MIN_ROUNDS: u32 = 100;
/// Number of copies of a record's text that are in memory while it is read or changed.
const COPIES: usize = 3;

pub struct Metadata {
    store: Arc<dyn MetadataStore>,
    metrics: Arc<Metrics>,
    in_flight: Arc<InFlight>,
    settings: Settings,
    /// Runs the channels' tasks. Changes arrive on any thread.
    runtime: Handle,
    queues: Mutex<Queues>,
    reads: Mutex<Reads>,
    cache: Mutex<RecordCache>,
}

impl Metadata {
    /// Must be called inside a Tokio runtime.
    pub fn new(
        store: Arc<dyn MetadataStore>,
        metrics: Arc<Metrics>,
        in_flight: Arc<InFlight>,
        settings: Settings,
    ) -> Self {
        Metadata {
            store,
            metrics,
            in_flight,
            settings,
            runtime: Handle::current(),
            queues: Mutex::new(Queues::new(&settings)),
            reads: Mutex::default(),
            cache: Mutex::default(),
        }
    }

    /// The current record (spec 7.4). The read begins after this call, and is shared with other
    /// calls.
    pub fn get(
        self: &Arc<Self>,
        channel: &Channel,
    ) -> impl Future<Output = Result<Response>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        if self.reads.lock().push(channel, answer) {
            self.runtime
                .spawn(self.clone().serve_readers(channel.clone()));
        }
        async move { answered.await.unwrap_or_else(|_| Err(failed_inside())) }
    }

    /// Reads a channel until no reader is waiting.
    async fn serve_readers(self: Arc<Self>, channel: Channel) {
        let turn = ReadersTurn {
            metadata: &self,
            channel: &channel,
        };
        loop {
            if self.reads.lock().end_if_empty(&channel) {
                std::mem::forget(turn);
                return;
            }
            let room = self.room(&channel).await;
            // Taken only now, so that readers that arrived while this waited for room share the
            // read.
            let readers = self.reads.lock().take(&channel);
            let response = match room {
                Ok(room) => self.read_for(&channel, room).await,
                Err(error) => Err(error),
            };
            for reader in readers {
                // A reader that has gone away needs no answer.
                let _ = reader.send(response.clone());
            }
        }
    }

    async fn read_for(&self, channel: &Channel, mut room: Room) -> Result<Response> {
        let (stored, now_ms) = self.store.read_metadata(channel).await?;
        let known = self.read(stored).await;
        let record = known.contents.as_ref();
        let record = record.map_err(|unreadable| unreadable.error(channel))?;
        let view = record.view();
        room.resize(view.bytes());
        self.in_flight.learn(channel, COPIES * view.bytes());
        self.cache.lock().learn(channel, known);
        Ok(Response {
            view,
            channel: channel.clone(),
            now_ms,
            updated: "".into(),
            room: Some(Arc::new(room)),
        })
    }

    /// Reserves memory for reading or changing a channel's record.
    async fn room(&self, channel: &Channel) -> Result<Room> {
        self.in_flight
            .reading(self.in_flight.expected(channel))
            .await
    }

    /// Queues a change. Changes are carried out in the order in which they are queued. The future
    /// resolves to the record after the change. The change is carried out even if the future is
    /// dropped.
    pub fn change(
        self: &Arc<Self>,
        channel: Channel,
        change: Change,
    ) -> Result<impl Future<Output = Result<Response>> + Send + use<>> {
        let (answer, answered) = oneshot::channel();
        let is_first = self
            .queues
            .lock()
            .push(&channel, change, answer)
            .inspect_err(|_| count(&self.metrics.counters.overloaded, 1))?;
        if is_first {
            // A separate task, because it also serves changes that are queued later by other
            // callers.
            self.runtime.spawn(self.clone().serve(channel));
        }
        Ok(async move {
            answered
                .await
                .unwrap_or_else(|_| Err(failed_inside().with_unknown_outcome()))
        })
    }

    /// The number of changes that are not answered.
    pub fn waiting(&self) -> usize {
        self.queues.lock().len()
    }

    /// Serves a channel until no change is waiting.
    async fn serve(self: Arc<Self>, channel: Channel) {
        let turn = QueueGuard {
            metadata: &self,
            channel: &channel,
        };
        // How long the changes waited for JavaScript to take answers, which does not count as
        // waiting for the store.
        let mut waited = Duration::ZERO;
        loop {
            if self.queues.lock().end_if_empty(&channel) {
                // The queue is removed, so the next change starts a new task.
                std::mem::forget(turn);
                return;
            }
            let began = Instant::now();
            let room = self.room(&channel).await;
            waited += began.elapsed();
            let queue_timeout = self.settings.queue_timeout + waited;
            match room {
                Ok(room) => {
                    let next = self.queues.lock().next(&channel, queue_timeout);
                    for late in next.late {
                        late.answer_with(Err(self.too_late()));
                    }
                    if !next.group.is_empty() {
                        self.carry_out(&channel, Group::new(next.group), room).await;
                    }
                }
                Err(overloaded) => {
                    let late = self
                        .queues
                        .lock()
                        .late(&channel, self.settings.queue_timeout);
                    for late in late {
                        late.answer_with(Err(overloaded.clone()));
                    }
                }
            }
        }
    }

    async fn carry_out(&self, channel: &Channel, mut group: Group, mut room: Room) {
        let mut base = self.cache.lock().take(channel).unwrap_or_default();
        let began = Instant::now();
        let mut rounds = 0;
        // When the stored record was found to equal `base`, with the locks as required; `None` if
        // that is unknown.
        let mut seen_at = None;
        loop {
            let left_over = group.apply(channel, &mut base.contents);
            if !left_over.is_empty() {
                self.queues.lock().put_back(channel, left_over);
            }
            let bytes = base.contents.as_ref().map_or(0, |record| record.bytes());
            room.resize(group.bytes() + bytes);
            self.in_flight.learn(channel, COPIES * bytes);
            if let Some(now_ms) = seen_at
                && group.write().is_none()
            {
                // Nothing is to be written, so the record that was read is the answer.
                self.cache.lock().put(channel, base);
                return group.answer(channel, now_ms, "", room);
            }
            count(&self.metrics.counters.metadata_commits, 1);
            let commit = Commit {
                channel,
                base: &base.stored,
                locks: &group.locks(),
                write: group.write(),
            };
            match self.store.commit_metadata(commit).await {
                // The outcome and thus the stored record are unknown, so nothing is cached.
                Err(error) => return group.fail(&error),
                Ok(Committed::Done(time)) => {
                    let changes = group.changes();
                    count(&self.metrics.counters.metadata_changes, changes);
                    self.metrics.group_size.record_value(group.len() as u64);
                    if changes > 0 {
                        base.settle(&time);
                    }
                    // Cached before the answers: a caller that gets one may make the next change at
                    // once.
                    self.cache.lock().put(channel, base);
                    return group.answer(channel, time.ms, &time.iso, room);
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
                    if rounds > MIN_ROUNDS && began.elapsed() > self.settings.queue_timeout {
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
                self.settings.queue_timeout.as_millis()
            ),
        )
    }
}

/// If a channel's task ends for another reason than an empty queue (a panic, or the end of the
/// runtime), no task would serve the channel again. This guard then fails the waiting changes.
struct QueueGuard<'a> {
    metadata: &'a Metadata,
    channel: &'a Channel,
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.metadata.queues.lock().abandon(self.channel);
    }
}

/// The same for the readers of a channel.
struct ReadersTurn<'a> {
    metadata: &'a Metadata,
    channel: &'a Channel,
}

impl Drop for ReadersTurn<'_> {
    fn drop(&mut self) {
        self.metadata.reads.lock().abandon(self.channel);
    }
}

fn failed_inside() -> Error {
    Error::internal("Rollcall failed inside; please report this")
}

fn contended(channel: &Channel, rounds: u32) -> Error {
    Error::new(
        Code::Unavailable,
        format!(
            "the metadata of channel {} was changed by others {rounds} times while this change was \
             tried; nothing was written",
            channel.display()
        ),
    )
}
