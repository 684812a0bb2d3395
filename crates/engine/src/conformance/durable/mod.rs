//! What a durable engine holds after it was closed, killed, cut from power or damaged.
//!
//! An engine's script runs in a process of its own, and says on its standard output what it has begun and what is durable. It
//! must come back at the end of a step: one that was begun, at or after the last that was durable.
//!
//! - *closed*: dropped and opened again.
//! - *killed*: the process is killed at some steps. What was written and not synced survives this.
//! - *power loss*: strace notes every call with which the process changes its folder. At points between any two of them, a folder
//!   is made of what was synced until then and some of the rest: data is lost in any order and torn at sectors, names in
//!   the order of each folder. This holds the engine to its syncs, by whatever library it does them. Skipped where there is no
//!   strace.
//! - *damaged*: bits are flipped and ends cut off in the files of a closed engine. It may refuse; it must not panic, nor
//!   show anything else than what was written, but for what the kind says that it does not check.

mod damage;
mod disk;
mod script;
#[cfg(test)]
mod tests;
mod trace;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::TempDir;

use self::disk::{Disk, Loss};
use self::script::{FOLDER_VARIABLE, Progress, STEPS};
use super::{Pairs, pairs_of};
use crate::{Engine, EngineError};

/// Opens the engine in a folder.
pub type Open<'a> = &'a dyn Fn(&Path) -> Result<Arc<dyn Engine>, EngineError>;

/// At how many points power is lost, spread over the whole run.
const POWER_LOSSES: usize = 150;
/// At how many steps the process is killed.
const KILLS: u64 = 6;

/// Runs every check of what is durable. `child` starts a process that calls [`run_script`] with the same engine.
pub fn check_durable(open: Open<'_>, child: &dyn Fn() -> Command) {
    comes_back_after_it_was_closed(open);
    comes_back_after_it_was_killed(open, child);
    comes_back_after_a_loss_of_power(open, child);
    damage::check(open);
}

/// What the child process does: the script, in the folder that its parent chose.
pub fn run_script(open: Open<'_>) {
    let folder = std::env::var_os(FOLDER_VARIABLE).expect("only a parent starts this");
    script::run(open, Path::new(&folder), &mut std::io::stdout());
}

/// A folder in memory, if there is such a place: what is synced there is not waited for, and thousands of folders are tried.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder")
}

/// What came back, as a step of the script.
fn step_of(engine: &dyn Engine, states: &[Pairs]) -> u64 {
    let view = engine.view();
    let step = view.applied();
    let expected = usize::try_from(step).ok().and_then(|step| states.get(step)).expect("a step of the script");
    assert_eq!(view.revision(), script::revision(step), "numbers of different batches");
    assert_eq!(&pairs_of(&*view), expected, "content of another batch than {step}");
    for ((table, key), value) in expected {
        assert_eq!(view.get(*table, key).expect("a read").as_ref(), Some(value));
    }
    assert_eq!(engine.durable_applied(), step, "what came back is durable");
    let data_bytes: usize =
        expected.iter().filter(|((table, _), _)| table.is_counted()).map(|((_, key), value)| key.len() + value.len()).sum();
    assert_eq!(engine.stats().data_bytes, data_bytes as u64, "figures of another batch than {step}");
    step
}

/// The engine opens, is where it may be after what was said, and goes on from there.
fn check_after(open: Open<'_>, folder: &Path, progress: Progress, states: &[Pairs], what: &str) {
    let engine = open(folder).unwrap_or_else(|error| panic!("after {what}: {error}"));
    let step = step_of(&*engine, states);
    assert!(
        (progress.durable..=progress.begun).contains(&step),
        "after {what} the engine is at step {step}: {} was durable, {} begun",
        progress.durable,
        progress.begun,
    );
    if step < STEPS {
        script::step(&*engine, step + 1);
        engine.flush().expect("a flush");
        drop(engine);
        let engine = open(folder).unwrap_or_else(|error| panic!("after {what} and another step: {error}"));
        assert_eq!(step_of(&*engine, states), step + 1, "after {what} and another step");
    }
}

fn comes_back_after_it_was_closed(open: Open<'_>) {
    let (scratch, states) = (scratch(), script::states());
    let folder = scratch.path().join("engine");
    for step in 0..=STEPS {
        let engine = open(&folder).expect("the engine opens");
        let back_at = step_of(&*engine, &states);
        assert!(back_at + 1 >= step, "closed at step {}, it came back at {back_at}", step - 1);
        for missed in back_at..step {
            script::step(&*engine, missed + 1);
        }
        let durable = engine.flush().expect("a flush");
        assert_eq!(durable, step);
        if step % 4 == 0 && step < STEPS {
            // Not durable: may be there or not.
            script::step(&*engine, step + 1);
        }
    }
}

fn comes_back_after_it_was_killed(open: Open<'_>, child: &dyn Fn() -> Command) {
    let states = script::states();
    for kill in 1..=KILLS {
        let scratch = scratch();
        let mut process = child();
        process.env(FOLDER_VARIABLE, scratch.path()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = process.spawn().expect("the child starts");
        let mut progress = Progress::default();
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        for line in lines.map(|line| line.expect("a line")) {
            progress.hear(&line);
            if progress.begun >= kill * STEPS / (KILLS + 1) {
                break;
            }
        }
        process.kill().expect("the child can be killed");
        process.wait().expect("the child ends");
        assert!(progress.begun > 0, "the child did nothing");
        // It may have gone on a little before it died.
        let progress = Progress { begun: STEPS, ..progress };
        check_after(open, scratch.path(), progress, &states, &format!("kill {kill}"));
    }
}

fn comes_back_after_a_loss_of_power(open: Open<'_>, child: &dyn Fn() -> Command) {
    let scratch = scratch();
    let folder = scratch.path().join("engine");
    let Some(calls) = trace::record(&child(), &folder, scratch.path()) else {
        return;
    };
    let states = script::states();
    let mut disk = Disk::new(&folder);
    let mut progress = Progress::default();
    let stride = (calls.len() / POWER_LOSSES).max(1);
    for (at, call) in calls.iter().enumerate() {
        disk.apply(call, &mut progress);
        if at % stride != 0 {
            continue;
        }
        for loss in [Loss::All, Loss::Some { seed: at as u64 }] {
            let lost = scratch.path().join("lost");
            disk.lose_power(loss, &lost);
            check_after(open, &lost, progress, &states, &format!("{loss:?} at call {at} of {}", calls.len()));
            std::fs::remove_dir_all(&lost).expect("a folder");
        }
    }
    assert_eq!((progress.begun, progress.durable), (STEPS, STEPS), "the child went through");
}
