//! Scans the elements of large keys, page by page.

use super::{commands::Commands, errors, link::Repeat};
use crate::model::error::{Error, Result};
use redis::{Cmd, RedisError, Value};

/// Approximate number of elements in one page.
pub const PAGE: usize = 512;

/// The cursor that begins a scan, and that the last page returns.
pub const END: &[u8] = b"0";

/// The next cursor, and the elements of the page.
pub type Page = (Vec<u8>, Vec<String>);

/// One step of `SSCAN`, `HSCAN` or `ZSCAN`.
pub fn command(name: &str, key: &str, cursor: &[u8]) -> Cmd {
    let mut cmd = redis::cmd(name);
    cmd.arg(key).arg(cursor).arg("COUNT").arg(PAGE);
    cmd
}

/// Reads the answer of one step.
pub fn page(answer: Value) -> Result<Page> {
    let error = |error: RedisError| -> Error { errors::request(&error) };
    let (next, found): (Vec<u8>, Vec<Vec<u8>>) =
        redis::from_redis_value(answer.extract_error().map_err(error)?)
            .map_err(|parsing| error(parsing.into()))?;
    let text = |id: Vec<u8>| String::from_utf8_lossy(&id).into_owned();
    Ok((next, found.into_iter().map(text).collect()))
}

impl Commands {
    /// Runs one step of a scan.
    pub async fn scan(&self, name: &str, key: &str, cursor: &[u8]) -> Result<Page> {
        let cmd = command(name, key, cursor);
        page(self.command(&cmd, Repeat::Harmless).await?)
    }
}
