//! What one process has handed to its log, and how much of it the process was told is durable.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorate_log::{Disk, Entry, GroupId, HardState, LogIndex, Reader, Record, Term};

/// A process' log as the process sees it.
///
/// *Life cycle*: read from the log when the process starts; then follows what the node persists.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    groups: BTreeMap<GroupId, GroupJournal>,
    /// What becomes durable with a ticket.
    waiting: VecDeque<(u64, Vec<(GroupId, Durable)>)>,
}

/// A group's part.
#[derive(Debug, Default)]
struct GroupJournal {
    entries: BTreeMap<u64, (u64, Bytes)>,
    hard_state: HardState,
    durable_hard_state: HardState,
    durable_last: u64,
}

#[derive(Debug)]
enum Durable {
    Hard(HardState),
    Last(u64),
    Forgotten,
}

impl Journal {
    /// The journal of a process that starts on a log.
    pub(crate) fn open<D: Disk>(log: &Reader<D>) -> Self {
        let mut journal = Self::default();
        for id in log.groups() {
            let state = log.group(id).unwrap_or_default();
            let (low, high) = (state.purged.index.0 + 1, state.last.index.0 + 1);
            let entries = log.entries(id, LogIndex(low), LogIndex(high), u64::MAX).unwrap_or_default();
            let mut group = GroupJournal {
                hard_state: state.hard_state,
                durable_hard_state: state.hard_state,
                durable_last: state.last.index.0,
                entries: BTreeMap::new(),
            };
            group.append(&entries);
            journal.groups.insert(id, group);
        }
        journal
    }

    /// The node hands records over. Fails if they contradict what it handed over before.
    pub(crate) fn on_persist(&mut self, ticket: u64, records: &[(GroupId, Record)]) -> Result<(), String> {
        let mut durable = Vec::new();
        for (id, record) in records {
            let group = self.groups.entry(*id).or_default();
            match record {
                Record::Append(entries) => {
                    group.append(entries);
                    durable.extend(entries.last().map(|entry| (*id, Durable::Last(entry.id.index.0))));
                }
                Record::HardState(state) => {
                    group.set_hard_state(*state).map_err(|why| format!("group {}: {why}", id.0))?;
                    durable.push((*id, Durable::Hard(*state)));
                }
                Record::Purge(to) => group.entries = group.entries.split_off(&(to.index.0 + 1)),
                Record::Reset(to) => {
                    group.entries.clear();
                    durable.push((*id, Durable::Last(to.index.0)));
                }
                Record::State(_) => {}
                Record::Destroy => {
                    *group = GroupJournal::default();
                    durable.push((*id, Durable::Forgotten));
                }
            }
        }
        self.waiting.push_back((ticket, durable));
        Ok(())
    }

    /// The node is told that everything up to a ticket is durable.
    pub(crate) fn on_durable(&mut self, ticket: u64) {
        while let Some((_, changes)) = self.waiting.pop_front_if(|(waiting, _)| *waiting <= ticket) {
            for (id, change) in changes {
                let group = self.groups.entry(id).or_default();
                match change {
                    Durable::Hard(state) => group.durable_hard_state = state,
                    Durable::Last(index) => group.durable_last = index,
                    Durable::Forgotten => group.durable_last = 0,
                }
            }
        }
    }

    /// The term and the payload of an entry.
    pub(crate) fn entry(&self, group: u64, index: u64) -> Option<&(u64, Bytes)> {
        self.groups.get(&GroupId(group))?.entries.get(&index)
    }

    /// The entries from an index on: index, term and payload.
    pub(crate) fn entries_from(&self, group: u64, first: u64) -> impl Iterator<Item = (u64, &(u64, Bytes))> {
        let group = self.groups.get(&GroupId(group));
        group.into_iter().flat_map(move |group| group.entries.range(first..).map(|(index, entry)| (*index, entry)))
    }

    /// The term and the vote that the node knows to be durable.
    pub(crate) fn durable_vote(&self, group: u64) -> (Term, u64) {
        self.groups
            .get(&GroupId(group))
            .map_or_else(Default::default, |group| (group.durable_hard_state.term, group.durable_hard_state.vote))
    }

    /// Entries of terms that the node does not know to be durable: group, index and term.
    pub(crate) fn lost_entries(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.groups.iter().flat_map(|(id, group)| {
            let is_lost = |term: u64| term > group.durable_hard_state.term.0;
            let lost = group.entries.iter().filter(move |(_, (term, _))| is_lost(*term));
            lost.map(|(index, (term, _))| (id.0, *index, *term))
        })
    }

    /// The last entry that the node knows to be durable.
    pub(crate) fn durable_last(&self, group: u64) -> u64 {
        self.groups.get(&GroupId(group)).map_or(0, |group| group.durable_last)
    }
}

impl GroupJournal {
    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        self.entries.split_off(&first.id.index.0);
        self.entries.extend(entries.iter().map(|entry| (entry.id.index.0, (entry.id.term.0, entry.payload.clone()))));
    }

    fn set_hard_state(&mut self, state: HardState) -> Result<(), String> {
        let before = std::mem::replace(&mut self.hard_state, state);
        if state.term < before.term {
            return Err(format!("the term goes back from {} to {}", before.term.0, state.term.0));
        }
        if state.term == before.term && before.vote != 0 && state.vote != before.vote {
            return Err(format!("the vote of term {} changes from {} to {}", state.term.0, before.vote, state.vote));
        }
        if state.commit < before.commit {
            return Err(format!("the commit index goes back from {} to {}", before.commit.0, state.commit.0));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quorate_log::LogId;

    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn hard_state(term: u64, vote: u64) -> Vec<(GroupId, Record)> {
        vec![(GROUP, Record::HardState(HardState { term: Term(term), vote, commit: LogIndex(0) }))]
    }

    fn append(term: u64, indexes: std::ops::Range<u64>) -> Vec<(GroupId, Record)> {
        let id = |index| LogId { term: Term(term), index: LogIndex(index) };
        vec![(GROUP, Record::Append(indexes.map(|index| Entry { id: id(index), payload: Bytes::new() }).collect()))]
    }

    #[test]
    fn votes_and_terms_that_go_back_are_found() {
        let mut journal = Journal::default();
        assert_eq!(journal.on_persist(1, &hard_state(3, 0)), Ok(()));
        assert_eq!(journal.on_persist(2, &hard_state(3, 7)), Ok(()));
        assert!(journal.on_persist(3, &hard_state(3, 8)).is_err());
        assert!(journal.on_persist(4, &hard_state(2, 8)).is_err());
    }

    #[test]
    fn durable_is_what_the_node_was_told() {
        let mut journal = Journal::default();
        journal.on_persist(1, &append(1, 1..5)).unwrap();
        journal.on_persist(2, &append(2, 3..4)).unwrap();
        assert_eq!((journal.durable_last(1), journal.entry(1, 4)), (0, None));
        assert_eq!(journal.entry(1, 3), Some(&(2, Bytes::new())));
        journal.on_durable(1);
        assert_eq!(journal.durable_last(1), 4);
        journal.on_durable(2);
        assert_eq!(journal.durable_last(1), 3);
    }
}
