//! Presence: joining, leaving and looking, on a store; and what the node remembers of connections.

pub mod directory;

use crate::{
    model::{
        error::{Code, Error, Result},
        presence::{Epoch, Place},
    },
    store::{Join, Joined, Left, Located, Store, Stored},
};
use directory::{Directory, Known};
use std::time::Duration;

/// How often a join or leave follows a connection that moves under its hands before it gives up.
/// Each round means that somebody else moved the same connection in between.
const MOST_ROUNDS: usize = 32;

/// Joins, wherever the connection was before (spec 3.1, 3.2).
pub async fn join(store: &dyn Store, directory: &Directory, join: &mut Join) -> Result<Epoch> {
    let known = directory.get(&join.conn);
    join.floor = known.as_ref().map_or(0, |known| known.epoch + 1);
    let mut previous = known.map(|known| known.place);
    let mut moves = 0;
    while moves < MOST_ROUNDS {
        match store.join(join, previous.as_ref()).await? {
            Joined::Joined { epoch, mark } => {
                let state = join.state.clone();
                let known = Known {
                    place: join.place.clone(),
                    epoch,
                    stored: Some(Stored { state, mark }),
                    quiet: true,
                };
                directory.learn(&join.conn, &known);
                return Ok(epoch);
            }
            Joined::Elsewhere(place) => {
                moves += 1;
                previous = Some(place);
            }
            Joined::Early { wait_ms } => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
        }
    }
    Err(contended(&join.conn))
}

/// Leaves the room that the connection is in; `None` if it is unknown (spec 3.6).
pub async fn leave(store: &dyn Store, directory: &Directory, conn: &str) -> Result<Option<Place>> {
    let mut place = match directory.get(conn) {
        Some(known) => known.place,
        None => match locate(store, conn).await? {
            Some(located) => located.place,
            None => return Ok(None),
        },
    };
    let mut moves = 0;
    while moves < MOST_ROUNDS {
        match store.leave(conn, &place).await? {
            Left::Left => {
                directory.forget(conn);
                return Ok(Some(place));
            }
            Left::Early { wait_ms } => tokio::time::sleep(Duration::from_millis(wait_ms)).await,
            Left::Unknown => {
                directory.forget(conn);
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

/// Where one connection is; `None` if it is unknown.
pub async fn locate(store: &dyn Store, conn: &str) -> Result<Option<Located>> {
    let mut located = store.locate(&[conn.into()]).await;
    located.pop().unwrap_or(Ok(None))
}

fn contended(conn: &str) -> Error {
    Error::new(
        Code::Unavailable,
        format!(
            "connection {} was moved by others {MOST_ROUNDS} times while this call ran; \
             is its connId used by several sockets?",
            crate::model::ids::shown(conn)
        ),
    )
}
