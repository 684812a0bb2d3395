//! Cleaning: what still holds in the oldest segment is written again at the tail, a bounded part of it with each batch, until
//! the segment can be used again.
//!
//! So a cold group, whose few entries are never purged, cannot keep everything behind them on disk. Moved records stand at the
//! front of the batch that carries them: they say what held before it.

use bytes::Bytes;

use crate::batch::{BatchBuffer, ENTRY_HEADER_BYTES, HARD_STATE_BYTES, POSITION_BYTES, RECORD_HEADER_BYTES, RUN_HEADER_BYTES};
use crate::disk::DiskFile;
use crate::error::LogError;
use crate::index::{Group, Index};
use crate::reader::Wanted;
use crate::segment::{IndexRange, Ordinal, Segments};
use crate::{GroupId, HardState, LogId, LogIndex};

/// How much may be moved with one batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    /// Encoded bytes that should not be exceeded; but the first item may, or a large one would stay for ever.
    pub(crate) bytes: u64,
    /// Encoded bytes that must not be exceeded.
    pub(crate) max_bytes: u64,
}

/// What moves with one batch.
pub(crate) struct Moves<F> {
    groups: Vec<GroupMoves<F>>,
}

/// What moves of one group.
struct GroupMoves<F> {
    group: GroupId,
    hard_state: Option<HardState>,
    purged: Option<LogId>,
    state: Option<Bytes>,
    /// Runs of consecutive entries.
    runs: Vec<Wanted<F>>,
    /// Where to go on with this group; `None` if the segment has nothing more of it.
    resume_at: Option<LogIndex>,
}

impl<F: DiskFile> Moves<F> {
    pub(crate) fn none() -> Self {
        Self { groups: Vec::new() }
    }

    /// Chooses what of the oldest segment to move.
    pub(crate) fn plan(index: &Index<F>, budget: Budget) -> Self {
        let mut moves = Self::none();
        let Some((ordinal, segment)) = index.segments.oldest() else { return moves };
        let mut allowance = Allowance { budget, spent: 0, slots: MAX_EXAMINED_SLOTS };
        for (&id, &range) in segment.touched.iter().take(MAX_EXAMINED_GROUPS) {
            let planned = match index.group(id) {
                Some(group) => GroupMoves::plan(index, ordinal, (id, group), range, &mut allowance),
                None => Some(GroupMoves::nothing(id)),
            };
            let Some(planned) = planned else { break };
            let is_complete = planned.resume_at.is_none();
            moves.groups.push(planned);
            if !is_complete {
                break;
            }
        }
        moves
    }

    /// Reads the payloads and adds everything to a batch.
    pub(crate) fn encode(&self, buffer: &mut BatchBuffer) -> Result<(), LogError> {
        for moves in &self.groups {
            if let Some(hard_state) = moves.hard_state {
                buffer.push_hard_state(moves.group, hard_state);
            }
            if let Some(purged) = moves.purged {
                buffer.push_purge(moves.group, purged);
            }
            if let Some(state) = &moves.state {
                buffer.push_state(moves.group, state.clone());
            }
            for run in &moves.runs {
                let entries = run.read()?;
                let Some(first) = entries.first() else { continue };
                let payloads = entries.iter().map(|entry| (entry.id.term, &entry.payload[..]));
                buffer.push_move(moves.group, first.id.index, payloads);
            }
        }
        Ok(())
    }

    /// Remembers how far the oldest segment is done, and lets go of its file. To be called once the batch is durable and
    /// applied, and before any segment is dropped.
    pub(crate) fn note_progress(self, segments: &mut Segments<F>) {
        let Some(oldest) = segments.oldest_mut() else { return };
        for moves in self.groups {
            match moves.resume_at {
                None => drop(oldest.touched.remove(&moves.group)),
                Some(low) => {
                    if let Some(range) = oldest.touched.get_mut(&moves.group) {
                        range.low = low;
                    }
                }
            }
        }
    }
}

impl<F: DiskFile> GroupMoves<F> {
    fn nothing(group: GroupId) -> Self {
        Self { group, hard_state: None, purged: None, state: None, runs: Vec::new(), resume_at: None }
    }

    /// `None` if the budget has no room for the group's first item.
    fn plan(
        index: &Index<F>,
        ordinal: Ordinal,
        (id, group): (GroupId, &Group),
        range: IndexRange,
        allowance: &mut Allowance,
    ) -> Option<Self> {
        let (hard_state, purged, state) = group.items_in(ordinal);
        let state_bytes = state.as_ref().map_or(0, |state| RECORD_HEADER_BYTES + state.len() as u64);
        let item_bytes = state_bytes
            + if hard_state.is_some() { HARD_STATE_BYTES } else { 0 }
            + if purged.is_some() { POSITION_BYTES } else { 0 };
        if !allowance.spend(item_bytes) {
            return None;
        }
        let mut moves = Self { hard_state, purged, state, ..Self::nothing(id) };
        let IndexRange { low, high } = group.clip(range);
        for at in (low.0..=high.0).map(LogIndex) {
            let slot = group.slot(at).filter(|slot| slot.segment == ordinal);
            let extends_run = moves.runs.last().is_some_and(|run| run.next_index() == Some(at));
            let entry_bytes = slot.map_or(0, |slot| ENTRY_HEADER_BYTES + u64::from(slot.length));
            let run_bytes = if slot.is_none() || extends_run { 0 } else { RUN_HEADER_BYTES };
            if !allowance.examine_slot() || !allowance.spend(entry_bytes + run_bytes) {
                moves.resume_at = Some(at);
                break;
            }
            let Some(&slot) = slot else { continue };
            if !extends_run {
                moves.runs.push(Wanted::default());
            }
            if let Some(run) = moves.runs.last_mut() {
                run.add(index, at, slot);
            }
        }
        Some(moves)
    }
}

/// What is left of the work that may be done with one batch.
struct Allowance {
    budget: Budget,
    spent: u64,
    slots: usize,
}

impl Allowance {
    fn spend(&mut self, bytes: u64) -> bool {
        let after = self.spent + bytes;
        let is_within = after <= self.budget.bytes || self.spent == 0;
        let is_granted = bytes == 0 || (is_within && after <= self.budget.max_bytes);
        if is_granted {
            self.spent = after;
        }
        is_granted
    }

    fn examine_slot(&mut self) -> bool {
        match self.slots.checked_sub(1) {
            Some(left) => {
                self.slots = left;
                true
            }
            None => false,
        }
    }
}

/// How many index slots one batch's cleaning looks at: well under a millisecond.
const MAX_EXAMINED_SLOTS: usize = 64 << 10;
/// How many groups one batch's cleaning looks at.
const MAX_EXAMINED_GROUPS: usize = 1024;
