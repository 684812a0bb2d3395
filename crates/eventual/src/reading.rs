//! Reads that ask others: the greatest version that anybody answers with is fetched, kept here, and returned. In the modes where
//! reads ask, those are whom the keyspace says; in a session, in all modes, those who may have later what the client has seen.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::entry::Entry;
use crate::io::{Answer, MemberState, Refusal};
use crate::message::{Known, Pair, Payload};
use crate::options::{MAX_WAITING_READS, SESSION_WAIT_MS, Trigger};
use crate::replica::Replica;
use crate::session::Session;
use crate::store::ReplicaError;
use crate::version::{Hlc, InstanceId, Version};

/// Reads under way.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    next: u64,
    open: BTreeMap<u64, Read>,
    by_key: BTreeMap<Bytes, u64>,
    /// How many clients wait.
    waiting: usize,
}

/// Others are asked for one key; all clients who want it meanwhile wait for the same answers, or for the next. Whoever is in a
/// session asks for himself.
#[derive(Debug)]
struct Read {
    key: Bytes,
    tokens: Vec<u64>,
    /// Came after others were asked: what was answered may be older than they must see.
    late: Vec<u64>,
    /// What the client has seen, if it is in a session; and whom that needs an answer of.
    session: Option<Session>,
    needs: BTreeSet<InstanceId>,
    asked: BTreeSet<InstanceId>,
    /// Those of them that are not waited for: they have not been heard of for long.
    silent: BTreeSet<InstanceId>,
    answers: BTreeMap<InstanceId, Option<Version>>,
    /// Who could not say.
    unknown: BTreeSet<InstanceId>,
    /// From whom the entry is being fetched.
    fetching: Option<InstanceId>,
    /// What came, where it is not kept.
    fetched: Option<Entry>,
    /// Who did not deliver.
    failed: BTreeSet<InstanceId>,
    /// How long the others are waited for.
    deadline_ms: u64,
    /// How long those are waited for that a session needs.
    needed_until_ms: u64,
}

impl Read {
    /// Until when entries are fetched.
    fn limit_ms(&self) -> u64 {
        if self.needs.is_empty() { self.deadline_ms } else { self.needed_until_ms.max(self.deadline_ms) }
    }

    /// Until when something is waited for: answers, or the entry that is being fetched.
    fn due_ms(&self) -> u64 {
        if self.fetching.is_some() {
            return self.limit_ms();
        }
        let is_waited_for = |id: &InstanceId| self.needs.contains(id) || !self.silent.contains(id);
        let has_told = |id: &InstanceId| self.answers.contains_key(id) || self.unknown.contains(id);
        let is_open = |id: &&InstanceId| is_waited_for(id) && !has_told(id);
        let open = self.asked.iter().filter(is_open);
        open.map(|id| if self.needs.contains(id) { self.limit_ms() } else { self.deadline_ms }).max().unwrap_or(0)
    }
}

impl Reads {
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.open.values().map(Read::due_ms).min()
    }
}

impl Replica {
    pub(crate) fn on_read(
        &mut self,
        token: u64,
        key: Bytes,
        session: Option<Session>,
        deadline_ms: u64,
    ) -> Result<(), ReplicaError> {
        if !self.is_up() {
            self.reply(token, Answer::Refused(Refusal::NotUp));
            return Ok(());
        }
        if self.reads.waiting >= MAX_WAITING_READS {
            self.reply(token, Answer::Refused(Refusal::Overloaded));
            return Ok(());
        }
        self.reads.waiting += 1;
        if let Some(session) = session {
            // Whoever waits for somebody holds up nobody else.
            return self.begin_read(key, vec![token], Some((session, deadline_ms)));
        }
        if let Some(read) = self.reads.by_key.get(&key).and_then(|id| self.reads.open.get_mut(id)) {
            read.late.push(token);
            return Ok(());
        }
        self.begin_read(key, vec![token], None)
    }

    fn begin_read(&mut self, key: Bytes, tokens: Vec<u64>, session: Option<(Session, u64)>) -> Result<(), ReplicaError> {
        let (fanout, deadline_ms, min_answers) = match self.options.trigger {
            Trigger::Read { fanout, deadline_ms, min_answers, .. } => (fanout, deadline_ms, min_answers),
            Trigger::Write(_) | Trigger::Copy(_) => (0, 0, 0),
        };
        let (now_ms, silent_ms) = (self.now.mono_ms, self.silent_ms());
        let is_silent = |id: &InstanceId| self.peers.get(id).is_none_or(|peer| peer.is_silent(now_ms, silent_ms));
        let (mut silent, mut asked): (Vec<InstanceId>, Vec<InstanceId>) = self.others_up().into_iter().partition(is_silent);
        // Whom a read asks that does not ask all, chance decides among those who are there: so that everybody's turn comes.
        while asked.len() > fanout {
            let out = self.draw(asked.len() as u64) as usize;
            asked.swap_remove(out);
        }
        silent.truncate(fanout - asked.len());
        asked.extend(&silent);
        if asked.len() < min_answers + silent.len() {
            // The others alone are too few.
            silent.clear();
        }
        let (session, until_ms) = session.unzip();
        let needs = session.as_ref().map(|session| self.whom_it_needs(session, Some(&key))).unwrap_or_default();
        let asked: BTreeSet<InstanceId> = asked.into_iter().chain(needs.iter().copied()).collect();
        self.reads.next += 1;
        let id = self.start << 32 | self.reads.next;
        for other in &asked {
            self.send(*other, Payload::VersionAsk { read: id, key: key.clone() });
        }
        if session.is_none() {
            self.reads.by_key.insert(key.clone(), id);
        }
        let read = Read {
            key,
            tokens,
            late: Vec::new(),
            session,
            needs,
            asked,
            silent: silent.into_iter().collect(),
            answers: BTreeMap::new(),
            unknown: BTreeSet::new(),
            fetching: None,
            fetched: None,
            failed: BTreeSet::new(),
            deadline_ms: now_ms + deadline_ms,
            needed_until_ms: until_ms.unwrap_or_default().min(now_ms + SESSION_WAIT_MS),
        };
        self.reads.open.insert(id, read);
        self.advance_read(id)
    }

    /// Who may have something later than is here, of a key or of any, out of what a client has seen.
    pub(crate) fn whom_it_needs(&self, session: &Session, key: Option<&Bytes>) -> BTreeSet<InstanceId> {
        let source = self.source();
        let is_latest = key.is_some_and(|key| self.store.version(key) >= Some(session.latest()));
        // A cache may have evicted what it had.
        let (is_cache, is_here) = (self.is_cache(), session.was_at(self.instance));
        if source == Some(self.instance) || is_latest || (is_here && !is_cache) {
            return BTreeSet::new();
        }
        let stable = if is_cache { Hlc::ZERO } else { self.watermark.stable().max(self.fence) };
        let mut needs = BTreeSet::new();
        for (instance, hlc) in session.stamps().filter(|(instance, hlc)| *instance != self.instance && *hlc > stable) {
            // A mirror has what its source has, whoever wrote it.
            let holder = source.unwrap_or(instance);
            if !is_cache && self.watermark.reached(holder, self.instance) >= hlc {
                continue;
            }
            if self.peers.contains_key(&holder) || holder > self.newest {
                // One that is not known yet cannot be asked: this replica has to hear of it first.
                needs.insert(holder);
            } else {
                // What one wrote that is gone, those have who stay.
                let stay = self.peers.iter().filter(|(_, peer)| peer.state != MemberState::Joining);
                needs.extend(stay.map(|(id, _)| *id));
            }
        }
        needs
    }

    /// What a client has seen that saw this version here.
    pub(crate) fn seen_in(&self, mut session: Session, version: Option<Version>) -> Session {
        let is_here = session.was_at(self.instance) || self.whom_it_needs(&session, None).is_empty();
        version.into_iter().for_each(|version| session.note(version));
        session.is_at(Some(self.instance).filter(|_| is_here));
        if !self.is_cache() {
            session.forget_upto(self.watermark.stable());
        }
        session
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
        let merges = self.merges();
        let Some(read) = self.reads.open.get_mut(&id).filter(|read| read.fetching == Some(from)) else { return Ok(()) };
        read.fetching = None;
        let key = read.key.clone();
        match entry {
            // What a mirror is told beside its copies is for the reader alone.
            Some(entry) if !merges => read.fetched = Some(entry),
            Some(entry) => {
                self.counts.repairs += 1;
                self.merge_all(&[Pair { key, entry }]);
            }
            None => _ = read.failed.insert(from),
        }
        // It may have delivered less than it told, having dropped what everybody has.
        let own = self.version_for(id);
        if let Some(read) = self.reads.open.get_mut(&id)
            && read.answers.get(&from).copied().flatten() > own
        {
            read.failed.insert(from);
        }
        self.advance_read(id)
    }

    /// The version of what a read would find now.
    fn version_for(&self, id: u64) -> Option<Version> {
        let read = self.reads.open.get(&id)?;
        self.store.version(&read.key).max(read.fetched.as_ref().map(|entry| entry.version))
    }

    /// Takes a read a step on: waits for answers, fetches the greatest, answers.
    fn advance_read(&mut self, id: u64) -> Result<(), ReplicaError> {
        let (now_ms, own) = (self.now.mono_ms, self.version_for(id));
        let Some(read) = self.reads.open.get_mut(&id) else { return Ok(()) };
        if now_ms < read.due_ms() {
            return Ok(());
        }
        read.failed.extend(read.fetching.take());
        let may_fetch = now_ms < read.limit_ms();
        let usable = read.answers.iter().filter(|(from, _)| may_fetch && !read.failed.contains(from));
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
        self.end_read(id)
    }

    fn end_read(&mut self, id: u64) -> Result<(), ReplicaError> {
        let Some(mut read) = self.reads.open.remove(&id) else { return Ok(()) };
        if self.reads.by_key.get(&read.key) == Some(&id) {
            self.reads.by_key.remove(&read.key);
        }
        let here = self.store.get(&read.key)?;
        let entry = here.into_iter().chain(read.fetched.take()).max_by_key(|entry| entry.version);
        let own = self.store.version(&read.key).max(entry.as_ref().map(|entry| entry.version));
        let told = read.answers.clone();
        if self.now.mono_ms >= read.limit_ms() {
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
        let answer = match self.is_fresh(own, &read, &told) {
            _ if answered < needed => Answer::Refused(Refusal::TooFewAnswers { answered, needed }),
            None => Answer::Refused(Refusal::NotYet),
            Some(is_served) => {
                let entry = entry.filter(|entry| is_served && entry.is_live(self.now.wall_ms));
                let session = read.session.map(|session| Box::new(self.seen_in(session, own)));
                Answer::Found { entry, answered, asked, session }
            }
        };
        read.tokens.into_iter().for_each(|token| self.reply(token, answer.clone()));
        if read.late.is_empty() { Ok(()) } else { self.begin_read(read.key, read.late, None) }
    }

    /// Whether what is here is no older than what a client has seen, by what those told who may know; none if they did not. A
    /// cache serves nothing instead of what is older.
    fn is_fresh(&self, own: Option<Version>, read: &Read, told: &BTreeMap<InstanceId, Option<Version>>) -> Option<bool> {
        let mut is_served = true;
        for needed in &read.needs {
            match *told.get(needed)? {
                Some(version) if Some(version) <= own || (version.hlc <= self.fence && !self.is_cache()) => {}
                // What it had was evicted since, and may have been what the client has seen.
                None if self.is_cache() => is_served &= own >= read.session.as_ref().map(Session::latest),
                Some(_) if self.is_cache() => is_served = false,
                None => {}
                Some(_) => return None,
            }
        }
        Some(is_served)
    }

    /// Ends reads whose time is up.
    pub(crate) fn follow_reads(&mut self) -> Result<(), ReplicaError> {
        let now_ms = self.now.mono_ms;
        let late: Vec<u64> = self.reads.open.iter().filter(|(_, read)| read.due_ms() <= now_ms).map(|(id, _)| *id).collect();
        late.into_iter().try_for_each(|id| self.advance_read(id))
    }
}
