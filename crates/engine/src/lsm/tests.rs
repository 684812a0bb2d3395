//! With memtables and files so small that everything is flushed and merged all the time.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;

use super::node::Sizes;
use super::{Lsm, LsmNode};
use crate::folder::InUse;
use crate::{Batch, Change, Direction, Engine, EngineError, KeyRange, Stats, Table, View, conformance};

/// A few dozen pairs fill a memtable, and a few hundred have several files.
const SMALL: Sizes = Sizes { min_memtable_bytes: 4 << 10, max_memtable_bytes: 16 << 10, file_bytes: 16 << 10 };

fn small_node() -> Arc<LsmNode> {
    Arc::new(LsmNode::new(SMALL))
}

fn open_at(folder: &Path, node: &Arc<LsmNode>) -> Result<Lsm, EngineError> {
    Lsm::open(&Arc::new(InUse::of(folder.to_owned())), node)
}

#[test]
fn conforms_while_everything_is_flushed_and_merged() {
    let (scratch, node, next) = (tempfile::tempdir().unwrap(), small_node(), Mutex::new(0));
    conformance::check_one_in(6, || {
        let mut next = next.lock().unwrap();
        *next += 1;
        Arc::new(open_at(&scratch.path().join(next.to_string()), &node).unwrap())
    });
}

#[test]
fn comes_back_while_everything_is_flushed_and_merged() {
    let child = || {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "lsm::tests::crashes", "--ignored", "--nocapture"]);
        child
    };
    conformance::check_durable(&open, &child);
}

#[test]
#[ignore = "comes_back_while_everything_is_flushed_and_merged starts it in a process of its own"]
fn crashes() {
    conformance::run_script(&open);
}

fn open(folder: &Path) -> Result<Arc<dyn Engine>, EngineError> {
    Ok(Arc::new(open_at(folder, &small_node())?))
}

/// lsm-tree 3.1.8 answered point reads with old values while it flushed or merged (its issue 315): what was read and written
/// back was lost for good. Others of its bugs lost new pairs (fjall 230) or brought deleted ones back (fjall 241).
#[test]
fn nothing_is_lost_between_reading_and_writing_back() {
    const ROUNDS: u64 = 3_000;
    let scratch = tempfile::tempdir().unwrap();
    let engine = open_at(scratch.path(), &small_node()).unwrap();
    let mut model = BTreeMap::new();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = RaiseOnDrop(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                engine.flush().unwrap();
            }
        });
        for round in 1..=ROUNDS {
            let changes = read_and_change(&*engine.view(), &mut model, round);
            engine.apply(Batch { applied: round, revision: round, changes }).unwrap();
            if round.is_multiple_of(100) {
                assert_eq!(pairs_of(&*engine.view()), model, "round {round}");
            }
        }
    });
    assert_eq!(pairs_of(&*engine.view()), model);
    engine.flush().unwrap();
    drop(engine);
    let engine = open_at(scratch.path(), &small_node()).unwrap();
    let data_bytes: usize = model.iter().map(|(key, value)| key.len() + value.len()).sum();
    let figures = Stats { keys: model.len() as u64, data_bytes: data_bytes as u64 };
    assert_eq!((engine.view().applied(), engine.stats(), pairs_of(&*engine.view())), (ROUNDS, figures, model));
}

struct RaiseOnDrop<'a>(&'a AtomicBool);

impl Drop for RaiseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Adds the round to some keys' values, by what a point read says they are; takes some away, and brings some back.
fn read_and_change(view: &dyn View, model: &mut BTreeMap<Bytes, Bytes>, round: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    for step in 0..8 {
        let number = (round * 31 + step * 17) % 211;
        let key = Bytes::from(format!("key/{}/{number}", number % 7));
        // What a peek found is what `apply` goes by.
        let found = if step % 2 == 0 { view.peek(Table::Current, &key) } else { view.get(Table::Current, &key) };
        let found = found.unwrap();
        assert_eq!(found.as_ref(), model.get(&key), "{key:?} in round {round}");
        if (round + number).is_multiple_of(5) {
            model.remove(&key);
            changes.push(Change::Delete { table: Table::Current, key });
        } else {
            let sum = found.map_or(0, |value| u64::from_be_bytes(value[..8].try_into().unwrap())) + round;
            let value = Bytes::from([&sum.to_be_bytes()[..], &[7; 90]].concat());
            model.insert(key.clone(), value.clone());
            changes.push(Change::Put { table: Table::Current, key, value });
        }
    }
    changes
}

fn pairs_of(view: &dyn View) -> BTreeMap<Bytes, Bytes> {
    view.scan(Table::Current, &KeyRange::all(), Direction::Forward).map(Result::unwrap).collect()
}

#[test]
fn a_view_outlives_merges_of_its_files_and_the_engine() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = open_at(scratch.path(), &small_node()).unwrap();
    let mut model = BTreeMap::new();
    let write = |rounds: std::ops::Range<u64>, model: &mut BTreeMap<Bytes, Bytes>| {
        for round in rounds {
            let changes = read_and_change(&*engine.view(), model, round);
            engine.apply(Batch { applied: round, revision: round, changes }).unwrap();
        }
        engine.flush().unwrap();
    };
    write(1..300, &mut model);
    let (view, expected) = (engine.view(), model.clone());
    write(300..900, &mut model);
    drop(engine);
    assert_eq!(pairs_of(&*view), expected);
    assert_eq!(view.applied(), 299);
    for (key, value) in &expected {
        assert_eq!(view.get(Table::Current, key).unwrap().as_ref(), Some(value));
    }
}

#[test]
fn files_that_no_view_needs_are_removed() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = open_at(scratch.path(), &small_node()).unwrap();
    let mut model = BTreeMap::new();
    for round in 1..2_000 {
        let changes = read_and_change(&*engine.view(), &mut model, round);
        engine.apply(Batch { applied: round, revision: round, changes }).unwrap();
    }
    engine.flush().unwrap();
    // Closing waits for merges; what is then open is what the last list of files names.
    drop(engine);
    let engine = open_at(scratch.path(), &small_node()).unwrap();
    let on_disk: u64 = bytes_below(scratch.path());
    assert!(on_disk < 10 * engine.stats().data_bytes, "{on_disk} bytes on disk for {} of data", engine.stats().data_bytes);
}

fn bytes_below(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    entries.map(|entry| if entry.path().is_dir() { bytes_below(&entry.path()) } else { entry.metadata().unwrap().len() }).sum()
}

#[test]
fn a_key_that_is_too_long_is_refused_and_can_be_looked_for() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = open_at(scratch.path(), &small_node()).unwrap();
    let longest = Bytes::from(vec![b'k'; super::store::MAX_KEY_BYTES]);
    let put = |key: &Bytes| Change::Put { table: Table::Current, key: key.clone(), value: "v".into() };
    engine.apply(Batch { applied: 1, revision: 1, changes: vec![put(&longest)] }).unwrap();
    let longer = Bytes::from([&longest[..], b"k"].concat());
    let view = engine.view();
    assert_eq!(view.get(Table::Current, &longer).unwrap(), None);
    for direction in [Direction::Forward, Direction::Reverse] {
        assert_eq!(view.scan(Table::Current, &KeyRange::prefix(&longest), direction).count(), 1);
        assert_eq!(view.scan(Table::Current, &KeyRange::prefix(&longer), direction).count(), 0);
        let (from, to) = (Bound::Included(longer.clone()), Bound::Excluded(longer.clone()));
        let after = KeyRange { start: from, end: Bound::Unbounded };
        assert_eq!(view.scan(Table::Current, &after, direction).count(), 0);
        let before = KeyRange { start: Bound::Unbounded, end: to };
        assert_eq!(view.scan(Table::Current, &before, direction).count(), 1);
    }
    engine.flush().unwrap();
    assert!(engine.apply(Batch { applied: 2, revision: 2, changes: vec![put(&longer)] }).is_err());
    assert!(engine.flush().is_err(), "half a batch must not become durable");
}

/// A wrong count in a file's table of contents had lsm-tree ask for 80 GiB, which ended the process.
#[test]
fn no_damage_at_the_end_of_a_file_ends_the_process() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = open(scratch.path()).unwrap();
    let key = |at: u64| Bytes::from(at.to_be_bytes().to_vec());
    let changes = (0..100).map(|at| Change::Put { table: Table::Current, key: key(at), value: key(at) }).collect();
    engine.apply(Batch { applied: 1, revision: 1, changes }).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let file = table_files(scratch.path()).pop().expect("a file");
    let whole = std::fs::read(&file).unwrap();
    let mut refused = 0;
    for at in whole.len() - 300..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x55;
        std::fs::write(&file, &damaged).unwrap();
        match open(scratch.path()) {
            Ok(engine) => assert_eq!(engine.view().get(Table::Current, &key(7)).ok().flatten(), Some(key(7)), "byte {at}"),
            Err(error) => {
                assert!(matches!(error, EngineError::Corrupt(_)), "byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 100, "{refused} of 300");
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(open(scratch.path()).unwrap().view().get(Table::Current, &key(7)).unwrap(), Some(key(7)));
}

fn table_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(table_files(&path));
        } else if folder.ends_with("tables") {
            found.push(path);
        }
    }
    found
}
