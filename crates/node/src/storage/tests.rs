//! A group's log does what a plain list does, wherever its entries are: in the cache, on disk, or on their way there.

use std::sync::Arc;

use proptest::prelude::*;
use quorate_log::testing::MemoryDisk;
use quorate_log::{Log, Options, Record, Term};

use super::*;
use crate::convert::entry_to_log;

const GROUP: GroupId = GroupId(5);

/// So small that durable entries leave it soon.
const CACHE_BYTES: usize = 400;

fn open_log(disk: &MemoryDisk) -> Log<MemoryDisk> {
    let options = Options { segment_bytes: 64 << 10, max_log_bytes: 1 << 30, reserve_bytes: 0, max_spare_segments: 2 };
    Log::open(Arc::new(disk.clone()), options).unwrap()
}

fn open_group(log: &Log<MemoryDisk>) -> GroupLog<MemoryDisk> {
    GroupLog::open(GROUP, log.reader(), CACHE_BYTES, ConfState::default())
}

fn entries(log: &GroupLog<MemoryDisk>, low: u64, high: u64, max_bytes: u64) -> raft::Result<Vec<Entry>> {
    log.entries(low, high, max_bytes, GetEntriesContext::empty(false))
}

fn entry(term: u64, index: u64, payload_bytes: usize) -> Entry {
    Entry { term, index, data: vec![index as u8; payload_bytes].into(), ..Entry::default() }
}

fn id_of(entry: &Entry) -> LogId {
    LogId { term: Term(entry.term), index: LogIndex(entry.index) }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        overlap: u64,
        count: u64,
        payload_bytes: usize,
    },
    Purge {
        share: u64,
    },
    Reset {
        ahead: u64,
    },
    /// Everything so far becomes durable.
    Persist,
    /// So much does, and the rest waits.
    PersistSome {
        count: usize,
    },
    /// The process ends with everything durable, and begins anew.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (prop_oneof![3 => Just(0), 1 => 1..5_u64], 1..6_u64, 0..200_usize)
            .prop_map(|(overlap, count, payload_bytes)| Step::Append { overlap, count, payload_bytes }),
        2 => (0..=4_u64).prop_map(|share| Step::Purge { share }),
        1 => (0..4_u64).prop_map(|ahead| Step::Reset { ahead }),
        4 => Just(Step::Persist),
        4 => (1..3_usize).prop_map(|count| Step::PersistSome { count }),
        1 => Just(Step::Restart),
    ]
}

/// A group's log, and what it should hold.
struct Checked {
    disk: MemoryDisk,
    disk_log: Log<MemoryDisk>,
    log: GroupLog<MemoryDisk>,
    /// Written by the group, and not by the log yet.
    unwritten: Vec<Record>,
    purged: LogId,
    entries: Vec<Entry>,
    /// Grows with each append, so that no two entries are alike.
    term: u64,
}

impl Checked {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let disk_log = open_log(&disk);
        let log = open_group(&disk_log);
        Self { disk, disk_log, log, unwritten: Vec::new(), purged: LogId::default(), entries: Vec::new(), term: 0 }
    }

    fn last_index(&self) -> u64 {
        self.purged.index.0 + self.entries.len() as u64
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Append { overlap, count, payload_bytes } => self.append(overlap, count, payload_bytes),
            Step::Purge { share } => self.purge(self.entries.len() as u64 * share / 4),
            Step::Reset { ahead } => self.reset(self.last_index() + ahead),
            Step::Persist => self.persist(self.unwritten.len()),
            Step::PersistSome { count } => self.persist(count.min(self.unwritten.len())),
            Step::Restart => {
                self.persist(self.unwritten.len());
                self.disk = self.disk.restart();
                self.disk_log = open_log(&self.disk);
                self.log = open_group(&self.disk_log);
            }
        }
    }

    fn append(&mut self, overlap: u64, count: u64, payload_bytes: usize) {
        self.term += 1;
        let kept = self.entries.len() - (overlap as usize).min(self.entries.len());
        self.entries.truncate(kept);
        let first = self.last_index() + 1;
        let added: Vec<Entry> = (first..first + count).map(|index| entry(self.term, index, payload_bytes)).collect();
        self.log.append(&added);
        self.unwritten.push(Record::Append(added.iter().map(entry_to_log).collect()));
        self.entries.extend(added);
    }

    fn purge(&mut self, count: u64) {
        let Some(last) = self.entries.drain(..count as usize).next_back() else {
            return;
        };
        self.purged = id_of(&last);
        self.log.purge(self.purged);
        self.unwritten.push(Record::Purge(self.purged));
    }

    fn reset(&mut self, index: u64) {
        self.purged = LogId { term: Term(self.term), index: LogIndex(index) };
        self.entries.clear();
        self.log.reset(self.purged);
        self.unwritten.push(Record::Reset(self.purged));
    }

    fn persist(&mut self, count: usize) {
        for record in self.unwritten.drain(..count) {
            let last = match &record {
                Record::Append(entries) => entries.last().map(|entry| entry.id),
                _ => None,
            };
            self.disk_log.write(&[vec![(GROUP, record)]]).unwrap();
            if let Some(last) = last {
                self.log.on_durable(last);
            }
        }
    }

    fn check(&self) {
        let (purged, last) = (self.purged.index.0, self.last_index());
        assert_eq!((self.log.first_index(), self.log.last_index()), (Ok(purged + 1), Ok(last)));
        assert_eq!(self.log.purged(), self.purged);
        assert_eq!(self.log.term(purged), Ok(self.purged.term.0));
        for entry in &self.entries {
            assert_eq!(self.log.term(entry.index), Ok(entry.term));
        }
        assert_eq!(self.log.term(last + 1), Err(Error::Store(StorageError::Unavailable)));
        if purged > 0 {
            assert_eq!(self.log.term(purged - 1), Err(Error::Store(StorageError::Compacted)));
            assert_eq!(entries(&self.log, purged, last + 1, u64::MAX), Err(Error::Store(StorageError::Compacted)));
        }
        for low in purged + 1..=last {
            let wanted = &self.entries[(low - purged - 1) as usize..];
            assert_eq!(entries(&self.log, low, last + 1, u64::MAX).as_deref(), Ok(wanted));
            assert_eq!(entries(&self.log, low, low, u64::MAX), Ok(Vec::new()));
            for max_bytes in [0, 250, 1500] {
                assert_is_page(&entries(&self.log, low, last + 1, max_bytes).unwrap(), wanted, max_bytes);
            }
        }
        let cached: usize = self.log.cache.iter().map(cached_bytes).sum();
        assert_eq!(self.log.cache_bytes, cached);
        if self.unwritten.is_empty() {
            assert!(cached <= CACHE_BYTES || self.log.durable_index < last, "what is durable leaves a full cache");
        }
    }
}

/// A page begins where it was asked to, has no holes, and is as long as its bytes allow, but holds one entry.
fn assert_is_page(page: &[Entry], wanted: &[Entry], max_bytes: u64) {
    assert!(wanted.starts_with(page));
    assert!(!page.is_empty());
    let payload_bytes: usize = page.iter().map(|entry| entry.data.len()).sum();
    assert!(page.len() == 1 || payload_bytes as u64 <= max_bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_groups_log_does_what_a_list_does(steps in prop::collection::vec(step(), 1..30)) {
        let mut checked = Checked::new();
        for step in &steps {
            checked.run(step);
            checked.check();
        }
        checked.run(&Step::Restart);
        checked.check();
    }
}

#[test]
fn entries_that_are_not_durable_stay_in_the_cache_however_large_they_are() {
    let mut log = open_group(&open_log(&MemoryDisk::new()));
    let appended: Vec<Entry> = (1..=20).map(|index| entry(1, index, 1000)).collect();
    log.append(&appended);
    assert_eq!(entries(&log, 1, 21, u64::MAX), Ok(appended));
}

#[test]
fn a_durable_entry_that_was_overwritten_says_nothing_about_its_successor() {
    let mut log = open_group(&open_log(&MemoryDisk::new()));
    log.append(&[entry(1, 1, 1000), entry(1, 2, 1000)]);
    log.append(&[entry(2, 2, 1000)]);
    log.on_durable(LogId { term: Term(1), index: LogIndex(2) });
    assert_eq!(entries(&log, 2, 3, u64::MAX), Ok(vec![entry(2, 2, 1000)]));
}

#[test]
fn a_follower_is_offered_a_snapshot_that_names_it_and_is_new_enough() {
    let mut log = open_group(&open_log(&MemoryDisk::new()));
    let is_offered = |log: &GroupLog<MemoryDisk>, request_index, to| {
        let offer = log.snapshot(request_index, to);
        assert_eq!(log.wants_snapshot.take(), offer.is_err(), "what is missing is asked for");
        offer.is_ok()
    };
    assert!(!is_offered(&log, 0, 2), "there is none");

    let state = ConfState { voters: vec![1, 2], learners: vec![3], ..ConfState::default() };
    log.set_snapshot(LogId { term: Term(1), index: LogIndex(10) }, state.clone());
    assert!(is_offered(&log, 10, 2) && is_offered(&log, 0, 3));
    assert!(!is_offered(&log, 0, 4), "it was cut before that was added");
    assert!(!is_offered(&log, 11, 2), "it is older than what was asked for");
    let offered = log.snapshot(0, 2).unwrap();
    assert_eq!((offered.get_metadata().index, offered.get_metadata().get_conf_state()), (10, &state));

    log.reset(LogId { term: Term(2), index: LogIndex(11) });
    assert!(!is_offered(&log, 0, 2), "the entries that follow it are gone");
}

#[test]
#[should_panic(expected = "the log has no gaps")]
fn entries_that_leave_a_gap_are_a_mistake() {
    open_group(&open_log(&MemoryDisk::new())).append(&[entry(1, 2, 0)]);
}
