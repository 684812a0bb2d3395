//! Pairs that go by themselves, where that has to go through a log: which is everywhere but in engines that evict.
//!
//! A pair with an end has a row that leads with it. At the start of every entry, by the entry's log time, the pairs whose time is
//! up are removed, under one revision; if there are many, the next entries go on. Nothing is removed earlier, and whoever reads
//! before that entry finds the pair: replicas answer alike.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{Direction, KeyRange, Table, View};

use crate::event::Cause;
use crate::execute::Step;
use crate::shard::{ShardError, ShardHeader};
use quorate_engine::codec::DecodeError;

/// Most pairs that go at the start of one entry: some milliseconds of work.
const MAX_EXPIRED: usize = 1000;

const PREFIX: &[u8] = b"ttl/";

/// The row of a pair that goes at a log time.
pub(crate) fn row_of(expires_at_ms: u64, key: &[u8]) -> Bytes {
    let mut row = BytesMut::with_capacity(row_bytes(key) as usize);
    row.put_slice(PREFIX);
    row.put_u64(expires_at_ms);
    row.put_slice(key);
    row.freeze()
}

/// How long that row is.
pub(crate) fn row_bytes(key: &[u8]) -> u64 {
    (PREFIX.len() + 8 + key.len()) as u64
}

/// When the first pair goes that a view holds.
pub(crate) fn first_expiry_ms(view: &dyn View) -> Result<Option<u64>, ShardError> {
    match view.scan(Table::Meta, &KeyRange::prefix(PREFIX), Direction::Forward).next() {
        None => Ok(None),
        Some(item) => Ok(Some(parse(&item?.0)?.0)),
    }
}

/// The log time, and the key.
fn parse(row: &Bytes) -> Result<(u64, Bytes), DecodeError> {
    let malformed = DecodeError::Malformed("row of an expiry");
    let (time, key) = row.get(PREFIX.len()..).and_then(<[u8]>::split_first_chunk).ok_or(malformed)?;
    Ok((u64::from_be_bytes(*time), row.slice(row.len() - key.len()..)))
}

impl Step {
    /// Removes pairs whose time is up, those that should have gone first before others.
    pub(crate) fn expire(&mut self, header: &mut ShardHeader) -> Result<(), ShardError> {
        if self.next_expiry_ms.is_none_or(|next_ms| next_ms > header.log_time_ms) {
            return Ok(());
        }
        let (mut due, mut next_ms) = (Vec::new(), None);
        self.rows.scan(self.view.as_ref(), &KeyRange::prefix(PREFIX), |row, _| {
            let (expires_at_ms, key) = parse(row)?;
            if expires_at_ms > header.log_time_ms || due.len() >= MAX_EXPIRED {
                next_ms = Some(expires_at_ms);
                return Ok(false);
            }
            due.push(key);
            Ok(true)
        })?;
        self.next_expiry_ms = next_ms;
        if due.is_empty() {
            return Ok(());
        }
        self.mark(header);
        for key in due {
            let found = self.found(&key)?.ok_or(DecodeError::Malformed("row of an expiry without its pair"))?;
            self.remove(Bytes::copy_from_slice(&key), found, Cause::Expire, header)?;
        }
        self.publish(header);
        Ok(())
    }
}
