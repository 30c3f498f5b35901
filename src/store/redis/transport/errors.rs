//! Maps errors of redis-rs and of the server to errors of the core. Only this file parses their
//! texts.

use crate::{
    failpoints::failpoint,
    model::error::{Code, Error},
};
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

/// The error of a failed request. The kind of failure decides whether its outcome is unknown.
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
            "the answer is not in the format of a Redis server",
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

/// Whether the error concerns only one key, which has another type or invalid content. Other keys
/// are not affected.
pub fn is_of_one_key(error: &Error) -> bool {
    error.code == Code::CorruptData && !failpoint!(Isolation)
}

/// The error of a failed attempt to connect to `display` (an address without secrets).
pub fn connecting(error: &RedisError, display: &str) -> Error {
    let detail = error.to_string();
    if error.kind() == ErrorKind::AuthenticationFailed || detail.contains("WRONGPASS") {
        return Error::new(
            Code::Permission,
            format!("Redis at {display} refused the password"),
        )
        .with_cause(error);
    }
    if detail.contains("NOAUTH") {
        return Error::new(
            Code::Permission,
            format!("Redis at {display} asks for a password"),
        )
        .with_cause(error);
    }
    if detail.contains("DB index is out of range") || detail.contains("invalid DB index") {
        return Error::invalid(format!(
            "db: Redis at {display} has no database of that number (see `databases` in redis.conf)"
        ))
        .with_cause(error);
    }
    if let Some(said) = server_said(error)
        && said.code != Code::Internal
    {
        return Error::new(said.code, format!("Redis at {display}: {}", said.message))
            .with_cause(error);
    }
    let message = match error.kind() {
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            format!("what answers at {display} is not a Redis server")
        }
        ErrorKind::RESP3NotSupported => {
            return Error::new(
                Code::Unsupported,
                format!("Redis at {display} is too old: Rollcall needs Redis 6.2 or later"),
            )
            .with_cause(error);
        }
        ErrorKind::InvalidClientConfig => {
            return Error::invalid(format!("cannot connect to {display} as configured"))
                .with_cause(error);
        }
        _ if error.is_timeout() => format!("Redis at {display} did not answer in time"),
        _ => format!("Redis at {display} cannot be reached"),
    };
    Error::new(Code::Unavailable, message).with_cause(error)
}

/// The error for an error reply of the server. The server refused the request, so its outcome is
/// known.
fn server_said(error: &RedisError) -> Option<Error> {
    let code = error.code()?;
    if failpoint!(ServerWords) {
        return Some(Error::internal("Redis refused a command of Rollcall"));
    }
    let detail = error.detail().unwrap_or_default();
    Some(
        WORDS
            .iter()
            .find(|(word, ..)| code == *word)
            // If a command in a script fails, its error code is first (Redis 7) or within the text
            // (Redis 6).
            .or_else(|| WORDS.iter().find(|(word, ..)| has_word(detail, word)))
            .or_else(|| TEXTS.iter().find(|(text, ..)| detail.contains(text)))
            .map_or_else(
                || Error::internal("Redis refused a command of Rollcall"),
                |(_, code, message)| Error::new(*code, *message),
            ),
    )
}

/// The error codes of servers that have a specific meaning.
const WORDS: &[(&str, Code, &str)] = &[
    (
        "NOPERM",
        Code::Permission,
        "the Redis user may not do this; docs/guide/security.md lists the commands, keys and channels that Rollcall \
         needs",
    ),
    ("NOAUTH", Code::Permission, "Redis asks for a password"),
    ("WRONGPASS", Code::Permission, "Redis refused the password"),
    (
        "DENIED",
        Code::Permission,
        "Redis is in protected mode: it has no password and takes local connections only",
    ),
    (
        "CLUSTERDOWN",
        Code::Unavailable,
        "the Redis Cluster is down (CLUSTERDOWN): some of its slots have no master that can be reached; \
         nothing was done",
    ),
    (
        "TRYAGAIN",
        Code::Unavailable,
        "a slot of the Redis Cluster is moving (TRYAGAIN); try again in a moment",
    ),
    (
        "MOVED",
        Code::Unavailable,
        "a slot of the Redis Cluster has moved (MOVED); try again in a moment",
    ),
    (
        "ASK",
        Code::Unavailable,
        "a slot of the Redis Cluster is moving (ASK); try again in a moment",
    ),
    (
        "MASTERDOWN",
        Code::Unavailable,
        "this Redis is a replica whose master is down (MASTERDOWN)",
    ),
    (
        "NOMASTERLINK",
        Code::Unavailable,
        "this Redis is a replica whose master is down (NOMASTERLINK)",
    ),
    (
        "UNBLOCKED",
        Code::Unavailable,
        "this Redis has become a replica (UNBLOCKED)",
    ),
    (
        "REDIRECT",
        Code::Unavailable,
        "this Redis is handing over to another server (REDIRECT)",
    ),
    (
        "OOM",
        Code::Unavailable,
        "Redis is out of memory (maxmemory) and accepts no writes",
    ),
    (
        "READONLY",
        Code::Unavailable,
        "this Redis is a read-only replica",
    ),
    (
        "LOADING",
        Code::Unavailable,
        "Redis is loading its data; try again in a moment",
    ),
    (
        "BUSY",
        Code::Unavailable,
        "Redis is busy running another client's script",
    ),
    (
        "UNKILLABLE",
        Code::Unavailable,
        "Redis is busy running another client's script",
    ),
    (
        "MISCONF",
        Code::Unavailable,
        "Redis cannot save to disk and accepts no writes (MISCONF)",
    ),
    (
        "NOREPLICAS",
        Code::Unavailable,
        "Redis has too few replicas to accept writes",
    ),
    (
        "NOPROTO",
        Code::Unsupported,
        "this server does not speak RESP3: Rollcall needs Redis 6.2 or later",
    ),
    (
        "WRONGTYPE",
        Code::CorruptData,
        "a key that Rollcall uses holds another type of value; something else writes under the same key \
         prefix",
    ),
];

/// Texts of servers after the generic code `ERR`.
const TEXTS: &[(&str, Code, &str)] = &[
    (
        "max number of clients reached",
        Code::Unavailable,
        "Redis has reached its maximum number of clients (maxclients)",
    ),
    (
        "max number of clients + cluster connections reached",
        Code::Unavailable,
        "Redis has reached its maximum number of clients (maxclients)",
    ),
    (
        "unknown command",
        Code::Unsupported,
        "this server lacks a command that Rollcall needs",
    ),
    (
        "unknown subcommand",
        Code::Unsupported,
        "this server lacks a command that Rollcall needs",
    ),
];

/// Whether a text contains a word, but not as a part of another word, which may be a name.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .any(|part| part == word)
}

/// Whether the connection is unusable, so that a new one is needed.
pub fn breaks_connection(error: &RedisError) -> bool {
    if failpoint!(ReadOnly) && error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
        return false;
    }
    is_read_only(error)
        || error.is_unrecoverable_error()
        || error.is_connection_dropped()
        || matches!(error.kind(), ErrorKind::Parse | ErrorKind::Io)
}

/// Whether the server is a replica. Redis 6 only says so in the text of the script's error.
pub fn is_read_only(error: &RedisError) -> bool {
    let says = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || error
            .detail()
            .is_some_and(|detail| detail.contains("READONLY"));
    says && !failpoint!(ReadOnly)
}

/// The same for one answer among several.
pub fn says_read_only(answer: &Value) -> bool {
    let says = |error: &redis::ServerError| {
        error.code() == "READONLY"
            || error
                .details()
                .is_some_and(|details| details.contains("READONLY"))
    };
    !failpoint!(ReadOnly) && matches!(answer, Value::ServerError(error) if says(error))
}

pub fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Code::{CorruptData, Internal, Permission, Unavailable, Unsupported};

    fn said(reply: &str) -> RedisError {
        let reply = format!("-{reply}\r\n");
        let value = redis::parse_redis_value(reply.as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    /// Replies of servers (server.c, cluster.c, acl.c and script.c of Redis 6.2 to 8, Valkey 8).
    const REPLIES: &[(&str, Code, &str)] = &[
        (
            "LOADING Redis is loading the dataset in memory",
            Unavailable,
            "loading",
        ),
        (
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            Unavailable,
            "busy",
        ),
        (
            "UNKILLABLE Sorry the script already executed write commands against the dataset.",
            Unavailable,
            "busy",
        ),
        (
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            Unavailable,
            "MASTERDOWN",
        ),
        (
            "NOMASTERLINK Can't SYNC while not connected with my master",
            Unavailable,
            "NOMASTERLINK",
        ),
        (
            "NOREPLICAS Not enough good replicas to write.",
            Unavailable,
            "too few replicas",
        ),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            Unavailable,
            "memory",
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            Unavailable,
            "MISCONF",
        ),
        (
            "READONLY You can't write against a read only replica.",
            Unavailable,
            "read-only",
        ),
        (
            "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
            Unavailable,
            "UNBLOCKED",
        ),
        ("REDIRECT 127.0.0.1:6379", Unavailable, "REDIRECT"),
        (
            "CLUSTERDOWN The cluster is down",
            Unavailable,
            "Cluster is down (CLUSTERDOWN)",
        ),
        (
            "CLUSTERDOWN Hash slot not served",
            Unavailable,
            "CLUSTERDOWN",
        ),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            Unavailable,
            "TRYAGAIN",
        ),
        ("MOVED 3999 127.0.0.1:6381", Unavailable, "MOVED"),
        ("ASK 3999 127.0.0.1:6381", Unavailable, "ASK"),
        (
            "NOPERM User x has no permissions to run the 'eval' command",
            Permission,
            "docs/guide/security.md",
        ),
        (
            "NOPERM No permissions to access a channel",
            Permission,
            "docs/guide/security.md",
        ),
        (
            "NOAUTH Authentication required.",
            Permission,
            "asks for a password",
        ),
        (
            "WRONGPASS invalid username-password pair or user is disabled.",
            Permission,
            "refused the password",
        ),
        (
            "DENIED Redis is running in protected mode because …",
            Permission,
            "protected mode",
        ),
        ("NOPROTO unsupported protocol version", Unsupported, "RESP3"),
        (
            "ERR unknown command 'EVALSHA', with args beginning with: ",
            Unsupported,
            "lacks",
        ),
        (
            "ERR unknown subcommand 'SLOTS'. Try CLUSTER HELP.",
            Unsupported,
            "lacks",
        ),
        (
            "ERR max number of clients reached",
            Unavailable,
            "maxclients",
        ),
        (
            "WRONGTYPE Operation against a key holding the wrong kind of value",
            CorruptData,
            "another type",
        ),
        // Errors in a script, from Redis 7 and 6.
        (
            "OOM allow-oom flag is not set on the script, can not run it when used memory > 'maxmemory'",
            Unavailable,
            "memory",
        ),
        (
            "ERR Error running script (call to f_ab): @user_script:3: @user_script: 3: -OOM command not allowed when used memory > 'maxmemory'.",
            Unavailable,
            "memory",
        ),
        (
            "ERR Error running script (call to f_ab): @user_script:1: @user_script: 1: -READONLY You can't write against a read only replica.",
            Unavailable,
            "read-only",
        ),
        (
            "ERR Error running script (call to f_ab): @user_script:1: WRONGTYPE Operation against a key holding the wrong kind of value",
            CorruptData,
            "another type",
        ),
        (
            "NOPERM ACL failure in script: User x has no permissions to run the 'publish' command",
            Permission,
            "docs/guide/security.md",
        ),
        // Errors of EXEC.
        (
            "EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.",
            Unavailable,
            "memory",
        ),
        (
            "EXECABORT Transaction discarded because of previous errors.",
            Internal,
            "refused",
        ),
        // Errors without a specific meaning.
        ("ERR syntax error", Internal, "refused"),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            Internal,
            "refused",
        ),
        (
            "NOTBUSY No scripts in execution right now.",
            Internal,
            "refused",
        ),
        (
            "BUSYKEY Target key name already exists.",
            Internal,
            "refused",
        ),
        (
            "NOSCRIPT No matching script. Please use EVAL.",
            Internal,
            "refused",
        ),
        // A code as a part of a name.
        (
            "ERR no such room: BALLROOMS and LOADINGBAY",
            Internal,
            "refused",
        ),
    ];

    #[test]
    fn each_word_of_a_server_has_its_code() {
        for (reply, code, words) in REPLIES {
            let error = request(&said(reply));
            assert_eq!(error.code, *code, "{reply}");
            assert!(error.message.contains(words), "{reply}: {}", error.message);
            // The server refused the request, so the outcome is known.
            assert!(!error.outcome_unknown, "{reply}");
        }
    }

    #[test]
    fn each_word_and_text_is_among_the_replies() {
        for (word, ..) in WORDS.iter().chain(TEXTS) {
            let known = REPLIES.iter().any(|(reply, ..)| reply.contains(word));
            assert!(known || word.contains("cluster connections"), "{word}");
        }
    }
}
