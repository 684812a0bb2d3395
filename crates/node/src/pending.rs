//! Writes that clients of this node wait for, wherever they are on their way.
//!
//! A write is handed to the leader, here or on another node, and handed over again when the leader changes or stays silent:
//! it carries its request id, so the state machine applies it once. What the client hears when time runs out depends on
//! whether the write may have entered a log.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_keyspace::{Command, RequestId};
use quorate_log::GroupId;

use crate::io::{Failure, Monotonic};
use crate::limits::MAX_FORWARDED_BYTES;

/// The writes that wait.
///
/// *Invariants*: sequences are given out once, in ascending order; `bytes` is the sum of the waiting commands' lengths,
/// `bytes_at` that of those at a node.
#[derive(Debug)]
pub(crate) struct Pending {
    origin: u64,
    next_sequence: u64,
    waiting: BTreeMap<u64, Waiting>,
    bytes: usize,
    /// Bytes of the commands that are at each node.
    bytes_at: BTreeMap<u64, usize>,
}

/// A write that waits.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) token: u64,
    pub(crate) group: GroupId,
    pub(crate) command: Bytes,
    pub(crate) deadline: Monotonic,
    pub(crate) place: Place,
    /// How many times it was handed to a leader.
    handed_over: u32,
    /// How many of those said that it entered no log.
    refused: u32,
}

/// Where a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// No leader has it.
    Nowhere,
    /// Proposed by the replica on this node.
    Here,
    /// Sent to a node.
    At { node: u64, since: Monotonic },
}

impl Pending {
    /// For one start of one node.
    pub(crate) fn new(node: u64, incarnation: u64) -> Self {
        assert!(node < 1 << 24 && incarnation < 1 << 40, "ids and incarnations are small counters");
        Self {
            origin: (node << 40) | incarnation,
            next_sequence: 1,
            waiting: BTreeMap::new(),
            bytes: 0,
            bytes_at: BTreeMap::new(),
        }
    }

    pub(crate) fn origin(&self) -> u64 {
        self.origin
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a write in and names it.
    pub(crate) fn add(&mut self, token: u64, group: GroupId, write: &Bytes, deadline: Monotonic) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let floor = self.waiting.first_key_value().map_or(sequence, |(oldest, _)| *oldest);
        let mut command = BytesMut::with_capacity(write.len() + 32);
        Command::encode_prefix(RequestId { origin: self.origin, sequence }, floor, &mut command);
        command.put_slice(write);
        self.bytes += command.len();
        let command = command.freeze();
        self.waiting
            .insert(sequence, Waiting { token, group, command, deadline, place: Place::Nowhere, handed_over: 0, refused: 0 });
        sequence
    }

    pub(crate) fn get(&self, sequence: u64) -> Option<&Waiting> {
        self.waiting.get(&sequence)
    }

    /// Notes that it is handed to a leader now.
    pub(crate) fn hand_over(&mut self, sequence: u64, place: Place) {
        if let Some(waiting) = self.waiting.get_mut(&sequence) {
            waiting.handed_over += 1;
        }
        self.move_to(sequence, place);
    }

    /// Notes that whoever had it said that it entered no log.
    pub(crate) fn on_refused(&mut self, sequence: u64) {
        if let Some(waiting) = self.waiting.get_mut(&sequence) {
            waiting.refused += 1;
        }
        self.move_to(sequence, Place::Nowhere);
    }

    /// Notes that whoever had it is lost, or leads no more: it may or may not have entered a log.
    pub(crate) fn on_lost(&mut self, sequence: u64) {
        self.move_to(sequence, Place::Nowhere);
    }

    /// Whether a command of this size may be sent to a node, given what is on its way there.
    pub(crate) fn has_room_at(&self, node: u64, command_bytes: usize) -> bool {
        let bytes_at = self.bytes_at.get(&node).copied().unwrap_or(0);
        bytes_at == 0 || bytes_at + command_bytes <= MAX_FORWARDED_BYTES
    }

    fn move_to(&mut self, sequence: u64, place: Place) {
        let Some(waiting) = self.waiting.get_mut(&sequence) else {
            return;
        };
        let command_bytes = waiting.command.len();
        if let Place::At { node, .. } = std::mem::replace(&mut waiting.place, place) {
            *self.bytes_at.entry(node).or_default() -= command_bytes;
        }
        if let Place::At { node, .. } = place {
            *self.bytes_at.entry(node).or_default() += command_bytes;
        }
    }

    /// Takes it out: it is answered.
    pub(crate) fn remove(&mut self, sequence: u64) -> Option<Waiting> {
        self.move_to(sequence, Place::Nowhere);
        let waiting = self.waiting.remove(&sequence)?;
        self.bytes -= waiting.command.len();
        Some(waiting)
    }

    /// Sequences of writes for a group that are where `is_lost` says they cannot stay.
    pub(crate) fn lost(&self, is_lost: impl Fn(&Waiting) -> bool) -> Vec<u64> {
        self.waiting.iter().filter(|(_, waiting)| is_lost(waiting)).map(|(sequence, _)| *sequence).collect()
    }

    /// Takes out the writes whose time is up, each with what its client must hear.
    pub(crate) fn take_expired(&mut self, now: Monotonic) -> Vec<(Waiting, Failure)> {
        let expired = self.lost(|waiting| waiting.deadline <= now);
        let taken = expired.into_iter().filter_map(|sequence| self.remove(sequence));
        taken
            .map(|waiting| {
                let failure = waiting.failure();
                (waiting, failure)
            })
            .collect()
    }
}

impl Waiting {
    /// Whether some leader took it and did not say that it entered no log.
    pub(crate) fn may_be_logged(&self) -> bool {
        self.handed_over > self.refused
    }

    /// What the client must hear if there is no answer.
    pub(crate) fn failure(&self) -> Failure {
        if self.may_be_logged() { Failure::Unknown } else { Failure::NoLeader }
    }
}

#[cfg(test)]
mod tests;
