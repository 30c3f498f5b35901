//! The failpoints at which the process crashes, and which of them is selected.

use std::sync::atomic::{AtomicU64, Ordering};

named! {
    /// The steps of an operation that takes several (docs/internals/cluster.md).
    pub enum Step in STEPS {
        /// A join has claimed its epoch, and a room's entry in the due index.
        Claim: "claim",
        /// A join is in its room.
        Joined: "joined",
        /// A join is in the indices of other slots.
        JoinNoted: "join-noted",
        /// A leave, or the leave that is part of a join, is out of its room.
        Left: "left",
        /// A leave is out of the indices of other slots.
        LeaveNoted: "leave-noted",
        /// The outbox entry of a join or leave is removed from its room.
        Settled: "settled",
        /// The reaper has removed connections from a room.
        Reaped: "reaped",
        /// The reaper has made the indices of a room agree.
        Repaired: "repaired",
        /// The reaper has applied outbox entries of a room to the indices of other slots.
        CarriedOut: "carried-out",
        /// The reaper has removed outbox entries from a room.
        RoomSettled: "room-settled",
        /// The reaper has given a room an entry in the due index.
        Indexed: "indexed",
    }
}

/// The number of the selected step, plus one, or 0 for none; above 32 bits, its [`SentCalls`].
static SELECTED: AtomicU64 = AtomicU64::new(0);

/// Which calls of a step are sent before the process crashes: one bit for each, from the lowest.
#[derive(Clone, Copy)]
pub struct SentCalls(u32);

impl SentCalls {
    /// Those of `calls` that are sent.
    pub fn of<T>(self, calls: Vec<T>) -> Vec<T> {
        let bits = (0..).map(|number| self.0.checked_shr(number).unwrap_or(0));
        let selected = calls
            .into_iter()
            .zip(bits)
            .filter(|(_, bits)| bits & 1 == 1);
        selected.map(|(call, _)| call).collect()
    }
}

/// Whether the process is to crash in this step.
pub fn crashes_in(step: Step) -> Option<SentCalls> {
    let selected = SELECTED.load(Ordering::Relaxed);
    let is_this = selected & 0xffff_ffff == step as u64 + 1;
    is_this.then_some(SentCalls((selected >> 32) as u32))
}

/// Selects the step in which the process crashes when it next comes to it. `sent`: see [`SentCalls`].
///
/// # Errors
///
/// A name that no step has.
pub fn crash_in(name: &str, sent: u32) -> Result<(), String> {
    let at = STEPS.iter().position(|known| *known == name);
    let at = at.ok_or_else(|| format!("there is no step {name:?}"))?;
    SELECTED.store(u64::from(sent) << 32 | (at as u64 + 1), Ordering::Relaxed);
    Ok(())
}
