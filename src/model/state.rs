//! A connection's state: a JSON object, kept as the original text. Patches are merged at its top
//! level (spec 3.4) without decoding it.

use crate::{
    failpoints::failpoint,
    model::{
        error::{Error, Result},
        json::{self, Entry},
        limits,
    },
};
use foldhash::HashMap;
use std::{borrow::Cow, sync::Arc};

/// Where states are stored (spec 9.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Storage {
    /// In the connection's hash, where legacy nodes read it.
    #[default]
    Inline,
    /// Under a separate key.
    Separate,
}

/// The text of a valid JSON object.
#[derive(Clone, Debug)]
pub struct State {
    text: Arc<str>,
    /// The positions of its top-level entries, if they are known. A large state that is patched
    /// often is then not parsed each time.
    layout: Option<Arc<Vec<Span>>>,
}

/// The position of one entry. Its key ends at the colon, and its value begins after it.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    colon: u32,
    end: u32,
}

/// Size in bytes from which states store the positions of their entries, if there are at most
/// `MAX_SPANS` of them.
const LAYOUT_FROM: usize = 1024;
const MAX_SPANS: usize = 256;

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
    /// Parses a text from outside.
    pub fn parse(field: &str, text: &str) -> Result<State> {
        check_object(field, text)?;
        Ok(Arc::<str>::from(text).into())
    }

    /// A state from a text that was a state before.
    pub fn from_known(text: &str) -> State {
        Arc::<str>::from(text).into()
    }

    pub fn empty() -> State {
        static EMPTY: once_cell::sync::Lazy<Arc<str>> = once_cell::sync::Lazy::new(|| "{}".into());
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

    /// Merges patches into this state, one after the other, like `{...state, ...patch}`: a replaced
    /// value keeps its position, and new keys are appended in order. A patch that would make the
    /// state longer than `max_bytes` is skipped. Returns the result of each patch, and the new
    /// state if it differs.
    ///
    /// Parses this state once, however many patches there are.
    pub fn patched<'a>(
        &'a self,
        patches: impl Iterator<Item = &'a Patch>,
        max_bytes: usize,
    ) -> (Vec<PatchOutcome>, Option<State>) {
        let mut merge = Merge::default();
        // First collects the touched keys, so that one pass over the state finds all of them.
        let edits: Vec<Vec<Edit<'a>>> = patches.map(|patch| merge.edits(patch)).collect();
        let before = self.entries();
        let touched = merge.find(&before);
        let outcomes: Vec<PatchOutcome> = edits
            .iter()
            .map(|edits| merge.apply(edits, max_bytes))
            .collect();
        if !outcomes.contains(&PatchOutcome::Changed) {
            return (outcomes, None);
        }
        let after = State::of(&merge.entries(&before, &touched), merge.size());
        let next = (after != *self).then_some(after);
        (outcomes, next)
    }

    /// Builds a state from entries. `size`: its approximate length.
    fn of(entries: &[Entry<'_>], size: usize) -> State {
        let mut text = String::with_capacity(size + 2);
        let mut layout = Vec::new();
        let remembers = size >= LAYOUT_FROM && entries.len() <= MAX_SPANS;
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
        // Positions beyond 4 GiB do not fit. Limits keep states far below.
        let fits = u32::try_from(text.len()).is_ok();
        State {
            text: text.into(),
            layout: (remembers && fits).then(|| Arc::new(layout)),
        }
    }
}

/// The result of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchOutcome {
    Changed,
    Unchanged,
    /// It would make the state this long, and was skipped.
    TooLarge {
        bytes: usize,
    },
}

/// One key of a patch: its index in [`Merge::keys`], and the entry to set, or `None` to remove it.
type Edit<'a> = (usize, Option<Entry<'a>>);

/// The number of keys up to which comparing all is faster than a hash.
const FEW_KEYS: usize = 8;

/// Patches that are being merged into a state.
#[derive(Default)]
struct Merge<'a> {
    /// The keys that patches touch.
    keys: Vec<Key<'a>>,
    /// Their indices by their names, if there are more than [`FEW_KEYS`].
    names: HashMap<Cow<'a, [u8]>, usize>,
    /// The number of appended keys.
    appended: usize,
    /// Bytes of all entries without separators, and the number of entries.
    bytes: usize,
    count: usize,
}

/// A key that a patch touches. JSON texts of other software may contain it more than once.
struct Key<'a> {
    /// Its decoded characters.
    name: Cow<'a, [u8]>,
    in_base: usize,
    /// Bytes in the base: of the keys with their colons, and of the values.
    key_bytes: usize,
    value_bytes: usize,
    /// The value in the base; `None` if there is none, or more than one.
    value: Option<&'a str>,
    now: Now<'a>,
}

impl Key<'_> {
    /// The number of bytes and entries that the key adds to the state.
    fn weight(&self, now: Now<'_>) -> (usize, usize) {
        match now {
            Now::Absent => (0, 0),
            Now::InBase => (self.key_bytes + self.value_bytes, self.in_base),
            Now::Replaced(value) => (self.key_bytes + self.in_base * value.len(), self.in_base),
            Now::Appended(_, entry) => (entry.key.len() + 1 + entry.value.len(), 1),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Now<'a> {
    Absent,
    /// Unchanged from the base.
    InBase,
    /// At its position in the base, with this value.
    Replaced(&'a str),
    /// After the entries of the base, in this order.
    Appended(usize, Entry<'a>),
}

impl<'a> Merge<'a> {
    fn edits(&mut self, patch: &'a Patch) -> Vec<Edit<'a>> {
        let set = json::entries(&patch.set);
        let removed = patch.remove.iter().filter(|_| !failpoint!(Merging));
        let mut edits = Vec::with_capacity(set.len() + patch.remove.len());
        for key in removed {
            edits.push((self.key(key), None));
        }
        for entry in set {
            edits.push((self.key(entry.key), Some(entry)));
        }
        edits
    }

    /// The index of a key in `keys`. The key is added if it is not there.
    fn key(&mut self, key: &'a str) -> usize {
        let name = json::name(key);
        if let Some(index) = self.index_of(&name) {
            return index;
        }
        let index = self.keys.len();
        self.keys.push(Key {
            name,
            in_base: 0,
            key_bytes: 0,
            value_bytes: 0,
            value: None,
            now: Now::Absent,
        });
        if index >= FEW_KEYS {
            for (index, key) in self.keys.iter().enumerate().skip(self.names.len()) {
                self.names.insert(key.name.clone(), index);
            }
        }
        index
    }

    /// The index of the key with these characters in `keys`.
    fn index_of(&self, name: &[u8]) -> Option<usize> {
        if self.names.is_empty() {
            self.keys.iter().position(|key| *key.name == *name)
        } else {
            self.names.get(name).copied()
        }
    }

    /// Finds the touched keys in the base. Returns them in its order: the index of the entry, and
    /// the index in `keys`.
    fn find(&mut self, base: &[Entry<'a>]) -> Vec<(usize, usize)> {
        let mut touched = Vec::new();
        self.count = base.len();
        for (index, entry) in base.iter().enumerate() {
            let (key_bytes, value_bytes) = (entry.key.len() + 1, entry.value.len());
            self.bytes += key_bytes + value_bytes;
            if let Some(place) = self.index_of(&json::name(entry.key)) {
                let key = &mut self.keys[place];
                key.in_base += 1;
                key.value = Some(entry.value).filter(|_| key.in_base == 1);
                key.key_bytes += key_bytes;
                key.value_bytes += value_bytes;
                key.now = Now::InBase;
                touched.push((index, place));
            }
        }
        touched
    }

    /// Applies one patch, or skips it if the state would be too large.
    fn apply(&mut self, edits: &[Edit<'a>], max_bytes: usize) -> PatchOutcome {
        let before = (self.bytes, self.count, self.appended);
        let mut undo = Vec::with_capacity(edits.len());
        let mut changed = false;
        for &(place, entry) in edits {
            let key = &mut self.keys[place];
            let now = match (entry, key.now) {
                (None, _) => Now::Absent,
                (Some(new), Now::Absent) => {
                    self.appended += 1;
                    Now::Appended(self.appended, new)
                }
                (Some(Entry { value, .. }), Now::Appended(order, Entry { key, .. })) => {
                    Now::Appended(order, Entry { key, value })
                }
                (Some(new), Now::InBase) if key.value == Some(new.value) => Now::InBase,
                (Some(new), Now::InBase | Now::Replaced(_)) => Now::Replaced(new.value),
            };
            changed |= now != key.now;
            let ((old_bytes, old_count), (bytes, count)) = (key.weight(key.now), key.weight(now));
            self.bytes = self.bytes - old_bytes + bytes;
            self.count = self.count - old_count + count;
            undo.push((place, std::mem::replace(&mut key.now, now)));
        }
        let bytes = self.size();
        if !changed {
            return PatchOutcome::Unchanged;
        }
        if bytes <= max_bytes {
            return PatchOutcome::Changed;
        }
        for (place, was) in undo.into_iter().rev() {
            self.keys[place].now = was;
        }
        (self.bytes, self.count, self.appended) = before;
        PatchOutcome::TooLarge { bytes }
    }

    /// The length of the state's text.
    fn size(&self) -> usize {
        "{}".len() + self.bytes + self.count.saturating_sub(1)
    }

    fn entries(&self, base: &[Entry<'a>], touched: &[(usize, usize)]) -> Vec<Entry<'a>> {
        let mut after = Vec::with_capacity(self.count);
        let mut touched = touched.iter().peekable();
        for (index, entry) in base.iter().enumerate() {
            let place = touched.next_if(|(at, _)| *at == index);
            match place.map(|(_, place)| self.keys[*place].now) {
                None | Some(Now::InBase) => after.push(*entry),
                Some(Now::Replaced(value)) => after.push(Entry { value, ..*entry }),
                Some(Now::Absent | Now::Appended(..)) => {}
            }
        }
        let mut appended: Vec<(usize, Entry<'a>)> = Vec::new();
        for key in &self.keys {
            if let Now::Appended(order, entry) = key.now {
                appended.push((order, entry));
            }
        }
        appended.sort_unstable_by_key(|(order, _)| *order);
        after.extend(appended.into_iter().map(|(_, entry)| entry));
        after
    }
}

fn check_object(field: &str, text: &str) -> Result<()> {
    match json::is_object(text) {
        true => Ok(()),
        false => Err(Error::invalid(format!("{field} must be a JSON object"))),
    }
}

/// A heartbeat's changes of a state: keys to set (the text of a JSON object), and keys to remove
/// (each as a JSON string).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    set: Box<str>,
    remove: Vec<String>,
    checked: bool,
}

impl Patch {
    /// Keys to set whose text is checked later ([`Patch::check`]), on another thread.
    pub fn unchecked(set: &str) -> Patch {
        Patch {
            set: set.into(),
            remove: Vec::new(),
            checked: false,
        }
    }

    /// Refuses an unchecked text that is no JSON object, or is nested deeper than `max_depth`.
    pub fn check(&self, field: &str, max_depth: usize) -> Result<()> {
        if self.checked {
            return Ok(());
        }
        limits::check_depth(field, &self.set, max_depth)?;
        check_object(field, &self.set)
    }

    /// `remove` is the text of a JSON array of strings, or empty.
    pub fn parse(field: &str, set: &str, remove: &str) -> Result<Patch> {
        check_object(field, set)?;
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
            checked: true,
        })
    }

    /// Its size in bytes, which counts against the state limit.
    pub fn size(&self) -> usize {
        self.set.len() + self.remove.iter().map(String::len).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patched(state: &str, set: &str, remove: &str) -> Option<String> {
        let patch = Patch::parse("patchState", set, remove).unwrap();
        after(&State::parse("state", state).unwrap(), &patch).map(|s| s.as_str().to_owned())
    }

    fn after(state: &State, patch: &Patch) -> Option<State> {
        let (outcomes, after) = state.patched(std::iter::once(patch), usize::MAX);
        assert_eq!(outcomes.len(), 1);
        assert!(after.is_none() || outcomes == [PatchOutcome::Changed]);
        after
    }

    #[test]
    fn a_patch_of_many_keys_is_merged_like_patches_of_one_key_each() {
        let object = |keys: std::ops::Range<usize>, value: &str| {
            let entries: Vec<String> = keys.map(|key| format!(r#""k{key}":{value}"#)).collect();
            format!("{{{}}}", entries.join(","))
        };
        let state = object(0..15, "1");
        let mut expected = state.clone();
        for key in 5..30 {
            let patch = object(key..key + 1, "2");
            expected = patched(&expected, &patch, "").unwrap();
        }
        assert_eq!(patched(&state, &object(5..30, "2"), ""), Some(expected));
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
            large = after(&large, &patch).unwrap();
            small = after(&small, &patch).unwrap();
            assert!(large.layout.is_some() && small.layout.is_none());
            let expected = small
                .as_str()
                .replacen("\"f\":0", &format!("\"f\":\"{filler}\""), 1);
            assert_eq!(large.as_str(), expected);
            assert_eq!(large.entries(), json::entries(large.as_str()));
        }
        assert_eq!(
            after(
                &large,
                &Patch::parse("patchState", r#"{"a":1}"#, "").unwrap()
            ),
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

    #[test]
    fn spec_3_4_a_key_that_a_text_has_twice_is_replaced_and_removed_twice() {
        let state = r#"{"a":1,"b":2,"\u0061":3}"#;
        assert_eq!(
            patched(state, r#"{"a":3}"#, "").unwrap(),
            r#"{"a":3,"b":2,"\u0061":3}"#
        );
        assert_eq!(patched(state, "{}", r#"["a"]"#).unwrap(), r#"{"b":2}"#);
    }

    #[test]
    fn spec_5_3_a_patch_that_makes_the_state_too_large_is_left_out_alone() {
        let state = State::parse("state", r#"{"a":1,"b":"x"}"#).unwrap();
        let patches = [
            (r#"{"c":12345}"#, r#"["b"]"#),
            (r#"{"d":1234567890123}"#, r#"["a"]"#),
            (r#"{"d":1,"a":2}"#, ""),
            (r#"{"a":2}"#, r#"["nothing"]"#),
        ];
        let patches = patches.map(|(set, remove)| Patch::parse("p", set, remove).unwrap());
        let (outcomes, next) = state.patched(patches.iter(), 23);
        assert_eq!(
            outcomes,
            [
                PatchOutcome::Changed,
                PatchOutcome::TooLarge { bytes: 29 },
                PatchOutcome::Changed,
                PatchOutcome::Unchanged,
            ]
        );
        assert_eq!(next.unwrap().as_str(), r#"{"a":2,"c":12345,"d":1}"#);
    }

    #[test]
    fn spec_9_3_a_group_of_patches_parses_its_base_once() {
        let keys: Vec<String> = (0..20_000).map(|i| format!("\"key{i}\":{i}")).collect();
        let state = State::parse("state", &format!("{{{}}}", keys.join(","))).unwrap();
        let patches: Vec<Patch> = (0..256)
            .map(|i| Patch::parse("p", &format!("{{\"key{i}\":-1,\"new{i}\":{i}}}"), "").unwrap())
            .collect();
        let of_patches: usize = patches.iter().map(Patch::size).sum();
        json::BYTES_PARSED.set(0);
        let (outcomes, next) = state.patched(patches.iter(), usize::MAX);
        assert_eq!(json::BYTES_PARSED.get(), state.as_str().len() + of_patches);
        assert_eq!(outcomes, vec![PatchOutcome::Changed; 256]);
        let next = next.unwrap();
        assert!(next.as_str().starts_with(r#"{"key0":-1,"key1":-1,"#));
        assert!(next.as_str().ends_with(r#","new254":254,"new255":255}"#));
    }

    proptest! {
        /// Merging patches together has the same result as merging them one after the other.
        #[test]
        fn property_patches_together_are_patches_one_by_one(
            before in prop::collection::btree_map("[a-d\"_é]{0,1}", any::<i8>(), 0..5),
            patches in prop::collection::vec(
                (
                    prop::collection::btree_map("[a-d\"_é]{0,1}", any::<i8>(), 0..3),
                    prop::collection::btree_set("[a-d\"_é]{0,1}", 0..2),
                ),
                0..6,
            ),
            limit in 10usize..60,
        ) {
            let state = State::parse("state", &serde_json::to_string(&before).unwrap()).unwrap();
            let patches: Vec<Patch> = patches
                .iter()
                .map(|(set, remove)| {
                    let remove: Vec<_> = remove.iter().filter(|key| !set.contains_key(*key)).collect();
                    let set = serde_json::to_string(set).unwrap();
                    Patch::parse("p", &set, &serde_json::to_string(&remove).unwrap()).unwrap()
                })
                .collect();
            let mut one_by_one = state.clone();
            let mut expected = Vec::new();
            for patch in &patches {
                let (outcomes, next) = one_by_one.patched(std::iter::once(patch), limit);
                expected.extend(outcomes);
                if let Some(next) = next {
                    prop_assert!(next.as_str().len() <= limit);
                    one_by_one = next;
                }
            }
            let (outcomes, next) = state.patched(patches.iter(), limit);
            prop_assert_eq!(outcomes, expected);
            prop_assert_eq!(next.unwrap_or(state), one_by_one);
        }

        /// A patch has the same result as with maps.
        #[test]
        fn property_a_patch_is_a_merge_of_maps(
            before in prop::collection::btree_map("[a-f\"_]{0,2}", any::<i32>(), 0..6),
            set in prop::collection::btree_map("[a-f\"_]{0,2}", any::<i32>(), 0..4),
            remove in prop::collection::btree_set("[a-f\"_]{0,2}", 0..4),
        ) {
            // A key is either set or removed, because a JavaScript object has one value for it.
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
