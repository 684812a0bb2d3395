//! What those who are about to change keys have just found there: `apply` needs the same to keep its figures exact.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lsm_tree::Slice;

/// Of keys, with [`ENTRY_BYTES`] each. What is not noted is looked up again.
const MAX_BYTES: usize = 128 << 10;
const ENTRY_BYTES: usize = 64;

/// By stored key, how long the value is, if there is one.
pub(super) type Found = BTreeMap<Slice, Option<usize>>;

/// Lookups in one content: in another they may be wrong.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    found: Found,
    bytes: usize,
}

impl Lookups {
    pub(super) fn note(&self, stored_key: Slice, value_len: Option<usize>) {
        let mut noted = self.lock();
        noted.bytes += stored_key.len() + ENTRY_BYTES;
        if noted.bytes <= MAX_BYTES {
            noted.found.insert(stored_key, value_len);
        }
    }

    /// All that was noted, which is forgotten.
    pub(super) fn take(&self) -> Found {
        std::mem::take(&mut *self.lock()).found
    }

    /// Whole in any case: each note is one step.
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_bounded_and_taken_once() {
        let lookups = Lookups::default();
        for number in 0..10_000_u64 {
            lookups.note(Slice::from(number.to_be_bytes()), Some(7));
        }
        let found = lookups.take();
        assert_eq!(found.len(), MAX_BYTES / (8 + ENTRY_BYTES));
        assert_eq!(found.get(&5_u64.to_be_bytes()[..]), Some(&Some(7)));
        assert!(lookups.take().is_empty());
        lookups.note(Slice::from([1]), None);
        assert_eq!(lookups.take().len(), 1, "there is room again");
    }
}
