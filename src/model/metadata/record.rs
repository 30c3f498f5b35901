//! Records: the items of a channel, in order, each as the stored text. Fields and values that other
//! implementations have stored are kept.

use super::{
    channel::Channel,
    response::{TIME_BYTES, View},
    text_template::TextTemplate,
};
use crate::model::{
    error::{Code, Error},
    json::{self, Entry},
};
use indexmap::IndexMap;
use std::{fmt::Write as _, sync::Arc};

/// A record exactly as it is stored. Missing texts are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    pub items: Vec<u8>,
    /// `majorRevision`, in decimal digits.
    pub major: Vec<u8>,
    /// Distinguishes a record from one that was deleted before it, in a store that compares this id
    /// instead of the items; empty in other stores.
    pub id: Vec<u8>,
}

/// One item: its key as JSON text, and its stored text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub key: Box<str>,
    /// The item's JSON text, with `""` for an `updated` that the commit fills in.
    text: Box<str>,
    /// Position in `text` of the time of the commit.
    gap: Option<usize>,
}

/// The changes of an item. All fields are JSON texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Patch<'a> {
    pub value: Option<&'a str>,
    pub revision: i64,
    /// Whether `updated` becomes the time of the commit.
    pub stamped: bool,
    pub author: Option<&'a str>,
}

/// The fields of an item that Rollcall defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Value,
    Revision,
    Updated,
    Author,
}

impl Field {
    const ALL: [Field; 4] = [Field::Value, Field::Revision, Field::Updated, Field::Author];

    fn as_str(self) -> &'static str {
        match self {
            Field::Value => "value",
            Field::Revision => "revision",
            Field::Updated => "updated",
            Field::Author => "authorUid",
        }
    }

    /// `key` is a JSON string.
    fn read(key: &str) -> Option<Field> {
        let decoded = json::decoded(key)?;
        let mut all = Self::ALL.into_iter();
        all.find(|field| field.as_str().as_bytes() == &*decoded)
    }
}

impl Item {
    /// An item with only the fields of the patch. `key` is a JSON string.
    pub fn new(key: &str, patch: &Patch<'_>) -> Item {
        Item::build(key, &[], None, patch)
    }

    /// Like `{...item, ...patch}` in JavaScript: fields keep their positions, and other fields
    /// stay.
    pub fn patched(&self, patch: &Patch<'_>) -> Item {
        Item::build(&self.key, &self.fields(), self.gap, patch)
    }

    fn build(key: &str, before: &[Entry<'_>], gap: Option<usize>, patch: &Patch<'_>) -> Item {
        let mut item = Item {
            key: key.into(),
            text: Box::default(),
            gap: None,
        };
        let mut text = String::from("{");
        let mut written = [false; Field::ALL.len()];
        for entry in before {
            match Field::read(entry.key) {
                Some(known) if patch.has(known) => {
                    if !std::mem::replace(&mut written[known as usize], true) {
                        item.put(&mut text, known, patch);
                    }
                }
                known => {
                    separate(&mut text);
                    text.push_str(entry.key);
                    text.push(':');
                    if known == Some(Field::Updated) && gap.is_some() {
                        item.gap = Some(text.len() + 1);
                    }
                    text.push_str(entry.value);
                }
            }
        }
        for known in Field::ALL {
            if patch.has(known) && !written[known as usize] {
                item.put(&mut text, known, patch);
            }
        }
        text.push('}');
        item.text = text.into();
        item
    }

    fn put(&mut self, text: &mut String, field: Field, patch: &Patch<'_>) {
        separate(text);
        write!(text, "\"{}\":", field.as_str()).expect("a String takes any text");
        match field {
            Field::Value => text.push_str(patch.value.unwrap_or_default()),
            Field::Revision => {
                write!(text, "{}", patch.revision).expect("a String takes any text");
            }
            Field::Updated => {
                self.gap = Some(text.len() + 1);
                text.push_str("\"\"");
            }
            Field::Author => text.push_str(patch.author.unwrap_or_default()),
        }
    }

    /// The top-level fields. A text that is not an object counts as a value.
    fn fields(&self) -> Vec<Entry<'_>> {
        if self.text.starts_with('{') {
            json::entries(&self.text)
        } else {
            vec![Entry {
                key: "\"value\"",
                value: &self.text,
            }]
        }
    }

    fn last(&self, wanted: Field) -> Option<&str> {
        // `JSON.parse` returns the last of several fields with one name.
        let mut fields = self.fields().into_iter().rev();
        fields
            .find(|entry| Field::read(entry.key) == Some(wanted))
            .map(|entry| entry.value)
    }

    /// The value as JSON text, as it is stored; `""` if there is none.
    pub fn value(&self) -> &str {
        self.last(Field::Value).unwrap_or("\"\"")
    }

    /// The revision; 0 if the stored value is neither a number nor the text of one. Other
    /// implementations store any value that their callers gave.
    pub fn revision(&self) -> i64 {
        self.last(Field::Revision).map_or(0, |text| {
            let text = text.trim_matches('"').trim();
            text.parse()
                .unwrap_or_else(|_| text.parse::<f64>().map_or(0, |x| x as i64))
        })
    }

    /// The text before and after the time of the commit, or the whole text if it does not contain
    /// the time.
    pub fn parts(&self) -> (&str, Option<&str>) {
        match self.gap {
            None => (&self.text, None),
            Some(gap) => (&self.text[..gap], Some(&self.text[gap..])),
        }
    }

    fn write(&self, out: &mut TextTemplate) {
        match self.gap {
            None => out.push_str(&self.text),
            Some(gap) => {
                out.push_str(&self.text[..gap]);
                out.push_gap();
                out.push_str(&self.text[gap..]);
            }
        }
    }

    /// The item after its commit.
    fn filled(&self, updated: &str) -> Option<Item> {
        let gap = self.gap?;
        let text = [&self.text[..gap], updated, &self.text[gap..]].concat();
        Some(Item {
            key: self.key.clone(),
            text: text.into(),
            gap: None,
        })
    }
}

impl Patch<'_> {
    fn has(&self, field: Field) -> bool {
        match field {
            Field::Value => self.value.is_some(),
            Field::Revision => true,
            Field::Updated => self.stamped,
            Field::Author => self.author.is_some(),
        }
    }
}

fn separate(text: &mut String) {
    if text.len() > 1 {
        text.push(',');
    }
}

/// The items by the decoded characters of their keys, in order.
pub type Items = IndexMap<Arc<[u8]>, Arc<Item>>;

/// A record that cannot be read.
#[derive(Clone, Copy, Debug)]
pub struct Unreadable {
    pub why: &'static str,
    /// The revision, if it can be read. It never decreases, even if the record is replaced.
    pub major: u64,
}

/// A record that can be read.
#[derive(Clone, Debug)]
pub struct Record {
    pub items: Items,
    pub major: u64,
    /// The text of all items.
    pub text: Arc<TextTemplate>,
}

impl Default for Record {
    /// The record of a channel that never had metadata.
    fn default() -> Self {
        Record {
            items: Items::default(),
            major: 0,
            text: Arc::new("{}".to_owned().into()),
        }
    }
}

impl Record {
    /// The nesting depth of an item's value within a record.
    const OWN_DEPTH: usize = 2;

    /// Parses a stored record. A record with items nested deeper than `max_depth` is unreadable,
    /// because recursive encoders would fail on it (spec 3.11).
    pub fn read(stored: &Stored, max_depth: usize) -> Result<Record, Unreadable> {
        let unreadable = |why, major| Unreadable { why, major };
        let major = read_major(&stored.major)
            .ok_or_else(|| unreadable("its majorRevision is no whole number", 0))?;
        let text = match std::str::from_utf8(&stored.items) {
            Ok("") => "{}",
            Ok(text) => text,
            Err(_) => return Err(unreadable("its items are no UTF-8 text", major)),
        };
        if !json::is_object(text) {
            return Err(unreadable("its items are no JSON object", major));
        }
        if json::is_deeper(text, max_depth.saturating_add(Self::OWN_DEPTH)) {
            let why = "its items are nested deeper than limits.maxDepth";
            return Err(unreadable(why, major));
        }
        let mut items = Items::default();
        for entry in json::entries(text) {
            let name = json::decoded(entry.key).unwrap_or_default();
            let item = Item {
                key: entry.key.into(),
                text: entry.value.into(),
                gap: None,
            };
            // The last of two items with one key counts, at the position of the first, as in
            // `JSON.parse`.
            items.insert(Arc::from(&*name), Arc::new(item));
        }
        Ok(Record {
            items,
            major,
            text: Arc::new(text.to_owned().into()),
        })
    }

    /// Whether the channel has ever had metadata.
    pub fn exists(&self) -> bool {
        self.major > 0 || !self.items.is_empty()
    }

    /// Rebuilds the text of all items.
    pub fn rewrite(&mut self) {
        let bytes = self
            .items
            .values()
            .map(|item| item.key.len() + item.text.len() + 2);
        let mut text = TextTemplate::with_capacity(bytes.sum::<usize>() + 2);
        text.push_str("{");
        for (i, item) in self.items.values().enumerate() {
            if i > 0 {
                text.push_str(",");
            }
            text.push_str(&item.key);
            text.push_str(":");
            item.write(&mut text);
        }
        text.push_str("}");
        self.text = Arc::new(text);
    }

    /// Fills in the time of the commit, after it.
    pub fn fill(&mut self, updated: &str) {
        if self.text.gaps() > 0 {
            for item in self.items.values_mut() {
                if let Some(filled) = item.filled(updated) {
                    *item = Arc::new(filled);
                }
            }
            self.text = Arc::new(self.text.filled(updated).into());
        }
    }

    /// The length of the text of all items as it will be stored.
    pub fn bytes(&self) -> usize {
        self.text.bare().len() + TIME_BYTES * self.text.gaps()
    }

    /// The record in the form for callers.
    pub fn view(&self) -> View {
        View {
            total: self.items.len(),
            major: self.major,
            items: self.text.clone(),
        }
    }
}

/// Parses a major revision. A missing one is 0.
pub fn read_major(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() {
        return Some(0);
    }
    text.parse().ok().or_else(|| {
        let number = text.parse::<f64>().ok()?;
        (number.fract() == 0.0 && (0.0..=9_007_199_254_740_991.0).contains(&number))
            .then_some(number as u64)
    })
}

impl Unreadable {
    pub fn error(&self, channel: &Channel) -> Error {
        Error::new(
            Code::CorruptData,
            format!(
                "the metadata of channel {} cannot be read: {}; `set` replaces it",
                channel.display(),
                self.why
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(items: &str) -> Record {
        let stored = Stored {
            items: items.into(),
            major: b"3".to_vec(),
            ..Stored::default()
        };
        Record::read(&stored, 128).unwrap()
    }

    #[test]
    fn spec_7_2_what_others_have_stored_in_an_item_stays() {
        let before = record(r#"{"a":{"x":[1],"value":7,"revision":2.0,"updated":"u","z":null}}"#);
        let item = &before.items[&b"a"[..]];
        assert_eq!((item.value(), item.revision()), ("7", 2));
        let patch = Patch {
            value: Some("\"new\""),
            revision: 3,
            stamped: true,
            author: Some("\"me\""),
        };
        let mut after = before.clone();
        after.items[0] = Arc::new(item.patched(&patch));
        after.rewrite();
        assert_eq!(
            after.text.filled("T"),
            r#"{"a":{"x":[1],"value":"new","revision":3,"updated":"T","z":null,"authorUid":"me"}}"#
        );
        // Patched again before the commit: the placeholder keeps its position.
        let patch = Patch {
            revision: 4,
            ..Patch::default()
        };
        after.items[0] = Arc::new(after.items[0].patched(&patch));
        after.rewrite();
        after.fill("T");
        assert_eq!(
            after.text.bare(),
            r#"{"a":{"x":[1],"value":"new","revision":4,"updated":"T","z":null,"authorUid":"me"}}"#
        );
        assert_eq!(after.text.gaps(), 0);
        assert_eq!(after.items[0].patched(&patch).text, after.items[0].text);
    }

    #[test]
    fn a_revision_may_be_stored_as_text() {
        let record = record(r#"{"a":{"revision":"3"},"b":{"revision":" 4 "},"c":{"revision":""}}"#);
        let of = |i: usize| record.items[i].revision();
        assert_eq!([of(0), of(1), of(2)], [3, 4, 0]);
    }

    #[test]
    fn items_in_no_form_of_ours_are_values() {
        let record = record(r#"{"a":[1,2],"b":{},"c":{"revision":"x"},"a":"last"}"#);
        let of = |i: usize| (record.items[i].value(), record.items[i].revision());
        assert_eq!(record.items.len(), 3);
        assert_eq!(
            [of(0), of(1), of(2)],
            [("\"last\"", 0), ("\"\"", 0), ("\"\"", 0)]
        );
        let patch = Patch {
            revision: 1,
            ..Patch::default()
        };
        assert_eq!(
            &*record.items[0].patched(&patch).text,
            r#"{"value":"last","revision":1}"#
        );
    }

    #[test]
    fn spec_3_11_an_item_that_others_nested_too_deep_makes_the_record_unreadable() {
        for (depth, readable) in [(128, true), (129, false), (50_000, false)] {
            let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let stored = Stored {
                items: format!("{{\"k\":{{\"value\":{value}}}}}").into(),
                major: b"3".to_vec(),
                ..Stored::default()
            };
            let read = Record::read(&stored, 128);
            assert_eq!(read.is_ok(), readable, "{depth}");
            assert_eq!(
                read.map_or_else(|unreadable| unreadable.major, |record| record.major),
                3
            );
        }
    }

    #[test]
    fn a_major_revision_is_a_whole_number() {
        for (text, major) in [
            ("", Some(0)),
            ("7", Some(7)),
            ("7.0", Some(7)),
            ("1e3", Some(1000)),
            ("-1", None),
            ("1.5", None),
            ("x", None),
            ("NaN", None),
        ] {
            assert_eq!(read_major(text.as_bytes()), major, "{text}");
        }
    }
}
