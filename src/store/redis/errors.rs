//! What redis-rs and the server say, as our errors. The only place that reads their words.

use crate::{
    model::error::{Code, Error},
    switches::{Defence, off},
};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

/// A failed request. Whether it may have been carried out follows from how it failed.
pub fn request(error: &RedisError) -> Error {
    if let Some(said) = server_said(error) {
        return said.with_cause(error);
    }
    if error.is_timeout() {
        return Error::new(Code::Timeout, "Redis did not answer in time")
            .with_unknown_outcome()
            .with_cause(error);
    }
    match error.kind() {
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => Error::new(
            Code::Unavailable,
            "the answer was not one that a Redis server gives",
        )
        .with_unknown_outcome()
        .with_cause(error),
        _ => Error::new(
            Code::Unavailable,
            "the connection to Redis broke before the answer came",
        )
        .with_unknown_outcome()
        .with_cause(error),
    }
}

/// Whether it is about one key alone, which is of another type or holds nonsense: others are not to suffer.
pub fn is_of_one_key(error: &Error) -> bool {
    error.code == Code::CorruptData && !off(Defence::Isolation)
}

/// A failed attempt to connect to `shown` (an address without secrets).
pub fn connecting(error: &RedisError, shown: &str) -> Error {
    let detail = error.to_string();
    if error.kind() == ErrorKind::AuthenticationFailed || detail.contains("WRONGPASS") {
        return Error::new(
            Code::Permission,
            format!("Redis at {shown} refused the password"),
        )
        .with_cause(error);
    }
    if detail.contains("NOAUTH") {
        return Error::new(
            Code::Permission,
            format!("Redis at {shown} asks for a password"),
        )
        .with_cause(error);
    }
    if detail.contains("DB index is out of range") || detail.contains("invalid DB index") {
        return Error::invalid(format!(
            "db: Redis at {shown} has no database of that number (see `databases` in redis.conf)"
        ))
        .with_cause(error);
    }
    if let Some(said) = server_said(error)
        && said.code != Code::Internal
    {
        return Error::new(said.code, format!("Redis at {shown}: {}", said.message))
            .with_cause(error);
    }
    let message = match error.kind() {
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            format!("what answers at {shown} is not a Redis server")
        }
        ErrorKind::RESP3NotSupported => {
            return Error::new(
                Code::Unsupported,
                format!("Redis at {shown} is too old: Rollcall needs Redis 6.2 or later"),
            )
            .with_cause(error);
        }
        ErrorKind::InvalidClientConfig => {
            return Error::invalid(format!("cannot connect to {shown} as configured"))
                .with_cause(error);
        }
        _ if error.is_timeout() => format!("Redis at {shown} did not answer in time"),
        _ => format!("Redis at {shown} cannot be reached"),
    };
    Error::new(Code::Unavailable, message).with_cause(error)
}

/// An error reply of the server: the request was refused, so its outcome is known.
fn server_said(error: &RedisError) -> Option<Error> {
    let code = error.code()?;
    if off(Defence::ServerWords) {
        return Some(Error::internal("Redis refused a command of ours"));
    }
    let detail = error.detail().unwrap_or_default();
    // A script that fails inside reports the inner code in front (Redis 7) or in the text (6).
    let says = |word: &str| code == word || detail.contains(word);
    let unavailable = |why: &str| Some(Error::new(Code::Unavailable, why.to_owned()));
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::NoPerm) => {
            return Some(Error::new(
                Code::Permission,
                "the Redis user may not do this; README.md lists the commands, keys and channels \
                 that Rollcall needs",
            ));
        }
        ErrorKind::Server(ServerErrorKind::BusyLoading) => {
            return unavailable("Redis is loading its data; try again in a moment");
        }
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            return unavailable("this Redis is a read-only replica");
        }
        ErrorKind::Server(ServerErrorKind::MasterDown | ServerErrorKind::ClusterDown) => {
            return unavailable("the Redis master is down");
        }
        _ => {}
    }
    if says("NOPERM") {
        return Some(Error::new(
            Code::Permission,
            "the Redis user may not do this",
        ));
    }
    if says("NOAUTH") || says("WRONGPASS") {
        return Some(Error::new(Code::Permission, "Redis refused the password"));
    }
    if says("OOM") {
        return unavailable("Redis is out of memory (maxmemory) and accepts no writes");
    }
    if says("READONLY") {
        return unavailable("this Redis is a read-only replica");
    }
    if says("LOADING") {
        return unavailable("Redis is loading its data; try again in a moment");
    }
    if says("BUSY") {
        return unavailable("Redis is busy running somebody's script");
    }
    if says("MISCONF") {
        return unavailable("Redis cannot save to disk and accepts no writes (MISCONF)");
    }
    if says("NOREPLICAS") {
        return unavailable("Redis has too few replicas to accept writes");
    }
    if says("WRONGTYPE") {
        return Some(Error::new(
            Code::CorruptData,
            "a key that Rollcall uses holds another type of value; something else writes under \
             the same key prefix",
        ));
    }
    Some(Error::internal("Redis refused a command of ours"))
}

/// Whether the connection is of no further use and a new one should be made.
pub fn breaks_connection(error: &RedisError) -> bool {
    if off(Defence::ReadOnly) && error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
        return false;
    }
    is_read_only(error)
        || error.is_unrecoverable_error()
        || error.is_connection_dropped()
        || matches!(error.kind(), ErrorKind::Parse | ErrorKind::Io)
}

/// Whether the server is a replica. Redis 6 says so in the words of the script's error.
pub fn is_read_only(error: &RedisError) -> bool {
    let says = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || error
            .detail()
            .is_some_and(|detail| detail.contains("READONLY"));
    says && !off(Defence::ReadOnly)
}

/// The same of one answer among several.
pub fn says_read_only(answer: &Value) -> bool {
    let says = |error: &redis::ServerError| {
        error.code() == "READONLY"
            || error
                .details()
                .is_some_and(|details| details.contains("READONLY"))
    };
    !off(Defence::ReadOnly) && matches!(answer, Value::ServerError(error) if says(error))
}

pub fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
