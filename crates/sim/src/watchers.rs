//! Watchers: each is told by some node what happens to keys, and goes on at another node when that one is gone.

use std::sync::Arc;

use quorate_engine::{KeyRange, View};
use quorate_keyspace::watch::{Causes, Feed, Piece, Selection, Told, Watch};
use quorate_keyspace::{Cause, Changes, Keys, PastError, Revision};
use quorate_log::GroupId;

use crate::host::{Boot, HostId, Process};
use crate::model::Model;
use crate::mutation::Mutation;
use crate::oracle::CLIENT_GROUP;
use crate::simulation::Simulation;
use crate::values::key_of;
use crate::violation::{Step, Violation};

/// All watchers.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    all: Vec<Watcher>,
}

/// A watcher.
#[derive(Debug)]
struct Watcher {
    /// Which process tells it.
    at: Option<(HostId, Boot)>,
    selections: Vec<Selection>,
    /// None until it began.
    watch: Option<Watch>,
    /// Up to here what it was told was compared with what happened.
    compared: Revision,
}

/// Feeds are so short that watchers fall behind.
const FEED_REVISIONS: usize = 30;
const FEED_BYTES: usize = 4 << 10;

/// How often it is tried to bring a watcher to the end, when nothing happens any more.
const MAX_LAST_TAKES: usize = 10_000;

impl Process {
    /// The feed of a replica that can be read here.
    fn feed_and_view(&mut self, group: u64) -> Option<(&mut Feed, Arc<dyn View>)> {
        let view = self.shell.view(group)?;
        let new = || Feed::with_bounds(Revision(view.revision()), FEED_REVISIONS, FEED_BYTES);
        Some((self.shell.feeds.entry(group).or_insert_with(new), view))
    }
}

impl Simulation {
    /// Lets watchers begin.
    pub(crate) fn start_watchers(&mut self) {
        for _ in 0..self.random.between(1, 5) {
            let selections = (0..self.random.between(1, 3)).map(|_| self.any_selection()).collect();
            self.watchers.all.push(Watcher { at: None, selections, watch: None, compared: Revision::default() });
        }
    }

    fn any_selection(&mut self) -> Selection {
        let key = key_of(self.random.below(self.scenario.load.keys));
        let keys = match self.random.below(3) {
            0 => Keys::One(key),
            1 => Keys::Range(KeyRange::prefix(&key)),
            _ => Keys::Range(KeyRange::all()),
        };
        let only_removals = Causes::NONE.and(Cause::Delete).and(Cause::Expire);
        Selection { keys, causes: if self.random.chance(200) { only_removals } else { Causes::ALL } }
    }

    /// A node has applied something.
    pub(crate) fn on_changes(&mut self, id: HostId, group: GroupId, at: Revision, changes: Vec<Changes>) -> Step {
        let Some(process) = &mut self.hosts[id.0].process else { return Ok(()) };
        let boot = process.boot;
        if let Some(feed) = process.shell.feeds.get_mut(&group.0) {
            feed.publish(at, changes);
        }
        if group.0 != CLIENT_GROUP {
            return Ok(());
        }
        for index in 0..self.watchers.all.len() {
            if self.watchers.all[index].at == Some((id, boot)) && self.random.chance(500) {
                self.tell_watcher(index)?;
            }
        }
        Ok(())
    }

    /// Time passes: watchers whose node is gone find another, and some go elsewhere for no reason.
    pub(crate) fn watchers_act(&mut self) -> Step {
        for index in 0..self.watchers.all.len() {
            let is_there = self.watchers.all[index].at.is_some_and(|(id, boot)| self.hosts[id.0].process_of(boot).is_some());
            if !is_there || self.random.chance(30) {
                let id = HostId(self.random.below(self.hosts.len() as u64) as usize);
                self.move_watcher(index, id);
            }
            self.tell_watcher(index)?;
        }
        Ok(())
    }

    fn move_watcher(&mut self, index: usize, id: HostId) {
        let process = self.hosts[id.0].process.as_mut().filter(|process| process.shell.paused.is_none());
        let Some((boot, at)) = process.and_then(|process| Some((process.boot, process.feed_and_view(CLIENT_GROUP)?.0.at())))
        else {
            return;
        };
        let watcher = &mut self.watchers.all[index];
        watcher.at = Some((id, boot));
        match &mut watcher.watch {
            None => {
                watcher.watch = Some(Watch::new(watcher.selections.clone(), at));
                watcher.compared = at;
            }
            Some(watch) => {
                self.coverage.count("watchers that went on elsewhere");
                if self.scenario.mutation == Some(Mutation::WatchResumesAtPresent) {
                    watch.skip_to(at);
                }
            }
        }
    }

    /// A watcher takes what its node has for it.
    fn tell_watcher(&mut self, index: usize) -> Step {
        let Watcher { at, watch, compared, .. } = &mut self.watchers.all[index];
        let Some(((id, boot), watch)) = at.zip(watch.as_mut()) else { return Ok(()) };
        let Some(process) = self.hosts[id.0].process_of(boot).filter(|process| process.shell.paused.is_none()) else {
            return Ok(());
        };
        let max_bytes = *self.random.pick(&[1, 300, usize::MAX]).expect("not empty");
        let max_revisions = *self.random.pick(&[1, 3, usize::MAX]).expect("not empty");
        let Some((feed, view)) = process.feed_and_view(CLIENT_GROUP) else { return Ok(()) };
        let before = watch.told();
        let piece = match feed.after(before, max_revisions) {
            Some(piece) => Ok(piece),
            None => {
                self.coverage.count("times that a watcher read the past");
                Piece::of_history(&*view, before, max_revisions, max_bytes)
            }
        };
        match piece {
            Ok(piece) => {
                let mut told = watch.take(piece, max_bytes);
                if self.scenario.mutation == Some(Mutation::WatchTellsHalf) {
                    told.truncate(told.len().div_ceil(2));
                }
                self.coverage.add("revisions that watchers were told", told.len() as u64);
                let after = std::mem::replace(compared, watch.told());
                let seen = Seen { selections: watch.selections(), told: &told, after, upto: watch.told() };
                self.oracle.check_told(index, &seen)
            }
            Err(PastError::Compacted(_)) => {
                self.coverage.count("watchers that fell behind");
                *watch = Watch::new(watch.selections().to_vec(), feed.at());
                *compared = feed.at();
                Ok(())
            }
            Err(error) => Err(Violation::new("the past can be read", format!("w{index} after {before} at {id}: {error}"))),
        }
    }

    /// Nothing happens any more: every watcher comes to know all there is.
    pub(crate) fn check_watchers_know_all(&mut self) -> Step {
        let members: Vec<HostId> = self.operator.members.iter().copied().collect();
        for index in 0..self.watchers.all.len() {
            let id = *self.random.pick(&members).expect("a cluster has members");
            self.move_watcher(index, id);
            let is_done = |simulation: &Self| {
                let told = simulation.watchers.all[index].watch.as_ref().map(Watch::told);
                told >= Some(Revision(simulation.oracle.clients_revision()))
            };
            for _ in 0..MAX_LAST_TAKES {
                if is_done(self) {
                    break;
                }
                self.tell_watcher(index)?;
            }
            if !is_done(self) {
                let watcher = &self.watchers.all[index];
                return Err(Violation::new("watchers are told everything", format!("w{index} at {id} is left at {watcher:?}")));
            }
        }
        Ok(())
    }
}

/// What a watcher was told of these revisions.
pub(crate) struct Seen<'a> {
    pub(crate) selections: &'a [Selection],
    pub(crate) told: &'a [Told],
    pub(crate) after: Revision,
    pub(crate) upto: Revision,
}

impl Seen<'_> {
    /// Compares it with what happened: each change of what is watched once, in order, whole revisions.
    pub(crate) fn check(&self, model: &Model) -> Result<(), String> {
        let told: Vec<(u64, Vec<Plain>)> =
            self.told.iter().map(|told| Ok((told.revision().0, plain(told)?))).collect::<Result<_, String>>()?;
        let mut expected: Vec<(u64, Vec<Plain>)> = (self.after.0 + 1..=self.upto.0)
            .map(|revision| (revision, self.expected(model, revision)))
            .filter(|(_, events)| !events.is_empty())
            .collect();
        for ((revision, told), (_, expected)) in told.iter().zip(&mut expected) {
            // What was there before the compact revision may be gone.
            let is_gone = |told: &Plain| told.before.is_none() && *revision <= model.compacted();
            let gone = told.iter().zip(expected).filter(|(told, _)| is_gone(told));
            gone.for_each(|(_, expected)| expected.before = None);
        }
        if told == expected {
            return Ok(());
        }
        Err(format!(
            "after {} up to {}, watching {:?}: told {told:?}, made was {expected:?}",
            self.after, self.upto, self.selections
        ))
    }

    fn expected(&self, model: &Model, revision: u64) -> Vec<Plain> {
        let mut events: Vec<Plain> = Vec::new();
        for change in model.changes(revision) {
            let at = |revision| model.get(&change.key, revision).cloned();
            let (before, after) = (at(revision - 1), at(revision));
            let cause = match after {
                Some(_) => Cause::Put,
                None if model.is_expiry(revision) => Cause::Expire,
                None => Cause::Delete,
            };
            let of: Vec<usize> = (0..self.selections.len())
                .filter(|place| {
                    let Selection { keys, causes } = &self.selections[*place];
                    causes.contains(cause) && keys.contains(&change.key)
                })
                .collect();
            let is_new = events.iter().all(|event| event.key != change.key);
            if is_new && !of.is_empty() && (before.is_some() || after.is_some()) {
                events.push(Plain { key: change.key.clone(), before, after, of });
            }
        }
        events
    }
}

/// An event, in the model's words.
#[derive(Debug, PartialEq, Eq)]
struct Plain {
    key: bytes::Bytes,
    before: Option<(quorate_keyspace::KeyMeta, bytes::Bytes)>,
    after: Option<(quorate_keyspace::KeyMeta, bytes::Bytes)>,
    of: Vec<usize>,
}

fn plain(told: &Told) -> Result<Vec<Plain>, String> {
    let events = told.events().map(|(event, of)| {
        let pair = |record: quorate_keyspace::Record| (record.meta, record.value);
        let before = event.record_before().map_err(|error| error.to_string())?.map(pair);
        let after = event.record().map_err(|error| error.to_string())?.map(pair);
        Ok(Plain { key: event.key.clone(), before, after, of: of.to_vec() })
    });
    events.collect()
}
