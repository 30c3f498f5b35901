//! The operations on a store for channel metadata: read a record, and commit changes of one record
//! in a single atomic step.

use crate::model::{
    error::Result,
    metadata::{
        Channel,
        change::{ChangedItems, LockCheck, LockState},
        event::EventText,
        record::Stored,
        text_template::TextTemplate,
    },
};
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Changes of one channel's record that are committed together or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    pub channel: &'a Channel,
    /// The record that the changes were computed on. The stored record must be identical to it.
    /// Comparing `majorRevision` alone would not be enough: legacy nodes check and write in two
    /// steps, so two of them can write the same revision with different items.
    pub base: &'a Stored,
    pub locks: &'a [&'a LockCheck],
    /// `None`: only check the record and the locks.
    pub write: Option<&'a Write>,
}

/// The record after the changes.
#[derive(Clone, Debug)]
pub struct Write {
    /// Placeholders are filled with the time of the commit, in ISO 8601.
    pub items: Arc<TextTemplate>,
    pub total: usize,
    pub major: u64,
    /// One event for each change, in order.
    pub events: Vec<EventText>,
    /// How long the record lives from now on, in ms; `None`: it does not expire.
    pub ttl_ms: Option<u64>,
    /// The items that all changes together have touched.
    pub touched: ChangedItems,
}

/// The result of a commit. Only `Done` has written anything.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    Done(Time),
    /// These locks do not allow the commit, by index.
    Locked(Vec<(usize, LockState)>),
    /// The locks allow the commit, but the stored record differs from `base`. The stored record,
    /// and the time of the check in milliseconds since 1970.
    Changed(Stored, u64),
}

/// The store's own time.
#[derive(Clone, Debug, PartialEq)]
pub struct Time {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// The same in ISO 8601, as it was put into placeholders. May be empty if there were none.
    pub iso: String,
    /// [`Stored::id`] of the record after the commit.
    pub id: Vec<u8>,
}

pub trait MetadataStore: Send + Sync + 'static {
    /// Returns the record, and the time in milliseconds since 1970.
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>>;

    /// Compares, checks locks, writes, and publishes. Never sent twice.
    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>>;
}
