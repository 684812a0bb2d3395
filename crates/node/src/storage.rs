//! raft-rs' view of a group's log: a cache of recent entries before the log on disk.
//!
//! raft-rs asks for entries that it handed out for persisting and that are not durable yet; those are in the cache only.
//! Older ones are read from disk: a follower that is far behind costs reads, not memory.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_log::{Disk, GroupId, LogId, LogIndex, Reader};
use raft::eraftpb::{Entry, HardState, Snapshot};
use raft::prelude::ConfState;
use raft::{Error, GetEntriesContext, RaftState, Storage, StorageError};

use crate::convert::entry_from_log;

/// A group's log as raft-rs sees it.
///
/// *Invariants*: entries in the cache are consecutive, and end at `last`; `purged` is before the first entry that can be
/// read; what is in the cache and on disk is the same once it is durable.
pub(crate) struct GroupLog<D: Disk> {
    group: GroupId,
    reader: Reader<D>,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    max_cache_bytes: usize,
    /// The entry before the first one.
    purged: LogId,
    last_index: u64,
    /// Entries up to here may leave the cache: they are durable.
    durable_index: u64,
    initial: RaftState,
    /// The newest snapshot that a follower can have.
    snapshot: Option<(LogId, ConfState)>,
    /// A follower asked for a snapshot newer than the newest; told at the next poll.
    pub(crate) wants_snapshot: std::cell::Cell<bool>,
}

impl<D: Disk> GroupLog<D> {
    /// The log of a group as it lies on disk.
    pub(crate) fn open(group: GroupId, reader: Reader<D>, max_cache_bytes: usize, conf_state: ConfState) -> Self {
        let state = reader.group(group).unwrap_or_default();
        let mut hard_state = HardState::default();
        hard_state.term = state.hard_state.term.0;
        hard_state.vote = state.hard_state.vote;
        hard_state.commit = state.hard_state.commit.0;
        Self {
            group,
            reader,
            cache: VecDeque::new(),
            cache_bytes: 0,
            max_cache_bytes,
            purged: state.purged,
            last_index: state.last.index.0,
            durable_index: state.last.index.0,
            initial: RaftState::new(hard_state, conf_state),
            snapshot: None,
            wants_snapshot: std::cell::Cell::new(false),
        }
    }

    /// Begins a log that is not on disk yet, after this entry.
    pub(crate) fn found(&mut self, at: LogId) {
        self.reset(at);
        self.initial.hard_state.term = at.term.0;
        self.initial.hard_state.commit = at.index.0;
    }

    /// What raft-rs begins with.
    pub(crate) fn set_initial(&mut self, commit: u64, conf_state: ConfState) {
        self.initial.hard_state.commit = commit;
        self.initial.conf_state = conf_state;
    }

    /// The commit index that was last made durable.
    pub(crate) fn initial_commit(&self) -> u64 {
        self.initial.hard_state.commit
    }

    /// Adds entries, dropping those at or after the first one's index.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(first.index > self.purged.index.0, "what was purged is never written again");
        while self.cache.back().is_some_and(|entry| entry.index >= first.index) {
            self.drop_newest();
        }
        assert!(first.index <= self.last_index + 1, "the log has no gaps");
        self.durable_index = self.durable_index.min(first.index - 1);
        for entry in entries {
            self.cache_bytes += cached_bytes(entry);
            self.last_index = entry.index;
            self.cache.push_back(entry.clone());
        }
    }

    /// Everything up to this entry is durable. One that was overwritten since says nothing about what stands there now.
    pub(crate) fn on_durable(&mut self, entry: LogId) {
        if !Storage::term(self, entry.index.0).is_ok_and(|term| term == entry.term.0) {
            return;
        }
        self.durable_index = self.durable_index.max(entry.index.0);
        while self.cache_bytes > self.max_cache_bytes && self.cache.front().is_some_and(|entry| entry.index <= self.durable_index)
        {
            self.drop_oldest();
        }
    }

    /// Forgets entries up to and including this one; they lie behind a durable point.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if upto.index <= self.purged.index {
            return;
        }
        self.purged = upto;
        while self.cache.front().is_some_and(|entry| entry.index <= upto.index.0) {
            self.drop_oldest();
        }
    }

    /// Forgets everything: the log goes on after a snapshot.
    pub(crate) fn reset(&mut self, to: LogId) {
        self.cache.clear();
        self.cache_bytes = 0;
        self.purged = to;
        self.last_index = to.index.0;
        self.durable_index = to.index.0;
    }

    /// Offers a snapshot to followers that need one.
    pub(crate) fn set_snapshot(&mut self, at: LogId, conf_state: ConfState) {
        self.snapshot = Some((at, conf_state));
    }

    /// Whose it is.
    pub(crate) fn group(&self) -> GroupId {
        self.group
    }

    /// The entry before the first one.
    pub(crate) fn purged(&self) -> LogId {
        self.purged
    }

    /// Bytes of the group's log on disk.
    pub(crate) fn bytes_on_disk(&self) -> u64 {
        self.reader.group_bytes(self.group)
    }

    /// (index, term, payload) of entries, read past the cache; for replay at start.
    pub(crate) fn replay(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<(u64, u64, Bytes)>, quorate_log::LogError> {
        let entries = self.reader.entries(self.group, LogIndex(low), LogIndex(high), max_bytes)?;
        Ok(entries.into_iter().map(|entry| (entry.id.index.0, entry.id.term.0, entry.payload)).collect())
    }

    fn drop_newest(&mut self) {
        if let Some(entry) = self.cache.pop_back() {
            self.cache_bytes -= cached_bytes(&entry);
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= cached_bytes(&entry);
        }
    }

    fn first_cached(&self) -> u64 {
        self.cache.front().map_or(self.last_index + 1, |entry| entry.index)
    }

    fn cached(&self, low: u64, high: u64, max_bytes: u64, entries: &mut Vec<Entry>, mut size_bytes: u64) {
        let start = (low - self.first_cached()) as usize;
        for entry in self.cache.iter().skip(start).take((high - low) as usize) {
            size_bytes += cached_bytes(entry) as u64;
            if size_bytes > max_bytes && !entries.is_empty() {
                return;
            }
            entries.push(entry.clone());
        }
    }

    fn read_from_disk(&self, low: u64, high: u64, max_bytes: u64) -> raft::Result<Vec<Entry>> {
        let read = self.reader.entries(self.group, LogIndex(low), LogIndex(high), max_bytes);
        let logged = read.map_err(|error| Error::Store(StorageError::Other(Box::new(error))))?;
        Ok(logged.into_iter().map(entry_from_log).collect())
    }
}

fn cached_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + size_of::<Entry>()
}

impl<D: Disk> Storage for GroupLog<D> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> raft::Result<Vec<Entry>> {
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        if low <= self.purged.index.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last_index + 1, "entries are asked for up to the last");
        let first_cached = self.first_cached();
        let mut entries = Vec::new();
        let mut size_bytes = 0;
        if low < first_cached {
            let upto = high.min(first_cached);
            entries = self.read_from_disk(low, upto, max_bytes)?;
            size_bytes = entries.iter().map(|entry| cached_bytes(entry) as u64).sum();
            if entries.len() as u64 != upto - low || size_bytes >= max_bytes {
                return Ok(entries);
            }
        }
        let from = low.max(first_cached);
        if from < high {
            self.cached(from, high, max_bytes, &mut entries, size_bytes);
        }
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.purged.index.0 {
            return Ok(self.purged.term.0);
        }
        if index < self.purged.index.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        if index > self.last_index {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let first_cached = self.first_cached();
        if index >= first_cached {
            return Ok(self.cache[(index - first_cached) as usize].term);
        }
        let term = self.reader.term(self.group, LogIndex(index));
        term.map(|term| term.0).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.purged.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // raft-rs refuses a snapshot whose membership does not name the receiver: it was cut before that was added.
        let names = |state: &ConfState| state.voters.contains(&to) || state.learners.contains(&to);
        match &self.snapshot {
            Some((at, conf_state)) if at.index.0 >= request_index && at.index >= self.purged.index && names(conf_state) => {
                Ok(crate::convert::snapshot(at.index.0, at.term.0, conf_state.clone()))
            }
            _ => {
                self.wants_snapshot.set(true);
                Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests;
