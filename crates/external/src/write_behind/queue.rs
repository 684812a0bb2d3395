//! Which keys the store outside does not have yet as the engine has them: in what order, and when again.
//!
//! No input, no output, no clock: the carrier asks what is next, and says what came of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::BehindStats;

use crate::{ErrorKind, Outcome, StoreError};

/// What a key takes in memory while it waits, about, besides its own bytes: so that the bound on bytes bounds keys, too.
pub(crate) const KEY_OVERHEAD_BYTES: u64 = 256;

/// After a failure of the store nothing is tried for this long, and twice as long after the next. After a failure of a key, that
/// key.
const FIRST_PAUSE_MS: u64 = 100;

/// Pauses are no longer.
const MAX_PAUSE_MS: u64 = 5_000;

/// When a key is tried again that the store refused; the next time after twice as long.
const FIRST_REFUSED_PAUSE_MS: u64 = 1_000;

/// Pauses of a key that fails alone, or is refused, are no longer.
const MAX_PARKED_PAUSE_MS: u64 = 60_000;

/// When so many keys that had not failed before fail with nothing taken in between, and nothing just now, it is the store that
/// does.
const MAX_STRIKES: u32 = 3;

/// What was taken no longer ago than this was taken just now.
const JUST_NOW_MS: u64 = 1_000;

/// A key that fails so often in a row, while the store takes others, fails alone.
const FAILURES_ALONE: u32 = 3;

/// So many parked keys do not count towards the bound on bytes. Beyond it something is wrong with all of them, and more are to
/// be held up.
const MAX_UNCOUNTED_PARKED: u64 = 10_000;

/// The keys that wait.
///
/// What fails is the store, or a key: one that the store does not allow, say. So a key that fails is put off by itself, and
/// others go on, until several in a row fail or nobody answers at all. Then one is tried at a time, after pauses, from all ends
/// of the queue: that which the store takes may stand behind many that it does not.
///
/// *Invariants*: every key in here has its row in the engine. Of one key at most one attempt is under way. A key that was noted
/// while it was under way stays here.
#[derive(Debug)]
pub(crate) struct Queue {
    keys: HashMap<Bytes, Waiting>,
    /// Keys that no attempt is under way for, by when they may be tried, and in turn.
    turns: BTreeMap<Turn, Bytes>,
    /// All keys, by the first note of them that is not settled.
    ages: BTreeSet<(u64, Bytes)>,
    bytes: u64,
    bounds: Bounds,
    /// Greatest number of a note, and of a turn.
    noted: u64,
    turn: u64,
    /// More keys have rows than are in here: the first note among them, and since when, if that is known.
    spilled_from: Option<u64>,
    spilled_since_ms: Option<u64>,
    /// Of the bytes, those of keys that were read from their rows.
    row_bytes: u64,
    /// Where the reading of rows goes on, and whether more were spilled since it began.
    read_until: Option<Bytes>,
    is_spilled_again: bool,
    under_way: usize,
    /// Of them, those of keys that had failed.
    retries_under_way: usize,
    /// Counts attempts that were begun.
    picks: u64,
    /// The store is one that can be written to, as far as is known.
    is_ready: bool,
    /// Until then one may come about of any key: of content that is not there any more.
    unsure_until_ms: u64,
    /// Keys that failed for the first time since the store took the last one.
    strikes: u32,
    taken_at_ms: Option<u64>,
    /// Failures of the store since then. None: it takes what it is given, as far as is known.
    failures: u32,
    /// When the last of them was noted: others that had begun before say nothing new.
    failed_at_ms: u64,
    paused_until_ms: u64,
    written: u64,
    coalesced: u64,
    failed: u64,
    parked: u64,
    store_error: Option<Arc<str>>,
    /// The last one of a key that is, or was, parked.
    key_error: Option<Arc<str>>,
}

/// What a queue is bounded by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// So many bytes are kept at most.
    pub(crate) max_bytes: u64,
    /// A write of unknown outcome may come about for this long.
    pub(crate) late_ms: u64,
    /// So many of the attempts at once may be of keys that failed before: each may take as long as a call can.
    pub(crate) max_retries: usize,
}

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    /// The key failed when it was last tried.
    is_retry: bool,
    at_ms: u64,
    number: u64,
}

/// What a failure of a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The store does not take this value, or this key.
    Refused,
    /// It takes others.
    Alone,
    /// It may be the key, or the store.
    Doubtful,
}

#[derive(Debug)]
struct Waiting {
    /// The first note that is not settled, and the last.
    first: u64,
    last: u64,
    since_ms: u64,
    bytes: u64,
    /// What of [`Queue::bytes`] is its: all, or nothing.
    counted_bytes: u64,
    /// What of [`Queue::row_bytes`] is its.
    row_bytes: u64,
    /// None while an attempt is under way.
    turn: Option<Turn>,
    /// Why it failed when it was last tried, if it did.
    verdict: Option<Verdict>,
    /// Whether it is counted among those that wait for a change of theirs, or of the store's mind.
    is_parked: bool,
    /// So often in a row.
    failures: u32,
    /// [`Queue::written`] when it failed for the first time in this row.
    written_then: u64,
    /// Until then an attempt may still come about, and undo a later one: so the key is written once more afterwards.
    unsure_until_ms: u64,
}

/// A key to be written to the store as the engine has it now, or removed from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) key: Bytes,
    /// Bytes of key and value, and [`KEY_OVERHEAD_BYTES`].
    pub(crate) bytes: u64,
    /// All notes up to this one are settled by it.
    upto: u64,
    begun_ms: u64,
    is_retry: bool,
}

/// Rows that are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Those after this key; all if there is none.
    pub(crate) after: Option<Bytes>,
}

impl Queue {
    /// A queue. Rows that are there already are to be read.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            keys: HashMap::new(),
            turns: BTreeMap::new(),
            ages: BTreeSet::new(),
            bytes: 0,
            bounds,
            noted: 1,
            turn: 0,
            spilled_from: Some(1),
            spilled_since_ms: None,
            row_bytes: 0,
            read_until: None,
            is_spilled_again: false,
            under_way: 0,
            retries_under_way: 0,
            picks: 0,
            is_ready: true,
            unsure_until_ms: 0,
            strikes: 0,
            taken_at_ms: None,
            failures: 0,
            failed_at_ms: 0,
            paused_until_ms: 0,
            written: 0,
            coalesced: 0,
            failed: 0,
            parked: 0,
            store_error: None,
            key_error: None,
        }
    }

    /// From now on the store is another, or asked in another way: what failed may not fail any more.
    pub(crate) fn bound(&mut self, bounds: Bounds, now_ms: u64) {
        self.bounds = bounds;
        (self.strikes, self.failures, self.paused_until_ms) = (0, 0, 0);
        let retries: Vec<Bytes> = self.turns.iter().filter(|(turn, _)| turn.is_retry).map(|(_, key)| key.clone()).collect();
        retries.iter().for_each(|key| self.put_off(key, now_ms));
    }

    /// Whether the engine has to be given a row for a key that changes.
    pub(crate) fn needs_row(&self, key: &Bytes) -> bool {
        !self.keys.contains_key(key)
    }

    /// A key has changed in the engine, and has its row there. One that is new where all room is taken is left to its row.
    pub(crate) fn note(&mut self, key: &Bytes, value_bytes: u64, now_ms: u64) {
        self.noted += 1;
        let bytes = KEY_OVERHEAD_BYTES + key.len() as u64 + value_bytes;
        if let Some(waiting) = self.keys.get_mut(key) {
            (waiting.bytes, waiting.last) = (bytes, self.noted);
            self.coalesced += u64::from(waiting.turn.is_some());
            if waiting.verdict == Some(Verdict::Refused) {
                // It may be one that the store takes now.
                waiting.verdict = None;
                self.unpark(key);
            }
            self.count(key);
            let waits = |waiting: &Waiting| waiting.verdict.is_none() && waiting.turn.is_some_and(|turn| turn.at_ms > now_ms);
            if self.keys.get(key).is_some_and(waits) {
                self.put_off(key, now_ms);
            }
        } else if self.bytes >= self.bounds.max_bytes {
            self.spilled_from.get_or_insert(self.noted);
            self.spilled_since_ms.get_or_insert(now_ms);
            self.is_spilled_again = true;
        } else {
            self.insert(key, bytes, self.noted, now_ms);
        }
    }

    fn insert(&mut self, key: &Bytes, bytes: u64, first: u64, now_ms: u64) {
        self.hold(key, bytes, first, now_ms);
        self.put_off(key, now_ms);
    }

    /// Keeps a key as one that an attempt is under way for.
    fn hold(&mut self, key: &Bytes, bytes: u64, first: u64, now_ms: u64) {
        let waiting = Waiting {
            first,
            last: self.noted,
            since_ms: now_ms,
            bytes,
            counted_bytes: 0,
            row_bytes: 0,
            turn: None,
            verdict: None,
            is_parked: false,
            failures: 0,
            written_then: 0,
            unsure_until_ms: 0,
        };
        self.ages.insert((first, key.clone()));
        self.keys.insert(key.clone(), waiting);
        self.count(key);
    }

    /// Has a key's bytes counted as they are now, unless it is parked.
    fn count(&mut self, key: &Bytes) {
        let Some(waiting) = self.keys.get_mut(key).filter(|waiting| !waiting.is_parked || waiting.counted_bytes > 0) else {
            return;
        };
        self.bytes = self.bytes - waiting.counted_bytes + waiting.bytes;
        waiting.counted_bytes = waiting.bytes;
    }

    /// The store will not get this key for a while, and nobody is to wait for that.
    fn park(&mut self, key: &Bytes) {
        let Some(waiting) = self.keys.get_mut(key).filter(|waiting| !waiting.is_parked) else { return };
        waiting.is_parked = true;
        if self.parked < MAX_UNCOUNTED_PARKED {
            self.bytes -= std::mem::take(&mut waiting.counted_bytes);
            self.row_bytes -= std::mem::take(&mut waiting.row_bytes);
        }
        self.parked += 1;
    }

    /// It may.
    fn unpark(&mut self, key: &Bytes) {
        let Some(waiting) = self.keys.get_mut(key).filter(|waiting| waiting.is_parked) else { return };
        waiting.is_parked = false;
        self.parked -= 1;
        self.count(key);
    }

    /// Gives a key that no attempt is under way for its turn, at this time or later.
    fn put_off(&mut self, key: &Bytes, until_ms: u64) {
        let Some(waiting) = self.keys.get_mut(key) else { return };
        self.turn += 1;
        let turn = Turn { is_retry: waiting.verdict.is_some(), at_ms: until_ms, number: self.turn };
        if let Some(old) = waiting.turn.replace(turn) {
            self.turns.remove(&old);
        }
        self.turns.insert(turn, key.clone());
    }

    /// Whether the store is open, and the one that it should be.
    pub(crate) fn set_ready(&mut self, is_ready: bool) {
        self.is_ready = is_ready;
    }

    /// The same.
    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// The next key to be tried, if there is one now. While the store fails, one at a time.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<Work> {
        if !self.is_ready || now_ms < self.paused_until_ms || (self.failures > 0 && self.under_way > 0) {
            return None;
        }
        let turn = self.choose(now_ms)?;
        let key = self.turns.remove(&turn)?;
        let waiting = self.keys.get_mut(&key)?;
        waiting.turn = None;
        self.picks += 1;
        self.under_way += 1;
        self.retries_under_way += usize::from(turn.is_retry);
        Some(Work { bytes: waiting.bytes, upto: waiting.last, begun_ms: now_ms, is_retry: turn.is_retry, key })
    }

    /// Whose turn it is. Keys that failed and keys that did not hold up each other neither way.
    fn choose(&self, now_ms: u64) -> Option<Turn> {
        let due = |is_retry| {
            let of = |at_ms, number| Turn { is_retry, at_ms, number };
            self.turns.range(of(0, 0)..=of(now_ms, u64::MAX)).map(|(turn, _)| *turn)
        };
        let has_room = self.retries_under_way < self.bounds.max_retries;
        let retry = || due(true).next().filter(|_| has_room);
        match self.picks % 3 {
            0 if self.failures > 0 => due(false).next_back().or_else(retry),
            2 => retry().or_else(|| due(false).next()),
            _ => due(false).next().or_else(retry),
        }
    }

    /// When there may be a key to be tried, if nothing else happens before.
    pub(crate) fn next_at_ms(&self) -> Option<u64> {
        if !self.is_ready || (self.failures > 0 && self.under_way > 0) {
            return None;
        }
        let first = |is_retry| {
            let of = |at_ms, number| Turn { is_retry, at_ms, number };
            self.turns.range(of(0, 0)..=of(u64::MAX, u64::MAX)).next().map(|(turn, _)| turn.at_ms)
        };
        let retry = first(true).filter(|_| self.retries_under_way < self.bounds.max_retries);
        Some(first(false).into_iter().chain(retry).min()?.max(self.paused_until_ms))
    }

    /// What came of an attempt. Whether the store has now what the engine has: then the key is not here any more, and its row is
    /// to go.
    pub(crate) fn done(&mut self, work: &Work, result: &Result<(), StoreError>, now_ms: u64) -> bool {
        self.under_way -= 1;
        self.retries_under_way -= usize::from(work.is_retry);
        let until_ms = match result {
            Ok(()) => {
                (self.strikes, self.failures, self.store_error) = (0, 0, None);
                self.taken_at_ms = Some(now_ms);
                self.written += 1;
                match self.take(work, now_ms) {
                    Some(until_ms) => until_ms,
                    None => return true,
                }
            }
            Err(error) => self.note_failure(work, error, now_ms),
        };
        self.put_off(&work.key, until_ms);
        false
    }

    /// The store has a key as it was when the attempt began. When it is to be written again; none if it need not be, and is not
    /// here any more.
    fn take(&mut self, work: &Work, now_ms: u64) -> Option<u64> {
        self.unpark(&work.key);
        let waiting = self.keys.get_mut(&work.key)?;
        (waiting.verdict, waiting.failures) = (None, 0);
        let unsure_until_ms = waiting.unsure_until_ms.max(self.unsure_until_ms);
        if waiting.last != work.upto {
            self.ages.remove(&(waiting.first, work.key.clone()));
            (waiting.first, waiting.since_ms) = (work.upto + 1, now_ms);
            self.ages.insert((waiting.first, work.key.clone()));
            return Some(now_ms);
        }
        if unsure_until_ms > work.begun_ms {
            return Some(unsure_until_ms);
        }
        self.bytes -= waiting.counted_bytes;
        self.row_bytes -= waiting.row_bytes;
        self.ages.remove(&(waiting.first, work.key.clone()));
        self.keys.remove(&work.key);
        None
    }

    /// When the key is to be tried again.
    fn note_failure(&mut self, work: &Work, error: &StoreError, now_ms: u64) -> u64 {
        self.failed += 1;
        let Some(waiting) = self.keys.get_mut(&work.key) else { return now_ms };
        if error.outcome == Outcome::Unknown {
            waiting.unsure_until_ms = now_ms + self.bounds.late_ms;
        }
        if is_refusal(error.kind) && waiting.last != work.upto {
            // What was noted since may be taken.
            return now_ms;
        }
        let is_first = waiting.failures == 0;
        if is_first {
            waiting.written_then = self.written;
        }
        let verdict = match waiting.failures + 1 {
            _ if is_refusal(error.kind) => Verdict::Refused,
            FAILURES_ALONE.. if self.written > waiting.written_then => Verdict::Alone,
            _ => Verdict::Doubtful,
        };
        waiting.verdict = Some(verdict);
        let (first_ms, max_ms) = match verdict {
            Verdict::Refused => (FIRST_REFUSED_PAUSE_MS, MAX_PARKED_PAUSE_MS),
            Verdict::Alone => (FIRST_PAUSE_MS, MAX_PARKED_PAUSE_MS),
            Verdict::Doubtful => (FIRST_PAUSE_MS, MAX_PAUSE_MS),
        };
        let pause_ms = (first_ms << waiting.failures.min(10)).min(max_ms);
        waiting.failures = waiting.failures.saturating_add(1);
        if verdict == Verdict::Doubtful {
            self.doubt(work, error, is_first, now_ms);
        } else {
            self.key_error = Some(format!("key {:?}: {error}", String::from_utf8_lossy(&work.key)).into());
            self.park(&work.key);
        }
        now_ms + pause_ms
    }

    /// A failure that may be the store's.
    fn doubt(&mut self, work: &Work, error: &StoreError, is_first: bool, now_ms: u64) {
        self.store_error = Some(error.to_string().into());
        if self.failures > 0 && work.begun_ms <= self.failed_at_ms {
            return;
        }
        self.strikes += u32::from(is_first);
        let is_idle = self.taken_at_ms.is_none_or(|taken_at_ms| now_ms >= taken_at_ms + JUST_NOW_MS);
        if self.failures > 0 || (self.strikes >= MAX_STRIKES && is_idle) || error.kind == ErrorKind::Unreachable {
            self.pause(now_ms);
        }
    }

    /// The store does not do what it is asked for, whatever that is: it is left alone for a while.
    pub(crate) fn fail(&mut self, error: &StoreError, now_ms: u64) {
        self.failed += 1;
        self.store_error = Some(error.to_string().into());
        self.pause(now_ms);
    }

    fn pause(&mut self, now_ms: u64) {
        let pause_ms = (FIRST_PAUSE_MS << self.failures.min(10)).min(MAX_PAUSE_MS);
        self.failures = self.failures.saturating_add(1);
        (self.failed_at_ms, self.paused_until_ms) = (now_ms, now_ms + pause_ms);
    }

    /// The rows that are to be read, if there are more than keys in here, and room for them.
    pub(crate) fn wants_rows(&mut self, now_ms: u64) -> Option<Wanted> {
        if self.spilled_from.is_none() || !(self.has_room_for_rows() || self.make_room(now_ms)) {
            return None;
        }
        if self.read_until.is_none() {
            self.is_spilled_again = false;
        }
        Some(Wanted { after: self.read_until.clone() })
    }

    /// Keys that wait in their rows have a share of the room, however much is written meanwhile.
    fn has_room_for_rows(&self) -> bool {
        self.bytes <= self.bounds.max_bytes / 2 || self.row_bytes < self.bounds.max_bytes / 8
    }

    /// Leaves keys to their rows that were read from there and failed, if there are no others in here: what the store takes may
    /// be in the rows behind them.
    fn make_room(&mut self, now_ms: u64) -> bool {
        let has_fresh = self.turns.first_key_value().is_some_and(|(turn, _)| !turn.is_retry);
        if has_fresh || self.under_way > self.retries_under_way {
            return false;
        }
        let due = self.turns.iter().take_while(|(turn, _)| turn.at_ms <= now_ms);
        let is_of_row =
            |key: &Bytes| self.keys.get(key).is_some_and(|waiting| waiting.row_bytes > 0 && waiting.unsure_until_ms <= now_ms);
        let Some((turn, key)) = due.filter(|(_, key)| is_of_row(key)).map(|(turn, key)| (*turn, key.clone())).next() else {
            return false;
        };
        self.unpark(&key);
        let Some(waiting) = self.keys.remove(&key) else { return false };
        self.turns.remove(&turn);
        self.bytes -= waiting.counted_bytes;
        self.row_bytes -= waiting.row_bytes;
        self.spilled_from = self.spilled_from.map(|from| from.min(waiting.first));
        self.spilled_since_ms = Some(self.spilled_since_ms.map_or(waiting.since_ms, |since_ms| since_ms.min(waiting.since_ms)));
        self.ages.remove(&(waiting.first, key));
        self.is_spilled_again = true;
        self.has_room_for_rows()
    }

    /// A row was read: its key waits. False if there is no more room, and it was not taken in.
    pub(crate) fn take_row(&mut self, key: Bytes, value_bytes: u64, now_ms: u64) -> bool {
        if self.bytes >= self.bounds.max_bytes && self.row_bytes >= self.bounds.max_bytes / 8 {
            return false;
        }
        if self.needs_row(&key) {
            let bytes = KEY_OVERHEAD_BYTES + key.len() as u64 + value_bytes;
            self.insert(&key, bytes, self.spilled_from.unwrap_or(self.noted), now_ms);
            self.row_bytes += bytes;
            self.keys.get_mut(&key).into_iter().for_each(|waiting| waiting.row_bytes = bytes);
        }
        self.read_until = Some(key);
        true
    }

    /// There was no row after those that were taken in.
    pub(crate) fn end_rows(&mut self) {
        self.read_until = None;
        if !self.is_spilled_again {
            (self.spilled_from, self.spilled_since_ms) = (None, None);
        }
    }

    /// The engine has other content now, with rows for all that may differ from what the store has.
    pub(crate) fn begin_anew(&mut self, now_ms: u64) {
        self.noted += 1;
        self.turns.clear();
        let unsure = self.keys.values().map(|waiting| waiting.unsure_until_ms).max();
        self.unsure_until_ms = self.unsure_until_ms.max(unsure.unwrap_or(0));
        let under_way: Vec<(Bytes, u64)> =
            self.keys.drain().filter(|(_, it)| it.turn.is_none()).map(|(k, it)| (k, it.bytes)).collect();
        self.ages.clear();
        (self.bytes, self.row_bytes, self.parked) = (0, 0, 0);
        for (key, bytes) in under_way {
            // Its attempt is of the old content, and counts for nothing.
            self.hold(&key, bytes, self.noted, now_ms);
        }
        (self.spilled_from, self.spilled_since_ms) = (Some(self.noted), Some(now_ms));
        (self.read_until, self.is_spilled_again) = (None, true);
    }

    /// How it stands.
    pub(crate) fn stats(&self, now_ms: u64) -> BehindStats {
        let since_ms = self.ages.first().and_then(|(_, key)| self.keys.get(key)).map(|waiting| waiting.since_ms);
        let first_open = [self.ages.first().map(|(first, _)| *first), self.spilled_from].into_iter().flatten().min();
        BehindStats {
            waiting_keys: self.keys.len() as u64,
            waiting_bytes: self.bytes,
            max_waiting_bytes: self.bounds.max_bytes,
            is_spilled: self.spilled_from.is_some(),
            oldest_ms: now_ms.saturating_sub(since_ms.into_iter().chain(self.spilled_since_ms).min().unwrap_or(now_ms)),
            noted: self.noted,
            settled: first_open.map_or(self.noted, |first| first - 1),
            written: self.written,
            coalesced: self.coalesced,
            failed: self.failed,
            refused_keys: self.parked,
            last_error: self.store_error.as_ref().or_else(|| self.key_error.as_ref().filter(|_| self.parked > 0)).cloned(),
        }
    }
}

/// Whether it is the key or the value that the store does not take: others may fare better.
fn is_refusal(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::TooLarge | ErrorKind::BadKey | ErrorKind::BadData | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests;
