//! States in Redis (spec section 9): in the connection's hash or under a separate key, compressed
//! or not, written by Rollcall or by other programs. `read.rs` reads connections with their states.

use crate::{
    model::{
        codec::{Bounds, Codecs, Fault},
        error::Result,
        ids,
        limits::Limits,
        presence::Epoch,
        state::{State, Storage},
    },
    offload::offload,
    store::{
        LogLevel, StateEncoding, StoreNotifications, Stored,
        redis::presence::fields::{fields, is_owned, number, utf8},
    },
};
use parking_lot::Mutex;
use redis::Value;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Minimum time between two log messages about one kind of fault. All faults are counted.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// How states are stored.
#[derive(Debug, Default)]
pub struct StateOptions {
    pub storage: Storage,
    pub codecs: Codecs,
}

/// The stored form of a state, if it is not the state's text.
#[derive(Default)]
pub struct Encoded {
    pub bytes: Option<Vec<u8>>,
    /// The field `compressed`; empty for none.
    pub compressed: &'static str,
}

impl Encoded {
    pub fn bytes<'a>(&'a self, state: &'a State) -> &'a [u8] {
        self.bytes
            .as_deref()
            .unwrap_or_else(|| state.as_str().as_bytes())
    }

    /// How a state with this stored form is compared. `revision`: that of a state under a separate
    /// key.
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

/// Writes and reads states, and reports those that cannot be read.
pub struct States {
    storage: Storage,
    pub(super) reader: Reader,
    notifications: Arc<dyn StoreNotifications>,
    /// Whether a state was found that is compressed or under a separate key.
    met_others: AtomicBool,
    warned: Mutex<[Option<Instant>; Fault::ALL.len()]>,
}

/// Reads stored states, on any thread.
#[derive(Clone)]
pub(super) struct Reader {
    codecs: Arc<Codecs>,
    pub(super) bounds: Bounds,
}

impl Reader {
    pub(super) fn decode(&self, stored: &[u8], compressed: Option<&[u8]>) -> Result<State, Fault> {
        self.codecs.decode(stored, compressed, self.bounds)
    }

    /// The state of a connection; `None` if other software has written the connection without a
    /// state.
    pub(super) fn read(&self, found: &Found) -> Result<Option<State>, Fault> {
        match &found.state {
            Some(bytes) => self.decode(bytes, found.compressed.as_deref()).map(Some),
            None if found.separate => Err(Fault::Gone),
            None => Ok(None),
        }
    }
}

/// Factor by which compressing a text takes longer than parsing it.
const COMPRESSION_EFFORT: usize = 8;

impl States {
    pub fn new(
        options: StateOptions,
        limits: &Limits,
        notifications: Arc<dyn StoreNotifications>,
    ) -> Self {
        States {
            storage: options.storage,
            reader: Reader {
                codecs: Arc::new(options.codecs),
                bounds: Bounds {
                    bytes: limits.max_state_bytes,
                    depth: limits.max_depth,
                },
            },
            notifications,
            met_others: AtomicBool::new(false),
            warned: Mutex::default(),
        }
    }

    /// Whether connections that join through this client have their states under separate keys.
    pub fn are_separate(&self) -> bool {
        self.storage == Storage::Separate
    }

    /// Whether a state of so many bytes is stored compressed.
    pub fn compresses(&self, bytes: usize) -> bool {
        self.reader.codecs.compresses(bytes)
    }

    pub async fn encode(&self, state: &State) -> Encoded {
        let bytes = state.as_str().len();
        if !self.compresses(bytes) {
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

    /// The stored state, as the base of a patch.
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

    /// Whether states may be compressed or under separate keys, because this client stores them so
    /// or has found such a state.
    pub(super) fn may_be_stored_otherwise(&self) -> bool {
        self.are_separate()
            || self.reader.codecs.compress()
            || self.met_others.load(Ordering::Relaxed)
    }

    /// The state that readers get. If it cannot be read: `None`, and the fault is counted and
    /// logged.
    pub(super) fn display(
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
        self.notifications.unreadable_state();
        let warned = &mut self.warned.lock()[fault as usize];
        if warned.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return;
        }
        *warned = Some(Instant::now());
        self.notifications.log(
            LogLevel::Warn,
            &format!(
                "The state of connection {} cannot be read and is shown as null: {fault}. \
                 (Logged once a minute; metrics().statesUnreadable counts them all)",
                ids::display_id(conn)
            ),
        );
    }
}

/// The content of a connection's hash and of the key of its state.
pub struct Found {
    pub user: String,
    pub room: String,
    pub last_seen_ms: u64,
    pub epoch: Epoch,
    /// Whether a node answers for the connection.
    pub(super) owned: bool,
    pub(super) state: Option<Vec<u8>>,
    pub(super) compressed: Option<Vec<u8>>,
    /// Whether the state is under a separate key.
    pub(super) separate: bool,
    pub(super) revision: u64,
}

/// The fields that are read from a hash.
pub(super) const FIELDS: [&str; 7] = [
    "user_id",
    "room_id",
    "last_seen_ms",
    "epoch",
    "state",
    "compressed",
    "state_rev",
];

/// The number of leading fields that do not concern the state's encoding.
pub(super) const BRIEF: usize = 5;

impl Found {
    pub(super) fn read(answer: Value) -> Result<Option<Found>> {
        fields::<{ FIELDS.len() }>(answer).map(Found::of)
    }

    /// Reads an answer with the first `BRIEF` fields only.
    pub(super) fn read_brief(answer: Value) -> Result<Option<Found>> {
        let [user, room, seen, epoch, state] = fields::<BRIEF>(answer)?;
        Ok(Found::of([user, room, seen, epoch, state, None, None]))
    }

    fn of(fields: [Option<Vec<u8>>; FIELDS.len()]) -> Option<Found> {
        let [user, room, seen, epoch, state, compressed, revision] = fields;
        let (Some(user), Some(room)) = (user.and_then(utf8), room.and_then(utf8)) else {
            return None;
        };
        // Other software wrote the state in the hash, later than the state under the separate key.
        let revision = revision.filter(|_| state.is_none());
        Some(Found {
            user,
            room,
            last_seen_ms: seen.as_deref().map_or(0, number),
            owned: epoch.as_deref().is_some_and(is_owned),
            epoch: epoch.as_deref().map_or(0, number),
            separate: revision.is_some(),
            state,
            compressed,
            revision: revision.as_deref().map_or(0, number),
        })
    }

    /// Reads the answers for the hash and for the key of the state.
    pub(super) fn read_both(hash: Value, state: Value) -> Result<Option<Found>> {
        let mut found = Found::read(hash)?;
        if let (Some(found), Value::BulkString(state)) = (&mut found, state)
            && found.separate
        {
            found.state = Some(state);
        }
        Ok(found)
    }
}
