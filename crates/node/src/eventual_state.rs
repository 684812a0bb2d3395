//! What the log keeps about a replica of an eventual keyspace, beside its records.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_engine::Place;
use quorate_log::GroupId;

/// Which instance the records in the log are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventualState {
    /// The replica's id, which is its instance's.
    pub(crate) replica: u64,
    /// The newest epoch of its members that it went by. It never goes by an older one again: what was dropped since, everybody
    /// has who is a member in this one.
    pub(crate) epoch: u64,
    /// Whether its records are in the log. Otherwise what it had ended with the process, and the instance with it.
    pub(crate) is_durable: bool,
}

/// The first byte: states of Raft replicas begin with their version, a small number.
const MARK: u8 = 0xe1;

const VERSION: u8 = 1;

const ENCODED_BYTES: usize = 19;

impl EventualState {
    /// Where its engine is. Each instance has a place of its own, and so begins with nothing.
    pub(crate) fn place(self, group: GroupId) -> Place {
        Place { group: group.0, build: self.replica }
    }

    /// Mark, version, replica, epoch, and whether it is durable.
    pub(crate) fn to_bytes(self) -> Bytes {
        let mut out = BytesMut::with_capacity(ENCODED_BYTES);
        out.put_u8(MARK);
        out.put_u8(VERSION);
        out.put_u64_le(self.replica);
        out.put_u64_le(self.epoch);
        out.put_u8(u8::from(self.is_durable));
        out.freeze()
    }

    /// None if the bytes are not such a state, or one of a newer version.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        if bytes.len() != ENCODED_BYTES || bytes.get_u8() != MARK || bytes.get_u8() != VERSION {
            return None;
        }
        let (replica, epoch) = (bytes.get_u64_le(), bytes.get_u64_le());
        let is_durable = match bytes.get_u8() {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Self { replica, epoch, is_durable })
    }
}

/// Whether what the log keeps about a group, beside its entries, says that its replicas take writes on their own.
pub fn is_eventual_state(state: &Bytes) -> bool {
    state.first() == Some(&MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_round_trip_and_are_told_from_those_of_raft() {
        for is_durable in [false, true] {
            let state = EventualState { replica: 77, epoch: 8, is_durable };
            let bytes = state.to_bytes();
            assert!(is_eventual_state(&bytes));
            assert_eq!(crate::start::ReplicaState::decode(bytes.clone()), None);
            assert_eq!(EventualState::decode(bytes.slice(..18)), None);
            assert_eq!(EventualState::decode(bytes), Some(state));
        }
        assert!(!is_eventual_state(&Bytes::from_static(&[3, 0])));
        assert_eq!(EventualState::decode(Bytes::from([&[0xe1, 2][..], &[0; 17]].concat())), None);
        assert_eq!(EventualState::decode(Bytes::from([&[0xe1, 1][..], &[0; 16], &[2]].concat())), None);
    }
}
