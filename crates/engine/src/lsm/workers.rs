//! The threads that write memtables to files and merge files, for all LSM engines of a node.
//!
//! One thread flushes and two merge, so that a long merge of one engine delays neither the flushes of another nor all of its
//! merges. Merging yields to everything else that the processors are wanted for: it would hold up writes and reads of all
//! keyspaces, and only a long backlog of it holds up anything.
//!
//! An engine stands in each queue once at most: the queues are as long as there are engines. Threads start with the first
//! work and end with the last engine.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{Builder, JoinHandle};

use super::store::Store;

const MERGER_COUNT: usize = 2;

/// How much less than others a merging thread gets of a busy processor: at 5, about a third of what they get.
#[cfg(target_os = "linux")]
const MERGER_NICENESS: i32 = 5;

/// What can be done for an engine beside its writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Write its sealed memtables to files.
    Flush,
    /// Merge some of its files.
    Merge,
}

/// The threads of a node.
#[derive(Debug, Default)]
pub(super) struct Workers {
    queues: Arc<Queues>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queues {
    state: Mutex<State>,
    /// There is work, or the end has come.
    is_wanted: Condvar,
    /// Some work was done.
    is_done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    flushes: VecDeque<(u64, Weak<Store>)>,
    merges: VecDeque<(u64, Weak<Store>)>,
    /// How many threads work for an engine, by its number.
    running: BTreeMap<u64, usize>,
    is_over: bool,
}

impl Workers {
    /// Queues work for an engine, unless it is queued already.
    pub(super) fn ask(&self, work: Work, store: &Arc<Store>) -> io::Result<()> {
        self.start()?;
        let mut state = self.queues.lock();
        let queue = state.queue(work);
        if queue.iter().all(|(id, _)| *id != store.id()) {
            queue.push_back((store.id(), Arc::downgrade(store)));
            self.queues.is_wanted.notify_all();
        }
        Ok(())
    }

    /// Takes an engine's work out of the queues and waits for what is under way.
    pub(super) fn forget(&self, id: u64) {
        let mut state = self.queues.lock();
        loop {
            // What is under way may ask for more.
            state.flushes.retain(|(other, _)| *other != id);
            state.merges.retain(|(other, _)| *other != id);
            if !state.running.contains_key(&id) {
                return;
            }
            state = self.queues.is_done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn start(&self) -> io::Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.is_empty() {
            threads.push(self.spawn("lsm-flush", Work::Flush)?);
            for _ in 0..MERGER_COUNT {
                threads.push(self.spawn("lsm-merge", Work::Merge)?);
            }
        }
        Ok(())
    }

    fn spawn(&self, name: &str, work: Work) -> io::Result<JoinHandle<()>> {
        let queues = Arc::clone(&self.queues);
        let run = move || {
            if work == Work::Merge {
                yield_to_others();
            }
            queues.run(work);
        };
        Builder::new().name(name.to_owned()).spawn(run)
    }
}

/// On Linux this is the thread's alone; elsewhere it would be the process's.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    // A system that refuses merges at full speed.
    let _ = rustix::process::nice(MERGER_NICENESS);
}

#[cfg(not(target_os = "linux"))]
fn yield_to_others() {}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queues.lock().is_over = true;
        self.queues.is_wanted.notify_all();
        let threads = self.threads.get_mut().unwrap_or_else(PoisonError::into_inner);
        for thread in threads.drain(..) {
            // A thread that panicked has nothing left to wait for.
            let _ = thread.join();
        }
    }
}

impl Queues {
    /// A worker that panicked held no lock of ours: the queues are whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, work: Work) {
        while let Some((id, store)) = self.next(work) {
            if let Some(store) = store.upgrade() {
                store.work(work);
            }
            // Only now, with no hold of the engine left, may who closes it go on.
            let mut state = self.lock();
            if let Some(count) = state.running.get_mut(&id) {
                *count -= 1;
                if *count == 0 {
                    state.running.remove(&id);
                }
            }
            drop(state);
            self.is_done.notify_all();
        }
    }

    /// Waits for work; `None` at the end.
    fn next(&self, work: Work) -> Option<(u64, Weak<Store>)> {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return None;
            }
            if let Some((id, store)) = state.queue(work).pop_front() {
                *state.running.entry(id).or_default() += 1;
                return Some((id, store));
            }
            state = self.is_wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn queue(&mut self, work: Work) -> &mut VecDeque<(u64, Weak<Store>)> {
        match work {
            Work::Flush => &mut self.flushes,
            Work::Merge => &mut self.merges,
        }
    }
}
