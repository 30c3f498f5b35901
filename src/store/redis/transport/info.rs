//! Parses the answer to `INFO`.

/// The value of a field of `INFO`.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    Some(info.lines().find_map(value)?.trim())
}
