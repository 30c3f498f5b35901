//! A connection's state: a JSON object, kept as the text that came in; patches merge at its top
//! level (spec 3.4) without decoding it.

use crate::{
    model::{
        error::{Error, Result},
        json::{self, Entry},
    },
    switches::{Defence, off},
};
use std::sync::Arc;

/// Where states are stored (spec 9.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Storage {
    /// In the connection's hash, where TypeScript servers read it.
    #[default]
    Inline,
    /// In a key of its own.
    Separate,
}

/// The text of a valid JSON object.
#[derive(Clone, Debug)]
pub struct State {
    text: Arc<str>,
    /// Where its top-level entries are, if that is known already: a large state that is patched
    /// again and again is not searched each time.
    layout: Option<Arc<Vec<Span>>>,
}

/// Where one entry is: its key ends where the colon is, its value begins after it.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    colon: u32,
    end: u32,
}

/// States from this size on (bytes) remember where their entries are, if there are not too many.
const LAYOUT_FROM: usize = 1024;
const MOST_SPANS: usize = 256;

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.text, &other.text) || self.text == other.text
    }
}

impl Eq for State {}

impl From<Arc<str>> for State {
    fn from(text: Arc<str>) -> Self {
        State { text, layout: None }
    }
}

impl State {
    /// Takes a text from outside.
    pub fn parse(field: &str, text: &str) -> Result<State> {
        if json::is_object(text) {
            Ok(Arc::<str>::from(text).into())
        } else {
            Err(Error::invalid(format!("{field} must be a JSON object")))
        }
    }

    /// The text of what was a state before.
    pub fn from_known(text: &str) -> State {
        Arc::<str>::from(text).into()
    }

    pub fn empty() -> State {
        static EMPTY: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "{}".into());
        EMPTY.clone().into()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn entries(&self) -> Vec<Entry<'_>> {
        match &self.layout {
            None => json::entries(&self.text),
            Some(layout) => layout
                .iter()
                .map(|span| Entry {
                    key: &self.text[span.start as usize..span.colon as usize],
                    value: &self.text[span.colon as usize + 1..span.end as usize],
                })
                .collect(),
        }
    }

    /// This state with the patch merged in, or `None` when nothing changes. A replaced value keeps
    /// its place, new keys come last, in the patch's order: as `{...state, ...patch}` does.
    pub fn patched(&self, patch: &Patch) -> Option<State> {
        let set = json::entries(&patch.set);
        let set_keys = json::KeyIndex::new(set.iter().map(|entry| entry.key));
        let remove_keys = json::KeyIndex::new(patch.remove.iter().map(String::as_str));
        let before = self.entries();

        let mut changed = false;
        let mut in_place = vec![false; set.len()];
        let mut after: Vec<Entry<'_>> = Vec::with_capacity(before.len() + set.len());
        for entry in &before {
            if remove_keys.find(entry.key).is_some() && !off(Defence::Merging) {
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
        changed.then(|| State::of(&after, self.text.len() + patch.set.len()))
    }

    /// Made of entries; `size`: about how long it gets.
    fn of(entries: &[Entry<'_>], size: usize) -> State {
        let mut text = String::with_capacity(size + 2);
        let mut layout = Vec::new();
        let remembers = size >= LAYOUT_FROM && entries.len() <= MOST_SPANS;
        let at = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX);
        text.push('{');
        for (i, entry) in entries.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            let start = at(&text);
            text.push_str(entry.key);
            let colon = at(&text);
            text.push(':');
            text.push_str(entry.value);
            if remembers {
                let end = at(&text);
                layout.push(Span { start, colon, end });
            }
        }
        text.push('}');
        // Beyond 4 GiB positions do not fit; limits keep states far below.
        let fits = u32::try_from(text.len()).is_ok();
        State {
            text: text.into(),
            layout: (remembers && fits).then(|| Arc::new(layout)),
        }
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
    use proptest::prelude::*;

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
    fn spec_3_4_a_large_state_that_is_patched_again_and_again_is_what_a_small_one_would_be() {
        let filler = "x".repeat(LAYOUT_FROM);
        let mut large =
            State::parse("state", &format!(r#"{{ "f":"{filler}", "a" : [1, 2] }}"#)).unwrap();
        let mut small = State::parse("state", r#"{"f":0,"a":[1, 2]}"#).unwrap();
        for (set, remove) in [
            (r#"{"a":{"b":"}"}}"#, ""),
            (r#"{"c":1,"\u0061":2}"#, ""),
            ("{}", r#"["a"]"#),
            (r#"{"é":"😀","a":null}"#, r#"["c"]"#),
            (r#"{"a":1}"#, ""),
        ] {
            let patch = Patch::parse("patchState", set, remove).unwrap();
            large = large.patched(&patch).unwrap();
            small = small.patched(&patch).unwrap();
            assert!(large.layout.is_some() && small.layout.is_none());
            let expected = small
                .as_str()
                .replacen("\"f\":0", &format!("\"f\":\"{filler}\""), 1);
            assert_eq!(large.as_str(), expected);
            assert_eq!(large.entries(), json::entries(large.as_str()));
        }
        assert_eq!(
            large.patched(&Patch::parse("patchState", r#"{"a":1}"#, "").unwrap()),
            None
        );
    }

    #[test]
    fn spec_3_5_numbers_and_escapes_are_not_touched() {
        let state = r#"{"n":9007199254740991,"f":1e308,"s":"\ud800","__proto__":{"p":[]}}"#;
        assert_eq!(
            patched(state, r#"{"x":0.1}"#, "").unwrap(),
            r#"{"n":9007199254740991,"f":1e308,"s":"\ud800","__proto__":{"p":[]},"x":0.1}"#
        );
    }

    proptest! {
        /// What comes of a patch is what comes of it with maps.
        #[test]
        fn property_a_patch_is_a_merge_of_maps(
            before in prop::collection::btree_map("[a-f\"_]{0,2}", any::<i32>(), 0..6),
            set in prop::collection::btree_map("[a-f\"_]{0,2}", any::<i32>(), 0..4),
            remove in prop::collection::btree_set("[a-f\"_]{0,2}", 0..4),
        ) {
            // A key is either set or removed: JavaScript has one value for it.
            let remove: Vec<_> = remove.into_iter().filter(|key| !set.contains_key(key)).collect();
            let json = |map: &std::collections::BTreeMap<String, i32>| serde_json::to_string(map).unwrap();
            let removed = serde_json::to_string(&remove).unwrap();
            let after = patched(&json(&before), &json(&set), &removed);
            let mut expected = before.clone();
            expected.extend(set);
            expected.retain(|key, _| !remove.contains(key));
            prop_assert_eq!(after.is_some(), expected != before);
            if let Some(after) = after {
                let after: std::collections::BTreeMap<String, i32> = serde_json::from_str(&after).unwrap();
                prop_assert_eq!(after, expected);
            }
        }
    }
}
