//! Readings of rooms that several callers share. When many connections join a room at once, as
//! after a deploy, each wants a snapshot of it.
//!
//! A reading must begin after the call that it answers, so that a caller sees its own join. So a
//! caller never takes part in a reading that has begun: it waits until that ends. The next reading
//! is for all that wait.
//!
//! Races: callers register before they wait for their turn. The caller that gets the turn and is
//! still registered leads: it takes all registrations, reads, and passes the pieces on. A caller
//! that is no longer registered has been served, or is served by what it has received. If the
//! leader is dropped, its callers notice that no more pieces come: those without a piece register
//! again, the others fail.

use crate::{
    model::{
        error::{Error, Result},
        presence::{Member, member_columns},
    },
    store::PresenceStore,
};
use foldhash::HashMap;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Approximate size of the text of a piece. JavaScript parses such a piece without a noticeable
/// pause.
const PIECE_BYTES: usize = 1024 * 1024;

/// Members of a room or connections of a user, as JavaScript gets them.
#[derive(Clone, Debug)]
pub struct MemberPiece {
    /// See [`member_columns`].
    pub columns: Arc<str>,
    /// Approximate memory of the members.
    pub bytes: usize,
}

/// Takes pieces. The future is pending as long as no further piece should follow.
pub type EachMemberPiece<'a> = &'a (dyn Fn(MemberPiece) -> BoxFuture<'static, ()> + Send + Sync);

/// Divides members into pieces that do not block JavaScript for long.
pub fn member_pieces(mut members: &[Member]) -> Vec<MemberPiece> {
    let mut pieces = Vec::new();
    while !members.is_empty() {
        let mut bytes = 0;
        let fits = |member: &&Member| {
            bytes += member.bytes();
            bytes <= PIECE_BYTES
        };
        let count = members.iter().take_while(fits).count().max(1);
        let (piece, rest) = members.split_at(count);
        members = rest;
        pieces.push(MemberPiece {
            columns: member_columns(piece).into(),
            bytes: piece.iter().map(Member::bytes).sum(),
        });
    }
    pieces
}

enum Part {
    Piece(MemberPiece),
    End(Result<()>),
}

/// A caller that waits for the next reading of a room.
struct Registration {
    number: u64,
    parts: UnboundedSender<Part>,
}

#[derive(Default)]
struct RoomReadings {
    registered: Mutex<Vec<Registration>>,
    /// Held by the leader while it reads.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct RoomEntry {
    uses: usize,
    readings: Arc<RoomReadings>,
}

/// The readings that are in progress or requested, by room.
#[derive(Default)]
pub struct Readings {
    rooms: Mutex<HashMap<Box<str>, RoomEntry>>,
    next: AtomicU64,
}

impl Readings {
    /// Reads a room. `each` gets all live connections that were in it when the call was made and
    /// stay in it. Returns the approximate memory that they take.
    pub async fn read(
        &self,
        store: &dyn PresenceStore,
        room: &str,
        each: EachMemberPiece<'_>,
    ) -> Result<usize> {
        let used = RoomUse::of(self, room);
        loop {
            let (number, mut parts) = self.register(&used.readings);
            // Only `recv` is cancelled by the turn, so a piece that was received is always passed
            // on.
            let first = tokio::select! {
                biased;
                part = parts.recv() => part,
                turn = used.readings.turn.lock() => match take_all(&used.readings, number) {
                    Some(others) => return lead(store, room, each, &others).await,
                    None => {
                        drop(turn);
                        parts.recv().await
                    }
                },
            };
            if let Some(result) = served(first, &mut parts, each).await {
                return result;
            }
        }
    }

    fn register(&self, readings: &RoomReadings) -> (u64, UnboundedReceiver<Part>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (parts, receiver) = mpsc::unbounded_channel();
        readings
            .registered
            .lock()
            .push(Registration { number, parts });
        (number, receiver)
    }
}

/// A caller's use of a room's entry. The entry is removed with its last use.
struct RoomUse<'a> {
    all: &'a Readings,
    room: &'a str,
    readings: Arc<RoomReadings>,
}

impl<'a> RoomUse<'a> {
    fn of(all: &'a Readings, room: &'a str) -> Self {
        let mut rooms = all.rooms.lock();
        let entry = rooms.entry(room.into()).or_default();
        entry.uses += 1;
        let readings = entry.readings.clone();
        RoomUse {
            all,
            room,
            readings,
        }
    }
}

impl Drop for RoomUse<'_> {
    fn drop(&mut self) {
        let mut rooms = self.all.rooms.lock();
        if let Some(entry) = rooms.get_mut(self.room) {
            entry.uses -= 1;
            if entry.uses == 0 {
                rooms.remove(self.room);
            }
        }
    }
}

/// Takes all registrations, if that of the caller is among them, and returns those of the others.
fn take_all(readings: &RoomReadings, number: u64) -> Option<Vec<Registration>> {
    let mut registered = readings.registered.lock();
    let own = registered.iter().position(|one| one.number == number)?;
    let mut all = std::mem::take(&mut *registered);
    all.swap_remove(own);
    Some(all)
}

/// Passes on the pieces that a leader sends. `None`: the leader was dropped before it sent any.
async fn served(
    first: Option<Part>,
    parts: &mut UnboundedReceiver<Part>,
    each: EachMemberPiece<'_>,
) -> Option<Result<usize>> {
    let mut bytes = 0;
    let mut part = first;
    loop {
        match part {
            Some(Part::Piece(piece)) => {
                bytes += piece.bytes;
                each(piece).await;
            }
            Some(Part::End(result)) => return Some(result.map(|()| bytes)),
            None if bytes == 0 => return None,
            None => {
                return Some(Err(Error::internal(
                    "the call that read the room for this one was dropped",
                )));
            }
        }
        part = parts.recv().await;
    }
}

/// Reads the room, for the caller and for others.
async fn lead(
    store: &dyn PresenceStore,
    room: &str,
    each: EachMemberPiece<'_>,
    others: &[Registration],
) -> Result<usize> {
    let bytes = AtomicUsize::new(0);
    let send = |part: &dyn Fn() -> Part| {
        for other in others {
            // This fails if the caller is gone.
            let _ = other.parts.send(part());
        }
    };
    let pass_on = |members: Vec<Member>| -> BoxFuture<'static, ()> {
        let pieces = member_pieces(&members);
        for piece in &pieces {
            bytes.fetch_add(piece.bytes, Ordering::Relaxed);
            send(&|| Part::Piece(piece.clone()));
        }
        let taken: Vec<_> = pieces.into_iter().map(each).collect();
        Box::pin(async {
            for one in taken {
                one.await;
            }
        })
    };
    let result = store.room_snapshot(room, &pass_on).await;
    send(&|| Part::End(result.clone()));
    result.map(|()| bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{presence::Place, state::State},
        store::{Join, Lifetime, memory::MemoryStore, noop_sink::NoopSink},
    };
    use std::future::pending;

    async fn room_of(count: usize) -> MemoryStore {
        let store = MemoryStore::open(None, Arc::new(NoopSink));
        for number in 0..count {
            let join = Join {
                conn: format!("c{number}").as_str().into(),
                place: Place::new("r", "u"),
                state: State::empty(),
                lifetime: Lifetime::of_heartbeats(600_000),
                floor: 0,
            };
            store.join(&join, None).await.unwrap();
        }
        store
    }

    /// A call that reads the room: its result, and the pieces that it got.
    struct Caller {
        pieces: Arc<Mutex<Vec<MemberPiece>>>,
        task: tokio::task::JoinHandle<Result<usize>>,
    }

    impl Caller {
        /// `stays`: it never asks for the piece after the first.
        fn start(readings: &Arc<Readings>, store: &Arc<MemoryStore>, stays: bool) -> Self {
            let pieces: Arc<Mutex<Vec<MemberPiece>>> = Arc::default();
            let (readings, store, taken) = (readings.clone(), store.clone(), pieces.clone());
            let task = tokio::spawn(async move {
                let each = move |piece| -> BoxFuture<'static, ()> {
                    taken.lock().push(piece);
                    match stays {
                        true => Box::pin(pending()),
                        false => Box::pin(std::future::ready(())),
                    }
                };
                readings.read(&*store, "r", &each).await
            });
            Caller { pieces, task }
        }

        async fn has_begun(&self) {
            while self.pieces.lock().is_empty() {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn registered(readings: &Readings, count: usize) {
        let waiting = || {
            let rooms = readings.rooms.lock();
            rooms
                .get("r")
                .map_or(0, |entry| entry.readings.registered.lock().len())
        };
        while waiting() < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn callers_that_wait_share_the_next_reading() {
        let (readings, store) = (Arc::<Readings>::default(), Arc::new(room_of(3).await));
        let first = Caller::start(&readings, &store, true);
        first.has_begun().await;
        let others = [(); 16].map(|()| Caller::start(&readings, &store, false));
        registered(&readings, others.len()).await;
        first.task.abort();
        let mut texts = Vec::new();
        for other in others {
            assert!(other.task.await.unwrap().unwrap() > 0);
            let pieces = other.pieces.lock();
            let [piece] = &pieces[..] else {
                panic!("{} pieces", pieces.len());
            };
            texts.push(piece.columns.clone());
        }
        assert!(texts.iter().all(|text| Arc::ptr_eq(text, &texts[0])));
        assert!(!Arc::ptr_eq(&texts[0], &first.pieces.lock()[0].columns));
        assert!(readings.rooms.lock().is_empty());
    }

    #[tokio::test]
    async fn a_caller_with_a_part_of_a_reading_that_was_dropped_fails() {
        let (readings, store) = (Arc::<Readings>::default(), Arc::new(room_of(3).await));
        let first = Caller::start(&readings, &store, true);
        first.has_begun().await;
        let leader = Caller::start(&readings, &store, true);
        registered(&readings, 1).await;
        let served = Caller::start(&readings, &store, false);
        registered(&readings, 2).await;
        first.task.abort();
        leader.has_begun().await;
        served.has_begun().await;
        leader.task.abort();
        let error = served.task.await.unwrap().unwrap_err();
        assert_eq!(error.code, crate::model::error::Code::Internal);
        assert!(readings.rooms.lock().is_empty());
    }

    #[tokio::test]
    async fn a_room_without_members_is_read_once() {
        let (readings, store) = (Arc::<Readings>::default(), Arc::new(room_of(0).await));
        let caller = Caller::start(&readings, &store, false);
        assert_eq!(caller.task.await.unwrap(), Ok(0));
        assert!(caller.pieces.lock().is_empty());
    }
}
