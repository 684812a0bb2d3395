//! When a replica stands for election.

use quorate_log::Disk;
use rand::RngExt as _;

use crate::replica::Replica;
use crate::start::FOUNDED_AT;

/// raft-rs draws election timeouts from a generator that cannot be seeded. It is told a range so wide that a draw of its own is
/// recognised (it lies beyond every real timeout, but for one in tens of millions), and replaced by a seeded one.
pub(crate) const MAX_RAFT_DRAW: usize = 1 << 30;

impl<D: Disk> Replica<D> {
    /// The group begins now. There is no leader whose silence could be waited for: one of the founders stands at once, and at
    /// each tick until the others have their replicas. Who it is follows from the group's number, so that each node leads some.
    pub(crate) fn found(&mut self) {
        let voters = self.state.founding.as_ref().map_or(&[][..], |founding| &founding.voters);
        let turn = voters.get(self.spec.group.0 as usize % voters.len().max(1));
        if turn == Some(&self.spec.id) {
            self.founding_ticks = self.election_ticks;
            self.maybe_stand();
        }
    }

    /// Stands for election if the group has just begun and nobody has led it yet; whether it did.
    pub(crate) fn maybe_stand(&mut self) -> bool {
        if self.founding_ticks == 0 {
            return false;
        }
        let has_begun = self.leader() != 0 || self.raw.raft.term != FOUNDED_AT.term.0;
        self.founding_ticks = if has_begun { 0 } else { self.founding_ticks - 1 };
        let stands = !has_begun && self.raw.campaign().is_ok();
        self.draw_election_timeout();
        stands
    }

    pub(crate) fn draw_election_timeout(&mut self) {
        if self.raw.raft.randomized_election_timeout() >= 2 * self.election_ticks {
            let ticks = self.election_rng.random_range(self.election_ticks..2 * self.election_ticks);
            self.raw.raft.set_randomized_election_timeout(ticks);
        }
    }
}
