//! Linearizable reads of one group: requests gather, one read-index round confirms all that wait.
//!
//! A round serves only reads that were queued before it began. Its context is (origin, counter), an origin being one start of
//! one node, so an answer from before a restart never matches. raft-rs drops rounds that it cannot serve without a word: one
//! that is not answered in time is asked for again, under the same context, so that an answer counts however late it comes.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Buf, BufMut, Bytes};

use crate::io::Monotonic;
use crate::limits::MAX_READ_ROUNDS;

/// Who waits for a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// The replica: when its first read is served, it has caught up with what was committed before.
    Itself,
    /// A client's request.
    Client(u64),
    /// A question about leases.
    Leases(u64),
}

/// A read that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub(crate) reader: Reader,
    pub(crate) deadline: Monotonic,
}

/// The reads of a group.
///
/// *Invariants*: rounds are in the order in which they began; a read is in one place only: waiting, in a round, or confirmed.
#[derive(Debug)]
pub(crate) struct Reads {
    origin: u64,
    next_counter: u64,
    waiting: Vec<Read>,
    rounds: VecDeque<Round>,
    /// Confirmed at an index that is not applied yet.
    confirmed: BTreeMap<u64, Vec<Read>>,
}

#[derive(Debug)]
struct Round {
    counter: u64,
    asked: Monotonic,
    reads: Vec<Read>,
}

impl Reads {
    pub(crate) fn new(origin: u64) -> Self {
        Self { origin, next_counter: 1, waiting: Vec::new(), rounds: VecDeque::new(), confirmed: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, read: Read) {
        self.waiting.push(read);
    }

    /// Whether any waits for a round.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes out all that wait, wherever they are.
    pub(crate) fn take_all(&mut self) -> Vec<Read> {
        let confirmed = std::mem::take(&mut self.confirmed).into_values().flatten();
        let waiting = std::mem::take(&mut self.waiting).into_iter();
        let in_rounds = self.rounds.drain(..).flat_map(|round| round.reads);
        waiting.chain(in_rounds).chain(confirmed).filter(|read| read.reader != Reader::Itself).collect()
    }

    /// Begins a round for all that wait, if there is a place; returns its context.
    pub(crate) fn begin_round(&mut self, now: Monotonic) -> Option<Bytes> {
        if self.waiting.is_empty() || self.rounds.len() >= MAX_READ_ROUNDS {
            return None;
        }
        let counter = self.next_counter;
        self.next_counter += 1;
        self.rounds.push_back(Round { counter, asked: now, reads: std::mem::take(&mut self.waiting) });
        Some(self.context(counter))
    }

    fn context(&self, counter: u64) -> Bytes {
        let mut context = Vec::with_capacity(16);
        context.put_u64_le(self.origin);
        context.put_u64_le(counter);
        context.into()
    }

    /// A round was confirmed at an index: it, and all that began before it, may be served once that is applied.
    pub(crate) fn confirm(&mut self, mut context: &[u8], index: u64) {
        if context.len() != 16 || context.get_u64_le() != self.origin {
            return;
        }
        let counter = context.get_u64_le();
        while self.rounds.front().is_some_and(|round| round.counter <= counter) {
            if let Some(round) = self.rounds.pop_front() {
                self.confirmed.entry(index).or_default().extend(round.reads);
            }
        }
    }

    /// Reads that may be served, now that everything up to `applied` is.
    pub(crate) fn take_ready(&mut self, applied: u64) -> impl Iterator<Item = Read> + use<> {
        let later = match self.confirmed.first_key_value() {
            Some((index, _)) if *index <= applied => self.confirmed.split_off(&(applied + 1)),
            _ => return None.into_iter().flatten(),
        };
        let ready: Vec<Read> = std::mem::replace(&mut self.confirmed, later).into_values().flatten().collect();
        Some(ready).into_iter().flatten()
    }

    /// What to ask for again if a round was not answered for `patience_ms`: the youngest, whose answer confirms the older too.
    pub(crate) fn overdue(&mut self, now: Monotonic, patience_ms: u64) -> Option<Bytes> {
        let oldest = self.rounds.front()?;
        if now.since(oldest.asked) < patience_ms {
            return None;
        }
        self.rounds.iter_mut().for_each(|round| round.asked = now);
        self.rounds.back().map(|round| self.context(round.counter))
    }

    /// Takes out the reads whose time is up.
    pub(crate) fn take_expired(&mut self, now: Monotonic) -> Vec<Read> {
        let mut expired = Vec::new();
        let places = self.rounds.iter_mut().map(|round| &mut round.reads).chain(self.confirmed.values_mut());
        for reads in places.chain([&mut self.waiting]) {
            expired.extend(reads.extract_if(.., |read| read.deadline <= now));
        }
        self.confirmed.retain(|_, reads| !reads.is_empty());
        self.rounds.retain(|round| !round.reads.is_empty());
        expired
    }

    pub(crate) fn len(&self) -> usize {
        let in_rounds: usize = self.rounds.iter().map(|round| round.reads.len()).sum();
        let confirmed: usize = self.confirmed.values().map(Vec::len).sum();
        self.waiting.len() + in_rounds + confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(token: u64) -> Read {
        Read { reader: Reader::Client(token), deadline: Monotonic(1000) }
    }

    fn tokens(reads: impl Iterator<Item = Read>) -> Vec<u64> {
        let token = |read: Read| match read.reader {
            Reader::Client(token) => token,
            reader => panic!("{reader:?}"),
        };
        reads.map(token).collect()
    }

    #[test]
    fn a_round_serves_only_reads_queued_before_it_began() {
        let mut reads = Reads::new(7);
        reads.add(read(1));
        let first = reads.begin_round(Monotonic(0)).unwrap();
        reads.add(read(2));
        reads.confirm(&first, 10);
        assert!(tokens(reads.take_ready(9)).is_empty());
        assert_eq!(tokens(reads.take_ready(10)), [1]);
        let second = reads.begin_round(Monotonic(0)).unwrap();
        reads.confirm(&second, 11);
        assert_eq!(tokens(reads.take_ready(20)), [2]);
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn an_answer_from_before_a_restart_never_matches() {
        let context = {
            let mut before = Reads::new(7);
            before.add(read(1));
            before.begin_round(Monotonic(0)).unwrap()
        };
        let mut after = Reads::new(8);
        after.add(read(2));
        after.begin_round(Monotonic(0)).unwrap();
        after.confirm(&context, 10);
        after.confirm(b"short", 10);
        assert!(tokens(after.take_ready(u64::MAX - 1)).is_empty());
    }

    #[test]
    fn a_round_that_is_not_answered_is_asked_for_again() {
        let mut reads = Reads::new(7);
        reads.add(read(1));
        reads.begin_round(Monotonic(0)).unwrap();
        reads.add(read(2));
        let second = reads.begin_round(Monotonic(100)).unwrap();
        assert_eq!(reads.overdue(Monotonic(299), 300), None);
        assert_eq!(reads.overdue(Monotonic(300), 300), Some(second.clone()), "the youngest speaks for all");
        assert_eq!(reads.overdue(Monotonic(599), 300), None);
        reads.confirm(&second, 12);
        assert_eq!(tokens(reads.take_ready(12)), [1, 2]);
        assert_eq!(reads.overdue(Monotonic(900), 300), None);
    }

    /// A leader so far away that each round is asked for again before its first answer is there.
    #[test]
    fn an_answer_counts_however_late_it_comes() {
        let mut reads = Reads::new(7);
        reads.add(read(1));
        let round = reads.begin_round(Monotonic(0)).unwrap();
        assert!(reads.overdue(Monotonic(300), 300).is_some());
        reads.confirm(&round, 10);
        assert_eq!(tokens(reads.take_ready(10)), [1]);
    }

    #[test]
    fn reads_expire_wherever_they_are() {
        let mut reads = Reads::new(7);
        reads.add(read(1));
        let first = reads.begin_round(Monotonic(0)).unwrap();
        reads.confirm(&first, 10);
        reads.add(read(2));
        reads.begin_round(Monotonic(0)).unwrap();
        reads.add(read(3));
        let mut expired = tokens(reads.take_expired(Monotonic(1000)).into_iter());
        expired.sort_unstable();
        assert_eq!(expired, [1, 2, 3]);
        assert_eq!(reads.len(), 0);
    }
}
