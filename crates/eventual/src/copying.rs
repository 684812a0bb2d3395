//! What copies to several others share: the rate at which they leave, and what was read for one of them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{EngineError, Table, View};

use crate::lookup::Lookup;
use crate::message::Pair;
use crate::options::{MAX_MESSAGE_PAIRS, MAX_OPEN_REQUESTS, Options};
use crate::pace::Pace;
use crate::store::{Place, ReplicaError, Store};

/// Pieces that are kept for the others: as many as one that is as fast may be behind.
const MAX_KEPT_PIECES: usize = 2 * MAX_OPEN_REQUESTS;

/// What all copies of a replica share.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    pub(crate) pace: Pace,
    max_piece_bytes: u64,
    max_pinned_bytes: u64,
    /// How many there are.
    count: usize,
    /// The last pieces that were read, while there are several.
    pieces: VecDeque<Piece>,
}

/// What was read between two places.
#[derive(Debug)]
struct Piece {
    after: Option<Place>,
    upto: Place,
    /// Where it ends, and what is in it.
    found: (Place, Vec<Pair>),
    /// When, as [`Store::changes`] counts.
    read_at: u64,
    /// As of when, if not as of then.
    pinned_at: Option<u64>,
}

impl Copies {
    /// Time has passed, and there are so many copies now.
    pub(crate) fn advance(&mut self, options: &Options, count: usize, now_ms: u64) {
        self.pace.advance(options.copy_rate, now_ms);
        (self.max_piece_bytes, self.max_pinned_bytes) = (options.copy_piece_bytes, options.max_pinned_bytes);
        self.count = count;
        if count < 2 {
            self.pieces.clear();
        }
    }

    /// Where a piece ends that begins after this place, if there is one.
    pub(crate) fn end_of_piece(&self, store: &Store, after: Option<&Place>) -> Option<Place> {
        store.end_of_piece(after, self.pace.piece_bytes(self.max_piece_bytes), MAX_MESSAGE_PAIRS)
    }

    /// Whether what was pinned has become too expensive; see [`Options::max_pinned_bytes`].
    pub(crate) fn is_outdated(&self, store: &Store, pinned: &Pinned) -> bool {
        store.is_outdated(pinned, self.max_pinned_bytes)
    }

    /// As [`Store::look_up_piece`].
    pub(crate) fn look_up_piece(&self, store: &Store, between: (Option<&Place>, &Place), pinned: Option<&Pinned>) -> Lookup {
        store.look_up_piece(between, self.max_piece_bytes, pinned)
    }

    /// As [`Store::piece`]; what was read for another copy is not read again, unless that was before this copy began, at `since`.
    pub(crate) fn piece(
        &mut self,
        store: &Store,
        (after, upto): (Option<&Place>, &Place),
        since: u64,
        pinned: Option<&Pinned>,
    ) -> Result<(Place, Vec<Pair>), ReplicaError> {
        let pinned_at = pinned.map(Pinned::pinned_at);
        let known = self.pieces.iter().find(|piece| {
            let is_there = piece.after.as_ref() == after && piece.upto == *upto;
            is_there && piece.pinned_at == pinned_at && (pinned_at.is_some() || piece.read_at >= since)
        });
        if let Some(known) = known {
            return Ok(known.found.clone());
        }
        let found = store.piece((after, upto), self.max_piece_bytes, pinned)?;
        if self.count > 1 {
            self.pieces.truncate(MAX_KEPT_PIECES - 1);
            let (after, upto, found) = (after.cloned(), upto.clone(), found.clone());
            self.pieces.push_front(Piece { after, upto, found, read_at: store.changes(), pinned_at });
        }
        Ok(found)
    }
}

/// All there is at one moment, whatever is changed later: a view of the engine, and over it what the engine did not have yet.
///
/// It may keep alive what is replaced. So it is given up once there were too many changes ([`Store::is_outdated`]).
pub(crate) struct Pinned {
    pub(crate) view: Arc<dyn View>,
    pub(crate) over: HashMap<Bytes, Option<Bytes>>,
    /// [`Store::changes`] then, and their bytes.
    pub(crate) changes: u64,
    pub(crate) changed_bytes: u64,
}

impl Pinned {
    /// When that was, as [`Store::changes`] counts.
    pub(crate) fn pinned_at(&self) -> u64 {
        self.changes
    }

    pub(crate) fn peek(&self, key: &Bytes) -> Result<Option<Bytes>, EngineError> {
        match self.over.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.view.peek(Table::Current, key),
        }
    }
}

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("view", &self.view).field("over", &self.over.len()).finish_non_exhaustive()
    }
}
