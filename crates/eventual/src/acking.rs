//! Whom a write waits for, and when there is no sense in it: if there are not so many others, or those who lack it are away.

use crate::io::{MemberState, Refusal, Write};
use crate::options::Ack;
use crate::peer::{Peer, Stream};
use crate::replica::Replica;

impl Replica {
    /// Whether a write asks for more others than there are: that cannot come about, and so nothing is done.
    ///
    /// What the keyspace asks for in its writers' place is another matter: it was possible once, and whoever says nothing is not
    /// kept from writing because a member left. Such a write is done, and answered once all who are there have it.
    pub(crate) fn asks_for_too_many(&self, write: &Write) -> Option<Refusal> {
        let others = self.peers.len() as u32;
        match write.ack {
            Some(Ack::Others(wanted)) if wanted > others => Some(Refusal::TooFewMembers { others, wanted }),
            _ => None,
        }
    }

    /// Whether somebody may yet confirm what is at a place of the outbox, of those that such a wish is about. Who is not heard of
    /// is not waited for: the write goes on to it once it is back.
    pub(crate) fn may_reach_more(&self, place: u64, ack: Ack) -> bool {
        let is_asked = |peer: &&Peer| ack != Ack::AllUp || peer.state == MemberState::Up;
        let has_it = |stream: &Stream| stream.has(place);
        let lacks_it = |peer: &&Peer| !peer.stream.as_ref().is_some_and(has_it);
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        let mut lacking = self.peers.values().filter(is_asked).filter(lacks_it);
        // What is in no outbox nobody confirms.
        place > 0 && lacking.any(|peer| !peer.is_away(now_ms, silent_ms))
    }

    /// When the next of the others counts as away, if it is not heard of before.
    pub(crate) fn away_due_ms(&self) -> Option<u64> {
        let silent_ms = self.silent_ms();
        let away = self.peers.values().map(|peer| peer.away_from_ms(silent_ms));
        away.filter(|ms| *ms > self.now.mono_ms).min()
    }
}
