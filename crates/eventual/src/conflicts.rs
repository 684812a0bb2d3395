//! Writes of one key that knew nothing of each other, and which of them stayed: for people who want to know what was lost.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::entry::Entry;
use crate::replica::Replica;
use crate::version::Version;

/// Two writes of one key at two replicas, neither of which had seen the other.
///
/// Versions do not say what a writer had seen, so this is told from what came when. Where the later one was written, the earlier
/// one comes afterwards; where the earlier one was written, the later one has a stamp of before its writer confirmed it. That is
/// exact for what is sent as it is written, in order; by comparisons and copies conflicts come unnoticed, or one that was none is
/// named at the loser's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The key.
    pub key: Bytes,
    /// What stayed.
    pub won: Version,
    /// What did not.
    pub lost: Version,
    /// When it was noticed here, in milliseconds since 1970.
    pub wall_ms: u64,
}

/// The newest conflicts, oldest first; older ones are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Conflicts(VecDeque<Conflict>);

/// So many confirmations of a peer are kept, each with its clock then: what crossed them on its way comes soon.
pub(crate) const MAX_CONFIRMED: usize = 16;

/// So many are kept: enough to see what kind of keys they are.
pub(crate) const MAX_CONFLICTS: usize = 128;

impl Replica {
    /// The newest conflicts that were noticed here, oldest first, at most 128; none unless [`crate::Options::logs_conflicts`]
    /// asks for them.
    pub fn conflicts(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.0.iter()
    }

    /// An entry took the place of an own write.
    pub(crate) fn on_superseded(&mut self, key: &Bytes, entry: &Entry, own: Version) {
        self.counts.superseded += 1;
        let winner = self.peers.get(&entry.version.instance);
        let confirmed_at = winner.and_then(|peer| peer.confirmed.iter().find(|(upto, _)| *upto >= own.hlc));
        let is_unconfirmed = winner.is_none_or(|peer| self.reached(peer) < own.hlc);
        if is_unconfirmed || confirmed_at.is_some_and(|(_, clock)| entry.version.hlc <= *clock) {
            self.on_conflict(key, entry.version, own);
        }
    }

    /// Somebody's write came for the first time, and lost: if to an own one, that had not seen it.
    pub(crate) fn on_lost(&mut self, key: &Bytes, lost: Version) {
        if let Some(won) = self.store.version(key).filter(|won| won.instance == self.instance) {
            self.on_conflict(key, won, lost);
        }
    }

    fn on_conflict(&mut self, key: &Bytes, won: Version, lost: Version) {
        self.counts.conflicts += 1;
        if !self.options.logs_conflicts {
            return;
        }
        let log = &mut self.conflicts.0;
        if log.len() >= MAX_CONFLICTS {
            log.pop_front();
        }
        log.push_back(Conflict { key: key.clone(), won, lost, wall_ms: self.now.wall_ms });
    }
}
