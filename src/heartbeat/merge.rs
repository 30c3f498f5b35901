//! Merges patches into states, in pieces of bounded size. Large merges run on a blocking thread
//! instead of a runtime worker.

use super::work::{Verdict, Work};
use crate::{
    model::{
        error::Error,
        state::{PatchOutcome, State},
    },
    offload::offload,
};

/// Approximate maximum of state bytes that one call of the store writes. A larger state is sent in
/// a call of its own. This bounds the memory of a batch, and the time for which it occupies the
/// Redis connection.
const MAX_PIECE_BYTES: usize = 4 * 1024 * 1024;

/// Splits the works of a batch into pieces that are merged and sent one after the other.
pub(super) fn pieces(works: Vec<Work>) -> Vec<Vec<Work>> {
    let mut pieces: Vec<Vec<Work>> = Vec::new();
    let mut bytes = 0;
    for work in works {
        let more = work.merge_bytes();
        match pieces.last_mut() {
            Some(piece) if bytes + more <= MAX_PIECE_BYTES => piece.push(work),
            _ => {
                bytes = 0;
                pieces.push(vec![work]);
            }
        }
        bytes += more;
    }
    pieces
}

/// Merges the patches of each work into its base.
pub(super) async fn merge(mut works: Vec<Work>, max_state_bytes: usize) -> Vec<Work> {
    let bytes = works.iter().map(Work::merge_bytes).sum();
    offload(bytes, move || {
        for work in &mut works {
            work.merge(max_state_bytes);
        }
        works
    })
    .await
}

impl Work {
    /// The number of bytes that a merge reads and writes.
    fn merge_bytes(&self) -> usize {
        if !self.group.has_patch() {
            return 0;
        }
        let base = self
            .base
            .as_ref()
            .map_or(0, |base| base.state.as_str().len());
        let waiting = self.group.waiting.iter();
        base + waiting
            .map(|waiting| waiting.request.patch_bytes())
            .sum::<usize>()
    }

    /// Merges the group's patches into the base, in the order of the calls. A patch that would make
    /// the state too large is refused, and the others are merged (spec 5.3).
    fn merge(&mut self, max_state_bytes: usize) {
        self.next = None;
        let base = self
            .base
            .as_ref()
            .map_or_else(State::empty, |base| base.state.clone());
        let patches = self.group.waiting.iter();
        let patches = patches.filter_map(|waiting| waiting.request.patch.as_deref());
        let (outcomes, next) = base.patched(patches, max_state_bytes);
        self.next = next;
        let mut outcomes = outcomes.into_iter();
        self.verdicts = self
            .group
            .waiting
            .iter()
            .map(|waiting| match &waiting.request.patch {
                None => Verdict::Accepted { changed: false },
                Some(_) => verdict(outcomes.next(), max_state_bytes),
            })
            .collect();
    }
}

fn verdict(outcome: Option<PatchOutcome>, limit: usize) -> Verdict {
    match outcome {
        Some(PatchOutcome::TooLarge { bytes }) => Verdict::Refused(Error::invalid(format!(
            "patchState would make the state {bytes} bytes of JSON, more than the limit of {limit} \
             bytes (limits.maxStateBytes)"
        ))),
        Some(PatchOutcome::Changed) => Verdict::Accepted { changed: true },
        Some(PatchOutcome::Unchanged) | None => Verdict::Accepted { changed: false },
    }
}
