use super::*;
use once_cell::sync::Lazy;
use proptest::prelude::*;

const LIMIT: usize = 1 << 20;
const BOUNDS: Bounds = Bounds {
    bytes: LIMIT,
    depth: 128,
};
/// Trained on all kinds of states of the benchmark's corpus (`benchmark/lib/train.mjs`).
const STATES: &[u8] = include_bytes!("../../../__test__/states/fixtures/states.dict");

fn codecs(codec: Codec, dictionaries: &[&[u8]]) -> Codecs {
    Codecs::new(Some(&Compression {
        threshold_bytes: 0,
        codec,
        dictionaries: dictionaries
            .iter()
            .map(|bytes| BASE64.encode(bytes))
            .collect(),
    }))
    .unwrap()
}

/// A codec for each number, with its number.
fn all() -> [(Codecs, &'static str); 3] {
    [
        (codecs(Codec::Gzip, &[]), GZIP),
        (codecs(Codec::Zstd, &[]), ZSTD),
        (codecs(Codec::Zstd, &[STATES]), ZSTD_TRAINED),
    ]
}

fn big() -> String {
    format!(r#"{{"text":"{}"}}"#, "over and over. ".repeat(1000))
}

fn read(stored: &[u8], compressed: &str) -> Result<String, Fault> {
    // Created once for all cases of a property, because dictionaries take time.
    static READER: Lazy<Codecs> = Lazy::new(|| codecs(Codec::Gzip, &[STATES]));
    READER
        .decode(stored, Some(compressed.as_bytes()), BOUNDS)
        .map(|state| state.as_str().to_owned())
}

#[test]
fn spec_9_2_what_is_compressed_is_shorter_and_comes_back() {
    for (codecs, number) in all() {
        let (encoded, by) = codecs.encode(&big()).unwrap();
        assert!(encoded.len() * 10 < big().len());
        assert_eq!((read(&encoded, by), by), (Ok(big()), number));
        assert_eq!(codecs.encode("{}"), None, "it would be longer");
    }
}

#[test]
fn spec_9_2_gzip_is_what_other_servers_read_and_write() {
    // zlib.gzipSync('{"a":1}').toString('base64') of Node.js
    let theirs = b"H4sIAAAAAAAAA6tWSlSyMqwFAK+sG1YHAAAA";
    assert_eq!(read(theirs, "1"), Ok(r#"{"a":1}"#.into()));
    let (ours, _) = codecs(Codec::Gzip, &[]).encode(&big()).unwrap();
    assert!(ours.starts_with(b"H4sI"));
    assert!(
        ours.iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
    );
}

#[test]
fn spec_9_2_the_dictionary_of_codec_2_is_what_it_was_when_it_was_first_written() {
    // FNV-1a. If this fails, states in Redis can no longer be read. Add another codec instead.
    let hash = dictionary::BUILT_IN
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    assert_eq!(
        (dictionary::BUILT_IN.len(), hash),
        (6361, 7_812_095_593_107_457_074)
    );
}

#[test]
fn spec_9_2_bad_data_are_told_apart() {
    for (codecs, number) in all() {
        let (whole, _) = codecs.encode(&big()).unwrap();
        let cut = &whole[..whole.len() / 2 / 4 * 4];
        assert_eq!(read(cut, number).err(), Some(Fault::Damaged), "{number}");
    }
    assert_eq!(read(b"no base64!", "1"), Err(Fault::Base64));
    assert_eq!(
        read(&BASE64.encode("no gzip").into_bytes(), "1"),
        Err(Fault::Damaged)
    );
    assert_eq!(read(b"no zstd", "2"), Err(Fault::Damaged));
    assert_eq!(read(b"no zstd", "3"), Err(Fault::Damaged));
    assert_eq!(read(b"{packed", "99"), Err(Fault::UnknownCodec));
    assert_eq!(read(b"packed", "99"), Err(Fault::UnknownCodec));
    assert_eq!(read(b"{\"a\":", ""), Err(Fault::NotJson));
    assert_eq!(read(b"[1]", ""), Err(Fault::NotJson));
    assert_eq!(read(&[0xff], "0"), Err(Fault::NotJson));
    for number in ["1", "99"] {
        assert_eq!(read(br#"{"plain":1}"#, number), Ok(r#"{"plain":1}"#.into()));
    }
}

#[test]
fn spec_9_2_a_bomb_is_refused_before_it_is_unpacked() {
    let bomb = format!(r#"{{"text":"{}"}}"#, "0".repeat(8 << 20));
    for (codecs, number) in all() {
        let (encoded, _) = codecs.encode(&bomb).unwrap();
        assert!(encoded.len() < 32 << 10);
        assert_eq!(read(&encoded, number).err(), Some(Fault::TooLarge));
    }
    // Data with a false size.
    let (encoded, _) = codecs(Codec::Gzip, &[]).encode(&bomb).unwrap();
    let mut zipped = BASE64.decode(encoded).unwrap();
    let size_at = zipped.len() - 4;
    zipped[size_at..].copy_from_slice(&7_u32.to_le_bytes());
    assert_eq!(
        read(BASE64.encode(zipped).as_bytes(), "1").err(),
        Some(Fault::TooLarge)
    );
}

/// Also created once for all cases.
fn encoded_by_all() -> Vec<(Vec<u8>, &'static str)> {
    all()
        .iter()
        .map(|(codecs, number)| (codecs.encode(&big()).unwrap().0, *number))
        .collect()
}

proptest! {
    #[test]
    fn spec_9_2_no_bytes_at_all_can_do_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in 0usize..10_000,
        flipped in any::<u8>(),
        (mut encoded, number) in prop::sample::select(encoded_by_all()),
    ) {
        let _ = read(&bytes, number);
        let at = at % encoded.len();
        encoded[at] ^= flipped;
        if let Ok(text) = read(&encoded, number) {
            // A change in bits that decoding ignores (unused bits of a header) has no effect.
            prop_assert!(text.len() <= LIMIT);
        }
    }
}

#[test]
fn spec_9_2_a_dictionary_is_found_by_its_id_and_missed_by_those_who_have_it_not() {
    let (encoded, number) = codecs(Codec::Zstd, &[STATES]).encode(&big()).unwrap();
    let without = codecs(Codec::Zstd, &[]).decode(&encoded, Some(number.as_bytes()), BOUNDS);
    assert_eq!(without, Err(Fault::UnknownDictionary));
    assert!(Fault::UnknownDictionary.is_for_others());
}

#[test]
fn spec_9_2_what_is_no_dictionary_is_refused() {
    let refused = |dictionaries: &[&[u8]]| {
        let dictionaries = dictionaries.iter().map(|bytes| BASE64.encode(bytes));
        let compression = Compression {
            dictionaries: dictionaries.collect(),
            ..Compression::default()
        };
        Codecs::new(Some(&compression)).unwrap_err().message
    };
    assert!(refused(&[b"some text"]).contains("one of 9 bytes is no zstd dictionary"));
    // Data that begin like a dictionary but are not one.
    assert!(refused(&[&STATES[..100]]).contains("one of 100 bytes is no zstd dictionary"));
    assert!(refused(&[STATES, STATES]).contains("two have the same id"));
}

#[test]
fn spec_3_11_a_state_that_is_nested_too_deep_is_not_read_however_it_is_stored() {
    let nested = |depth: usize| {
        format!(
            "{{\"a\":{}{}}}",
            "[".repeat(depth - 1),
            "]".repeat(depth - 1)
        )
    };
    for (codecs, number) in all() {
        for (depth, readable) in [(128, true), (129, false), (10_000, false)] {
            let text = nested(depth);
            let expected = readable.then(|| text.clone()).ok_or(Fault::TooDeep);
            let (encoded, by) = codecs.encode(&text).unwrap();
            assert_eq!(read(&encoded, by), expected);
            assert_eq!(read(text.as_bytes(), ""), expected);
            // Overwritten by a server that does not compress.
            assert_eq!(read(text.as_bytes(), number), expected);
        }
    }
    assert!(Fault::TooDeep.is_for_others());
}
