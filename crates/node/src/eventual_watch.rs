//! What replicas of eventual keyspaces changed, as watches have it.
//!
//! Each replica counts the batches of its engine, and that count is the revision of which its watchers are told. It begins anew
//! with each start of the replica, so a number of its own goes along with it: who comes back with another one is told that
//! what he wants to go on from is not here.

use quorate_eventual::{Cause as Why, Changes as Told, Event as Happened, Replica};
use quorate_keyspace::{Cause, Changes, Event, Revision};
use quorate_log::GroupId;

use crate::io::Effect;

/// Names the revisions that this start of a replica counts: two starts never have the same, nor have two replicas of one
/// keyspace; those of others by an accident of 64 bits.
pub(crate) fn watch_epoch(replica: &Replica) -> u64 {
    let group = replica.options().digest_seed;
    mixed(mixed(group ^ u64::from(replica.instance().0)) ^ replica.start())
}

/// The revision of a batch. That of an empty replica is the first, as everywhere.
pub(crate) fn revision_of(batch: u64) -> Revision {
    Revision(Revision::FIRST.0 + batch)
}

/// Tells the shell. Too much to be told is a step over the revision.
pub(crate) fn changed(group: GroupId, replica: &Replica, told: Told) -> Effect {
    let revision = revision_of(told.revision);
    let changes = told.events.map(|events| Changes { revision, events: events.into_iter().map(event).collect() });
    Effect::Changes { group, watch_epoch: Some(watch_epoch(replica)), revision, changes: changes.into_iter().collect() }
}

fn event(Happened { key, cause, after, before }: Happened) -> Event {
    let cause = match cause {
        Why::Put => Cause::Put,
        Why::Delete => Cause::Delete,
        Why::Expire => Cause::Expire,
    };
    Event { key, cause, after, before }
}

/// Other numbers for other numbers (the end of `SplitMix64`, which can be undone).
fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
