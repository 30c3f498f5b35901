//! Switches of the tests' own build (feature `test-faults`): each turns one defence off, so that the
//! test of that defence can be seen to fail without it. In the published build a defence is always
//! on and nothing of this is left but a constant.

/// An enumeration, and the names that tests know its variants by, in their order.
macro_rules! named {
    (
        $(#[$about:meta])*
        pub enum $set:ident in $names:ident {
            $($(#[$doc:meta])* $name:ident: $text:literal,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum $set {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "test-faults")]
        const $names: &[&str] = &[$($text),*];
    };
}

mod steps;

#[cfg(feature = "test-faults")]
pub use steps::end_in;
pub use steps::{Step, end_point, ends_in};

named! {
    /// What can be turned off.
    pub enum Failpoint in NAMES {
        /// Pings of idle connections.
        Pings: "pings",
        /// Deadlines of requests.
        Deadlines: "deadlines",
        /// Waiting for as long as `commandTimeoutMs` says, and not a tenth of it.
        QueueTimeout: "queue-timeout",
        /// Telling the server's errors from each other.
        ServerWords: "server-words",
        /// Connecting again after a connection broke.
        Reconnect: "reconnect",
        /// Asking sentinels now and then whether the master is still the one.
        Moved: "moved",
        /// Leaving a server when another link finds that the endpoint leads to another one.
        Replaced: "replaced",
        /// Telling of gaps only when calls work again.
        GapsLast: "gaps-last",
        /// Telling of the gaps of channels that did move when others did not.
        MovedInPart: "moved-in-part",
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
        /// The same for handing answers over to JavaScript.
        CalmDrain: "calm-drain",
        /// Giving back what an answer carries that cannot be delivered.
        Undelivered: "undelivered",
    }
}

/// Whether the defence is turned off. Never, in the published build.
#[cfg(not(feature = "test-faults"))]
#[inline(always)]
pub const fn off(_: Failpoint) -> bool {
    false
}

/// Panics if a test asks for it.
#[inline(always)]
pub fn panic_point(calm: Failpoint) {
    assert!(!off(calm), "a test asked for a panic");
}

#[cfg(feature = "test-faults")]
pub use in_tests::{off, turn_off};

#[cfg(feature = "test-faults")]
mod in_tests {
    use super::{Failpoint, NAMES};
    use once_cell::sync::Lazy;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// What a process begins with: names, separated by commas.
    const VARIABLE: &str = "ROLLCALL_TEST_DEFENCES_OFF";

    static OFF: Lazy<AtomicU64> = Lazy::new(|| {
        let names = std::env::var(VARIABLE).unwrap_or_default();
        let names = names.split(',').filter(|name| !name.is_empty());
        AtomicU64::new(bits(names).unwrap_or_else(|unknown| panic!("{VARIABLE}: {unknown}")))
    });

    pub fn off(defence: Failpoint) -> bool {
        OFF.load(Ordering::Relaxed) & (1_u64 << defence as u64) != 0
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

    fn bits<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64, String> {
        names.into_iter().try_fold(0, |bits, name| {
            let at = NAMES.iter().position(|known| *known == name);
            Ok(bits | 1_u64 << at.ok_or_else(|| format!("there is no defence {name:?}"))?)
        })
    }
}
