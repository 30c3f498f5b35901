//! Switches of the tests' own build (feature `test-faults`): each turns one defence off, so that the
//! test of that defence can be seen to fail without it. In the published build a defence is always
//! on and nothing of this is left but a constant.

macro_rules! defences {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// What can be turned off.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Defence {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "test-faults")]
        const NAMES: &[&str] = &[$($text),*];
    };
}

defences! {
    /// Pings of idle connections.
    Pings: "pings",
    /// Deadlines of requests.
    Deadlines: "deadlines",
    /// Waiting for as long as `commandTimeoutMs` says, and not a tenth of it.
    Patience: "patience",
    /// Telling the server's errors from each other.
    ServerWords: "server-words",
    /// Connecting again after a connection broke.
    Reconnect: "reconnect",
    /// Asking sentinels now and then whether the master is still the one.
    Moved: "moved",
    /// Telling of gaps in the events.
    Gaps: "gaps",
    /// Sending a script along when the server has lost it.
    NoScript: "no-script",
    /// Never sending twice what could be applied twice.
    Once: "once",
    /// Looking for the master again when a server turns out to be a replica.
    ReadOnly: "read-only",
    /// Looking at what fits the channel only, of messages of a sensible size.
    Forged: "forged",
    /// The bound of the events that wait for JavaScript.
    EventBound: "event-bound",
    /// Looking at rooms and connections one by one when one of many is corrupt.
    Isolation: "isolation",
    /// Asking whether an event may be published before anything is written.
    MayPublish: "may-publish",
    /// Comparing the indices of rooms.
    Checks: "checks",
    /// Taking rooms in that are active and not indexed.
    Adopting: "adopting",
    /// Telling a heartbeat that its connection is not there.
    NotFound: "not-found",
    /// Freeing memory on a server that has none left.
    Freeing: "freeing",
    /// Ending what a client held when its JavaScript is gone.
    Ending: "ending",
    /// Catching panics.
    Panics: "panics",
    /// Checking the certificate of a server.
    Certificates: "certificates",
    /// Checking the size of ids and states.
    Limits: "limits",
    /// Carrying out what rooms have noted, for whoever has ended half way.
    Settling: "settling",
    /// Merging patches in the order of their calls.
    Merging: "merging",
    /// Passes of the reaper.
    Reaping: "reaping",
    /// Renewing the leases of locks.
    Renewing: "renewing",
    /// Not a defence: it is "off" when tasks are to panic.
    Calm: "calm",
    /// The same for what JavaScript calls at once.
    CalmAtOnce: "calm-at-once",
}

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident: $text:literal,)*) => {
        /// Steps of operations that take several (docs/cluster.md). A test can have the process end in the
        /// middle of any.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Step {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "test-faults")]
        const STEPS: &[&str] = &[$($text),*];
    };
}

steps! {
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

/// Whether the defence is turned off. Never, in the published build.
#[cfg(not(feature = "test-faults"))]
#[inline(always)]
pub const fn off(_: Defence) -> bool {
    false
}

/// Panics if a test asks for it.
#[inline(always)]
pub fn panic_point(calm: Defence) {
    assert!(!off(calm), "a test asked for a panic");
}

#[cfg(feature = "test-faults")]
pub use in_tests::{end_in, ends_in, off, turn_off};

#[cfg(feature = "test-faults")]
mod in_tests {
    use super::{Defence, NAMES, STEPS, Step};
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    };

    /// What a process begins with: names, separated by commas.
    const VARIABLE: &str = "ROLLCALL_TEST_DEFENCES_OFF";

    static OFF: LazyLock<AtomicU32> = LazyLock::new(|| {
        let names = std::env::var(VARIABLE).unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        AtomicU32::new(bits(names).unwrap_or_else(|unknown| panic!("{VARIABLE}: {unknown}")))
    });

    pub fn off(defence: Defence) -> bool {
        OFF.load(Ordering::Relaxed) & (1 << defence as u32) != 0
    }

    /// Turns the named defences off and all others on.
    ///
    /// # Errors
    ///
    /// A name that is no defence's.
    pub fn turn_off<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        OFF.store(bits(names)?, Ordering::Relaxed);
        Ok(())
    }

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

    fn bits<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u32, String> {
        names.into_iter().try_fold(0, |bits, name| {
            let at = NAMES.iter().position(|known| *known == name);
            Ok(bits | 1 << at.ok_or_else(|| format!("there is no defence {name:?}"))?)
        })
    }
}
