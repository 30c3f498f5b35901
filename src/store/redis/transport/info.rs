//! Reading the answer to `INFO`.

/// What `INFO` says under a name.
pub fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    Some(info.lines().find_map(value)?.trim())
}
