//! What a replica tells about itself.

use crate::io::{MemberState, Time};
use crate::peer::Peer;
use crate::replica::Replica;
use crate::version::{Hlc, InstanceId};

/// What happened since the replica was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Own writes.
    pub written: u64,
    /// Entries of others that were kept.
    pub merged: u64,
    /// Of them, those that took the place of an own write.
    pub superseded: u64,
    /// Writes that knew nothing of each other, as far as was noticed here; see [`crate::Conflict`].
    pub conflicts: u64,
    /// Entries that the fence kept out.
    pub fenced: u64,
    /// Entries of others with a version that is here, too, with another content: one of the two replicas is damaged, or came from
    /// a folder that was put back. What is here stays.
    pub mismatched: u64,
    /// Entries that were sent as they were written, once per peer.
    pub pushed: u64,
    /// Their bytes.
    pub pushed_bytes: u64,
    /// Copies that took the place of what was here.
    pub mirrored: u64,
    /// Those that changed too much for that, and came piece by piece.
    pub merged_mirrors: u64,
    /// Keys that went because they were not in one.
    pub vanished: u64,
    /// Times of the schedule that led to something.
    pub scheduled: u64,
    /// Peers that fell too far behind to be sent what they lacked.
    pub overflows: u64,
    /// Rounds that ended: comparisons and copies.
    pub rounds: u64,
    /// Rounds that were given up.
    pub stalled_rounds: u64,
    /// Copies that went on where they were broken off.
    pub resumed: u64,
    /// Entries that rounds brought here.
    pub pulled: u64,
    /// Entries that rounds brought to others.
    pub put: u64,
    /// Reads that found something newer at others.
    pub repairs: u64,
    /// Checkpoints of the log.
    pub checkpoints: u64,
}

/// How a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Who it is.
    pub instance: InstanceId,
    /// The epoch of its members.
    pub epoch: u64,
    /// Whether it serves.
    pub is_up: bool,
    /// How far it is; none if it is no member.
    pub state: Option<MemberState>,
    /// Keys with a value.
    pub keys: u64,
    /// Keys of which only a tombstone is left, or that a value expired.
    pub tombstones: u64,
    /// Bytes of keys and values.
    pub data_bytes: u64,
    /// The sum of everything; equal replicas have equal ones.
    pub digest: u128,
    /// Bytes of own writes that a peer has not confirmed.
    pub outbox_bytes: u64,
    /// How many they are.
    pub outbox_entries: u64,
    /// The watermark as far as it is known.
    pub stable: Hlc,
    /// What was dropped is at or below this.
    pub fence: Hlc,
    /// How far the clock is ahead of the wall clock, in milliseconds.
    pub hlc_ahead_ms: u64,
    /// By how much the wall clock is off, if that stops writes.
    pub skew_ms: Option<i64>,
    /// Pairs of members that keep tombstones from being dropped: whose writes whom they have not reached. Empty if there are
    /// none.
    pub gc_blocked_by: Vec<(InstanceId, InstanceId)>,
    /// What happened.
    pub counts: Counts,
    /// The others.
    pub peers: Vec<PeerStatus>,
}

/// How another member is, seen from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who it is.
    pub instance: InstanceId,
    /// How far it is.
    pub state: MemberState,
    /// Whether it was heard of lately.
    pub is_reachable: bool,
    /// Own writes that it has not confirmed; none if it is not sent them, but compared with.
    pub lag_entries: Option<u64>,
    /// How long the oldest own write has been waiting that it has not confirmed, in milliseconds; 0 if there is none.
    pub lag_ms: u64,
    /// Whether it lacks things, or may, that only a comparison brings: what it was to be sent became too much, or it has not been
    /// compared with since it came.
    pub needs_sync: bool,
    /// Bytes of own writes that were sent to it as they were written.
    pub pushed_bytes: u64,
    /// Entries that rounds brought here from it.
    pub pulled: u64,
    /// Their bytes.
    pub pulled_bytes: u64,
    /// Entries that rounds brought to it.
    pub put: u64,
    /// Their bytes.
    pub put_bytes: u64,
    /// When a comparison with it ended last, in milliseconds since 1970.
    pub compared_wall_ms: Option<u64>,
    /// When a copy to it ended last, in milliseconds since 1970.
    pub copied_wall_ms: Option<u64>,
    /// Whether a round with it goes on.
    pub is_comparing: bool,
    /// Rounds with it that ended.
    pub rounds: u64,
    /// Milliseconds by which its wall clock is ahead of this node's.
    pub clock_offset_ms: i64,
}

impl Replica {
    fn lag_ms(&self, peer: &Peer, now_ms: u64) -> u64 {
        let streamed = peer.stream.as_ref().and_then(|stream| self.outbox.oldest_ms(stream.acked));
        let since_ms = [streamed, peer.figures.unconfirmed_ms, peer.figures.in_round_ms].into_iter().flatten().min();
        since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms))
    }

    /// How it was when it was polled last.
    pub fn status(&self) -> Status {
        self.status_at(self.now)
    }

    /// How it is. One that is idle is polled rarely; how long things last goes by the time that is told here.
    pub fn status_at(&self, now: Time) -> Status {
        let (keys, tombstones) = self.store.counts();
        let stable = self.watermark.stable();
        let is_blocked = self.store.oldest_dead().is_some_and(|dead| dead > stable);
        let silent_ms = self.silent_ms();
        let peers = self.peers.iter().map(|(instance, peer)| PeerStatus {
            instance: *instance,
            state: peer.state,
            is_reachable: peer.is_reachable(now.mono_ms, silent_ms),
            lag_entries: peer.stream.as_ref().map(|stream| self.outbox.last() - stream.acked),
            lag_ms: self.lag_ms(peer, now.mono_ms),
            needs_sync: !self.is_cache()
                && (peer.sync_due_ms.is_some() || (self.options.batching().is_some() && !peer.is_synced)),
            pushed_bytes: peer.figures.pushed_bytes,
            pulled: peer.figures.pulled,
            pulled_bytes: peer.figures.pulled_bytes,
            put: peer.figures.put,
            put_bytes: peer.figures.put_bytes,
            compared_wall_ms: peer.figures.compared_wall_ms,
            copied_wall_ms: peer.figures.copied_wall_ms,
            is_comparing: peer.round.as_ref().is_some_and(|round| round.paused_ms().is_none()),
            rounds: peer.rounds,
            clock_offset_ms: peer.clock_offset_ms(now),
        });
        Status {
            instance: self.instance,
            epoch: self.members.epoch,
            is_up: self.is_up(),
            state: self.members.states.get(&self.instance).copied(),
            keys,
            tombstones,
            data_bytes: self.store.data_bytes(),
            digest: self.store.root().0,
            outbox_bytes: self.outbox.bytes(),
            outbox_entries: self.outbox.len() as u64,
            stable,
            fence: self.fence,
            hlc_ahead_ms: self.clock.last().ms().saturating_sub(now.wall_ms),
            skew_ms: self.skew.judged(),
            gc_blocked_by: if is_blocked { self.watermark.held_by() } else { Vec::new() },
            counts: Counts { mismatched: self.store.mismatched, ..self.counts },
            peers: peers.collect(),
        }
    }
}
