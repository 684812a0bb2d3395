//! One pair, as it lies in memory.

use std::fmt;

use bytes::Bytes;

/// Up to this length a value is copied into its pair, and out of it for each reader: cheaper than the two further
/// allocations and cache misses of a shared buffer, and no slice of a large buffer keeps all of it alive.
const MAX_PACKED_VALUE_BYTES: usize = 1024;

/// A key and its value. Takes 16 bytes, and one allocation for both.
#[derive(Clone)]
pub(crate) enum Pair {
    /// The key's length as a varint, the key, the value.
    Packed(Box<[u8]>),
    /// A value longer than [`MAX_PACKED_VALUE_BYTES`].
    Long(Box<LongPair>),
}

#[derive(Clone)]
pub(crate) struct LongPair {
    key: Box<[u8]>,
    /// The buffer that came, handed out as it is.
    value: Bytes,
}

impl Pair {
    pub(crate) fn new(key: &[u8], value: Bytes) -> Self {
        if value.len() > MAX_PACKED_VALUE_BYTES {
            return Self::Long(Box::new(LongPair { key: key.into(), value }));
        }
        let (len, len_bytes) = varint(key.len());
        let mut packed = Vec::with_capacity(len_bytes + key.len() + value.len());
        packed.extend_from_slice(&len[..len_bytes]);
        packed.extend_from_slice(key);
        packed.extend_from_slice(&value);
        Self::Packed(packed.into_boxed_slice())
    }

    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Packed(packed) => split(packed).0,
            Self::Long(pair) => &pair.key,
        }
    }

    pub(crate) fn value(&self) -> Bytes {
        match self {
            Self::Packed(packed) => Bytes::copy_from_slice(split(packed).1),
            Self::Long(pair) => pair.value.clone(),
        }
    }

    /// Length of key and value.
    pub(crate) fn data_bytes(&self) -> usize {
        let (key_len, value_len) = match self {
            Self::Packed(packed) => {
                let (key, value) = split(packed);
                (key.len(), value.len())
            }
            Self::Long(pair) => (pair.key.len(), pair.value.len()),
        };
        key_len + value_len
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key().escape_ascii())
    }
}

/// Key and value within a packed pair.
fn split(packed: &[u8]) -> (&[u8], &[u8]) {
    let (mut key_len, mut at) = (0, 0);
    loop {
        let byte = packed[at];
        key_len |= usize::from(byte & 0x7f) << (7 * at);
        at += 1;
        if byte < 0x80 {
            return packed[at..].split_at(key_len);
        }
    }
}

/// Seven bits a byte, the lowest first; all but the last byte have their top bit set.
fn varint(mut number: usize) -> ([u8; 10], usize) {
    let (mut bytes, mut len) = ([0; 10], 0);
    while number >= 0x80 {
        bytes[len] = number as u8 | 0x80;
        number >>= 7;
        len += 1;
    }
    bytes[len] = number as u8;
    (bytes, len + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_keys_and_values_of_every_length() {
        let bytes = |len: usize| -> Bytes { (0..len).map(|at| (at % 251) as u8).collect() };
        for key_len in [0, 1, 127, 128, 16_383, 16_384, 70_000, 2_097_152] {
            for value_len in [0, 1, MAX_PACKED_VALUE_BYTES, MAX_PACKED_VALUE_BYTES + 1] {
                let (key, value) = (bytes(key_len), bytes(value_len));
                let pair = Pair::new(&key, value.clone());
                assert_eq!((pair.key(), pair.value()), (&key[..], value));
                assert_eq!(pair.data_bytes(), key_len + value_len);
                assert_eq!(matches!(pair, Pair::Packed(_)), value_len <= MAX_PACKED_VALUE_BYTES);
            }
        }
    }

    #[test]
    fn a_short_value_does_not_keep_a_large_buffer() {
        let buffer = Bytes::from(vec![7; 1 << 20]);
        let pair = Pair::new(b"key", buffer.slice(..10));
        assert!(buffer.is_unique(), "the pair holds on to the buffer");
        assert_eq!(pair.value(), [7; 10][..]);
    }

    #[test]
    fn takes_two_words() {
        assert_eq!(size_of::<Pair>(), 16);
    }
}
