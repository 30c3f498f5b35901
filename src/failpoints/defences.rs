//! The failpoints that disable a defence, and which of them are active.

use once_cell::sync::Lazy;
use std::sync::atomic::{AtomicU64, Ordering};

named! {
    /// A failpoint, named after the defence that it disables while it is active.
    pub enum Failpoint in NAMES {
        /// Disables the pings of idle connections.
        Pings: "pings",
        /// Disables the deadlines of requests.
        Deadlines: "deadlines",
        /// Shortens the time that a request waits for its answer to a tenth of `commandTimeoutMs`.
        QueueTimeout: "queue-timeout",
        /// Disables the classification of the server's errors.
        ServerWords: "server-words",
        /// Disables reconnecting after a connection broke.
        Reconnect: "reconnect",
        /// Disables asking sentinels at intervals which server is the master.
        Moved: "moved",
        /// Disables leaving a server when another link finds that the endpoint leads to another server.
        Replaced: "replaced",
        /// Reports a gap before calls work again, not after.
        GapsLast: "gaps-last",
        /// Disables reporting gaps of the channels that moved when other channels did not.
        MovedInPart: "moved-in-part",
        /// Disables reporting gaps in the events.
        Gaps: "gaps",
        /// Disables sending a script along when the server has lost it.
        NoScript: "no-script",
        /// Sends requests twice that can be applied twice.
        Once: "once",
        /// Disables looking for the master again when a server turns out to be a replica.
        ReadOnly: "read-only",
        /// Disables dropping messages that do not fit their channel.
        Forged: "forged",
        /// Disables the bound on events that wait for JavaScript.
        EventBound: "event-bound",
        /// Disables processing rooms and connections one by one when one of many is corrupt.
        Isolation: "isolation",
        /// Disables comparing the indices of rooms.
        Checks: "checks",
        /// Disables indexing active rooms that are in no index.
        Adopting: "adopting",
        /// Disables answering a heartbeat that its connection is not there.
        NotFound: "not-found",
        /// Disables ending what a client held when its JavaScript is gone.
        Ending: "ending",
        /// Disables catching panics.
        Panics: "panics",
        /// Disables checking the certificate of a server.
        Certificates: "certificates",
        /// Disables checking the size of ids and states.
        Limits: "limits",
        /// Disables applying the outbox of a room after the process that wrote it has ended.
        Settling: "settling",
        /// Disables merging patches in the order of their calls.
        Merging: "merging",
        /// Disables the passes of the reaper.
        Reaping: "reaping",
        /// Disables renewing the leases of locks.
        Renewing: "renewing",
        /// Disables no defence: tasks panic.
        TaskPanic: "task-panic",
        /// Disables no defence: methods that JavaScript calls panic.
        CallPanic: "call-panic",
        /// Disables no defence: handing answers over to JavaScript panics.
        DrainPanic: "drain-panic",
        /// Disables giving back what an answer carries that cannot be delivered.
        Undelivered: "undelivered",
    }
}

/// The failpoints that are active when the process starts: names, separated by commas.
const VARIABLE: &str = "ROLLCALL_TEST_DEFENCES_OFF";

/// One bit for each failpoint.
static ACTIVE: Lazy<AtomicU64> = Lazy::new(|| {
    let names = std::env::var(VARIABLE).unwrap_or_default();
    let names = names.split(',').filter(|name| !name.is_empty());
    AtomicU64::new(bits(names).unwrap_or_else(|unknown| panic!("{VARIABLE}: {unknown}")))
});

pub fn is_active(failpoint: Failpoint) -> bool {
    ACTIVE.load(Ordering::Relaxed) & (1_u64 << failpoint as u64) != 0
}

/// Activates the named failpoints and deactivates all others.
///
/// # Errors
///
/// A name that no failpoint has.
pub fn activate<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    ACTIVE.store(bits(names)?, Ordering::Relaxed);
    Ok(())
}

fn bits<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64, String> {
    names.into_iter().try_fold(0, |bits, name| {
        let at = NAMES.iter().position(|known| *known == name);
        Ok(bits | 1_u64 << at.ok_or_else(|| format!("there is no failpoint {name:?}"))?)
    })
}
