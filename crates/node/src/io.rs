//! What goes into a node and what comes out: all it can ask of the world.

use std::sync::Arc;

use bytes::Bytes;
use quorate_api::peer::{Frame, Lane};
use quorate_keyspace::{Changes, LeaseId, Outcome, Revision};
use quorate_log::{GroupId, Record};

use crate::catalog::Catalog;
use crate::eventual::EventualAsk;
use crate::jobs::{Job, JobDone};
use crate::status::{Hosted, NodeStatus};

/// Time since an arbitrary point, in milliseconds; never goes back while the process lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(pub u64);

impl Monotonic {
    /// Milliseconds from `earlier` to this; 0 if it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// This, `ms` later.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A client asks for something.
    Request(Request),
    /// A peer said something.
    Frame(PeerFrame),
    /// What was sent to a peer on this lane may be lost.
    Unreachable {
        /// The peer.
        node: u64,
        /// The lane.
        lane: Lane,
    },
    /// Everything up to this ticket is durable. Tickets come back in order.
    LogDurable {
        /// As given in [`Effect::Persist`].
        ticket: u64,
    },
    /// A job has ended.
    JobDone(JobDone),
    /// Whether the log's disk has less room than its reserve.
    DiskFull(bool),
    /// A peer refused this node, because it was removed from the cluster.
    Removed,
    /// A peer refused this node, because its data is not what the node had: what the peer says.
    Outdated(String),
    /// The process shall end soon: hand over what is led, and go on serving. [`NodeStatus::is_drained`] says when that is done.
    ///
    /// [`NodeStatus::is_drained`]: crate::NodeStatus::is_drained
    Drain,
    /// The process shall end: hand over what is still led, and take no more requests.
    ShutDown,
}

/// A client's request.
#[derive(Debug)]
pub struct Request {
    /// Comes back with the answer; not 0.
    pub token: u64,
    /// The group that it is for.
    pub group: GroupId,
    /// When the client stops waiting.
    pub deadline: Monotonic,
    /// What it is.
    pub kind: RequestKind,
}

/// What a client asks for.
#[derive(Debug)]
pub enum RequestKind {
    /// An encoded [`quorate_keyspace::Write`].
    Write(Bytes),
    /// To be told when a read of this replica sees all that was acknowledged before the request.
    ReadIndex,
    /// Something of a replica that takes writes on its own.
    Eventual(EventualAsk),
    /// About leases: to keep them alive, or how long they live.
    Leases(LeaseQuestion),
    /// To hand leadership to this node, or to the voter that is furthest. Ends as soon as another leads.
    TransferLeader(Option<u64>),
}

/// A question about leases of a group, of which only the leader keeps the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseQuestion {
    /// Which; at most [`crate::MAX_ASKED_LEASES`].
    pub leases: Vec<LeaseId>,
    /// Whether each begins its time anew. Otherwise they are looked at.
    pub keeps_alive: bool,
}

/// How long a lease lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseTime {
    /// After its grant, and after each time that it is kept alive, in milliseconds.
    pub ttl_ms: u64,
    /// From now on, at least, in milliseconds.
    pub left_ms: u64,
}

/// A frame with where it came from.
#[derive(Debug)]
pub struct PeerFrame {
    /// The sending node.
    pub from: u64,
    /// Which start of it.
    pub incarnation: u64,
    /// Counts the connections that the shell accepted; frames of an earlier one than the lane's newest are dropped.
    pub connection: u64,
    /// The lane.
    pub lane: Lane,
    /// The frame.
    pub frame: Frame,
}

/// Something to be done, in order.
#[derive(Debug)]
pub enum Effect {
    /// Send a frame. If it cannot be queued: [`Input::Unreachable`].
    Send {
        /// The receiving node.
        to: u64,
        /// The lane.
        lane: Lane,
        /// The frame.
        frame: Frame,
    },
    /// Write to the log and sync, then [`Input::LogDurable`]. Later ones may be written together with this one, in order. A
    /// failure ends the process.
    Persist {
        /// Greater than all before.
        ticket: u64,
        /// What to write.
        records: Vec<(GroupId, Record)>,
    },
    /// Answer a request.
    Reply {
        /// The request's.
        token: u64,
        /// The answer.
        answer: Answer,
    },
    /// Run a job beside the loop, then [`Input::JobDone`]. Jobs of one group run in the order given.
    Job(Job),
    /// The members or the keyspaces changed.
    Catalog(Arc<Catalog>),
    /// The keyspaces that can be read here changed.
    Hosted(Arc<Hosted>),
    /// What was applied to a replica. Comes before answers that follow from it. A revision that is not among the changes and was
    /// not told before is in a snapshot that was loaded; one that was told before may come again.
    Changes {
        /// The group.
        group: GroupId,
        /// [`crate::HostedKeyspace::watch_epoch`]: whose revisions they are. Changes of another one are not of those that can be
        /// read here now.
        watch_epoch: Option<u64>,
        /// The revision at which the replica stands now.
        revision: Revision,
        /// What led there, by revision.
        changes: Vec<Changes>,
    },
    /// How the node is; after each tick.
    Status(Arc<NodeStatus>),
    /// End the process.
    Stop(StopReason),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write reached the state machine.
    Written(Outcome),
    /// The engine's view may be read now.
    ReadReady,
    /// A replica that takes writes on its own answers.
    Eventual(quorate_eventual::Answer),
    /// One per lease that was asked about, in the same order; none if there is no such lease, or if it ends now.
    Leases(Vec<Option<LeaseTime>>),
    /// Another node leads.
    Transferred,
    /// It failed.
    Failed(Failure),
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No leader took it in time: nothing was done.
    NoLeader,
    /// It was handed to a leader, and no answer came in time: it may have been done, or may still be.
    Unknown,
    /// Too much waits already: nothing was done.
    Overloaded,
    /// The disk is full: nothing was done.
    DiskFull,
    /// The store behind the leader's replica is too far behind: nothing was done.
    StoreBusy,
    /// There is no other voter that leadership could be handed to: nothing was done.
    NoSuccessor,
    /// The node goes down: nothing was done.
    ShuttingDown,
    /// This node has no replica of the group: nothing was done.
    NotHosted,
}

/// Why the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// It was asked to, and leads nothing any more (or could not hand over in time).
    ShutDown,
    /// The node is no longer a member of the cluster.
    Removed,
    /// The node's data is a copy, or older than what it had; what a peer said of it.
    Outdated(String),
    /// A replica cannot go on: its engine failed, or its log holds what this version does not know.
    Broken(String),
}
