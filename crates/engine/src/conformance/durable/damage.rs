//! Bits that flip and ends that are cut off in the files of an engine that is closed.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::{Open, STEPS, script, step_of};
use crate::conformance::{Pairs, pairs_of};
use crate::{Engine, EngineError};

/// Places in each file at which a bit is flipped, and at which it is cut.
const FLIPS: usize = 300;
const CUTS: usize = 6;

pub(super) fn check(open: Open<'_>) {
    let (scratch, states) = (super::scratch(), script::states());
    let whole = scratch.path().join("whole");
    let engine = open(&whole).expect("the engine opens");
    (1..=STEPS).for_each(|step| script::step(&*engine, step));
    engine.flush().expect("a flush");
    drop(engine);
    let damaged = scratch.path().join("damaged");
    let (mut refused, mut all) = (0, 0);
    for file in files_below(&whole) {
        let name = file.strip_prefix(&whole).expect("below").to_owned();
        let bytes = fs::read(&file).expect("a file");
        for (what, bytes) in damages(&bytes) {
            copy(&whole, &damaged);
            fs::write(damaged.join(&name), bytes).expect("a file");
            all += 1;
            refused += usize::from(is_refused(open, &damaged, &states, &format!("{}, {what}", name.display())));
            fs::remove_dir_all(&damaged).expect("a folder");
        }
    }
    assert!(refused > 0, "none of {all} damages was noticed");
}

fn damages(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let spread = |count: usize| {
        let stride = (bytes.len() / count).max(1);
        // Not always the same place of a page.
        (0..bytes.len()).step_by(stride).enumerate().map(move |(turn, at)| (turn, (at + turn * 13) % bytes.len()))
    };
    let flips = spread(FLIPS).map(|(turn, at)| {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (turn % 8);
        (format!("a bit of byte {at} flipped"), damaged)
    });
    let cuts = spread(CUTS).map(|(_, at)| (format!("cut at {at}"), bytes[..at].to_vec()));
    flips.chain(cuts).collect()
}

/// Whether the engine noticed. If it did not, it must hold what was written.
fn is_refused(open: Open<'_>, folder: &Path, states: &[Pairs], what: &str) -> bool {
    let attempt = || -> Result<(), EngineError> {
        let engine = open(folder)?;
        read_all(&*engine)?;
        assert_eq!(step_of(&*engine, states), STEPS, "an older step came back");
        Ok(())
    };
    match catch_unwind(AssertUnwindSafe(attempt)) {
        Ok(outcome) => outcome.is_err(),
        Err(reason) => {
            let message =
                reason.downcast_ref::<String>().cloned().or_else(|| reason.downcast_ref::<&str>().map(|&text| text.into()));
            panic!("{what}: {}", message.unwrap_or_default())
        }
    }
}

fn read_all(engine: &dyn Engine) -> Result<(), EngineError> {
    let view = engine.view();
    for table in crate::Table::ALL {
        for direction in [crate::Direction::Forward, crate::Direction::Reverse] {
            view.scan(table, &crate::KeyRange::all(), direction).try_for_each(|item| item.map(drop))?;
        }
    }
    for (table, key) in pairs_of(&*view).keys() {
        view.get(*table, key)?;
    }
    Ok(())
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort_unstable();
    files
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}
