//! Rooms that this node attends: it looks at them itself, with the heartbeats that it sends there in any
//! case, so that the due index need not say when. What of that is in Redis, the scripts say
//! (`sweep_rooms.lua` claims a room and gives it back, `sweep_due.lua` renews the node's word and gives
//! rooms away whose node has not); here is what the node itself remembers.
//!
//! Races, and what settles each:
//! - A claim whose answer is lost: the room is noted down before the claim is sent, and stays so unless
//!   the answer says otherwise. The node may know of rooms that it does not attend (then it looks in vain,
//!   and is told so), never the reverse.
//! - Two looks at one room that overtake each other: there is one at a time (`looking`).
//! - The node was stopped, or Redis away, for longer than its word was good: it takes another id and forgets
//!   its rooms; they are due under the old one, whatever the server knows of them.
//! - A connection that broke may lead to another server, which has not seen the last writes; a clock of the
//!   server that jumped ahead makes everything due: the same.

use crate::{
    model::{error::Result, ids},
    store::Attending,
};
use foldhash::HashMap;
use parking_lot::Mutex;
use std::{
    collections::hash_map::Entry,
    sync::Arc,
    time::{Duration, Instant},
};

/// A room whose heartbeats come too slowly is not attended again for so many times the silence that is
/// conspicuous: with them, attending costs more than it saves.
const SPURNED_FOR: u64 = 10;

/// Rooms that a batch of heartbeats is to look at: their places in it.
pub(in crate::store::redis) struct Looks {
    pub places: Vec<usize>,
    rooms: Vec<usize>,
    pub silence_ms: u64,
    at: Instant,
}

#[derive(Default)]
pub(in crate::store::redis) struct Attendance {
    inner: Mutex<Inner>,
    pub looking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Inner {
    node: Option<Node>,
    /// By the address of the name, of which the node has one copy for each room.
    rooms: HashMap<usize, Attended>,
}

struct Node {
    id: u64,
    attending: Attending,
    /// When it last said that it is there.
    renewed: Instant,
    /// The server's clock at that time, in ms.
    server_ms: Option<u64>,
    /// How many connections had been made by then.
    connections: u64,
}

struct Attended {
    room: Arc<str>,
    /// When it was last found that nobody in it had been silent for long.
    looked: Instant,
    /// When a heartbeat is to look at it next.
    next: Instant,
    since: Since,
}

/// What has come to a room since somebody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Nothing,
    /// Heartbeats: it was too soon to look, or nobody has answered.
    Beaten,
    /// A look: somebody is silent.
    Silent,
    /// It was given back, and is not to be attended.
    Spurned,
}

impl Node {
    /// Half the time until a room has to be looked at again: then heartbeats begin to.
    fn half(&self) -> Duration {
        Duration::from_millis(self.attending.within_ms / 2)
    }
}

impl Attended {
    /// A look that was sent at that time has found nobody silent.
    fn has_looked(&mut self, sent: Instant, node: &Node) {
        self.looked = self.looked.max(sent);
        self.next = self.looked + node.half();
        self.since = Since::Nothing;
    }

    fn is_spurned(&self) -> bool {
        self.since == Since::Spurned
    }
}

fn address(room: &Arc<str>) -> usize {
    room.as_ptr().addr()
}

impl Attendance {
    /// The node's id for the pass that begins; another one than before, if what the one before said can no
    /// longer be relied on. `connections`: how many have been made to the server.
    pub fn begin(&self, attending: &Attending, connections: u64) -> Result<u64> {
        let mut inner = self.inner.lock();
        if let Some(node) = &inner.node
            && node.connections == connections
            && node.renewed.elapsed() < Duration::from_millis(node.attending.lease_ms)
        {
            return Ok(node.id);
        }
        let id = ids::random_number()?;
        inner.rooms = HashMap::default();
        inner.node = Some(Node {
            id,
            attending: *attending,
            renewed: Instant::now(),
            server_ms: None,
            connections,
        });
        Ok(id)
    }

    /// The server has heard that the node is there. `sent`: when that was said; `server_ms`: when it was
    /// heard.
    pub fn renewed(&self, id: u64, sent: Instant, server_ms: u64) {
        let mut inner = self.inner.lock();
        let Some(node) = inner.node.as_mut().filter(|node| node.id == id) else {
            return;
        };
        let passed = sent.duration_since(node.renewed).as_millis() as u64;
        let jumped = node
            .server_ms
            .is_some_and(|before| server_ms > before + passed + node.attending.lease_ms);
        if jumped {
            inner.node = None;
            inner.rooms = HashMap::default();
        } else {
            node.renewed = sent;
            node.server_ms = Some(server_ms);
        }
    }

    /// Rooms that no heartbeat has looked at in time, or in which somebody is silent: they are to be given
    /// back.
    pub fn due(&self) -> Vec<Arc<str>> {
        let mut inner = self.inner.lock();
        let Inner { node, rooms } = &mut *inner;
        let Some(node) = node else {
            return Vec::new();
        };
        let now = Instant::now();
        let within = Duration::from_millis(node.attending.within_ms);
        let spurned = Duration::from_millis(SPURNED_FOR * node.attending.silence_ms);
        rooms.retain(|_, room| !room.is_spurned() || now.duration_since(room.looked) < spurned);
        rooms
            .values()
            .filter(|room| !room.is_spurned() && now.duration_since(room.looked) >= within)
            .map(|room| room.room.clone())
            .collect()
    }

    /// Whether a room that has come due is one to be attended.
    pub fn wants(&self, room: &Arc<str>) -> bool {
        let inner = self.inner.lock();
        let known = inner.rooms.get(&address(room));
        known.is_none_or(|known| !known.is_spurned())
    }

    /// Notes rooms down that are about to be claimed.
    pub fn claims<'a>(&self, rooms: impl Iterator<Item = &'a Arc<str>>) {
        let now = Instant::now();
        let mut inner = self.inner.lock();
        for room in rooms {
            inner
                .rooms
                .entry(address(room))
                .or_insert_with(|| Attended {
                    room: room.clone(),
                    looked: now,
                    next: now,
                    since: Since::Nothing,
                });
        }
    }

    /// What has come of looks that were sent at that time: whether each room is attended.
    pub fn settled<'a>(&self, sent: Instant, rooms: impl Iterator<Item = (&'a Arc<str>, bool)>) {
        let mut inner = self.inner.lock();
        for (room, is_attended) in rooms {
            let Entry::Occupied(mut entry) = inner.rooms.entry(address(room)) else {
                continue;
            };
            match entry.get().since {
                // The next heartbeat looks: from then on, looks and heartbeats go together.
                _ if is_attended => entry.get_mut().looked = sent,
                Since::Beaten => entry.get_mut().since = Since::Spurned,
                Since::Spurned => {}
                Since::Nothing | Since::Silent => {
                    entry.remove();
                }
            }
        }
    }

    /// Which of the rooms that heartbeats are about to be sent to are to be looked at with them: those of
    /// which half the time to the next look is over. So a room whose heartbeats come less than that time
    /// apart never comes due.
    pub fn looks<'a>(&self, rooms: impl Iterator<Item = &'a Arc<str>>) -> Option<Looks> {
        let mut inner = self.inner.lock();
        let Inner { node, rooms: known } = &mut *inner;
        let node = node.as_ref().filter(|_| !known.is_empty())?;
        let mut looks = Looks {
            places: Vec::new(),
            rooms: Vec::new(),
            silence_ms: node.attending.silence_ms,
            at: Instant::now(),
        };
        for (place, room) in rooms.enumerate() {
            let Some(attended) = known.get_mut(&address(room)) else {
                continue;
            };
            if attended.since == Since::Nothing {
                attended.since = Since::Beaten;
            }
            if attended.next <= looks.at && !attended.is_spurned() {
                // If there is no answer, soon another one.
                attended.next = looks.at + node.half() / 4;
                looks.places.push(place);
                looks.rooms.push(address(room));
            }
        }
        (!looks.places.is_empty()).then_some(looks)
    }

    /// A batch was there. `silent`: places of rooms in which somebody has been silent for long: they come
    /// due.
    pub fn looked(&self, looks: &Looks, silent: &[usize]) {
        let mut inner = self.inner.lock();
        let Inner { node, rooms: known } = &mut *inner;
        let Some(node) = node else { return };
        for (place, room) in looks.places.iter().zip(&looks.rooms) {
            let attended = known.get_mut(room).filter(|room| !room.is_spurned());
            match attended {
                Some(attended) if silent.contains(place) => attended.since = Since::Silent,
                Some(attended) => attended.has_looked(looks.at, node),
                None => {}
            }
        }
    }

    /// How many rooms the node attends.
    pub fn count(&self) -> usize {
        let inner = self.inner.lock();
        inner
            .rooms
            .values()
            .filter(|room| !room.is_spurned())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rooms come due at once, and never by themselves.
    const HASTY: Attending = Attending {
        silence_ms: 600_000,
        within_ms: 0,
        lease_ms: 300_000,
    };
    const PATIENT: Attending = Attending {
        within_ms: 300_000,
        ..HASTY
    };

    fn names<const N: usize>(names: [&str; N]) -> [Arc<str>; N] {
        names.map(Into::into)
    }

    fn since(attendance: &Attendance, room: &Arc<str>) -> Option<Since> {
        let inner = attendance.inner.lock();
        inner.rooms.get(&address(room)).map(|room| room.since)
    }

    #[test]
    fn a_claim_is_remembered_unless_the_answer_says_otherwise() {
        let attendance = Attendance::default();
        let [lost, granted, refused] = names(["lost", "granted", "refused"]);
        attendance.begin(&HASTY, 1).unwrap();
        attendance.claims([&lost, &granted, &refused].into_iter());
        let answers = [(&granted, true), (&refused, false)];
        attendance.settled(Instant::now(), answers.into_iter());
        let mut due = attendance.due();
        due.sort();
        assert_eq!(due, [granted, lost]);
    }

    #[test]
    fn another_connection_a_lapse_or_a_jump_of_the_clock_is_another_node() {
        let attendance = Attendance::default();
        let [room] = names(["r"]);
        let claim = |attending: &Attending, connections| {
            let id = attendance.begin(attending, connections).unwrap();
            attendance.claims([&room].into_iter());
            assert_eq!(attendance.count(), 1);
            id
        };
        let first = claim(&HASTY, 1);
        assert_eq!(attendance.begin(&HASTY, 1).unwrap(), first);
        assert_ne!(attendance.begin(&HASTY, 2).unwrap(), first);
        assert_eq!(attendance.count(), 0, "another connection");

        let id = claim(&HASTY, 2);
        attendance.renewed(id, Instant::now(), 1_000_000);
        attendance.renewed(id, Instant::now(), 1_000_000 + HASTY.lease_ms / 2);
        attendance.renewed(id, Instant::now(), 900_000);
        assert_eq!(attendance.count(), 1, "back is no harm");
        assert_eq!(attendance.begin(&HASTY, 2).unwrap(), id);
        attendance.renewed(id, Instant::now(), 1_100_000 + HASTY.lease_ms);
        assert_eq!(attendance.count(), 0, "ahead");

        let lapses = Attending {
            lease_ms: 0,
            ..HASTY
        };
        let id = claim(&lapses, 2);
        assert_ne!(attendance.begin(&lapses, 2).unwrap(), id);
        assert_eq!(attendance.count(), 0, "lapsed");
    }

    #[test]
    fn heartbeats_look_when_half_the_time_is_over_and_once() {
        let attendance = Attendance::default();
        let [room, other] = names(["a", "b"]);
        assert!(attendance.looks([&room].into_iter()).is_none());
        attendance.begin(&PATIENT, 1).unwrap();
        attendance.claims([&room].into_iter());
        let looks = attendance.looks([&other, &room].into_iter()).unwrap();
        assert_eq!(looks.places, [1]);
        assert!(
            attendance.looks([&room].into_iter()).is_none(),
            "on its way"
        );
        attendance.looked(&looks, &[]);
        assert_eq!(since(&attendance, &room), Some(Since::Nothing));
        let inner = attendance.inner.lock();
        let attended = &inner.rooms[&address(&room)];
        assert_eq!(attended.looked, looks.at);
        assert_eq!((attended.next - looks.at).as_millis(), 150_000);
    }

    #[test]
    fn a_room_is_not_attended_again_if_its_heartbeats_are_slow() {
        let attendance = Attendance::default();
        let [slow, silent, left] = names(["slow", "silent", "left"]);
        attendance.begin(&HASTY, 1).unwrap();
        attendance.claims([&slow, &silent, &left].into_iter());
        let looks = attendance.looks([&silent].into_iter()).unwrap();
        attendance.looked(&looks, &[0]);
        let _never_answered = attendance.looks([&slow].into_iter());
        assert_eq!(attendance.due().len(), 3);
        let given_back = [&slow, &silent, &left].map(|room| (room, false));
        attendance.settled(Instant::now(), given_back.into_iter());
        assert!(attendance.due().is_empty());
        assert_eq!(attendance.count(), 0);
        assert_eq!(
            [&slow, &silent, &left].map(|room| attendance.wants(room)),
            [false, true, true]
        );
        assert!(attendance.looks([&slow].into_iter()).is_none());
    }
}
