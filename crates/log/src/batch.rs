//! The body of a batch: how records become bytes, and bytes become changes of the index.
//!
//! [`BatchBuffer`] is the one place where payloads are copied on their way to the disk.

use bytes::Bytes;

use crate::format::{BATCH_HEADER_BYTES, BatchHeader, Fields, body_checksum, to_sectors};
use crate::{GroupId, HardState, LogId, LogIndex, Record, Term};

/// The largest batch, and so the most that one write takes, encoded: 256 MiB.
pub const MAX_BATCH_BYTES: u64 = 256 << 20;

/// What a record does to the index: the record without the payloads, but with their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// [`Record::Append`].
    Append(Run),
    /// Entries that are live, at a new place: what a segment is cleaned with.
    Move(Run),
    /// [`Record::HardState`].
    HardState(HardState),
    /// [`Record::Purge`]; one that repeats the group's purge position moves it here.
    Purge(LogId),
    /// [`Record::Reset`].
    Reset(LogId),
    /// [`Record::State`].
    State(Bytes),
    /// [`Record::Destroy`].
    Destroy,
}

/// Consecutive entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: LogIndex,
    pub(crate) places: Vec<Place>,
}

/// Where an entry's payload stands in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) term: Term,
    /// Bytes from the start of the batch's header.
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) crc: u32,
}

/// Bytes of an entry before its payload: term and length.
pub(crate) const ENTRY_HEADER_BYTES: u64 = 12;
/// Bytes of a run before its first entry: the record's header, first index and count.
pub(crate) const RUN_HEADER_BYTES: u64 = RECORD_HEADER_BYTES + 12;
/// Bytes of an encoded hard state.
pub(crate) const HARD_STATE_BYTES: u64 = RECORD_HEADER_BYTES + 24;
/// Bytes of an encoded purge or reset.
pub(crate) const POSITION_BYTES: u64 = RECORD_HEADER_BYTES + 16;

/// Kind, padding, length of what follows, group.
pub(crate) const RECORD_HEADER_BYTES: u64 = 16;

/// The encoded size of a record, its share of the batch's header and padding not counted.
pub(crate) fn encoded_bytes(record: &Record) -> u64 {
    match record {
        Record::Append(entries) => {
            RUN_HEADER_BYTES + entries.iter().map(|entry| ENTRY_HEADER_BYTES + entry.payload.len() as u64).sum::<u64>()
        }
        Record::HardState(_) => HARD_STATE_BYTES,
        Record::Purge(_) | Record::Reset(_) => POSITION_BYTES,
        Record::State(state) => RECORD_HEADER_BYTES + state.len() as u64,
        Record::Destroy => RECORD_HEADER_BYTES,
    }
}

/// A batch in the making; reused from batch to batch.
///
/// The caller sees to it that the encoded size stays below 4 GiB; [`MAX_BATCH_BYTES`] and the bounded work of cleaning do.
#[derive(Default)]
pub(crate) struct BatchBuffer {
    /// The header's room, and the records so far.
    bytes: Vec<u8>,
    changes: Vec<(GroupId, Change)>,
}

impl BatchBuffer {
    /// Forgets the batch before, and gives up memory that an unusually large one left.
    pub(crate) fn clear(&mut self) {
        self.changes.clear();
        self.bytes.clear();
        if self.bytes.capacity() > RETAINED_BYTES {
            self.bytes = Vec::new();
        }
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
    }

    /// Adds a record.
    pub(crate) fn push(&mut self, group: GroupId, record: &Record) {
        match record {
            Record::Append(entries) => {
                let Some(first) = entries.first() else { return };
                let payloads = entries.iter().map(|entry| (entry.id.term, &entry.payload[..]));
                let run = self.put_run(Kind::Append, group, first.id.index, payloads);
                self.changes.push((group, Change::Append(run)));
            }
            Record::HardState(hard_state) => self.push_hard_state(group, *hard_state),
            Record::Purge(to) => self.push_purge(group, *to),
            Record::Reset(to) => {
                self.put_position(Kind::Reset, group, *to);
                self.changes.push((group, Change::Reset(*to)));
            }
            Record::State(state) => self.push_state(group, state.clone()),
            Record::Destroy => {
                let start = self.begin_record(Kind::Destroy, group);
                self.end_record(start);
                self.changes.push((group, Change::Destroy));
            }
        }
    }

    /// Adds entries that move; they are consecutive from `first`.
    pub(crate) fn push_move<'a>(
        &mut self,
        group: GroupId,
        first: LogIndex,
        entries: impl ExactSizeIterator<Item = (Term, &'a [u8])>,
    ) {
        let run = self.put_run(Kind::Move, group, first, entries);
        self.changes.push((group, Change::Move(run)));
    }

    /// Adds a hard state.
    pub(crate) fn push_hard_state(&mut self, group: GroupId, hard_state: HardState) {
        let start = self.begin_record(Kind::HardState, group);
        self.put_u64(hard_state.term.0);
        self.put_u64(hard_state.vote);
        self.put_u64(hard_state.commit.0);
        self.end_record(start);
        self.changes.push((group, Change::HardState(hard_state)));
    }

    /// Adds a purge.
    pub(crate) fn push_purge(&mut self, group: GroupId, to: LogId) {
        self.put_position(Kind::Purge, group, to);
        self.changes.push((group, Change::Purge(to)));
    }

    /// Adds a state.
    pub(crate) fn push_state(&mut self, group: GroupId, state: Bytes) {
        let start = self.begin_record(Kind::State, group);
        self.bytes.extend_from_slice(&state);
        self.end_record(start);
        self.changes.push((group, Change::State(state)));
    }

    /// The size on disk of the batch as it is, padding included.
    pub(crate) fn extent_bytes(&self) -> u64 {
        to_sectors(self.bytes.len() as u64)
    }

    /// Fills the header in and the last sector up. The bytes are what goes to the disk.
    pub(crate) fn seal(&mut self, epoch: u64, sequence: u64) -> &[u8] {
        let body = &self.bytes[BATCH_HEADER_BYTES..];
        let header = BatchHeader {
            sequence,
            body_bytes: body.len() as u32,
            body_crc: body_checksum(epoch, sequence, body),
            record_count: self.changes.len() as u32,
        };
        self.bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode(epoch));
        let extent = self.extent_bytes() as usize;
        self.bytes.resize(extent, 0);
        &self.bytes
    }

    /// What the batch does, in order.
    pub(crate) fn drain_changes(&mut self) -> impl Iterator<Item = (GroupId, Change)> {
        self.changes.drain(..)
    }

    fn put_run<'a>(
        &mut self,
        kind: Kind,
        group: GroupId,
        first: LogIndex,
        entries: impl ExactSizeIterator<Item = (Term, &'a [u8])>,
    ) -> Run {
        let start = self.begin_record(kind, group);
        self.put_u64(first.0);
        self.put_u32(entries.len() as u32);
        let mut places = Vec::with_capacity(entries.len());
        for (term, payload) in entries {
            self.put_u64(term.0);
            self.put_u32(payload.len() as u32);
            let offset = self.bytes.len() as u32;
            self.bytes.extend_from_slice(payload);
            places.push(Place { term, offset, length: payload.len() as u32, crc: crc32c::crc32c(payload) });
        }
        self.end_record(start);
        Run { first, places }
    }

    fn put_position(&mut self, kind: Kind, group: GroupId, at: LogId) {
        let start = self.begin_record(kind, group);
        self.put_u64(at.term.0);
        self.put_u64(at.index.0);
        self.end_record(start);
    }

    /// Writes a record's header, its length left open, and returns where it starts.
    fn begin_record(&mut self, kind: Kind, group: GroupId) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[kind as u8, 0, 0, 0]);
        self.put_u32(0);
        self.put_u64(group.0);
        start
    }

    fn end_record(&mut self, start: usize) {
        let length = (self.bytes.len() - start - RECORD_HEADER_BYTES as usize) as u32;
        self.bytes[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
}

/// The changes of a body whose checksum is right. `None` if it does not follow the format nevertheless.
pub(crate) fn decode_body(body: &[u8], record_count: u32) -> Option<Vec<(GroupId, Change)>> {
    let mut fields = Fields(body);
    let mut changes = Vec::new();
    for _ in 0..record_count {
        let &[kind, 0, 0, 0] = fields.take(4)? else { return None };
        let length = fields.u32()? as usize;
        let group = GroupId(fields.u64()?);
        let content_at = BATCH_HEADER_BYTES + body.len() - fields.0.len();
        changes.push((group, decode_content(Kind::from_byte(kind)?, fields.take(length)?, content_at)?));
    }
    fields.0.is_empty().then_some(changes)
}

/// `content_at` is where the record's content stands in the batch.
fn decode_content(kind: Kind, content: &[u8], content_at: usize) -> Option<Change> {
    let mut fields = Fields(content);
    let change = match kind {
        Kind::Append => Change::Append(decode_run(&mut fields, content_at)?),
        Kind::Move => Change::Move(decode_run(&mut fields, content_at)?),
        Kind::HardState => {
            let (term, vote, commit) = (Term(fields.u64()?), fields.u64()?, LogIndex(fields.u64()?));
            Change::HardState(HardState { term, vote, commit })
        }
        Kind::Purge => Change::Purge(decode_position(&mut fields)?),
        Kind::Reset => Change::Reset(decode_position(&mut fields)?),
        Kind::State => Change::State(Bytes::copy_from_slice(fields.take(content.len())?)),
        Kind::Destroy => Change::Destroy,
    };
    fields.0.is_empty().then_some(change)
}

fn decode_position(fields: &mut Fields<'_>) -> Option<LogId> {
    Some(LogId { term: Term(fields.u64()?), index: LogIndex(fields.u64()?) })
}

fn decode_run(fields: &mut Fields<'_>, content_at: usize) -> Option<Run> {
    let content_bytes = fields.0.len();
    let first = LogIndex(fields.u64()?);
    let count = fields.u32()?;
    let mut places = Vec::new();
    for _ in 0..count {
        let term = Term(fields.u64()?);
        let length = fields.u32()?;
        let offset = content_at + content_bytes - fields.0.len();
        let payload = fields.take(length as usize)?;
        places.push(Place { term, offset: u32::try_from(offset).ok()?, length, crc: crc32c::crc32c(payload) });
    }
    (first.0 > 0 && !places.is_empty()).then_some(Run { first, places })
}

/// How much memory an idle buffer keeps.
const RETAINED_BYTES: usize = 8 << 20;

/// The tag of a record on disk. Tags are never used again for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Append = 1,
    HardState = 2,
    Purge = 3,
    Reset = 4,
    State = 5,
    Destroy = 6,
    Move = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Append, Self::HardState, Self::Purge, Self::Reset, Self::State, Self::Destroy, Self::Move]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;

    fn every_kind() -> Vec<Record> {
        let id = |term, index| LogId { term: Term(term), index: LogIndex(index) };
        vec![
            Record::Append(vec![
                Entry { id: id(2, 5), payload: Bytes::from_static(b"five") },
                Entry { id: id(3, 6), payload: Bytes::new() },
            ]),
            Record::HardState(HardState { term: Term(3), vote: 9, commit: LogIndex(5) }),
            Record::Purge(id(2, 5)),
            Record::Reset(id(4, 8)),
            Record::State(Bytes::from_static(b"state")),
            Record::Destroy,
        ]
    }

    #[test]
    fn decoding_a_sealed_batch_gives_its_changes() {
        let mut buffer = BatchBuffer::default();
        buffer.clear();
        buffer.push_move(GroupId(8), LogIndex(1), [(Term(1), &b"moved"[..])].into_iter());
        let mut expected_bytes = BATCH_HEADER_BYTES as u64 + RUN_HEADER_BYTES + ENTRY_HEADER_BYTES + 5;
        for record in every_kind() {
            buffer.push(GroupId(7), &record);
            expected_bytes += encoded_bytes(&record);
        }
        assert_eq!(buffer.bytes.len() as u64, expected_bytes);

        let bytes = buffer.seal(1, 2).to_vec();
        let changes: Vec<_> = buffer.drain_changes().collect();
        let header = BatchHeader::decode(&bytes, 1).unwrap();
        let body = &bytes[BATCH_HEADER_BYTES..expected_bytes as usize];
        assert_eq!(body.len(), header.body_bytes as usize);
        assert_eq!(body_checksum(1, 2, body), header.body_crc);
        assert_ne!(body_checksum(1, 3, body), header.body_crc);
        assert_eq!(decode_body(body, header.record_count).unwrap(), changes);
        let Change::Append(run) = &changes[1].1 else { panic!("the second change is the append") };
        assert_eq!(&bytes[run.places[0].offset as usize..][..4], b"five");
    }

    #[test]
    fn a_body_that_is_cut_or_of_another_format_is_refused() {
        let mut buffer = BatchBuffer::default();
        buffer.clear();
        for record in every_kind() {
            buffer.push(GroupId(7), &record);
        }
        let body = buffer.bytes[BATCH_HEADER_BYTES..].to_vec();
        for len in 0..body.len() {
            assert_eq!(decode_body(&body[..len], 6), None, "cut to {len} bytes");
        }
        assert_eq!(decode_body(&body, 5), None);
        let mut unknown = body;
        unknown[0] = 200;
        assert_eq!(decode_body(&unknown, 6), None);
    }
}
