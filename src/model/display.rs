//! Formats ids for messages.

/// An id for a message: quoted, and cut off if it is long.
pub fn display_id(id: &str) -> String {
    const MAX_CHARS: usize = 64;
    match id.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{:?}… ({} bytes)", &id[..end], id.len()),
        None => format!("{id:?}"),
    }
}
