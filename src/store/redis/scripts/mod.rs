//! The Lua scripts (`lua/`, flattened by `build.rs`): calling them, and reading their replies.
//! `codes.rs` has their result codes.

mod client;
mod codes;

use crate::keys::Layout;
use crate::store::redis::transport::errors;
pub use client::ScriptClient;
pub use codes::*;
use once_cell::sync::Lazy;
use redis::{Cmd, RedisError, Value};

/// A script's name and flattened text.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub name: &'static str,
    pub path: &'static str,
    pub text: &'static str,
}

mod embedded {
    use super::Source;
    include!(concat!(env!("OUT_DIR"), "/lua_scripts.rs"));
}

/// A script that can be called.
pub struct Script {
    pub source: Source,
    sha: String,
    /// The text without its comments.
    bare: String,
}

impl Script {
    fn new(source: Source) -> Self {
        Script {
            source,
            sha: redis::Script::new(source.text).get_hash().to_owned(),
            bare: source
                .text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with("--"))
                .flat_map(|line| [line, "\n"])
                .collect(),
        }
    }

    /// `EVALSHA`, without keys and arguments.
    pub fn call(&self, keys: usize) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.sha).arg(keys);
        cmd
    }

    /// The same with keys.
    pub fn call_with(&self, keys: &[String]) -> Cmd {
        let mut cmd = self.call(keys.len());
        cmd.arg(keys);
        cmd
    }

    /// `EVAL`, without keys and arguments. For use in a transaction, which must not continue
    /// without the script if the server does not know it.
    pub fn eval(&self, keys: usize) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(&self.bare).arg(keys);
        cmd
    }

    pub fn load(&self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(self.source.text);
        cmd
    }

    /// The same call as `EVAL`, for a server that does not know the script.
    pub fn with_text(&self, call: &Cmd) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(self.source.text);
        for arg in call.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = arg {
                cmd.arg(bytes);
            }
        }
        cmd
    }
}

macro_rules! scripts {
    ($module:ident: $($name:ident),*) => {
        $(pub static $name: Lazy<Script> = Lazy::new(|| Script::new(embedded::$module::$name));)*

        pub(super) fn all() -> Vec<&'static Script> {
            vec![$(&*$name),*]
        }
    };
}

scripts!(
    shared: CONN_READ,
    HEARTBEAT_BATCH,
    METADATA_COMMIT,
    METADATA_COMMIT_JSON,
    LOCK_ACQUIRE,
    LOCK_DUE,
    LOCK_EXTEND,
    LOCK_INSPECT,
    LOCK_RAISE,
    LOCK_RELEASE,
    LOCK_REVOKE,
    LOCK_SETTLE,
    NODE_DUE,
    NODE_END,
    NODE_FORGET,
    NODE_INDEX,
    NODE_LOOK,
    NODE_PAGE,
    NODE_RENEW,
    PATCH_CHECK,
    ROOM_INSPECT,
    SERVER_TIME
);

/// Scripts of the layout `v1`, which use keys of several slots.
pub mod v1 {
    use super::{Lazy, Script, embedded};

    scripts!(
        v1: CHECK_ROOMS,
        CHECK_USERS,
        HEARTBEAT,
        JOIN,
        LEAVE,
        PATCH_BATCH,
        REAP,
        REPAIR,
        SWEEP_DUE,
        SWEEP_ROOMS
    );
}

/// Scripts of the layout `slotted`, each of which uses keys of one slot.
pub mod slotted {
    use super::{Lazy, Script, embedded};

    scripts!(
        slotted: DUE_CLAIM,
        DUE_RESCHEDULE,
        HEARTBEAT,
        JOIN,
        LEAVE,
        LOCATION_CLAIM,
        LOCATION_CONFIRM,
        LOCATION_REMOVE,
        LOCK_NOTE,
        NODE_CLAIM,
        PATCH_BATCH,
        REAP,
        REPAIR,
        ROOM_SETTLED,
        USER_INDEX_SET
    );
}

/// The scripts that a client with this layout can call.
pub fn of_layout(layout: Layout) -> Vec<&'static Script> {
    let mut scripts = all();
    scripts.extend(match layout {
        Layout::V1 => v1::all(),
        Layout::Slotted => slotted::all(),
    });
    scripts
}

/// Reads a script's whole reply. A reply of unexpected form becomes an error.
pub fn read<T>(
    value: Value,
    with: impl FnOnce(&mut Reply) -> Result<T, RedisError>,
) -> crate::model::error::Result<T> {
    Reply::new(value)
        .and_then(|mut reply| with(&mut reply))
        .map_err(|error| errors::request(&error))
}

/// Decodes an index into a script's arguments. `Err`: the script returned it as `-1 - index`, which
/// has another meaning.
pub fn place(index: i64) -> Result<usize, usize> {
    usize::try_from(index).map_err(|_| !index as usize)
}

/// Reads a script's reply, part by part.
pub struct Reply(std::vec::IntoIter<Value>);

impl Reply {
    pub fn new(value: Value) -> Result<Self, RedisError> {
        match value.extract_error()? {
            Value::Array(parts) => Ok(Reply(parts.into_iter())),
            other => Err(unexpected(&other)),
        }
    }

    /// All remaining parts, as integers.
    pub fn integers(&mut self) -> Result<Vec<i64>, RedisError> {
        (0..self.left()).map(|_| self.integer()).collect()
    }

    /// Reads pairs as one flat list, in any form that the server may use (array or map).
    pub fn flat(value: Value) -> Result<Self, RedisError> {
        let parts = match value.extract_error()? {
            Value::Nil => Vec::new(),
            Value::Array(parts) => parts
                .into_iter()
                .flat_map(|part| match part {
                    Value::Array(pair) => pair,
                    one => vec![one],
                })
                .collect(),
            Value::Map(pairs) => pairs.into_iter().flat_map(|(k, v)| [k, v]).collect(),
            other => return Err(unexpected(&other)),
        };
        Ok(Reply(parts.into_iter()))
    }

    /// The number of remaining parts.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    pub fn integer(&mut self) -> Result<i64, RedisError> {
        match self.0.next().unwrap_or(Value::Nil) {
            Value::Int(n) => Ok(n),
            Value::BulkString(digits) => std::str::from_utf8(&digits)
                .ok()
                // Legacy nodes write whole numbers. Other forms such as `1.7e12` and `1.0` are
                // accepted.
                .and_then(|text| {
                    text.parse::<i64>()
                        .ok()
                        .or(text.parse::<f64>().ok().map(|x| x as i64))
                })
                .ok_or_else(|| unexpected(&Value::BulkString(digits))),
            other => Err(unexpected(&other)),
        }
    }

    /// An array within the reply.
    pub fn nested(&mut self) -> Result<Reply, RedisError> {
        Reply::new(self.0.next().unwrap_or(Value::Nil))
    }

    pub fn bytes(&mut self) -> Result<Vec<u8>, RedisError> {
        match self.0.next().unwrap_or(Value::Nil) {
            Value::BulkString(bytes) => Ok(bytes),
            Value::SimpleString(text) => Ok(text.into_bytes()),
            other => Err(unexpected(&other)),
        }
    }

    /// Bytes, or `None` for a missing value.
    pub fn bytes_or_nil(&mut self) -> Result<Option<Vec<u8>>, RedisError> {
        match self.0.next().unwrap_or(Value::Nil) {
            Value::Nil => Ok(None),
            Value::BulkString(bytes) => Ok(Some(bytes)),
            other => Err(unexpected(&other)),
        }
    }

    /// Text. Invalid UTF-8 (written by other software) is replaced.
    pub fn text(&mut self) -> Result<String, RedisError> {
        self.bytes().map(|bytes| match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }
}

fn unexpected(value: &Value) -> RedisError {
    RedisError::from((
        redis::ErrorKind::UnexpectedReturnType,
        "a script answered in an unexpected form",
        format!("{value:?}").chars().take(200).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_loaded_and_has_the_header_that_the_house_asks_for() {
        let mut embedded: Vec<_> = embedded::ALL.iter().map(|source| source.path).collect();
        let scripts = all().into_iter().chain(v1::all()).chain(slotted::all());
        let mut callable: Vec<_> = scripts.map(|script| script.source.path).collect();
        embedded.sort_unstable();
        callable.sort_unstable();
        assert_eq!(embedded, callable);
        for source in embedded::ALL {
            assert!(
                source.text.starts_with(&format!("-- {}: ", source.name)),
                "{}",
                source.name
            );
            for part in ["-- KEYS[", "-- ARGV[", "-- Returns", "-- Races: "] {
                assert!(source.text.contains(part), "{} lacks {part:?}", source.path);
            }
        }
    }

    #[test]
    fn spec_2_1_no_script_spells_a_key() {
        for source in embedded::ALL {
            for line in source
                .text
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"))
            {
                assert!(!line.contains("prs:"), "{}: {line}", source.path);
            }
        }
    }

    #[test]
    fn spec_3_5_no_script_decodes_json() {
        assert!(
            embedded::ALL
                .iter()
                .all(|source| !source.text.contains("cjson"))
        );
    }
}
