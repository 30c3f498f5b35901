//! Heartbeats of connections in many slots, and of connections that moved to another room.

use crate::{
    model::error::{Code, Result},
    store::{
        BatchMiss, HeartbeatOutcome, HeartbeatRefresh, HeartbeatUpdate, Lifetime,
        heartbeat::HeartbeatStore,
        redis::{
            presence::{
                heartbeat::{digits, read_misses},
                slotted::Slotted,
            },
            scripts,
            transport::{errors, link::Repeat},
        },
    },
};

/// Maximum number of heartbeats of one room in one script call.
const ONE_CALL: usize = 256;

impl Slotted {
    pub(super) async fn do_refresh_heartbeats(
        &self,
        heartbeats: &[HeartbeatRefresh],
        lifetime: &Lifetime,
    ) -> Result<Vec<BatchMiss>> {
        let mut misses = if self.refreshes_by_room() {
            self.refresh_rooms(heartbeats, lifetime).await
        } else {
            self.rooms.refresh_isolated(heartbeats, lifetime).await?
        };
        self.find_unknown(heartbeats, &mut misses).await;
        Ok(misses)
    }

    /// On a cluster: calls the script once for each room. The calls go to all masters at once.
    pub(in crate::store::redis) async fn refresh_rooms(
        &self,
        heartbeats: &[HeartbeatRefresh],
        lifetime: &Lifetime,
    ) -> Vec<BatchMiss> {
        let mut calls = Vec::new();
        let mut indices: Vec<Vec<usize>> = Vec::new();
        let mut first = 0;
        for room in heartbeats.chunk_by(|a, b| a.room == b.room) {
            for of_width in by_width(room).iter().flat_map(|all| all.chunks(ONE_CALL)) {
                let of = of_width.iter().map(|&i| &room[i]);
                let width = digits(room[of_width[0]].epoch);
                calls.push(self.rooms.refresh_call(of, width, lifetime));
                indices.push(of_width.iter().map(|i| first + i).collect());
            }
            first += room.len();
        }
        let answers = self
            .rooms
            .scripts
            .call_all(&scripts::HEARTBEAT_BATCH, calls, Repeat::Harmless)
            .await;
        let mut misses = Vec::new();
        for (indices, answer) in indices.iter().zip(answers) {
            let found = match answer.and_then(read_misses) {
                Err(error) if errors::is_of_one_key(&error) => {
                    let room: Vec<HeartbeatRefresh> =
                        indices.iter().map(|&i| heartbeats[i].clone()).collect();
                    self.rooms.refresh_isolated(&room, lifetime).await
                }
                found => found,
            };
            // The error of one master does not affect the others.
            let found = found.unwrap_or_else(|error| {
                let failed = |index| BatchMiss {
                    index,
                    stored: Err(error.clone()),
                };
                (0..indices.len()).map(failed).collect()
            });
            for miss in found {
                misses.push(BatchMiss {
                    index: indices[miss.index],
                    ..miss
                });
            }
        }
        misses.sort_unstable_by_key(|miss| miss.index);
        misses
    }

    /// Looks for connections that are not where this node remembers them. They may be in another
    /// room.
    pub(in crate::store::redis) async fn find_unknown(
        &self,
        heartbeats: &[HeartbeatRefresh],
        misses: &mut [BatchMiss],
    ) {
        let unknown: Vec<&mut BatchMiss> = misses
            .iter_mut()
            .filter(|miss| miss.stored == Ok(None))
            .collect();
        if unknown.is_empty() {
            return;
        }
        let conns: Vec<&str> = unknown
            .iter()
            .map(|one| &*heartbeats[one.index].conn)
            .collect();
        let found = self.find(&conns).await;
        for (miss, found) in unknown.into_iter().zip(found) {
            miss.stored = match found {
                Ok(found) => Ok(found.map(|located| located.epoch)),
                // The heartbeat is sent again as an update, which fails with the right error.
                Err(error) if error.code == Code::CorruptData => Ok(Some(0)),
                Err(error) => Err(error),
            };
        }
    }

    /// The same for updates. An update with an epoch that its room does not have may be for a newer
    /// join, in another room.
    pub(in crate::store::redis) async fn find_unknown_full(
        &self,
        heartbeats: &[HeartbeatUpdate],
        outcomes: &mut [Result<HeartbeatOutcome>],
    ) {
        let unknown: Vec<usize> = (0..outcomes.len())
            .filter(|&i| {
                matches!(
                    outcomes[i],
                    Ok(HeartbeatOutcome::Unknown | HeartbeatOutcome::Unissued { .. })
                )
            })
            .collect();
        if unknown.is_empty() {
            return;
        }
        let conns: Vec<&str> = unknown.iter().map(|&i| &*heartbeats[i].conn).collect();
        for (i, found) in unknown.into_iter().zip(self.find(&conns).await) {
            match found {
                Ok(Some(found)) if found.place.room != heartbeats[i].place.room => {
                    outcomes[i] = Ok(HeartbeatOutcome::Elsewhere(found.place));
                }
                Ok(_) => {}
                Err(error) => outcomes[i] = Err(error),
            }
        }
    }
}

/// Indices of heartbeats, grouped by the length of their epochs.
fn by_width(heartbeats: &[HeartbeatRefresh]) -> Vec<Vec<usize>> {
    let mut indices: Vec<usize> = (0..heartbeats.len()).collect();
    indices.sort_by_key(|&i| digits(heartbeats[i].epoch));
    indices
        .chunk_by(|&a, &b| digits(heartbeats[a].epoch) == digits(heartbeats[b].epoch))
        .map(<[usize]>::to_vec)
        .collect()
}
