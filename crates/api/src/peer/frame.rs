//! Frames: how messages are cut out of the byte stream of a lane.
//!
//! | bytes | field |
//! |---|---|
//! | 0-3 | length of the body, little-endian |
//! | 4 | frame kind |
//! | 5 | format version, [`FRAME_FORMAT_VERSION`] |
//! | 6-7 | flags, little-endian; none is defined, so 0 |
//! | 8-11 | CRC32C of bytes 0-7 and the body, little-endian |
//! | 12- | body |
//!
//! The checksum catches what TCP's lets through, and covers the header too: a frame never turns into one of another kind.

#![deny(clippy::indexing_slicing)]

use bytes::{Bytes, BytesMut};

use super::eventual::{MIN_EVENTUAL_BYTES, put_eventual, read_eventual};
use super::lease::{
    MIN_LEASE_ANSWER_BYTES, MIN_LEASE_ASK_BYTES, put_lease_answer, put_lease_ask, read_lease_answer, read_lease_ask,
};
use super::message::{
    MIN_BEAT_BYTES, MIN_FORWARD_BYTES, MIN_FORWARD_REPLY_BYTES, MIN_MESSAGE_BYTES, put_beat, put_forward, put_forward_reply,
    put_message, put_snapshot_ack, put_snapshot_ask, put_snapshot_part, read_beat, read_forward, read_forward_reply,
    read_message, read_snapshot_ack, read_snapshot_ask, read_snapshot_part,
};
use super::wire::{DecodeError, Measure, Reader, Sink};
use super::{Frame, MAX_FRAME_BYTES, MAX_FRAME_ITEMS, RaftMessage};

/// The version that frames are written in, and the only one that is read.
pub const FRAME_FORMAT_VERSION: u8 = 1;

/// What stands before every body.
pub const FRAME_HEADER_BYTES: usize = 12;

/// The header's part that the checksum covers.
const CHECKED_HEADER_BYTES: usize = 8;

// Tags on the wire: never renumber, never reuse.
const KIND_RAFT: u8 = 1;
const KIND_FORWARD: u8 = 2;
const KIND_FORWARD_REPLY: u8 = 3;
const KIND_SNAPSHOT: u8 = 4;
const KIND_SNAPSHOT_ACK: u8 = 5;
const KIND_SNAPSHOT_ASK: u8 = 6;
const KIND_BEATS: u8 = 7;
const KIND_BEAT_ANSWERS: u8 = 8;
const KIND_LEASE_ASKS: u8 = 9;
const KIND_LEASE_ANSWERS: u8 = 10;
const KIND_EVENTUAL: u8 = 11;
const KIND_LOG_END: u8 = 12;

/// Why a frame cannot be sent: no receiver would take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// It is longer than [`MAX_FRAME_BYTES`].
    #[error("a frame of {0} bytes exceeds the limit of {MAX_FRAME_BYTES}")]
    TooLarge(usize),
    /// Its lists together hold more than [`MAX_FRAME_ITEMS`].
    #[error("a frame of {0} list items exceeds the limit of {MAX_FRAME_ITEMS}")]
    TooManyItems(usize),
}

/// How many bytes [`encode_frame`] appends, header included.
pub fn frame_bytes(frame: &Frame) -> Result<usize, EncodeError> {
    let mut measure = Measure { bytes: FRAME_HEADER_BYTES, items: 0 };
    put_body(&mut measure, frame);
    if measure.items > MAX_FRAME_ITEMS {
        return Err(EncodeError::TooManyItems(measure.items));
    }
    if measure.bytes > MAX_FRAME_BYTES {
        return Err(EncodeError::TooLarge(measure.bytes));
    }
    Ok(measure.bytes)
}

/// Appends the frame to `out`; what is in `out` already stays. On an error nothing is appended.
pub fn encode_frame(frame: &Frame, out: &mut BytesMut) -> Result<(), EncodeError> {
    let total_bytes = frame_bytes(frame)?;
    let start = out.len();
    out.reserve(total_bytes);
    out.extend_from_slice(&checked_header(kind_of(frame), total_bytes - FRAME_HEADER_BYTES));
    out.extend_from_slice(&[0; FRAME_HEADER_BYTES - CHECKED_HEADER_BYTES]);
    put_body(out, frame);
    assert_eq!(out.len() - start, total_bytes, "a frame takes what was measured");

    let (header, body) = out.split_at_mut(start + FRAME_HEADER_BYTES);
    let (_, header) = header.split_at_mut(start);
    let (checked, checksum) = header.split_at_mut(CHECKED_HEADER_BYTES);
    checksum.copy_from_slice(&checksum_of(checked, body).to_le_bytes());
    Ok(())
}

/// Packs messages into as few Raft frames as take at most `max_bytes` each, in the order given. A message that is longer
/// by itself gets a frame of its own.
pub fn pack_messages(messages: impl IntoIterator<Item = RaftMessage>, max_bytes: usize) -> Vec<Frame> {
    // The count of a frame's messages itself takes at most this much.
    const MAX_COUNT_BYTES: usize = 10;
    let max_bytes = max_bytes.min(MAX_FRAME_BYTES).saturating_sub(FRAME_HEADER_BYTES + MAX_COUNT_BYTES);
    let mut frames = Vec::new();
    let mut packed = Vec::new();
    let mut total = Measure::default();
    for message in messages {
        let mut measure = Measure { bytes: 0, items: 1 };
        put_message(&mut measure, &message);
        let fits = total.bytes + measure.bytes <= max_bytes && total.items + measure.items <= MAX_FRAME_ITEMS;
        if !fits && !packed.is_empty() {
            frames.push(Frame::Raft(std::mem::take(&mut packed)));
            total = Measure::default();
        }
        total.bytes += measure.bytes;
        total.items += measure.items;
        packed.push(message);
    }
    if !packed.is_empty() {
        frames.push(Frame::Raft(packed));
    }
    frames
}

/// Cuts frames out of the bytes of one connection, as they arrive.
///
/// *Life cycle*: one per connection, dropped with it. After an error the stream has no known frame boundary any more: the
/// connection is closed.
///
/// *Limits*: a frame of more than [`MAX_FRAME_BYTES`] is refused when its header is there, before room is made for it.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    /// The header of the frame whose body is not complete.
    header: Option<Header>,
}

impl FrameDecoder {
    /// Takes the next frame off the front of `received`, or makes room in `received` for what is missing and returns
    /// nothing. The frame's byte fields are slices of the buffer: whoever keeps one for long copies it, or it keeps the
    /// buffer in memory.
    pub fn decode(&mut self, received: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let header = match self.header.take() {
            Some(header) => header,
            None => match received.split_first_chunk::<FRAME_HEADER_BYTES>() {
                Some((bytes, _)) => {
                    let header = Header::decode(*bytes)?;
                    let _ = received.split_to(FRAME_HEADER_BYTES);
                    header
                }
                None => return Ok(None),
            },
        };
        if received.len() < header.body_bytes {
            received.reserve(header.body_bytes - received.len());
            self.header = Some(header);
            return Ok(None);
        }
        let body = received.split_to(header.body_bytes).freeze();
        if checksum_of(&header.checked, &body) != header.checksum {
            return Err(DecodeError::Checksum);
        }
        read_body(header.kind, body).map(Some)
    }

    /// Whether the stream may end here: no frame has begun. `received` is what [`Self::decode`] left.
    pub fn is_between_frames(&self, received: &BytesMut) -> bool {
        self.header.is_none() && received.is_empty()
    }
}

#[derive(Debug)]
struct Header {
    kind: u8,
    body_bytes: usize,
    checksum: u32,
    checked: [u8; CHECKED_HEADER_BYTES],
}

impl Header {
    fn decode(bytes: [u8; FRAME_HEADER_BYTES]) -> Result<Self, DecodeError> {
        let [l0, l1, l2, l3, kind, version, f0, f1, c0, c1, c2, c3] = bytes;
        if version != FRAME_FORMAT_VERSION {
            return Err(DecodeError::Version(version));
        }
        if !(KIND_RAFT..=KIND_LOG_END).contains(&kind) {
            return Err(DecodeError::Unknown { what: "frame kind", tag: kind.into() });
        }
        let flags = u16::from_le_bytes([f0, f1]);
        if flags != 0 {
            return Err(DecodeError::Unknown { what: "frame flags", tag: flags.into() });
        }
        let body_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if body_bytes > MAX_FRAME_BYTES - FRAME_HEADER_BYTES {
            let bytes = body_bytes.saturating_add(FRAME_HEADER_BYTES);
            return Err(DecodeError::TooLarge { bytes, max_bytes: MAX_FRAME_BYTES });
        }
        let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
        Ok(Self { kind, body_bytes, checksum, checked: [l0, l1, l2, l3, kind, version, f0, f1] })
    }
}

fn checked_header(kind: u8, body_bytes: usize) -> [u8; CHECKED_HEADER_BYTES] {
    let length = u32::try_from(body_bytes).expect("a frame was measured to be at most MAX_FRAME_BYTES");
    let [l0, l1, l2, l3] = length.to_le_bytes();
    [l0, l1, l2, l3, kind, FRAME_FORMAT_VERSION, 0, 0]
}

fn checksum_of(checked_header: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(checked_header), body)
}

fn kind_of(frame: &Frame) -> u8 {
    match frame {
        Frame::Raft(_) => KIND_RAFT,
        Frame::Forward(_) => KIND_FORWARD,
        Frame::ForwardReply(_) => KIND_FORWARD_REPLY,
        Frame::Snapshot(_) => KIND_SNAPSHOT,
        Frame::SnapshotAck(_) => KIND_SNAPSHOT_ACK,
        Frame::SnapshotAsk(_) => KIND_SNAPSHOT_ASK,
        Frame::Beats(_) => KIND_BEATS,
        Frame::BeatAnswers(_) => KIND_BEAT_ANSWERS,
        Frame::LeaseAsks(_) => KIND_LEASE_ASKS,
        Frame::LeaseAnswers(_) => KIND_LEASE_ANSWERS,
        Frame::Eventual(_) => KIND_EVENTUAL,
        Frame::LogEnd(_) => KIND_LOG_END,
    }
}

fn put_body(out: &mut impl Sink, frame: &Frame) {
    match frame {
        Frame::Raft(messages) => put_list(out, messages, put_message),
        Frame::Forward(forwards) => put_list(out, forwards, put_forward),
        Frame::ForwardReply(replies) => put_list(out, replies, put_forward_reply),
        Frame::Snapshot(part) => put_snapshot_part(out, part),
        Frame::SnapshotAck(ack) => put_snapshot_ack(out, ack),
        Frame::SnapshotAsk(ask) => put_snapshot_ask(out, ask),
        Frame::Beats(beats) | Frame::BeatAnswers(beats) => put_list(out, beats, put_beat),
        Frame::LeaseAsks(asks) => put_list(out, asks, put_lease_ask),
        Frame::LeaseAnswers(answers) => put_list(out, answers, put_lease_answer),
        Frame::Eventual(messages) => put_list(out, messages, put_eventual),
        Frame::LogEnd(sequence) => out.integer(*sequence),
    }
}

fn put_list<S: Sink, T>(out: &mut S, items: &[T], put: impl Fn(&mut S, &T)) {
    out.count(items.len());
    for item in items {
        put(out, item);
    }
}

fn read_body(kind: u8, body: Bytes) -> Result<Frame, DecodeError> {
    let mut reader = Reader::new(body);
    let frame = match kind {
        KIND_RAFT => Frame::Raft(reader.list(MIN_MESSAGE_BYTES, read_message)?),
        KIND_FORWARD => Frame::Forward(reader.list(MIN_FORWARD_BYTES, read_forward)?),
        KIND_FORWARD_REPLY => Frame::ForwardReply(reader.list(MIN_FORWARD_REPLY_BYTES, read_forward_reply)?),
        KIND_SNAPSHOT => Frame::Snapshot(read_snapshot_part(&mut reader)?),
        KIND_SNAPSHOT_ACK => Frame::SnapshotAck(read_snapshot_ack(&mut reader)?),
        KIND_SNAPSHOT_ASK => Frame::SnapshotAsk(read_snapshot_ask(&mut reader)?),
        KIND_BEATS => Frame::Beats(reader.list(MIN_BEAT_BYTES, read_beat)?),
        KIND_BEAT_ANSWERS => Frame::BeatAnswers(reader.list(MIN_BEAT_BYTES, read_beat)?),
        KIND_LEASE_ASKS => Frame::LeaseAsks(reader.list(MIN_LEASE_ASK_BYTES, read_lease_ask)?),
        KIND_LEASE_ANSWERS => Frame::LeaseAnswers(reader.list(MIN_LEASE_ANSWER_BYTES, read_lease_answer)?),
        KIND_EVENTUAL => Frame::Eventual(reader.list(MIN_EVENTUAL_BYTES, read_eventual)?),
        KIND_LOG_END => Frame::LogEnd(reader.integer()?),
        tag => return Err(DecodeError::Unknown { what: "frame kind", tag: tag.into() }),
    };
    reader.finish()?;
    Ok(frame)
}
