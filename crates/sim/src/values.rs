//! Values that tell which write they are from.

use bytes::Bytes;

/// The value with a number: the number, then as much as makes it this long.
pub(crate) fn value_of(number: u64, min_bytes: usize) -> Bytes {
    let mut text = format!("{number}:");
    while text.len() < min_bytes {
        text.push('x');
    }
    text.into()
}

/// The number of a value; none if no client wrote it.
pub(crate) fn value_number(value: &[u8]) -> Option<u64> {
    let end = value.iter().position(|byte| *byte == b':')?;
    std::str::from_utf8(&value[..end]).ok()?.parse().ok()
}

/// The number of a key; none if no client has it.
pub(crate) fn key_number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.strip_prefix(b"k")?).ok()?.parse().ok()
}

/// The key of the counter with a number.
pub(crate) fn counter_of(number: u64) -> Bytes {
    format!("n{number}").into()
}

/// Whether a key is that of a counter.
pub(crate) fn is_counter(key: &[u8]) -> bool {
    key.starts_with(b"n")
}

/// What a counter is at.
pub(crate) fn count_in(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// The media type of counters.
pub(crate) const COUNTER_TYPE: &str = "text/plain";

/// The key with a number.
pub(crate) fn key_of(number: u64) -> Bytes {
    format!("k{number}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_tell_their_number() {
        for (number, min_bytes) in [(0, 0), (77, 100), (u64::MAX, 3)] {
            let value = value_of(number, min_bytes);
            assert!(value.len() >= min_bytes);
            assert_eq!(value_number(&value), Some(number));
        }
        assert_eq!(value_number(b"7"), None);
        assert_eq!(value_number(b"x:"), None);
    }
}
