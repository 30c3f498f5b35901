//! Whose turn it is to make passes. One node's pass serves all, so what else is to be done once for all nodes can
//! follow it without a call of its own.

use std::time::Duration;
use tokio::time::Instant;

/// Which node makes the passes, as the reaper of this one knows.
#[derive(Clone, Copy, Debug)]
pub enum Turn {
    /// This node does. It begins a pass, or has just found that it has to.
    Own { since: Instant },
    /// Another node has made a pass. This one relies on it until then, and asks again before.
    Other { until: Instant },
}

impl Turn {
    pub(super) fn own() -> Turn {
        Turn::Own {
            since: Instant::now(),
        }
    }

    /// This node asks again in so long. `answer`: how long the answer may take.
    pub(super) fn other(asks_again: Duration, answer: Duration) -> Turn {
        Turn::Other {
            until: Instant::now() + asks_again + answer,
        }
    }
}

/// Is called whenever the reaper learns whose turn it is; must not block.
pub trait TurnListener: Send + Sync + 'static {
    fn turn(&self, turn: Turn);
}
