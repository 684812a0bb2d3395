//! What happened lately in one replica of a shard.

use std::collections::VecDeque;
use std::sync::Arc;

use quorate_engine::View;

use crate::event::Changes;
use crate::{PastError, Revision, changes_after};

/// Revisions that a feed holds at most.
const MAX_REVISIONS: usize = 10_000;

/// Bytes of keys and records that a feed holds at most; those of one revision are held, however large. In an engine in memory
/// most of them are the engine's own.
const MAX_BYTES: usize = 4 << 20;

/// The newest changes of one replica.
///
/// *Life cycle*: made when the replica is there to be read; told by [`Feed::publish`] of all that is applied.
///
/// *Invariant*: it holds the changes of every revision after [`Feed::since`], up to [`Feed::at`], in order, without gaps.
#[derive(Debug)]
pub struct Feed {
    at: Revision,
    changes: VecDeque<Arc<Changes>>,
    bytes: usize,
    max_revisions: usize,
    max_bytes: usize,
}

/// Consecutive changes.
#[derive(Clone, Debug, Default)]
pub struct Piece {
    /// By revision.
    pub changes: Vec<Arc<Changes>>,
    /// There are no others up to here.
    pub upto: Revision,
}

impl Piece {
    /// The changes after a revision as a shard's history has them: as many as have about `max_bytes` together, and at most so
    /// many revisions. Costs a lookup or two for each key that changed.
    pub fn of_history(view: &dyn View, after: Revision, max_revisions: usize, max_bytes: usize) -> Result<Self, PastError> {
        let mut piece = Self { changes: Vec::new(), upto: after };
        let mut bytes = 0;
        for changes in changes_after(view, after)? {
            if piece.changes.len() >= max_revisions || bytes >= max_bytes {
                return Ok(piece);
            }
            let changes = changes?;
            bytes += bytes_of(&changes);
            piece.upto = changes.revision;
            piece.changes.push(Arc::new(changes));
        }
        piece.upto = piece.upto.max(Revision(view.revision()));
        Ok(piece)
    }
}

impl Feed {
    /// One of a replica that stands at a revision.
    pub fn new(at: Revision) -> Self {
        Self::with_bounds(at, MAX_REVISIONS, MAX_BYTES)
    }

    /// The same, with other bounds.
    pub fn with_bounds(at: Revision, max_revisions: usize, max_bytes: usize) -> Self {
        Self { at, changes: VecDeque::new(), bytes: 0, max_revisions, max_bytes }
    }

    /// The revision at which the replica stands.
    pub fn at(&self) -> Revision {
        self.at
    }

    /// The changes of all later revisions are here.
    pub fn since(&self) -> Revision {
        Revision(self.at.0 - self.changes.len() as u64)
    }

    /// The replica stands at a revision now, and these changes led there. What is known already is passed over: a replica whose
    /// engine is opened again repeats itself. If revisions are missing in between (a snapshot was loaded), the feed begins anew.
    pub fn publish(&mut self, at: Revision, changes: Vec<Changes>) {
        for change in changes {
            if change.revision <= self.at {
                continue;
            }
            if change.revision != self.at.next() {
                self.begin_at(Revision(change.revision.0 - 1));
            }
            self.at = change.revision;
            self.bytes += bytes_of(&change);
            self.changes.push_back(Arc::new(change));
            self.shrink();
        }
        if at > self.at {
            self.begin_at(at);
        }
    }

    /// The changes after a revision, if all of them are here; at most so many. None are there after a revision that is not
    /// reached yet. Cheap: what is handed out is shared.
    pub fn after(&self, revision: Revision, max_revisions: usize) -> Option<Piece> {
        let told = usize::try_from(revision.0.checked_sub(self.since().0)?).unwrap_or(usize::MAX);
        let changes: Vec<Arc<Changes>> = self.changes.iter().skip(told).take(max_revisions).cloned().collect();
        let is_last = changes.len() < max_revisions;
        let upto = if is_last { self.at.max(revision) } else { changes.last().map_or(revision, |last| last.revision) };
        Some(Piece { changes, upto })
    }

    fn begin_at(&mut self, at: Revision) {
        self.changes.clear();
        self.bytes = 0;
        self.at = at;
    }

    fn shrink(&mut self) {
        while self.changes.len() > 1 && (self.changes.len() > self.max_revisions || self.bytes > self.max_bytes) {
            if let Some(oldest) = self.changes.pop_front() {
                self.bytes -= bytes_of(&oldest);
            }
        }
    }
}

fn bytes_of(changes: &Changes) -> usize {
    changes.events.iter().map(crate::event::Event::bytes).sum()
}
