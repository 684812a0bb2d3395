//! Bounds: of disk space, of what is accepted, of what is read; and the real disk.

use std::io::ErrorKind;
use std::sync::Arc;

use super::{Model, append, hard_state, log_id, open, small_segments, state};
use crate::reader::Wanted;
use crate::testing::MemoryDisk;
use crate::{
    Disk, DiskFile, Entry, GroupId, Log, LogError, LogIndex, MAX_BATCH_BYTES, Options, RealDisk, Record, read_whole,
    write_atomically,
};

#[test]
fn cold_groups_do_not_keep_old_segments() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    for cold in 100..140 {
        let records = [append(1, 1, 2, 30), hard_state(1, 1, 1), state("configuration")];
        log.write(&[records.into_iter().map(|record| (GroupId(cold), record)).collect()]).unwrap();
    }
    let live_bytes = log.usage().live_bytes;
    let mut largest = 0;
    for index in 1..4000 {
        let records = [append(1, index, 1, 300), Record::Purge(log_id(1, index.saturating_sub(3)))];
        log.write(&[records.into_iter().map(|record| (GroupId(1), record)).collect()]).unwrap();
        largest = largest.max(log.usage().log_bytes);
    }
    // Twice what is live, the slack, the spares, and the segment in use with its neighbour.
    let bound = 2 * (live_bytes + 4096) + 6 * 4096;
    assert!(largest <= bound + 40 * 512, "{largest} bytes on disk for {live_bytes} that are live");
    assert_eq!(Model::of(&open(&disk.restart()).unwrap().reader()), Model::of(&log.reader()));
    assert_eq!(log.reader().groups().len(), 41);
}

#[test]
fn disk_use_follows_what_is_live() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    // One group keeps much, in entries that are interleaved with the waste of another.
    for index in 1..=200 {
        let batch = vec![(GroupId(1), append(1, index, 1, 400)), (GroupId(2), append(1, index, 1, 400))];
        log.write(&[batch]).unwrap();
    }
    log.write(&[vec![(GroupId(2), Record::Purge(log_id(1, 200)))]]).unwrap();
    for index in 201..2000 {
        let batch = vec![(GroupId(2), append(1, index, 1, 400)), (GroupId(2), Record::Purge(log_id(1, index)))];
        log.write(&[batch]).unwrap();
        let usage = log.usage();
        if index > 600 {
            assert!(usage.log_bytes <= 3 * usage.live_bytes + 8 * 4096, "{usage:?}");
        }
    }
    assert_eq!(Model::of(&open(&disk.restart()).unwrap().reader()), Model::of(&log.reader()));
}

#[test]
fn a_batch_larger_than_a_segment_gets_its_own() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 1, 1, 10))]]).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 2, 3, 100_000))]]).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 5, 1, 10))]]).unwrap();
    assert_eq!(log.usage().segment_count, 3);
    let log = open(&disk.restart()).unwrap();
    let entries = log.reader().entries(GroupId(1), LogIndex(1), LogIndex(6), u64::MAX).unwrap();
    assert_eq!(entries.iter().map(|entry| entry.payload.len()).collect::<Vec<_>>(), [10, 100_000, 100_000, 100_000, 10]);
}

#[test]
fn a_large_batch_leaves_the_spare_segments_alone() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    for index in 1..12 {
        log.write(&[vec![(GroupId(1), append(1, index, 1, 900)), (GroupId(1), Record::Purge(log_id(1, index)))]]).unwrap();
    }
    assert!(log.usage().spare_count > 0);
    let spares = |disk: &MemoryDisk| disk.list().unwrap().iter().filter(|name| name.starts_with("spare")).count();
    log.write(&[vec![(GroupId(2), append(1, 1, 1, 10_000))]]).unwrap();
    let usage = log.usage();
    assert_eq!(usage.spare_count, spares(&disk));
    assert_eq!(usage.log_bytes, disk_bytes(&disk));
    assert_eq!(open(&disk.restart()).unwrap().usage(), usage);
}

/// Bytes of all files that are there.
fn disk_bytes(disk: &MemoryDisk) -> u64 {
    disk.list().unwrap().iter().map(|name| disk.content(name).unwrap().len() as u64).sum()
}

/// Fills segments with a group's entries, and purges them all with the last write; returns the number of the last entry.
fn fill_and_purge(log: &mut Log<MemoryDisk>, group: GroupId) -> u64 {
    const LAST: u64 = 40;
    for index in 1..=LAST {
        log.write(&[vec![(group, append(1, index, 1, 900))]]).unwrap();
    }
    log.write(&[vec![(group, Record::Purge(log_id(1, LAST)))]]).unwrap();
    LAST
}

#[test]
fn no_write_waits_for_a_whole_segment_to_be_made() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 1, 1, 300))]]).unwrap();
    for index in 2..100 {
        let before = disk_bytes(&disk);
        log.write(&[vec![(GroupId(1), append(1, index, 1, 300))]]).unwrap();
        let made_bytes = disk_bytes(&disk) - before;
        assert!(made_bytes <= 3 * 512, "a write of 512 bytes made {made_bytes} of the next segment");
        assert_eq!(log.usage().log_bytes, disk_bytes(&disk));
    }
    assert!(log.usage().segment_count > 10);
}

#[test]
fn dead_segments_go_one_with_each_write() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    let mut last = fill_and_purge(&mut log, GroupId(1));
    let segments = || disk.list().unwrap().into_iter().filter(|name| name.starts_with("segment"));
    assert!(segments().count() > 8);
    while log.has_leftovers() {
        let before: Vec<String> = segments().collect();
        last += 1;
        log.write(&[vec![(GroupId(1), append(1, last, 1, 1))]]).unwrap();
        let gone = before.len() - segments().filter(|name| before.contains(name)).count();
        // One more where the write needed a segment, which had been one of them.
        let is_rolling = segments().any(|name| !before.contains(&name));
        assert!(gone == 1 || gone == 2 && is_rolling, "{gone} segments went at once");
        assert_eq!(log.usage().log_bytes, disk_bytes(&disk));
        let log = open(&disk.power_loss(0, &mut |_| 0)).unwrap();
        assert_eq!(log.reader().group(GroupId(1)).unwrap().last.index.0, last);
    }
    assert!(segments().count() <= 3, "what was written since is in three");
}

#[test]
fn dead_segments_go_while_nothing_is_written() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    fill_and_purge(&mut log, GroupId(1));
    let expected = Model::of(&log.reader());
    let mut rounds = 0;
    while log.has_leftovers() {
        log.drop_leftover().unwrap();
        rounds += 1;
    }
    assert!(rounds > 6, "{rounds}");
    assert_eq!((log.usage().segment_count, log.usage().spare_count), (1, 2));
    assert_eq!(Model::of(&open(&disk.power_loss(0, &mut |_| 0)).unwrap().reader()), expected);
}

#[test]
fn dead_segments_make_room_before_a_write_is_refused() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    let last = fill_and_purge(&mut log, GroupId(1));
    assert!(log.has_leftovers());
    disk.set_capacity(Some(disk_bytes(&disk) + small_segments().reserve_bytes));
    // More than fits into the segment in use.
    log.write(&[vec![(GroupId(1), append(1, last + 1, 4, 900))]]).unwrap();
    assert!(!log.has_leftovers());
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_no_trace() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    let group = GroupId(1);
    log.write(&[vec![(group, append(1, 1, 5, 10)), (group, Record::Purge(log_id(1, 2)))]]).unwrap();
    let before = Model::of(&log.reader());
    let skipping = Record::Append(vec![
        Entry { id: log_id(1, 6), payload: "six".into() },
        Entry { id: log_id(1, 8), payload: "eight".into() },
    ]);
    for record in [append(1, 7, 1, 1), append(1, 2, 1, 1), Record::Purge(log_id(1, 6)), skipping] {
        let error = log.write(&[vec![(group, append(2, 6, 1, 1))], vec![(group, Record::Destroy), (group, record)]]).unwrap_err();
        assert!(matches!(error, LogError::Invalid { group: GroupId(1), .. }), "{error}");
    }
    let payload = bytes::Bytes::from(vec![0; MAX_BATCH_BYTES as usize / 2]);
    let large = |index| Entry { id: log_id(1, index), payload: payload.clone() };
    let error = log.write(&[vec![(group, Record::Append(vec![large(6), large(7)]))]]).unwrap_err();
    assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
    assert_eq!(Model::of(&log.reader()), before);

    let operations = disk.operation_count();
    log.write(&[vec![(group, Record::Append(Vec::new())), (group, Record::Purge(log_id(1, 1)))], vec![]]).unwrap();
    log.write(&[vec![(GroupId(2), Record::Destroy)]]).unwrap();
    assert_eq!(disk.operation_count(), operations, "nothing to write");
}

#[test]
fn a_write_is_one_write_and_one_sync() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 1, 1, 10))]]).unwrap();
    let operations = disk.operation_count();
    log.write(&[vec![(GroupId(1), append(1, 2, 3, 10))], vec![(GroupId(2), append(1, 1, 3, 10)), (GroupId(2), state("s"))]])
        .unwrap();
    assert_eq!(disk.operation_count(), operations + 2);
}

#[test]
fn entries_are_limited_by_bytes_but_for_the_first() {
    let mut log = open(&MemoryDisk::new()).unwrap();
    log.write(&[vec![(GroupId(1), append(1, 1, 6, 100)), (GroupId(1), Record::Purge(log_id(1, 1)))]]).unwrap();
    let reader = log.reader();
    let count =
        |low, high, max_bytes| reader.entries(GroupId(1), LogIndex(low), LogIndex(high), max_bytes).map(|entries| entries.len());
    assert_eq!(count(2, 7, u64::MAX).unwrap(), 5);
    assert_eq!(count(2, 7, 299).unwrap(), 2);
    assert_eq!(count(2, 7, 300).unwrap(), 3);
    assert_eq!(count(2, 7, 0).unwrap(), 1);
    assert_eq!(count(4, 4, 0).unwrap(), 0);
    assert!(matches!(count(1, 7, 0), Err(LogError::Purged { first: LogIndex(2), .. })));
    assert!(matches!(count(2, 8, 0), Err(LogError::Missing { last: LogIndex(6), .. })));
    let unknown = reader.entries(GroupId(5), LogIndex(1), LogIndex(2), 0);
    assert!(matches!(unknown, Err(LogError::Missing { last: LogIndex(0), .. })));
}

#[test]
fn a_segment_that_is_being_read_is_not_used_again() {
    let disk = MemoryDisk::new();
    let mut log = open(&disk).unwrap();
    log.write(&[vec![(GroupId(1), append(7, 1, 4, 300))]]).unwrap();
    let mut wanted = Wanted::default();
    log.with_index(|index| {
        let group = index.group(GroupId(1)).unwrap();
        for at in 1..=4 {
            wanted.add(index, LogIndex(at), *group.slot(LogIndex(at)).unwrap());
        }
    });
    log.write(&[vec![(GroupId(1), Record::Purge(log_id(7, 4)))]]).unwrap();
    for index in 1..60 {
        let batch = vec![(GroupId(2), append(1, index, 1, 900)), (GroupId(2), Record::Purge(log_id(1, index)))];
        log.write(&[batch]).unwrap();
    }
    assert!(disk.content("segment-00000000000000000001.log").is_none());
    let Record::Append(expected) = append(7, 1, 4, 300) else { unreachable!() };
    assert_eq!(wanted.read().unwrap(), expected);
}

#[test]
fn options_are_checked() {
    for segment_bytes in [0, 4095, 4097, 2 << 30] {
        let options = Options { segment_bytes, ..Options::default() };
        assert!(matches!(Log::open(Arc::new(MemoryDisk::new()), options), Err(LogError::Options(_))), "{segment_bytes}");
    }
    assert!(Options::default().validate().is_ok());
}

#[test]
fn the_real_disk_keeps_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data").join("log");
    let disk = Arc::new(RealDisk::open(&path).unwrap());
    assert_eq!(RealDisk::open(&path).unwrap_err().kind(), ErrorKind::ResourceBusy);

    let mut log = Log::open(Arc::clone(&disk), small_segments()).unwrap();
    for index in 1..100 {
        let records = [append(1, index, 1, 500), Record::Purge(log_id(1, index.saturating_sub(5)))];
        log.write(&[records.into_iter().map(|record| (GroupId(1), record)).collect()]).unwrap();
    }
    let expected = Model::of(&log.reader());
    assert!(log.usage().available_bytes.is_some_and(|bytes| bytes > 0));
    drop((log, disk));

    let disk = Arc::new(RealDisk::open(&path).unwrap());
    let log = Log::open(disk, small_segments()).unwrap();
    assert_eq!(Model::of(&log.reader()), expected);
}

#[test]
fn small_files_are_replaced_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path()).unwrap();
    write_atomically(&disk, "identity", b"first").unwrap();
    write_atomically(&disk, "identity", b"second").unwrap();
    assert_eq!(read_whole(&disk, "identity").unwrap(), b"second");
    assert_eq!(disk.list().unwrap(), ["identity"]);
    for name in ["", "a/b", "..", "LOCK"] {
        assert_eq!(disk.create(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
    }
    let file = disk.open("identity").unwrap();
    file.preallocate(3).unwrap();
    assert_eq!(file.len().unwrap(), 6);
    file.preallocate(10).unwrap();
    file.truncate(8).unwrap();
    assert_eq!(read_whole(&disk, "identity").unwrap(), b"second\0\0");
}
