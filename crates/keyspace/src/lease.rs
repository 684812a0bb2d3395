//! Leases: what keeps pairs, and with what it goes.
//!
//! The state machine knows which leases there are, how long each lives without a word from its client, and which pairs hang on
//! it. It does not know when a lease ends: a leader keeps the time, and proposes its end ([`crate::Op::LeaseExpire`]). That names
//! the grant too, so that it does nothing to a lease that is gone, or was granted anew.
//!
//! | row | value |
//! |---|---|
//! | `lease/` and the id, 8 bytes, big-endian | version u8, time to live in ms u64, index of the grant u64, keys u32 |
//! | `held/`, the id, and a key | empty: the pair of this key hangs on the lease |

use std::fmt;
use std::ops::Bound;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_engine::{Direction, KeyRange, Table, View};

use crate::event::Cause;
use crate::execute::{Step, Stop};
use crate::outcome::{Detail, OpResult, Outcome, Removed};
use crate::shard::{ShardError, ShardHeader};
use quorate_engine::codec::DecodeError;

/// Most keys that hang on one lease: they go under one revision, in one entry. A put that would attach one more is refused.
pub const MAX_LEASE_KEYS: u64 = 10_000;

const LEASE_PREFIX: &[u8] = b"lease/";
const HELD_PREFIX: &[u8] = b"held/";
const VERSION: u8 = 1;
const VALUE_BYTES: usize = 1 + 8 + 8 + 4;
const LEASE_ROW_BYTES: u64 = (LEASE_PREFIX.len() + 8 + VALUE_BYTES) as u64;

/// Names a lease within its keyspace. From 1 to 2^63 - 1, chosen by who grants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

/// Sixteen hexadecimal digits.
impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A lease, as the state machine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// How long it lives after its grant, and after each time that it is kept alive, in milliseconds.
    pub ttl_ms: u64,
    /// The index of the entry that granted it: tells it from an earlier one of the same name.
    pub granted_at: u64,
    /// How many keys hang on it.
    pub keys: u64,
}

/// What an entry did to leases; what a leader has to know to keep their time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// One came to be.
    Granted(Lease),
    /// One is no more.
    Ended(LeaseId),
}

impl Lease {
    fn to_bytes(self) -> Bytes {
        let mut value = BytesMut::with_capacity(VALUE_BYTES);
        value.put_u8(VERSION);
        value.put_u64(self.ttl_ms);
        value.put_u64(self.granted_at);
        value.put_u32(self.keys as u32);
        value.freeze()
    }

    fn decode(id: LeaseId, mut value: &[u8]) -> Result<Self, DecodeError> {
        if value.len() != VALUE_BYTES {
            return Err(DecodeError::Malformed("length of a lease"));
        }
        match value.get_u8() {
            VERSION => Ok(Self { id, ttl_ms: value.get_u64(), granted_at: value.get_u64(), keys: u64::from(value.get_u32()) }),
            tag => Err(DecodeError::UnknownTag { what: "lease version", tag }),
        }
    }

    fn of_row(row: &[u8], value: &[u8]) -> Result<Self, DecodeError> {
        let id = row.get(LEASE_PREFIX.len()..).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        Self::decode(LeaseId(id.ok_or(DecodeError::Malformed("row of a lease"))?), value)
    }
}

/// A lease, if it is there.
pub fn lease(view: &dyn View, id: LeaseId) -> Result<Option<Lease>, ShardError> {
    let value = view.get(Table::Meta, &lease_row(id))?;
    Ok(value.map(|value| Lease::decode(id, &value)).transpose()?)
}

/// Leases in the order of their ids, those behind `after`, at most `max`.
pub fn leases(view: &dyn View, after: Option<LeaseId>, max: usize) -> Result<Vec<Lease>, ShardError> {
    let all = KeyRange::prefix(LEASE_PREFIX);
    let start = after.map_or(all.start, |id| Bound::Excluded(lease_row(id)));
    let rows = view.scan(Table::Meta, &KeyRange { start, end: all.end }, Direction::Forward).take(max);
    rows.map(|item| {
        let (row, value) = item?;
        Ok(Lease::of_row(&row, &value)?)
    })
    .collect()
}

/// The keys that hang on a lease, in order: those behind `after`, at most `max`.
pub fn lease_keys(view: &dyn View, id: LeaseId, after: Option<&[u8]>, max: usize) -> Result<Vec<Bytes>, ShardError> {
    let all = KeyRange::prefix(&held_row(id, b""));
    let start = after.map_or(all.start, |key| Bound::Excluded(held_row(id, key)));
    let rows = view.scan(Table::Meta, &KeyRange { start, end: all.end }, Direction::Forward).take(max);
    rows.map(|item| Ok(key_of_held(&item?.0))).collect()
}

fn lease_row(id: LeaseId) -> Bytes {
    [LEASE_PREFIX, &id.0.to_be_bytes()].concat().into()
}

fn held_row(id: LeaseId, key: &[u8]) -> Bytes {
    [HELD_PREFIX, &id.0.to_be_bytes(), key].concat().into()
}

fn held_row_bytes(key: &[u8]) -> u64 {
    (HELD_PREFIX.len() + 8 + key.len()) as u64
}

fn key_of_held(row: &Bytes) -> Bytes {
    row.slice(HELD_PREFIX.len() + 8..)
}

impl Step {
    /// A lease after the commands before, of this step too.
    fn lease(&self, id: LeaseId) -> Result<Option<Lease>, ShardError> {
        let value = self.rows.get(self.view.as_ref(), &lease_row(id))?;
        Ok(value.map(|value| Lease::decode(id, &value)).transpose()?)
    }

    pub(crate) fn grant(&mut self, id: LeaseId, ttl_ms: u64, header: &mut ShardHeader) -> Result<OpResult, Stop> {
        if self.lease(id)?.is_some() {
            return Err(Stop::Refused(Outcome::LeaseExists { lease: id }));
        }
        let lease = Lease { id, ttl_ms, granted_at: header.applied_index + 1, keys: 0 };
        self.rows.put(lease_row(id), lease.to_bytes());
        header.data_bytes += LEASE_ROW_BYTES;
        self.leases.push(LeaseChange::Granted(lease));
        Ok(OpResult::default())
    }

    pub(crate) fn revoke(&mut self, id: LeaseId, header: &mut ShardHeader) -> Result<OpResult, Stop> {
        let lease = self.lease(id)?.ok_or(Stop::Refused(Outcome::LeaseNotFound { lease: id }))?;
        Ok(self.end(&[lease], Cause::Delete, header)?)
    }

    /// Ends those of these leases that are still there, from these grants; the first ones, if more keys hang on them than go in
    /// one entry. Whoever proposed it proposes the others again.
    pub(crate) fn expire_leases(&mut self, named: &[(LeaseId, u64)], header: &mut ShardHeader) -> Result<OpResult, ShardError> {
        let (mut ending, mut keys) = (Vec::new(), 0);
        for (id, granted_at) in named {
            let Some(lease) = self.lease(*id)?.filter(|lease| lease.granted_at == *granted_at) else { continue };
            keys += lease.keys;
            if keys > MAX_LEASE_KEYS {
                break;
            }
            ending.push(lease);
        }
        ending.sort_unstable_by_key(|lease| lease.id);
        ending.dedup();
        self.end(&ending, Cause::Expire, header)
    }

    /// Takes leases away, and with them all pairs that hang on them, in the order of their keys.
    fn end(&mut self, leases: &[Lease], cause: Cause, header: &mut ShardHeader) -> Result<OpResult, ShardError> {
        let mut held = Vec::new();
        for lease in leases {
            self.rows.scan(self.view.as_ref(), &KeyRange::prefix(&held_row(lease.id, b"")), |row, _| {
                held.push((key_of_held(row), row.clone()));
                Ok(true)
            })?;
            self.rows.remove(lease_row(lease.id));
            header.data_bytes -= LEASE_ROW_BYTES;
            self.leases.push(LeaseChange::Ended(lease.id));
        }
        held.sort_unstable();
        let removed = Removed { keys: held.len() as u64, next: None };
        for (key, row) in held {
            let found = self.found(&key)?.ok_or(DecodeError::Malformed("a lease holds a key that is not there"))?;
            header.data_bytes -= held_row_bytes(&key);
            self.rows.remove(row);
            self.remove_pair(Bytes::copy_from_slice(&key), found, cause, header);
        }
        Ok(OpResult::of(Detail::Removed(removed)))
    }

    /// Hangs a key on another lease than before, or on none.
    pub(crate) fn change_lease(
        &mut self,
        key: &[u8],
        before: Option<LeaseId>,
        after: Option<LeaseId>,
        header: &mut ShardHeader,
    ) -> Result<(), Stop> {
        if before == after {
            return Ok(());
        }
        if let Some(id) = after {
            let lease = self.lease(id)?.ok_or(Stop::Refused(Outcome::LeaseNotFound { lease: id }))?;
            if lease.keys >= MAX_LEASE_KEYS {
                return Err(Stop::Refused(Outcome::LeaseFull { max_keys: MAX_LEASE_KEYS }));
            }
            self.rows.put(lease_row(id), Lease { keys: lease.keys + 1, ..lease }.to_bytes());
            self.rows.put(held_row(id, key), Bytes::new());
            header.data_bytes += held_row_bytes(key);
        }
        if let Some(id) = before {
            self.detach(key, id, header)?;
        }
        Ok(())
    }

    /// Takes a key off its lease.
    pub(crate) fn detach(&mut self, key: &[u8], id: LeaseId, header: &mut ShardHeader) -> Result<(), ShardError> {
        let lease = self.lease(id)?.ok_or(DecodeError::Malformed("a key hangs on a lease that is not there"))?;
        self.rows.put(lease_row(id), Lease { keys: lease.keys.saturating_sub(1), ..lease }.to_bytes());
        self.rows.remove(held_row(id, key));
        header.data_bytes -= held_row_bytes(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written out, so that it stays readable whatever is written in future.
    #[test]
    fn rows_are_as_they_were() {
        let lease = Lease { id: LeaseId(0x0102), ttl_ms: 3, granted_at: 4, keys: 5 };
        let value = b"\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\x05";
        assert_eq!(lease.to_bytes(), &value[..]);
        assert_eq!(lease_row(lease.id), &b"lease/\0\0\0\0\0\0\x01\x02"[..]);
        assert_eq!(held_row(lease.id, b"k"), &b"held/\0\0\0\0\0\0\x01\x02k"[..]);
        assert_eq!(Lease::of_row(&lease_row(lease.id), value), Ok(lease));
        assert!(Lease::of_row(b"lease/x", value).is_err());
        assert!(Lease::decode(lease.id, &value[1..]).is_err());
        assert!(Lease::decode(lease.id, &[2; VALUE_BYTES]).is_err());
    }
}
