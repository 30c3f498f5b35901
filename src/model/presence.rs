//! Arguments and results of presence calls: places, members, and the results of heartbeats and
//! sweeps.

use crate::model::{error::Error, json, state::State};
use std::{fmt::Write as _, sync::Arc};

/// Fences connections. It grows with every join of a connection id. It starts with the milliseconds
/// since 1970 at the first join, so it stays well below 2^53.
pub type Epoch = u64;

/// The largest epoch. Beyond it, JavaScript and Lua cannot represent all integers.
pub const MAX_EPOCH: Epoch = (1 << 53) - 1;

/// How far the epoch of a heartbeat may be ahead of the store's clock (spec 3.3), in ms.
pub const MAX_EPOCH_AHEAD_MS: u64 = 24 * 60 * 60 * 1_000;

/// The lowest epoch of a join after this epoch, as `usable_epoch` in the scripts. An epoch without
/// a successor is corrupt, and joins ignore it.
pub fn epoch_after(epoch: Epoch) -> Epoch {
    if epoch < MAX_EPOCH { epoch + 1 } else { 0 }
}

/// The room and the user of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub room: Arc<str>,
    pub user: Arc<str>,
}

impl Place {
    pub fn new(room: &str, user: &str) -> Self {
        Place {
            room: room.into(),
            user: user.into(),
        }
    }
}

/// One live connection in a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub conn: String,
    pub user: String,
    pub room: String,
    /// `None` if the stored state cannot be read.
    pub state: Option<State>,
    pub last_seen_ms: u64,
    pub epoch: Epoch,
}

impl Member {
    /// Approximate length of its text for JavaScript, and of its memory.
    pub fn bytes(&self) -> usize {
        let state = self.state.as_ref().map_or(4, |state| state.as_str().len());
        self.conn.len() + self.user.len() + self.room.len() + state + 32
    }
}

/// Members as JSON for JavaScript, with one column for each field. Columns are parsed faster than
/// objects that repeat the names, and their text is half as long. The format is `[connIds, userIds,
/// roomIds, states, base, lastSeen, epochs]`. Users or rooms are a single text if all members have
/// the same. Times and epochs are differences to `base`.
pub fn member_columns(members: &[Member]) -> String {
    let mut out = String::with_capacity(32 + members.len() * 160);
    out.push('[');
    column(&mut out, members, |out, member| {
        json::quote_into(out, &member.conn)
    });
    out.push(',');
    shared_column(&mut out, members, |member| &member.user);
    out.push(',');
    shared_column(&mut out, members, |member| &member.room);
    out.push(',');
    column(&mut out, members, |out, member| {
        out.push_str(member.state.as_ref().map_or("null", State::as_str));
    });
    let base = base(members);
    write!(out, ",{base},").expect("a String takes any text");
    column(&mut out, members, |out, member| {
        more_than(out, base, member.last_seen_ms)
    });
    out.push(',');
    column(&mut out, members, |out, member| {
        more_than(out, base, member.epoch)
    });
    out.push(']');
    out
}

fn column(out: &mut String, members: &[Member], mut value: impl FnMut(&mut String, &Member)) {
    out.push('[');
    for (i, member) in members.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        value(out, member);
    }
    out.push(']');
}

fn shared_column(out: &mut String, members: &[Member], id: impl Fn(&Member) -> &str) {
    match members {
        [first, rest @ ..] if rest.iter().all(|member| id(member) == id(first)) => {
            json::quote_into(out, id(first));
        }
        _ => column(out, members, |out, member| {
            json::quote_into(out, id(member))
        }),
    }
}

/// A value close to all times and epochs. 0 if one of them is so large that the sum would not be
/// exact in JavaScript.
fn base(members: &[Member]) -> u64 {
    const MAX_EXACT: u64 = 1 << 53;
    let exact = |member: &Member| member.last_seen_ms <= MAX_EXACT && member.epoch <= MAX_EXACT;
    match members {
        [first, ..] if members.iter().all(exact) => first.last_seen_ms,
        _ => 0,
    }
}

fn more_than(out: &mut String, base: u64, value: u64) {
    if value < base {
        out.push('-');
    }
    let mut text = itoa::Buffer::new();
    out.push_str(text.format(value.abs_diff(base)));
}

/// The result of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatResult {
    /// Whether the patch changed the state and an `update` was published.
    pub changed: bool,
    /// The stored epoch after the heartbeat.
    pub epoch: Epoch,
}

/// The result of one pass of the reaper (spec 6.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Number of rooms inspected.
    pub rooms: u64,
    /// Number of connections removed, each with its `leave`.
    pub expired: u64,
    /// Number of index entries that did not match the connections and were corrected.
    pub repairs: u64,
    /// The longest time from the end of a removed connection's TTL to its removal, in ms.
    pub lag_ms: u64,
    /// Number of rooms that could not be inspected because other software has written to their
    /// keys.
    pub corrupt: u64,
    /// Whether there may be rooms that only legacy nodes wrote and that no sweep would inspect.
    pub unindexed: bool,
    /// Why a part could not be processed, such as an unreachable master of a cluster. The other
    /// parts were processed.
    pub failure: Option<Error>,
    /// Not 0: another node has just swept, and this one has done nothing. Remaining time in ms that
    /// the other sweep covers.
    pub served_ms: u64,
}

impl Sweep {
    /// Records that a part could not be processed.
    pub fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// Whether parts failed and nothing was done.
    pub fn is_in_vain(&self) -> bool {
        self.failure.is_some() && self.rooms == 0 && self.expired == 0 && self.repairs == 0
    }
}

impl std::ops::AddAssign for Sweep {
    fn add_assign(&mut self, other: Self) {
        self.rooms += other.rooms;
        self.expired += other.expired;
        self.repairs += other.repairs;
        self.lag_ms = self.lag_ms.max(other.lag_ms);
        self.corrupt += other.corrupt;
        self.unindexed |= other.unindexed;
        self.served_ms = self.served_ms.max(other.served_ms);
        self.failure = self.failure.take().or(other.failure);
    }
}
