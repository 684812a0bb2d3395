//! Values that are looked up elsewhere, because the engine may stall.
//!
//! What a replica sends of an engine on a disk is not read within its poll: it hands out what is to be looked up
//! ([`crate::Effect::LookUp`]), goes on with everything else, and makes the message once the values come back
//! ([`crate::Input::LookedUp`]). They are as of the moment when they were asked for, however long that takes: what leaves later
//! is no older than what would have left then.

use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Table, View};

use crate::entry::Entry;
use crate::message::{Pair, Payload};
use crate::replica::Replica;
use crate::store::{Place, ReplicaError};
use crate::version::InstanceId;

/// Lookups of a replica that are under way at once. Beyond it rounds wait, and others ask again.
pub(crate) const MAX_LOOKUPS: usize = 64;

/// What is to be looked up.
#[derive(Debug)]
pub struct Lookup {
    pub(crate) number: u64,
    /// From there.
    pub(crate) view: Arc<dyn View>,
    /// These, in the order of hashes.
    pub(crate) wanted: Vec<(Place, Wanted)>,
    /// So much at most, or what there is for one hash.
    pub(crate) max_bytes: u64,
}

/// What was found.
#[derive(Debug)]
pub struct LookedUp {
    pub(crate) number: u64,
    pub(crate) found: Found,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// In the view, if there is one.
    InView,
    /// The view does not have it yet: it is this, or the key went.
    Known(Option<Bytes>),
}

/// Pairs that were found, and how far that went.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) pairs: Vec<Pair>,
    /// The last that was looked up, if any was.
    last: Option<Place>,
    /// The first that was not.
    next: Option<Place>,
}

impl Found {
    /// How many of the hashes that were asked for were looked up.
    pub(crate) fn looked_at(&self, hashes: &[u64]) -> usize {
        let next = self.next.as_ref().and_then(|next| hashes.iter().position(|hash| *hash == next.0));
        next.unwrap_or(hashes.len())
    }

    /// Where it ends, which was to be there.
    pub(crate) fn end(&self, upto: Place) -> Place {
        self.last.clone().filter(|_| self.next.is_some()).unwrap_or(upto)
    }
}

impl Lookup {
    /// Looks it up: blocks for as long as the engine takes.
    pub fn run(self) -> Result<LookedUp, ReplicaError> {
        let mut found = Found::default();
        let mut bytes = 0;
        for (place, known) in self.wanted {
            let is_same_hash = found.last.as_ref().is_some_and(|last| last.0 == place.0);
            let value = match known {
                Wanted::Known(value) => value,
                Wanted::InView => self.view.peek(Table::Current, &place.1)?,
            };
            let entry = value.map(Entry::decode).transpose()?;
            bytes += entry.as_ref().map_or(0, |entry| place.1.len() + entry.body.size_bytes()) as u64;
            if bytes > self.max_bytes && found.last.is_some() && !is_same_hash {
                found.next = Some(place);
                break;
            }
            found.pairs.extend(entry.map(|entry| Pair { key: place.1.clone(), entry }));
            found.last = Some(place);
        }
        Ok(LookedUp { number: self.number, found })
    }
}

impl PartialEq for Lookup {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number && self.wanted == other.wanted
    }
}

impl Eq for Lookup {}

/// What is done with what is found.
#[derive(Debug)]
pub(crate) enum Then {
    /// A request of a round with this peer is sent.
    Send { to: InstanceId, round: u64, number: u64 },
    /// A peer that wants the entries of these hashes is given them.
    Give { to: InstanceId, round: u64, number: u64, hashes: Vec<u64> },
    /// A peer that reads is told.
    Tell { to: InstanceId, read: u64 },
}

impl Replica {
    /// Hands out a lookup, after which something is done.
    pub(crate) fn look_up(&mut self, lookup: Lookup, then: Then) {
        self.next_lookup += 1;
        self.lookups.insert(self.next_lookup, then);
        self.out.push(crate::Effect::LookUp(Lookup { number: self.next_lookup, ..lookup }));
    }

    /// Whether more may be looked up now.
    pub(crate) fn can_look_up(&self) -> bool {
        self.lookups.len() < MAX_LOOKUPS
    }

    /// A peer wants the entries of these hashes. If that is being looked up already, or too much is, it asks again.
    pub(crate) fn give(&mut self, to: InstanceId, (round, number): (u64, u64), hashes: Vec<u64>) {
        let asked = (to, round, number);
        let is_known = |then: &Then| matches!(then, Then::Give { to, round, number, .. } if (*to, *round, *number) == asked);
        if self.can_look_up() && !self.lookups.values().any(is_known) {
            let lookup = self.store.look_up_hashes(&hashes);
            self.look_up(lookup, Then::Give { to, round, number, hashes });
        }
    }

    /// A peer that reads asks for an entry. If too much is being looked up, it asks another one.
    pub(crate) fn tell_entry(&mut self, to: InstanceId, read: u64, key: &Bytes) {
        if self.can_look_up() {
            let lookup = self.store.look_up(key);
            self.look_up(lookup, Then::Tell { to, read });
        }
    }

    /// What was to be looked up was found.
    pub(crate) fn on_looked_up(&mut self, LookedUp { number, found }: LookedUp) {
        match self.lookups.remove(&number) {
            Some(Then::Send { to, round, number }) => {
                let now_ms = self.now.mono_ms;
                let Some(own) = self.peers.get_mut(&to).and_then(|peer| peer.round.as_mut()).filter(|own| own.is(round)) else {
                    return;
                };
                if let Some(payload) = own.on_found(number, found, (&self.store, &mut self.copies), now_ms) {
                    self.send(to, payload);
                }
            }
            Some(Then::Give { to, round, number, hashes }) => {
                let looked_at = found.looked_at(&hashes) as u32;
                self.send(to, Payload::Give { round, number, looked_at, pairs: found.pairs });
            }
            Some(Then::Tell { to, read }) => {
                let entry = found.pairs.into_iter().next().map(|pair| pair.entry);
                self.send(to, Payload::EntryTell { read, entry });
            }
            None => {}
        }
    }
}
