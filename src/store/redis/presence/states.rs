//! States as they are in Redis (spec section 9): in the connection's hash or in a key of their own,
//! compressed or not, written by us or by others. How they are written, and how connections are
//! read with them.

use crate::{
    model::{
        codec::{self, Bounds, Codecs, Fault},
        error::{Error, Result},
        ids,
        limits::Limits,
        presence::Epoch,
        state::{State, Storage},
    },
    offload::offload,
    store::{
        EventSink, LogLevel, StateEncoding, Stored,
        redis::{
            presence::rooms::{Rooms, fields, number, utf8},
            scripts,
            transport::{errors, link::Repeat},
        },
    },
};
use parking_lot::Mutex;
use redis::{Pipeline, Value};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often one kind of fault is logged; each is counted.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How states are stored.
#[derive(Debug, Default)]
pub struct StateOptions {
    pub storage: Storage,
    pub codecs: Codecs,
}

/// The state as it is to be stored, where that is not its text.
#[derive(Default)]
pub struct Encoded {
    pub bytes: Option<Vec<u8>>,
    /// For the field `compressed`; empty for none.
    pub compressed: &'static str,
}

impl Encoded {
    pub fn bytes<'a>(&'a self, state: &'a State) -> &'a [u8] {
        self.bytes
            .as_deref()
            .unwrap_or_else(|| state.as_str().as_bytes())
    }

    /// How a state that is stored like this is recognised. `revision`: if it is in a key of its own.
    pub fn into_encoding(self, revision: Option<u64>) -> Option<Arc<StateEncoding>> {
        let plain = self.bytes.is_none() && revision.is_none();
        (!plain).then(|| {
            Arc::new(StateEncoding {
                raw: self.bytes,
                compressed: self.compressed.as_bytes().to_vec(),
                separate: revision.is_some(),
                revision: revision.unwrap_or_default(),
                foreign: None,
            })
        })
    }
}

/// Writes and reads states, and tells of those that cannot be read.
pub struct States {
    storage: Storage,
    reader: Reader,
    sink: Arc<dyn EventSink>,
    /// A state was met that is compressed or in a key of its own.
    met_others: AtomicBool,
    warned: Mutex<[Option<Instant>; Fault::ALL.len()]>,
}

/// Reads stored states, on whatever thread.
#[derive(Clone)]
struct Reader {
    codecs: Arc<Codecs>,
    bounds: Bounds,
}

impl Reader {
    fn decode(&self, stored: &[u8], compressed: Option<&[u8]>) -> Result<State, Fault> {
        self.codecs.decode(stored, compressed, self.bounds)
    }

    /// The state of a connection; `None` if somebody else has written the connection without one.
    fn read(&self, found: &Found) -> Result<Option<State>, Fault> {
        match &found.state {
            Some(bytes) => self.decode(bytes, found.compressed.as_deref()).map(Some),
            None if found.separate => Err(Fault::Gone),
            None => Ok(None),
        }
    }
}

/// How much longer it takes to compress a text than to parse one of the same length.
const COMPRESSION_EFFORT: usize = 8;

impl States {
    pub fn new(options: StateOptions, limits: &Limits, sink: Arc<dyn EventSink>) -> Self {
        States {
            storage: options.storage,
            reader: Reader {
                codecs: Arc::new(options.codecs),
                bounds: Bounds {
                    bytes: limits.max_state_bytes,
                    depth: limits.max_depth,
                },
            },
            sink,
            met_others: AtomicBool::new(false),
            warned: Mutex::default(),
        }
    }

    /// Whether connections that join here keep their states in keys of their own.
    pub fn are_separate(&self) -> bool {
        self.storage == Storage::Separate
    }

    pub async fn encode(&self, state: &State) -> Encoded {
        let bytes = state.as_str().len();
        if !self.reader.codecs.compresses(bytes) {
            return Encoded::default();
        }
        let (codecs, state) = (self.reader.codecs.clone(), state.clone());
        let encode = move || codecs.encode(state.as_str());
        match offload(bytes.saturating_mul(COMPRESSION_EFFORT), encode).await {
            None => Encoded::default(),
            Some((bytes, compressed)) => Encoded {
                bytes: Some(bytes),
                compressed,
            },
        }
    }

    /// What a patch is merged into.
    pub fn stored(
        &self,
        bytes: Vec<u8>,
        compressed: &[u8],
        separate: bool,
        revision: u64,
    ) -> Stored {
        let decoded = self.reader.decode(&bytes, Some(compressed));
        let is_text = decoded
            .as_ref()
            .is_ok_and(|state| state.as_str().as_bytes() == bytes);
        let plain = is_text && compressed.is_empty() && !separate;
        Stored {
            encoding: (!plain).then(|| {
                Arc::new(StateEncoding {
                    raw: (!is_text).then_some(bytes),
                    compressed: compressed.to_vec(),
                    separate,
                    revision,
                    foreign: decoded
                        .as_ref()
                        .err()
                        .copied()
                        .filter(|fault| fault.is_for_others()),
                })
            }),
            state: decoded.unwrap_or_else(|_| State::empty()),
        }
    }

    /// Whether states may be compressed or in keys of their own: this client stores them so, or has come
    /// upon such.
    fn may_be_stored_otherwise(&self) -> bool {
        self.are_separate()
            || self.reader.codecs.compress()
            || self.met_others.load(Ordering::Relaxed)
    }

    /// The state as it is shown: `None`, counted and logged, if it cannot be read.
    fn display(
        &self,
        conn: &str,
        found: &Found,
        read: Result<Option<State>, Fault>,
    ) -> Option<State> {
        if found.separate || found.compressed.is_some() {
            self.met_others.store(true, Ordering::Relaxed);
        }
        read.unwrap_or_else(|fault| {
            self.warn_unreadable(conn, fault);
            None
        })
    }

    fn warn_unreadable(&self, conn: &str, fault: Fault) {
        self.sink.unreadable_state();
        let warned = &mut self.warned.lock()[fault as usize];
        if warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        *warned = Some(Instant::now());
        self.sink.log(
            LogLevel::Warn,
            &format!(
                "The state of connection {} cannot be read and is shown as null: {fault}. \
                 (Said once a minute; metrics().statesUnreadable counts them all)",
                ids::display_id(conn)
            ),
        );
    }
}

/// What a connection's hash, and the key of its state, hold.
pub struct Found {
    pub user: String,
    pub room: String,
    pub last_seen_ms: u64,
    pub epoch: Epoch,
    state: Option<Vec<u8>>,
    compressed: Option<Vec<u8>>,
    /// The state belongs into a key of its own.
    separate: bool,
    revision: u64,
}

/// What is read of a hash.
const FIELDS: [&str; 7] = [
    "user_id",
    "room_id",
    "last_seen_ms",
    "epoch",
    "state",
    "compressed",
    "state_rev",
];

/// How many of them say nothing of how the state is stored.
const BRIEF: usize = 5;

impl Found {
    fn read(answer: Value) -> Result<Option<Found>> {
        fields::<{ FIELDS.len() }>(answer).map(Found::of)
    }

    /// From an answer with the first fields only.
    fn read_brief(answer: Value) -> Result<Option<Found>> {
        let [user, room, seen, epoch, state] = fields::<BRIEF>(answer)?;
        Ok(Found::of([user, room, seen, epoch, state, None, None]))
    }

    fn of(fields: [Option<Vec<u8>>; FIELDS.len()]) -> Option<Found> {
        let [user, room, seen, epoch, state, compressed, revision] = fields;
        let (Some(user), Some(room)) = (user.and_then(utf8), room.and_then(utf8)) else {
            return None;
        };
        // A state in the hash was written later than one in the key, by somebody else.
        let revision = revision.filter(|_| state.is_none());
        Some(Found {
            user,
            room,
            last_seen_ms: seen.as_deref().map_or(0, number),
            epoch: epoch.as_deref().map_or(0, number),
            separate: revision.is_some(),
            state,
            compressed,
            revision: revision.as_deref().map_or(0, number),
        })
    }

    /// From the answers for the hash and for the key of the state.
    fn read_both(hash: Value, state: Value) -> Result<Option<Found>> {
        let mut found = Found::read(hash)?;
        if let (Some(found), Value::BulkString(state)) = (&mut found, state)
            && found.separate
        {
            found.state = Some(state);
        }
        Ok(found)
    }
}

impl Rooms {
    /// Reads connections of rooms, each for itself, in order; `None` for those that are not there.
    /// The room matters on `slotted` only. A key of another type is `CORRUPT_DATA`.
    pub(in crate::store::redis) async fn read_connections(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Vec<Result<Option<Found>>> {
        if self.states.are_separate() {
            return self.read_with_keys(pairs).await;
        }
        let mut found = self.read_hashes(pairs, &FIELDS, Found::read).await;
        let separate: Vec<usize> = (0..found.len())
            .filter(|&i| matches!(&found[i], Ok(Some(found)) if found.separate))
            .collect();
        if !separate.is_empty() {
            let separate_pairs = picked(pairs, &separate);
            let again = self.read_with_keys(&separate_pairs).await;
            for (i, again) in separate.into_iter().zip(again) {
                found[i] = again;
            }
        }
        found
    }

    /// Like [`Rooms::read_connections`], with the states as they are shown. How a state is stored is
    /// asked only of those that are no JSON object by themselves; of all, once one was stored otherwise:
    /// there will be more.
    pub(in crate::store::redis) async fn read_states(
        &self,
        pairs: &[(impl AsRef<str>, String)],
    ) -> Vec<Result<Option<(Found, Option<State>)>>> {
        if self.states.may_be_stored_otherwise() {
            let found = self.read_connections(pairs).await;
            let conns = pairs.iter().map(|(_, conn)| conn.as_str());
            return self.with_states(found, conns).await;
        }
        let found = self
            .read_hashes(pairs, &FIELDS[..BRIEF], Found::read_brief)
            .await;
        let max_depth = self.states.reader.bounds.depth;
        let as_it_is = move |found: Found| {
            let bytes = found.state.as_deref();
            let state = bytes.and_then(|bytes| codec::as_it_is(bytes, max_depth).ok());
            (found, state)
        };
        let mut read: Vec<_> = offload(bytes_of(&found), move || {
            let found = found.into_iter();
            found.map(|found| Ok(found?.map(as_it_is))).collect()
        })
        .await;
        let unclear: Vec<usize> = (0..read.len())
            .filter(|&i| matches!(&read[i], Ok(Some((_, None)))))
            .collect();
        if !unclear.is_empty() {
            let again = self.read_connections(&picked(pairs, &unclear)).await;
            let conns = unclear.iter().map(|&i| pairs[i].1.as_str());
            let again = self.with_states(again, conns).await;
            for (i, again) in unclear.into_iter().zip(again) {
                read[i] = again;
            }
        }
        read
    }

    /// Connections with their states as they are shown.
    async fn with_states(
        &self,
        found: Vec<Result<Option<Found>>>,
        conns: impl Iterator<Item = &str>,
    ) -> Vec<Result<Option<(Found, Option<State>)>>> {
        let reader = self.states.reader.clone();
        let read = move |found: Found| {
            let state = reader.read(&found);
            (found, state)
        };
        let read: Vec<Result<Option<_>>> = offload(bytes_of(&found), move || {
            let found = found.into_iter();
            found.map(|found| Ok(found?.map(&read))).collect()
        })
        .await;
        let display = |conn: &str, (found, state): (Found, _)| {
            let state = self.states.display(conn, &found, state);
            (found, state)
        };
        read.into_iter()
            .zip(conns)
            .map(|(read, conn)| Ok(read?.map(|read| display(conn, read))))
            .collect()
    }

    /// Reads fields of the hashes of connections.
    async fn read_hashes(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
        fields: &[&str],
        read: impl Fn(Value) -> Result<Option<Found>>,
    ) -> Vec<Result<Option<Found>>> {
        let mut pipeline = Pipeline::with_capacity(pairs.len());
        for (room, conn) in pairs {
            pipeline
                .cmd("HMGET")
                .arg(self.keys.conn(room.as_ref(), conn.as_ref()))
                .arg(fields);
        }
        let answers = self
            .scripts
            .commands
            .pipeline_each(&pipeline, Repeat::Harmless)
            .await;
        let read = |answer: Result<Value>| answer.and_then(&read);
        answers.into_iter().map(read).collect()
    }

    /// Reads hashes and keys of states in one step: a hash that is older or newer than the state
    /// could say something else of how it is compressed.
    async fn read_with_keys(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Vec<Result<Option<Found>>> {
        if self.scripts.commands.is_cluster() {
            return self.read_by_script(pairs).await;
        }
        match self.read_by_transaction(pairs).await {
            Ok(found) => found,
            Err(error) => pairs.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    async fn read_by_transaction(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Result<Vec<Result<Option<Found>>>> {
        let mut pipeline = Pipeline::with_capacity(2 * pairs.len() + 2);
        pipeline.cmd("MULTI");
        for (room, conn) in pairs {
            let (room, conn) = (room.as_ref(), conn.as_ref());
            pipeline
                .cmd("HMGET")
                .arg(self.keys.conn(room, conn))
                .arg(&FIELDS);
            pipeline.cmd("GET").arg(self.keys.conn_state(room, conn));
        }
        pipeline.cmd("EXEC");
        let mut answers = self
            .scripts
            .commands
            .pipeline(&pipeline, Repeat::Harmless)
            .await?;
        let done = answers.pop().unwrap_or(Value::Nil);
        let answers = match done {
            // Among them may be errors, each of its own command.
            Value::Array(answers) => answers,
            // A user that may not make transactions has got the answers one by one.
            _ if matches!(answers.first(), Some(Value::ServerError(_))) => answers.split_off(1),
            other => {
                let error = other
                    .extract_error()
                    .err()
                    .map(|error| errors::request(&error));
                return Err(error.unwrap_or_else(|| Error::internal("EXEC answered nothing")));
            }
        };
        let mut answers = answers.into_iter();
        let mut found = Vec::with_capacity(pairs.len());
        while let (Some(hash), Some(state)) = (answers.next(), answers.next()) {
            found.push(Found::read_both(hash, state));
        }
        Ok(found)
    }

    /// The same on a cluster, where connections are in many slots, and a transaction has no answer to
    /// `ASK`: a call of a script for each.
    async fn read_by_script(
        &self,
        pairs: &[(impl AsRef<str>, impl AsRef<str>)],
    ) -> Vec<Result<Option<Found>>> {
        let calls = pairs
            .iter()
            .map(|(room, conn)| {
                let (room, conn) = (room.as_ref(), conn.as_ref());
                let mut call = scripts::CONN_READ.call(2);
                call.arg(self.keys.conn(room, conn))
                    .arg(self.keys.conn_state(room, conn))
                    .arg(&FIELDS);
                call
            })
            .collect();
        let answers = self
            .scripts
            .call_all(&scripts::CONN_READ, calls, Repeat::Harmless)
            .await;
        let read = |answer: Result<Value>| match answer? {
            Value::Array(mut parts) if parts.len() == 2 => {
                let state = parts.pop().unwrap_or(Value::Nil);
                Found::read_both(parts.pop().unwrap_or(Value::Nil), state)
            }
            other => Err(Error::internal(format!("conn_read answered {other:?}"))),
        };
        answers.into_iter().map(read).collect()
    }

    pub(in crate::store::redis) fn stored_state(&self, found: Found) -> Stored {
        self.states.stored(
            found.state.unwrap_or_default(),
            found.compressed.as_deref().unwrap_or_default(),
            found.separate,
            found.revision,
        )
    }
}

/// Bytes of states among what was read.
fn bytes_of(found: &[Result<Option<Found>>]) -> usize {
    let found = found
        .iter()
        .filter_map(|found| found.as_ref().ok()?.as_ref());
    found
        .map(|found| found.state.as_ref().map_or(0, Vec::len))
        .sum()
}

fn picked<'a>(
    pairs: &'a [(impl AsRef<str>, impl AsRef<str>)],
    which: &[usize],
) -> Vec<(&'a str, &'a str)> {
    let pair = |&i: &usize| (pairs[i].0.as_ref(), pairs[i].1.as_ref());
    which.iter().map(pair).collect()
}
