//! The channels of metadata.

use crate::model::display::display_id;
use std::sync::Arc;

/// A channel, which has metadata.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel {
    /// `channelType`. Contains a colon only if it is one of the declared [`ColonTypes`] (spec 2.2).
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

    /// The channel, formatted for a message.
    pub fn display(&self) -> String {
        format!(
            "{} of type {}",
            display_id(&self.name),
            display_id(&self.kind)
        )
    }
}
