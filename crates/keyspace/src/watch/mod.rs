//! Watching a shard: what happened lately, and who is told of what.
//!
//! A [`Feed`] holds the newest changes of one replica, as they were applied. A [`Watch`] is what one watcher has asked for and
//! how far it was told: it takes from the feed, and what that does not hold any more it reads from the shard's history. So no
//! watcher has a queue, a slow one costs no more than a quick one, and one that comes back goes on at any replica: revisions mean
//! the same on all of them. [`Interests`] finds the watchers that a key concerns without asking each.
//!
//! What a watcher is told, from the revision on at which it began: every change that concerns it, once, in the order of
//! revisions, all of one revision together.

mod feed;
mod interests;

use std::sync::Arc;

use bytes::Bytes;

pub use feed::{Feed, Piece};
pub use interests::Interests;

use crate::event::{Cause, Changes, Event};
use crate::{Keys, Revision};

/// What of a shard is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The keys.
    pub keys: Keys,
    /// Which kinds of changes.
    pub causes: Causes,
}

/// A set of causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causes(u8);

impl Causes {
    /// Of every cause.
    pub const ALL: Self = Self(0b111);

    /// Of none.
    pub const NONE: Self = Self(0);

    /// With this one.
    #[must_use]
    pub fn and(self, cause: Cause) -> Self {
        Self(self.0 | bit(cause))
    }

    /// Whether this one is in it.
    pub fn contains(self, cause: Cause) -> bool {
        self.0 & bit(cause) != 0
    }
}

fn bit(cause: Cause) -> u8 {
    match cause {
        Cause::Put => 0b001,
        Cause::Delete => 0b010,
        Cause::Expire => 0b100,
    }
}

/// What one watcher has asked for, and how far it was told.
///
/// *Invariant*: all changes up to [`Watch::told`] that concern it were handed out, each once; none after it was.
#[derive(Debug)]
pub struct Watch {
    selections: Vec<Selection>,
    /// The selections by key.
    interests: Interests<usize>,
    told: Revision,
}

/// What a watcher is told of one revision: at least one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    changes: Arc<Changes>,
    picked: Vec<Picked>,
}

/// An event that concerns a watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Picked {
    /// Its place in the revision.
    event: usize,
    /// The places of the selections that it is of, ascending.
    selections: Vec<usize>,
}

impl Told {
    /// The revision.
    pub fn revision(&self) -> Revision {
        self.changes.revision
    }

    /// The events, each with the places of the selections that it is of.
    pub fn events(&self) -> impl Iterator<Item = (&Event, &[usize])> {
        self.picked.iter().map(|picked| (&self.changes.events[picked.event], &*picked.selections))
    }

    /// Bytes of the keys and records in it.
    pub fn bytes(&self) -> usize {
        self.events().map(|(event, _)| event.bytes()).sum()
    }
}

impl Watch {
    /// One that is told of what happens after a revision.
    pub fn new(selections: Vec<Selection>, after: Revision) -> Self {
        let mut interests = Interests::default();
        for (place, selection) in selections.iter().enumerate() {
            interests.add(&selection.keys, place);
        }
        Self { selections, interests, told: after }
    }

    /// The revision up to which it was told everything.
    pub fn told(&self) -> Revision {
        self.told
    }

    /// What it has asked for.
    pub fn selections(&self) -> &[Selection] {
        &self.selections
    }

    /// Nothing up to a revision concerns it but what it was told. Does not go back.
    pub fn skip_to(&mut self, revision: Revision) {
        self.told = self.told.max(revision);
    }

    /// What concerns it of the changes that come next: as many as have `max_bytes` together, and at least one if there is any.
    /// The rest of the piece is to be asked for again.
    ///
    /// # Panics
    ///
    /// If the piece does not begin right after what was told.
    pub fn take(&mut self, piece: Piece, max_bytes: usize) -> Vec<Told> {
        let mut told = Vec::new();
        let mut bytes = 0;
        for change in piece.changes {
            if bytes >= max_bytes {
                return told;
            }
            if let Some(next) = self.tell(change) {
                bytes += next.bytes();
                told.push(next);
            }
        }
        self.skip_to(piece.upto);
        told
    }

    /// The places of the selections that a key is of, ascending, whatever happens to it.
    pub fn selections_of(&self, key: &Bytes) -> Vec<usize> {
        let mut selections = Vec::new();
        self.interests.each(key, |of: &usize| selections.push(*of));
        selections.sort_unstable();
        selections
    }

    fn tell(&mut self, changes: Arc<Changes>) -> Option<Told> {
        assert!(changes.revision > self.told, "nothing is told twice");
        self.told = changes.revision;
        let picked: Vec<Picked> =
            changes.events.iter().enumerate().filter_map(|(place, event)| self.pick(place, event)).collect();
        (!picked.is_empty()).then_some(Told { changes, picked })
    }

    fn pick(&self, place: usize, event: &Event) -> Option<Picked> {
        let mut selections = self.selections_of(&event.key);
        selections.retain(|of| self.selections[*of].causes.contains(event.cause));
        (!selections.is_empty()).then_some(Picked { event: place, selections })
    }
}

#[cfg(test)]
mod tests;
