//! The error type of the core: a stable code, a message for people, and whether the outcome is
//! unknown. `src/node/` passes it to JavaScript unchanged. Only this type defines error codes.

use super::{display::display_id, metadata::response::Response};
use std::{any::Any, fmt, sync::Arc};

/// Stable error codes. They are part of the public API: JavaScript gets the names of
/// [`Code::as_str`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    InvalidArgument,
    ConnectionNotFound,
    StaleEpoch,
    MetadataInvalid,
    MetadataConflict,
    MetadataLock,
    LockUnavailable,
    LockLost,
    Overloaded,
    RateLimited,
    Forbidden,
    RoomFull,
    Timeout,
    Unavailable,
    Permission,
    Unsupported,
    Closed,
    CorruptData,
    Internal,
}

impl Code {
    /// Every code, in the order of the specification.
    pub const ALL: [Code; 19] = [
        Code::InvalidArgument,
        Code::ConnectionNotFound,
        Code::StaleEpoch,
        Code::MetadataInvalid,
        Code::MetadataConflict,
        Code::MetadataLock,
        Code::LockUnavailable,
        Code::LockLost,
        Code::Overloaded,
        Code::RateLimited,
        Code::Forbidden,
        Code::RoomFull,
        Code::Timeout,
        Code::Unavailable,
        Code::Permission,
        Code::Unsupported,
        Code::Closed,
        Code::CorruptData,
        Code::Internal,
    ];

    /// The name in JavaScript's `error.code`.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::InvalidArgument => "INVALID_ARGUMENT",
            Code::ConnectionNotFound => "CONNECTION_NOT_FOUND",
            Code::StaleEpoch => "STALE_EPOCH",
            Code::MetadataInvalid => "METADATA_INVALID",
            Code::MetadataConflict => "METADATA_CONFLICT",
            Code::MetadataLock => "METADATA_LOCK",
            Code::LockUnavailable => "LOCK_UNAVAILABLE",
            Code::LockLost => "LOCK_LOST",
            Code::Overloaded => "OVERLOADED",
            Code::RateLimited => "RATE_LIMITED",
            Code::Forbidden => "FORBIDDEN",
            Code::RoomFull => "ROOM_FULL",
            Code::Timeout => "TIMEOUT",
            Code::Unavailable => "UNAVAILABLE",
            Code::Permission => "PERMISSION",
            Code::Unsupported => "UNSUPPORTED",
            Code::Closed => "CLOSED",
            Code::CorruptData => "CORRUPT_DATA",
            Code::Internal => "INTERNAL",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of the core.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub code: Code,
    pub message: String,
    /// The request may have been carried out although it was not answered.
    pub outcome_unknown: bool,
    /// The error of the layer below, without secrets.
    pub cause: Option<String>,
    /// With `METADATA_CONFLICT`: the current record.
    pub current: Option<Arc<Response>>,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Error {
            code,
            message: message.into(),
            outcome_unknown: false,
            cause: None,
            current: None,
        }
    }

    pub fn with_cause(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    pub fn with_unknown_outcome(mut self) -> Self {
        self.outcome_unknown = true;
        self
    }

    /// The error for callers that waited for a task that panicked.
    pub fn panicked(panic: &(dyn Any + Send)) -> Self {
        let said = panic
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        Error::internal("Rollcall failed inside; please report this")
            .with_cause(said.unwrap_or_default())
            .with_unknown_outcome()
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    pub fn closed() -> Self {
        Self::new(Code::Closed, "the client is closed; connect a new one")
    }

    pub fn not_found(conn: &str) -> Self {
        Self::new(
            Code::ConnectionNotFound,
            format!(
                "connection {} is unknown or has expired; join again",
                display_id(conn)
            ),
        )
    }

    pub fn stale(conn: &str, given: u64, stored: u64) -> Self {
        Self::new(
            Code::StaleEpoch,
            format!(
                "epoch {given} of connection {} is older than the stored epoch {stored}; \
                 a newer join has taken the connection over",
                display_id(conn)
            ),
        )
    }

    pub fn ahead(conn: &str, given: u64, max: u64) -> Self {
        Self::invalid(format!(
            "epoch {given} of connection {} is more than one day ahead of the server's time (the limit is \
             {max} now); send the epoch that join returned",
            display_id(conn)
        ))
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_all_listed() {
        let names: std::collections::BTreeSet<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
