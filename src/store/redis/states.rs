//! States as they are in Redis (spec section 9): in the connection's hash or in a key of their own,
//! compressed or not, written by us or by others. How they are written, and how connections are
//! read with them.

use super::{
    RedisStore, errors,
    link::Repeat,
    presence::{fields, number, utf8},
};
use crate::{
    model::{
        codec::{Codecs, Fault},
        error::{Error, Result},
        ids,
        limits::Limits,
        presence::Epoch,
        state::{State, Storage},
    },
    store::{EventSink, LogLevel, Mark, Stored},
};
use parking_lot::Mutex;
use redis::{Pipeline, Value};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// States from this size on (bytes of JSON) are written by a transaction that patch_check.lua lets
/// through, smaller ones by heartbeat.lua alone: below, the script is the cheaper of the two.
pub const LARGE: usize = 4 * 1024;

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

    /// How a state that is stored like this is recognised.
    pub fn into_mark(self, separate: bool, revision: u64) -> Option<Arc<Mark>> {
        let plain = self.bytes.is_none() && !separate && revision == 0;
        (!plain).then(|| {
            Arc::new(Mark {
                raw: self.bytes,
                compressed: self.compressed.as_bytes().to_vec(),
                separate,
                revision,
                unreadable_here: false,
            })
        })
    }
}

/// Writes and reads states, and tells of those that cannot be read.
pub struct States {
    options: StateOptions,
    /// Longest text that is unpacked, in bytes.
    most: usize,
    sink: Arc<dyn EventSink>,
    warned: Mutex<[Option<Instant>; Fault::ALL.len()]>,
}

impl States {
    pub fn new(options: StateOptions, limits: &Limits, sink: Arc<dyn EventSink>) -> Self {
        States {
            options,
            most: limits.max_state_bytes,
            sink,
            warned: Mutex::default(),
        }
    }

    /// Whether connections that join here keep their states in keys of their own.
    pub fn are_separate(&self) -> bool {
        self.options.storage == Storage::Separate
    }

    pub fn encode(&self, state: &State) -> Encoded {
        match self.options.codecs.encode(state.as_str()) {
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
        let decoded = self.decode(&bytes, Some(compressed));
        let is_text = decoded
            .as_ref()
            .is_ok_and(|state| state.as_str().as_bytes() == bytes);
        let plain = is_text && compressed.is_empty() && !separate && revision == 0;
        Stored {
            mark: (!plain).then(|| {
                Arc::new(Mark {
                    raw: (!is_text).then_some(bytes),
                    compressed: compressed.to_vec(),
                    separate,
                    revision,
                    unreadable_here: decoded
                        .as_ref()
                        .is_err_and(|fault| fault.may_be_read_elsewhere()),
                })
            }),
            state: decoded.unwrap_or_else(|_| State::empty()),
        }
    }

    fn decode(&self, stored: &[u8], compressed: Option<&[u8]>) -> Result<State, Fault> {
        self.options.codecs.decode(stored, compressed, self.most)
    }

    /// The state as it is shown: `None`, counted and logged, if it cannot be read.
    fn shown(&self, conn: &str, found: &Found) -> Option<State> {
        let read = match &found.state {
            Some(bytes) => self.decode(bytes, found.compressed.as_deref()),
            None if found.separate => Err(Fault::Gone),
            // Somebody else has written the connection without one.
            None => return None,
        };
        read.map_err(|fault| self.tell(conn, fault)).ok()
    }

    fn tell(&self, conn: &str, fault: Fault) {
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
                ids::shown(conn)
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

impl Found {
    /// A key of another type is `CORRUPT_DATA`: one broken connection, not a broken room.
    fn read(answer: Value) -> Result<Option<Found>> {
        let [user, room, seen, epoch, state, compressed, revision] = fields::<7>(answer)?;
        let (Some(user), Some(room)) = (user.and_then(utf8), room.and_then(utf8)) else {
            return Ok(None);
        };
        Ok(Some(Found {
            user,
            room,
            last_seen_ms: seen.as_deref().map_or(0, number),
            epoch: epoch.as_deref().map_or(0, number),
            // A state in the hash was written later than one in the key, by somebody else.
            separate: state.is_none() && revision.is_some(),
            state,
            compressed,
            revision: revision.as_deref().map_or(0, number),
        }))
    }
}

impl RedisStore {
    /// Reads connections, each for itself, in order; `None` for those that are not there.
    pub(super) async fn read_connections(
        &self,
        conns: &[impl AsRef<str>],
    ) -> Result<Vec<Result<Option<Found>>>> {
        if self.states.are_separate() {
            return self.read_with_keys(conns).await;
        }
        let mut pipeline = Pipeline::with_capacity(conns.len());
        for conn in conns {
            pipeline
                .cmd("HMGET")
                .arg(self.keys.conn(conn.as_ref()))
                .arg(&FIELDS);
        }
        let answers = self.commands.pipeline(&pipeline, Repeat::Harmless).await?;
        let mut found: Vec<_> = answers.into_iter().map(Found::read).collect();
        let separate: Vec<usize> = (0..found.len())
            .filter(|&i| matches!(&found[i], Ok(Some(found)) if found.separate))
            .collect();
        if !separate.is_empty() {
            let conns: Vec<&str> = separate.iter().map(|&i| conns[i].as_ref()).collect();
            let again = self.read_with_keys(&conns).await?;
            for (i, again) in separate.into_iter().zip(again) {
                found[i] = again;
            }
        }
        Ok(found)
    }

    /// Reads hashes and keys of states in one step: a hash that is older or newer than the state
    /// could say something else of how it is compressed.
    async fn read_with_keys(
        &self,
        conns: &[impl AsRef<str>],
    ) -> Result<Vec<Result<Option<Found>>>> {
        let mut pipeline = Pipeline::with_capacity(2 * conns.len() + 2);
        pipeline.cmd("MULTI");
        for conn in conns {
            let conn = conn.as_ref();
            pipeline.cmd("HMGET").arg(self.keys.conn(conn)).arg(&FIELDS);
            pipeline.cmd("GET").arg(self.keys.conn_state(conn));
        }
        pipeline.cmd("EXEC");
        let mut answers = self.commands.pipeline(&pipeline, Repeat::Harmless).await?;
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
        let mut found = Vec::with_capacity(conns.len());
        while let (Some(hash), Some(state)) = (answers.next(), answers.next()) {
            let mut one = Found::read(hash);
            if let (Ok(Some(one)), Value::BulkString(state)) = (&mut one, state)
                && one.separate
            {
                one.state = Some(state);
            }
            found.push(one);
        }
        Ok(found)
    }

    pub(super) fn shown_state(&self, conn: &str, found: &Found) -> Option<State> {
        self.states.shown(conn, found)
    }

    pub(super) fn stored_state(&self, found: Found) -> Stored {
        self.states.stored(
            found.state.unwrap_or_default(),
            found.compressed.as_deref().unwrap_or_default(),
            found.separate,
            found.revision,
        )
    }
}
