//! Hashes of keys, for engines without order.

use siphasher::sip::SipHasher13;

/// Hashes keys. With `SipHash`, because clients choose the keys: who does not know the seed cannot make many of them meet.
#[derive(Clone, Copy)]
pub(crate) struct KeyHasher {
    sip: SipHasher13,
}

impl KeyHasher {
    pub(crate) fn new(seed: u64) -> Self {
        Self { sip: SipHasher13::new_with_keys(seed, seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15) }
    }

    pub(crate) fn hash(&self, key: &[u8]) -> KeyHash {
        KeyHash(self.sip.hash(key))
    }
}

/// The hash of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyHash(pub(crate) u64);

impl KeyHash {
    /// 32 bits that say in which of several tables a key is. Within a table others matter: the lowest for places, the highest
    /// seven for tags.
    pub(crate) fn route(self) -> u64 {
        self.0 >> 16 & 0xffff_ffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_the_hashes() {
        let hash = |seed: u64| KeyHasher::new(seed).hash(b"key");
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), hash(2));
    }
}
