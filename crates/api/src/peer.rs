//! What peers say to each other: handshake and frames, with their own codec.
//!
//! Peers' bytes never reach a general-purpose decoder: every length is checked against what is there before anything is
//! allocated. Frames: `peer/frame.rs`; what is in them: `peer/message.rs`; what comes before them: `peer/greeting.rs`.

mod eventual;
mod frame;
mod greeting;
mod lease;
mod message;
mod wire;

use bytes::Bytes;

pub use eventual::EventualMessage;
pub use frame::{EncodeError, FRAME_FORMAT_VERSION, FRAME_HEADER_BYTES, FrameDecoder, encode_frame, frame_bytes, pack_messages};
pub use greeting::{
    GREETING_FORMAT_VERSION, Greeting, MAX_GREETING_BYTES, Refusal, RefusalKind, decode_greeting, encode_greeting,
};
pub use lease::{LeaseAnswer, LeaseAsk, LeaseResult, LeaseTime};
pub use message::{decode_message, encode_message, message_bytes};
pub use wire::DecodeError;

/// The longest frame, header included: room for the longest entry, and what a receiver holds at most before it can check.
pub const MAX_FRAME_BYTES: usize = 24 << 20;

/// The most list items (messages, entries, requests, replicas) in a frame: bounds the memory that a frame full of tiny
/// items takes once decoded. A mebibyte of the smallest entries stays below it.
pub const MAX_FRAME_ITEMS: usize = 1 << 18;

/// The oldest wire version that this build understands.
pub const MIN_WIRE_VERSION: u16 = 1;

/// The newest: which frame kinds, and which formats of them, may travel.
pub const MAX_WIRE_VERSION: u16 = 2;

/// One of the connections of a node pair, in each direction. A big copy never delays a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Heartbeats, votes, read index.
    Control = 0,
    /// Appends and their answers.
    Append = 1,
    /// Forwarded requests and their answers.
    Request = 2,
    /// Snapshot data.
    Bulk = 3,
}

impl Lane {
    /// All lanes, in tag order.
    pub const ALL: [Self; 4] = [Self::Control, Self::Append, Self::Request, Self::Bulk];

    /// The lane with this tag on the wire.
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| *lane as u8 == tag)
    }

    /// Its name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Append => "append",
            Self::Request => "request",
            Self::Bulk => "bulk",
        }
    }
}

/// The first thing on a connection, both ways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster; a different one is refused by name.
    pub cluster: u64,
    /// Who speaks.
    pub node: u64,
    /// Which start of it.
    pub incarnation: u64,
    /// Drawn at that start, so that two processes that both take themselves for it are told apart; 0 where it is not said.
    pub start_id: u64,
    /// The last batch in its log when it started; [`Hello::UNCHECKED`] where it is not said.
    pub log_end: u64,
    /// Which lane.
    pub lane: Lane,
    /// The oldest wire version that it understands.
    pub min_wire: u16,
    /// The newest.
    pub max_wire: u16,
}

/// One message on a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Raft messages of any number of groups.
    Raft(Vec<RaftMessage>),
    /// Requests for groups that the receiver leads.
    Forward(Vec<Forward>),
    /// Their answers.
    ForwardReply(Vec<ForwardReply>),
    /// A piece of a snapshot, or the question where to go on.
    Snapshot(SnapshotPart),
    /// How far a snapshot arrived.
    SnapshotAck(SnapshotAck),
    /// A replica lost its engine and asks its leader for a snapshot.
    SnapshotAsk(SnapshotAsk),
    /// Heartbeats of groups that the sender leads.
    Beats(Vec<Beat>),
    /// Their answers.
    BeatAnswers(Vec<Beat>),
    /// Questions about leases of groups that the receiver leads.
    LeaseAsks(Vec<LeaseAsk>),
    /// Their answers.
    LeaseAnswers(Vec<LeaseAnswer>),
    /// Messages between replicas of eventual keyspaces.
    Eventual(Vec<EventualMessage>),
    /// The last batch in the sender's log that is durable. Of the transport itself; since wire version 2.
    LogEnd(u64),
}

impl Hello {
    /// In [`Hello::log_end`]: not said, as by wire version 1, and so not held against it.
    pub const UNCHECKED: u64 = u64::MAX;
}

impl Frame {
    /// The wire version that it came with: to peers that know older ones only it is not sent.
    pub fn since_wire(&self) -> u16 {
        match self {
            Self::LogEnd(_) => 2,
            _ => 1,
        }
    }
}

/// A Raft message, field by field as the thesis' and raft-rs' names have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftMessage {
    /// The group.
    pub group: u64,
    /// The kind, by raft-rs' persisted number.
    pub kind: u8,
    /// The receiving replica.
    pub to: u64,
    /// The sending replica.
    pub from: u64,
    /// The sender's term.
    pub term: u64,
    /// The term of the entry before `entries`.
    pub log_term: u64,
    /// The index of the entry before `entries`.
    pub index: u64,
    /// Entries to append.
    pub entries: Vec<RaftEntry>,
    /// The sender's commit index.
    pub commit: u64,
    /// The term of the commit index.
    pub commit_term: u64,
    /// The snapshot that goes with it; its data travels on the bulk lane.
    pub snapshot: Option<SnapshotMeta>,
    /// The index from which a snapshot is asked for.
    pub request_snapshot: u64,
    /// Whether the receiver said no.
    pub reject: bool,
    /// Where the receiver's log may agree.
    pub reject_hint: u64,
    /// Opaque bytes: read index contexts, transfer marks.
    pub context: Bytes,
    /// The sender's election priority.
    pub priority: i64,
}

/// An entry inside a Raft message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftEntry {
    /// The kind, by raft-rs' persisted number: 0 normal, 1 and 2 configuration change.
    pub kind: u8,
    /// Its term.
    pub term: u64,
    /// Its index.
    pub index: u64,
    /// The commands.
    pub data: Bytes,
    /// Our own encoding of a configuration change.
    pub context: Bytes,
}

/// Which state a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last applied index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Voters at that index.
    pub voters: Vec<u64>,
    /// Learners at that index.
    pub learners: Vec<u64>,
    /// Voters of the old half of a joint configuration.
    pub voters_outgoing: Vec<u64>,
    /// Voters of the old half that become learners.
    pub learners_next: Vec<u64>,
    /// Whether the joint configuration is left by itself.
    pub auto_leave: bool,
}

/// A write for a group that the receiver leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The group.
    pub group: u64,
    /// The request's origin: one start of one node.
    pub origin: u64,
    /// Its number there.
    pub sequence: u64,
    /// The command, encoded, with its request id.
    pub command: Bytes,
}

/// The answer to a [`Forward`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardReply {
    /// The group.
    pub group: u64,
    /// As asked: an answer to an earlier start of the node is none to this one.
    pub origin: u64,
    /// As asked.
    pub sequence: u64,
    /// What became of it.
    pub result: ForwardResult,
}

/// What became of a forwarded write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardResult {
    /// It was applied or refused by the state machine; the encoded outcome.
    Outcome(Bytes),
    /// The receiver does not lead the group: the write entered no log. The replica that may lead, or 0.
    NotLeader(u64),
    /// The receiver's queue is full: the write entered no log.
    Overloaded,
    /// The receiver's disk is full: the write entered no log.
    DiskFull,
    /// The store behind the receiver's replica is too far behind: the write entered no log. Only who knows such stores asks for
    /// a write to them.
    StoreBusy,
}

/// A piece of a snapshot file. `offset` 0 begins a transfer, and carries the Raft message to be stepped once all is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The group.
    pub group: u64,
    /// Which transfer of the sender; later ones are greater.
    pub transfer: u64,
    /// Where `data` goes in the file.
    pub offset: u64,
    /// The length of the whole file.
    pub total_bytes: u64,
    /// The bytes.
    pub data: Bytes,
    /// The `MsgSnapshot`; in the first part only.
    pub message: Option<Box<RaftMessage>>,
}

/// How far a snapshot has arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotAck {
    /// The group.
    pub group: u64,
    /// The transfer.
    pub transfer: u64,
    /// All bytes before this offset are staged; the sender goes on here.
    pub next_offset: u64,
    /// The transfer is refused, or the file did not pass its checks.
    pub failed: bool,
    /// The file is whole, verified and durable.
    pub done: bool,
}

/// A replica that lost its engine, and not its log, asks for a snapshot that its log goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotAsk {
    /// The group.
    pub group: u64,
    /// The replica that asks.
    pub replica: u64,
    /// The snapshot is at this index or a later one.
    pub min_index: u64,
}

/// A heartbeat of one group, or the answer to one, with nothing but what those must say: most groups of a node have no more to
/// say at most times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// The group.
    pub group: u64,
    /// The receiving replica.
    pub to: u64,
    /// The sending replica.
    pub from: u64,
    /// The sender's term.
    pub term: u64,
    /// How far the receiver may commit; in an answer, how far the sender has committed.
    pub commit: u64,
}

#[cfg(test)]
mod tests;
