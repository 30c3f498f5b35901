//! A connection's state: a JSON object, kept as the text that came in; patches merge at its top
//! level (spec 3.4) without decoding it.

use crate::model::{
    error::{Error, Result},
    json::{self, Entry},
};
use std::sync::Arc;

/// The text of a valid JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State(Arc<str>);

impl State {
    /// Takes a text from outside.
    pub fn parse(field: &str, text: &str) -> Result<State> {
        if json::is_object(text) {
            Ok(State(text.into()))
        } else {
            Err(Error::invalid(format!("{field} must be a JSON object")))
        }
    }

    /// A state as it was found in the store: anything that is no JSON object counts as empty, so
    /// that a patch mends it.
    pub fn from_stored(stored: &[u8]) -> State {
        match std::str::from_utf8(stored) {
            Ok(text) if json::is_object(text) => State(text.into()),
            _ => State::empty(),
        }
    }

    /// The text of what was a state before.
    pub fn from_known(text: &str) -> State {
        State(text.into())
    }

    pub fn empty() -> State {
        static EMPTY: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "{}".into());
        State(EMPTY.clone())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// This state with the patch merged in, or `None` when nothing changes. A replaced value keeps
    /// its place, new keys come last, in the patch's order: as `{...state, ...patch}` does.
    pub fn patched(&self, patch: &Patch) -> Option<State> {
        let set = json::entries(&patch.set);
        let set_keys = json::KeyIndex::new(set.iter().map(|entry| entry.key));
        let remove_keys = json::KeyIndex::new(patch.remove.iter().map(String::as_str));
        let before = json::entries(&self.0);

        let mut changed = false;
        let mut in_place = vec![false; set.len()];
        let mut after: Vec<Entry<'_>> = Vec::with_capacity(before.len() + set.len());
        for entry in &before {
            if remove_keys.find(entry.key).is_some() {
                changed = true;
            } else if let Some(i) = set_keys.find(entry.key) {
                in_place[i] = true;
                changed |= set[i].value != entry.value;
                after.push(Entry {
                    key: entry.key,
                    value: set[i].value,
                });
            } else {
                after.push(*entry);
            }
        }
        for (new, _) in set
            .iter()
            .zip(&in_place)
            .filter(|(_, in_place)| !**in_place)
        {
            changed = true;
            after.push(*new);
        }
        changed.then(|| {
            let mut text = String::with_capacity(self.0.len() + patch.set.len());
            text.push('{');
            for (i, entry) in after.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                text.push_str(entry.key);
                text.push(':');
                text.push_str(entry.value);
            }
            text.push('}');
            State(text.into())
        })
    }
}

/// What a heartbeat changes in a state: keys to set (the text of a JSON object) and keys to remove
/// (each as a JSON string).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    set: Box<str>,
    remove: Vec<String>,
}

impl Patch {
    /// `remove` is the text of a JSON array of strings, or empty.
    pub fn parse(field: &str, set: &str, remove: &str) -> Result<Patch> {
        if !json::is_object(set) {
            return Err(Error::invalid(format!("{field} must be a JSON object")));
        }
        let remove = if remove.is_empty() {
            Vec::new()
        } else {
            serde_json::from_str::<Vec<&serde_json::value::RawValue>>(remove)
                .map_err(|error| Error::invalid(format!("{field}: {error}")))?
                .into_iter()
                .map(|key| key.get().to_owned())
                .collect()
        };
        Ok(Patch {
            set: set.into(),
            remove,
        })
    }

    /// Its size as it counts against the state limit, in bytes.
    pub fn size(&self) -> usize {
        self.set.len() + self.remove.iter().map(String::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(state: &str, set: &str, remove: &str) -> Option<String> {
        State::parse("state", state)
            .unwrap()
            .patched(&Patch::parse("patchState", set, remove).unwrap())
            .map(|s| s.as_str().to_owned())
    }

    #[test]
    fn spec_3_4_a_value_replaces_null_stays_and_undefined_removes() {
        let state = r#"{"a":1,"b":{"x":[]},"c":"k"}"#;
        assert_eq!(
            patched(state, r#"{"b":2}"#, "").unwrap(),
            r#"{"a":1,"b":2,"c":"k"}"#
        );
        assert_eq!(
            patched(state, r#"{"b":null}"#, "").unwrap(),
            r#"{"a":1,"b":null,"c":"k"}"#
        );
        assert_eq!(
            patched(state, "{}", r#"["b"]"#).unwrap(),
            r#"{"a":1,"c":"k"}"#
        );
        assert_eq!(
            patched(state, r#"{"d":[]}"#, r#"["a","c"]"#).unwrap(),
            r#"{"b":{"x":[]},"d":[]}"#
        );
    }

    #[test]
    fn spec_3_4_what_changes_nothing_is_no_change() {
        let state = r#"{"a":1,"b":[]}"#;
        for (set, remove) in [("{}", ""), (r#"{"a":1}"#, ""), ("{}", r#"["z"]"#)] {
            assert_eq!(patched(state, set, remove), None, "{set} {remove}");
        }
    }

    #[test]
    fn spec_3_5_numbers_and_escapes_are_not_touched() {
        let state = r#"{"n":9007199254740991,"f":1e308,"s":"\ud800","__proto__":{"p":[]}}"#;
        assert_eq!(
            patched(state, r#"{"x":0.1}"#, "").unwrap(),
            r#"{"n":9007199254740991,"f":1e308,"s":"\ud800","__proto__":{"p":[]},"x":0.1}"#
        );
    }

    #[test]
    fn a_stored_text_that_is_no_object_counts_as_empty() {
        for stored in [&b"[1]"[..], b"", b"{\"a\":", b"\xff\xfe"] {
            assert_eq!(State::from_stored(stored), State::empty());
        }
    }
}
