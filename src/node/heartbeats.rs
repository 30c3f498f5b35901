//! Decodes heartbeats from JavaScript: texts that contain the ids and patches of many heartbeats,
//! and numbers with the lengths of their parts.

use crate::{
    heartbeat::{ConnId, Outcome, Request},
    model::{error::Result, limits::Limits, state::Patch},
};
use std::sync::Arc;

/// Number of values for each heartbeat: ticket, epoch (-1: none), and in UTF-16 units the lengths
/// of the id, of the keys to set (0: no patch) and of the keys to remove.
pub(super) const PER_REQUEST: usize = 5;

/// Maximum size of a patch, in bytes, that the engine checks later. A larger patch would keep the
/// core's thread busy.
const MAX_DEFERRED: usize = 4 * 1024;

/// Returns the heartbeats, and the outcomes of those whose patch is refused.
pub(super) fn requests(
    conns: String,
    patches: &str,
    items: &[f64],
    limits: &Limits,
) -> (Vec<Request>, Vec<(u64, Outcome)>) {
    let items = items.chunks_exact(PER_REQUEST);
    let conns: Arc<str> = conns.into();
    let mut conn_at = Cursor::new(&conns, items.clone().map(|item| item[2]).sum());
    let mut patch_at = Cursor::new(patches, items.clone().map(|item| item[3] + item[4]).sum());
    let mut requests = Vec::with_capacity(items.len());
    let mut refused = Vec::new();
    for item in items {
        let ticket = item[0] as u64;
        let (start, end) = conn_at.next(item[2]);
        let patch = (item[3] > 0.0).then(|| {
            let (set, remove) = (patch_at.next(item[3]), patch_at.next(item[4]));
            let text = |(start, end)| patches.get(start..end).unwrap_or_default();
            read_patch(text(set), text(remove), limits)
        });
        match patch.transpose() {
            Ok(patch) => requests.push(Request {
                conn: ConnId::within(&conns, start, end),
                epoch: (item[1] >= 0.0).then_some(item[1] as u64),
                patch: patch.map(Box::new),
                ticket,
            }),
            Err(error) => refused.push((ticket, Err(Box::new(error)))),
        }
    }
    (requests, refused)
}

fn read_patch(set: &str, remove: &str, limits: &Limits) -> Result<Patch> {
    limits.state("patchState", set.len() + remove.len())?;
    if remove.is_empty() && set.len() <= MAX_DEFERRED {
        return Ok(Patch::unchecked(set));
    }
    limits.depth("patchState", set)?;
    Patch::parse("patchState", set, remove)
}

/// Splits a text into parts whose lengths are in UTF-16 units.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
    /// Whether each UTF-16 unit is one byte.
    ascii: bool,
}

impl<'a> Cursor<'a> {
    /// `units`: the length of the whole text in UTF-16 units.
    fn new(text: &'a str, units: f64) -> Self {
        Cursor {
            text,
            at: 0,
            ascii: text.len() as f64 == units,
        }
    }

    /// The start and end of the next part, in bytes.
    fn next(&mut self, units: f64) -> (usize, usize) {
        let (start, units) = (self.at, units as usize);
        let bytes = if self.ascii {
            units
        } else {
            bytes_of(&self.text[start..], units)
        };
        self.at = (start + bytes).min(self.text.len());
        (start, self.at)
    }
}

/// The length in bytes of the first `units` UTF-16 units of `text`.
fn bytes_of(text: &str, units: usize) -> usize {
    let mut left = units;
    for (at, c) in text.char_indices() {
        if left == 0 {
            return at;
        }
        left = left.saturating_sub(c.len_utf16());
    }
    text.len()
}
