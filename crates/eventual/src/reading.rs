//! Reads that ask others: the greatest version that anybody answers with is fetched, kept here, and returned.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::entry::Entry;
use crate::io::{Answer, Refusal};
use crate::message::{Known, Pair, Payload};
use crate::options::{MAX_WAITING_READS, Trigger};
use crate::replica::Replica;
use crate::store::ReplicaError;
use crate::version::{InstanceId, Version};

/// Reads under way.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    next: u64,
    open: BTreeMap<u64, Read>,
    by_key: BTreeMap<Bytes, u64>,
    /// How many clients wait.
    waiting: usize,
}

/// Others are asked for one key; all clients who want it meanwhile wait for the same answers, or for the next.
#[derive(Debug)]
struct Read {
    key: Bytes,
    tokens: Vec<u64>,
    /// Came after others were asked: what was answered may be older than they must see.
    late: Vec<u64>,
    asked: BTreeSet<InstanceId>,
    answers: BTreeMap<InstanceId, Option<Version>>,
    /// Who could not say.
    unknown: BTreeSet<InstanceId>,
    /// From whom the entry is being fetched.
    fetching: Option<InstanceId>,
    /// Who did not deliver.
    failed: BTreeSet<InstanceId>,
    deadline_ms: u64,
}

impl Reads {
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.open.values().map(|read| read.deadline_ms).min()
    }
}

impl Replica {
    pub(crate) fn on_read(&mut self, token: u64, key: Bytes) -> Result<(), ReplicaError> {
        if !self.is_up() {
            self.reply(token, Answer::Refused(Refusal::NotUp));
            return Ok(());
        }
        if self.reads.waiting >= MAX_WAITING_READS {
            self.reply(token, Answer::Refused(Refusal::Overloaded));
            return Ok(());
        }
        self.reads.waiting += 1;
        if let Some(read) = self.reads.by_key.get(&key).and_then(|id| self.reads.open.get_mut(id)) {
            read.late.push(token);
            return Ok(());
        }
        self.begin_read(key, vec![token])
    }

    fn begin_read(&mut self, key: Bytes, tokens: Vec<u64>) -> Result<(), ReplicaError> {
        let (fanout, deadline_ms) = match self.options.trigger {
            Trigger::Read { fanout, deadline_ms, .. } => (fanout, deadline_ms),
            Trigger::Write(_) | Trigger::Copy(_) => (0, 0),
        };
        let mut others: Vec<InstanceId> = self.others_up().into_iter().collect();
        // Whom a read asks that does not ask all, chance decides: so that everybody's turn comes.
        while others.len() > fanout {
            let out = self.draw(others.len() as u64) as usize;
            others.swap_remove(out);
        }
        self.reads.next += 1;
        let id = self.start << 32 | self.reads.next;
        for other in &others {
            self.send(*other, Payload::VersionAsk { read: id, key: key.clone() });
        }
        self.reads.by_key.insert(key.clone(), id);
        let read = Read {
            key,
            tokens,
            late: Vec::new(),
            asked: others.into_iter().collect(),
            answers: BTreeMap::new(),
            unknown: BTreeSet::new(),
            fetching: None,
            failed: BTreeSet::new(),
            deadline_ms: self.now.mono_ms + deadline_ms,
        };
        self.reads.open.insert(id, read);
        self.advance_read(id)
    }

    pub(crate) fn on_version_told(&mut self, from: InstanceId, id: u64, known: Known) -> Result<(), ReplicaError> {
        let Some(read) = self.reads.open.get_mut(&id).filter(|read| read.asked.contains(&from)) else { return Ok(()) };
        match known {
            Known::Nothing => _ = read.unknown.insert(from),
            Known::Absent => _ = read.answers.insert(from, None),
            Known::Version(version) => _ = read.answers.insert(from, Some(version)),
        }
        self.advance_read(id)
    }

    pub(crate) fn on_entry_told(&mut self, from: InstanceId, id: u64, entry: Option<Entry>) -> Result<(), ReplicaError> {
        let Some(read) = self.reads.open.get_mut(&id).filter(|read| read.fetching == Some(from)) else { return Ok(()) };
        read.fetching = None;
        let key = read.key.clone();
        match entry {
            Some(entry) => {
                self.counts.repairs += 1;
                self.merge_all(&[Pair { key: key.clone(), entry }]);
            }
            None => _ = read.failed.insert(from),
        }
        // It may have delivered less than it told, having dropped what everybody has.
        let own = self.store.version(&key);
        if let Some(read) = self.reads.open.get_mut(&id)
            && read.answers.get(&from).copied().flatten() > own
        {
            read.failed.insert(from);
        }
        self.advance_read(id)
    }

    /// Takes a read a step on: waits for answers, fetches the greatest, answers.
    fn advance_read(&mut self, id: u64) -> Result<(), ReplicaError> {
        let Some(read) = self.reads.open.get_mut(&id) else { return Ok(()) };
        let is_late = self.now.mono_ms >= read.deadline_ms;
        let is_answered = read.answers.len() + read.unknown.len() >= read.asked.len();
        if read.fetching.is_some() && !is_late {
            return Ok(());
        }
        if is_answered && !is_late {
            let own = self.store.version(&read.key);
            let usable = read.answers.iter().filter(|(from, _)| !read.failed.contains(from));
            let best = usable.max_by_key(|(_, version)| **version).map(|(from, version)| (*from, *version));
            if let Some((from, version)) = best
                && version > own
                && version.is_some_and(|version| version.hlc > self.fence)
            {
                read.fetching = Some(from);
                let payload = Payload::EntryAsk { read: id, key: read.key.clone() };
                self.send(from, payload);
                return Ok(());
            }
        }
        if is_answered || is_late {
            return self.end_read(id, is_late);
        }
        Ok(())
    }

    fn end_read(&mut self, id: u64, is_late: bool) -> Result<(), ReplicaError> {
        let Some(mut read) = self.reads.open.remove(&id) else { return Ok(()) };
        self.reads.by_key.remove(&read.key);
        let entry = self.store.get(&read.key)?;
        let own = entry.as_ref().map(|entry| entry.version);
        if is_late {
            // Who told of something newer and did not deliver in time has not answered.
            read.answers.retain(|_, version| *version <= own);
        }
        let (answered, asked) = (read.answers.len() as u32, read.asked.len() as u32);
        let (needed, repairs) = match self.options.trigger {
            Trigger::Read { min_answers, repairs_others, .. } => (min_answers as u32, repairs_others),
            Trigger::Write(_) | Trigger::Copy(_) => (0, false),
        };
        if repairs && let Some(entry) = &entry {
            let behind: Vec<InstanceId> =
                read.answers.iter().filter(|(_, version)| **version < own).map(|(from, _)| *from).collect();
            for from in behind {
                let pairs = vec![Pair { key: read.key.clone(), entry: entry.clone() }];
                self.send(from, Payload::Repair { pairs });
            }
        }
        self.reads.waiting -= read.tokens.len();
        let found = entry.filter(|entry| entry.is_live(self.now.wall_ms));
        for token in std::mem::take(&mut read.tokens) {
            let answer = if answered < needed {
                Answer::Refused(Refusal::TooFewAnswers { answered, needed })
            } else {
                Answer::Found { entry: found.clone(), answered, asked }
            };
            self.reply(token, answer);
        }
        if read.late.is_empty() { Ok(()) } else { self.begin_read(read.key, read.late) }
    }

    /// Ends reads whose time is up.
    pub(crate) fn follow_reads(&mut self) -> Result<(), ReplicaError> {
        let now_ms = self.now.mono_ms;
        let late: Vec<u64> = self.reads.open.iter().filter(|(_, read)| read.deadline_ms <= now_ms).map(|(id, _)| *id).collect();
        late.into_iter().try_for_each(|id| self.advance_read(id))
    }
}
