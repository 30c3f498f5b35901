//! The steps in which a test can have the process end.

named! {
    /// Steps of operations that take several (docs/internals/cluster.md). A test can have the process end in the
    /// middle of any.
    pub enum Step in STEPS {
        /// A join has claimed its epoch, and a room's entry in the due index.
        Claim: "claim",
        /// It is in its room.
        Joined: "joined",
        /// It is in the indices of other slots.
        JoinNoted: "join-noted",
        /// A leave, or the leave that is part of a join, is out of its room.
        Left: "left",
        /// It is out of the indices of other slots.
        LeaveNoted: "leave-noted",
        /// A join's or leave's own note is taken out of its room.
        Settled: "settled",
        /// The reaper has taken connections out of a room.
        Reaped: "reaped",
        /// It has made the indices of a room agree.
        Repaired: "repaired",
        /// It has carried out notes of a room in the indices of other slots.
        CarriedOut: "carried-out",
        /// It has taken them out of the room.
        RoomSettled: "room-settled",
        /// It has given a room an entry in the due index.
        Indexed: "indexed",
    }
}

/// Which calls of the step are still made, as bits, if the process is to end in it. Never, in the
/// published build.
#[cfg(not(feature = "test-faults"))]
#[inline(always)]
pub const fn ends_in(_: Step) -> Option<u32> {
    None
}

/// Ends the process, as a crash would, if a test asks for it.
#[inline(always)]
pub fn end_point(step: Step) {
    if ends_in(step).is_some() {
        std::process::abort();
    }
}

#[cfg(feature = "test-faults")]
pub use in_tests::{end_in, ends_in};

#[cfg(feature = "test-faults")]
mod in_tests {
    use super::{STEPS, Step};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// The step in which to end, and one: 0 for none; above 32 bits, what is still done of it.
    static END: AtomicU64 = AtomicU64::new(0);

    pub fn ends_in(step: Step) -> Option<u32> {
        let end = END.load(Ordering::Relaxed);
        (end & 0xffff_ffff == step as u64 + 1).then_some((end >> 32) as u32)
    }

    /// The process is to end when it next comes to the step.
    ///
    /// # Errors
    ///
    /// A name that is no step's.
    pub fn end_in(name: &str, done: u32) -> Result<(), String> {
        let at = STEPS.iter().position(|known| *known == name);
        let at = at.ok_or_else(|| format!("there is no step {name:?}"))?;
        END.store(u64::from(done) << 32 | (at as u64 + 1), Ordering::Relaxed);
        Ok(())
    }
}
