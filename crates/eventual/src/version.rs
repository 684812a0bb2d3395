//! Stamps and versions: what decides which of two entries for a key stays.

use std::fmt;

use bytes::{BufMut, BytesMut};

use quorate_engine::codec::{DecodeError, Reader};

/// A time of a hybrid logical clock: 48 bits of milliseconds since 1970, 16 bits of counter. A counter that overflows carries
/// into the milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Before every stamp.
    pub const ZERO: Self = Self(0);

    /// The first stamp of a millisecond.
    pub fn at_ms(ms: u64) -> Self {
        Self(ms.min(u64::MAX >> 16) << 16)
    }

    /// The milliseconds.
    pub fn ms(self) -> u64 {
        self.0 >> 16
    }

    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The one before this; that of zero is zero.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// One replica's life. From a counter of the cluster, and never used again: a replica that lost what it had is another instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u32);

/// What an entry is known by: when it was written, and by whom. The greater one wins.
///
/// *Invariants*: no two entries of a key with different content have the same version; the order of the encoded bytes is that of
/// the versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The stamp.
    pub hlc: Hlc,
    /// Who made it.
    pub instance: InstanceId,
}

impl Version {
    /// How long the encoded form is.
    pub const BYTES: usize = 12;

    /// Stamp and instance, big endian.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.hlc.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.instance.0.to_be_bytes());
        bytes
    }

    /// What [`Version::to_bytes`] made.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let (mut hlc, mut instance) = ([0; 8], [0; 4]);
        hlc.copy_from_slice(&bytes[..8]);
        instance.copy_from_slice(&bytes[8..]);
        Self { hlc: Hlc(u64::from_be_bytes(hlc)), instance: InstanceId(u32::from_be_bytes(instance)) }
    }

    pub(crate) fn encode(self, out: &mut BytesMut) {
        out.put_slice(&self.to_bytes());
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        reader.array().map(Self::from_bytes)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.hlc.0, self.instance.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version() -> impl Strategy<Value = Version> {
        let small_or_any = prop_oneof![0..4_u64, any::<u64>()];
        (small_or_any, any::<u32>()).prop_map(|(hlc, instance)| Version { hlc: Hlc(hlc), instance: InstanceId(instance) })
    }

    proptest! {
        #[test]
        fn the_order_of_the_bytes_is_that_of_the_versions(a in version(), b in version()) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            prop_assert_eq!(Version::from_bytes(a.to_bytes()), a);
        }
    }

    #[test]
    fn a_counter_that_overflows_carries() {
        let last = Hlc(Hlc::at_ms(5).0 | 0xffff);
        assert_eq!((last.ms(), last.next()), (5, Hlc::at_ms(6)));
        assert!(Hlc::at_ms(u64::MAX) > Hlc::at_ms(1 << 40));
    }
}
