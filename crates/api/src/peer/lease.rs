//! What is asked of who leads a group about its leases: to keep them alive, or how long they live.

#![deny(clippy::indexing_slicing)]

use super::wire::{DecodeError, Reader, Sink};

pub(super) const MIN_LEASE_ASK_BYTES: usize = 5;
pub(super) const MIN_LEASE_ANSWER_BYTES: usize = 4;
const MIN_ID_BYTES: usize = 1;
const MIN_TIME_BYTES: usize = 2;

const ASK_KEEPS_ALIVE: u8 = 1;

const RESULT_TIMES: u8 = 0;
const RESULT_NOT_LEADER: u8 = 1;
const RESULT_OVERLOADED: u8 = 2;

/// A question about leases of a group that the receiver leads. Asked twice it is answered twice, and that does no harm.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseAsk {
    /// The group.
    pub group: u64,
    /// Who asks: one start of one node.
    pub origin: u64,
    /// Which question of it.
    pub number: u64,
    /// Whether the leases shall live on from now, for as long as they were granted for. Otherwise they are looked at.
    pub keeps_alive: bool,
    /// The leases.
    pub ids: Vec<u64>,
}

/// The answer to a [`LeaseAsk`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAnswer {
    /// The group.
    pub group: u64,
    /// As asked: an answer to an earlier start of the node is none to this one.
    pub origin: u64,
    /// As asked.
    pub number: u64,
    /// What there is to tell.
    pub result: LeaseResult,
}

/// What there is to tell of leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseResult {
    /// One per lease, in the order asked.
    Times(Vec<LeaseTime>),
    /// The receiver does not lead the group. The replica that may lead, or 0.
    NotLeader(u64),
    /// Too many questions wait there.
    Overloaded,
}

/// How long a lease lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseTime {
    /// After its grant, and after each time that it is kept alive, in milliseconds; 0: there is no such lease, or it ends now.
    pub ttl_ms: u64,
    /// From now on, in milliseconds.
    pub left_ms: u64,
}

pub(super) fn put_lease_ask(out: &mut impl Sink, ask: &LeaseAsk) {
    out.integer(ask.group);
    out.integer(ask.origin);
    out.integer(ask.number);
    out.byte(if ask.keeps_alive { ASK_KEEPS_ALIVE } else { 0 });
    out.count(ask.ids.len());
    for id in &ask.ids {
        out.integer(*id);
    }
}

pub(super) fn read_lease_ask(reader: &mut Reader) -> Result<LeaseAsk, DecodeError> {
    let (group, origin, number) = (reader.integer()?, reader.integer()?, reader.integer()?);
    let keeps_alive = match reader.byte()? {
        0 => false,
        ASK_KEEPS_ALIVE => true,
        flags => return Err(DecodeError::Unknown { what: "lease question flags", tag: flags.into() }),
    };
    Ok(LeaseAsk { group, origin, number, keeps_alive, ids: reader.list(MIN_ID_BYTES, Reader::integer)? })
}

pub(super) fn put_lease_answer(out: &mut impl Sink, answer: &LeaseAnswer) {
    out.integer(answer.group);
    out.integer(answer.origin);
    out.integer(answer.number);
    match &answer.result {
        LeaseResult::Times(times) => {
            out.byte(RESULT_TIMES);
            out.count(times.len());
            for time in times {
                out.integer(time.ttl_ms);
                out.integer(time.left_ms);
            }
        }
        LeaseResult::NotLeader(leader) => {
            out.byte(RESULT_NOT_LEADER);
            out.integer(*leader);
        }
        LeaseResult::Overloaded => out.byte(RESULT_OVERLOADED),
    }
}

pub(super) fn read_lease_answer(reader: &mut Reader) -> Result<LeaseAnswer, DecodeError> {
    let (group, origin, number) = (reader.integer()?, reader.integer()?, reader.integer()?);
    let result = match reader.byte()? {
        RESULT_TIMES => LeaseResult::Times(
            reader.list(MIN_TIME_BYTES, |reader| Ok(LeaseTime { ttl_ms: reader.integer()?, left_ms: reader.integer()? }))?,
        ),
        RESULT_NOT_LEADER => LeaseResult::NotLeader(reader.integer()?),
        RESULT_OVERLOADED => LeaseResult::Overloaded,
        tag => return Err(DecodeError::Unknown { what: "lease result", tag: tag.into() }),
    };
    Ok(LeaseAnswer { group, origin, number, result })
}
