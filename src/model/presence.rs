//! What presence calls take and give: places, members, the results of joins, heartbeats, leaves
//! and sweeps.

use crate::model::{json, state::State};
use std::{fmt::Write as _, sync::Arc};

/// Fences connections: grows with every join of a connection id. Milliseconds since 1970 at the
/// first join, so well below 2^53.
pub type Epoch = u64;

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
    /// Appends the member as JSON. The state goes in as the text that was stored.
    pub fn write_json(&self, out: &mut String) {
        for (name, id) in [
            ("{\"connId\":", &self.conn),
            (",\"userId\":", &self.user),
            (",\"roomId\":", &self.room),
        ] {
            out.push_str(name);
            json::quote_into(out, id);
        }
        out.push_str(",\"state\":");
        out.push_str(self.state.as_ref().map_or("null", State::as_str));
        write!(
            out,
            ",\"lastSeenMs\":{},\"epoch\":{}}}",
            self.last_seen_ms, self.epoch
        )
        .expect("a String takes any text");
    }
}

/// The members as one JSON array.
pub fn members_json(members: &[Member]) -> String {
    let mut out = String::with_capacity(2 + members.len() * 128);
    out.push('[');
    for (i, member) in members.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        member.write_json(&mut out);
    }
    out.push(']');
    out
}

/// What a heartbeat came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// The patch changed the state (and an `update` was published).
    pub changed: bool,
    /// The stored epoch after the heartbeat.
    pub epoch: Epoch,
}

/// What one pass of the reaper did (spec 6.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
    /// Not 0: another node has just swept, and this one has done nothing; it may for so many ms more.
    pub served_ms: u64,
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
    }
}
