//! What presence calls take and give: places, members, the results of joins, heartbeats, leaves
//! and sweeps.

use crate::model::{error::Error, json, state::State};
use std::{fmt::Write as _, sync::Arc};

/// Fences connections: grows with every join of a connection id. Milliseconds since 1970 at the
/// first join, so well below 2^53.
pub type Epoch = u64;

/// The largest epoch: beyond it, JavaScript and Lua cannot tell one from the next.
pub const MAX_EPOCH: Epoch = (1 << 53) - 1;

/// How far ahead of the store's clock an epoch may be that a heartbeat brings (spec 3.3), in ms.
pub const MAX_EPOCH_AHEAD_MS: u64 = 24 * 60 * 60 * 1_000;

/// The least epoch of a join after one with this epoch; as `usable_epoch` in the scripts. An epoch that
/// has no next one is corrupt, and joins ignore it.
pub fn epoch_after(epoch: Epoch) -> Epoch {
    if epoch < MAX_EPOCH { epoch + 1 } else { 0 }
}

/// Where a connection is and under whom.
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

/// One live connection as a snapshot shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub conn: String,
    pub user: String,
    pub room: String,
    /// `None` when what is stored is no JSON object.
    pub state: Option<State>,
    pub last_seen_ms: u64,
    pub epoch: Epoch,
}

impl Member {
    /// About how much text it is for JavaScript, and how much memory it takes.
    pub fn bytes(&self) -> usize {
        let state = self.state.as_ref().map_or(4, |state| state.as_str().len());
        self.conn.len() + self.user.len() + self.room.len() + state + 32
    }
}

/// Members as JavaScript takes them, a column for each field: its parser is quicker with columns than with
/// objects that repeat the names, and their text is half as long. `[connIds, userIds, roomIds, states,
/// base, lastSeen, epochs]`; users and rooms are one text if all have the same, times and epochs are what
/// they are more than `base`.
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

/// Near to all times and epochs. 0 if one of them is so large that a sum would not be exact in JavaScript.
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

/// What a heartbeat came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatResult {
    /// The patch changed the state (and an `update` was published).
    pub changed: bool,
    /// The stored epoch after the heartbeat.
    pub epoch: Epoch,
}

/// What one pass of the reaper did (spec 6.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Rooms looked at.
    pub rooms: u64,
    /// Connections removed, each with its `leave`.
    pub expired: u64,
    /// Entries of indices that did not agree with the connections and were put right.
    pub repairs: u64,
    /// By how much the removal that was latest came after the connection's TTL, in ms.
    pub lag_ms: u64,
    /// Rooms that could not be looked at: something else has written under their names.
    pub corrupt: u64,
    /// There may be rooms that only other nodes wrote and that no sweep would look at.
    pub unindexed: bool,
    /// Why a part could not be processed: a master of a cluster that is away. The other parts were.
    pub failure: Option<Error>,
    /// Not 0: another node has just swept, and this one has done nothing; it may for so many ms more.
    pub served_ms: u64,
}

impl Sweep {
    /// Remembers that a part could not be processed.
    pub fn fail(&mut self, error: Error) {
        self.failure.get_or_insert(error);
    }

    /// Whether parts failed and nothing at all was done.
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
