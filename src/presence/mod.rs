//! Presence: joining, leaving and reading on a store, and what the node remembers of connections.

pub mod directory;
pub mod own_joins;
pub mod readings;

use crate::{
    model::{
        error::{Code, Error, Result},
        event::Reason,
        presence::{Epoch, Place, epoch_after},
    },
    pause::pause,
    store::{Join, Joined, Leave, Left, Located, PresenceStore, Stored},
};
use directory::{Directory, Known};
use own_joins::OwnJoins;
use std::time::Duration;

/// Maximum number of times that a join or leave follows a connection that moves while the call
/// runs. Each means that another client moved the same connection in between.
const MAX_ROUNDS: usize = 32;

/// Joins a room, and leaves the room that the connection was in before (spec 3.1, 3.2). Returns
/// `None` if the node that should own the connection was declared dead.
pub async fn join(
    store: &dyn PresenceStore,
    directory: &Directory,
    own: &OwnJoins,
    join: &mut Join,
) -> Result<Option<Epoch>> {
    let known = directory.get(&join.conn);
    let newest = known.as_ref().map_or(0, |known| known.epoch);
    join.floor = known.as_ref().map_or(0, |known| epoch_after(known.epoch));
    let mut previous = known.map(|known| known.place);
    let mut moves = 0;
    while moves < MAX_ROUNDS {
        let joined = store.join(join, previous.as_ref()).await;
        match joined.inspect_err(|error| forget_unknown(own, &join.conn, error))? {
            Joined::Joined { epoch, encoding } => {
                let state = join.state.clone();
                let known = Known {
                    place: join.place.clone(),
                    epoch,
                    stored: Some(Stored { state, encoding }),
                };
                if epoch <= newest {
                    // Joins ignore the epoch that was known (it is out of range), so the entry is
                    // replaced.
                    directory.remove(&join.conn);
                    own.forget(&join.conn);
                }
                directory.learn(&join.conn, &known);
                own.joined(&join.conn, epoch);
                return Ok(Some(epoch));
            }
            Joined::Elsewhere(place) => {
                moves += 1;
                previous = Some(place);
            }
            Joined::OwnerLost => return Ok(None),
            Joined::Early { wait_ms } => pause(Duration::from_millis(wait_ms)).await,
        }
    }
    Err(contended(&join.conn))
}

fn forget_unknown(own: &OwnJoins, conn: &str, error: &Error) {
    if error.outcome_unknown {
        own.forget(conn);
    }
}

/// Leaves the room that the connection is in. Returns `None` if the connection is unknown, or if it
/// was joined with a newer epoch than `fence` (spec 3.6). The default for `fence` is the epoch of
/// this client's own last join. `node`: the node that calls, if it answers for connections.
pub async fn leave(
    store: &dyn PresenceStore,
    directory: &Directory,
    own: &OwnJoins,
    conn: &str,
    fence: Option<Epoch>,
    node: Option<&str>,
    reason: Reason,
) -> Result<Option<Place>> {
    let fence = fence
        .map(|fence| directory.current_epoch(conn, fence))
        .or_else(|| own.epoch(conn));
    // Before it is sent, so that it is not joined again meanwhile.
    let number = directory.let_go(conn, fence);
    let mut place = match directory.get(conn) {
        Some(known) => known.place,
        None => match locate(store, conn).await? {
            Some(located) => located.place,
            None => return Ok(None),
        },
    };
    let mut moves = 0;
    while moves < MAX_ROUNDS {
        let leave = Leave {
            conn,
            place: &place,
            fence,
            node,
            number,
            reason,
        };
        let left = store.leave(&leave).await;
        match left.inspect_err(|_| directory.keep(conn, number))? {
            Left::Left => {
                directory.remove(conn);
                return Ok(Some(place));
            }
            Left::Early { wait_ms } => pause(Duration::from_millis(wait_ms)).await,
            Left::Unknown | Left::Newer => {
                // It may have joined again meanwhile.
                if directory.owned(conn).is_none() {
                    directory.remove(conn);
                }
                if let Some(node) = node.filter(|_| number > 0) {
                    // Others have ended it or taken it over. This node still has an entry of it.
                    let _ = store
                        .forget_connections(node, &[(conn.into(), number)])
                        .await;
                }
                return Ok(None);
            }
            Left::Elsewhere(actual) => {
                moves += 1;
                place = actual;
            }
        }
    }
    Err(contended(conn))
}

/// The location of one connection; `None` if it is unknown.
pub async fn locate(store: &dyn PresenceStore, conn: &str) -> Result<Option<Located>> {
    let mut located = store.locate(&[conn.into()]).await;
    located.pop().unwrap_or(Ok(None))
}

fn contended(conn: &str) -> Error {
    Error::new(
        Code::Unavailable,
        format!(
            "connection {} was moved by others {MAX_ROUNDS} times while this call ran; \
             is its connId used by several sockets?",
            crate::model::ids::display_id(conn)
        ),
    )
}
