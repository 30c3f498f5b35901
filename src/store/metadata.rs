//! What channel metadata asks of a store: to read a record, and to commit changes of one in a single
//! atomic step.

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

/// Changes of one channel's record that are to be carried out together, or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    pub channel: &'a Channel,
    /// The record that they were computed on: it must be what is stored, to the letter. Comparing
    /// `majorRevision` alone would not do: TypeScript nodes check and then write, so two of them can
    /// write one revision with different items.
    pub base: &'a Stored,
    pub locks: &'a [&'a LockCheck],
    /// `None`: only look whether record and locks are as they should be.
    pub write: Option<&'a Write>,
}

/// The record after the changes.
#[derive(Clone, Debug)]
pub struct Write {
    /// Gaps are filled with the time of the commit, in ISO 8601.
    pub items: Arc<TextTemplate>,
    pub total: usize,
    pub major: u64,
    /// One for each change, in order.
    pub events: Vec<EventText>,
    /// How long the record lives from now on; `None`: until it is changed again.
    pub ttl_ms: Option<u64>,
    /// What of the record the changes have touched, all together.
    pub touched: ChangedItems,
}

/// What a commit came to. Only `Done` has written anything.
#[derive(Clone, Debug, PartialEq)]
pub enum Committed {
    Done(Time),
    /// These of the locks do not let it through.
    Locked(Vec<(usize, LockState)>),
    /// The locks let it through, but the stored record is this one. The time is that of the look, in
    /// milliseconds since 1970.
    Changed(Stored, u64),
}

/// The store's own time.
#[derive(Clone, Debug, PartialEq)]
pub struct Time {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// The same in ISO 8601, as it was put into the gaps; may be empty if there were none.
    pub iso: String,
    /// [`Stored::id`] of the record after the commit.
    pub id: Vec<u8>,
}

pub trait MetadataStore: Send + Sync + 'static {
    /// The record, and the time in milliseconds since 1970.
    fn read_metadata<'a>(&'a self, channel: &'a Channel) -> BoxFuture<'a, Result<(Stored, u64)>>;

    /// Compares, checks locks, writes, and publishes. Never run twice.
    fn commit_metadata<'a>(&'a self, commit: Commit<'a>) -> BoxFuture<'a, Result<Committed>>;
}
