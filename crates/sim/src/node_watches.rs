//! Who watches an eventual keyspace at one node: what he is told, taken in, is what that node holds, at every revision.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;
use quorate_engine::Table;
use quorate_keyspace::{Cause, Changes, Event, Revision};
use quorate_log::GroupId;
use quorate_node::eventual_replication::{Entry as Stored, Version};
use quorate_node::{Hosted, HostedKeyspace};

use crate::host::{HostId, Process};
use crate::mutation::Mutation;
use crate::simulation::Simulation;
use crate::violation::{Step, Violation};

/// What was told of one replica since it could be read.
#[derive(Debug)]
pub(crate) struct Told {
    watch_epoch: u64,
    at: Revision,
    /// Values, encoded.
    held: BTreeMap<Bytes, Bytes>,
    versions: BTreeMap<Bytes, Version>,
}

fn decoded(bytes: &Bytes) -> Result<Stored, String> {
    Stored::decode(bytes.clone()).map_err(|error| error.to_string())
}

/// What names a replica's revisions, the one at which it stands, and its values.
type Present = ((u64, Revision), BTreeMap<Bytes, Bytes>);

fn present(hosted: &HostedKeyspace) -> Result<Present, String> {
    let view = hosted.engine.view();
    let mut values = BTreeMap::new();
    for pair in view.pairs(Table::Current) {
        let (key, encoded) = pair.map_err(|error| error.to_string())?;
        if !decoded(&encoded)?.is_dead() {
            values.insert(key, encoded);
        }
    }
    Ok((hosted.watched_at(&*view), values))
}

impl Process {
    /// Other replicas can be read now, or the same counting anew: who watches begins with what is there.
    pub(crate) fn follow_watches(&mut self, hosted: &Hosted) -> Result<(), String> {
        let counting = hosted.keyspaces.values().filter_map(|keyspace| Some((keyspace.group.0, keyspace.watch_epoch?, keyspace)));
        let counting: Vec<_> = counting.collect();
        self.shell.told.retain(|group, told| counting.iter().any(|(at, epoch, _)| (at, *epoch) == (group, told.watch_epoch)));
        for (group, watch_epoch, keyspace) in counting {
            if let Entry::Vacant(place) = self.shell.told.entry(group) {
                let ((_, at), held) = present(keyspace)?;
                place.insert(Told { watch_epoch, at, held, versions: BTreeMap::new() });
            }
        }
        Ok(())
    }
}

impl Simulation {
    /// A node has applied something to a replica that counts on its own.
    pub(crate) fn on_own_changes(
        &mut self,
        id: HostId,
        (group, watch_epoch): (GroupId, u64),
        at: Revision,
        mut changes: Vec<Changes>,
    ) -> Step {
        if self.scenario.mutation == Some(Mutation::NodeWatchTellsHalf) {
            changes.iter_mut().for_each(|changes| changes.events.truncate(changes.events.len() / 2));
        }
        let is_mirror = self.writers.source.is_some();
        let Some(process) = &mut self.hosts[id.0].process else { return Ok(()) };
        let hosted = process.shell.hosted.keyspaces.values().find(|keyspace| keyspace.group == group);
        let told = process.shell.told.get_mut(&group.0).filter(|told| told.watch_epoch == watch_epoch);
        let (Some(told), Some(hosted)) = (told, hosted) else { return Ok(()) };
        let wrong = |why: String| Violation::new("who watches a node knows what it holds", format!("{id}, {group:?}: {why}"));
        self.coverage.add("revisions told of eventual replicas", changes.len() as u64);
        let known = told.at;
        for changes in changes.into_iter().filter(|changes| changes.revision > known) {
            if changes.revision != told.at.next() {
                return Err(wrong(format!("told of {} after {}", changes.revision, told.at)));
            }
            told.at = changes.revision;
            for event in changes.events {
                told.take(event, is_mirror).map_err(wrong)?;
            }
        }
        if at > told.at {
            return Err(wrong(format!("{at} was too much to be told, and nobody writes that much")));
        }
        let (now, values) = present(hosted).map_err(wrong)?;
        if now == (watch_epoch, told.at) && values != told.held {
            return Err(wrong(format!("at {} it holds {values:?}, and told was {:?}", told.at, told.held)));
        }
        Ok(())
    }
}

impl Told {
    /// `is_mirror`: what a copy has not goes without a trace, and of another source keys may be older.
    fn take(&mut self, Event { key, cause, after, .. }: Event, is_mirror: bool) -> Result<(), String> {
        let Some(entry) = after.as_ref().map(decoded).transpose()? else {
            let is_seen = is_mirror && self.held.remove(&key).is_some();
            return if is_seen { Ok(()) } else { Err(format!("{cause:?} of {key:?} was told, and no entry")) };
        };
        let known = self.versions.insert(key.clone(), entry.version).filter(|_| !is_mirror);
        if known.is_some_and(|known| known > entry.version || (known == entry.version && cause != Cause::Expire)) {
            return Err(format!("{key:?} was told at {known:?}, and then at {:?}", entry.version));
        }
        let is_seen = match after.filter(|_| cause == Cause::Put) {
            Some(value) => self.held.insert(key.clone(), value).is_some() || !entry.is_dead(),
            None => self.held.remove(&key).is_some(),
        };
        if is_seen { Ok(()) } else { Err(format!("{cause:?} of {key:?} was told, and nothing was there")) }
    }
}
