//! What is going to happen, in order of time.

use std::collections::BTreeMap;

use quorate_log::GroupId;
use quorate_node::Answer;

use crate::faults::FaultStep;
use crate::host::{Boot, HostId};
use crate::time::SimTime;
use crate::transport::{ConnectionId, LinkId};

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    /// A process' loop runs.
    Wake(HostId, Boot),
    /// The log has written and synced.
    LogWritten(HostId, Boot),
    /// The first job of a group is done.
    JobEnded(HostId, Boot, GroupId),
    /// A process starts.
    Start(HostId),
    /// A link is dialled.
    Dial(LinkId),
    /// The dialled end answers.
    Dialled(LinkId),
    /// Nobody answered a dial.
    DialExpired(LinkId),
    /// The first frame of a connection arrives.
    Deliver(ConnectionId),
    /// A client, or the operator, is at its next step.
    ClientActs(usize),
    /// A request reaches a process.
    RequestArrives(HostId, u64),
    /// Who asked waits no longer.
    RequestExpires(u64),
    /// A read that was confirmed is made.
    ReadIsMade(HostId, Boot, u64),
    /// An answer reaches who asked.
    AnswerArrives(u64, Box<Answer>),
    /// A client with leases is at its next step.
    LeaserActs(usize),
    /// A client of an eventual keyspace is at its next step.
    WriterActs(usize),
    /// The operator looks at what there is to do.
    OperatorActs,
    /// The next fault begins.
    FaultBegins,
    /// A fault goes on, or ends.
    FaultContinues(FaultStep),
    /// The run looks at how far it is.
    Watch,
}

/// Events by time; those of one time in the order in which they were scheduled.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    events: BTreeMap<(SimTime, u64), Event>,
    next_sequence: u64,
}

impl Queue {
    pub(crate) fn schedule(&mut self, at: SimTime, event: Event) {
        self.events.insert((at, self.next_sequence), event);
        self.next_sequence += 1;
    }

    /// The next event.
    pub(crate) fn pop(&mut self) -> Option<(SimTime, Event)> {
        self.events.pop_first().map(|((at, _), event)| (at, event))
    }
}
