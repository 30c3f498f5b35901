//! Names of the layout, for programs that read Redis directly: `presenceKeys` in JavaScript.

use crate::{keys::Keys, model::metadata::Channel, options::Options};
use napi_derive::napi;

/// A key or channel of the layout by its kind, with the default prefix. `first` and `second` are
/// its ids; empty if not needed.
#[napi]
#[cfg_attr(
    test,
    allow(dead_code, reason = "exported by the macro, which tests leave out")
)]
pub fn presence_key(kind: String, first: String, second: String) -> napi::Result<String> {
    let options = Options::default();
    let keys = Keys::new(&options.key_prefix, options.shard_count);
    let first = first.as_str();
    let channel = || Channel::new(first, &second);
    Ok(match kind.as_str() {
        "activeRooms" => keys.active_rooms(),
        "roomMembers" => keys.room(first).members,
        "roomConnections" => keys.room(first).conns,
        "roomConnMetadata" => keys.room(first).conn_meta,
        "roomLastSeen" => keys.room(first).last_seen,
        "roomEvents" => keys.room_events(first),
        "conn" => keys.conn("", first),
        "userConns" => keys.user_conns(first),
        "eventsPattern" => keys.events_pattern(),
        "channelMetadata" => keys.channel_meta(&channel()),
        "channelMetadataEvents" => keys.channel_events(&channel()),
        "metadataEventsPattern" => keys.channel_events_pattern(),
        "lock" => keys.lock(first),
        other => {
            return Err(napi::Error::from_reason(format!("no such key: {other}")));
        }
    })
}
