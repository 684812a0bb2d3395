//! Disks that refuse, fail and fill up.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{Model, append, open, small_segments, workload};
use crate::testing::{Fault, MemoryDisk};
use crate::{Disk, DiskFile, GroupId, Log, LogError, LogIndex, Record};

/// Runs the workload with a fault at one operation, trying a write again that was refused for want of space. Returns how many
/// writes succeeded, how many were refused, and the error that stopped it.
fn run_with_fault(disk: &MemoryDisk, operation: u64, kind: ErrorKind) -> (usize, usize, Option<LogError>) {
    disk.inject(operation, Fault::Error(kind));
    let (writes, models) = workload();
    let mut refused = 0;
    let mut log = match open(disk) {
        Ok(log) => log,
        Err(error) => return (0, 0, Some(error)),
    };
    for (done, batch) in writes.iter().enumerate() {
        let mut result = log.write(std::slice::from_ref(batch));
        if let Err(LogError::Full { .. }) = result {
            assert_eq!(Model::of(&log.reader()), models[done]);
            refused += 1;
            result = log.write(std::slice::from_ref(batch));
        }
        if let Err(error) = result {
            assert!(matches!(log.write(&[]), Err(LogError::Poisoned)));
            return (done, refused, Some(error));
        }
    }
    (writes.len(), refused, None)
}

#[test]
fn a_failed_operation_stops_the_log_and_loses_nothing() {
    let (_, models) = workload();
    let clean = MemoryDisk::new();
    run_with_fault(&clean, u64::MAX, ErrorKind::Other);
    for operation in 0..clean.operation_count() {
        let disk = MemoryDisk::new();
        let (done, _, error) = run_with_fault(&disk, operation, ErrorKind::Other);
        assert!(error.is_some() || done == models.len() - 1, "operation {operation}");
        for after in [disk.restart(), disk.power_loss(0, &mut |below| below - 1)] {
            let log = open(&after).unwrap();
            let found = Model::of(&log.reader());
            assert!(found == models[done] || models.get(done + 1) == Some(&found), "operation {operation}");
            // Also where a failed sync left the last batch in the page cache only: what was shown must stay.
            let log = open(&after.power_loss(0, &mut |below| below - 1)).unwrap();
            assert_eq!(Model::of(&log.reader()), found, "operation {operation}");
            // And so must what is written next, though the directory's last changes may not have been durable.
            check_next_writes(&after.restart(), 1, found.clone());
            check_next_writes(&after, 12, found);
        }
    }
}

/// Writes a little, or enough for new segments and for spare ones, then loses the power, and with it all that is not synced.
fn check_next_writes(disk: &MemoryDisk, count: u64, mut expected: Model) {
    let mut log = open(disk).unwrap();
    for index in 1..=count {
        let batch = vec![(GroupId(9), append(1, index, 1, 900)), (GroupId(9), Record::Purge(super::log_id(1, index)))];
        expected.apply(std::slice::from_ref(&batch));
        log.write(&[batch]).unwrap();
    }
    let log = open(&disk.power_loss(0, &mut |_| 0)).unwrap();
    assert_eq!(Model::of(&log.reader()), expected);
}

#[test]
fn a_full_disk_refuses_the_write_or_stops_the_log() {
    let (_, models) = workload();
    let clean = MemoryDisk::new();
    run_with_fault(&clean, u64::MAX, ErrorKind::StorageFull);
    let mut refusals = 0;
    for operation in 0..clean.operation_count() {
        let disk = MemoryDisk::new();
        let (done, refused, error) = run_with_fault(&disk, operation, ErrorKind::StorageFull);
        refusals += refused;
        assert!(error.is_none() || refused == 0, "operation {operation}: refused, then stopped");
        let log = open(&disk.restart()).unwrap();
        let found = Model::of(&log.reader());
        assert!(found == models[done] || models.get(done + 1) == Some(&found), "operation {operation}");
    }
    assert!(refusals >= 8, "only {refusals} operations prepare segments");
}

#[test]
fn below_the_reserve_only_records_that_free_are_taken() {
    let disk = MemoryDisk::new();
    let options = small_segments();
    disk.set_capacity(Some(options.reserve_bytes + 4 * options.segment_bytes));
    let mut log = open(&disk).unwrap();
    assert!(!log.usage().is_below_reserve);

    let group = GroupId(1);
    let mut last = 0;
    let error = loop {
        match log.write(&[vec![(group, append(1, last + 1, 1, 1000))]]) {
            Ok(()) => last += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::Full { reserve_bytes: 8192, .. }), "{error}");
    let usage = log.usage();
    assert!(usage.is_below_reserve);
    assert_eq!((usage.segment_count, usage.available_bytes), (4, Some(8192)));
    assert_eq!(log.reader().group(group).unwrap().last.index, LogIndex(last));

    // As many hard states as fill the segment, and more: they may use the reserve.
    for commit in 0..10 {
        log.write(&[vec![(group, super::hard_state(2, 1, commit))]]).unwrap();
    }
    log.write(&[vec![(group, Record::Purge(super::log_id(1, last)))]]).unwrap();
    log.write(&[vec![(group, append(1, last + 1, 1, 1000))]]).unwrap();
    assert!(!log.usage().is_below_reserve);
    assert_eq!(Model::of(&open(&disk.restart()).unwrap().reader()), Model::of(&log.reader()));
}

#[test]
fn damage_after_the_start_is_found_when_it_is_read() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 1, 3, 100))]]).unwrap();
    let reader = log.reader();
    assert_eq!(reader.entries(GroupId(1), LogIndex(1), LogIndex(4), u64::MAX).unwrap().len(), 3);
    disk.flip_bit("segment-00000000000000000001.log", 512 + 32 + 28 + 12 + 50, 3);
    let error = reader.entries(GroupId(1), LogIndex(1), LogIndex(4), u64::MAX).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { .. }), "{error}");
    assert_eq!(reader.entries(GroupId(1), LogIndex(2), LogIndex(4), u64::MAX).unwrap().len(), 2);
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 1, 1, 1))]]).unwrap();
    let name = "segment-00000000000000000001.log";
    let mut header = disk.content(name).unwrap()[..512].to_vec();
    header[8..12].copy_from_slice(&2_u32.to_le_bytes());
    header[12..16].fill(0);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.open(name).unwrap().write_at(&header, 0).unwrap();
    let Err(error) = open(&disk) else { panic!("opened") };
    assert_eq!(error.to_string(), format!("{name} was written by a newer Quorate (log format 2; this one knows up to 1)"));
}

#[test]
fn a_missing_segment_is_noticed() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    for first in 1..20 {
        log.write(&[vec![(GroupId(1), append(1, first, 1, 900))]]).unwrap();
    }
    let segments: Vec<_> = disk.list().unwrap().into_iter().filter(|name| name.starts_with("segment")).collect();
    for name in &segments[..segments.len() - 1] {
        let copy = disk.restart();
        copy.remove(name).unwrap();
        let result = Log::open(Arc::new(copy), small_segments());
        assert!(matches!(result, Err(LogError::Corrupt { .. })), "{name}");
    }
}
