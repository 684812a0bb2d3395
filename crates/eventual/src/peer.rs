//! What a replica knows of another, and owes it.

use std::collections::VecDeque;

use crate::io::{MemberState, Time};
use crate::options::{MAX_STARTING_MS, RESEND_MS};
use crate::round::Round;
use crate::version::Hlc;

/// Another member of the keyspace, seen from here.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent notes, each with a rule of its own")]
pub(crate) struct Peer {
    pub(crate) state: MemberState,
    /// Since when it is known.
    since_ms: u64,
    /// When it was heard of last.
    pub(crate) heard_ms: Option<u64>,
    /// The greatest epoch at which it was heard of.
    pub(crate) epoch: u64,
    /// Its wall clock less our steady time, when it reported last.
    pub(crate) wall_shift_ms: i64,
    /// It reports again within this time.
    pub(crate) interval_ms: u64,
    /// What it gets of our writes as they come.
    pub(crate) stream: Option<Stream>,
    /// A round of this epoch has ended that began when the stream was there: what the stream does not hold it has.
    pub(crate) is_synced: bool,
    /// All own writes up to this are there, by a round of this epoch.
    pub(crate) floor: Hlc,
    /// A comparison of this epoch has ended, and began when the peer was as far as it is now: what it had then is here.
    pub(crate) is_compared: bool,
    pub(crate) round: Option<Round>,
    /// When to compare with it for a reason of its own.
    pub(crate) sync_due_ms: Option<u64>,
    /// Whether the next round shall copy.
    pub(crate) wants_copy: bool,
    /// When a round with it ended last.
    pub(crate) compared_ms: u64,
    /// Rounds that ended, since this replica was opened.
    pub(crate) rounds: u64,
    /// The last of them, and the last one that was a comparison.
    pub(crate) last_round: u64,
    pub(crate) last_comparison: u64,
    /// Which stream of the peer was seen last, and up to where it is applied here.
    pub(crate) inbound: (u64, u64),
    /// An acknowledgement that is to be sent at the end of this poll.
    pub(crate) owes_ack: bool,
    pub(crate) figures: Figures,
    /// Its last confirmations, oldest first: up to which stamp, and its clock when it confirmed.
    pub(crate) confirmed: VecDeque<(Hlc, Hlc)>,
}

/// What there was with a peer, since this replica was opened; for people.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) pushed_bytes: u64,
    pub(crate) pulled: u64,
    pub(crate) pulled_bytes: u64,
    pub(crate) put: u64,
    pub(crate) put_bytes: u64,
    pub(crate) compared_wall_ms: Option<u64>,
    pub(crate) copied_wall_ms: Option<u64>,
    /// When the oldest own write came that no stream brings there, and no round under way.
    pub(crate) unconfirmed_ms: Option<u64>,
    /// And the oldest that the round under way brings there.
    pub(crate) in_round_ms: Option<u64>,
}

impl Figures {
    /// An own write came, or several did, the oldest at this time, that only a round brings there.
    pub(crate) fn is_owed(&mut self, since_ms: u64) {
        self.unconfirmed_ms = Some(self.unconfirmed_ms.map_or(since_ms, |known_ms| known_ms.min(since_ms)));
    }

    /// A round begins that brings there what is here.
    pub(crate) fn begin_round(&mut self) {
        self.in_round_ms = self.unconfirmed_ms.take();
    }

    /// The round was given up.
    pub(crate) fn give_up_round(&mut self) {
        self.in_round_ms.take().into_iter().for_each(|since_ms| self.is_owed(since_ms));
    }

    /// A round has ended.
    pub(crate) fn end_round(&mut self, round: &Round, wall_ms: u64) {
        self.in_round_ms = None;
        self.pulled += round.pulled;
        self.pulled_bytes += round.pulled_bytes;
        self.put += round.pushed;
        self.put_bytes += round.pushed_bytes;
        if round.is_copy {
            self.copied_wall_ms = Some(wall_ms);
        } else {
            self.compared_wall_ms = Some(wall_ms);
        }
    }
}

/// How far a peer has come with our outbox.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Nothing is known of places at or before this one: it was not sent them. 0 once a round has ended that began later.
    pub(crate) base: u64,
    /// It has everything up to this place.
    pub(crate) acked: u64,
    /// It was sent everything up to this place.
    pub(crate) sent: u64,
    /// The last place of each frame on its way, oldest first.
    pub(crate) inflight: VecDeque<u64>,
    /// Since when the oldest has been on its way, or the last acknowledgement came.
    pub(crate) since_ms: u64,
}

impl Stream {
    /// Begins after a place.
    pub(crate) fn after(place: u64) -> Self {
        Self { base: place, acked: place, sent: place, inflight: VecDeque::new(), since_ms: 0 }
    }

    /// When what is on its way is to be sent again.
    pub(crate) fn resend_due_ms(&self) -> Option<u64> {
        (!self.inflight.is_empty()).then_some(self.since_ms + RESEND_MS)
    }

    /// Whether the peer is known to have what was written at a place.
    pub(crate) fn has(&self, place: u64) -> bool {
        place > self.base && self.acked >= place
    }
}

impl Peer {
    pub(crate) fn new(state: MemberState, now_ms: u64) -> Self {
        Self {
            state,
            since_ms: now_ms,
            heard_ms: None,
            epoch: 0,
            wall_shift_ms: 0,
            interval_ms: 0,
            stream: None,
            is_synced: false,
            floor: Hlc::ZERO,
            is_compared: false,
            round: None,
            sync_due_ms: Some(now_ms),
            wants_copy: false,
            compared_ms: 0,
            rounds: 0,
            last_round: 0,
            last_comparison: 0,
            inbound: (0, 0),
            owes_ack: false,
            figures: Figures::default(),
            confirmed: VecDeque::new(),
        }
    }

    /// What was compared counts no more: a round under way is given up, and the next one is due.
    pub(crate) fn begin_anew(&mut self, now_ms: u64) {
        self.is_compared = false;
        self.wants_copy |= self.round.take().is_some_and(|round| round.is_copy);
        self.figures.give_up_round();
        self.sync_due_ms = Some(now_ms);
    }

    /// Whether it was heard of lately: one report may be lost, and the next one is late by less than this.
    pub(crate) fn is_reachable(&self, now_ms: u64, silent_ms: u64) -> bool {
        self.heard_ms.is_some_and(|heard_ms| now_ms.saturating_sub(heard_ms) < 2 * self.interval_ms + silent_ms)
    }

    /// Whether it should have been heard of, and was not: there is no sense in waiting for it. One that has only just become
    /// known may well be there.
    pub(crate) fn is_silent(&self, now_ms: u64, silent_ms: u64) -> bool {
        let last_ms = self.heard_ms.unwrap_or(self.since_ms);
        now_ms.saturating_sub(last_ms) >= 2 * self.interval_ms + silent_ms
    }

    /// Whether who waits for it to confirm something waits in vain. One that has never been heard of may be starting: that takes
    /// longer than a report.
    pub(crate) fn is_away(&self, now_ms: u64, silent_ms: u64) -> bool {
        now_ms >= self.away_from_ms(silent_ms)
    }

    /// From when on that is so, if it is not heard of before.
    pub(crate) fn away_from_ms(&self, silent_ms: u64) -> u64 {
        match self.heard_ms {
            Some(heard_ms) => heard_ms + 2 * self.interval_ms + silent_ms,
            None => self.since_ms + silent_ms.max(MAX_STARTING_MS),
        }
    }

    /// How long it has not been heard of.
    pub(crate) fn unheard_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms.unwrap_or(self.since_ms))
    }

    /// Whether it told what its wall clock shows.
    pub(crate) fn has_told_clock(&self) -> bool {
        self.heard_ms.is_some()
    }

    /// Its wall clock less ours.
    pub(crate) fn clock_offset_ms(&self, now: Time) -> i64 {
        if self.heard_ms.is_none() {
            return 0;
        }
        self.wall_shift_ms.wrapping_sub(now.wall_ms.cast_signed().wrapping_sub(now.mono_ms.cast_signed()))
    }
}
