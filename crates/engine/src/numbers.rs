//! What is true of all tables of a disk engine after a batch, and its bytes. FORMAT.md has them in a table.

use crate::{EngineError, Stats, Table};

const CHECKSUM_BYTES: usize = 4;
const VERSION: u8 = 1;
const NUMBERS_BYTES: usize = 37;

/// What is true of all tables after a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// The caller's log position.
    pub(crate) applied: u64,
    /// The caller's revision.
    pub(crate) revision: u64,
    /// What is stored.
    pub(crate) stats: Stats,
}

impl Numbers {
    /// Sets the caller's numbers, which never go back.
    pub(crate) fn advance_to(&mut self, applied: u64, revision: u64) {
        assert!(applied >= self.applied, "applied goes back from {} to {applied}", self.applied);
        assert!(revision >= self.revision, "revision goes back from {} to {revision}", self.revision);
        (self.applied, self.revision) = (applied, revision);
    }

    /// Counts a pair that is there now.
    pub(crate) fn add(&mut self, table: Table, pair_bytes: usize) {
        self.stats.data_bytes += if table.is_counted() { pair_bytes as u64 } else { 0 };
        self.stats.keys += u64::from(table == Table::Current);
    }

    /// Counts a pair that is there no more.
    pub(crate) fn remove(&mut self, table: Table, pair_bytes: usize) {
        self.stats.data_bytes = self.stats.data_bytes.saturating_sub(if table.is_counted() { pair_bytes as u64 } else { 0 });
        self.stats.keys = self.stats.keys.saturating_sub(u64::from(table == Table::Current));
    }

    pub(crate) fn encode(&self) -> [u8; NUMBERS_BYTES] {
        let mut bytes = [0; NUMBERS_BYTES];
        bytes[0] = VERSION;
        let fields = [self.applied, self.revision, self.stats.keys, self.stats.data_bytes];
        for (place, field) in bytes[1..].chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        let checksum = crc32c::crc32c(&bytes[..NUMBERS_BYTES - CHECKSUM_BYTES]);
        bytes[NUMBERS_BYTES - CHECKSUM_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, EngineError> {
        let damaged = || EngineError::Corrupt("an engine's numbers are damaged".to_owned());
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or_else(damaged)?;
        if crc32c::crc32c(body) != u32::from_le_bytes(*checksum) {
            return Err(damaged());
        }
        match body.split_first() {
            Some((&VERSION, fields)) if bytes.len() == NUMBERS_BYTES => {
                let field = |at: usize| fields[at * 8..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                let stats = Stats { keys: field(2), data_bytes: field(3) };
                Ok(Self { applied: field(0), revision: field(1), stats })
            }
            Some((version, _)) => Err(EngineError::Corrupt(format!("an engine's numbers have the unknown version {version}"))),
            None => Err(damaged()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_version_1_are_as_documented() {
        let numbers = Numbers { applied: 1, revision: 2, stats: Stats { keys: 3, data_bytes: 0x0405 } };
        let bytes = numbers.encode();
        assert_eq!(bytes[..17], [1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[17..33], [3, 0, 0, 0, 0, 0, 0, 0, 5, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Numbers::decode(&bytes).unwrap(), numbers);
    }

    #[test]
    fn damaged_numbers_are_no_numbers() {
        let bytes = Numbers::default().encode();
        for at in 0..bytes.len() {
            assert!(Numbers::decode(&bytes[..at]).is_err());
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert!(Numbers::decode(&damaged).is_err(), "byte {at}");
        }
    }
}
