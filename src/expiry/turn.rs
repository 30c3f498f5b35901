//! Which node makes the passes. A pass of one node serves all nodes, so other work that is done
//! once for all nodes can follow the passes without a call of its own.

use std::time::Duration;
use tokio::time::Instant;

/// Which node makes the passes, as far as the reaper of this node knows.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// This node. It begins a pass, or has just found that it must make the passes.
    Own { since: Instant },
    /// Another node has made a pass. This node relies on it until this time, and checks again
    /// before it.
    Other { until: Instant },
}

impl Turn {
    pub(super) fn own() -> Turn {
        Turn::Own {
            since: Instant::now(),
        }
    }

    /// `asks_again`: time until this node checks again. `answer`: how long the answer may take.
    pub(super) fn other(asks_again: Duration, answer: Duration) -> Turn {
        Turn::Other {
            until: Instant::now() + asks_again + answer,
        }
    }
}

/// Called whenever the reaper learns which node makes the passes. Must not block.
pub trait TurnListener: Send + Sync + 'static {
    fn turn(&self, turn: Turn);
}
