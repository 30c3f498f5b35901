//! Checks of ids from outside, and random ids.

use crate::{
    failpoints::failpoint,
    model::{
        error::{Error, Result},
        limits::Limits,
    },
};

pub use crate::model::display::display_id;

/// Reserved ending of connection ids. `prs:conn:<connId>:state` is the key of a separate state
/// (state storage "separate"), so an id with this ending would share a key with another id.
const RESERVED_CONN_SUFFIX: &str = ":state";

/// Checks any id: not empty, and not longer than the limit. All characters are allowed. Key names
/// are built so that no two ids have the same key (`keys.rs`).
pub fn check(field: &str, id: &str, limits: &Limits) -> Result<()> {
    if id.is_empty() {
        return Err(Error::invalid(format!("{field} must not be empty")));
    }
    if id.len() > limits.max_id_bytes && !failpoint!(Limits) {
        return Err(Error::invalid(format!(
            "{field} is {} bytes long, more than the limit of {} bytes (limits.maxIdBytes)",
            id.len(),
            limits.max_id_bytes
        )));
    }
    Ok(())
}

/// Checks a connection id.
pub fn check_conn(field: &str, id: &str, limits: &Limits) -> Result<()> {
    check(field, id, limits)?;
    if id.ends_with(RESERVED_CONN_SUFFIX) {
        return Err(Error::invalid(format!(
            "{field} must not end in {RESERVED_CONN_SUFFIX:?}: that name is reserved for a key of \
             another connection"
        )));
    }
    Ok(())
}

/// A unique id that cannot be guessed: 128 random bits in hexadecimal.
pub fn random() -> Result<String> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// A unique number: 51 random bits, and not 0, so that a JavaScript number represents it exactly.
pub fn random_number() -> Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok((u64::from_ne_bytes(bytes) >> 13).max(1))
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        Error::internal("the system has no random numbers to give").with_cause(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spec_13_ids_are_limited_in_bytes_and_the_message_names_field_size_and_limit() {
        let limits = Limits::default();
        assert!(check("roomId", &"x".repeat(4096), &limits).is_ok());
        let error = check("roomId", &"ä".repeat(2049), &limits).unwrap_err();
        for part in ["roomId", "4098", "4096"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
    }

    #[test]
    fn spec_2_2_a_connection_id_never_makes_the_state_key_of_another() {
        assert!(check_conn("connId", "x:state", &Limits::default()).is_err());
        assert!(check_conn("connId", "x:states", &Limits::default()).is_ok());
    }
}
