//! What a keyspace sets for its shards. It changes by log entry alone, or replicas would disagree about what was refused.

use bytes::{Bytes, BytesMut};

use crate::outcome::Outcome;
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// Limits of a keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of keys and records. A write is refused if, as a whole, it would grow the shard beyond this.
    pub max_bytes: u64,
    /// Longest key that can be set, in bytes; 0 for no limit. Longer ones that are there already can be read and removed.
    pub max_key_bytes: u64,
    /// Largest value that can be set, in bytes; 0 for no limit. Larger ones that are there already can be read.
    pub max_value_bytes: u64,
}

/// How much of what was is kept beside what is. Whichever bound is reached first counts; all of them 0: nothing is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Most revisions.
    pub max_revisions: u64,
    /// For how long, in milliseconds of log time.
    pub max_age_ms: u64,
    /// Most bytes of keys and records that were replaced or removed.
    pub max_bytes: u64,
}

/// All that can be set, as [`crate::Op::Configure`] carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The limits.
    pub limits: Limits,
    /// How long a pair lives that says nothing about it, in milliseconds of log time; not 0.
    pub ttl_ms: Option<u64>,
    /// How much of the past is kept.
    pub retention: Retention,
}

impl Retention {
    /// Whether anything is kept.
    pub fn is_on(&self) -> bool {
        *self != Self::default()
    }
}

impl Settings {
    /// With these limits, and nothing else set.
    pub fn of(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Appends the encoded form, in commands and in the shard's state.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        self.limits.encode(out);
        out.put_varint(self.ttl_ms.unwrap_or(0));
        for bound in [self.retention.max_revisions, self.retention.max_age_ms, self.retention.max_bytes] {
            out.put_varint(bound);
        }
    }

    /// Reads what [`Settings::encode`] wrote.
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let limits = Limits::read(reader)?;
        let ttl_ms = Some(reader.varint()?).filter(|ttl_ms| *ttl_ms > 0);
        let retention = Retention { max_revisions: reader.varint()?, max_age_ms: reader.varint()?, max_bytes: reader.varint()? };
        Ok(Self { limits, ttl_ms, retention })
    }
}

impl Limits {
    /// Why a key cannot be set to a value, whatever the shard holds.
    pub(crate) fn refusal(&self, key: &Bytes, value: &Bytes) -> Option<Outcome> {
        let is_over = |bytes: &Bytes, max_bytes: u64| max_bytes > 0 && bytes.len() as u64 > max_bytes;
        if is_over(key, self.max_key_bytes) {
            return Some(Outcome::KeyTooLong { max_bytes: self.max_key_bytes });
        }
        let max_bytes = self.max_value_bytes;
        is_over(value, max_bytes).then_some(Outcome::ValueTooLarge { max_bytes })
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_varint(self.max_bytes);
        out.put_varint(self.max_key_bytes);
        out.put_varint(self.max_value_bytes);
    }

    /// Reads the limits of a shard, or of a command that sets nothing else.
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { max_bytes: reader.varint()?, max_key_bytes: reader.varint()?, max_value_bytes: reader.varint()? })
    }
}
