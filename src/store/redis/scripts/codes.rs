//! The result codes of the scripts: one table for each script. A test compares them with the
//! scripts.

/// Codes of `location_claim.lua`.
pub mod location_claim {
    pub const CLAIMED: i64 = 0;
    pub const EARLY: i64 = 1;
}

/// Codes of `location_confirm.lua`.
pub mod location_confirm {
    pub const SETTLED: i64 = 0;
    pub const SUPERSEDED: i64 = 1;
}

/// Codes of `room_inspect.lua`.
pub mod room_inspect {
    pub const SOUND: i64 = 0;
    pub const EMPTY: i64 = 1;
    pub const UNSETTLED: i64 = 2;
    pub const UNEQUAL: i64 = 3;
}

/// Codes of `join.lua`.
pub mod join {
    pub const JOINED: i64 = 0;
    pub const ELSEWHERE: i64 = 1;
    pub const GHOST: i64 = 2;
    pub const EARLY: i64 = 3;
    pub const BEHIND: i64 = 4;
    pub const LOST: i64 = 5;
}

/// Codes of `leave.lua`.
pub mod leave {
    pub const LEFT: i64 = 0;
    pub const UNKNOWN: i64 = 1;
    pub const ELSEWHERE: i64 = 2;
    pub const EARLY: i64 = 3;
    pub const NEWER: i64 = 4;
}

/// Codes of `heartbeat.lua`.
pub mod heartbeat {
    pub const REFRESHED: i64 = 0;
    pub const UNKNOWN: i64 = 1;
    pub const STALE: i64 = 2;
    pub const ELSEWHERE: i64 = 3;
    pub const CONFLICT: i64 = 4;
    pub const AHEAD: i64 = 5;
    pub const UNISSUED: i64 = 6;
    pub const LOST: i64 = 7;
    pub const UNCLAIMED: i64 = 8;
}

/// Codes of `node_claim.lua`.
pub mod node_claim {
    pub const CLAIMED: i64 = 0;
    pub const LOST: i64 = 1;
}

/// Codes of `node_renew.lua`.
pub mod node_renew {
    pub const RENEWED: i64 = 0;
    pub const DEAD: i64 = 1;
    pub const MISSING: i64 = 2;
}

/// Codes of `node_look.lua`.
pub mod node_look {
    pub const LIVES: i64 = 0;
    pub const DEAD: i64 = 1;
    pub const MISSING: i64 = 2;
}

/// Codes of `node_page.lua`.
pub mod node_page {
    pub const PAGE: i64 = 0;
    pub const EMPTY: i64 = 1;
    pub const ENDED: i64 = 2;
}

/// Codes of `metadata_commit.lua`.
pub mod metadata_commit {
    pub const COMMITTED: i64 = 0;
    pub const LOCKED: i64 = 1;
    pub const CHANGED: i64 = 2;

    pub const NOT_HELD: i64 = 0;
    pub const HELD_BY_OTHER: i64 = 1;
    pub const OUTRUN: i64 = 2;
    pub const UNREADABLE: i64 = 3;
}

/// Codes of `lock_acquire.lua`.
pub mod lock_acquire {
    pub const GRANTED: i64 = 0;
    pub const WAITING: i64 = 1;
    pub const HELD: i64 = 2;
}

/// Codes of `lock_extend.lua`.
pub mod lock_extend {
    pub const EXTENDED: i64 = 0;
    pub const NOT_HELD: i64 = 1;
}

/// Codes of `lock_inspect.lua`.
pub mod lock_inspect {
    pub const HELD: i64 = 0;
    pub const FREE: i64 = 1;
}

/// Codes of `lock_raise.lua`.
pub mod lock_raise {
    pub const RAISED: i64 = 0;
    pub const NEWER: i64 = 1;
}

/// Codes of `lock_release.lua`.
pub mod lock_release {
    pub const RELEASED: i64 = 0;
    pub const NOT_HELD: i64 = 1;
}

/// Codes of `lock_revoke.lua`.
pub mod lock_revoke {
    pub const REVOKED: i64 = 0;
    pub const FREE: i64 = 1;
    pub const FOREIGN: i64 = 2;
}

/// Codes of `sweep_due.lua`.
pub mod sweep_due {
    pub const TAKEN: i64 = 0;
    pub const PASS: i64 = 1;
}

/// Codes of `patch_check.lua`.
pub mod patch_check {
    pub const PASSED: i64 = 0;
    pub const REFUSED: i64 = 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::scripts::{Source, embedded};
    use std::collections::BTreeMap;

    /// The constants that a script declares as `local NAME = 1` at the start of a line, except
    /// those that begin with MAX_.
    fn codes_in(source: Source) -> BTreeMap<String, i64> {
        source
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("local ")?.split_once(" = "))
            .filter(|(name, _)| !name.starts_with("MAX_"))
            .filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    fn table<const N: usize>(codes: [(&str, i64); N]) -> BTreeMap<String, i64> {
        codes.map(|(name, code)| (name.to_owned(), code)).into()
    }

    #[test]
    fn the_codes_are_those_of_the_scripts() {
        // Scripts with the same codes, and their codes.
        let known = [
            (
                &["lua/slotted/location_claim.lua"][..],
                table([
                    ("CLAIMED", location_claim::CLAIMED),
                    ("EARLY", location_claim::EARLY),
                ]),
            ),
            (
                &["lua/slotted/location_confirm.lua"][..],
                table([
                    ("SETTLED", location_confirm::SETTLED),
                    ("SUPERSEDED", location_confirm::SUPERSEDED),
                ]),
            ),
            (
                &["lua/room_inspect.lua"][..],
                table([
                    ("SOUND", room_inspect::SOUND),
                    ("EMPTY", room_inspect::EMPTY),
                    ("UNSETTLED", room_inspect::UNSETTLED),
                    ("UNEQUAL", room_inspect::UNEQUAL),
                ]),
            ),
            (
                &["lua/v1/join.lua"][..],
                table([
                    ("JOINED", join::JOINED),
                    ("ELSEWHERE", join::ELSEWHERE),
                    ("GHOST", join::GHOST),
                    ("EARLY", join::EARLY),
                    ("LOST", join::LOST),
                ]),
            ),
            (
                &["lua/slotted/join.lua"][..],
                table([
                    ("JOINED", join::JOINED),
                    ("ELSEWHERE", join::ELSEWHERE),
                    ("GHOST", join::GHOST),
                    ("BEHIND", join::BEHIND),
                    ("LOST", join::LOST),
                ]),
            ),
            (
                &["lua/v1/leave.lua", "lua/slotted/leave.lua"][..],
                table([
                    ("LEFT", leave::LEFT),
                    ("UNKNOWN", leave::UNKNOWN),
                    ("ELSEWHERE", leave::ELSEWHERE),
                    ("EARLY", leave::EARLY),
                    ("NEWER", leave::NEWER),
                ]),
            ),
            (
                &["lua/v1/heartbeat.lua", "lua/slotted/heartbeat.lua"][..],
                table([
                    ("REFRESHED", heartbeat::REFRESHED),
                    ("UNKNOWN", heartbeat::UNKNOWN),
                    ("STALE", heartbeat::STALE),
                    ("ELSEWHERE", heartbeat::ELSEWHERE),
                    ("CONFLICT", heartbeat::CONFLICT),
                    ("AHEAD", heartbeat::AHEAD),
                    ("UNISSUED", heartbeat::UNISSUED),
                    ("LOST", heartbeat::LOST),
                    ("UNCLAIMED", heartbeat::UNCLAIMED),
                ]),
            ),
            (
                &["lua/slotted/node_claim.lua"][..],
                table([("CLAIMED", node_claim::CLAIMED), ("LOST", node_claim::LOST)]),
            ),
            (
                &["lua/node_renew.lua"][..],
                table([
                    ("RENEWED", node_renew::RENEWED),
                    ("DEAD", node_renew::DEAD),
                    ("MISSING", node_renew::MISSING),
                ]),
            ),
            (
                &["lua/node_look.lua"][..],
                table([
                    ("LIVES", node_look::LIVES),
                    ("DEAD", node_look::DEAD),
                    ("MISSING", node_look::MISSING),
                ]),
            ),
            (
                &["lua/node_page.lua"][..],
                table([
                    ("PAGE", node_page::PAGE),
                    ("EMPTY", node_page::EMPTY),
                    ("ENDED", node_page::ENDED),
                ]),
            ),
            (
                &["lua/metadata_commit.lua", "lua/metadata_commit_json.lua"][..],
                table([
                    ("COMMITTED", metadata_commit::COMMITTED),
                    ("LOCKED", metadata_commit::LOCKED),
                    ("CHANGED", metadata_commit::CHANGED),
                    ("NOT_HELD", metadata_commit::NOT_HELD),
                    ("HELD_BY_OTHER", metadata_commit::HELD_BY_OTHER),
                    ("OUTRUN", metadata_commit::OUTRUN),
                    ("UNREADABLE", metadata_commit::UNREADABLE),
                ]),
            ),
            (
                &["lua/lock_acquire.lua"][..],
                table([
                    ("GRANTED", lock_acquire::GRANTED),
                    ("WAITING", lock_acquire::WAITING),
                    ("HELD", lock_acquire::HELD),
                ]),
            ),
            (
                &["lua/lock_extend.lua"][..],
                table([
                    ("EXTENDED", lock_extend::EXTENDED),
                    ("NOT_HELD", lock_extend::NOT_HELD),
                ]),
            ),
            (
                &["lua/lock_inspect.lua"][..],
                table([("HELD", lock_inspect::HELD), ("FREE", lock_inspect::FREE)]),
            ),
            (
                &["lua/lock_raise.lua"][..],
                table([("RAISED", lock_raise::RAISED), ("NEWER", lock_raise::NEWER)]),
            ),
            (
                &["lua/lock_release.lua"][..],
                table([
                    ("RELEASED", lock_release::RELEASED),
                    ("NOT_HELD", lock_release::NOT_HELD),
                ]),
            ),
            (
                &["lua/lock_revoke.lua"][..],
                table([
                    ("REVOKED", lock_revoke::REVOKED),
                    ("FREE", lock_revoke::FREE),
                    ("FOREIGN", lock_revoke::FOREIGN),
                ]),
            ),
            (
                &["lua/v1/sweep_due.lua"][..],
                table([("TAKEN", sweep_due::TAKEN), ("PASS", sweep_due::PASS)]),
            ),
            (
                &["lua/patch_check.lua"][..],
                table([
                    ("PASSED", patch_check::PASSED),
                    ("REFUSED", patch_check::REFUSED),
                ]),
            ),
        ];
        for source in embedded::ALL {
            let codes = codes_in(*source);
            assert_eq!(
                codes,
                known
                    .iter()
                    .find(|(paths, _)| paths.contains(&source.path))
                    .map(|(_, codes)| codes.clone())
                    .unwrap_or_default(),
                "{}",
                source.path
            );
        }
    }
}
