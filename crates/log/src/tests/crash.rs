//! A fixed workload, cut at every operation and at every byte; and every byte of its result flipped.

use super::{Model, append, chooser, log_id, open, workload};
use crate::batch::BatchBuffer;
use crate::testing::{Fault, MemoryDisk};
use crate::{Entry, GroupId, LogError, Record};

/// Runs the workload until the disk fails; returns the disk and how many writes succeeded.
fn run_until_halted(operation: u64) -> (MemoryDisk, usize) {
    let disk = MemoryDisk::new();
    disk.inject(operation, Fault::Halt);
    let Ok(mut log) = open(&disk) else { return (disk, 0) };
    for (done, batch) in workload().0.into_iter().enumerate() {
        if log.write(&[batch]).is_err() {
            return (disk, done);
        }
    }
    (disk, workload().0.len())
}

fn operation_count() -> u64 {
    run_until_halted(u64::MAX).0.operation_count()
}

/// Opens what a crash left; the write that was under way may be there or not.
fn check_recovered(disk: &MemoryDisk, models: &[Model], done: usize) -> Model {
    let log = open(disk).unwrap();
    let found = Model::of(&log.reader());
    let is_whole = found == models[done] || models.get(done + 1) == Some(&found);
    assert!(is_whole, "after {done} writes, neither before nor after the next: {found:?}");
    found
}

#[test]
fn the_workload_uses_what_there_is_to_crash() {
    let (disk, done) = run_until_halted(u64::MAX);
    let usage = open(&disk.restart()).unwrap().usage();
    assert_eq!(done, workload().0.len());
    assert!(usage.segment_count > 1 && usage.spare_count > 0, "{usage:?}");
    // The first segments are gone although nothing of the cold group was ever purged: it was moved.
    let reader = open(&disk.restart()).unwrap().reader();
    assert_eq!(reader.group(GroupId(1)).unwrap().purged.index.0, 0);
    assert!(disk.content("segment-00000000000000000001.log").is_none());
}

#[test]
fn a_cut_at_any_byte_leaves_whole_batches() {
    let (_, models) = workload();
    for operation in 0..operation_count() {
        let (disk, done) = run_until_halted(operation);
        for halted_bytes in 0..=disk.halted_bytes() {
            check_recovered(&disk.power_loss(halted_bytes, &mut |_| 0), &models, done);
        }
        check_recovered(&disk.restart(), &models, done);
    }
}

#[test]
fn any_sectors_may_be_lost_at_any_operation() {
    let (_, models) = workload();
    for operation in 0..operation_count() {
        let (disk, done) = run_until_halted(operation);
        for seed in 0..24 {
            let mut choose = chooser(operation * 1000 + seed);
            let halted_bytes = choose(disk.halted_bytes() as u64 + 1) as usize;
            let lost = disk.power_loss(halted_bytes, &mut choose);
            let found = check_recovered(&lost, &models, done);
            // What an open showed is durable, and goes on.
            let again = lost.power_loss(0, &mut choose);
            let mut log = open(&again).unwrap();
            assert_eq!(Model::of(&log.reader()), found);
            log.write(&[vec![(GroupId(9), append(1, 1, 2, 700))]]).unwrap();
            let mut expected = found;
            expected.apply(&[vec![(GroupId(9), append(1, 1, 2, 700))]]);
            let log = open(&again.power_loss(0, &mut choose)).unwrap();
            assert_eq!(Model::of(&log.reader()), expected);
        }
    }
}

#[test]
fn a_crash_while_a_crash_is_recovered_from_loses_nothing() {
    let (_, models) = workload();
    for operation in (0..operation_count()).step_by(3) {
        let (disk, done) = run_until_halted(operation);
        let mut choose = chooser(operation);
        let halted_bytes = disk.halted_bytes() / 2;
        let lost = disk.power_loss(halted_bytes, &mut choose);
        let found = check_recovered(&lost.restart(), &models, done);
        for later in 0.. {
            let second = lost.restart();
            second.inject(second.operation_count() + later, Fault::Halt);
            let is_finished = open(&second).is_ok();
            let half = second.halted_bytes() / 2;
            let log = open(&second.power_loss(half, &mut choose)).unwrap();
            assert_eq!(Model::of(&log.reader()), found);
            if is_finished {
                break;
            }
        }
    }
}

/// The payload of a batch that is torn holds, where the batch after the next would start, the bytes of just such a batch.
#[test]
fn what_a_torn_batch_left_is_never_taken_for_a_batch() {
    let mut forged = BatchBuffer::default();
    forged.clear();
    forged.push(GroupId(1), &Record::Destroy);
    let forged = forged.seal(1, 3);
    let payload_at = 32 + 28 + 12;
    let mut payload = vec![7; 1900];
    payload[512 - payload_at..1024 - payload_at].copy_from_slice(forged);

    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 1, 1, 10))]]).unwrap();
    disk.inject(disk.operation_count(), Fault::Halt);
    let large = Record::Append(vec![Entry { id: log_id(1, 2), payload: payload.into() }]);
    log.write(&[vec![(GroupId(1), large)]]).unwrap_err();
    // The directory has no changes to draw for; of the four sectors the last one is lost.
    let mut draws = [0, 0, 0, 0, 2].into_iter();
    let lost = disk.power_loss(usize::MAX, &mut |_| draws.next().unwrap());
    assert_eq!(draws.next(), None);
    assert_eq!(lost.content("segment-00000000000000000001.log").unwrap()[1536..2048], *forged);

    let mut log = open(&lost).unwrap();
    assert_eq!(log.reader().group(GroupId(1)).unwrap().last, log_id(1, 1));
    log.write(&[vec![(GroupId(1), append(2, 2, 1, 10))]]).unwrap();
    let log = open(&lost.restart()).unwrap();
    assert_eq!(log.reader().group(GroupId(1)).unwrap().last, log_id(2, 2));
}

#[test]
fn a_flipped_bit_never_gives_wrong_data() {
    let (_, models) = workload();
    let (disk, done) = run_until_halted(u64::MAX);
    let log = open(&disk.restart()).unwrap();
    let active = log.usage();
    assert!(active.segment_count > 1);
    let mut detected = 0;
    let names = crate::Disk::list(&disk).unwrap();
    let last_segment = names.iter().rfind(|name| name.starts_with("segment")).unwrap();
    for name in &names {
        for offset in 0..disk.content(name).unwrap().len() as u64 {
            let damaged = disk.restart();
            damaged.flip_bit(name, offset, (offset % 8) as u8);
            match open(&damaged) {
                Err(LogError::Corrupt { file, offset: at, .. }) => {
                    assert!(file == *name && at <= offset, "{name}+{offset} was reported as {file}+{at}");
                    detected += 1;
                }
                Err(error) => panic!("{name}+{offset}: {error}"),
                Ok(log) => {
                    let found = Model::of(&log.reader());
                    let is_tear = name == last_segment && found == models[done - 1];
                    assert!(found == models[done] || is_tear, "{name}+{offset}: wrong data");
                }
            }
        }
    }
    assert!(detected > 4096, "only {detected} flips were detected");
}
