//! The bytes of values in a redb file. FORMAT.md has them in a table.

use bytes::Bytes;

use crate::{EngineError, Table};

const CHECKSUM_BYTES: usize = 4;

/// Writes a value with its checksum into `buffer`.
pub(super) fn encode_value(buffer: &mut Vec<u8>, table: Table, key: &[u8], value: &[u8]) {
    buffer.clear();
    buffer.extend_from_slice(&checksum(table, key, value).to_le_bytes());
    buffer.extend_from_slice(value);
}

/// The value, if it is the one that was written for this key.
pub(super) fn decode_value(bytes: &[u8], table: Table, key: &[u8]) -> Result<Bytes, EngineError> {
    match bytes.split_first_chunk::<CHECKSUM_BYTES>() {
        Some((stored, value)) if u32::from_le_bytes(*stored) == checksum(table, key, value) => Ok(Bytes::copy_from_slice(value)),
        _ => Err(EngineError::Corrupt(format!("a value in the table {table:?} does not have its checksum"))),
    }
}

/// How long the value in these stored bytes is.
pub(super) fn value_len(bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(CHECKSUM_BYTES)
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> u32 {
    let begun = crc32c::crc32c(&[table as u8]);
    crc32c::crc32c_append(crc32c::crc32c_append(begun, key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_belongs_to_its_key_and_table() {
        let mut buffer = Vec::new();
        encode_value(&mut buffer, Table::Current, b"key", b"value");
        assert_eq!(decode_value(&buffer, Table::Current, b"key").unwrap(), "value");
        assert_eq!(value_len(&buffer), 5);
        assert!(decode_value(&buffer, Table::Current, b"kex").is_err());
        assert!(decode_value(&buffer, Table::History, b"key").is_err());
        assert!(decode_value(&buffer[..3], Table::Current, b"key").is_err());
    }
}
