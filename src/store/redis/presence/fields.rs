//! Reads fields of hashes that any node may have written.

use crate::{
    model::{
        error::{Error, Result},
        presence::Epoch,
    },
    store::redis::transport::errors,
};
use redis::Value;

/// Reads an `HMGET` answer.
pub(in crate::store::redis) fn fields<const N: usize>(
    answer: Value,
) -> Result<[Option<Vec<u8>>; N]> {
    let values = match answer
        .extract_error()
        .map_err(|error| errors::request(&error))?
    {
        Value::Array(values) => values,
        other => return Err(Error::internal(format!("HMGET answered {other:?}"))),
    };
    let values: [Value; N] = values
        .try_into()
        .map_err(|_| Error::internal("HMGET returned an unexpected number of fields"))?;
    Ok(values.map(|value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }))
}

pub(in crate::store::redis) fn utf8(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok()
}

/// A number that is stored as text; 0 if the text is not a number.
pub(in crate::store::redis) fn number(bytes: &[u8]) -> Epoch {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    text.parse()
        .unwrap_or_else(|_| text.parse::<f64>().map_or(0, |x| x as Epoch))
}

/// What the score of a connection with an owner is added to (`lua/include/owner.lua`).
const OWNED: u64 = 1 << 51;

/// A time in ms as the score of a connection with an owner.
pub(in crate::store::redis) fn owned_score(ms: u64) -> u64 {
    OWNED.saturating_add(ms)
}

/// Whether an epoch, as it is stored, says that the connection has an owner.
pub(in crate::store::redis) fn is_owned(epoch: &[u8]) -> bool {
    epoch.first() == Some(&b'+')
}

/// An epoch as it is stored. Those of connections with owners begin with '+'.
pub(in crate::store::redis) fn stored_epoch(epoch: Epoch, owned: bool) -> String {
    format!("{}{epoch}", if owned { "+" } else { "" })
}

pub(in crate::store::redis) fn unknown_code(script: &str, code: i64) -> redis::RedisError {
    redis::RedisError::from((
        redis::ErrorKind::UnexpectedReturnType,
        "a script answered with an unknown code",
        format!("{script}: {code}"),
    ))
}
