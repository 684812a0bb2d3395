//! What is done with an engine: batches, flushes and rebuilds, and what it holds after each step.

use std::io::Write;
use std::path::Path;

use bytes::Bytes;

use super::Open;
use crate::conformance::{Pairs, delete, put};
use crate::{Batch, Change, Engine, Table};

/// Names the folder to the child process.
pub(super) const FOLDER_VARIABLE: &str = "QUORATE_CRASH_FOLDER";

pub(super) const STEPS: u64 = 42;
/// Steps that are multiples of this are flushed.
const FLUSH_INTERVAL: u64 = 3;
/// At steps with this remainder of [`REBUILD_INTERVAL`] everything is replaced.
const REBUILD_AT: u64 = 8;
const REBUILD_INTERVAL: u64 = 14;
const KEY_COUNT: u64 = 90;

/// What a process said of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub(super) begun: u64,
    pub(super) durable: u64,
}

impl Progress {
    /// Takes in a line of the process's output.
    pub(super) fn hear(&mut self, line: &str) {
        let number = |text: &str| text.trim().parse().expect("a number");
        if let Some(step) = line.strip_prefix("@begun ") {
            self.begun = number(step);
        } else if let Some(step) = line.strip_prefix("@durable ") {
            self.durable = number(step);
        }
    }
}

/// Goes through all steps.
pub(super) fn run(open: Open<'_>, folder: &Path, output: &mut dyn Write) {
    let mut say = |what: &str, step: u64| {
        writeln!(output, "@{what} {step}").expect("the parent listens");
        output.flush().expect("the parent listens");
    };
    let engine = open(folder).expect("the engine opens");
    for at in 1..=STEPS {
        say("begun", at);
        step(&*engine, at);
        if is_rebuild(at) {
            say("durable", at);
        } else if at.is_multiple_of(FLUSH_INTERVAL) {
            say("durable", engine.flush().expect("a flush"));
        }
    }
}

/// Does one step.
pub(super) fn step(engine: &dyn Engine, at: u64) {
    if is_rebuild(at) {
        let mut rebuild = engine.rebuild().expect("a rebuild");
        for ((table, key), value) in rebuilt(at) {
            rebuild.put(table, key, value).expect("a pair");
        }
        rebuild.commit(at, revision(at)).expect("a commit");
    } else {
        engine.apply(Batch { applied: at, revision: revision(at), changes: changes(at) }).expect("a batch");
    }
}

/// What is there after each step, from none on.
pub(super) fn states() -> Vec<Pairs> {
    let mut states = vec![Pairs::new()];
    for at in 1..=STEPS {
        let mut pairs = if is_rebuild(at) { rebuilt(at) } else { states.last().cloned().unwrap_or_default() };
        if !is_rebuild(at) {
            for change in changes(at) {
                match change {
                    Change::Put { table, key, value } | Change::PutUntil { table, key, value, .. } => {
                        pairs.insert((table, key), value);
                    }
                    Change::Delete { table, key } => drop(pairs.remove(&(table, key))),
                }
            }
        }
        states.push(pairs);
    }
    states
}

pub(super) fn revision(step: u64) -> u64 {
    step * 3
}

fn is_rebuild(step: u64) -> bool {
    step % REBUILD_INTERVAL == REBUILD_AT
}

fn rebuilt(step: u64) -> Pairs {
    (0..KEY_COUNT / 2).map(|number| (place(number), value(step, number))).collect()
}

/// Some keys get the step in their value, some go; now and then a value is large.
fn changes(step: u64) -> Vec<Change> {
    let numbers = (0..24).map(|at| (step * 37 + at * 11) % KEY_COUNT);
    numbers
        .map(|number| {
            let (table, key) = place(number);
            if (step + number).is_multiple_of(4) { delete(table, key) } else { put(table, key, value(step, number)) }
        })
        .collect()
}

fn place(number: u64) -> (Table, Bytes) {
    let table = Table::ALL[number as usize % Table::ALL.len()];
    (table, format!("script/{}/{number}", number % 5).into())
}

fn value(step: u64, number: u64) -> Bytes {
    let len = if (step + number).is_multiple_of(29) { 20_000 } else { 40 + number as usize * 5 };
    let text = format!("{step} of {number};");
    Bytes::from(text.bytes().cycle().take(len).collect::<Vec<u8>>())
}
