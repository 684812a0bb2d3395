//! Mirrors: one replica is the source, and the others have what it has, by copies that take the place of what was there.
//!
//! Where copies are merged, what is missing in one proves nothing. Here it does: a copy has a stamp, the source's clock when it
//! began, and whatever is at or below it and not in the copy goes. What is above it stays: it is newer than the copy knows. If
//! somebody else wrote it, who was the source before, another copy follows, with a stamp above it.
//!
//! A copy is of the moment of its stamp: the source reads it from a view that is pinned then. If too much is changed meanwhile
//! ([`crate::Options::max_pinned_bytes`]), the view is given up, and each key that is still to be sent is as it is then. That is
//! as good for all that follows: what is newer than the stamp has a greater version. A copy is built aside, piece by piece, and
//! takes its place at once, for readers and in the log, if it is whole: its sum is that of what was sent. One that breaks off
//! goes on where it was, as long as both sides run and the members stay.
//!
//! Of a copy that comes in, what differs from what is here is kept aside, and of all else the keys. Once that is too much
//! ([`crate::Options::max_staged_bytes`]), what is newer than what is here is merged at once, as of copies that are merged:
//! readers see such a copy come piece by piece. At its end what is missing in it goes, as ever.
//!
//! Only the source is written to, and nobody merges: what comes late, or from one that was the source before, changes nothing.
//! Own writes of one that is not the source count as being everywhere up to the stamp of the last copy that it took: what the
//! source has not got of them has gone here, and goes elsewhere. A source that joins is the exception: it has lost what it had,
//! and is filled by comparisons before it copies anything.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::digest::Digest;
use crate::io::MemberState;
use crate::message::{Pair, Payload};
use crate::options::{MAX_PIECES_AHEAD, MAX_RECORD_BYTES, PAIR_BYTES, Trigger};
use crate::record::Record;
use crate::replica::Replica;
use crate::store::Merged;
use crate::version::{Hlc, InstanceId};

/// The copy that comes in.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    /// Whose round it is of.
    round: (InstanceId, u64),
    /// Pieces by number.
    pieces: BTreeMap<u64, Piece>,
    /// What of them is kept aside, in bytes.
    staged_bytes: u64,
    /// It has become too much: what is newer than what is here is merged as it comes.
    is_merged: bool,
    /// The last one that took its place: from whom, the round, and its stamp.
    taken: Option<(InstanceId, u64, Hlc)>,
    /// Whether this replica was the source when it was polled last.
    was_source: bool,
}

/// A piece of a copy.
#[derive(Debug, Default)]
struct Piece {
    /// The sum of all that was in it.
    sum: Digest,
    /// Its keys.
    keys: Vec<Bytes>,
    /// What was not here when it came.
    staged: Vec<Pair>,
}

impl Piece {
    fn staged_bytes(&self) -> u64 {
        self.staged.iter().map(|pair| pair.size_bytes() + PAIR_BYTES).sum()
    }
}

/// What a copy changes here.
#[derive(Debug, Default)]
pub(crate) struct Swap {
    /// These take the place of what there is.
    pub(crate) pairs: Vec<Pair>,
    /// These go.
    pub(crate) gone: Vec<Bytes>,
}

impl Replica {
    /// The source, where this is a mirror.
    pub(crate) fn source(&self) -> Option<InstanceId> {
        self.options.mirror_of.filter(|_| matches!(self.options.trigger, Trigger::Copy(_)))
    }

    /// The last copy that was taken: from whom, its round, and its stamp; for tests.
    #[cfg(test)]
    pub(crate) fn taken_for_tests(&self) -> Option<(InstanceId, u64, Hlc)> {
        self.inbound.taken
    }

    /// Whether it has not come up yet.
    pub(crate) fn is_joining(&self) -> bool {
        self.members.states.get(&self.instance) == Some(&MemberState::Joining)
    }

    /// Whether this replica is a mirror of another one.
    pub(crate) fn is_read_only(&self) -> bool {
        self.source().is_some_and(|source| source != self.instance)
    }

    /// Whether rounds from here are copies that take the place of what is there.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.source() == Some(self.instance) && !self.is_joining()
    }

    /// Whether what others have is merged here.
    pub(crate) fn merges(&self) -> bool {
        self.source().is_none_or(|source| source == self.instance && self.is_joining())
    }

    /// The stamp up to which what this replica wrote is where the source has it, if it is not the source.
    pub(crate) fn mirrored_to(&self) -> Option<Hlc> {
        let source = self.source().filter(|source| *source != self.instance)?;
        Some(self.inbound.taken.filter(|(from, ..)| *from == source).map_or(Hlc::ZERO, |(_, _, at)| at))
    }

    /// Goes on from a copy that was taken before a restart.
    pub(crate) fn resume_mirror(&mut self, from: InstanceId, at: Hlc) {
        self.inbound.taken = Some((from, 0, at));
    }

    /// Who becomes the source copies to everybody at once.
    pub(crate) fn keep_mirror(&mut self) {
        let is_sent = self.source().filter(|source| self.is_read_only() && self.peers.contains_key(source));
        if !self.inbound.pieces.is_empty() && is_sent != Some(self.inbound.round.0) {
            // Nobody will send the rest.
            self.take_pieces();
        }
        let is_source = self.is_mirrored();
        if is_source && !self.inbound.was_source {
            let now_ms = self.now.mono_ms;
            self.peers.values_mut().for_each(|peer| peer.begin_anew(now_ms));
        }
        self.inbound.was_source = is_source;
    }

    /// Whether a round is one of the source that this replica mirrors, and none that another one has overtaken.
    fn is_current(&mut self, from: InstanceId, round: u64) -> bool {
        if !self.is_read_only() || self.source() != Some(from) {
            return false;
        }
        let (known_from, known) = self.inbound.round;
        if known_from != from || round > known {
            self.inbound.round = (from, round);
            self.take_pieces();
        }
        self.inbound.round == (from, round)
    }

    /// A piece of a copy: kept aside. One that comes again may say something newer.
    pub(crate) fn on_mirror(&mut self, from: InstanceId, (round, number): (u64, u64), pairs: Vec<Pair>) {
        if !self.is_current(from, round) {
            return;
        }
        if number > self.inbound.pieces.len() as u64 + MAX_PIECES_AHEAD {
            // It restarted since it got the others: the rest is of no use.
            self.send(from, Payload::MirrorDone { round, number, is_taken: false, has_newer: false });
            return;
        }
        self.stage(number, pairs);
        self.send(from, Payload::PutDone { round, number });
    }

    fn stage(&mut self, number: u64, pairs: Vec<Pair>) {
        let (sum, all_bytes) = (self.store.digest().sum_of(&pairs), pairs.iter().map(Pair::size_bytes).sum::<u64>());
        let keys: Vec<Bytes> = pairs.iter().map(|pair| Self::key_of(&pair.key)).collect();
        let with_keys = pairs.into_iter().zip(&keys).map(|(pair, key)| Pair { key: key.clone(), ..pair });
        let staged = with_keys.filter(|pair| self.store.version(&pair.key) != Some(pair.entry.version));
        let mut piece = Piece { sum, staged: staged.collect(), keys };
        if 2 * piece.staged_bytes() < all_bytes {
            // A few values would keep alive the whole message that they came in.
            piece.staged.iter_mut().for_each(|pair| pair.entry = pair.entry.on_its_own());
        }
        self.inbound.staged_bytes += piece.staged_bytes();
        let before = self.inbound.pieces.insert(number, piece);
        self.inbound.staged_bytes -= before.map_or(0, |before| before.staged_bytes());
        if self.inbound.is_merged {
            self.merge_piece(number);
        } else if self.inbound.staged_bytes > self.options.max_staged_bytes {
            self.inbound.is_merged = true;
            self.counts.merged_mirrors += 1;
            let numbers: Vec<u64> = self.inbound.pieces.keys().copied().collect();
            numbers.into_iter().for_each(|number| self.merge_piece(number));
        }
    }

    /// Merges what is newer in a piece than what is here. What is older, which is rare, waits for the end of the copy: only then
    /// is it known whether it takes the place of what is newer.
    fn merge_piece(&mut self, number: u64) {
        let Some(piece) = self.inbound.pieces.get_mut(&number) else { return };
        self.inbound.staged_bytes -= piece.staged_bytes();
        piece.staged.retain(|Pair { key, entry }| {
            self.clock.observe(entry.version.hlc);
            let merged = self.store.merge(key, entry, self.keeping.index_of_next());
            if let Merged::Won(_) = merged {
                self.keeping.merged(key, entry);
            }
            merged == Merged::Lost
        });
        self.inbound.staged_bytes += piece.staged_bytes();
    }

    /// What is kept of a copy; nothing is after that.
    fn take_pieces(&mut self) -> BTreeMap<u64, Piece> {
        (self.inbound.staged_bytes, self.inbound.is_merged) = (0, false);
        std::mem::take(&mut self.inbound.pieces)
    }

    /// What is kept aside of the copy that comes in, in bytes; for tests.
    #[cfg(test)]
    pub(crate) fn staged_bytes_for_tests(&self) -> u64 {
        let bytes = self.inbound.pieces.values().map(Piece::staged_bytes).sum();
        assert_eq!(bytes, self.inbound.staged_bytes);
        bytes
    }

    /// All pieces were sent: if they are here, they take the place of what there was.
    pub(crate) fn on_mirror_end(&mut self, from: InstanceId, round: u64, number: u64, copy: MirrorEnd) {
        if !self.is_current(from, round) {
            return;
        }
        let has_it = self.inbound.taken.is_some_and(|(taken_from, taken, _)| (taken_from, taken) == (from, round));
        let is_taken = has_it || self.take(from, round, copy);
        let has_newer = is_taken && self.store.has_other_above(copy.at, from);
        self.send(from, Payload::MirrorDone { round, number, is_taken, has_newer });
    }

    fn take(&mut self, from: InstanceId, round: u64, MirrorEnd { at, pieces, digest }: MirrorEnd) -> bool {
        let found = self.take_pieces();
        let sum = found.values().map(|piece| piece.sum).fold(Digest::default(), Digest::plus);
        if found.len() as u64 != pieces || sum != digest {
            return false;
        }
        let swap = self.differences(found, at);
        self.counts.mirrored += 1;
        self.counts.vanished += swap.gone.len() as u64;
        swap.pairs.iter().for_each(|pair| self.clock.observe(pair.entry.version.hlc));
        self.clock.observe(at);
        let index = self.keeping.swapped(&swap, from, at);
        self.store.swap(&swap, index);
        self.inbound.taken = Some((from, round, at));
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.is_compared = true;
        }
        true
    }

    /// What is to change for the replica to have what is in a copy.
    fn differences(&self, copied: BTreeMap<u64, Piece>, at: Hlc) -> Swap {
        let mut swap = Swap::default();
        let keys: BTreeSet<&Bytes> = copied.values().flat_map(|piece| &piece.keys).collect();
        swap.gone = self.store.keys_upto(at).filter(|key| !keys.contains(*key)).cloned().collect();
        drop(keys);
        for pair in copied.into_values().flat_map(|piece| piece.staged) {
            let kept = self.store.version(&pair.key);
            let is_replaced = kept.is_none_or(|kept| {
                let is_newer_here = kept.hlc > at && kept > pair.entry.version;
                kept != pair.entry.version && !is_newer_here
            });
            if is_replaced {
                swap.pairs.push(pair);
            }
        }
        swap
    }
}

/// What a source says of a copy when it has sent all pieces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MirrorEnd {
    /// Its stamp.
    pub(crate) at: Hlc,
    /// So many pieces.
    pub(crate) pieces: u64,
    /// The sum of what is in them.
    pub(crate) digest: Digest,
}

impl Swap {
    /// With more of the same.
    pub(crate) fn with(mut self, pairs: Vec<Pair>, gone: Vec<Bytes>) -> Self {
        for pair in pairs {
            self.pairs.push(Pair { key: Bytes::copy_from_slice(&pair.key), ..pair });
        }
        self.gone.extend(gone);
        self
    }

    /// As records of a bounded size, which are read back together or not at all.
    pub(crate) fn into_records(swap: &Self, from: InstanceId, at: Hlc) -> Vec<Record> {
        let mut parts = vec![(Vec::new(), Vec::new())];
        let mut bytes = 0;
        let mut open = |size: usize, parts: &mut Vec<(Vec<Pair>, Vec<Bytes>)>| {
            if bytes >= MAX_RECORD_BYTES {
                parts.push((Vec::new(), Vec::new()));
                bytes = 0;
            }
            bytes += size;
        };
        for pair in &swap.pairs {
            open(pair.key.len() + pair.entry.body.size_bytes() + 64, &mut parts);
            parts.last_mut().expect("there is one").0.push(pair.clone());
        }
        for key in &swap.gone {
            open(key.len() + 16, &mut parts);
            parts.last_mut().expect("there is one").1.push(key.clone());
        }
        let last = parts.len() - 1;
        let record = |(number, (pairs, gone)): (usize, (Vec<Pair>, Vec<Bytes>))| Record::Swapped {
            number: number as u64,
            last: (number == last).then_some((from, at)),
            pairs,
            gone,
        };
        parts.into_iter().enumerate().map(record).collect()
    }
}
