//! Metadata events on pub/sub (spec section 4): writing them, and checking received texts. Received
//! texts are forwarded unchanged.

use super::{Channel, Operation, record::Item};
use crate::model::json::quote_into;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt::Write as _};

/// An event without its `timestamp`: the text before and after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventText {
    pub head: String,
    pub tail: String,
}

impl EventText {
    /// `actor` becomes `authorUid`.
    pub fn new<'a>(
        channel: &Channel,
        operation: Operation,
        items: impl Iterator<Item = &'a Item>,
        major: u64,
        actor: Option<&str>,
    ) -> Self {
        let mut head = String::from("{\"channelName\":");
        quote_into(&mut head, &channel.name);
        head.push_str(",\"channelType\":");
        quote_into(&mut head, &channel.kind);
        write!(
            head,
            ",\"operation\":\"{}\",\"items\":[",
            operation.as_str()
        )
        .expect("a String takes any text");
        for (i, item) in items.enumerate() {
            head.push_str(if i > 0 { ",{\"key\":" } else { "{\"key\":" });
            head.push_str(&item.key);
            head.push_str(",\"value\":");
            head.push_str(item.value());
            write!(head, ",\"revision\":{}}}", item.revision()).expect("a String takes any text");
        }
        write!(head, "],\"majorRevision\":{major},\"timestamp\":")
            .expect("a String takes any text");
        let mut tail = String::new();
        if let Some(actor) = actor {
            tail.push_str(",\"authorUid\":");
            quote_into(&mut tail, actor);
        }
        tail.push('}');
        EventText { head, tail }
    }

    /// The whole event. `timestamp` is in milliseconds since 1970.
    pub fn at(&self, timestamp: u64) -> String {
        format!("{}{timestamp}{}", self.head, self.tail)
    }
}

/// The fields that every event has. Other fields are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Parts<'a> {
    #[serde(borrow)]
    channel_name: Cow<'a, str>,
    #[serde(borrow)]
    channel_type: Cow<'a, str>,
    #[serde(borrow)]
    operation: Cow<'a, str>,
    #[serde(borrow)]
    items: Vec<ItemParts<'a>>,
    major_revision: f64,
    timestamp: f64,
}

#[derive(Deserialize)]
struct ItemParts<'a> {
    #[serde(borrow)]
    key: &'a RawValue,
}

/// Whether `payload` is a metadata event of `channel`. Other messages are dropped and counted (spec
/// 4.5). Values may have any form, because other software may have stored them.
pub fn is_metadata_event(payload: &str, channel: &Channel) -> bool {
    let Ok(parts) = serde_json::from_str::<Parts<'_>>(payload) else {
        return false;
    };
    parts.channel_name == *channel.name
        && parts.channel_type == *channel.kind
        && Operation::read(&parts.operation).is_some()
        && parts
            .items
            .iter()
            .all(|item| item.key.get().starts_with('"'))
        && parts.major_revision.is_finite()
        && parts.timestamp.is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::metadata::record::Patch;

    #[test]
    fn spec_4_an_event_is_written_and_known_again() {
        let channel = Channel::new("t", "n\"1");
        let patch = Patch {
            value: Some("\"\\ud800\""),
            revision: 2,
            stamped: true,
            author: None,
        };
        let items = [Item::new("\"k\"", &patch), Item::new("\"l\"", &patch)];
        let text = EventText::new(&channel, Operation::Update, items.iter(), 7, Some("u")).at(12);
        assert_eq!(
            text,
            "{\"channelName\":\"n\\\"1\",\"channelType\":\"t\",\"operation\":\"update\",\"items\":[\
             {\"key\":\"k\",\"value\":\"\\ud800\",\"revision\":2},\
             {\"key\":\"l\",\"value\":\"\\ud800\",\"revision\":2}],\
             \"majorRevision\":7,\"timestamp\":12,\"authorUid\":\"u\"}"
        );
        assert!(is_metadata_event(&text, &channel));
        assert!(!is_metadata_event(&text, &Channel::new("t", "n")));
        for bad in [
            "",
            "{}",
            "[]",
            &text.replace("update", "shrug"),
            &text.replace("\"key\":\"k\"", "\"key\":1"),
            &text.replace("\"timestamp\":12", "\"timestamp\":\"12\""),
            &text[..text.len() - 1],
        ] {
            assert!(!is_metadata_event(bad, &channel), "{bad}");
        }
        let none = EventText::new(&channel, Operation::Set, [].into_iter(), 1, None).at(1);
        assert!(is_metadata_event(&none, &channel));
    }
}
