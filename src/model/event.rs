//! Presence events on pub/sub (spec section 4): writing them, and checking received texts. Received
//! texts are forwarded unchanged.

use crate::model::{
    json::quote_into,
    presence::{Epoch, Place},
    state::State,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt::Write as _};

/// Why a connection left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// `leave` was called.
    Left,
    /// Its TTL expired.
    Timeout,
    /// It joined another room, or as another user.
    Replaced,
}

impl Reason {
    /// The value of `reason` in the event.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Left => "left",
            Reason::Timeout => "timeout",
            Reason::Replaced => "replaced",
        }
    }
}

/// The change in a presence event.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    Join(&'a State),
    Update(&'a State),
    Leave(Reason),
}

/// The text of a presence event, byte for byte as `lua/include/event.lua` writes it. `ts` is in
/// milliseconds since 1970.
pub fn presence_event(
    change: Change<'_>,
    place: &Place,
    conn: &str,
    ts: u64,
    epoch: Epoch,
) -> String {
    let (kind, state, reason) = match change {
        Change::Join(state) => ("join", state.as_str(), None),
        Change::Update(state) => ("update", state.as_str(), None),
        Change::Leave(reason) => ("leave", "null", Some(reason)),
    };
    let tail = reason.map_or(String::new(), |r| format!(r#","reason":"{}""#, r.as_str()));
    let mut event = String::new();
    head_into(&mut event, kind, place, conn, state.len() + 96);
    write!(event, r#"{state},"ts":{ts},"epoch":{epoch}{tail}}}"#).expect("a String takes any text");
    event
}

/// The text of an update event up to its state. Replaces what `out` holds.
pub fn update_head(out: &mut String, place: &Place, conn: &str) {
    out.clear();
    head_into(out, "update", place, conn, 0);
}

/// `more`: bytes that will follow.
fn head_into(out: &mut String, kind: &str, place: &Place, conn: &str, more: usize) {
    out.reserve(place.room.len() + place.user.len() + conn.len() + 64 + more);
    out.push_str(r#"{"type":""#);
    out.push_str(kind);
    out.push('"');
    for (name, id) in [
        (r#","roomId":"#, &*place.room),
        (r#","userId":"#, &*place.user),
        (r#","connId":"#, conn),
    ] {
        out.push_str(name);
        quote_into(out, id);
    }
    out.push_str(r#","state":"#);
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Join,
    Leave,
    Update,
}

/// The fields that every event has. Other fields are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(borrow)]
    room_id: Cow<'a, str>,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    conn_id: Cow<'a, str>,
    #[serde(borrow)]
    state: &'a RawValue,
    ts: f64,
    epoch: f64,
}

/// Whether `payload` is a presence event of `room`. Other messages are dropped and counted (spec
/// 4.5).
pub fn is_presence_event(payload: &str, room: &str) -> bool {
    room_of_presence_event(payload).is_some_and(|of| of == room)
}

/// The room of a presence event; `None` if the text is not one.
pub fn room_of_presence_event(payload: &str) -> Option<Cow<'_, str>> {
    let parts = serde_json::from_str::<Parts<'_>>(payload).ok()?;
    let state = parts.state.get();
    let state_fits = match parts.kind {
        Kind::Leave => state == "null",
        Kind::Join | Kind::Update => state == "null" || state.starts_with('{'),
    };
    let fits = state_fits
        && !parts.user_id.is_empty()
        && !parts.conn_id.is_empty()
        && parts.ts.is_finite()
        && parts.epoch.is_finite();
    fits.then_some(parts.room_id)
}

/// Replaces the state of a presence event by `null`, for states that are nested too deeply to be
/// encoded again (spec 3.11); `None` if the text is not a presence event.
pub fn without_state(payload: &str) -> Option<String> {
    let parts = serde_json::from_str::<Parts<'_>>(payload).ok()?;
    let state = parts.state.get();
    // Both are parts of one text, so the difference of the addresses is the offset.
    let start = state.as_ptr().addr().checked_sub(payload.as_ptr().addr())?;
    let end = start.checked_add(state.len())?;
    Some([payload.get(..start)?, "null", payload.get(end..)?].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = r#"{"type":"update","roomId":"r","userId":"u","connId":"c","state":{"s":"\ud800"},"ts":1,"epoch":2,"more":[1]}"#;

    #[test]
    fn spec_4_5_events_are_told_from_anything_else() {
        assert!(is_presence_event(GOOD, "r"));
        assert!(!is_presence_event(GOOD, "other"));
        for bad in [
            "",
            "null",
            "{}",
            "[]",
            &GOOD.replace("update", "shrug"),
            &GOOD.replace("\"u\"", "7"),
            &GOOD.replace("{\"s\":\"\\ud800\"}", "[]"),
            &GOOD.replace("\"ts\":1", "\"ts\":\"1\""),
            &GOOD[..GOOD.len() - 1],
            &format!("{GOOD} x"),
        ] {
            assert!(!is_presence_event(bad, "r"), "{bad}");
        }
    }

    #[test]
    fn spec_4_an_event_is_written_as_the_scripts_write_it() {
        let place = Place::new("r\"1", "ü");
        let state = State::parse("state", r#"{"a":[],"s":"\ud800"}"#).unwrap();
        assert_eq!(
            presence_event(Change::Join(&state), &place, "c", 1_700_000_000_001, 7),
            r#"{"type":"join","roomId":"r\"1","userId":"ü","connId":"c","state":{"a":[],"s":"\ud800"},"ts":1700000000001,"epoch":7}"#
        );
        assert_eq!(
            presence_event(Change::Leave(Reason::Timeout), &place, "c", 1, 7),
            r#"{"type":"leave","roomId":"r\"1","userId":"ü","connId":"c","state":null,"ts":1,"epoch":7,"reason":"timeout"}"#
        );
        let update = presence_event(Change::Update(&state), &place, "c", 1, 7);
        assert!(is_presence_event(&update, "r\"1"), "{update}");
    }

    #[test]
    fn spec_3_11_a_state_that_is_too_deep_is_taken_out_of_its_event() {
        for nested in ["{}", r#"{"a":[[{}]],"b":"}"}"#] {
            let event = GOOD.replace("{\"s\":\"\\ud800\"}", nested);
            let expected = GOOD.replace("{\"s\":\"\\ud800\"}", "null");
            assert_eq!(without_state(&event), Some(expected));
        }
        assert_eq!(without_state("{}"), None);
    }

    #[test]
    fn a_leave_has_no_state() {
        let leave = GOOD.replace("update", "leave");
        assert!(!is_presence_event(&leave, "r"));
        assert!(is_presence_event(
            &leave.replace("{\"s\":\"\\ud800\"}", "null"),
            "r"
        ));
    }

    proptest! {
        /// Whatever is accepted as an event is also one according to a full parser.
        #[test]
        fn property_what_is_no_event_is_not_taken_for_one(
            at in 0..GOOD.len(), cut in 0..6usize, put in "\\PC{0,3}", whole in ".*",
        ) {
            let mut text = GOOD.replace("\\ud800", "s");
            let at = at.min(text.len());
            text.replace_range(at..(at + cut).min(text.len()), &put);
            for text in [text, whole] {
                if is_presence_event(&text, "r") {
                    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
                    prop_assert_eq!(&event["roomId"], "r");
                    prop_assert!(["join", "update", "leave"].contains(&event["type"].as_str().unwrap()));
                    prop_assert!(!event["connId"].as_str().unwrap().is_empty());
                    prop_assert!(event["epoch"].is_number() && event["ts"].is_number());
                }
            }
        }
    }
}
