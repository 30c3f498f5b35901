//! The answers to callers: a record with the time of the answer.

use super::{channel::Channel, text_template::TextTemplate};
use crate::model::json;
use std::{any::Any, fmt::Write as _, sync::Arc};

/// Length of the time of a commit as text: `2026-01-31T12:34:56.789Z`.
pub(super) const TIME_BYTES: usize = 24;

/// A record in the form for callers, without the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    pub total: usize,
    pub major: u64,
    pub items: Arc<TextTemplate>,
}

impl View {
    /// The length of the text of the items, with the time in its placeholders.
    pub fn bytes(&self) -> usize {
        self.items.bare().len() + TIME_BYTES * self.items.gaps()
    }
}

/// The answer to a call, before it is converted to text. Many answers share one record. The texts
/// of all of them could exhaust the memory.
#[derive(Clone, Debug)]
pub struct Response {
    pub view: View,
    pub channel: Channel,
    pub now_ms: u64,
    /// The time for the placeholders.
    pub updated: Arc<str>,
    /// The reservation for the record's memory, held as long as the record is.
    pub room: Option<Arc<dyn Any + Send + Sync>>,
}

impl Response {
    /// Approximate length of the text.
    pub fn bytes(&self) -> usize {
        self.view.bytes() + self.channel.name.len() + self.channel.kind.len() + 128
    }

    /// Appends the answer as JSON text.
    pub fn write_into(&self, out: &mut String) {
        let View {
            total,
            major,
            items,
        } = &self.view;
        out.reserve(self.bytes());
        write!(out, "{{\"timestamp\":{},\"channelName\":", self.now_ms)
            .expect("a String takes any text");
        json::quote_into(out, &self.channel.name);
        out.push_str(",\"channelType\":");
        json::quote_into(out, &self.channel.kind);
        write!(
            out,
            ",\"totalCount\":{total},\"majorRevision\":{major},\"metadata\":"
        )
        .expect("a String takes any text");
        items.fill_into(out, &self.updated);
        out.push('}');
    }

    /// The answer as JSON text.
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write_into(&mut out);
        out
    }
}

impl PartialEq for Response {
    fn eq(&self, other: &Self) -> bool {
        let fields = |of: &Self| (of.view.clone(), of.channel.clone(), of.now_ms);
        fields(self) == fields(other) && self.updated == other.updated
    }
}

impl Eq for Response {}
