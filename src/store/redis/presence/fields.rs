//! Fields of hashes, as servers answer with them and as any node may have written them.

use crate::{
    model::{
        error::{Error, Result},
        presence::Epoch,
    },
    store::redis::transport::errors,
};
use redis::Value;

/// An `HMGET` answer.
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
        .map_err(|_| Error::internal("HMGET answered with other fields than asked"))?;
    Ok(values.map(|value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }))
}

pub(in crate::store::redis) fn utf8(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok()
}

/// A number that somebody stored as text; 0 if it is none.
pub(in crate::store::redis) fn number(bytes: &[u8]) -> Epoch {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    text.parse()
        .unwrap_or_else(|_| text.parse::<f64>().map_or(0, |x| x as Epoch))
}

pub(in crate::store::redis) fn unknown_code(script: &str, code: i64) -> redis::RedisError {
    redis::RedisError::from((
        redis::ErrorKind::UnexpectedReturnType,
        "a script answered with an unknown code",
        format!("{script}: {code}"),
    ))
}
