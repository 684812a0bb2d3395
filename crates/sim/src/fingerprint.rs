//! Short fingerprints of what is compared often.

use std::fmt;

/// FNV-1a with 64 bits: fast on short input, and the same on every machine. Not for input that somebody chose with care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) u64);

impl Default for Fingerprint {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fingerprint {
    /// Of one piece of input.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self::default().with(bytes)
    }

    /// Of what was there, and this.
    #[must_use]
    pub(crate) fn with(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)))
    }

    /// Of what was there, and this number.
    #[must_use]
    pub(crate) fn with_number(self, number: u64) -> Self {
        self.with(&number.to_le_bytes())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
