//! The Lua scripts (`lua/*.lua`, flattened by `build.rs`): how they are called, and the codes that
//! they return. Each table of codes is held to its script by a test.

use super::errors;
use crate::switches::{Defence, off};
use redis::{Cmd, RedisError, Value};
use std::{borrow::Cow, sync::LazyLock};

/// A script's name and flattened text.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    pub name: &'static str,
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

    /// `EVALSHA`, to be followed by keys and arguments.
    pub fn call(&self, keys: usize) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        if off(Defence::Freeing) || off(Defence::MayPublish) {
            cmd.arg(redis::Script::new(&self.text()).get_hash());
        } else {
            cmd.arg(&self.sha);
        }
        cmd.arg(keys);
        cmd
    }

    /// `EVAL`, to be followed by keys and arguments: for where a server that has lost the script must
    /// not go on without it.
    pub fn eval(&self, keys: usize) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(&self.bare).arg(keys);
        cmd
    }

    fn text(&self) -> Cow<'static, str> {
        if off(Defence::MayPublish) {
            return self
                .source
                .text
                .replace("redis.acl_check_cmd and", "nil and")
                .into();
        }
        if off(Defence::Freeing) {
            // What `goes_on` does.
            return self
                .source
                .text
                .replace("redis.call('PERSIST', key)", "")
                .into();
        }
        self.source.text.into()
    }

    pub fn load(&self) -> Cmd {
        let mut cmd = redis::cmd("SCRIPT");
        cmd.arg("LOAD").arg(&*self.text());
        cmd
    }

    /// The same call as `EVAL`, for a server that has lost the script.
    pub fn with_text(&self, call: &Cmd) -> Cmd {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(&*self.text());
        for arg in call.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = arg {
                cmd.arg(bytes);
            }
        }
        cmd
    }
}

macro_rules! scripts {
    ($($name:ident),*) => {
        $(pub static $name: LazyLock<Script> = LazyLock::new(|| Script::new(embedded::$name));)*

        /// Every script.
        pub fn all() -> Vec<&'static Script> {
            vec![$(&*$name),*]
        }
    };
}
scripts!(
    CHECK_ROOMS,
    HEARTBEAT,
    HEARTBEAT_BATCH,
    JOIN,
    LEAVE,
    METADATA_COMMIT,
    LOCK_ACQUIRE,
    LOCK_DUE,
    LOCK_EXTEND,
    LOCK_INSPECT,
    LOCK_RAISE,
    LOCK_RELEASE,
    LOCK_REVOKE,
    LOCK_SETTLE,
    METADATA_COMMIT_JSON,
    PATCH_CHECK,
    REAP,
    REPAIR,
    SWEEP_CANDIDATES,
    SWEEP_DUE,
    SWEEP_ROOMS
);

/// Codes of `join.lua`.
pub mod join {
    pub const JOINED: i64 = 0;
    pub const ELSEWHERE: i64 = 1;
    pub const GHOST: i64 = 2;
    pub const EARLY: i64 = 3;
}

/// Codes of `leave.lua`.
pub mod leave {
    pub const LEFT: i64 = 0;
    pub const UNKNOWN: i64 = 1;
    pub const ELSEWHERE: i64 = 2;
    pub const EARLY: i64 = 3;
}

/// Codes of `heartbeat.lua`.
pub mod heartbeat {
    pub const REFRESHED: i64 = 0;
    pub const UNKNOWN: i64 = 1;
    pub const STALE: i64 = 2;
    pub const ELSEWHERE: i64 = 3;
    pub const CONFLICT: i64 = 4;
}

/// Codes of `metadata_commit.lua`.
pub mod metadata_commit {
    pub const COMMITTED: i64 = 0;
    pub const LOCKED: i64 = 1;
    pub const CHANGED: i64 = 2;

    pub const NOT_HELD: i64 = 0;
    pub const HELD_BY_OTHER: i64 = 1;
    pub const OUTRUN: i64 = 2;
    pub const UNREADABLE: i64 = 3;
}

/// Codes of `lock_acquire.lua`.
pub mod lock_acquire {
    pub const GRANTED: i64 = 0;
    pub const WAITING: i64 = 1;
    pub const HELD: i64 = 2;
}

/// Codes of `lock_extend.lua`.
pub mod lock_extend {
    pub const EXTENDED: i64 = 0;
    pub const NOT_HELD: i64 = 1;
}

/// Codes of `lock_inspect.lua`.
pub mod lock_inspect {
    pub const HELD: i64 = 0;
    pub const FREE: i64 = 1;
}

/// Codes of `lock_raise.lua`.
pub mod lock_raise {
    pub const RAISED: i64 = 0;
    pub const NEWER: i64 = 1;
}

/// Codes of `lock_release.lua`.
pub mod lock_release {
    pub const RELEASED: i64 = 0;
    pub const NOT_HELD: i64 = 1;
}

/// Codes of `lock_revoke.lua`.
pub mod lock_revoke {
    pub const REVOKED: i64 = 0;
    pub const FREE: i64 = 1;
    pub const FOREIGN: i64 = 2;
}

/// Codes of `sweep_due.lua`.
pub mod sweep_due {
    pub const TAKEN: i64 = 0;
    pub const PASS: i64 = 1;
}

/// Codes of `patch_check.lua`.
pub mod patch_check {
    pub const PASSED: i64 = 0;
    pub const REFUSED: i64 = 1;
}

/// Reads a script's whole reply; one that is of another form is an error like what the server says.
pub fn read<T>(
    value: Value,
    with: impl FnOnce(&mut Reply) -> Result<T, RedisError>,
) -> crate::model::error::Result<T> {
    Reply::new(value)
        .and_then(|mut reply| with(&mut reply))
        .map_err(|error| errors::request(&error))
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

    /// How many parts are left.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    pub fn integer(&mut self) -> Result<i64, RedisError> {
        match self.0.next().unwrap_or(Value::Nil) {
            Value::Int(n) => Ok(n),
            Value::BulkString(digits) => std::str::from_utf8(&digits)
                .ok()
                // TypeScript nodes write whole numbers; be lenient about `1.7e12` and `1.0`.
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

    /// Text; bytes that are no UTF-8 (written by somebody else) are replaced.
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
    use std::collections::BTreeMap;

    /// `local NAME = 1` at the start of a line, as the scripts declare their codes. Other constants
    /// begin with MOST_.
    fn codes_in(source: Source) -> BTreeMap<String, i64> {
        source
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("local ")?.split_once(" = "))
            .filter(|(name, _)| !name.starts_with("MOST_"))
            .filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect()
    }

    fn table<const N: usize>(codes: [(&str, i64); N]) -> BTreeMap<String, i64> {
        codes.map(|(name, code)| (name.to_owned(), code)).into()
    }

    #[test]
    fn the_codes_are_those_of_the_scripts() {
        let known = BTreeMap::from([
            (
                "join",
                table([
                    ("JOINED", join::JOINED),
                    ("ELSEWHERE", join::ELSEWHERE),
                    ("GHOST", join::GHOST),
                    ("EARLY", join::EARLY),
                ]),
            ),
            (
                "leave",
                table([
                    ("LEFT", leave::LEFT),
                    ("UNKNOWN", leave::UNKNOWN),
                    ("ELSEWHERE", leave::ELSEWHERE),
                    ("EARLY", leave::EARLY),
                ]),
            ),
            (
                "heartbeat",
                table([
                    ("REFRESHED", heartbeat::REFRESHED),
                    ("UNKNOWN", heartbeat::UNKNOWN),
                    ("STALE", heartbeat::STALE),
                    ("ELSEWHERE", heartbeat::ELSEWHERE),
                    ("CONFLICT", heartbeat::CONFLICT),
                ]),
            ),
            (
                "metadata_commit",
                table([
                    ("COMMITTED", metadata_commit::COMMITTED),
                    ("LOCKED", metadata_commit::LOCKED),
                    ("CHANGED", metadata_commit::CHANGED),
                    ("NOT_HELD", metadata_commit::NOT_HELD),
                    ("HELD_BY_OTHER", metadata_commit::HELD_BY_OTHER),
                    ("OUTRUN", metadata_commit::OUTRUN),
                    ("UNREADABLE", metadata_commit::UNREADABLE),
                ]),
            ),
            (
                "lock_acquire",
                table([
                    ("GRANTED", lock_acquire::GRANTED),
                    ("WAITING", lock_acquire::WAITING),
                    ("HELD", lock_acquire::HELD),
                ]),
            ),
            (
                "lock_extend",
                table([
                    ("EXTENDED", lock_extend::EXTENDED),
                    ("NOT_HELD", lock_extend::NOT_HELD),
                ]),
            ),
            (
                "lock_inspect",
                table([("HELD", lock_inspect::HELD), ("FREE", lock_inspect::FREE)]),
            ),
            (
                "lock_raise",
                table([("RAISED", lock_raise::RAISED), ("NEWER", lock_raise::NEWER)]),
            ),
            (
                "lock_release",
                table([
                    ("RELEASED", lock_release::RELEASED),
                    ("NOT_HELD", lock_release::NOT_HELD),
                ]),
            ),
            (
                "lock_revoke",
                table([
                    ("REVOKED", lock_revoke::REVOKED),
                    ("FREE", lock_revoke::FREE),
                    ("FOREIGN", lock_revoke::FOREIGN),
                ]),
            ),
            (
                "sweep_due",
                table([("TAKEN", sweep_due::TAKEN), ("PASS", sweep_due::PASS)]),
            ),
            (
                "metadata_commit_json",
                table([
                    ("COMMITTED", metadata_commit::COMMITTED),
                    ("LOCKED", metadata_commit::LOCKED),
                    ("CHANGED", metadata_commit::CHANGED),
                    ("NOT_HELD", metadata_commit::NOT_HELD),
                    ("HELD_BY_OTHER", metadata_commit::HELD_BY_OTHER),
                    ("OUTRUN", metadata_commit::OUTRUN),
                    ("UNREADABLE", metadata_commit::UNREADABLE),
                ]),
            ),
            (
                "patch_check",
                table([
                    ("PASSED", patch_check::PASSED),
                    ("REFUSED", patch_check::REFUSED),
                ]),
            ),
        ]);
        for source in embedded::ALL {
            let codes = codes_in(*source);
            assert_eq!(
                codes,
                known.get(source.name).cloned().unwrap_or_default(),
                "{}.lua",
                source.name
            );
        }
    }

    #[test]
    fn every_script_is_loaded_and_has_the_header_that_the_house_asks_for() {
        let mut embedded: Vec<_> = embedded::ALL.iter().map(|source| source.name).collect();
        let mut callable: Vec<_> = all().iter().map(|script| script.source.name).collect();
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
                assert!(
                    source.text.contains(part),
                    "{}.lua lacks {part:?}",
                    source.name
                );
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
                assert!(!line.contains("prs:"), "{}.lua: {line}", source.name);
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
