//! Channel metadata (spec section 7): a small versioned record of items for each channel. The
//! effect of a change on a record is computed here, on texts, for both stores.
//!
//! `channel.rs`: names of channels. `record.rs`: records and their items. `response.rs`: answers.
//! `change.rs`: requests and their effects. `event.rs`: events. `text_template.rs`: texts without
//! the time of their commit.

pub mod change;
pub mod channel;
pub mod event;
pub mod record;
pub mod response;
pub mod text_template;

pub use channel::Channel;

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
    /// In a hash, where legacy nodes read them.
    #[default]
    Hash,
    /// As RedisJSON documents.
    Json,
}

impl Channel {
    /// Refuses invalid ids, and a channel whose key would be parsed as that of another channel.
    pub fn check(&self, limits: &Limits, types: &ColonTypes) -> Result<()> {
        ids::check("channelType", &self.kind, limits)?;
        ids::check("channelName", &self.name, limits)?;
        if types.0.is_empty() && !self.kind.contains(':') {
            // The first colon of the key ends the type.
            return Ok(());
        }
        let both = format!("{}:{}", self.kind, self.name);
        match types.read(&both) {
            Some(channel) if channel == *self => Ok(()),
            Some(other) if types.0.contains(&other.kind) => Err(Error::invalid(format!(
                "channelName must not go on with the rest of a declared channelType: the key would be \
                 that of channel {} (channelTypesWithColon)",
                other.display()
            ))),
            _ => Err(Error::invalid(format!(
                "channelType must not hold a colon, got {}: with one, two channels would share a \
                 key; channelName may hold colons. Types that have always had one can be declared \
                 in channelTypesWithColon",
                ids::display_id(&self.kind)
            ))),
        }
    }
}

/// The channel types that contain a colon, longest first. Without them, the first colon of
/// `<type>:<name>` ends the type. A declared type matches as a whole. Each key therefore still
/// belongs to exactly one channel.
#[derive(Clone, Debug, Default)]
pub struct ColonTypes(Arc<[Arc<str>]>);

impl ColonTypes {
    /// Maximum number of declared types, because each is compared with every name that is parsed.
    const MAX: usize = 1000;

    pub fn new(types: &[String], limits: &Limits) -> Result<Self> {
        if types.len() > Self::MAX {
            return Err(Error::invalid(format!(
                "channelTypesWithColon must have at most {} types, got {}",
                Self::MAX,
                types.len()
            )));
        }
        for (place, kind) in types.iter().enumerate() {
            let field = format!("channelTypesWithColon[{place}]");
            ids::check(&field, kind, limits)?;
            if !kind.contains(':') {
                return Err(Error::invalid(format!(
                    "{field} must hold a colon: other types need not be declared"
                )));
            }
        }
        let mut types: Vec<Arc<str>> = types.iter().map(|kind| kind.as_str().into()).collect();
        types.sort_by_key(|kind| std::cmp::Reverse(kind.len()));
        Ok(ColonTypes(types.into()))
    }

    /// Parses `<type>:<name>`.
    pub fn read(&self, both: &str) -> Option<Channel> {
        let declared = self.0.iter().find_map(|kind| {
            let name = both.strip_prefix(&**kind)?.strip_prefix(':')?;
            // A name is never empty. If the rest is, the colon is part of the type.
            (!name.is_empty()).then_some((&**kind, name))
        });
        let (kind, name) = declared.or_else(|| both.split_once(':'))?;
        Some(Channel::new(kind, name))
    }
}

/// The operation of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Replaces the whole record (spec 7.1).
    Set,
    /// Changes existing items (spec 7.2).
    Update,
    /// Removes items (spec 7.3).
    Remove,
}

impl Operation {
    pub const ALL: [Operation; 3] = [Operation::Set, Operation::Update, Operation::Remove];

    /// The name in events.
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
