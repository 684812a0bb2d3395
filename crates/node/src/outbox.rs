//! What replicas hand to their node and get from it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quorate_engine::{Engine, Place};
use quorate_keyspace::{Changes, Command, Outcome, RequestId, Revision, Write};
use quorate_log::{GroupId, Record};
use raft::eraftpb::Message;

use crate::jobs::Job;

/// What a replica wants done; gathered over all groups of one poll.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) messages: Vec<(GroupId, Message)>,
    pub(crate) records: Vec<(GroupId, Record)>,
    pub(crate) outcomes: Vec<Done>,
    pub(crate) changes: Vec<(GroupId, Revision, Vec<Changes>)>,
    pub(crate) ready_reads: Vec<u64>,
    /// Questions about leases that are confirmed.
    pub(crate) ready_questions: Vec<(GroupId, u64)>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) broken: Option<String>,
    /// Engines that serve no more, to be removed once the log says so.
    pub(crate) retired: Vec<(Place, Option<Arc<dyn Engine>>)>,
    /// Another engine serves now.
    pub(crate) has_switched: bool,
}

/// A command that was applied.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) group: GroupId,
    pub(crate) id: RequestId,
    pub(crate) outcome: Outcome,
    /// The node that forwarded it here, if this replica proposed it for another.
    pub(crate) asked_by: Option<u64>,
}

/// A command to be proposed.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) id: RequestId,
    /// The node that forwarded it; none if it is this node's own.
    pub(crate) asked_by: Option<u64>,
    pub(crate) command: Bytes,
}

impl Proposal {
    /// A command in the node's own name, which is not remembered: a second one does no harm.
    pub(crate) fn nameless(write: &Write) -> Self {
        let mut command = BytesMut::new();
        Command::encode_prefix(RequestId::default(), 0, &mut command);
        command.extend_from_slice(&write.to_bytes());
        Self { id: RequestId::default(), asked_by: None, command: command.freeze() }
    }
}
