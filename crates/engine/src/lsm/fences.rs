//! Which file of a run may hold a key, found without a look at the files: those are somewhere in memory each, and there may be
//! hundreds.

/// How many bytes of a key are compared at once.
const HEAD_BYTES: usize = 8;

/// The greatest keys of a run's files, in order.
pub(super) struct Fences {
    /// What all of them begin with.
    prefix: Vec<u8>,
    /// What comes then in each.
    heads: Vec<u64>,
}

impl Fences {
    pub(super) fn of<'a>(greatest_keys: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let mut keys = greatest_keys.clone();
        let (first, last) = (keys.next().unwrap_or_default(), keys.last());
        let shared = last.map_or(0, |last| first.iter().zip(last).take_while(|(a, b)| a == b).count());
        let prefix = first[..shared].to_vec();
        Self { heads: greatest_keys.map(|key| head(&key[shared..])).collect(), prefix }
    }

    /// The place of the first file whose greatest key, as `greatest_key` tells it, is not less than the key.
    pub(super) fn first_not_below<'a>(&self, key: &[u8], greatest_key: impl Fn(usize) -> &'a [u8]) -> usize {
        let Some(rest) = key.strip_prefix(&self.prefix[..]) else {
            return if key < &self.prefix[..] { 0 } else { self.heads.len() };
        };
        let head = head(rest);
        let mut place = self.heads.partition_point(|other| *other < head);
        let alike = self.heads[place..].partition_point(|other| *other == head);
        // Of keys that begin alike only a comparison of the rest tells. There are few, but for strange keys.
        let (mut low, mut high) = (place, place + alike);
        while low < high {
            place = low.midpoint(high);
            if greatest_key(place) < key { low = place + 1 } else { high = place }
        }
        low
    }
}

/// Keys whose heads differ are ordered like these.
fn head(key: &[u8]) -> u64 {
    let mut head = [0; HEAD_BYTES];
    let len = key.len().min(HEAD_BYTES);
    head[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::{Strategy, any, prop_assert_eq, prop_oneof};
    use proptest::proptest;

    use super::*;

    fn key() -> impl Strategy<Value = Vec<u8>> {
        let alike = vec(0..3_u8, 0..4).prop_map(|rest| [&b"prefix/0000"[..], &rest].concat());
        prop_oneof![vec(any::<u8>(), 0..4), vec(0..2_u8, 0..20), alike]
    }

    proptest! {
        #[test]
        fn a_place_is_the_one_that_comparing_all_finds(keys in btree_set(key(), 0..40), asked in vec(key(), 1..40)) {
            let keys: Vec<Vec<u8>> = keys.into_iter().collect();
            let fences = Fences::of(keys.iter().map(|key| &key[..]));
            for key in asked.iter().chain(&keys) {
                let place = fences.first_not_below(key, |place| &keys[place]);
                prop_assert_eq!(place, keys.partition_point(|other| other < key));
            }
        }
    }
}
