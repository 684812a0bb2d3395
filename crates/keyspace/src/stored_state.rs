//! How a shard's state lies in the `Meta` table of a durable engine, beside the pairs that it goes with.
//!
//! | key | value | written |
//! |---|---|---|
//! | `header` | the header, which begins with its version | with every batch |
//! | `sessions` | version u8, all sessions | at the first batch, and after every [`MAX_CHANGE_ROWS`] rows of the next kind |
//! | `sessions/` and the applied index, 8 bytes, big-endian | the sessions' changes | with every batch that has some |
//!
//! All of it stands in the engine's batch, so the engine comes back with the state that goes with its pairs. Sessions may be
//! large and change a little with every write: hence rows of changes, which are made again at the start.

use bytes::{BufMut, Bytes, BytesMut};
use quorate_engine::{Change, Direction, KeyRange, Table, View};

use crate::session::{Remembered, Sessions};
use crate::shard::{ShardError, ShardHeader, read_header, write_header};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// Rows of changes before all sessions are written again: few enough to be read in a moment, and many enough that writing all
/// sessions is a small part of the work.
const MAX_CHANGE_ROWS: usize = 128;

const VERSION: u8 = 1;
const HEADER_KEY: &[u8] = b"header";
const SESSIONS_KEY: &[u8] = b"sessions";
const CHANGES_PREFIX: &[u8] = b"sessions/";

const SWEPT: u8 = 0;
const REMEMBERED: u8 = 1;

/// Something that changed the sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SessionChange {
    /// Idle ones were dropped at this log time.
    Swept(u64),
    /// The outcome of a request was kept.
    Remembered(Remembered),
}

/// Which rows are there.
#[derive(Debug, Default)]
pub(crate) struct StoredState {
    has_sessions: bool,
    change_rows: Vec<u64>,
}

impl StoredState {
    /// The state in a view, if there is one.
    pub(crate) fn read(view: &dyn View) -> Result<Option<(Self, ShardHeader, Sessions)>, ShardError> {
        let Some(bytes) = view.get(Table::Meta, HEADER_KEY)? else {
            return Ok(None);
        };
        let mut reader = Reader::new(bytes);
        let header = read_header(&mut reader)?;
        reader.finish()?;
        let mut sessions = match view.get(Table::Meta, SESSIONS_KEY)? {
            Some(bytes) => read_sessions(bytes)?,
            None => Sessions::default(),
        };
        let mut stored = Self { has_sessions: true, change_rows: Vec::new() };
        for item in view.scan(Table::Meta, &KeyRange::prefix(CHANGES_PREFIX), Direction::Forward) {
            let (key, value) = item?;
            let index = key[CHANGES_PREFIX.len()..].try_into().map_err(|_| DecodeError::Malformed("key of a session row"))?;
            stored.change_rows.push(u64::from_be_bytes(index));
            repeat(value, &mut sessions)?;
        }
        Ok(Some((stored, header, sessions)))
    }

    /// Whether a row is part of a state.
    pub(crate) fn is_row(row: &[u8]) -> bool {
        row == HEADER_KEY || row == SESSIONS_KEY || row.starts_with(CHANGES_PREFIX)
    }

    /// The rows of a state, for an engine that is filled from a snapshot.
    pub(crate) fn rows(header: &ShardHeader, sessions: &Sessions) -> [(Bytes, Bytes); 2] {
        [(Bytes::from_static(HEADER_KEY), header_row(header)), (Bytes::from_static(SESSIONS_KEY), sessions_row(sessions))]
    }

    /// What a batch must change besides its pairs.
    pub(crate) fn add_to(&mut self, changes: &mut Vec<Change>, header: &ShardHeader, sessions: &Sessions, of: &[SessionChange]) {
        changes.push(put(Bytes::from_static(HEADER_KEY), header_row(header)));
        if !self.has_sessions || self.change_rows.len() >= MAX_CHANGE_ROWS {
            self.has_sessions = true;
            changes.push(put(Bytes::from_static(SESSIONS_KEY), sessions_row(sessions)));
            changes.extend(self.change_rows.drain(..).map(|index| Change::Delete { table: Table::Meta, key: change_key(index) }));
        } else if !of.is_empty() {
            self.change_rows.push(header.applied_index);
            changes.push(put(change_key(header.applied_index), changes_row(of)));
        }
    }
}

fn put(key: Bytes, value: Bytes) -> Change {
    Change::Put { table: Table::Meta, key, value }
}

fn change_key(index: u64) -> Bytes {
    [CHANGES_PREFIX, &index.to_be_bytes()].concat().into()
}

fn header_row(header: &ShardHeader) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    write_header(header, &mut out);
    out.freeze()
}

fn sessions_row(sessions: &Sessions) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(VERSION);
    sessions.encode(&mut out);
    out.freeze()
}

fn changes_row(of: &[SessionChange]) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + 32 * of.len());
    out.put_u8(VERSION);
    out.put_varint(of.len() as u64);
    for change in of {
        match change {
            SessionChange::Swept(log_time_ms) => {
                out.put_u8(SWEPT);
                out.put_varint(*log_time_ms);
            }
            SessionChange::Remembered(remembered) => {
                out.put_u8(REMEMBERED);
                remembered.encode(&mut out);
            }
        }
    }
    out.freeze()
}

fn begin(bytes: Bytes) -> Result<Reader, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        VERSION => Ok(reader),
        tag => Err(DecodeError::UnknownTag { what: "stored state version", tag }),
    }
}

fn read_sessions(bytes: Bytes) -> Result<Sessions, DecodeError> {
    let mut reader = begin(bytes)?;
    let sessions = Sessions::read(&mut reader)?;
    reader.finish()?;
    Ok(sessions)
}

/// Makes the changes of a row again.
fn repeat(bytes: Bytes, sessions: &mut Sessions) -> Result<(), DecodeError> {
    let mut reader = begin(bytes)?;
    let changes = reader.list(|reader| match reader.u8()? {
        SWEPT => Ok(SessionChange::Swept(reader.varint()?)),
        REMEMBERED => Ok(SessionChange::Remembered(Remembered::read(reader)?)),
        tag => Err(DecodeError::UnknownTag { what: "session change", tag }),
    })?;
    reader.finish()?;
    for change in changes {
        match change {
            SessionChange::Swept(log_time_ms) => {
                sessions.sweep(log_time_ms);
            }
            SessionChange::Remembered(remembered) => sessions.keep(&remembered),
        }
    }
    Ok(())
}
