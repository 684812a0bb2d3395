//! What a keyspace sets for its shards. It changes by log entry alone, or replicas would disagree about what was refused.

use bytes::{Bytes, BytesMut};

use crate::codec::{DecodeError, Reader, Writer};
use crate::command::Put;
use crate::outcome::Outcome;

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

/// All that can be set, as [`crate::Op::Configure`] carries it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The limits.
    pub limits: Limits,
}

impl Limits {
    /// Why a put is refused for its key or its value, whatever the shard holds.
    pub(crate) fn refusal(&self, put: &Put) -> Option<Outcome> {
        let is_over = |bytes: &Bytes, max_bytes: u64| max_bytes > 0 && bytes.len() as u64 > max_bytes;
        if is_over(&put.key, self.max_key_bytes) {
            return Some(Outcome::KeyTooLong { max_bytes: self.max_key_bytes });
        }
        let max_bytes = self.max_value_bytes;
        is_over(&put.value, max_bytes).then_some(Outcome::ValueTooLarge { max_bytes })
    }

    /// Appends the encoded form, in commands and in the shard's state.
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_varint(self.max_bytes);
        out.put_varint(self.max_key_bytes);
        out.put_varint(self.max_value_bytes);
    }

    /// Reads what [`Limits::encode`] wrote.
    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        Ok(Self { max_bytes: reader.varint()?, max_key_bytes: reader.varint()?, max_value_bytes: reader.varint()? })
    }
}
