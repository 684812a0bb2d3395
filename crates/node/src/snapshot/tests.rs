//! Snapshot files: cut, sent in pieces, cut short, bent, and interrupted.

use std::sync::Arc;

use proptest::prelude::*;
use quorate_engine::testing::SimulatedEngines;
use quorate_engine::{Batch, Change, Direction, KeyRange, Trie};
use quorate_keyspace::ShardHeader;
use quorate_log::testing::{Fault, MemoryDisk};

use super::*;
use crate::jobs::{Job, JobResult};

const FILE: SnapshotFile = SnapshotFile { group: GroupId(4), at: LogId { term: Term(3), index: LogIndex(9) } };

type Pairs = Vec<(Table, Bytes, Bytes)>;

fn pairs_of(engine: &dyn Engine) -> Pairs {
    let view = engine.view();
    let scan = |table| view.scan(table, &KeyRange::all(), Direction::Forward).map(move |item| (table, item));
    let pairs = [Table::Current, Table::History].into_iter().flat_map(scan);
    pairs.map(|(table, item)| item.map(|(key, value)| (table, key, value)).unwrap()).collect()
}

fn engine_of(pairs: Pairs) -> Trie {
    let engine = Trie::new();
    let changes = pairs.into_iter().map(|(table, key, value)| Change::Put { table, key, value }).collect();
    engine.apply(Batch { applied: FILE.at.index.0, revision: 6, changes }).unwrap();
    engine
}

fn few_pairs() -> Pairs {
    let pair = |table, key: &'static str, value: &'static str| {
        (table, Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()))
    };
    vec![pair(Table::Current, "", "empty"), pair(Table::Current, "key", ""), pair(Table::History, "key", "before")]
}

/// The state of a shard at the position in the file's name.
fn state() -> Bytes {
    let header = ShardHeader { applied_index: FILE.at.index.0, applied_term: FILE.at.term.0, ..ShardHeader::default() };
    Shard::found(Arc::new(Trie::new()), header).unwrap().state_bytes()
}

fn cut_job(pairs: Pairs) -> Job {
    Job::Cut { file: FILE, view: engine_of(pairs).view(), state: state() }
}

/// A disk with a snapshot of these pairs, and the file's content.
fn cut_on_disk(pairs: Pairs) -> (MemoryDisk, Vec<u8>) {
    let disk = MemoryDisk::new();
    let done = cut_job(pairs).run(&disk, &SimulatedEngines::default());
    let content = disk.content(&FILE.to_string()).unwrap();
    let JobResult::Cut { file: FILE, size_bytes: Ok(size_bytes) } = done.result else { panic!("{done:?}") };
    assert_eq!((done.group, size_bytes), (FILE.group, content.len() as u64));
    (disk, content)
}

/// A disk with a file of this name and content.
fn disk_with(name: &str, content: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create(name).unwrap().write_at(content, 0).unwrap();
    disk
}

/// Loads the file into an engine that holds something else; returns what it holds then.
fn load_from(disk: &MemoryDisk) -> Result<Pairs, String> {
    let old = vec![(Table::Current, Bytes::from_static(b"old"), Bytes::from_static(b"value"))];
    let engine = Arc::new(engine_of(old.clone()));
    let done = Job::Load { file: FILE, engine: Arc::clone(&engine) as Arc<dyn Engine> }.run(disk, &SimulatedEngines::default());
    let JobResult::Loaded { file: FILE, state: loaded } = done.result else { panic!("{done:?}") };
    let found = pairs_of(engine.as_ref());
    match loaded {
        Ok((loaded_state, _)) => {
            assert_eq!(loaded_state, state());
            let view = engine.view();
            assert_eq!((view.applied(), view.revision()), (FILE.at.index.0, 6));
            Ok(found)
        }
        Err(why) => {
            assert_eq!(found, old, "an engine that cannot be loaded stays as it was");
            Err(why.to_string())
        }
    }
}

/// Stages content in pieces as a follower does; returns the progress of the last one.
fn stage_in_pieces(disk: &MemoryDisk, file: SnapshotFile, content: &[u8], piece_bytes: usize) -> Result<(u64, bool), String> {
    let total_bytes = content.len() as u64;
    let mut last = Ok((0, false));
    for (piece, number) in content.chunks(piece_bytes).zip(0..) {
        let offset = number * piece_bytes as u64;
        let data = Bytes::copy_from_slice(piece);
        let done = Job::Stage { transfer: 1, file, offset, total_bytes, data }.run(disk, &SimulatedEngines::default());
        let JobResult::Staged { transfer: 1, progress, .. } = done.result else { panic!("{done:?}") };
        last = progress;
    }
    last
}

/// Reads the file in pieces as its sender does.
fn read_in_pieces(disk: &MemoryDisk, max_bytes: u64) -> Vec<u8> {
    let mut content = Vec::new();
    loop {
        let offset = content.len() as u64;
        let done = Job::Read { transfer: 1, file: FILE, offset, max_bytes }.run(disk, &SimulatedEngines::default());
        let JobResult::Read { transfer: 1, piece: Ok((total_bytes, piece)), .. } = done.result else { panic!("{done:?}") };
        content.extend_from_slice(&piece);
        if content.len() as u64 == total_bytes {
            return content;
        }
    }
}

#[test]
fn a_snapshot_is_loaded_as_it_was_cut() {
    let many = (0..3000_u32).map(|number| (Table::Current, format!("{number:05}").into(), vec![b'v'; 100].into()));
    let large = vec![(Table::Current, Bytes::from_static(b"key"), vec![b'v'; 3 * BLOCK_BYTES].into())];
    for pairs in [Vec::new(), few_pairs(), many.collect(), large] {
        assert_eq!(load_from(&cut_on_disk(pairs.clone()).0), Ok(pairs));
    }
}

#[test]
fn a_snapshot_travels_in_pieces_of_any_size() {
    let (sender, content) = cut_on_disk(few_pairs());
    for piece_bytes in [1, 7, content.len() - 1, content.len(), content.len() + 1] {
        assert_eq!(read_in_pieces(&sender, piece_bytes as u64), content);
        let receiver = MemoryDisk::new();
        let whole = Ok((content.len() as u64, true));
        assert_eq!(stage_in_pieces(&receiver, FILE, &content, piece_bytes), whole);
        let after_crash = receiver.power_loss(0, &mut |_| 0);
        assert_eq!(load_from(&after_crash), Ok(few_pairs()), "what is acknowledged as whole is durable");
    }
}

#[test]
fn every_truncation_is_found_out() {
    let (_, content) = cut_on_disk(few_pairs());
    for len in 0..content.len() {
        assert!(load_from(&disk_with(&FILE.to_string(), &content[..len])).is_err(), "{len} bytes");
        assert!(stage_in_pieces(&MemoryDisk::new(), FILE, &content[..len], 1 << 20).is_err() || len == 0, "{len} bytes");
    }
}

#[test]
fn every_flipped_bit_is_found_out_or_changes_nothing() {
    let (_, content) = cut_on_disk(few_pairs());
    let mut harmless = 0;
    for offset in 0..content.len() {
        for bit in 0..8 {
            let mut bent = content.clone();
            bent[offset] ^= 1 << bit;
            let loaded = load_from(&disk_with(&FILE.to_string(), &bent));
            let disk = MemoryDisk::new();
            let is_staged = stage_in_pieces(&disk, FILE, &bent, 100).is_ok();
            assert_eq!(is_staged, loaded.is_ok(), "bit {bit} of byte {offset}");
            assert_eq!(disk.content(&FILE.to_string()).is_some(), is_staged);
            harmless += u32::from(is_staged);
            assert!(loaded.is_err() || loaded == Ok(few_pairs()), "bit {bit} of byte {offset}");
        }
    }
    // What no checksum covers: two zero bytes after the version, three in each of the three blocks' headers.
    assert_eq!(harmless, 8 * (2 + 3 * 3));
}

#[test]
fn a_file_under_another_name_is_refused() {
    let (_, content) = cut_on_disk(few_pairs());
    for (term, index) in [(3, 8), (2, 9)] {
        let file = SnapshotFile { at: LogId { term: Term(term), index: LogIndex(index) }, ..FILE };
        let disk = MemoryDisk::new();
        assert!(stage_in_pieces(&disk, file, &content, 100).is_err());
        assert_eq!(disk.content(&file.to_string()), None);
    }
}

#[test]
fn a_crash_at_any_moment_leaves_a_whole_file_or_none() {
    let operations = {
        let disk = MemoryDisk::new();
        cut_job(few_pairs()).run(&disk, &SimulatedEngines::default());
        disk.operation_count()
    };
    let mut found = Vec::new();
    for operation in 0..operations {
        for kept in [0, u64::MAX] {
            let disk = MemoryDisk::new();
            disk.inject(operation, Fault::Halt);
            cut_job(few_pairs()).run(&disk, &SimulatedEngines::default());
            let disk = disk.power_loss(disk.halted_bytes() / 2, &mut |below| kept.min(below - 1));
            let files = find(&disk).unwrap();
            assert!(!disk.list().unwrap().contains(&FILE.part()), "what is half is removed");
            for file in &files {
                assert_eq!(*file, FILE);
                assert_eq!(load_from(&disk), Ok(few_pairs()));
            }
            found.push(files.len());
        }
    }
    assert!(found.contains(&0) && found.contains(&1), "the crash came before and after the rename: {found:?}");
}

#[test]
fn what_was_staged_of_another_try_is_in_nobodys_way() {
    let (_, content) = cut_on_disk(few_pairs());
    let disk = disk_with(&FILE.part(), &[0xff; 5000]);
    assert_eq!(stage_in_pieces(&disk, FILE, &content, 100), Ok((content.len() as u64, true)));
    let disk = disk_with(&FILE.part(), &[0xff; 5000]);
    cut_job(few_pairs()).run(&disk, &SimulatedEngines::default());
    assert_eq!(load_from(&disk), Ok(few_pairs()));
}

#[test]
fn files_are_removed_and_parts_discarded() {
    let (disk, _) = cut_on_disk(few_pairs());
    disk.create(&FILE.part()).unwrap();
    Job::Discard { file: FILE }.run(&disk, &SimulatedEngines::default());
    assert_eq!(disk.list().unwrap(), [FILE.to_string()]);
    let missing = SnapshotFile { group: GroupId(9), ..FILE };
    Job::Remove { group: FILE.group, files: vec![missing, FILE] }.run(&disk, &SimulatedEngines::default());
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
}

#[test]
fn a_disk_that_refuses_is_reported() {
    let disk = MemoryDisk::new();
    disk.set_capacity(Some(20));
    let done = cut_job(few_pairs()).run(&disk, &SimulatedEngines::default());
    assert!(matches!(done.result, JobResult::Cut { size_bytes: Err(_), .. }), "{done:?}");
    assert_eq!(disk.list().unwrap(), Vec::<String>::new(), "what is half gives its room back at once");
    let done = Job::Read { transfer: 1, file: FILE, offset: 0, max_bytes: 10 }.run(&disk, &SimulatedEngines::default());
    assert!(matches!(done.result, JobResult::Read { piece: Err(_), .. }), "{done:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_round_trip(group: u64, term: u64, index: u64) {
        let file = SnapshotFile { group: GroupId(group), at: LogId { term: Term(term), index: LogIndex(index) } };
        prop_assert_eq!(SnapshotFile::parse(&file.to_string()), Some(file));
        prop_assert_eq!(SnapshotFile::parse(&file.part()), None);
    }

    #[test]
    fn any_bytes_are_refused_without_panic(noise in prop::collection::vec(any::<u8>(), 0..200), is_ours: bool) {
        let preamble: &[u8] = if is_ours { b"QRSN\x01\0\0\0" } else { b"" };
        prop_assert!(load_from(&disk_with(&FILE.to_string(), &[preamble, &noise].concat())).is_err());
    }
}

#[test]
fn other_names_are_no_snapshot_files() {
    let name = FILE.to_string();
    let longer = format!("{}-0000000000000000.snap", &name[..name.len() - 5]);
    for other in ["", ".snap", "segment-1", &name[1..], &name[..name.len() - 5], longer.as_str()] {
        assert_eq!(SnapshotFile::parse(other), None, "{other}");
    }
}

#[test]
fn a_large_file_is_removed_in_steps_and_what_a_crash_leaves_of_it_at_the_next_start() {
    let large = vec![7; 2 * REMOVED_AT_ONCE_BYTES as usize + 1];
    for name in [FILE.to_string(), FILE.part()] {
        let disk = disk_with(&name, &large);
        remove(&disk, [name]);
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    }
    // Power is lost at each of its steps: never a whole name with a part of the content.
    let mut steps = 0;
    loop {
        let disk = disk_with(&FILE.to_string(), &large);
        disk.open(&FILE.to_string()).unwrap().sync_data().unwrap();
        disk.sync_dir().unwrap();
        let before = disk.operation_count();
        disk.inject(before + steps, Fault::Halt);
        remove(&disk, [FILE.to_string()]);
        let disk = disk.power_loss(0, &mut |below| steps % below);
        let whole = disk.content(&FILE.to_string());
        assert!(whole.as_ref().is_none_or(|content| content.len() == large.len()), "after {steps} steps");
        let found = find(&disk).unwrap();
        assert_eq!(found.len(), usize::from(whole.is_some()), "after {steps} steps");
        assert_eq!(disk.list().unwrap().len(), found.len(), "after {steps} steps");
        if whole.is_none() && steps > 8 {
            break;
        }
        steps += 1;
    }
    assert!(steps > 3, "there are several steps");
}
