//! Which requests were applied, so that none is applied twice (Raft thesis, section 6.3).
//!
//! A session belongs to an origin: one start of one node. Each command says below which sequence its origin waits for
//! nothing more; outcomes below that floor are dropped.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::{Command, Outcome, RequestId};
use quorate_engine::codec::{DecodeError, Reader, Writer};

/// Outcomes kept per origin. Beyond it the oldest is forgotten, and a retry of that request is answered
/// [`Outcome::Forgotten`]. Twice what one node lets wait at once, so that it takes a stuck request to get here.
const MAX_OUTCOMES_PER_ORIGIN: usize = 1 << 16;

/// Bytes of what transactions read that are kept per origin, to be forgotten in the same way: what an origin waits for at once
/// is bounded by the same.
const MAX_READ_BYTES_PER_ORIGIN: u64 = 16 << 20;

/// The same of all origins together: the state travels in one piece, which must not grow too large for it. Beyond it what the
/// origin silent for longest read is forgotten.
const MAX_READ_BYTES: u64 = 64 << 20;
const _: () = assert!(MAX_READ_BYTES > MAX_READ_BYTES_PER_ORIGIN, "what an origin reads itself it need not forget for this");

/// Origins kept. Beyond it the one silent for longest is dropped.
const MAX_ORIGINS: usize = 1 << 10;

/// An origin silent for this long is dropped. Ten times the longest time limit of a request: none is retried after that.
const IDLE_MS: u64 = 10 * 60 * 1000;

/// The sessions of a shard.
///
/// Invariants: every outcome's sequence is at or above its session's floor; `read_bytes` of a session are those of its outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    by_origin: BTreeMap<u64, Session>,
    next_sweep_ms: u64,
}

/// A request's outcome, as a session takes it in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) id: RequestId,
    pub(crate) floor: u64,
    pub(crate) outcome: Outcome,
    pub(crate) log_time_ms: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    floor: u64,
    last_used_ms: u64,
    outcomes: BTreeMap<u64, Outcome>,
    read_bytes: u64,
}

impl Sessions {
    /// The outcome of a request that was seen before.
    pub(crate) fn seen(&self, id: RequestId) -> Option<Outcome> {
        let session = self.by_origin.get(&id.origin)?;
        if id.sequence == 0 {
            return None;
        }
        if id.sequence < session.floor {
            return Some(Outcome::Forgotten);
        }
        session.outcomes.get(&id.sequence).cloned()
    }

    /// Keeps the outcome of a request that was just applied. Returns what it keeps.
    pub(crate) fn remember(&mut self, command: &Command, outcome: &Outcome, log_time_ms: u64) -> Option<Remembered> {
        if command.id.sequence == 0 {
            return None;
        }
        let remembered = Remembered { id: command.id, floor: command.floor, outcome: outcome.clone(), log_time_ms };
        self.keep(&remembered);
        Some(remembered)
    }

    /// Keeps what [`Sessions::remember`] returned, here or in the life before a restart.
    pub(crate) fn keep(&mut self, remembered: &Remembered) {
        let Remembered { id, floor, outcome, log_time_ms } = remembered;
        let session = self.by_origin.entry(id.origin).or_default();
        session.last_used_ms = *log_time_ms;
        session.raise_floor(*floor);
        session.read_bytes += outcome.read_bytes();
        session.outcomes.insert(id.sequence, outcome.clone());
        while session.is_over_a_limit()
            && let Some((&oldest, _)) = session.outcomes.first_key_value()
        {
            session.raise_floor(oldest + 1);
        }
        if self.by_origin.len() > MAX_ORIGINS {
            self.drop_most_idle();
        }
        if outcome.read_bytes() > 0 {
            self.bound_read_bytes();
        }
    }

    /// Drops the sessions that are idle at `log_time_ms`. Looks at them now and then only; returns whether it did.
    pub(crate) fn sweep(&mut self, log_time_ms: u64) -> bool {
        if log_time_ms < self.next_sweep_ms {
            return false;
        }
        self.by_origin.retain(|_, session| session.last_used_ms.saturating_add(IDLE_MS) > log_time_ms);
        self.next_sweep_ms = log_time_ms.saturating_add(IDLE_MS / 10);
        true
    }

    fn bound_read_bytes(&mut self) {
        while self.by_origin.values().map(|session| session.read_bytes).sum::<u64>() > MAX_READ_BYTES {
            let readers = self.by_origin.values_mut().filter(|session| session.read_bytes > 0);
            let Some(most_idle) = readers.min_by_key(|session| session.last_used_ms) else { return };
            let last = most_idle.outcomes.iter().rfind(|(_, outcome)| outcome.read_bytes() > 0).map(|(sequence, _)| *sequence);
            most_idle.raise_floor(last.map_or(0, |last| last + 1));
        }
    }

    fn drop_most_idle(&mut self) {
        let most_idle = self.by_origin.iter().min_by_key(|(_, session)| session.last_used_ms).map(|(origin, _)| *origin);
        if let Some(origin) = most_idle {
            self.by_origin.remove(&origin);
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_varint(self.next_sweep_ms);
        out.put_varint(self.by_origin.len() as u64);
        for (origin, session) in &self.by_origin {
            out.put_varint(*origin);
            out.put_varint(session.floor);
            out.put_varint(session.last_used_ms);
            out.put_varint(session.outcomes.len() as u64);
            for (sequence, outcome) in &session.outcomes {
                out.put_varint(*sequence);
                out.put_bytes_with_len(&outcome.to_bytes());
            }
        }
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let next_sweep_ms = reader.varint()?;
        let by_origin = reader.list(read_session)?.into_iter().collect();
        Ok(Self { by_origin, next_sweep_ms })
    }
}

impl Remembered {
    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_varint(self.id.origin);
        out.put_varint(self.id.sequence);
        out.put_varint(self.floor);
        out.put_varint(self.log_time_ms);
        out.put_bytes_with_len(&self.outcome.to_bytes());
    }

    pub(crate) fn read(reader: &mut Reader) -> Result<Self, DecodeError> {
        let id = RequestId { origin: reader.varint()?, sequence: reader.varint()? };
        let floor = reader.varint()?;
        let log_time_ms = reader.varint()?;
        Ok(Self { id, floor, outcome: Outcome::decode(reader.bytes()?)?, log_time_ms })
    }
}

impl Session {
    fn raise_floor(&mut self, floor: u64) {
        if floor > self.floor {
            self.floor = floor;
            let kept = self.outcomes.split_off(&floor);
            let dropped = std::mem::replace(&mut self.outcomes, kept);
            if self.read_bytes > 0 {
                self.read_bytes -= dropped.values().map(Outcome::read_bytes).sum::<u64>();
            }
        }
    }

    fn is_over_a_limit(&self) -> bool {
        self.outcomes.len() > MAX_OUTCOMES_PER_ORIGIN || self.read_bytes > MAX_READ_BYTES_PER_ORIGIN
    }
}

fn read_session(reader: &mut Reader) -> Result<(u64, Session), DecodeError> {
    let origin = reader.varint()?;
    let floor = reader.varint()?;
    let last_used_ms = reader.varint()?;
    let outcomes: BTreeMap<u64, Outcome> = reader.list(read_outcome)?.into_iter().collect();
    let read_bytes = outcomes.values().map(Outcome::read_bytes).sum();
    Ok((origin, Session { floor, last_used_ms, outcomes, read_bytes }))
}

fn read_outcome(reader: &mut Reader) -> Result<(u64, Outcome), DecodeError> {
    let sequence = reader.varint()?;
    let bytes: Bytes = reader.bytes()?;
    Ok((sequence, Outcome::decode(bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Detail, KeyMeta, OpResult, Pairs, Record, Revision, Write};

    fn command(sequence: u64, floor: u64) -> Command {
        Command { id: RequestId { origin: 7, sequence }, floor, write: Write::default() }
    }

    fn outcome(revision: u64) -> Outcome {
        Outcome::Applied { revision: Revision(revision), results: Vec::new() }
    }

    #[test]
    fn a_request_is_known_until_its_origin_no_longer_waits_for_it() {
        let mut sessions = Sessions::default();
        sessions.remember(&command(1, 1), &outcome(2), 0);
        sessions.remember(&command(2, 1), &outcome(3), 0);
        assert_eq!(sessions.seen(command(1, 1).id), Some(outcome(2)));
        sessions.remember(&command(3, 2), &outcome(4), 0);
        assert_eq!(sessions.seen(command(1, 1).id), Some(Outcome::Forgotten));
        assert_eq!(sessions.seen(command(2, 1).id), Some(outcome(3)));
        assert_eq!(sessions.seen(command(4, 1).id), None);
    }

    #[test]
    fn a_stuck_request_does_not_make_the_table_grow_without_bound() {
        let mut sessions = Sessions::default();
        for sequence in 2..(MAX_OUTCOMES_PER_ORIGIN as u64 + 10) {
            sessions.remember(&command(sequence, 1), &outcome(sequence), 0);
        }
        assert_eq!(sessions.by_origin[&7].outcomes.len(), MAX_OUTCOMES_PER_ORIGIN);
        assert_eq!(sessions.seen(command(2, 1).id), Some(Outcome::Forgotten));
    }

    fn read(bytes: usize) -> Outcome {
        let meta = KeyMeta { create_revision: Revision(2), mod_revision: Revision(2), version: 1 };
        let value = Bytes::from(vec![7; bytes]);
        let record = Record { meta, content_type: None, user_meta: Vec::new(), expires_at_ms: None, lease: None, value };
        let pairs = Pairs { items: vec![(Bytes::from_static(b"k"), record)], has_more: false };
        Outcome::Applied { revision: Revision(3), results: vec![OpResult::of(Detail::Read(pairs))] }
    }

    #[test]
    fn what_was_read_is_remembered_up_to_a_bound() {
        let read = read(3 << 20);
        let mut sessions = Sessions::default();
        for sequence in 1..=9 {
            sessions.remember(&command(sequence, 1), &read, 0);
        }
        sessions.remember(&command(10, 1), &outcome(4), 0);
        assert_eq!(sessions.seen(command(4, 1).id), Some(Outcome::Forgotten));
        assert_eq!(sessions.seen(command(5, 1).id), Some(read));
        assert_eq!(sessions.by_origin[&7].outcomes.len(), 6);
        sessions.remember(&command(11, 11), &outcome(5), 0);
        assert_eq!(sessions.by_origin[&7].read_bytes, 0);
    }

    #[test]
    fn what_silent_origins_read_is_forgotten_first() {
        let of = |origin, sequence| Command { id: RequestId { origin, sequence }, ..command(sequence, 1) };
        let mut sessions = Sessions::default();
        for origin in 1..=8 {
            sessions.remember(&of(origin, 1), &outcome(2), origin);
            sessions.remember(&of(origin, 2), &read(9 << 20), origin);
            sessions.remember(&of(origin, 3), &outcome(4), origin);
        }
        let seen = |origin, sequence| sessions.seen(of(origin, sequence).id);
        assert_eq!(
            [1, 2, 3].map(|sequence| seen(1, sequence)),
            [Some(Outcome::Forgotten), Some(Outcome::Forgotten), Some(outcome(4))]
        );
        assert_eq!([1, 2, 3].map(|sequence| seen(2, sequence)), [Some(outcome(2)), Some(read(9 << 20)), Some(outcome(4))]);
    }

    #[test]
    fn silent_origins_are_dropped() {
        let mut sessions = Sessions::default();
        sessions.remember(&command(1, 1), &outcome(2), 1000);
        sessions.sweep(1000 + IDLE_MS - 1);
        assert_eq!(sessions.by_origin.len(), 1);
        sessions.sweep(1000 + 2 * IDLE_MS);
        assert!(sessions.by_origin.is_empty());
    }

    #[test]
    fn the_encoded_form_round_trips() {
        let mut sessions = Sessions::default();
        sessions.remember(&command(1, 1), &outcome(2), 5);
        sessions.remember(&command(9, 1), &Outcome::Full { max_bytes: 3 }, 6);
        let mut out = BytesMut::new();
        sessions.encode(&mut out);
        assert_eq!(Sessions::read(&mut Reader::new(out.freeze())), Ok(sessions));
    }
}
