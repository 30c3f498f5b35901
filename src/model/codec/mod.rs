//! How states are compressed (spec 9.2), and how what is stored is read back, whoever wrote it:
//! nothing that is stored can make a reader allocate more than the limit, or fail in a way that is
//! not one of [`Fault`].
//!
//! `docs/state.md` says why it is these two codecs.

use crate::model::state::State;
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use flate2::{read::GzDecoder, write::GzEncoder};
use serde::Deserialize;
use std::{
    borrow::Cow,
    cell::RefCell,
    fmt,
    io::{Read, Write},
    sync::LazyLock,
};
use zstd::{
    bulk::{Compressor, Decompressor},
    dict::{DecoderDictionary, EncoderDictionary},
};

/// A codec. Its number is what the field `compressed` of a connection's hash holds; what a number
/// means never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Codec {
    /// Number 1: gzip, in base64, as the TypeScript servers that compress do it.
    #[default]
    Gzip,
    /// Number 2: zstd with the dictionary that is built in, as bytes.
    Zstd,
}

/// Which states are compressed, and how. The defaults are those of the option `stateCompression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compression {
    /// States longer than this are compressed. In bytes of JSON; default 1024.
    pub threshold_bytes: usize,
    pub codec: Codec,
}

impl Default for Compression {
    fn default() -> Self {
        Compression {
            threshold_bytes: 1024,
            codec: Codec::default(),
        }
    }
}

/// As `zlib.gzip` of Node.js compresses where nothing else is said.
const GZIP_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// What states have in common, as one text: names of fields, values, browsers. It belongs to codec
/// number 2 and can never be changed: another text is another number.
const DICTIONARY: &[u8] = include_bytes!("dictionary.txt");
static ZSTD_WRITE: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, ZSTD_LEVEL));
static ZSTD_READ: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

// What they work in is large, and takes longer to make than a small state to compress.
thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn zstd(text: &[u8]) -> std::io::Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(zstd) => zstd.compress(text),
        None => kept
            .insert(Compressor::with_prepared_dictionary(&ZSTD_WRITE)?)
            .compress(text),
    })
}

/// `size`: what the text has at most.
fn unzstd_into(stored: &[u8], size: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(zstd) => zstd.decompress(stored, size),
        None => kept
            .insert(Decompressor::with_prepared_dictionary(&ZSTD_READ)?)
            .decompress(stored, size),
    })
}

impl Codec {
    pub fn number(self) -> &'static str {
        match self {
            Codec::Gzip => "1",
            Codec::Zstd => "2",
        }
    }

    /// The compressed text; `None` if it would not be shorter.
    pub fn encode(self, text: &str) -> Option<Vec<u8>> {
        let encoded = match self {
            Codec::Gzip => {
                let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
                gzip.write_all(text.as_bytes()).ok()?;
                BASE64.encode(gzip.finish().ok()?).into_bytes()
            }
            Codec::Zstd => zstd(text.as_bytes()).ok()?,
        };
        (encoded.len() < text.len()).then_some(encoded)
    }
}

/// What is wrong with a stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `compressed` holds a number that this version does not know.
    UnknownCodec,
    /// What is said to be base64 is none.
    Base64,
    /// The compressed data are cut off or damaged.
    Damaged,
    /// The text would be longer than the limit.
    TooLarge,
    /// The text is no JSON object.
    NotJson,
    /// The connection keeps its state in a key of its own, which is not there.
    Gone,
}

impl Fault {
    pub const ALL: [Fault; 6] = [
        Fault::UnknownCodec,
        Fault::Base64,
        Fault::Damaged,
        Fault::TooLarge,
        Fault::NotJson,
        Fault::Gone,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::UnknownCodec => {
                "it is compressed in a way that this version of Rollcall does not know"
            }
            Fault::Base64 => "it is said to be compressed, but is no base64",
            Fault::Damaged => "its compressed data are cut off or damaged",
            Fault::TooLarge => "it would be longer than limits.maxStateBytes",
            Fault::NotJson => "it is no JSON object",
            Fault::Gone => "its key is gone",
        })
    }
}

/// Reads a state as it is stored. `compressed`: what the field of that name holds. No more than
/// `limit` bytes are ever unpacked.
pub fn decode(stored: &[u8], compressed: Option<&[u8]>, limit: usize) -> Result<State, Fault> {
    let text = match compressed {
        None | Some(b"" | b"0") => Cow::Borrowed(stored),
        // A server that does not compress has overwritten the state and left the field: base64 has
        // no brace.
        Some(b"1") if stored.first() == Some(&b'{') => Cow::Borrowed(stored),
        Some(b"1") => Cow::Owned(gunzip(stored, limit)?),
        Some(b"2") => Cow::Owned(unzstd(stored, limit)?),
        Some(_) => return Err(Fault::UnknownCodec),
    };
    std::str::from_utf8(&text)
        .ok()
        .and_then(|text| State::parse("state", text).ok())
        .ok_or(Fault::NotJson)
}

fn gunzip(stored: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let zipped = BASE64.decode(stored).map_err(|_| Fault::Base64)?;
    // The last four bytes are the size, by the word of whoever wrote them.
    let claimed = zipped
        .last_chunk()
        .map_or(0, |size| u32::from_le_bytes(*size) as usize);
    let mut text = Vec::with_capacity(if claimed <= limit { claimed } else { 0 });
    // Whatever it claims, unpacking stops at the limit.
    let mut within = GzDecoder::new(&zipped[..]).take(limit as u64 + 1);
    match within.read_to_end(&mut text) {
        Ok(size) if size > limit => Err(Fault::TooLarge),
        Ok(_) => Ok(text),
        Err(_) => Err(Fault::Damaged),
    }
}

fn unzstd(stored: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    // Rollcall always writes the size.
    let size = match zstd::zstd_safe::get_frame_content_size(stored) {
        Ok(Some(size)) => size,
        Ok(None) | Err(_) => return Err(Fault::Damaged),
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= limit)
        .ok_or(Fault::TooLarge)?;
    unzstd_into(stored, size).map_err(|_| Fault::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 20;
    const CODECS: [Codec; 2] = [Codec::Gzip, Codec::Zstd];

    fn big() -> String {
        format!(r#"{{"text":"{}"}}"#, "over and over. ".repeat(1000))
    }

    fn read(stored: &[u8], compressed: &str) -> Result<String, Fault> {
        decode(stored, Some(compressed.as_bytes()), LIMIT).map(|state| state.as_str().to_owned())
    }

    #[test]
    fn spec_9_2_what_is_compressed_is_shorter_and_comes_back() {
        for codec in CODECS {
            let encoded = codec.encode(&big()).unwrap();
            assert!(encoded.len() * 10 < big().len());
            assert_eq!(read(&encoded, codec.number()), Ok(big()));
            assert_eq!(codec.encode("{}"), None, "it would be longer");
        }
    }

    #[test]
    fn spec_9_2_gzip_is_what_other_servers_read_and_write() {
        // zlib.gzipSync('{"a":1}').toString('base64') of Node.js
        let theirs = b"H4sIAAAAAAAAA6tWSlSyMqwFAK+sG1YHAAAA";
        assert_eq!(read(theirs, "1"), Ok(r#"{"a":1}"#.into()));
        let ours = Codec::Gzip.encode(&big()).unwrap();
        assert!(ours.starts_with(b"H4sI"));
        assert!(
            ours.iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
        );
    }

    #[test]
    fn spec_9_2_the_dictionary_of_codec_2_is_what_it_was_when_it_was_first_written() {
        // FNV-1a. If this fails, states in Redis cannot be read any more: make another codec.
        let hash = DICTIONARY
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        assert_eq!((DICTIONARY.len(), hash), (6361, 7_812_095_593_107_457_074));
    }

    #[test]
    fn spec_9_2_bad_data_are_told_apart() {
        for codec in CODECS {
            let whole = codec.encode(&big()).unwrap();
            let cut = &whole[..whole.len() / 2 / 4 * 4];
            assert_eq!(
                read(cut, codec.number()).err(),
                Some(Fault::Damaged),
                "{codec:?}"
            );
        }
        assert_eq!(read(b"no base64!", "1"), Err(Fault::Base64));
        assert_eq!(
            read(&BASE64.encode("no gzip").into_bytes(), "1"),
            Err(Fault::Damaged)
        );
        assert_eq!(read(b"no zstd", "2"), Err(Fault::Damaged));
        assert_eq!(read(b"{}", "99"), Err(Fault::UnknownCodec));
        assert_eq!(decode(b"{\"a\":", None, LIMIT), Err(Fault::NotJson));
        assert_eq!(decode(b"[1]", Some(b""), LIMIT), Err(Fault::NotJson));
        assert_eq!(decode(&[0xff], Some(b"0"), LIMIT), Err(Fault::NotJson));
        assert_eq!(read(br#"{"plain":1}"#, "1"), Ok(r#"{"plain":1}"#.into()));
    }

    #[test]
    fn spec_9_2_a_bomb_is_refused_before_it_is_unpacked() {
        let bomb = format!(r#"{{"text":"{}"}}"#, "0".repeat(8 << 20));
        for codec in CODECS {
            let encoded = codec.encode(&bomb).unwrap();
            assert!(encoded.len() < 32 << 10);
            assert_eq!(read(&encoded, codec.number()).err(), Some(Fault::TooLarge));
        }
        // One that lies about its size.
        let mut zipped = BASE64.decode(Codec::Gzip.encode(&bomb).unwrap()).unwrap();
        let size_at = zipped.len() - 4;
        zipped[size_at..].copy_from_slice(&7_u32.to_le_bytes());
        assert_eq!(
            read(BASE64.encode(zipped).as_bytes(), "1").err(),
            Some(Fault::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn spec_9_2_no_bytes_at_all_can_do_harm(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0usize..10_000,
            flipped in any::<u8>(),
            codec in prop::sample::select(&CODECS[..]),
        ) {
            let _ = read(&bytes, codec.number());
            let mut encoded = codec.encode(&big()).unwrap();
            let at = at % encoded.len();
            encoded[at] ^= flipped;
            if let Ok(text) = read(&encoded, codec.number()) {
                // A change that decoding does not see (a header's unused bits) changes nothing.
                prop_assert!(text.len() <= LIMIT);
            }
        }
    }
}
