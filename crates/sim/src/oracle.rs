//! The promises that are checked while things happen.
//!
//! - Election safety: one leader per group and term, ever.
//! - Log matching: an index and a term name one entry, on every node.
//! - State-machine safety: an index that was applied anywhere has one entry, for ever; none is overwritten.
//! - Leader completeness: who leads has everything that was applied before its term.
//! - Votes and acknowledgements leave a node only after what they promise is durable there.
//! - Equal replicas: after the same index, every replica holds what the model holds, with an equal state.
//! - Nothing that was published goes back while a process lives.
//! - Compaction hides what count, age and requests say, and no more; a revision that is not hidden reads as it was.
//! - Transactions are serializable: each came to what it must on what was there before its revision, and made all of it.
//! - Answers agree with what was applied; what was refused is never applied, nothing is applied twice.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_api::peer::{Beat, Frame, RaftMessage};
use quorate_engine::{KeyRange, View};
use quorate_keyspace::{Removed, Transaction, TransactionResult};
use quorate_log::{GroupId, Record};
use quorate_node::{Mode, is_eventual_state};

use crate::fingerprint::Fingerprint;
use crate::history::{Action, Operation, RevisionOrder, Seen, Sent};
use crate::host::{HostId, Process};
use crate::journal::Journal;
use crate::model::{KeyChange, Model, content_of};
use crate::retained::check_past;
use crate::time::SimTime;
use crate::timed::Promises;
use crate::transactions::{expected, without_times};
use crate::values::{count_in, value_number};
use crate::violation::{Step, Violation};
use crate::watchers::Seen as Told;

/// raft-rs' numbers of messages, as they travel.
mod kind {
    pub(super) const APPEND: u8 = 3;
    pub(super) const APPEND_RESPONSE: u8 = 4;
    pub(super) const VOTE_RESPONSE: u8 = 6;
    pub(super) const SNAPSHOT: u8 = 7;
    pub(super) const HEARTBEAT: u8 = 8;
    pub(super) const HEARTBEAT_RESPONSE: u8 = 9;
    pub(super) const TIMEOUT_NOW: u8 = 14;
}

/// The first byte of an entry that changes the membership.
const CONF_CHANGE_MARK: u8 = 0xc2;

/// All that is known about what may be and what was.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    groups: BTreeMap<u64, Ledger>,
    leaders: BTreeMap<(u64, u64), u64>,
    /// Terms in which a leader said something.
    heard_terms: BTreeSet<(u64, u64)>,
    entries: BTreeMap<(u64, u64, u64), Fingerprint>,
    states: BTreeMap<(u64, u64), Fingerprint>,
    /// The order of revisions in answers about the clients' keyspace.
    order: RevisionOrder,
    /// Whether a value that a client wrote may be there: what was refused may not, what was written may be once.
    values: BTreeMap<u64, ValueFate>,
    /// Groups whose replicas take writes on their own.
    eventual: BTreeSet<u64>,
    /// What may end when.
    pub(crate) promises: Promises,
    /// True time.
    pub(crate) now: SimTime,
}

/// What is known of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueFate {
    /// Written at this revision.
    Written(u64),
    /// The client was told that it is not.
    Refused,
}

/// What was applied in one group.
#[derive(Debug, Default)]
struct Ledger {
    applied: u64,
    /// (term, payload) of each index.
    entries: BTreeMap<u64, (u64, Fingerprint)>,
    model: Model,
}

impl Oracle {
    /// A process hands records to its log.
    pub(crate) fn on_persist(&mut self, host: HostId, journal: &mut Journal, ticket: u64, records: &[(GroupId, Record)]) -> Step {
        for (group, record) in records {
            // Where each replica has a log of its own there is nothing to match.
            match record {
                Record::State(state) if is_eventual_state(state) => drop(self.eventual.insert(group.0)),
                _ => {}
            }
            let Record::Append(entries) = record else { continue };
            if self.eventual.contains(&group.0) {
                continue;
            }
            self.check_overwritten(host, group.0, journal, entries)?;
            for entry in entries {
                let (index, term) = (entry.id.index.0, entry.id.term.0);
                let fingerprint = Fingerprint::of(&entry.payload);
                let known = *self.entries.entry((group.0, index, term)).or_insert(fingerprint);
                if known != fingerprint {
                    let detail = format!("{host}: group {} has two entries at index {index} of term {term}", group.0);
                    return Err(Violation::new("log matching", detail));
                }
            }
        }
        journal.on_persist(ticket, records).map_err(|why| Violation::new("durable votes", format!("{host}: {why}")))
    }

    /// A process has ended. A term that never became durable, and in which nothing was said, was one that an only voter led
    /// alone: it may lead in the same term again, with other entries.
    pub(crate) fn on_end(&mut self, journal: &Journal) {
        for (group, index, term) in journal.lost_entries() {
            if !self.heard_terms.contains(&(group, term)) {
                self.entries.remove(&(group, index, term));
            }
        }
    }

    /// Entries may be replaced, but none that was applied anywhere.
    fn check_overwritten(&self, host: HostId, group: u64, journal: &Journal, entries: &[quorate_log::Entry]) -> Step {
        let (Some(first), Some(ledger)) = (entries.first(), self.groups.get(&group)) else { return Ok(()) };
        for (index, (own_term, _)) in journal.entries_from(group, first.id.index.0) {
            let kept_term = entries.get((index - first.id.index.0) as usize).map(|entry| entry.id.term.0);
            let applied_term = ledger.entries.get(&index).map(|(term, _)| *term);
            if applied_term == Some(*own_term) && kept_term != Some(*own_term) {
                let detail =
                    format!("{host}: group {group} drops entry {index} of term {own_term}, which was applied, for {kept_term:?}");
                return Err(Violation::new("committed entries stay", detail));
            }
        }
        Ok(())
    }

    /// A process sends a frame.
    pub(crate) fn on_send(&mut self, host: HostId, journal: &Journal, frame: &Frame) -> Step {
        match frame {
            Frame::Raft(messages) => messages.iter().try_for_each(|message| self.on_message(host, journal, message)),
            Frame::Snapshot(part) => part.message.iter().try_for_each(|message| self.on_message(host, journal, message)),
            Frame::Beats(beats) => self.on_beats(host, journal, beats, kind::HEARTBEAT),
            Frame::BeatAnswers(beats) => self.on_beats(host, journal, beats, kind::HEARTBEAT_RESPONSE),
            Frame::Forward(_)
            | Frame::ForwardReply(_)
            | Frame::LeaseAsks(_)
            | Frame::LeaseAnswers(_)
            | Frame::Eventual(_)
            | Frame::LogEnd(_)
            | Frame::SnapshotAck(_)
            | Frame::SnapshotAsk(_) => Ok(()),
        }
    }

    /// A beat promises what the message does that it stands for.
    fn on_beats(&mut self, host: HostId, journal: &Journal, beats: &[Beat], kind: u8) -> Step {
        beats.iter().try_for_each(|beat| {
            let Beat { group, to, from, term, commit } = *beat;
            self.on_message(host, journal, &RaftMessage { kind, group, to, from, term, commit, ..RaftMessage::default() })
        })
    }

    fn on_message(&mut self, host: HostId, journal: &Journal, message: &RaftMessage) -> Step {
        let RaftMessage { group, term, from, .. } = *message;
        let (durable_term, durable_vote) = journal.durable_vote(group);
        match message.kind {
            kind::APPEND | kind::HEARTBEAT | kind::SNAPSHOT | kind::TIMEOUT_NOW => {
                if durable_term.0 < term {
                    let detail = format!("{host}: leads group {group} in term {term}, durable is term {}", durable_term.0);
                    return Err(Violation::new("votes are durable", detail));
                }
                self.heard_terms.insert((group, term));
                self.on_leader(host, journal, (group, term), from)
            }
            kind::HEARTBEAT_RESPONSE if durable_term.0 < term => {
                let detail = format!("{host}: follows in group {group} in term {term}, durable is term {}", durable_term.0);
                Err(Violation::new("votes are durable", detail))
            }
            kind::VOTE_RESPONSE if !message.reject => {
                if durable_term.0 < term || durable_term.0 == term && durable_vote != message.to {
                    let detail = format!(
                        "{host}: votes for {} in term {term} of group {group}, durable is a vote for {durable_vote} in term {}",
                        message.to, durable_term.0
                    );
                    return Err(Violation::new("votes are durable", detail));
                }
                Ok(())
            }
            kind::APPEND_RESPONSE if !message.reject && durable_term.0 == term => {
                let durable_last = journal.durable_last(group);
                if durable_last < message.index {
                    let detail =
                        format!("{host}: acknowledges index {} of group {group}, durable is {durable_last}", message.index);
                    return Err(Violation::new("acknowledged entries are durable", detail));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A replica acts as leader.
    pub(crate) fn on_leader(&mut self, host: HostId, journal: &Journal, (group, term): (u64, u64), replica: u64) -> Step {
        if let Some(leader) = self.leaders.get(&(group, term)) {
            return if *leader == replica {
                Ok(())
            } else {
                let detail = format!("{host}: replicas {leader} and {replica} of group {group} both lead in term {term}");
                Err(Violation::new("election safety", detail))
            };
        }
        self.leaders.insert((group, term), replica);
        let Some(ledger) = self.groups.get(&group) else { return Ok(()) };
        let last = ledger.entries.iter().rev().find(|(_, (entry_term, _))| *entry_term < term);
        let Some((&index, &(entry_term, _))) = last else { return Ok(()) };
        match journal.entry(group, index) {
            // Purged: then it was applied here.
            None if journal.durable_last(group) >= index => Ok(()),
            Some((own_term, _)) if *own_term == entry_term => Ok(()),
            own => {
                let own = own.map(|(term, _)| *term);
                let detail = format!(
                    "{host}: leads group {group} in term {term}; index {index} was applied in term {entry_term}, it has {own:?}"
                );
                Err(Violation::new("leader completeness", detail))
            }
        }
    }

    /// A process has polled: whatever it published since the last time is compared.
    pub(crate) fn on_polled(&mut self, host: HostId, process: &mut Process) -> Step {
        let hosted = std::sync::Arc::clone(&process.shell.hosted);
        for keyspace in hosted.keyspaces.values().filter(|keyspace| keyspace.mode == Mode::Raft) {
            let group = keyspace.group.0;
            let view = keyspace.engine.view();
            let now = (view.applied(), view.revision());
            let before = process.shell.published.insert(group, now).unwrap_or_default();
            if now == before {
                continue;
            }
            if now.0 < before.0 || now.1 < before.1 {
                let detail = format!("{host}: group {group} goes back from (applied, revision) {before:?} to {now:?}");
                return Err(Violation::new("what is published stays", detail));
            }
            self.on_published(group, view.as_ref(), before.0, &process.shell.journal)
                .map_err(|violation| Violation { detail: format!("{host}: {}", violation.detail), ..violation })?;
        }
        Ok(())
    }

    fn on_published(&mut self, group: u64, view: &dyn View, before: u64, journal: &Journal) -> Step {
        let broken = |why: String| Violation::new("entries can be read", format!("group {group}: {why}"));
        let applied = view.applied();
        let ledger = match self.groups.entry(group) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if applied == 0 => return Ok(()),
            Entry::Vacant(vacant) => {
                vacant.insert(Ledger { applied, entries: BTreeMap::new(), model: Model::of(view).map_err(broken)? })
            }
        };
        ledger.compare(group, before + 1..=applied.min(ledger.applied), journal)?;
        let first_new = ledger.model.revision();
        for index in ledger.applied + 1..=applied {
            ledger.extend(group, index, journal)?;
            let (values, leases) = ledger.model.take_expired();
            values.iter().try_for_each(|value| self.promises.on_pair_expired(value, self.now))?;
            leases.into_iter().try_for_each(|lease| self.promises.on_lease_expired(lease, self.now))?;
        }
        if group == CLIENT_GROUP {
            self.note_values(group, first_new)?;
        }
        self.compare_content(group, view)
    }

    /// Compares what a view holds with the model.
    fn compare_content(&self, group: u64, view: &dyn View) -> Step {
        let Some(expected) = self.groups.get(&group).and_then(|ledger| ledger.model.at(view.applied())) else {
            return Ok(());
        };
        let content = content_of(view).map_err(|why| Violation::new("equal replicas", format!("group {group}: {why}")))?;
        let is_else_equal = (content.revision, content.fingerprint) == (expected.revision, expected.fingerprint);
        if is_else_equal && content.compacted != expected.compacted {
            let detail = format!("group {group} at index {}: {content:?}, the model has {expected:?}", view.applied());
            return Err(Violation::new("compaction hides what it must, and no more", detail));
        }
        if content == expected {
            let model = &self.groups[&group].model;
            return check_past(view, model).map_err(|why| {
                Violation::new("the past is as it was", format!("group {group} at index {}: {why}", view.applied()))
            });
        }
        let detail = format!("group {group} at index {}: {content:?}, the model has {expected:?}", view.applied());
        Err(Violation::new("equal replicas", detail))
    }

    /// Looks at every value that was written after a revision: it must not have been refused, nor written before.
    fn note_values(&mut self, group: u64, after: u64) -> Step {
        let Some(ledger) = self.groups.get(&group) else { return Ok(()) };
        for (revision, change) in ledger.model.changes_after(after) {
            let Some(number) = change.value.as_deref().and_then(value_number) else { continue };
            match self.values.insert(number, ValueFate::Written(revision)) {
                // One write may set several keys.
                None => {}
                Some(ValueFate::Written(before)) if before == revision => {}
                Some(ValueFate::Written(before)) => {
                    let detail = format!("value {number} was written at revision {before}, and again at {revision}");
                    return Err(Violation::new("nothing is applied twice", detail));
                }
                Some(ValueFate::Refused) => {
                    let detail = format!("value {number} was refused, but is written at revision {revision}");
                    return Err(Violation::new("refused writes stay undone", detail));
                }
            }
        }
        Ok(())
    }

    /// A client was told that its write was not done.
    pub(crate) fn on_refused(&mut self, number: u64) -> Step {
        match self.values.insert(number, ValueFate::Refused) {
            Some(ValueFate::Written(revision)) => {
                let detail = format!("value {number} is refused, but was written at revision {revision}");
                Err(Violation::new("refused writes stay undone", detail))
            }
            Some(ValueFate::Refused) | None => Ok(()),
        }
    }

    /// The encoded state of a shard is the same on every node that applied the same.
    pub(crate) fn on_state(&mut self, host: HostId, group: u64, applied: u64, state: &[u8]) -> Step {
        let fingerprint = Fingerprint::of(state);
        let known = *self.states.entry((group, applied)).or_insert(fingerprint);
        if known == fingerprint {
            return Ok(());
        }
        let detail = format!("{host}: the state of group {group} at index {applied} is another one than elsewhere");
        Err(Violation::new("equal replicas", detail))
    }

    /// A client sends something.
    pub(crate) fn on_sent(&self) -> Sent {
        self.order.on_sent()
    }

    /// A client has an answer with a revision.
    pub(crate) fn on_answer(&mut self, sent: Sent, seen: Seen) -> Step {
        self.order.on_answer(sent, seen).map_err(|why| Violation::new("real-time order of revisions", why))
    }

    /// A client was told that its write made these changes by a revision.
    pub(crate) fn check_written(&self, revision: u64, changes: &[KeyChange]) -> Step {
        let found = self.clients_model().map_or(&[][..], |model| model.changes(revision));
        if found == changes {
            return Ok(());
        }
        let detail = format!("revision {revision} made {found:?}, the client was told {changes:?}");
        Err(Violation::new("acknowledged writes are applied", detail))
    }

    /// A client was told what its write removed of a range by a revision: these keys are gone then.
    pub(crate) fn check_removed(&self, revision: u64, range: &KeyRange, removed: &Removed, gone: &[Bytes]) -> Step {
        let Some(model) = self.clients_model() else { return Ok(()) };
        let left: Vec<&Bytes> = gone.iter().filter(|key| model.get(key, revision).is_some()).collect();
        let is_removed = |change: &KeyChange| change.value.is_none() && range.contains(&change.key);
        let changes = if removed.keys > 0 { model.changes(revision) } else { &[] };
        let is_next_there = removed.next.as_ref().is_none_or(|next| model.get(next, revision).is_some());
        if left.is_empty() && is_next_there && changes.len() as u64 == removed.keys && changes.iter().all(is_removed) {
            return Ok(());
        }
        let detail =
            format!("revision {revision} made {changes:?} and left {left:?}, the client was told {removed:?} of {range:?}");
        Err(Violation::new("acknowledged writes are applied", detail))
    }

    /// A client was told what its transaction came to, at a revision that it made, or found.
    pub(crate) fn check_transaction(
        &self,
        transaction: &Transaction,
        (revision, is_changed): (u64, bool),
        told: &TransactionResult,
    ) -> Step {
        let Some(model) = self.clients_model() else { return Ok(()) };
        let before = model.content_at(if is_changed { revision - 1 } else { revision });
        let (result, changes) = expected(transaction, &before, revision);
        let made = if is_changed { model.changes(revision) } else { &[] };
        let told = without_times(told.clone());
        if (&told, made) == (&result, &changes[..]) {
            return Ok(());
        }
        let detail = format!(
            "{transaction:?} at revision {revision} comes to {result:?} with {changes:?}, the client was told {told:?}; \
             made was {made:?}"
        );
        Err(Violation::new("transactions are serializable", detail))
    }

    /// A client was told the sum that its increment left at a revision.
    pub(crate) fn check_incremented(&self, revision: u64, key: &[u8], by: i64, sum: i64) -> Step {
        let Some(model) = self.clients_model() else { return Ok(()) };
        let at = |revision| model.get(key, revision).map_or(Some(0), |(_, value)| count_in(value));
        if (at(revision - 1), at(revision)) == (sum.checked_sub(by), Some(sum)) {
            return Ok(());
        }
        let detail = format!(
            "{key:?} is at {:?} by revision {revision}, and was at {:?}; who added {by} was told {sum}",
            at(revision),
            at(revision - 1)
        );
        Err(Violation::new("increments add up", detail))
    }

    /// What a counter is at in the end.
    pub(crate) fn count(&self, key: &[u8]) -> i64 {
        let found = self.clients_model().and_then(|model| model.get(key, u64::MAX)).and_then(|(_, value)| count_in(value));
        found.unwrap_or(0)
    }

    /// Somebody read a key at a revision. The revision of the key's last change, for later conditions.
    pub(crate) fn check_read(&self, revision: u64, key: &[u8], value: Option<&Bytes>) -> Step {
        let found = self.clients_model().and_then(|model| model.get(key, revision)).map(|(_, value)| value);
        if found == value {
            return Ok(());
        }
        let detail = format!("{key:?} at revision {revision} held {found:?}, read was {value:?}");
        Err(Violation::new("reads see what was written", detail))
    }

    /// A condition was said to have failed: the revision of the key's last change as the answer has it.
    pub(crate) fn check_condition(&self, revision: u64, key: &[u8], mod_revision: Option<u64>) -> Step {
        let found = self.clients_model().and_then(|model| model.get(key, revision)).map(|(meta, _)| meta.mod_revision.0);
        if found == mod_revision {
            return Ok(());
        }
        let detail = format!("{key:?} at revision {revision} was changed at {found:?}, the answer says {mod_revision:?}");
        Err(Violation::new("reads see what was written", detail))
    }

    /// Whether a value was written.
    pub(crate) fn is_written(&self, value: u64) -> bool {
        matches!(self.values.get(&value), Some(ValueFate::Written(_)))
    }

    /// Whether an operation whose outcome the client does not know can have happened: its value would have been written.
    pub(crate) fn may_have_happened(&self, operation: &Operation) -> bool {
        match (operation.end, operation.action) {
            (None, Action::Write(Some(value)) | Action::Swap(_, Some(value))) => self.values.contains_key(&value),
            _ => true,
        }
    }

    /// Whether clients have anything that is to go by itself.
    pub(crate) fn is_anything_timed(&self) -> bool {
        self.clients_model().is_some_and(Model::is_anything_timed)
    }

    /// How far any replica of a group is.
    pub(crate) fn applied(&self, group: u64) -> u64 {
        self.groups.get(&group).map_or(0, |ledger| ledger.applied)
    }

    /// How many terms had a leader.
    pub(crate) fn led_terms(&self) -> u64 {
        self.leaders.len() as u64
    }

    /// A watcher was told this.
    pub(crate) fn check_told(&self, watcher: usize, seen: &Told<'_>) -> Step {
        let Some(model) = self.clients_model() else { return Ok(()) };
        seen.check(model).map_err(|why| Violation::new("watchers are told everything", format!("w{watcher} {why}")))
    }

    /// How far the clients' keyspace is.
    pub(crate) fn clients_revision(&self) -> u64 {
        self.clients_model().map_or(0, Model::revision)
    }

    fn clients_model(&self) -> Option<&Model> {
        self.groups.get(&CLIENT_GROUP).map(|ledger| &ledger.model)
    }
}

/// The group of the keyspace that clients use.
pub(crate) const CLIENT_GROUP: u64 = 1;

impl Ledger {
    /// Compares entries that were applied here with those that were applied elsewhere.
    fn compare(&self, group: u64, indexes: std::ops::RangeInclusive<u64>, journal: &Journal) -> Step {
        for index in indexes {
            let (Some((term, payload)), Some(known)) = (journal.entry(group, index), self.entries.get(&index)) else { continue };
            if (*term, Fingerprint::of(payload)) != *known {
                let detail =
                    format!("group {group} index {index}: applies an entry of term {term}, applied was one of {}", known.0);
                return Err(Violation::new("state-machine safety", detail));
            }
        }
        Ok(())
    }

    /// An index is applied for the first time.
    fn extend(&mut self, group: u64, index: u64, journal: &Journal) -> Step {
        let Some((term, payload)) = journal.entry(group, index) else {
            let detail = format!("group {group} index {index}: applied, but never handed to the log");
            return Err(Violation::new("state-machine safety", detail));
        };
        let is_conf_change = payload.first() == Some(&CONF_CHANGE_MARK);
        self.model
            .apply(index, payload, is_conf_change)
            .map_err(|why| Violation::new("entries can be read", format!("group {group} index {index}: {why}")))?;
        self.entries.insert(index, (*term, Fingerprint::of(payload)));
        self.applied = index;
        Ok(())
    }
}
