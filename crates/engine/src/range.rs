//! Which keys a scan covers.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;

/// Keys from `start` to `end`, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// Where it begins.
    pub start: Bound<Bytes>,
    /// Where it ends.
    pub end: Bound<Bytes>,
}

impl KeyRange {
    /// Every key.
    pub fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { start: Bound::Included(Bytes::copy_from_slice(prefix)), end: prefix_end(prefix) }
    }

    /// Whether `key` lies within.
    pub fn contains(&self, key: &[u8]) -> bool {
        let after_start = match &self.start {
            Bound::Included(start) => key >= start.as_ref(),
            Bound::Excluded(start) => key > start.as_ref(),
            Bound::Unbounded => true,
        };
        let before_end = match &self.end {
            Bound::Included(end) => key <= end.as_ref(),
            Bound::Excluded(end) => key < end.as_ref(),
            Bound::Unbounded => true,
        };
        after_start && before_end
    }

    /// The keys in both ranges.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self { start: later_start(self.start, other.start), end: earlier_end(self.end, other.end) }
    }

    /// Whether no key can lie within.
    pub fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (_, Bound::Unbounded) | (Bound::Unbounded, Bound::Included(_)) => false,
            (Bound::Unbounded, Bound::Excluded(end)) => end.is_empty(),
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start), Bound::Excluded(end)) | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
            (Bound::Excluded(start), Bound::Excluded(end)) => start >= end || is_next(start, end),
        }
    }
}

/// Of two starts, the one that lets fewer keys in.
fn later_start(a: Bound<Bytes>, b: Bound<Bytes>) -> Bound<Bytes> {
    match compare_keys(&a, &b) {
        None if a == Bound::Unbounded => b,
        Some(Ordering::Less) => b,
        Some(Ordering::Equal) if matches!(b, Bound::Excluded(_)) => b,
        _ => a,
    }
}

/// Of two ends, the one that lets fewer keys in.
fn earlier_end(a: Bound<Bytes>, b: Bound<Bytes>) -> Bound<Bytes> {
    match compare_keys(&a, &b) {
        None if a == Bound::Unbounded => b,
        Some(Ordering::Greater) => b,
        Some(Ordering::Equal) if matches!(b, Bound::Excluded(_)) => b,
        _ => a,
    }
}

fn compare_keys(a: &Bound<Bytes>, b: &Bound<Bytes>) -> Option<Ordering> {
    match (a, b) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => None,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => Some(a.cmp(b)),
    }
}

/// Whether no key lies between these two.
fn is_next(key: &[u8], next: &[u8]) -> bool {
    next.strip_prefix(key) == Some(&[0])
}

/// The first key after every key with this prefix.
fn prefix_end(prefix: &[u8]) -> Bound<Bytes> {
    let Some(last) = prefix.iter().rposition(|byte| *byte != 0xff) else {
        return Bound::Unbounded;
    };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Bound::Excluded(end.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All keys of up to three of the bytes that matter at the borders.
    fn keys() -> Vec<Vec<u8>> {
        let mut keys = vec![Vec::new()];
        for len in 0..3 {
            let longest: Vec<_> = keys.iter().filter(|key| key.len() == len).cloned().collect();
            for key in longest {
                keys.extend([0x00, 0x01, 0x80, 0xfe, 0xff].map(|byte| [key.clone(), vec![byte]].concat()));
            }
        }
        keys
    }

    /// All bounds at keys of up to one byte, and next to them.
    fn bounds() -> Vec<Bound<Bytes>> {
        let at_keys = keys().into_iter().filter(|key| key.len() < 2 || key[..] == [0x00, 0x00]).map(Bytes::from);
        at_keys.flat_map(|key| [Bound::Included(key.clone()), Bound::Excluded(key)]).chain([Bound::Unbounded]).collect()
    }

    fn ranges() -> impl Iterator<Item = KeyRange> {
        bounds().into_iter().flat_map(|start| bounds().into_iter().map(move |end| KeyRange { start: start.clone(), end }))
    }

    #[test]
    fn a_prefix_holds_exactly_the_keys_that_begin_with_it() {
        for prefix in keys() {
            let range = KeyRange::prefix(&prefix);
            for key in keys() {
                assert_eq!(range.contains(&key), key.starts_with(&prefix), "{key:?} in the prefix {prefix:?}");
            }
        }
    }

    #[test]
    fn the_end_of_a_prefix_carries_over_ff() {
        assert_eq!(KeyRange::prefix(&[0x61, 0xff, 0xff]).end, Bound::Excluded(Bytes::from_static(&[0x62])));
        assert_eq!(KeyRange::prefix(&[0xff, 0xff]).end, Bound::Unbounded);
        assert_eq!(KeyRange::prefix(&[]), KeyRange { start: Bound::Included(Bytes::new()), end: Bound::Unbounded });
    }

    #[test]
    fn an_intersection_holds_what_both_hold() {
        for a in ranges() {
            for b in ranges().step_by(7) {
                let both = a.clone().intersect(b.clone());
                for key in keys().iter().filter(|key| key.len() < 3) {
                    assert_eq!(both.contains(key), a.contains(key) && b.contains(key), "{key:?} in {a:?} and {b:?}");
                }
            }
        }
    }

    #[test]
    fn is_empty_exactly_when_no_key_fits() {
        for range in ranges() {
            let holds_some = keys().iter().any(|key| range.contains(key));
            assert_eq!(range.is_empty(), !holds_some, "{range:?}");
        }
    }

    #[test]
    fn all_holds_the_empty_key_and_the_greatest() {
        assert!(KeyRange::all().contains(b""));
        assert!(KeyRange::all().contains(&[0xff; 100]));
        assert!(!KeyRange::all().is_empty());
    }
}
