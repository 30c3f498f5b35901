//! How states are compressed (spec 9.2), and how what is stored is read back, whoever wrote it:
//! nothing that is stored can make a reader allocate more than the limit, or fail in a way that is
//! not one of [`Fault`].
//!
//! `docs/decisions/0009-codecs-gzip-and-zstd.md` says why it is these two.

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

/// A codec, as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Codec {
    /// Gzip, in base64, as the TypeScript servers that compress do it.
    #[default]
    Gzip,
    /// Zstd, as bytes: with the first of the application's dictionaries, or the one that is built in.
    Zstd,
}

// What the field `compressed` of a connection's hash holds. What a number means never changes.
const NONE: &str = "0";
const GZIP: &str = "1";
/// Zstd with the built-in dictionary.
const ZSTD: &str = "2";
/// Zstd with a dictionary of the application's, whose id is in the data.
const ZSTD_TRAINED: &str = "3";

/// Which states are compressed, and how. The defaults are those of the option `stateCompression`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Compression {
    /// States longer than this are compressed. In bytes of JSON; default 1024.
    pub threshold_bytes: usize,
    pub codec: Codec,
    /// Zstd dictionaries of the application's, in base64: `Zstd` writes with the first, all are read.
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

/// As `zlib.gzip` of Node.js compresses where nothing else is said.
const GZIP_LEVEL: u32 = 6;

/// How a client writes and reads states.
#[derive(Debug, Default)]
pub struct Codecs {
    /// What is compressed: what is longer than so many bytes, and how.
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

    /// The compressed text, and its codec's number; `None` if it is to be stored as it is.
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

    /// Reads a state as it is stored. `compressed`: what the field of that name holds. No more than
    /// `bounds.bytes` are ever unpacked.
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
        // A server that does not compress has overwritten the state and left the field.
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

    /// The application's dictionary that something was compressed with.
    fn trained(&self, stored: &[u8]) -> Result<&Dictionary, Fault> {
        let id = get_dict_id_from_frame(stored).ok_or(Fault::Damaged)?;
        let mut known = self.dictionaries.iter();
        known
            .find(|one| one.id() == Some(id))
            .ok_or(Fault::UnknownDictionary)
    }
}

/// What a reader accepts of a stored state (`limits`).
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub bytes: usize,
    pub depth: usize,
}

/// The state whose text this is.
pub fn as_it_is(text: &[u8], max_depth: usize) -> Result<State, Fault> {
    let text = std::str::from_utf8(text).map_err(|_| Fault::NotJson)?;
    let state = State::parse("state", text).map_err(|_| Fault::NotJson)?;
    // Encoders that recurse would fail on it, in handlers and acknowledgements (spec 3.11).
    if json::is_deeper(text, max_depth) {
        return Err(Fault::TooDeep);
    }
    Ok(state)
}

/// What is wrong with a stored state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `compressed` holds a number that this version does not know.
    UnknownCodec,
    /// It needs a dictionary that this client was not given.
    UnknownDictionary,
    /// What is said to be base64 is none.
    Base64,
    /// The compressed data are cut off or damaged.
    Damaged,
    /// The text would be longer than the limit.
    TooLarge,
    /// The text is no JSON object.
    NotJson,
    /// Arrays and objects are nested deeper than the limit.
    TooDeep,
    /// The connection keeps its state in a key of its own, which is not there.
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

    /// Whether another client could read it: it is not to be written over.
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
