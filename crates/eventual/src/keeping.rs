//! What is durable, and what waits for it: records for the log, effects that rely on them, checkpoints.
//!
//! A replica is its log, read again in order. Where its engine is durable, it is what the engine comes back with, and the log
//! from there on: so the log can be purged up to where the engine is durable, and needs no checkpoint. What the log alone says
//! (the clock's bound, the fence, where the schedule stands) is appended again first.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::entry::Entry;
use crate::io::{Answer, Effect};
use crate::message::{Pair, Payload};
use crate::mirror::Swap;
use crate::options::{CHECKPOINT_PAUSE_MS, MAX_RECORD_BYTES, MAX_SWEPT};
use crate::record::Record;
use crate::replica::Replica;
use crate::store::{Place, ReplicaError};
use crate::version::{Hlc, InstanceId};

/// Where the replica's log stands.
///
/// *Invariants*: `durable <= last`; effects are held in the order of the positions that they wait for. A replica that is not
/// durable has no log: both are 0, and nothing waits.
#[derive(Debug, Default)]
pub(crate) struct Keeping {
    is_durable: bool,
    /// The last position that was handed to the log.
    last: u64,
    /// The last one that is durable.
    durable: u64,
    /// Pairs of the record that is being filled.
    open: Vec<Pair>,
    open_bytes: usize,
    /// While the log is read back: the copy whose parts are being read, and how many there were.
    swapping: (u64, Swap),
    /// Records of this poll.
    records: Vec<(u64, Bytes)>,
    /// Effects that wait for a position.
    held: VecDeque<(u64, Effect)>,
    /// Bounds of the clock on their way to the disk.
    bounds: VecDeque<(u64, Hlc)>,
    /// First own stamps of positions that are not durable.
    own: VecDeque<(u64, Hlc)>,
    /// Bytes of records since the last checkpoint or flush began.
    grown_bytes: u64,
    checkpoint: Option<Checkpoint>,
    flush: Flushing,
    /// The log is to be kept short without waiting for it to grow.
    is_forced: bool,
    /// The log has nothing any more up to here.
    purged: u64,
}

/// What is being done to have an engine that is durable make a part of the log needless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Flushing {
    /// Nothing.
    #[default]
    No,
    /// It was asked to make durable what it has.
    Asked,
    /// Up to this position it has. What the log says besides stands in it again, up to `end`: once that is durable, what is up to
    /// `upto` can go.
    Done { upto: u64, end: u64 },
}

/// A checkpoint under way: everything there is is written again, and what comes before its beginning is not needed any more.
#[derive(Debug)]
struct Checkpoint {
    /// The last position before it.
    after: u64,
    /// Where it stands; none: at its end, which is at that position.
    place: Result<Option<Place>, u64>,
}

impl Keeping {
    pub(crate) fn new(is_durable: bool) -> Self {
        Self { is_durable, ..Self::default() }
    }

    /// The position of the pair that is merged next.
    pub(crate) fn index_of_next(&self) -> u64 {
        if self.is_durable { self.last + 1 } else { 0 }
    }

    /// The position of all that was merged so far.
    pub(crate) fn index(&self) -> u64 {
        if self.open.is_empty() { self.last } else { self.last + 1 }
    }

    /// Asks for a flush, if the log has grown at all since the last one.
    pub(crate) fn shorten(&mut self) {
        self.is_forced = self.grown_bytes > 0;
    }

    /// Whether everything is durable.
    pub(crate) fn is_all_durable(&self) -> bool {
        self.index() <= self.durable
    }

    pub(crate) fn is_at(&self, index: u64) -> bool {
        index <= self.durable
    }

    /// A pair was merged.
    pub(crate) fn merged(&mut self, key: &Bytes, entry: &Entry) {
        if !self.is_durable {
            return;
        }
        self.open_bytes += key.len() + entry.body.size_bytes();
        self.open.push(Pair { key: key.clone(), entry: entry.clone() });
        if self.open_bytes >= MAX_RECORD_BYTES {
            self.close();
        }
    }

    /// An own write was merged, at the position of the next pair.
    pub(crate) fn wrote(&mut self, hlc: Hlc) {
        let index = self.index_of_next();
        if self.is_durable && self.own.back().is_none_or(|(last, _)| *last < index) {
            self.own.push_back((index, hlc));
        }
    }

    /// The stamp up to which all own writes are durable; none if all are.
    pub(crate) fn own_complete_to(&self) -> Option<Hlc> {
        self.own.front().map(|(_, first)| first.before())
    }

    /// A copy takes the place of what there is. Returns the position from which on it counts: all parts are written at once, one
    /// after the other, and a log that ends among them leaves what was there.
    pub(crate) fn swapped(&mut self, swap: &Swap, from: InstanceId, at: Hlc) -> u64 {
        if !self.is_durable {
            return 0;
        }
        Swap::into_records(swap, from, at).iter().for_each(|record| self.append(record));
        self.last
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.open_bytes = 0;
            let record = Record::Merged(std::mem::take(&mut self.open));
            self.append(&record);
        }
    }

    /// Keeps something beside the pairs.
    pub(crate) fn append(&mut self, record: &Record) {
        if !self.is_durable {
            return;
        }
        self.close();
        let bytes = record.to_bytes();
        self.last += 1;
        self.grown_bytes += bytes.len() as u64;
        self.records.push((self.last, bytes));
    }
}

impl Replica {
    /// Begins to read back a log that has nothing any more up to `purged`, and ends at `last`. Fails if the engine does not go
    /// with it.
    pub fn begin_replay(&mut self, purged: u64, last: u64) -> Result<(), ReplicaError> {
        let applied = self.store.came_back_at();
        if self.store.is_durable() && applied < purged {
            return Err(ReplicaError::Behind { applied, purged });
        }
        if applied > last {
            return Err(ReplicaError::Ahead { applied, last });
        }
        (self.keeping.purged, self.keeping.last, self.keeping.durable) = (purged, purged, purged);
        Ok(())
    }

    /// Takes in the next record of the log, before the first poll. What the engine came back with is not changed by records that
    /// it has.
    pub fn replay(&mut self, index: u64, record: Bytes) -> Result<(), ReplicaError> {
        self.keeping.grown_bytes += record.len() as u64;
        let record = Record::decode(record)?;
        let is_there = index <= self.store.came_back_at();
        let at = index.max(self.store.came_back_at());
        let (parts, begun) = std::mem::take(&mut self.keeping.swapping);
        match record {
            Record::Swapped { number, last, pairs, gone } => {
                // One that a crash cut off is not continued: the next one begins anew.
                let begun = if number == 0 { Swap::default() } else { begun };
                if number == parts || number == 0 {
                    self.replay_swap(number, last, begun.with(pairs, gone), (index, is_there));
                }
            }
            Record::Merged(pairs) => {
                for Pair { key, entry } in pairs {
                    let key = Self::key_of(&key);
                    self.clock.observe(entry.version.hlc);
                    if !is_there {
                        self.store.merge(&key, &entry, index);
                    }
                }
            }
            Record::Bound(bound) => self.clock.resume(bound),
            Record::Scheduled(done_ms) => self.scheduled.resume(done_ms),
            Record::Fence(fence) => {
                self.fence = self.fence.max(fence);
                while !self.store.drop_stable(self.fence, at, MAX_SWEPT) {}
            }
        }
        self.keeping.last = index;
        self.keeping.durable = index;
        self.store.commit(at)
    }

    fn replay_swap(&mut self, number: u64, last: Option<(InstanceId, Hlc)>, swap: Swap, (index, is_there): (u64, bool)) {
        let Some((from, at)) = last else {
            self.keeping.swapping = (number + 1, swap);
            return;
        };
        swap.pairs.iter().for_each(|pair| self.clock.observe(pair.entry.version.hlc));
        if !is_there {
            self.store.swap(&swap, index);
        }
        self.resume_mirror(from, at);
    }

    /// What all members' wall clocks have passed, as far as they told; nothing, as long as one of them told nothing.
    fn all_clocks_ms(&self) -> u64 {
        if self.peers.values().any(|peer| !peer.has_told_clock()) {
            return 0;
        }
        let offsets = self.peers.values().map(|peer| peer.clock_offset_ms(self.now));
        self.now.wall_ms.saturating_add_signed(offsets.min().unwrap_or(0).min(0))
    }

    pub(crate) fn on_durable(&mut self, index: u64) {
        let keeping = &mut self.keeping;
        keeping.durable = keeping.durable.max(index.min(keeping.last));
        let durable = keeping.durable;
        while let Some((_, bound)) = keeping.bounds.pop_front_if(|(at, _)| *at <= durable) {
            self.clock.on_bound_durable(bound);
        }
        self.note_own();
    }

    /// The engine has what it was given.
    pub(crate) fn on_applied(&mut self) {
        self.store.on_applied();
        self.note_own();
    }

    /// Own writes that are durable count as being here once readers see them; where the engine does not stall, that is before
    /// anything leaves.
    fn note_own(&mut self) {
        let durable = self.keeping.durable;
        let shown = if self.store.is_durable() { self.store.shown_to(durable) } else { durable };
        while self.keeping.own.pop_front_if(|(at, _)| *at <= shown).is_some() {}
    }

    /// What time and the watermark do: bounds of the clock, expired values, tombstones that everybody has, checkpoints.
    pub(crate) fn keep_clean(&mut self) -> Result<(), ReplicaError> {
        if let Some(bound) = self.clock.wanted_bound(self.now.wall_ms, self.is_writing()) {
            self.keeping.append(&Record::Bound(bound));
            self.keeping.bounds.push_back((self.keeping.last, bound));
        }
        self.store.expire(self.now.wall_ms, self.keeping.index(), MAX_SWEPT);
        self.store.release_expired(self.all_clocks_ms(), MAX_SWEPT);
        let stable = self.watermark.stable();
        if stable > self.fence && self.store.oldest_dead().is_some_and(|dead| dead <= stable) {
            self.fence = stable;
            self.keeping.append(&Record::Fence(stable));
        }
        self.store.drop_stable(self.fence, self.keeping.index(), MAX_SWEPT);
        if self.store.is_durable() {
            self.keep_flushed();
            return Ok(());
        }
        self.keep_checkpoint()
    }

    /// When there is more to do of that.
    pub(crate) fn cleaning_due_ms(&self) -> Option<u64> {
        let now = self.now;
        let at_ms = |wall_ms: u64| now.mono_ms.saturating_add(wall_ms.saturating_sub(now.wall_ms));
        let expiry = self.store.next_deadline_ms().map(at_ms);
        let behind_ms = now.wall_ms.saturating_sub(self.all_clocks_ms());
        let released = self.store.next_expired_ms().map(|deadline_ms| at_ms(deadline_ms.saturating_add(behind_ms)));
        let has_stable = self.store.oldest_dead().is_some_and(|dead| dead <= self.fence);
        let is_copying = self.keeping.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.place.is_ok());
        let scheduled = self.scheduled.next_ms().filter(|_| self.options.schedule.is_some() && self.is_up());
        let scheduled = scheduled.map(at_ms);
        let next_piece = is_copying.then_some(now.mono_ms + CHECKPOINT_PAUSE_MS);
        [expiry, released, scheduled, has_stable.then_some(now.mono_ms), next_piece].into_iter().flatten().min()
    }

    /// Has the engine flushed once the log has grown by as much as makes it worth it, and purges what the engine has then.
    fn keep_flushed(&mut self) {
        let keeping = &mut self.keeping;
        let is_due = keeping.grown_bytes >= self.options.checkpoint_bytes || keeping.is_forced;
        if keeping.flush == Flushing::No && is_due {
            keeping.flush = Flushing::Asked;
            keeping.grown_bytes = 0;
            keeping.is_forced = false;
            self.out.push(Effect::Flush);
        }
        if let Flushing::Done { upto, end } = keeping.flush
            && end <= keeping.durable
        {
            keeping.flush = Flushing::No;
            keeping.purged = upto;
            self.out.push(Effect::Purge { upto });
            self.counts.checkpoints += 1;
        }
    }

    /// The engine was flushed. If it had no room for that, or nothing new, more log has to do.
    pub(crate) fn on_flushed(&mut self, index: u64) {
        if self.keeping.flush != Flushing::Asked {
            return;
        }
        self.keeping.flush = Flushing::No;
        if index > self.keeping.purged {
            let grown_bytes = self.keeping.grown_bytes;
            self.append_marks();
            // What is said again is no reason for the next one.
            self.keeping.grown_bytes = grown_bytes;
            self.keeping.flush = Flushing::Done { upto: index, end: self.keeping.last };
        }
    }

    /// All that the log says and no pair does.
    fn append_marks(&mut self) {
        let keeping = &mut self.keeping;
        keeping.append(&Record::Bound(self.clock.noted()));
        keeping.bounds.push_back((keeping.last, self.clock.noted()));
        keeping.append(&Record::Fence(self.fence));
        self.scheduled.done_ms().into_iter().for_each(|done_ms| keeping.append(&Record::Scheduled(done_ms)));
    }

    /// Writes everything there is again, piece by piece, once the log has grown as much as there are data: then what comes before
    /// can go. What is merged meanwhile comes after, in the same log: read back in order, the greater version stays.
    fn keep_checkpoint(&mut self) -> Result<(), ReplicaError> {
        let keeping = &mut self.keeping;
        if !keeping.is_durable {
            return Ok(());
        }
        if keeping.checkpoint.is_none() && keeping.grown_bytes >= self.options.checkpoint_bytes.max(self.store.data_bytes()) {
            keeping.close();
            keeping.grown_bytes = 0;
            keeping.checkpoint = Some(Checkpoint { after: keeping.last, place: Ok(None) });
            self.append_marks();
        }
        let keeping = &mut self.keeping;
        let Some((after, place)) = keeping.checkpoint.as_ref().map(|checkpoint| (checkpoint.after, checkpoint.place.clone()))
        else {
            return Ok(());
        };
        match place {
            Ok(place) => {
                let max_bytes = MAX_RECORD_BYTES as u64;
                let next = self.store.end_of_piece(place.as_ref(), max_bytes, usize::MAX);
                let found = next.map(|next| self.store.piece((place.as_ref(), &next), max_bytes, None)).transpose()?;
                let (next, pairs) = found.map_or((None, Vec::new()), |(next, pairs)| (Some(next), pairs));
                keeping.close();
                let grown_bytes = keeping.grown_bytes;
                if !pairs.is_empty() {
                    keeping.append(&Record::Merged(pairs));
                }
                // What a checkpoint writes is no reason for the next one.
                keeping.grown_bytes = grown_bytes;
                let place = next.map(Some).ok_or(keeping.last);
                if let Some(checkpoint) = &mut keeping.checkpoint {
                    checkpoint.place = place;
                }
            }
            Err(end) if end <= keeping.durable => {
                self.out.push(Effect::Purge { upto: after });
                self.keeping.checkpoint = None;
                self.counts.checkpoints += 1;
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Hands out what this poll appends, and what may leave.
    pub(crate) fn finish(&mut self, effects: &mut Vec<Effect>) -> Result<(), ReplicaError> {
        self.keeping.close();
        let keeping = &mut self.keeping;
        effects.extend(keeping.records.drain(..).map(|(index, record)| Effect::Append { index, record }));
        if self.store.is_durable() {
            let batch = self.store.begin_commit(keeping.durable);
            effects.extend(batch.map(|batch| Effect::Apply { batch }));
        } else {
            self.store.commit(keeping.durable)?;
        }
        effects.extend(self.store.take_told().map(Effect::Changes));
        let last = keeping.last;
        keeping.held.extend(self.out.drain(..).map(|effect| {
            let waits_for = if relies_on_durability(&effect) { last } else { 0 };
            (waits_for, effect)
        }));
        // Who is told of something finds it here.
        let durable = self.store.shown_to(keeping.durable);
        if keeping.held.iter().all(|(index, _)| *index <= durable) {
            effects.extend(keeping.held.drain(..).map(|(_, effect)| effect));
        } else {
            let held = std::mem::take(&mut keeping.held);
            for (index, effect) in held {
                if index <= durable { effects.push(effect) } else { keeping.held.push_back((index, effect)) }
            }
        }
        Ok(())
    }
}

/// Whether an effect says that something is here, or lets somebody see it.
///
/// Own writes, too, leave only once they are durable. If a crash took one back that another member has already, this replica
/// would promise to have stamped higher, the watermark would pass the write, and the fences of all who lack it would keep it
/// out for ever.
fn relies_on_durability(effect: &Effect) -> bool {
    match effect {
        // That nothing was done relies on nothing.
        Effect::Reply { answer, .. } => !matches!(answer, Answer::Refused(_)),
        Effect::Joined | Effect::Drained => true,
        Effect::Send(message) => match message.payload {
            Payload::Ask { .. }
            | Payload::Want { .. }
            | Payload::VersionAsk { .. }
            | Payload::EntryAsk { .. }
            | Payload::Report { .. } => false,
            Payload::Push { .. }
            | Payload::PushAck { .. }
            | Payload::Tell { .. }
            | Payload::Give { .. }
            | Payload::Put { .. }
            | Payload::PutDone { .. }
            | Payload::Mirror { .. }
            | Payload::MirrorEnd { .. }
            | Payload::MirrorDone { .. }
            | Payload::VersionTell { .. }
            | Payload::EntryTell { .. }
            | Payload::Repair { .. } => true,
        },
        Effect::Append { .. }
        | Effect::Apply { .. }
        | Effect::Changes(_)
        | Effect::LookUp(_)
        | Effect::Flush
        | Effect::Purge { .. } => false,
    }
}
