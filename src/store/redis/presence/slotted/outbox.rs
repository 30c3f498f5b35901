//! Carrying out what a step in a room has noted in its `outbox`: where a connection is, in which
//! rooms a user is, when a room is due. All of it can be done twice, and by anybody.
//!
//! A failure here changes nothing for the caller: the room has decided, and the note stays until the
//! reaper has carried it out.

use crate::{
    failpoints::{crash_point, failpoint},
    model::{
        error::{Code, Error, Result},
        presence::{Epoch, MAX_EPOCH, Place},
    },
    store::{
        Join, Located,
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

/// Notes that are read and carried out at a time.
const NOTES_AT_A_TIME: usize = 256;
/// Rounds in which notes are read and carried out before the rest is left to the next pass.
const MAX_ROUNDS: usize = 64;

/// What a room's step has noted.
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

/// What settling a room has found.
#[derive(Default)]
pub(in crate::store::redis) struct Settled {
    /// Nothing is left of the room.
    pub empty: bool,
    /// How many notes were carried out.
    pub entries: usize,
}

impl Slotted {
    /// Steps 4 and 5 of a join. `before`: what the claim has found.
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
            // A newer join has come between: this one is over.
            Ok(None) => {
                let _ = self.replaced(conn, &join.place, epoch).await;
                return;
            }
            Ok(Some(gone)) => gone,
            Err(_) => return,
        };
        // Who had only claimed when this join left the other rooms may have joined since. The answer of the
        // first of two runs may be lost: so claims that were there before count, too.
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
            if self.replace(conn, place, epoch).await.is_err() {
                return;
            }
        }
        if left {
            // Notes of others than this join.
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

    /// Takes a connection out of a room that it has joined with a lower epoch than `epoch`, after a join
    /// with that one had come and gone there: nobody would find it.
    async fn end_older(&self, conn: &str, room: &str, epoch: Epoch) -> Result<()> {
        if epoch >= MAX_EPOCH {
            // It is corrupt, and joins ignore it: whoever is there is newer.
            return Ok(());
        }
        let found = self.rooms.read_located(&[(room, conn)]).await.pop();
        let Some(older) = found.transpose()?.flatten() else {
            return Ok(());
        };
        if older.epoch < epoch {
            let left = self
                .rooms
                .leave_room(conn, &older.place, "replaced", Some(epoch));
            if let RoomLeft::Left { epoch } = left.await? {
                // Epochs fall with each level of this, and there are as many as joins ran into each other.
                let settled = self.settle_left(conn, &older.place, epoch);
                Box::pin(settled).await;
            }
        }
        Ok(())
    }

    /// Takes a connection out of a room that it has joined although a newer join was settled.
    async fn replaced(&self, conn: &str, place: &Place, epoch: Epoch) -> Result<()> {
        self.rooms
            .leave_room(conn, place, "replaced", Some(epoch + 1))
            .await?;
        // Whoever has taken it out: what this join has written elsewhere is to go.
        self.settle_left(conn, place, epoch).await;
        Ok(())
    }

    /// Takes notes out of a room's `outbox`; when they have changed in the meantime, looks at what is
    /// there now. A room that is empty then goes from the due index.
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

    /// Carries out a room's notes. A room that is empty then goes from the due index.
    pub(in crate::store::redis) async fn settle_and_drop(&self, room: &str) -> Result<()> {
        if self.apply_outbox(room).await?.empty {
            self.drop_due(&[room]).await?;
        }
        Ok(())
    }

    /// Takes empty rooms out of the due index. A join may have filled one in the meantime, and have made
    /// its entry before this took it out: so the rooms are looked at again, and what is there gets an
    /// entry.
    pub(in crate::store::redis) async fn drop_due(&self, rooms: &[&str]) -> Result<()> {
        if rooms.is_empty() {
            return Ok(());
        }
        let gone: Vec<(&str, i64)> = rooms.iter().map(|room| (*room, -1)).collect();
        // Where one shard cannot be written, the others are looked at all the same.
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
            // What cannot be looked at may be there: an entry too many does no harm.
            if !matches!(there, Ok(Value::Int(0))) {
                filled.push((*room, 0));
            }
        }
        let filled = self.move_due(&filled, true).await.map(drop);
        dropped.and(filled)
    }

    /// Carries out all that a room's `outbox` says.
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

    /// Makes the indices agree with what the hashes say now: a note whose join is still in the room is
    /// written into them; one whose join is over is taken out, which is final. A newer join of the same
    /// connection has a note of its own. Says whether there are new notes.
    ///
    /// The caller then looks whether the notes are still the same; if not, [`Slotted::take_back`].
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
                // A key of another type costs its own index only. A thorough check notes it again.
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
                // A newer join was settled elsewhere.
                more = true;
                self.rooms
                    .leave_room(conn, &hash.place, "replaced", Some(hash.epoch + 1))
                    .await?;
                continue;
            };
            // A failover can bring a connection back to a room that it had left. That room notes that it is
            // taken out, and has an entry before, by which somebody looks at it and settles it.
            for older in gone.iter().filter(|entry| entry.room != room) {
                self.move_due(&[(&older.room, 0)], true).await?;
                self.evict(conn, older.place(), hash.epoch).await?;
            }
        }
        Ok(more)
    }

    /// After notes were written into the indices and then turned out to have changed: the connections may
    /// have left in between, and nobody else knows of what was written after that. It is taken out again.
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

    /// The calls that take a join that is over out of the indices.
    fn add_over(&self, calls: &mut Vec<Call>, room: &str, conn: &str, epoch: Epoch, user: &str) {
        calls.push(self.forget_at(conn, room, epoch));
        if !user.is_empty() {
            calls.push(self.note_user(user, conn, epoch, ""));
        }
    }

    /// The connections of notes, as their room has them; `None` where the join of the note is over.
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
                // What is there is no connection.
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
            _ => Err(Error::internal("room_settled answered otherwise")),
        }
    }

    /// Moves the entries of rooms in the due index; -1: they go.
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

    /// `own`: by the join itself.
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

    /// `room`: where the connection is; empty if it is there no more.
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

/// The older entries that are gone; `None` if a newer join was settled elsewhere.
fn read_settled(answer: Result<Value>) -> Result<Option<Vec<Entry>>> {
    let value = answer?;
    scripts::read(value, |reply| {
        Ok(match reply.integer()? {
            location_confirm::SUPERSEDED => None,
            _ => Some(Entry::read_all(reply)?),
        })
    })
}

/// Whether an entry went that an older join had settled in the room.
fn read_forgotten(answer: Result<Value>) -> Result<bool> {
    scripts::read(answer?, |reply| {
        reply.integer()?;
        Ok(reply.integer()? == 1)
    })
}
