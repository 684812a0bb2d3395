//! Writes that are done once: their outcome is remembered under a key that their client made up, and is the answer to whoever
//! sends the same again, through whichever node.
//!
//! | row | value | what it is |
//! |---|---|---|
//! | `once/k/` and the client's key | version u8, log time varint, fingerprint (16 bytes), outcome | is remembered until then |
//! | `once/t/` and a log time, 8 bytes, big-endian, and the client's key | empty | leads to the row above |
//! | `once/n` | version u8, number of keys varint, their bytes varint | what is remembered, all together |
//!
//! What is remembered goes by the log time of entries, at the start of each, some at a time; it is not looked at any more once
//! its time is up. It counts by its own bounds, not towards the keyspace's: a keyspace that is full answers repetitions too.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{Direction, KeyRange, Table, View};

use crate::command::{Condition, Write};
use crate::execute::Step;
use crate::outcome::Outcome;
use crate::shard::{ShardError, ShardHeader};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// For how long an outcome is remembered, in milliseconds of log time.
pub const ONCE_MS: u64 = 10 * 60 * 1000;

/// Most keys that are remembered. Beyond it, writes with further keys are refused: to forget others early would break what their
/// clients were promised.
pub const MAX_ONCE_KEYS: u64 = 1 << 19;

/// Bytes of keys and outcomes from which on writes with further keys are refused.
pub const MAX_ONCE_BYTES: u64 = 64 << 20;

/// Most keys that are forgotten at the start of one entry.
const MAX_FORGOTTEN: usize = 256;

const VERSION: u8 = 1;
const KEYS_PREFIX: &[u8] = b"once/k/";
const TIMES_PREFIX: &[u8] = b"once/t/";
const TOTAL_ROW: &[u8] = b"once/n";

/// Tells requests apart: the same for the same request, whoever makes it from that.
pub type Fingerprint = [u8; 16];

/// When the first key is forgotten that a view remembers.
pub(crate) fn first_end_ms(view: &dyn View) -> Result<Option<u64>, ShardError> {
    match view.scan(Table::Meta, &KeyRange::prefix(TIMES_PREFIX), Direction::Forward).next() {
        None => Ok(None),
        Some(item) => Ok(Some(parse_time_row(&item?.0)?.0)),
    }
}

/// An outcome that is remembered.
struct Remembered {
    until_ms: u64,
    fingerprint: Fingerprint,
    outcome: Bytes,
}

/// What is remembered, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Total {
    keys: u64,
    bytes: u64,
}

impl Write {
    /// The key under which it is done once, and what tells it from others.
    fn once(&self) -> Option<(&Bytes, &Fingerprint)> {
        self.guards.iter().find_map(|guard| match &guard.condition {
            Condition::Once(fingerprint) => Some((&guard.key, fingerprint)),
            _ => None,
        })
    }
}

impl Step {
    /// Does what the write says, or nothing; if it is to be done once and was done before, its outcome is what it was.
    pub(crate) fn execute(&mut self, write: &Write, header: &mut ShardHeader) -> Result<Outcome, ShardError> {
        let Some((key, fingerprint)) = write.once() else {
            return self.execute_now(write, header);
        };
        if let Some(earlier) = self.remembered(key)?.filter(|earlier| earlier.until_ms > header.log_time_ms) {
            if earlier.fingerprint != *fingerprint {
                return Ok(Outcome::OtherRequest);
            }
            return Ok(Outcome::Repeated(Box::new(Outcome::decode(earlier.outcome)?)));
        }
        let total = self.total()?;
        if total.keys >= MAX_ONCE_KEYS || total.bytes >= MAX_ONCE_BYTES {
            return Ok(Outcome::TooManyOnce);
        }
        let outcome = self.execute_now(write, header)?;
        // What was refused for another reason was not done, and may be sent again.
        if matches!(outcome, Outcome::Applied { .. } | Outcome::ConditionFailed { .. }) {
            let until_ms = header.log_time_ms.saturating_add(ONCE_MS);
            self.remember(key, &Remembered { until_ms, fingerprint: *fingerprint, outcome: outcome.to_bytes() })?;
        }
        Ok(outcome)
    }

    /// Forgets what was remembered for its time, the oldest first.
    pub(crate) fn forget(&mut self, header: &ShardHeader) -> Result<(), ShardError> {
        if self.next_forget_ms.is_none_or(|next_ms| next_ms > header.log_time_ms) {
            return Ok(());
        }
        let (mut due, mut next_ms) = (Vec::new(), None);
        self.rows.scan(self.view.as_ref(), &KeyRange::prefix(TIMES_PREFIX), |row, _| {
            let (until_ms, key) = parse_time_row(row)?;
            if until_ms > header.log_time_ms || due.len() >= MAX_FORGOTTEN {
                next_ms = Some(until_ms);
                return Ok(false);
            }
            due.push(key);
            Ok(true)
        })?;
        self.next_forget_ms = next_ms;
        due.iter().try_for_each(|key| self.forget_key(key))
    }

    fn remembered(&self, key: &[u8]) -> Result<Option<Remembered>, ShardError> {
        let row = self.rows.get(self.view.as_ref(), &key_row(key))?;
        Ok(row.map(Remembered::decode).transpose()?)
    }

    fn remember(&mut self, key: &[u8], remembered: &Remembered) -> Result<(), ShardError> {
        // One whose time is up may be there still.
        self.forget_key(key)?;
        let (row, value) = (key_row(key), remembered.to_bytes());
        let Total { keys, bytes } = self.total()?;
        self.set_total(Total { keys: keys + 1, bytes: bytes + row_bytes(&row, &value) });
        self.rows.put(row, value);
        self.rows.put(time_row(remembered.until_ms, key), Bytes::new());
        self.next_forget_ms = Some(self.next_forget_ms.map_or(remembered.until_ms, |next_ms| next_ms.min(remembered.until_ms)));
        Ok(())
    }

    fn forget_key(&mut self, key: &[u8]) -> Result<(), ShardError> {
        let row = key_row(key);
        let Some(value) = self.rows.get(self.view.as_ref(), &row)? else {
            return Ok(());
        };
        let Total { keys, bytes } = self.total()?;
        let malformed = || DecodeError::Malformed("the total of keys that are done once");
        let keys = keys.checked_sub(1).ok_or_else(malformed)?;
        let bytes = bytes.checked_sub(row_bytes(&row, &value)).ok_or_else(malformed)?;
        self.set_total(Total { keys, bytes });
        self.rows.remove(time_row(Remembered::decode(value)?.until_ms, key));
        self.rows.remove(row);
        Ok(())
    }

    fn total(&self) -> Result<Total, ShardError> {
        let Some(row) = self.rows.get(self.view.as_ref(), TOTAL_ROW)? else {
            return Ok(Total::default());
        };
        let mut reader = begin(row)?;
        let total = Total { keys: reader.varint()?, bytes: reader.varint()? };
        reader.finish()?;
        Ok(total)
    }

    fn set_total(&mut self, total: Total) {
        let row = Bytes::from_static(TOTAL_ROW);
        if total == Total::default() {
            return self.rows.remove(row);
        }
        let mut out = BytesMut::with_capacity(16);
        out.put_u8(VERSION);
        out.put_varint(total.keys);
        out.put_varint(total.bytes);
        self.rows.put(row, out.freeze());
    }
}

impl Remembered {
    fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.outcome.len() + 32);
        out.put_u8(VERSION);
        out.put_varint(self.until_ms);
        out.put_slice(&self.fingerprint);
        out.put_slice(&self.outcome);
        out.freeze()
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = begin(bytes)?;
        let until_ms = reader.varint()?;
        let fingerprint = reader.array()?;
        Ok(Self { until_ms, fingerprint, outcome: reader.into_rest() })
    }
}

fn begin(bytes: Bytes) -> Result<Reader, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        VERSION => Ok(reader),
        tag => Err(DecodeError::UnknownTag { what: "version of what is done once", tag }),
    }
}

fn key_row(key: &[u8]) -> Bytes {
    [KEYS_PREFIX, key].concat().into()
}

fn time_row(until_ms: u64, key: &[u8]) -> Bytes {
    [TIMES_PREFIX, &until_ms.to_be_bytes(), key].concat().into()
}

/// The log time, and the client's key.
fn parse_time_row(row: &Bytes) -> Result<(u64, Bytes), DecodeError> {
    let malformed = DecodeError::Malformed("row of a key that is done once");
    let (time, key) = row.get(TIMES_PREFIX.len()..).and_then(<[u8]>::split_first_chunk).ok_or(malformed)?;
    Ok((u64::from_be_bytes(*time), row.slice(row.len() - key.len()..)))
}

fn row_bytes(row: &[u8], value: &[u8]) -> u64 {
    (row.len() + value.len()) as u64
}
