//! Compression of states (spec 9.2), and decoding of stored states, whichever software wrote them.
//! No stored bytes can make a reader allocate more than the limit, or fail with another error than
//! a [`Fault`].
//!
//! `docs/decisions/0009-codecs-gzip-and-zstd.md` explains the choice of these two codecs.

mod dictionary;

use crate::model::{
    error::{Error, Result},
    json,
    state::State,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use dictionary::Dictionary;
use flate2::{read::GzDecoder, write::GzEncoder};
use serde::Deserialize;
use std::{
    fmt,
    io::{Read, Write},
};
use zstd::zstd_safe::{get_dict_id_from_frame, get_frame_content_size};

/// A codec, as options name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Codec {
    /// Gzip in base64, as legacy nodes that compress write it.
    #[default]
    Gzip,
    /// Zstd as bytes, with the first of the application's dictionaries or the built-in one.
    Zstd,
}

// Values of the field `compressed` of a connection's hash. The meaning of a number never changes.
const NONE: &str = "0";
const GZIP: &str = "1";
/// Zstd with the built-in dictionary.
const ZSTD: &str = "2";
/// Zstd with a dictionary of the application. The data contain its id.
const ZSTD_TRAINED: &str = "3";

/// Which states are compressed, and how. The defaults are those of the option `stateCompression`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compression {
    /// States longer than this are compressed. Bytes of JSON, default 1024.
    pub threshold_bytes: usize,
    pub codec: Codec,
    /// Zstd dictionaries of the application, in base64. `Zstd` writes with the first and reads with
    /// all.
    pub dictionaries: Vec<String>,
}

impl Default for Compression {
    fn default() -> Self {
        Compression {
            threshold_bytes: 1024,
            codec: Codec::default(),
            dictionaries: Vec::new(),
        }
    }
}

/// The default level of `zlib.gzip` in Node.js.
const GZIP_LEVEL: u32 = 6;

/// Encodes and decodes states for a client.
#[derive(Debug, Default)]
pub struct Codecs {
    /// The length in bytes above which states are compressed, and the codec; `None`: no
    /// compression.
    writes: Option<(usize, Codec)>,
    dictionaries: Vec<Dictionary>,
}

impl Codecs {
    pub fn new(compression: Option<&Compression>) -> Result<Codecs> {
        let Some(compression) = compression else {
            return Ok(Codecs::default());
        };
        let mut dictionaries: Vec<Dictionary> = Vec::new();
        for text in &compression.dictionaries {
            let bytes = BASE64
                .decode(text)
                .map_err(|_| Error::invalid("stateCompression.dictionaries must be base64"))?;
            let trained = Dictionary::trained(&bytes)?;
            if dictionaries.iter().any(|one| one.id() == trained.id()) {
                return Err(Error::invalid(
                    "stateCompression.dictionaries: two have the same id; leave one out, or train \
                     it anew",
                ));
            }
            dictionaries.push(trained);
        }
        Ok(Codecs {
            writes: Some((compression.threshold_bytes, compression.codec)),
            dictionaries,
        })
    }

    /// Whether states are compressed, if they are long enough.
    pub fn compress(&self) -> bool {
        self.writes.is_some()
    }

    /// The compressed text and its codec's number; `None` if the text is stored uncompressed.
    pub fn encode(&self, text: &str) -> Option<(Vec<u8>, &'static str)> {
        let (threshold, codec) = self.writes?;
        if text.len() <= threshold {
            return None;
        }
        let (encoded, number) = match (codec, self.dictionaries.first()) {
            (Codec::Gzip, _) => (gzip(text.as_bytes())?, GZIP),
            (Codec::Zstd, None) => (Dictionary::built_in().compress(text.as_bytes()).ok()?, ZSTD),
            (Codec::Zstd, Some(own)) => (own.compress(text.as_bytes()).ok()?, ZSTD_TRAINED),
        };
        (encoded.len() < text.len()).then_some((encoded, number))
    }

    /// Whether a text of this length is compressed.
    pub fn compresses(&self, bytes: usize) -> bool {
        self.writes.is_some_and(|(threshold, _)| bytes > threshold)
    }

    /// Decodes a stored state. `compressed`: the field of that name. Never unpacks more than
    /// `bounds.bytes`.
    pub fn decode(
        &self,
        stored: &[u8],
        compressed: Option<&[u8]>,
        bounds: Bounds,
    ) -> Result<State, Fault> {
        let limit = bounds.bytes;
        let codec = std::str::from_utf8(compressed.unwrap_or_default());
        if let Ok("" | NONE) = codec {
            return as_it_is(stored, bounds.depth);
        }
        // A server that does not compress has overwritten the state but not the field.
        if stored.first() == Some(&b'{') {
            let plain = as_it_is(stored, bounds.depth);
            if plain.is_ok() || plain == Err(Fault::TooDeep) {
                return plain;
            }
        }
        let unpacked = match codec {
            Ok(GZIP) => gunzip(stored, limit)?,
            Ok(ZSTD) => unzstd(stored, Dictionary::built_in(), limit)?,
            Ok(ZSTD_TRAINED) => unzstd(stored, self.trained(stored)?, limit)?,
            _ => return Err(Fault::UnknownCodec),
        };
        as_it_is(&unpacked, bounds.depth)
    }

    /// The application's dictionary that the data were compressed with.
    fn trained(&self, stored: &[u8]) -> Result<&Dictionary, Fault> {
        let id = get_dict_id_from_frame(stored).ok_or(Fault::Damaged)?;
        let mut known = self.dictionaries.iter();
        known
            .find(|one| one.id() == Some(id))
            .ok_or(Fault::UnknownDictionary)
    }
}

/// The bounds of a stored state that is accepted (`limits`).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub bytes: usize,
    pub depth: usize,
}

/// Parses the text of a state.
pub fn as_it_is(text: &[u8], max_depth: usize) -> Result<State, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| Fault::NotJson)?;
    let state = State::parse("state", text).map_err(|_| Fault::NotJson)?;
    // Recursive encoders would fail on it, in handlers and acknowledgements (spec 3.11).
    if json::is_deeper(text, max_depth) {
        return Err(Fault::TooDeep);
    }
    Ok(state)
}

/// Why a stored state cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `compressed` has a number that this version does not know.
    UnknownCodec,
    /// The state needs a dictionary that this client does not have.
    UnknownDictionary,
    /// The data should be base64, but are not.
    Base64,
    /// The compressed data are truncated or damaged.
    Damaged,
    /// The text would be longer than the limit.
    TooLarge,
    /// The text is not a JSON object.
    NotJson,
    /// Arrays and objects are nested deeper than the limit.
    TooDeep,
    /// The state's separate key does not exist.
    Gone,
}

impl Fault {
    pub const ALL: [Fault; 8] = [
        Fault::UnknownCodec,
        Fault::UnknownDictionary,
        Fault::Base64,
        Fault::Damaged,
        Fault::TooLarge,
        Fault::NotJson,
        Fault::TooDeep,
        Fault::Gone,
    ];

    /// Whether another client may be able to read the state. It must then not be overwritten.
    pub fn is_for_others(self) -> bool {
        matches!(
            self,
            Fault::UnknownCodec | Fault::UnknownDictionary | Fault::TooDeep
        )
    }

    /// What to do so that this client can patch the state.
    pub fn remedy(self) -> &'static str {
        match self {
            Fault::UnknownCodec => "update this node",
            Fault::UnknownDictionary => {
                "give this node the dictionary (stateCompression.dictionaries)"
            }
            Fault::TooDeep => "join again with a flatter state, or raise limits.maxDepth",
            _ => "join again",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::UnknownCodec => {
                "it is compressed in a way that this version of Rollcall does not know"
            }
            Fault::UnknownDictionary => {
                "it is compressed with a dictionary that is not among stateCompression.dictionaries"
            }
            Fault::Base64 => "it is said to be compressed, but is no base64",
            Fault::Damaged => "its compressed data are cut off or damaged",
            Fault::TooLarge => "it would be longer than limits.maxStateBytes",
            Fault::NotJson => "it is no JSON object",
            Fault::TooDeep => "it is nested deeper than limits.maxDepth",
            Fault::Gone => "its key is gone",
        })
    }
}

fn gzip(text: &[u8]) -> Option<Vec<u8>> {
    let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL));
    gzip.write_all(text).ok()?;
    Some(BASE64.encode(gzip.finish().ok()?).into_bytes())
}

fn gunzip(stored: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let zipped = BASE64.decode(stored).map_err(|_| Fault::Base64)?;
    // The last four bytes are the size, which the writer may have set to any value.
    let claimed = zipped
        .last_chunk()
        .map_or(0, |size| u32::from_le_bytes(*size) as usize);
    let mut text = Vec::with_capacity(if claimed <= limit { claimed } else { 0 });
    // Unpacking stops at the limit, whatever the size says.
    let mut within = GzDecoder::new(&zipped[..]).take(limit as u64 + 1);
    match within.read_to_end(&mut text) {
        Ok(size) if size > limit => Err(Fault::TooLarge),
        Ok(_) => Ok(text),
        Err(_) => Err(Fault::Damaged),
    }
}

fn unzstd(stored: &[u8], dictionary: &Dictionary, limit: usize) -> Result<Vec<u8>, Fault> {
    // Rollcall always writes the size.
    let size = match get_frame_content_size(stored) {
        Ok(Some(size)) => size,
        Ok(None) | Err(_) => return Err(Fault::Damaged),
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= limit)
        .ok_or(Fault::TooLarge)?;
    dictionary
        .decompress(stored, size)
        .map_err(|_| Fault::Damaged)
}

#[cfg(test)]
mod tests;
