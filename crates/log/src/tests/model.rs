//! Random records of several groups, with restarts and crashes between, against the model.

use proptest::prelude::*;

use super::{Model, append, chooser, hard_state, log_id, open};
use crate::testing::{Fault, MemoryDisk};
use crate::{Batch, GroupId, Log, Record};

/// A record before it is known what fits the group's log at that moment.
#[derive(Clone, Debug)]
enum Draft {
    Append { overlap: u64, count: u64, payload_bytes: usize },
    HardState { term: u64 },
    Purge { share: u64 },
    Reset { ahead: u64 },
    State { len: usize },
    Destroy,
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Vec<(u64, Draft)>>),
    /// The process ends and starts again.
    Restart,
    /// The power is lost `operations` operations from now.
    Crash {
        operations: u64,
        seed: u64,
    },
}

fn draft() -> impl Strategy<Value = Draft> {
    let payload_bytes = prop_oneof![8 => 0..200_usize, 3 => 200..900_usize, 1 => 4000..6000_usize];
    prop_oneof![
        12 => (prop_oneof![3 => Just(0), 1 => 0..4_u64], 1..5_u64, payload_bytes)
            .prop_map(|(overlap, count, payload_bytes)| Draft::Append { overlap, count, payload_bytes }),
        3 => (0..9_u64).prop_map(|term| Draft::HardState { term }),
        5 => (0..=4_u64).prop_map(|share| Draft::Purge { share }),
        1 => (0..5_u64).prop_map(|ahead| Draft::Reset { ahead }),
        2 => (0..300_usize).prop_map(|len| Draft::State { len }),
        1 => Just(Draft::Destroy),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // Group 0 is met rarely: it is the cold one.
    let group = prop_oneof![1 => Just(0_u64), 20 => 1..4_u64];
    let batch = prop::collection::vec((group, draft()), 0..4);
    prop_oneof![
        20 => prop::collection::vec(batch, 1..4).prop_map(Step::Write),
        1 => Just(Step::Restart),
        1 => (0..12_u64, any::<u64>()).prop_map(|(operations, seed)| Step::Crash { operations, seed }),
    ]
}

/// A log with what it should hold.
struct Checked {
    disk: MemoryDisk,
    log: Log<MemoryDisk>,
    model: Model,
    /// Grows with each append, so that no two entries are alike.
    term: u64,
    /// What a crash that is due draws its chance from.
    crash_seed: Option<u64>,
}

impl Checked {
    fn new() -> Self {
        let disk = MemoryDisk::new();
        let log = open(&disk).unwrap();
        Self { disk, log, model: Model::default(), term: 0, crash_seed: None }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Write(drafts) => self.write(drafts),
            Step::Restart => self.reopen(&self.disk.restart()),
            Step::Crash { operations, seed } => {
                self.disk.inject(self.disk.operation_count() + operations, Fault::Halt);
                self.crash_seed = Some(seed);
            }
        }
    }

    fn write(&mut self, drafts: Vec<Vec<(u64, Draft)>>) {
        let mut after = self.model.clone();
        let batches: Vec<Batch> = drafts
            .into_iter()
            .map(|batch| batch.into_iter().map(|(group, draft)| self.finish(GroupId(group), &draft, &mut after)).collect())
            .collect();
        let result = self.log.write(&batches);
        if result.is_ok() {
            self.model = after;
        } else {
            let seed = self.crash_seed.take().expect("a write fails only when the disk was halted");
            let mut choose = chooser(seed);
            let halted_bytes = choose(self.disk.halted_bytes() as u64 + 1) as usize;
            self.reopen_torn(&self.disk.power_loss(halted_bytes, &mut choose), &after);
        }
        assert_eq!(Model::of(&self.log.reader()), self.model);
    }

    /// Makes a record that fits, and enters it in the model.
    fn finish(&mut self, group: GroupId, draft: &Draft, after: &mut Model) -> (GroupId, Record) {
        let (purged, last) = (after.purged(group), after.last(group));
        let record = match *draft {
            Draft::Append { overlap, count, payload_bytes } => {
                self.term += 1;
                append(self.term, (last + 1 - overlap.min(last - purged)).max(purged + 1), count, payload_bytes)
            }
            Draft::HardState { term } => hard_state(term, term + 1, last),
            Draft::Purge { share } => {
                let to = purged + (last - purged) * share / 4;
                Record::Purge(super::LogId { term: after.term(group, to), index: super::LogIndex(to) })
            }
            Draft::Reset { ahead } => Record::Reset(log_id(self.term, last + ahead)),
            Draft::State { len } => Record::State(vec![len as u8; len].into()),
            Draft::Destroy => Record::Destroy,
        };
        after.apply_record(group, &record);
        (group, record)
    }

    fn reopen(&mut self, disk: &MemoryDisk) {
        self.crash_seed = None;
        self.disk = disk.clone();
        self.log = open(disk).unwrap();
        assert_eq!(Model::of(&self.log.reader()), self.model);
    }

    /// The batch that was being written is there wholly or not at all, and stays so.
    fn reopen_torn(&mut self, disk: &MemoryDisk, after: &Model) {
        self.disk = disk.clone();
        self.log = open(disk).unwrap();
        let found = Model::of(&self.log.reader());
        assert!(found == self.model || found == *after, "neither before nor after the write: {found:?}");
        self.model = found;
        self.reopen(&disk.power_loss(0, &mut |_| 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_log_holds_what_the_model_holds(steps in prop::collection::vec(step(), 1..60)) {
        let mut checked = Checked::new();
        for step in steps {
            checked.run(step);
        }
        checked.reopen(&checked.disk.restart());
    }
}
