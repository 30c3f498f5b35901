//! Applies the outbox entries of a room: connection locations, the rooms of users, and the due
//! times of rooms. All steps can be repeated, by any node.
//!
//! A failure here does not change the caller's result. The step in the room has already decided it,
//! and the entry stays until the reaper has applied it.

use crate::{
    failpoints::{crash_point, failpoint},
    model::{
        error::{Code, Error, Result},
        presence::{Epoch, MAX_EPOCH, Place},
    },
    store::{
        Join, Leave, Located,
        redis::{
            expiry::integers,
            presence::{
                rooms::RoomLeft,
                slotted::{CLAIM_MS, Call, Entry, Slotted},
            },
            scripts::{self, Reply, location_confirm},
            transport::{errors, link::Repeat},
        },
    },
};
use redis::{Pipeline, Value};

/// Maximum number of entries that are read and applied at a time.
const NOTES_AT_A_TIME: usize = 256;
/// Maximum number of rounds of reading and applying entries. The next pass applies the rest.
const MAX_ROUNDS: usize = 64;

/// An outbox entry of a room.
pub(in crate::store::redis) struct OutboxEntry {
    field: String,
    value: String,
}

impl OutboxEntry {
    pub fn joined(conn: &str, epoch: Epoch, user: &str) -> OutboxEntry {
        OutboxEntry {
            field: format!("{epoch}:{conn}"),
            value: format!("+{user}"),
        }
    }

    pub fn left(conn: &str, epoch: Epoch, user: &str) -> OutboxEntry {
        OutboxEntry {
            field: format!("{epoch}:{conn}"),
            value: format!("-{user}"),
        }
    }

    /// Connection, epoch and user.
    fn parts(&self) -> Option<(&str, Epoch, &str)> {
        let (epoch, conn) = self.field.split_once(':')?;
        Some((conn, epoch.parse().ok()?, self.value.get(1..)?))
    }
}

/// The result of applying a room's outbox.
#[derive(Default)]
pub(in crate::store::redis) struct Settled {
    /// Whether the room is empty and has no outbox entries.
    pub empty: bool,
    /// Number of entries that were applied.
    pub entries: usize,
}

impl Slotted {
    /// Steps 4 and 5 of a join. `before`: the location entries that the claim has found.
    pub(in crate::store::redis) async fn settle_joined(
        &self,
        join: &Join,
        epoch: Epoch,
        was_empty: bool,
        left: bool,
        before: &[Entry],
    ) {
        let (conn, room, user) = (&*join.conn, &*join.place.room, &*join.place.user);
        let mut calls = vec![
            self.settle_at(conn, room, user, epoch, true),
            self.note_user(user, conn, epoch, room),
        ];
        if was_empty {
            calls.push((&scripts::slotted::DUE_RESCHEDULE, self.lower_due(join)));
        }
        crash_point!(JoinNoted, calls, self.send(calls));
        let mut answers = self.send(calls).await;
        if answers.iter().any(Result::is_err) {
            return;
        }
        let done = match read_settled(answers.swap_remove(0)) {
            // A newer join was confirmed in the meantime, so this one is over.
            Ok(None) => {
                let _ = self.replaced(conn, &join.place, epoch).await;
                return;
            }
            Ok(Some(gone)) => gone,
            Err(_) => return,
        };
        // A connection that had only claimed a room when this join left the other rooms may have
        // joined it since. If the script ran twice, the answer of the first run may be lost.
        // Therefore claims that existed before count too.
        let is_late = |entry: &Entry| {
            !before
                .iter()
                .any(|seen| seen.settled && seen.room == entry.room && seen.epoch == entry.epoch)
        };
        let claims = before.iter().filter(|entry| !entry.settled);
        let mut late: Vec<Place> = Vec::new();
        for entry in done.iter().filter(|entry| is_late(entry)).chain(claims) {
            if entry.room != room && late.iter().all(|place| *place.room != entry.room) {
                late.push(entry.place());
            }
        }
        for place in late {
            if self.replace(join, place, epoch).await.is_err() {
                return;
            }
        }
        if left {
            // There are outbox entries besides that of this join.
            let _ = self.settle_and_drop(room).await;
            return;
        }
        let entry = OutboxEntry::joined(conn, epoch, user);
        let _ = self.entries_applied(room, &[entry]).await;
    }

    /// Steps 2 to 4 of a leave.
    pub(in crate::store::redis) async fn settle_left(
        &self,
        conn: &str,
        place: &Place,
        epoch: Epoch,
    ) {
        let (room, user) = (&*place.room, &*place.user);
        let calls = vec![
            self.forget_at(conn, room, epoch),
            self.note_user(user, conn, epoch, ""),
        ];
        crash_point!(LeaveNoted, calls, self.send(calls));
        let mut answers = self.send(calls).await;
        if answers.iter().any(Result::is_err) {
            return;
        }
        if !matches!(read_forgotten(answers.swap_remove(0)), Ok(false))
            && self.end_older(conn, room, epoch).await.is_err()
        {
            return;
        }
        let entry = OutboxEntry::left(conn, epoch, user);
        let _ = self.entries_applied(room, &[entry]).await;
    }

    /// Removes a connection from a room that it joined with an epoch lower than `epoch`, if it did
    /// so after a join with `epoch` had come and gone there. No location entry points to such a
    /// connection.
    async fn end_older(&self, conn: &str, room: &str, epoch: Epoch) -> Result<()> {
        if epoch >= MAX_EPOCH {
            // The epoch is corrupt and joins ignore it, so the connection in the room is newer.
            return Ok(());
        }
        let found = self.rooms.read_located(&[(room, conn)]).await.pop();
        let Some(older) = found.transpose()?.flatten() else {
            return Ok(());
        };
        if older.epoch < epoch {
            let leave = Leave::replaced(conn, &older.place, None);
            let left = self.rooms.leave_room(&leave, Some(epoch)).await?;
            if let RoomLeft::Left { epoch } = left {
                // Each level of this recursion has a lower epoch. There are as many levels as joins
                // that raced with each other.
                let settled = self.settle_left(conn, &older.place, epoch);
                Box::pin(settled).await;
            }
        }
        Ok(())
    }

    /// Removes a connection from a room that it joined after a newer join was confirmed.
    async fn replaced(&self, conn: &str, place: &Place, epoch: Epoch) -> Result<()> {
        let leave = Leave::replaced(conn, place, None);
        self.rooms.leave_room(&leave, Some(epoch + 1)).await?;
        // Whichever node removed the connection, the entries that this join wrote in other slots
        // must be removed.
        self.settle_left(conn, place, epoch).await;
        Ok(())
    }

    /// Removes applied entries from a room's outbox. If they have changed in the meantime, applies
    /// those that are there now. Removes an empty room from the due index.
    async fn entries_applied(&self, room: &str, entries: &[OutboxEntry]) -> Result<()> {
        let (changed, empty) = self.room_settled(room, entries).await?;
        crash_point!(Settled);
        if changed {
            self.take_back(room, entries).await?;
            return self.settle_and_drop(room).await;
        }
        if empty {
            self.drop_due(&[room]).await?;
        }
        Ok(())
    }

    /// Applies a room's outbox entries. Removes an empty room from the due index.
    pub(in crate::store::redis) async fn settle_and_drop(&self, room: &str) -> Result<()> {
        if self.apply_outbox(room).await?.empty {
            self.drop_due(&[room]).await?;
        }
        Ok(())
    }

    /// Removes empty rooms from the due index. A join may have filled a room in the meantime, and
    /// may have added its entry before this removes it. Therefore the rooms are checked again, and
    /// those that exist get an entry.
    pub(in crate::store::redis) async fn drop_due(&self, rooms: &[&str]) -> Result<()> {
        if rooms.is_empty() {
            return Ok(());
        }
        let gone: Vec<(&str, i64)> = rooms.iter().map(|room| (*room, -1)).collect();
        // If one shard cannot be written, the rooms of the others are still checked.
        let dropped = self.move_due(&gone, false).await.map(drop);
        let mut look = Pipeline::with_capacity(rooms.len());
        for room in rooms {
            look.cmd("EXISTS").arg(self.rooms.keys.room_conns(room));
        }
        let mut filled = Vec::new();
        let looks = self
            .rooms
            .scripts
            .commands
            .pipeline_each(&look, Repeat::Harmless)
            .await;
        for (room, there) in rooms.iter().zip(looks) {
            // If a room cannot be checked, it may exist. A superfluous entry does no harm.
            if !matches!(there, Ok(Value::Int(0))) {
                filled.push((*room, 0));
            }
        }
        let filled = self.move_due(&filled, true).await.map(drop);
        dropped.and(filled)
    }

    /// Applies all entries of a room's outbox.
    pub(in crate::store::redis) async fn apply_outbox(&self, room: &str) -> Result<Settled> {
        let mut done = Settled::default();
        if failpoint!(Settling) {
            return Ok(done);
        }
        for _ in 0..MAX_ROUNDS {
            let entries = self.entries(room).await?;
            done.entries += entries.len();
            let more = self.carry_out(room, &entries).await?;
            let (changed, empty) = self.room_settled(room, &entries).await?;
            crash_point!(RoomSettled);
            done.empty = empty;
            if changed {
                self.take_back(room, &entries).await?;
            }
            if !more && !changed && entries.len() < NOTES_AT_A_TIME {
                break;
            }
        }
        Ok(done)
    }

    async fn entries(&self, room: &str) -> Result<Vec<OutboxEntry>> {
        let some = redis::cmd("HRANDFIELD")
            .arg(self.rooms.keys.outbox(room))
            .arg(NOTES_AT_A_TIME)
            .arg("WITHVALUES")
            .to_owned();
        let answer = self
            .rooms
            .scripts
            .commands
            .command(&some, Repeat::Harmless)
            .await?;
        let read = || {
            let mut reply = Reply::flat(answer)?;
            let mut entries = Vec::with_capacity(reply.left() / 2);
            while reply.left() > 1 {
                entries.push(OutboxEntry {
                    field: reply.text()?,
                    value: reply.text()?,
                });
            }
            Ok(entries)
        };
        read().map_err(|error: redis::RedisError| errors::request(&error))
    }

    /// Updates the indices from the current hashes. If the join of an entry is still in the room,
    /// the indices are set. If it is over, its index entries are removed, which is final. A newer
    /// join of the same connection has its own outbox entry. Returns whether there are new outbox
    /// entries.
    ///
    /// The caller must then check whether the outbox entries are unchanged. If not, it must call
    /// [`Slotted::take_back`].
    async fn carry_out(&self, room: &str, entries: &[OutboxEntry]) -> Result<bool> {
        let parts: Vec<_> = entries.iter().filter_map(OutboxEntry::parts).collect();
        let hashes = self.joins_of(room, &parts).await?;
        let mut calls = Vec::with_capacity(3 * parts.len());
        let mut settling = Vec::new();
        for ((conn, epoch, user), hash) in parts.iter().zip(&hashes) {
            match hash {
                Some(hash) => {
                    settling.push((calls.len(), *conn, hash));
                    calls.push(self.settle_at(conn, room, &hash.place.user, hash.epoch, false));
                    calls.push(self.note_user(&hash.place.user, conn, hash.epoch, room));
                    if *user != &*hash.place.user && !user.is_empty() {
                        calls.push(self.note_user(user, conn, *epoch, ""));
                    }
                }
                None => self.add_over(&mut calls, room, conn, *epoch, user),
            }
        }
        let mut answers = Vec::with_capacity(calls.len());
        crash_point!(CarriedOut, calls, self.send(calls));
        for answer in self.send(calls).await {
            answers.push(match answer {
                // A key of another type only affects its own index. A thorough check writes the
                // outbox entry again.
                Err(error) if errors::is_of_one_key(&error) => None,
                answer => Some(answer?),
            });
        }
        let mut more = false;
        for (index, conn, hash) in settling {
            let Some(answer) = answers[index].take() else {
                continue;
            };
            let Some(gone) = read_settled(Ok(answer))? else {
                // A newer join was confirmed in another room.
                more = true;
                let leave = Leave::replaced(conn, &hash.place, None);
                self.rooms.leave_room(&leave, Some(hash.epoch + 1)).await?;
                continue;
            };
            // A failover can bring a connection back to a room that it had left. The room writes an
            // outbox entry when the connection is removed. The room's due entry is added before, so
            // that a pass will inspect the room and apply its outbox.
            for older in gone.iter().filter(|entry| entry.room != room) {
                self.move_due(&[(&older.room, 0)], true).await?;
                self.evict(conn, older.place(), hash.epoch, None).await?;
            }
        }
        Ok(more)
    }

    /// Removes index entries that were written from outbox entries which turned out to have
    /// changed. The connections may have left before the indices were written, and no other node
    /// knows of these writes.
    async fn take_back(&self, room: &str, entries: &[OutboxEntry]) -> Result<()> {
        let parts: Vec<_> = entries.iter().filter_map(OutboxEntry::parts).collect();
        let mut calls = Vec::new();
        for ((conn, epoch, user), hash) in parts.iter().zip(self.joins_of(room, &parts).await?) {
            if hash.is_none() {
                self.add_over(&mut calls, room, conn, *epoch, user);
            }
        }
        crash_point!(CarriedOut, calls, self.send(calls));
        for answer in self.send(calls).await {
            answer?;
        }
        Ok(())
    }

    /// Adds the calls that remove the index entries of a join that is over.
    fn add_over(&self, calls: &mut Vec<Call>, room: &str, conn: &str, epoch: Epoch, user: &str) {
        calls.push(self.forget_at(conn, room, epoch));
        if !user.is_empty() {
            calls.push(self.note_user(user, conn, epoch, ""));
        }
    }

    /// The connections of outbox entries, as the hashes in the room describe them; `None` if the
    /// join of the entry is over.
    async fn joins_of(
        &self,
        room: &str,
        parts: &[(&str, Epoch, &str)],
    ) -> Result<Vec<Option<Located>>> {
        let pairs: Vec<(&str, &str)> = parts.iter().map(|(conn, ..)| (room, *conn)).collect();
        let mut hashes = Vec::with_capacity(pairs.len());
        for (hash, (conn, epoch, _)) in self.rooms.read_located(&pairs).await.into_iter().zip(parts)
        {
            let hash = match hash {
                // The key does not hold a connection.
                Err(error) if error.code == Code::CorruptData => None,
                hash => hash?,
            };
            if hash.as_ref().is_some_and(|hash| hash.epoch < *epoch) {
                self.end_older(conn, room, *epoch).await?;
            }
            hashes.push(hash.filter(|hash| hash.epoch == *epoch));
        }
        Ok(hashes)
    }

    async fn room_settled(&self, room: &str, entries: &[OutboxEntry]) -> Result<(bool, bool)> {
        let mut call = scripts::slotted::ROOM_SETTLED.call(2);
        call.arg(self.rooms.keys.outbox(room))
            .arg(self.rooms.keys.room_conns(room));
        for entry in entries {
            call.arg(&entry.field).arg(&entry.value);
        }
        let value = self
            .rooms
            .scripts
            .call(&scripts::slotted::ROOM_SETTLED, &call, Repeat::Harmless)
            .await?;
        match integers(value)?[..] {
            [changed, empty] => Ok((changed > 0, empty == 1)),
            _ => Err(Error::internal("room_settled returned an unexpected reply")),
        }
    }

    /// Sets the due times of rooms, in ms from now; -1 removes a room from the due index. Returns
    /// how many entries were added.
    pub(in crate::store::redis) async fn move_due(
        &self,
        rooms: &[(&str, i64)],
        lower: bool,
    ) -> Result<u64> {
        let mut sorted: Vec<(String, &str, i64)> = rooms
            .iter()
            .map(|(room, wait)| (self.rooms.keys.due_of(room), *room, *wait))
            .collect();
        sorted.sort_unstable();
        let mut calls = Vec::new();
        for shard in sorted.chunk_by(|a, b| a.0 == b.0) {
            let mut call = scripts::slotted::DUE_RESCHEDULE.call(1);
            call.arg(&shard[0].0).arg(i32::from(lower));
            for (_, room, wait) in shard {
                call.arg(*room).arg(*wait);
            }
            calls.push(call);
        }
        let mut added = 0;
        for answer in self
            .rooms
            .scripts
            .call_all(&scripts::slotted::DUE_RESCHEDULE, calls, Repeat::Harmless)
            .await
        {
            if let Value::Int(n) = answer? {
                added += n.unsigned_abs();
            }
        }
        Ok(added)
    }

    /// `own`: called by the join itself.
    fn settle_at(&self, conn: &str, room: &str, user: &str, epoch: Epoch, own: bool) -> Call {
        let mut call = scripts::slotted::LOCATION_CONFIRM.call(1);
        call.arg(self.rooms.keys.at(conn))
            .arg(room)
            .arg(user)
            .arg(epoch)
            .arg(CLAIM_MS)
            .arg(i32::from(own));
        (&scripts::slotted::LOCATION_CONFIRM, call)
    }

    pub(in crate::store::redis) fn forget_at(&self, conn: &str, room: &str, epoch: Epoch) -> Call {
        let mut call = scripts::slotted::LOCATION_REMOVE.call(1);
        call.arg(self.rooms.keys.at(conn))
            .arg(room)
            .arg(epoch)
            .arg(CLAIM_MS);
        (&scripts::slotted::LOCATION_REMOVE, call)
    }

    /// `room`: the room of the connection; empty if the connection is no longer there.
    pub(in crate::store::redis) fn note_user(
        &self,
        user: &str,
        conn: &str,
        epoch: Epoch,
        room: &str,
    ) -> Call {
        let mut call = scripts::slotted::USER_INDEX_SET.call(1);
        call.arg(self.rooms.keys.user_at(user))
            .arg(conn)
            .arg(epoch)
            .arg(room);
        (&scripts::slotted::USER_INDEX_SET, call)
    }
}

/// The older entries that were removed; `None` if a newer join was confirmed in another room.
fn read_settled(answer: Result<Value>) -> Result<Option<Vec<Entry>>> {
    let value = answer?;
    scripts::read(value, |reply| {
        Ok(match reply.integer()? {
            location_confirm::SUPERSEDED => None,
            _ => Some(Entry::read_all(reply)?),
        })
    })
}

/// Whether an entry was removed that an older join had confirmed in the room.
fn read_forgotten(answer: Result<Value>) -> Result<bool> {
    scripts::read(answer?, |reply| {
        reply.integer()?;
        Ok(reply.integer()? == 1)
    })
}
