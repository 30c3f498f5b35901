//! Channel metadata (spec section 7): a small versioned record of items per channel. What a change
//! makes of a record is computed here, on texts, for both stores alike.
//!
//! `record.rs`: records and their items; `change.rs`: what callers ask for and what becomes of it;
//! `event.rs`: events; `spliced.rs`: texts that still lack the time of their commit.

pub mod change;
pub mod event;
pub mod record;
pub mod spliced;

use crate::model::{
    error::{Error, Result},
    ids,
    limits::Limits,
};
use std::sync::Arc;

/// How records are stored (spec 9.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MetadataStorage {
    /// In a hash, where TypeScript servers read them.
    #[default]
    Hash,
    /// As RedisJSON documents.
    Json,
}

/// What has metadata.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel {
    /// `channelType`; never holds a colon (spec 2.2).
    pub kind: Arc<str>,
    /// `channelName`.
    pub name: Arc<str>,
}

impl Channel {
    pub fn new(kind: &str, name: &str) -> Self {
        Channel {
            kind: kind.into(),
            name: name.into(),
        }
    }

    /// Reads `<type>:<name>`.
    pub fn read(both: &str) -> Option<Self> {
        let (kind, name) = both.split_once(':')?;
        Some(Channel::new(kind, name))
    }

    pub fn check(&self, limits: &Limits) -> Result<()> {
        ids::check("channelType", &self.kind, limits)?;
        ids::check("channelName", &self.name, limits)?;
        if self.kind.contains(':') {
            return Err(Error::invalid(format!(
                "channelType must not hold a colon, got {}: with one, two channels would share a \
                 key; channelName may hold colons",
                ids::shown(&self.kind)
            )));
        }
        Ok(())
    }

    /// The channel as it may stand in a message.
    pub fn shown(&self) -> String {
        format!(
            "{} of type {}",
            ids::shown(&self.name),
            ids::shown(&self.kind)
        )
    }
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Replaces the whole record (spec 7.1).
    Set,
    /// Changes items that exist (spec 7.2).
    Update,
    /// Removes items (spec 7.3).
    Remove,
}

impl Operation {
    pub const ALL: [Operation; 3] = [Operation::Set, Operation::Update, Operation::Remove];

    /// Its name in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Set => "set",
            Operation::Update => "update",
            Operation::Remove => "remove",
        }
    }

    pub fn read(name: &str) -> Option<Operation> {
        Self::ALL
            .into_iter()
            .find(|operation| operation.as_str() == name)
    }
}
