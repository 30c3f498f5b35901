//! Locks as plain types, and lock events on pub/sub (spec section 8).

use crate::model::json::quote;
use serde::Deserialize;
use std::borrow::Cow;

/// Grows with every grant of a lock's name. Below 2^53.
pub type FencingToken = u64;

/// The holder of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub owner: String,
    /// `None` for a lock that was not written by Rollcall.
    pub token: Option<FencingToken>,
    /// `None` if the lock has no TTL.
    pub ttl_left_ms: Option<u64>,
    pub waiters: u64,
}

/// A change of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockChange {
    Acquired,
    Released,
    /// Its TTL expired.
    Expired,
    /// It was revoked, or its key was deleted or overwritten by other software.
    Revoked,
}

impl LockChange {
    /// The value of `type` in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            LockChange::Acquired => "acquired",
            LockChange::Released => "released",
            LockChange::Expired => "expired",
            LockChange::Revoked => "revoked",
        }
    }
}

/// The text of a lock event, byte for byte as `lua/include/lock.lua` writes it. `ts` is in
/// milliseconds since 1970.
pub fn lock_event(
    change: LockChange,
    name: &str,
    owner: &str,
    token: Option<FencingToken>,
    ts: u64,
) -> String {
    let token = token.map_or_else(|| "null".into(), |token| token.to_string());
    format!(
        r#"{{"type":"{}","name":{},"ownerId":{},"fencingToken":{token},"ts":{ts}}}"#,
        change.as_str(),
        quote(name),
        quote(owner),
    )
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Acquired,
    Released,
    Expired,
    Revoked,
}

/// The fields that every event has. Other fields are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts<'a> {
    #[serde(rename = "type")]
    _kind: Kind,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    owner_id: Cow<'a, str>,
    fencing_token: Option<u64>,
    ts: f64,
}

/// Whether `payload` is an event of the lock `name`.
pub fn is_lock_event(payload: &str, name: &str) -> bool {
    serde_json::from_str::<Parts<'_>>(payload).is_ok_and(|parts| {
        parts.name == name
            && !parts.owner_id.is_empty()
            && parts.fencing_token.is_none_or(|token| token < 1 << 53)
            && parts.ts.is_finite()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_written_as_the_scripts_write_it_and_told_from_anything_else() {
        let text = lock_event(LockChange::Acquired, "l\"1", "ü", Some(7), 1);
        assert_eq!(
            text,
            r#"{"type":"acquired","name":"l\"1","ownerId":"ü","fencingToken":7,"ts":1}"#
        );
        assert!(is_lock_event(&text, "l\"1"));
        assert!(is_lock_event(
            &lock_event(LockChange::Revoked, "l", "u", None, 1),
            "l"
        ));
        for bad in [
            "",
            "null",
            "{}",
            &text.replace("acquired", "borrowed"),
            &text.replace(":7", ":-7"),
            &text.replace(":7", ":9007199254740992"),
            &text.replace("\"ts\":1", "\"ts\":\"1\""),
            &text[1..],
        ] {
            assert!(!is_lock_event(bad, "l\"1"), "{bad}");
        }
        assert!(!is_lock_event(&text, "another"));
    }
}
