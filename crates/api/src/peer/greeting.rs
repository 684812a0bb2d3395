//! Greetings: what the two ends of a connection say once, before any frame.
//!
//! The node that dialled sends a [`Hello`]; the other answers with its own, or with a [`Refusal`] and closes.
//!
//! | bytes | field |
//! |---|---|
//! | 0-3 | magic, `QRTE` |
//! | 4 | greeting kind: 1 hello, 2 refusal |
//! | 5 | format version, [`GREETING_FORMAT_VERSION`] |
//! | 6-7 | length of the body, little-endian |
//! | 8-11 | CRC32C of bytes 0-7 and the body, little-endian |
//! | 12- | body |
//!
//! A hello's body is cluster, node, incarnation (8 bytes each), lane (1), oldest and newest wire version (2 each), all
//! little-endian; since wire version 2 also start id and log end (8 each). A refusal's body is the reason's tag (1) and its
//! text in UTF-8. Nodes of all versions must understand each other this far: later versions may append to a hello's body, and
//! what a reader does not know at its end it skips.

#![deny(clippy::indexing_slicing)]

use bytes::{Buf, BufMut, BytesMut};

use super::wire::DecodeError;
use super::{Hello, Lane};

/// The version that greetings are written in, and the only one that is read.
pub const GREETING_FORMAT_VERSION: u8 = 1;

/// The longest greeting, header included. Whoever speaks first is not known yet: this is all it can make us hold.
pub const MAX_GREETING_BYTES: usize = 1024;

const MAGIC: [u8; 4] = *b"QRTE";
const HEADER_BYTES: usize = 12;
const CHECKED_HEADER_BYTES: usize = 8;
const HELLO_BODY_BYTES: usize = 45;
const MAX_REASON_BYTES: usize = 512;
const _: () = assert!(HEADER_BYTES + 1 + MAX_REASON_BYTES <= MAX_GREETING_BYTES, "every refusal fits");
const _: () = assert!(HEADER_BYTES + HELLO_BODY_BYTES <= MAX_GREETING_BYTES, "every hello fits");

// Tags on the wire: never renumber, never reuse.
const KIND_HELLO: u8 = 1;
const KIND_REFUSAL: u8 = 2;

/// The first thing that one end says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// Who speaks.
    Hello(Hello),
    /// Why the other end shall not; the connection closes behind it.
    Refusal(Refusal),
}

/// Why a connection is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// What a program can act on.
    pub kind: RefusalKind,
    /// What a person can: names both sides. At most 512 bytes travel.
    pub reason: String,
}

/// What kind of refusal it is. The tags are on the wire: never renumber, never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RefusalKind {
    /// The nodes belong to different clusters.
    WrongCluster = 1,
    /// There is no wire version that both understand.
    WireVersion = 2,
    /// The node is no member as far as the refusing node knows: its joining is not known there yet.
    UnknownNode = 3,
    /// The node has been started again since: this is a process that should no longer run, or a copy of its folder.
    OlderIncarnation = 4,
    /// The node was removed from the cluster: it will never be let in again.
    RemovedNode = 5,
    /// Another process is this start of the node: one of the two runs with a copy of its folder.
    OtherStart = 6,
    /// The node's log ends before what it had said to be durable: an older state of its folder was put back.
    OlderLog = 7,
    /// A kind that this build does not know; the text has to do.
    Other = 255,
}

impl Refusal {
    /// The two ends belong to different clusters.
    pub fn wrong_cluster(ours: u64, theirs: u64) -> Self {
        let reason = format!("this node belongs to cluster {ours:016x}, not to cluster {theirs:016x}");
        Self { kind: RefusalKind::WrongCluster, reason }
    }

    /// The two ends' ranges of wire versions do not overlap.
    pub fn wire_version(ours: (u16, u16), theirs: (u16, u16)) -> Self {
        let reason = format!("this node speaks wire versions {} to {}, not {} to {}", ours.0, ours.1, theirs.0, theirs.1);
        Self { kind: RefusalKind::WireVersion, reason }
    }

    /// `theirs` is no member.
    pub fn unknown_node(theirs: u64, cluster: u64) -> Self {
        let reason = format!("node {theirs} is not a known member of cluster {cluster:016x} yet");
        Self { kind: RefusalKind::UnknownNode, reason }
    }

    /// `theirs` was a member, and is none any more.
    pub fn removed_node(theirs: u64, cluster: u64) -> Self {
        let reason = format!("node {theirs} was removed from cluster {cluster:016x}");
        Self { kind: RefusalKind::RemovedNode, reason }
    }

    /// A later start of `node` has been seen.
    pub fn older_incarnation(node: u64, theirs: u64, highest: u64) -> Self {
        let reason = format!("incarnation {theirs} of node {node} is over: incarnation {highest} has been seen");
        Self { kind: RefusalKind::OlderIncarnation, reason }
    }

    /// Another process was seen as this start of `node`.
    pub fn other_start(node: u64, incarnation: u64) -> Self {
        let reason = format!("another process has been seen as incarnation {incarnation} of node {node}");
        Self { kind: RefusalKind::OtherStart, reason }
    }

    /// `node` had said that more of its log is durable than it has.
    pub fn older_log(node: u64, theirs: u64, highest: u64) -> Self {
        let reason = format!("the log of node {node} ends at batch {theirs}, and had been durable up to batch {highest}");
        Self { kind: RefusalKind::OlderLog, reason }
    }
}

impl RefusalKind {
    fn from_tag(tag: u8) -> Self {
        use RefusalKind::{OlderIncarnation, OlderLog, OtherStart, RemovedNode, UnknownNode, WireVersion, WrongCluster};
        [WrongCluster, WireVersion, UnknownNode, OlderIncarnation, RemovedNode, OtherStart, OlderLog]
            .into_iter()
            .find(|kind| *kind as u8 == tag)
            .unwrap_or(Self::Other)
    }

    /// Whether the node's folder is not the one that its peers know: a copy, or an older state of it.
    pub fn is_outdated(self) -> bool {
        matches!(self, Self::OlderIncarnation | Self::OtherStart | Self::OlderLog)
    }
}

impl Hello {
    /// The wire version that two ends with these greetings use: the newest that both understand.
    pub fn common_wire(&self, other: &Self) -> Result<u16, Refusal> {
        let newest = self.max_wire.min(other.max_wire);
        if newest < self.min_wire.max(other.min_wire) {
            return Err(Refusal::wire_version((self.min_wire, self.max_wire), (other.min_wire, other.max_wire)));
        }
        Ok(newest)
    }
}

/// Appends the greeting to `out`.
pub fn encode_greeting(greeting: &Greeting, out: &mut BytesMut) {
    let mut body = BytesMut::new();
    let kind = match greeting {
        Greeting::Hello(hello) => {
            put_hello(&mut body, hello);
            KIND_HELLO
        }
        Greeting::Refusal(refusal) => {
            body.put_u8(refusal.kind as u8);
            body.put_slice(shortened(&refusal.reason).as_bytes());
            KIND_REFUSAL
        }
    };
    let length = u16::try_from(body.len()).expect("a greeting is at most MAX_GREETING_BYTES");
    let [m0, m1, m2, m3] = MAGIC;
    let [l0, l1] = length.to_le_bytes();
    let checked = [m0, m1, m2, m3, kind, GREETING_FORMAT_VERSION, l0, l1];
    out.put_slice(&checked);
    out.put_u32_le(checksum_of(checked, &body));
    out.put_slice(&body);
}

/// Takes a greeting off the front of `received`, or nothing if it is not complete; then more has to be read, up to
/// [`MAX_GREETING_BYTES`]. Bytes that cannot become a greeting are refused as early as they can be told.
pub fn decode_greeting(received: &mut BytesMut) -> Result<Option<Greeting>, DecodeError> {
    if received.iter().zip(MAGIC).any(|(byte, expected)| *byte != expected) {
        return Err(DecodeError::Magic);
    }
    let Some((header, rest)) = received.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [m0, m1, m2, m3, kind, version, l0, l1, c0, c1, c2, c3] = *header;
    if version != GREETING_FORMAT_VERSION {
        return Err(DecodeError::Version(version));
    }
    let body_bytes = usize::from(u16::from_le_bytes([l0, l1]));
    if body_bytes > MAX_GREETING_BYTES - HEADER_BYTES {
        return Err(DecodeError::TooLarge { bytes: HEADER_BYTES + body_bytes, max_bytes: MAX_GREETING_BYTES });
    }
    let Some(body) = rest.get(..body_bytes) else {
        return Ok(None);
    };
    if checksum_of([m0, m1, m2, m3, kind, version, l0, l1], body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(DecodeError::Checksum);
    }
    let greeting = match kind {
        KIND_HELLO => Greeting::Hello(read_hello(body)?),
        KIND_REFUSAL => Greeting::Refusal(read_refusal(body)?),
        tag => return Err(DecodeError::Unknown { what: "greeting kind", tag: tag.into() }),
    };
    received.advance(HEADER_BYTES + body_bytes);
    Ok(Some(greeting))
}

fn put_hello(body: &mut BytesMut, hello: &Hello) {
    body.put_u64_le(hello.cluster);
    body.put_u64_le(hello.node);
    body.put_u64_le(hello.incarnation);
    body.put_u8(hello.lane as u8);
    body.put_u16_le(hello.min_wire);
    body.put_u16_le(hello.max_wire);
    body.put_u64_le(hello.start_id);
    body.put_u64_le(hello.log_end);
}

fn read_hello(mut body: &[u8]) -> Result<Hello, DecodeError> {
    let end = |_| DecodeError::Truncated;
    Ok(Hello {
        cluster: body.try_get_u64_le().map_err(end)?,
        node: body.try_get_u64_le().map_err(end)?,
        incarnation: body.try_get_u64_le().map_err(end)?,
        lane: {
            let tag = body.try_get_u8().map_err(end)?;
            Lane::from_tag(tag).ok_or_else(|| DecodeError::Unknown { what: "lane", tag: tag.into() })?
        },
        min_wire: body.try_get_u16_le().map_err(end)?,
        max_wire: body.try_get_u16_le().map_err(end)?,
        start_id: body.try_get_u64_le().unwrap_or(0),
        log_end: body.try_get_u64_le().unwrap_or(Hello::UNCHECKED),
    })
}

fn read_refusal(body: &[u8]) -> Result<Refusal, DecodeError> {
    let (tag, reason) = body.split_first().ok_or(DecodeError::Truncated)?;
    let reason = std::str::from_utf8(reason).map_err(|_| DecodeError::Text)?;
    Ok(Refusal { kind: RefusalKind::from_tag(*tag), reason: reason.to_owned() })
}

/// As much of the reason as may travel.
fn shortened(reason: &str) -> &str {
    let end = reason.floor_char_boundary(MAX_REASON_BYTES);
    reason.split_at(end).0
}

fn checksum_of(checked_header: [u8; CHECKED_HEADER_BYTES], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&checked_header), body)
}
