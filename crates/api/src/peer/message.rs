//! Raft messages and the other contents of frames, field by field in the order of their types.

#![deny(clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};

use super::wire::{DecodeError, Measure, Reader, Sink};
use super::{
    Beat, Forward, ForwardReply, ForwardResult, RaftEntry, RaftMessage, SnapshotAck, SnapshotAsk, SnapshotMeta, SnapshotPart,
};

// The least that an item takes on the wire, a byte per field; a list cannot be longer than its bytes allow.
pub(super) const MIN_MESSAGE_BYTES: usize = 15;
pub(super) const MIN_FORWARD_BYTES: usize = 4;
pub(super) const MIN_FORWARD_REPLY_BYTES: usize = 4;
pub(super) const MIN_BEAT_BYTES: usize = 5;
const MIN_ENTRY_BYTES: usize = 5;
const MIN_REPLICA_BYTES: usize = 1;

const HAS_REJECT: u8 = 1;
const HAS_SNAPSHOT: u8 = 1 << 1;

const RESULT_OUTCOME: u8 = 0;
const RESULT_NOT_LEADER: u8 = 1;
const RESULT_OVERLOADED: u8 = 2;
const RESULT_DISK_FULL: u8 = 4;
const RESULT_STORE_BUSY: u8 = 5;

const ACK_FAILED: u8 = 1;
const ACK_DONE: u8 = 1 << 1;

/// Appends the message to `out`. The encoding carries no version of its own: whatever holds it has one.
pub fn encode_message(message: &RaftMessage, out: &mut BytesMut) {
    out.reserve(message_bytes(message));
    put_message(out, message);
}

/// The message that makes up the whole of `encoded`. Entries and context are slices of it: whoever keeps one keeps all of
/// `encoded` in memory.
pub fn decode_message(encoded: Bytes) -> Result<RaftMessage, DecodeError> {
    let mut reader = Reader::new(encoded);
    let message = read_message(&mut reader)?;
    reader.finish()?;
    Ok(message)
}

/// How many bytes [`encode_message`] appends.
pub fn message_bytes(message: &RaftMessage) -> usize {
    let mut measure = Measure::default();
    put_message(&mut measure, message);
    measure.bytes
}

pub(super) fn put_message(out: &mut impl Sink, message: &RaftMessage) {
    let reject = if message.reject { HAS_REJECT } else { 0 };
    let snapshot = if message.snapshot.is_some() { HAS_SNAPSHOT } else { 0 };
    out.byte(message.kind);
    out.byte(reject | snapshot);
    out.integer(message.group);
    out.integer(message.to);
    out.integer(message.from);
    out.integer(message.term);
    out.integer(message.log_term);
    out.integer(message.index);
    out.integer(message.commit);
    out.integer(message.commit_term);
    out.integer(message.request_snapshot);
    out.integer(message.reject_hint);
    out.signed(message.priority);
    if let Some(meta) = &message.snapshot {
        put_meta(out, meta);
    }
    out.bytes(&message.context);
    out.count(message.entries.len());
    for entry in &message.entries {
        put_entry(out, entry);
    }
}

pub(super) fn read_message(reader: &mut Reader) -> Result<RaftMessage, DecodeError> {
    let kind = reader.byte()?;
    let flags = read_flags(reader, "message flags", HAS_REJECT | HAS_SNAPSHOT)?;
    Ok(RaftMessage {
        kind,
        group: reader.integer()?,
        to: reader.integer()?,
        from: reader.integer()?,
        term: reader.integer()?,
        log_term: reader.integer()?,
        index: reader.integer()?,
        commit: reader.integer()?,
        commit_term: reader.integer()?,
        request_snapshot: reader.integer()?,
        reject: flags & HAS_REJECT != 0,
        reject_hint: reader.integer()?,
        priority: reader.signed()?,
        snapshot: if flags & HAS_SNAPSHOT == 0 { None } else { Some(read_meta(reader)?) },
        context: reader.bytes()?,
        entries: reader.list(MIN_ENTRY_BYTES, read_entry)?,
    })
}

fn put_entry(out: &mut impl Sink, entry: &RaftEntry) {
    out.byte(entry.kind);
    out.integer(entry.term);
    out.integer(entry.index);
    out.bytes(&entry.context);
    out.bytes(&entry.data);
}

fn read_entry(reader: &mut Reader) -> Result<RaftEntry, DecodeError> {
    Ok(RaftEntry {
        kind: reader.byte()?,
        term: reader.integer()?,
        index: reader.integer()?,
        context: reader.bytes()?,
        data: reader.bytes()?,
    })
}

fn put_meta(out: &mut impl Sink, meta: &SnapshotMeta) {
    out.integer(meta.index);
    out.integer(meta.term);
    for replicas in [&meta.voters, &meta.learners, &meta.voters_outgoing, &meta.learners_next] {
        out.count(replicas.len());
        for replica in replicas {
            out.integer(*replica);
        }
    }
    out.byte(u8::from(meta.auto_leave));
}

fn read_meta(reader: &mut Reader) -> Result<SnapshotMeta, DecodeError> {
    Ok(SnapshotMeta {
        index: reader.integer()?,
        term: reader.integer()?,
        voters: read_replicas(reader)?,
        learners: read_replicas(reader)?,
        voters_outgoing: read_replicas(reader)?,
        learners_next: read_replicas(reader)?,
        auto_leave: read_flags(reader, "auto-leave flag", 1)? != 0,
    })
}

fn read_replicas(reader: &mut Reader) -> Result<Vec<u64>, DecodeError> {
    reader.list(MIN_REPLICA_BYTES, Reader::integer)
}

pub(super) fn put_forward(out: &mut impl Sink, forward: &Forward) {
    out.integer(forward.group);
    out.integer(forward.origin);
    out.integer(forward.sequence);
    out.bytes(&forward.command);
}

pub(super) fn read_forward(reader: &mut Reader) -> Result<Forward, DecodeError> {
    Ok(Forward { group: reader.integer()?, origin: reader.integer()?, sequence: reader.integer()?, command: reader.bytes()? })
}

pub(super) fn put_forward_reply(out: &mut impl Sink, reply: &ForwardReply) {
    out.integer(reply.group);
    out.integer(reply.origin);
    out.integer(reply.sequence);
    match &reply.result {
        ForwardResult::Outcome(outcome) => {
            out.byte(RESULT_OUTCOME);
            out.bytes(outcome);
        }
        ForwardResult::NotLeader(leader) => {
            out.byte(RESULT_NOT_LEADER);
            out.integer(*leader);
        }
        ForwardResult::Overloaded => out.byte(RESULT_OVERLOADED),
        ForwardResult::DiskFull => out.byte(RESULT_DISK_FULL),
        ForwardResult::StoreBusy => out.byte(RESULT_STORE_BUSY),
    }
}

pub(super) fn read_forward_reply(reader: &mut Reader) -> Result<ForwardReply, DecodeError> {
    let (group, origin, sequence) = (reader.integer()?, reader.integer()?, reader.integer()?);
    let result = match reader.byte()? {
        RESULT_OUTCOME => ForwardResult::Outcome(reader.bytes()?),
        RESULT_NOT_LEADER => ForwardResult::NotLeader(reader.integer()?),
        RESULT_OVERLOADED => ForwardResult::Overloaded,
        RESULT_DISK_FULL => ForwardResult::DiskFull,
        RESULT_STORE_BUSY => ForwardResult::StoreBusy,
        tag => return Err(DecodeError::Unknown { what: "forward result", tag: tag.into() }),
    };
    Ok(ForwardReply { group, origin, sequence, result })
}

pub(super) fn put_snapshot_part(out: &mut impl Sink, part: &SnapshotPart) {
    out.integer(part.group);
    out.integer(part.transfer);
    out.integer(part.offset);
    out.integer(part.total_bytes);
    out.byte(u8::from(part.message.is_some()));
    if let Some(message) = &part.message {
        put_message(out, message);
    }
    out.bytes(&part.data);
}

pub(super) fn read_snapshot_part(reader: &mut Reader) -> Result<SnapshotPart, DecodeError> {
    Ok(SnapshotPart {
        group: reader.integer()?,
        transfer: reader.integer()?,
        offset: reader.integer()?,
        total_bytes: reader.integer()?,
        message: match read_flags(reader, "snapshot part flags", 1)? {
            0 => None,
            _ => Some(Box::new(read_message(reader)?)),
        },
        data: reader.bytes()?,
    })
}

pub(super) fn put_snapshot_ack(out: &mut impl Sink, ack: &SnapshotAck) {
    let failed = if ack.failed { ACK_FAILED } else { 0 };
    let done = if ack.done { ACK_DONE } else { 0 };
    out.integer(ack.group);
    out.integer(ack.transfer);
    out.integer(ack.next_offset);
    out.byte(failed | done);
}

pub(super) fn read_snapshot_ack(reader: &mut Reader) -> Result<SnapshotAck, DecodeError> {
    let (group, transfer, next_offset) = (reader.integer()?, reader.integer()?, reader.integer()?);
    let flags = read_flags(reader, "snapshot answer flags", ACK_FAILED | ACK_DONE)?;
    Ok(SnapshotAck { group, transfer, next_offset, failed: flags & ACK_FAILED != 0, done: flags & ACK_DONE != 0 })
}

pub(super) fn put_snapshot_ask(out: &mut impl Sink, ask: &SnapshotAsk) {
    out.integer(ask.group);
    out.integer(ask.replica);
    out.integer(ask.min_index);
}

pub(super) fn read_snapshot_ask(reader: &mut Reader) -> Result<SnapshotAsk, DecodeError> {
    Ok(SnapshotAsk { group: reader.integer()?, replica: reader.integer()?, min_index: reader.integer()? })
}

pub(super) fn put_beat(out: &mut impl Sink, beat: &Beat) {
    out.integer(beat.group);
    out.integer(beat.to);
    out.integer(beat.from);
    out.integer(beat.term);
    out.integer(beat.commit);
}

pub(super) fn read_beat(reader: &mut Reader) -> Result<Beat, DecodeError> {
    Ok(Beat {
        group: reader.integer()?,
        to: reader.integer()?,
        from: reader.integer()?,
        term: reader.integer()?,
        commit: reader.integer()?,
    })
}

/// A byte of which only the bits in `known` may be set.
fn read_flags(reader: &mut Reader, what: &'static str, known: u8) -> Result<u8, DecodeError> {
    let flags = reader.byte()?;
    if flags & !known != 0 {
        return Err(DecodeError::Unknown { what, tag: flags.into() });
    }
    Ok(flags)
}
