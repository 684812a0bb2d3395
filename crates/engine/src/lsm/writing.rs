//! How a batch goes into the youngest memtable.

use std::io;

use lsm_tree::{InternalValue, SeqNo, ValueType};

use super::buffer::key_hash;
use super::lookups::Found;
use super::pin::Pin;
use super::store::{MAX_KEY_BYTES, corrupt, stored_key};
use crate::numbers::Numbers;
use crate::{Change, EngineError};

/// A batch that is being written.
pub(super) struct Writing<'a> {
    pub(super) pin: &'a Pin,
    /// Of all that it writes.
    pub(super) at: SeqNo,
    /// What is true after it, so far.
    pub(super) numbers: Numbers,
    /// What keys that it did not change yet hold.
    pub(super) found: Found,
    /// When the memtable is full.
    pub(super) full_bytes: u64,
}

impl Writing<'_> {
    /// A later change of the same key in the same batch replaces an earlier one: they have the same sequence number.
    pub(super) fn write(&mut self, change: Change) -> Result<(), EngineError> {
        let (table, key) = match &change {
            Change::Put { table, key, .. } | Change::Delete { table, key } => (*table, key),
            Change::PutUntil { .. } => panic!("an lsm tree keeps what it is given"),
        };
        if key.len() > MAX_KEY_BYTES {
            let message = format!("a key of {} bytes, more than {MAX_KEY_BYTES}", key.len());
            return Err(EngineError::Io(io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        let key_len = key.len();
        let stored_key = stored_key(table, key);
        let hash = key_hash(&stored_key);
        // Where nothing is counted nothing is read: a removal of what is not there costs less.
        let old_len = match self.found.remove(&stored_key) {
            Some(old_len) => old_len,
            None if !table.is_counted() => None,
            None => self.pin.get(&stored_key, hash, self.at + 1).map_err(corrupt)?.map(|old| old.len()),
        };
        if let Some(old_len) = old_len {
            self.numbers.remove(table, key_len + old_len);
        }
        match change {
            Change::Put { value, .. } => {
                self.numbers.add(table, key_len + value.len());
                self.insert(InternalValue::from_components(stored_key, value, self.at, ValueType::Value), hash);
            }
            _ if old_len.is_some() || !table.is_counted() => self.insert(InternalValue::new_tombstone(stored_key, self.at), hash),
            _ => {}
        }
        Ok(())
    }

    fn insert(&self, item: InternalValue, hash: u64) {
        self.pin.active.insert(item, hash, self.full_bytes);
    }
}
