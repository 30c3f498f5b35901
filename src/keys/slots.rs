//! Hash slots of a Redis Cluster.

use once_cell::sync::Lazy;

/// Number of slots of a cluster.
pub const SLOTS: u16 = 16384;

/// The slot of a key: CRC16 of its hash tag, or of the whole key.
pub fn slot_of(key: &[u8]) -> u16 {
    let tagged = || {
        let rest = &key[key.iter().position(|byte| *byte == b'{')? + 1..];
        let end = rest.iter().position(|byte| *byte == b'}')?;
        (end > 0).then_some(&rest[..end])
    };
    crc16::State::<crc16::XMODEM>::calculate(tagged().unwrap_or(key)) % SLOTS
}

/// For each slot, a hash tag that maps to it.
pub(super) static SLOT_TAGS: Lazy<Vec<String>> = Lazy::new(|| {
    let mut tags = vec![String::new(); usize::from(SLOTS)];
    let mut missing = tags.len();
    for number in 0_u32.. {
        let tag = format!("slot:{number:x}");
        let slot = &mut tags[usize::from(slot_of(tag.as_bytes()))];
        if slot.is_empty() {
            *slot = tag;
            missing -= 1;
            if missing == 0 {
                break;
            }
        }
    }
    tags
});
