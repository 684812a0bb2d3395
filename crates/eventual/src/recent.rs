//! What a cache has to remember of keys that it does not have: that they were deleted, or that somebody has a newer value.
//!
//! A cache forgets values as it likes, and versions with them. So what was deleted or invalidated lately is kept beside it, for
//! a minute at least: an older value that comes after all does not bring the key back. What is forgotten sooner or later raises
//! a bound: nothing at or below it is taken in any more, and what it would have replaced goes. A cache may always lack
//! something.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::version::{Hlc, Version};

/// Versions of keys are remembered for this long.
const KEPT_MS: u64 = 60_000;

/// Or until there are more than so many bytes of keys: then the oldest go, and the bound rises.
const MAX_BYTES: usize = 8 << 20;

/// What an entry takes besides its key.
const ENTRY_BYTES: usize = 96;

/// Recent deletes and invalidations.
///
/// *Invariants*: `bytes` is what the entries take; whatever was forgotten has a stamp at or below the fence that
/// [`Recent::forget`] returned.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    versions: BTreeMap<Bytes, Known>,
    /// In the order in which they came, with when that was.
    order: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: Version,
    /// Since when, in milliseconds.
    since_ms: u64,
    /// It was deleted: the last that there was is no value.
    is_deleted: bool,
}

impl Recent {
    /// The version of a key.
    pub(crate) fn version(&self, key: &[u8]) -> Option<Version> {
        self.versions.get(key).map(|known| known.version)
    }

    /// The version with which a key was deleted, if nobody wrote it since.
    pub(crate) fn deleted(&self, key: &[u8]) -> Option<Version> {
        self.versions.get(key).filter(|known| known.is_deleted).map(|known| known.version)
    }

    pub(crate) fn len(&self) -> usize {
        self.versions.len()
    }

    /// A key was deleted or invalidated.
    pub(crate) fn insert(&mut self, key: &Bytes, version: Version, is_deleted: bool, now_ms: u64) {
        if self.versions.insert(key.clone(), Known { version, since_ms: now_ms, is_deleted }).is_none() {
            self.bytes += key.len() + ENTRY_BYTES;
        }
        self.order.push_back((now_ms, key.clone()));
    }

    /// A key has a newer value: the value may go at any time, what is known of it stays.
    pub(crate) fn update(&mut self, key: &[u8], version: Version) {
        if let Some(known) = self.versions.get_mut(key) {
            *known = Known { version, is_deleted: false, ..*known };
        }
    }

    /// Forgets what is old, and what is too much. Returns the greatest stamp of what was forgotten.
    pub(crate) fn forget(&mut self, now_ms: u64) -> Hlc {
        let mut fence = Hlc::ZERO;
        let is_old = |since_ms: u64| now_ms.saturating_sub(since_ms) >= KEPT_MS;
        // Of a key that came again, the older place in the order says nothing.
        while let Some((since_ms, key)) = self.order.front()
            && (is_old(*since_ms) || self.bytes > MAX_BYTES || self.order.len() > 2 * self.versions.len() + 1_024)
        {
            if let Some(known) = self.versions.get(key).filter(|known| known.since_ms == *since_ms) {
                fence = fence.max(known.version.hlc);
                self.bytes -= key.len() + ENTRY_BYTES;
                self.versions.remove(&key.clone());
            }
            self.order.pop_front();
        }
        fence
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::InstanceId;

    fn version(hlc: u64) -> Version {
        Version { hlc: Hlc(hlc), instance: InstanceId(1) }
    }

    fn key(at: u64) -> Bytes {
        Bytes::from(format!("{at:01000}"))
    }

    #[test]
    fn versions_are_kept_for_a_minute_and_then_raise_the_fence() {
        let mut recent = Recent::default();
        recent.insert(&key(1), version(5), false, 1_000);
        recent.insert(&key(2), version(4), true, 2_000);
        recent.insert(&key(1), version(7), false, 3_000);
        assert_eq!([1, 2].map(|at| recent.deleted(&key(at))), [None, Some(version(4))]);
        recent.update(&key(2), version(6));
        recent.update(&key(3), version(9));
        assert_eq!(recent.deleted(&key(2)), None);
        assert_eq!((recent.forget(60_999), recent.len()), (Hlc::ZERO, 2));
        assert_eq!((recent.forget(61_500), recent.version(&key(1))), (Hlc::ZERO, Some(version(7))), "it came again");
        assert_eq!((recent.forget(62_000), recent.version(&key(2))), (Hlc(6), None));
        assert_eq!((recent.forget(63_000), recent.len(), recent.bytes, recent.order.len()), (Hlc(7), 0, 0, 0));
    }

    #[test]
    fn what_is_too_much_goes_at_once() {
        let mut recent = Recent::default();
        for at in 0..20_000 {
            recent.insert(&key(at), version(at + 1), true, 1_000);
            recent.insert(&key(at), version(at + 1), true, 1_000);
        }
        let fence = recent.forget(1_000);
        assert!(recent.bytes <= MAX_BYTES && recent.len() < 8_000 && recent.order.len() <= 2 * recent.len() + 1_024);
        assert!(fence >= Hlc(12_000) && recent.version(&key(19_999)).is_some() && recent.version(&key(0)).is_none());
    }
}
