//! Patches of states that are stored as their text in the connection's hash, many in one call of
//! `patch_batch.lua`. `heartbeat.lua` processes the rest: states of another form, unknown epochs
//! and places, and patches that the script did not write.

use crate::{
    model::{error::Result, event, presence::Epoch, state::State},
    store::{
        HeartbeatOutcome, HeartbeatUpdate, Lifetime,
        redis::{
            presence::{
                batch::{Batch, Item},
                heartbeat::digits,
                rooms::Rooms,
            },
            scripts,
            transport::link::Repeat,
        },
    },
};
use redis::{Cmd, Value};
use std::sync::Arc;

/// Maximum number of connections in one call: the server runs nothing else during the call.
const MAX_ITEMS: usize = 256;
/// Maximum size of the states in one call, in bytes, unless a single patch is larger.
const MAX_BYTES: usize = 256 * 1024;

/// A patch that a batch can take.
struct Patch<'a> {
    /// Its index among the heartbeats.
    index: usize,
    heartbeat: &'a HeartbeatUpdate,
    epoch: Epoch,
    base: &'a State,
    next: Option<&'a State>,
}

impl Patch<'_> {
    fn room(&self) -> &Arc<str> {
        &self.heartbeat.place.room
    }

    fn bytes(&self) -> usize {
        self.base.as_str().len() + self.next.map_or(0, |next| next.as_str().len())
    }
}

impl Rooms {
    /// Sends the heartbeats without a result that a batch can take, and fills in the results of
    /// those that were written.
    pub(super) async fn patch_batches(
        &self,
        heartbeats: &[HeartbeatUpdate],
        results: &mut [Option<Result<HeartbeatOutcome>>],
        lifetime: &Lifetime,
    ) {
        let mut patches: Vec<Patch> = Vec::with_capacity(heartbeats.len());
        for (index, heartbeat) in heartbeats.iter().enumerate() {
            if results[index].is_none() {
                patches.extend(self.as_batched(index, heartbeat));
            }
        }
        // The script takes epochs of one length. Epochs of another length are not from the clock,
        // and rare.
        let width = patches.first().map_or(0, |patch| digits(patch.epoch));
        patches.retain(|patch| digits(patch.epoch) == width);
        patches.sort_by(|a, b| a.room().cmp(b.room()));
        // A repeated write would find its own result as the stored state, and would not write it.
        let (writes, checks): (Vec<Patch>, Vec<Patch>) =
            patches.into_iter().partition(|patch| patch.next.is_some());
        let (written, checked) = tokio::join!(
            self.send_patches(&writes, width, lifetime, Repeat::Never),
            self.send_patches(&checks, width, lifetime, Repeat::Harmless),
        );
        for (index, result) in written.into_iter().chain(checked) {
            results[index] = Some(result);
        }
    }

    /// Returns the heartbeat as a patch, if a batch can take it.
    fn as_batched<'a>(&self, index: usize, heartbeat: &'a HeartbeatUpdate) -> Option<Patch<'a>> {
        let write = heartbeat.write.as_ref()?;
        let next = write.next.as_ref();
        let plain = write.base.encoding.is_none()
            && next.is_none_or(|next| !self.states.compresses(next.as_str().len()));
        Some(Patch {
            index,
            heartbeat,
            epoch: write.expected_epoch.filter(|_| plain)?,
            base: &write.base.state,
            next,
        })
    }

    /// Returns the results of those that were written or failed, with their indices.
    async fn send_patches(
        &self,
        patches: &[Patch<'_>],
        width: usize,
        lifetime: &Lifetime,
        repeat: Repeat,
    ) -> Vec<(usize, Result<HeartbeatOutcome>)> {
        let calls = self.split_patches(patches);
        let commands = calls
            .iter()
            .map(|patches| self.patch_call(patches, width, lifetime))
            .collect();
        let answers = self
            .scripts
            .call_all(self.room_scripts.patch_batch, commands, repeat)
            .await;
        let mut results = Vec::with_capacity(patches.len());
        for (patches, answer) in calls.into_iter().zip(answers) {
            match answer.and_then(read_missed) {
                Err(error) => {
                    results.extend(
                        patches
                            .iter()
                            .map(|patch| (patch.index, Err(error.clone()))),
                    );
                }
                Ok(missed) => {
                    for (place, patch) in patches.iter().enumerate() {
                        if !missed.contains(&place) {
                            let refreshed = HeartbeatOutcome::Refreshed {
                                epoch: patch.epoch,
                                adopted: false,
                                released: false,
                                encoding: None,
                            };
                            results.push((patch.index, Ok(refreshed)));
                        }
                    }
                }
            }
        }
        results
    }

    /// Splits patches, which are sorted by room, into the patches of single calls. On a cluster,
    /// each call is for one room.
    fn split_patches<'a, 'b>(&self, patches: &'a [Patch<'b>]) -> Vec<&'a [Patch<'b>]> {
        let by_room = self.scripts.commands.is_cluster();
        let (mut count, mut bytes) = (0, 0);
        patches
            .chunk_by(|before, next| {
                count += 1;
                bytes += before.bytes();
                let fits = count < MAX_ITEMS && bytes + next.bytes() <= MAX_BYTES;
                let together = fits && (!by_room || before.room() == next.room());
                if !together {
                    (count, bytes) = (0, 0);
                }
                together
            })
            .collect()
    }

    fn patch_call(&self, patches: &[Patch<'_>], width: usize, lifetime: &Lifetime) -> Cmd {
        let batch = Batch::new(patches.iter().map(|patch| Item {
            room: patch.room(),
            conn: &patch.heartbeat.conn,
            epoch: patch.epoch,
        }));
        let mut keys: Vec<String> = Vec::with_capacity(3 * batch.rooms.len());
        let rooms = || batch.rooms.iter().map(|(room, _)| room);
        keys.extend(rooms().map(|room| self.keys.room_last_seen(room)));
        keys.extend(rooms().map(|room| self.keys.room_events(room)));
        for room in rooms() {
            self.layout.add_event_channels(&mut keys, room);
        }
        let mut call = self
            .room_scripts
            .patch_batch
            .call(keys.len() + batch.items.len());
        call.arg(&keys);
        batch.add_conn_keys(&mut call, &self.keys);
        batch.add_arguments(&mut call, &self.keys, width, lifetime);
        let mut head = String::new();
        for patch in patches {
            call.arg(patch.base.as_str());
            match patch.next {
                None => call.arg("").arg(""),
                Some(next) => {
                    let HeartbeatUpdate { place, conn, .. } = patch.heartbeat;
                    event::update_head(&mut head, place, conn);
                    call.arg(next.as_str()).arg(head.as_str())
                }
            };
        }
        self.layout.add_last_argument(&mut call);
        call
    }
}

/// The indices of those that were not written.
fn read_missed(value: Value) -> Result<Vec<usize>> {
    scripts::read(value, |reply| {
        let places = reply.integers()?;
        Ok(places
            .into_iter()
            .map(|at| at.unsigned_abs() as usize)
            .collect())
    })
}
