//! Reads JSON texts without decoding user data: validity, and the positions of an object's
//! top-level entries. States are merged as text, so that values are returned exactly as they were
//! sent (spec 3.5).

use serde::de::{Deserialize, Deserializer, IgnoredAny, Visitor};
use std::{borrow::Cow, fmt};

/// Whether the text is exactly one JSON object.
pub fn is_object(text: &str) -> bool {
    text.trim_start_matches(is_space).starts_with('{')
        && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Whether arrays and objects in a JSON text are nested more than `max` deep. An object of scalars
/// has depth 1. Does not recurse, so deep nesting needs no stack.
pub fn is_deeper(text: &str, max: usize) -> bool {
    // Each level takes two bytes.
    text.len() > max.saturating_mul(2) && depth(text) > max
}

/// The nesting depth of arrays and objects in a JSON text.
pub fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                while let Some(byte) = bytes.next() {
                    match byte {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// The text as a JSON string.
pub fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

/// Appends the text as a JSON string. Most ids need no escapes and are copied.
pub fn quote_into(out: &mut String, text: &str) {
    if text
        .bytes()
        .all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')
    {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&quote(text));
    }
}

/// One top-level entry of an object. Both parts are as they are in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key with its quotes and escapes.
    pub key: &'a str,
    pub value: &'a str,
}

/// The decoded characters of an entry's key. Two keys are the same name if these are equal,
/// whichever escapes they use.
pub fn name(key: &str) -> Cow<'_, [u8]> {
    let quoted = key.strip_prefix('"').and_then(|key| key.strip_suffix('"'));
    match quoted {
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain.as_bytes()),
        _ => decoded(key).unwrap_or_default(),
    }
}

/// Whether a JSON text contains an unpaired surrogate.
pub fn has_half_a_pair(text: &str) -> bool {
    text.contains("\\u") && serde_json::from_str::<String>(text).is_err()
}

/// The characters of a JSON string; `None` if the text is not one. Returns bytes, because a
/// JavaScript string may contain an unpaired surrogate (`"\ud800"`), which serde_json decodes as
/// WTF-8.
pub fn decoded(key: &str) -> Option<Cow<'_, [u8]>> {
    struct Bytes<'a>(Cow<'a, [u8]>);
    struct BytesVisitor;
    impl<'de> Visitor<'de> for BytesVisitor {
        type Value = Bytes<'de>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON string")
        }
        fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Bytes<'de>, E> {
            Ok(Bytes(Cow::Borrowed(bytes)))
        }
        fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes<'de>, E> {
            Ok(Bytes(Cow::Owned(bytes.to_vec())))
        }
    }
    impl<'de> Deserialize<'de> for Bytes<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_bytes(BytesVisitor)
        }
    }
    serde_json::from_str::<Bytes<'_>>(key)
        .ok()
        .map(|bytes| bytes.0)
}

#[cfg(test)]
std::thread_local! {
    /// Number of bytes that [`entries`] has read on this thread.
    pub static BYTES_PARSED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Entries for which there is room at first.
const USUAL_ENTRIES: usize = 8;

/// The top-level entries of a text for which [`is_object`] is true.
pub fn entries(object: &str) -> Vec<Entry<'_>> {
    #[cfg(test)]
    BYTES_PARSED.set(BYTES_PARSED.get() + object.len());
    let mut cursor = Cursor {
        text: object,
        at: 0,
    };
    let mut entries = Vec::with_capacity(USUAL_ENTRIES);
    cursor.skip_space();
    cursor.at += 1; // {
    loop {
        cursor.skip_space();
        match cursor.peek() {
            Some(b'"') => {
                let key = cursor.value();
                cursor.skip_space();
                cursor.at += 1; // :
                cursor.skip_space();
                let value = cursor.value();
                entries.push(Entry { key, value });
            }
            Some(b',') => cursor.at += 1,
            _ => return entries,
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

/// Iterates over text that is known to be valid JSON.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| is_space(byte as char)) {
            self.at += 1;
        }
    }

    /// Skips one value. Does not recurse, so deep nesting needs no stack.
    fn value(&mut self) -> &'a str {
        let start = self.at;
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.string();
                    if depth == 0 {
                        break;
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth == 0 => break,
                b'}' | b']' => {
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        break;
                    }
                }
                b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => break,
                _ => {}
            }
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += match byte {
                b'\\' => 2,
                _ => 1,
            };
            if byte == b'"' {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_are_found_whatever_the_values_hold() {
        let text = r#" { "a" : [1,{"b":"]}"}] ,"\u0062":"x\"y\\", "c":-1e308,"d":{} ,"":null}"#;
        let found: Vec<_> = entries(text).iter().map(|e| (e.key, e.value)).collect();
        assert_eq!(
            found,
            [
                (r#""a""#, r#"[1,{"b":"]}"}]"#),
                (r#""\u0062""#, r#""x\"y\\""#),
                (r#""c""#, "-1e308"),
                (r#""d""#, "{}"),
                (r#""""#, "null"),
            ]
        );
        assert!(entries("{}").is_empty());
    }

    #[test]
    fn keys_are_compared_decoded_and_half_surrogates_are_keys_too() {
        for (a, b, same) in [
            (r#""\u0062""#, r#""b""#, true),
            (r#""\ud800""#, r#""\uD800""#, true),
            (r#""\ud800""#, r#""\ud801""#, false),
            (r#""""#, r#""b""#, false),
        ] {
            assert_eq!(name(a) == name(b), same, "{a} {b}");
        }
        assert!(is_object(r#"{"\ud800":"\udfff"}"#));
    }

    #[test]
    fn only_whole_objects_are_objects() {
        for bad in ["", "[]", "1", "null", "{", "{}x", r#"{"a":}"#, "{'a':1}"] {
            assert!(!is_object(bad), "{bad}");
        }
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
        assert!(is_object(&deep));
        assert_eq!(entries(&deep).len(), 1);
    }

    #[test]
    fn spec_3_11_depth_counts_containers_and_not_what_strings_hold() {
        for (text, expected) in [
            ("7", 0),
            ("{}", 1),
            (r#"{"a":[{}],"b":[]}"#, 3),
            (r#"{"[[[\"{{{":"]}]}"}"#, 1),
            (r#"{"a\\":[]}"#, 2),
            ("{", 1),
            ("]]]", 0),
            ("\"\\", 0),
        ] {
            assert_eq!(depth(text), expected, "{text}");
        }
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(depth(&deep), 100_000);
        assert!(is_deeper(&deep, 99_999) && !is_deeper(&deep, 100_000));
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                prop::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_text_is_quoted_as_the_serializer_does(text in ".*") {
            let mut out = String::from("x");
            quote_into(&mut out, &text);
            prop_assert_eq!(&out[1..], quote(&text));
        }

        #[test]
        fn entries_agree_with_a_full_parser(
            map in prop::collection::btree_map(".*", any_json(), 0..6),
            pretty in any::<bool>(),
        ) {
            let value = serde_json::Value::Object(map.clone().into_iter().collect());
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            prop_assert!(is_object(&text));
            let found: std::collections::BTreeMap<String, serde_json::Value> = entries(&text)
                .iter()
                .map(|e| {
                    (serde_json::from_str(e.key).unwrap(), serde_json::from_str(e.value).unwrap())
                })
                .collect();
            prop_assert_eq!(found, map);
        }
    }
}
