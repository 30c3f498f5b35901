//! The errors that callers get for a lock that they no longer hold.

use crate::{
    model::{
        error::{Code, Error},
        ids,
    },
    store::lock::Claim,
};

pub(super) fn over(claim: &Claim) -> Error {
    Error::new(
        Code::LockLost,
        format!(
            "the lease of lock {} is over and was not renewed in time; acquire it again",
            ids::display_id(&claim.name)
        ),
    )
}

pub(super) fn released(claim: &Claim) -> Error {
    let name = ids::display_id(&claim.name);
    Error::new(Code::LockLost, format!("lock {name} has been released"))
}

pub(super) fn taken(claim: &Claim, owner: Option<String>) -> Error {
    let name = ids::display_id(&claim.name);
    Error::new(
        Code::LockLost,
        match owner {
            Some(owner) => format!(
                "lock {name} was lost: it is held by {} now",
                ids::display_id(&owner)
            ),
            None => format!("lock {name} was lost: it was taken away, or its time ran out"),
        },
    )
}
