//! What replicas of eventual keyspaces say to each other, for the frame nothing but bytes.

#![deny(clippy::indexing_slicing)]

use bytes::Bytes;

use super::wire::{DecodeError, Reader, Sink};

pub(super) const MIN_EVENTUAL_BYTES: usize = 2;

/// A message from one replica of an eventual keyspace to another. It may be lost, or come twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventualMessage {
    /// The group.
    pub group: u64,
    /// The message, encoded by the replica that sends it, with a version of its own.
    pub message: Bytes,
}

pub(super) fn put_eventual(out: &mut impl Sink, message: &EventualMessage) {
    out.integer(message.group);
    out.bytes(&message.message);
}

pub(super) fn read_eventual(reader: &mut Reader) -> Result<EventualMessage, DecodeError> {
    Ok(EventualMessage { group: reader.integer()?, message: reader.bytes()? })
}
