//! Measures codecs on states. Reads lines `{"kind":…,"state":…}` from the standard input. Writes one
//! JSON line for each kind and codec: bytes before and after, and the time to write and to read a
//! state.
//!
//! `text` codecs produce base64 text for a field that other programs read as text; the others produce
//! bytes.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use std::{
    collections::BTreeMap,
    hint::black_box,
    io::{Read, Write},
    sync::LazyLock,
    time::{Duration, Instant},
};
use zstd::dict::{DecoderDictionary, EncoderDictionary};

type Encode = Box<dyn Fn(&[u8]) -> Vec<u8>>;
type Decode = Box<dyn Fn(&[u8], usize) -> Vec<u8>>;

struct Codec {
    name: &'static str,
    encode: Encode,
    decode: Decode,
}

fn codec(
    name: &'static str,
    encode: impl Fn(&[u8]) -> Vec<u8> + 'static,
    decode: impl Fn(&[u8], usize) -> Vec<u8> + 'static,
) -> Codec {
    Codec {
        name,
        encode: Box::new(encode),
        decode: Box::new(decode),
    }
}

fn gzip(level: u32) -> impl Fn(&[u8]) -> Vec<u8> {
    move |text| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
        out.write_all(text).unwrap();
        out.finish().unwrap()
    }
}

fn gunzip(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

fn deflate(level: u32) -> impl Fn(&[u8]) -> Vec<u8> {
    move |text| {
        let mut out = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(level));
        out.write_all(text).unwrap();
        out.finish().unwrap()
    }
}

fn inflate(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    flate2::read::DeflateDecoder::new(bytes).read_to_end(&mut out).unwrap();
    out
}

fn brotli(quality: i32) -> impl Fn(&[u8]) -> Vec<u8> {
    move |text| {
        let params = brotli::enc::BrotliEncoderParams {
            quality,
            lgwin: 18,
            size_hint: text.len(),
            ..Default::default()
        };
        let mut out = Vec::new();
        brotli::BrotliCompress(&mut &text[..], &mut out, &params).unwrap();
        out
    }
}

fn unbrotli(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    brotli::BrotliDecompress(&mut &bytes[..], &mut out).unwrap();
    out
}

fn zstd_with(level: i32) -> impl Fn(&[u8]) -> Vec<u8> {
    move |text| zstd::bulk::compress(text, level).unwrap()
}

/// The dictionary that Rollcall contains.
const DICTIONARY: &[u8] = include_bytes!("../../../src/model/codec/dictionary.txt");
static WRITE: LazyLock<EncoderDictionary<'static>> =
    LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, 3));
static READ: LazyLock<DecoderDictionary<'static>> =
    LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));

fn built_in(text: &[u8]) -> Vec<u8> {
    zstd::bulk::Compressor::with_prepared_dictionary(&WRITE)
        .unwrap()
        .compress(text)
        .unwrap()
}

/// `dictionary`: the beginnings of a third of the states. The measurement leaves these states out.
/// It shows what a dictionary trained on the application's own data can save.
fn codecs(dictionary: &[u8]) -> Vec<Codec> {
    let (one, other) = (dictionary.to_vec(), dictionary.to_vec());
    vec![
        codec(
            "gzip 1, base64",
            |text| BASE64.encode(gzip(1)(text)).into(),
            |bytes, size| gunzip(&BASE64.decode(bytes).unwrap(), size),
        ),
        codec(
            "gzip 6, base64",
            |text| BASE64.encode(gzip(6)(text)).into(),
            |bytes, size| gunzip(&BASE64.decode(bytes).unwrap(), size),
        ),
        codec("deflate 1", deflate(1), inflate),
        codec("deflate 6", deflate(6), inflate),
        codec(
            "deflate 6 (libdeflate, C)",
            |text| {
                let mut compressor =
                    libdeflater::Compressor::new(libdeflater::CompressionLvl::new(6).unwrap());
                let mut out = vec![0; compressor.deflate_compress_bound(text.len())];
                let size = compressor.deflate_compress(text, &mut out).unwrap();
                out.truncate(size);
                out
            },
            |bytes, size| {
                let mut out = vec![0; size];
                libdeflater::Decompressor::new()
                    .deflate_decompress(bytes, &mut out)
                    .unwrap();
                out
            },
        ),
        codec(
            "lz4",
            lz4_flex::block::compress,
            |bytes, size| lz4_flex::block::decompress(bytes, size).unwrap(),
        ),
        codec(
            "snappy",
            |text| snap::raw::Encoder::new().compress_vec(text).unwrap(),
            |bytes, _| snap::raw::Decoder::new().decompress_vec(bytes).unwrap(),
        ),
        codec("brotli 2", brotli(2), unbrotli),
        codec("brotli 4", brotli(4), unbrotli),
        codec("brotli 5", brotli(5), unbrotli),
        codec("brotli 9", brotli(9), unbrotli),
        codec("zstd 1 (C)", zstd_with(1), |bytes, size| {
            zstd::bulk::decompress(bytes, size).unwrap()
        }),
        codec("zstd 3 (C)", zstd_with(3), |bytes, size| {
            zstd::bulk::decompress(bytes, size).unwrap()
        }),
        codec("zstd 9 (C)", zstd_with(9), |bytes, size| {
            zstd::bulk::decompress(bytes, size).unwrap()
        }),
        codec("zstd 3, built-in dictionary (C)", built_in, |bytes, size| {
            zstd::bulk::Decompressor::with_prepared_dictionary(&READ)
                .unwrap()
                .decompress(bytes, size)
                .unwrap()
        }),
        codec(
            "zstd 3, own dictionary (C)",
            move |text| {
                zstd::bulk::Compressor::with_dictionary(3, &one)
                    .unwrap()
                    .compress(text)
                    .unwrap()
            },
            move |bytes, size| {
                zstd::bulk::Decompressor::with_dictionary(&other)
                    .unwrap()
                    .decompress(bytes, size)
                    .unwrap()
            },
        ),
    ]
}

/// The shortest of several runs over all states, divided by the number of states.
fn fastest(states: usize, mut run: impl FnMut()) -> f64 {
    let mut best = Duration::MAX;
    let begin = Instant::now();
    for round in 0.. {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
        if round >= 3 && begin.elapsed() > Duration::from_millis(120) {
            break;
        }
    }
    best.as_secs_f64() * 1e6 / states as f64
}

#[derive(serde::Deserialize)]
struct Line {
    kind: String,
    state: String,
}

fn main() {
    let mut kinds: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for line in std::io::stdin().lines() {
        let line: Line = serde_json::from_str(&line.unwrap()).unwrap();
        kinds.entry(line.kind).or_default().push(line.state.into_bytes());
    }
    for (kind, states) in &kinds {
        let dictionary: Vec<u8> = states
            .iter()
            .step_by(3)
            .flat_map(|state| state.iter().copied().take(16 * 1024))
            .collect();
        // States that are part of the dictionary are not measured.
        let states: Vec<&Vec<u8>> =
            states.iter().enumerate().filter(|(i, _)| i % 3 != 0).map(|(_, s)| s).collect();
        let bytes: usize = states.iter().map(|state| state.len()).sum();
        for codec in codecs(&dictionary) {
            let encoded: Vec<Vec<u8>> = states.iter().map(|state| (codec.encode)(state)).collect();
            for (state, encoded) in states.iter().zip(&encoded) {
                assert!((codec.decode)(encoded, state.len()) == **state, "{}", codec.name);
            }
            let write = fastest(states.len(), || {
                for state in &states {
                    black_box((codec.encode)(black_box(state)));
                }
            });
            let read = fastest(states.len(), || {
                for (state, encoded) in states.iter().zip(&encoded) {
                    black_box((codec.decode)(black_box(encoded), state.len()));
                }
            });
            // The mean of the saving of each state, so that large states do not dominate.
            let saved: f64 = states
                .iter()
                .zip(&encoded)
                .map(|(state, encoded)| 1.0 - encoded.len() as f64 / state.len() as f64)
                .sum::<f64>()
                / states.len() as f64;
            println!(
                "{}",
                serde_json::json!({
                    "kind": kind, "codec": codec.name, "states": states.len(), "bytes": bytes,
                    "encoded": encoded.iter().map(Vec::len).sum::<usize>(),
                    "saved": saved, "writeMicros": write, "readMicros": read,
                })
            );
        }
    }
}
