//! Keyspace notifications: enables notifications of expirations, and keeps the flags that are
//! already set.

use crate::{model::error::Result, store::redis::transport::errors};
use redis::{Value, aio::MultiplexedConnection};

/// The channel on which a server publishes the expired keys of a database.
pub fn expired_channel(db: i64) -> String {
    format!("__keyevent@{db}__:expired")
}

/// Adds the flags for expirations to those that are set. Fails if the server forbids `CONFIG`.
pub async fn ensure_flags(connection: &mut MultiplexedConnection) -> Result<()> {
    const OPTION: &str = "notify-keyspace-events";
    let run = async |connection: &mut MultiplexedConnection, cmd: &redis::Cmd| {
        connection
            .send_packed_command(cmd)
            .await
            .and_then(Value::extract_error)
            .map_err(|error| errors::request(&error))
    };
    let get = redis::cmd("CONFIG").arg("GET").arg(OPTION).to_owned();
    let answer = run(connection, &get).await?;
    let answer: std::collections::HashMap<String, String> =
        redis::from_redis_value(answer).map_err(|error| errors::request(&error.into()))?;
    let flags = answer.get(OPTION).map(String::as_str).unwrap_or_default();
    if let Some(flags) = with_expirations(flags) {
        run(
            connection,
            &redis::cmd("CONFIG")
                .arg("SET")
                .arg(OPTION)
                .arg(flags)
                .to_owned(),
        )
        .await?;
    }
    Ok(())
}

/// The flags with those for expirations added; `None` if they are set already. `E`: keyevent
/// channels. `x`: expirations; `A` includes it.
fn with_expirations(flags: &str) -> Option<String> {
    let mut wanted = flags.to_owned();
    if !flags.contains('E') {
        wanted.push('E');
    }
    if !flags.contains(['x', 'A']) {
        wanted.push('x');
    }
    (wanted != flags).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_6_4_flags_that_are_set_are_kept() {
        for (flags, wanted) in [
            ("", Some("Ex")),
            ("AKE", None),
            ("KA", Some("KAE")),
            ("Kg$", Some("Kg$Ex")),
            ("xE", None),
        ] {
            assert_eq!(with_expirations(flags).as_deref(), wanted, "{flags}");
        }
    }
}
