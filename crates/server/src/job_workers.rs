//! The threads that do beside the loop what takes long. Each kind of work has its own, so that none waits for another: cutting
//! a large snapshot stops no copy that is on its way, and an engine that stalls holds up its own group.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use quorate_engine::{Engines, free_in_parts};
use quorate_log::Disk;
use quorate_node::{Input, Job, JobDone, JobResult};
use tokio::sync::mpsc;

use crate::abort::AbortOnPanic;

/// Threads that apply to engines which may stall. Each group has one job at most with them, so this many groups can stall before
/// one waits that does not.
const APPLY_THREADS: usize = 8;

/// Threads that flush engines: a flush waits for the disk, not for a processor.
const FLUSH_THREADS: usize = 2;

/// Hands jobs to their threads.
///
/// The queues need no bound of their own: each group has at most one apply, one flush, one cut, one load, one reopening and one
/// move, what it retires and removes, a window of pieces per copy, and 64 lookups.
#[derive(Debug)]
pub(crate) struct JobWorkers {
    applies: Arc<Queue>,
    flushes: Arc<Queue>,
    whole: Arc<Queue>,
    pieces: Arc<Queue>,
    retired: Arc<Queue>,
}

/// What the threads work on.
struct Stores<D> {
    files: Arc<D>,
    engines: Arc<dyn Engines>,
    done: mpsc::Sender<Input>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

const POISONED: &str = "no panic while the queue is locked";

impl JobWorkers {
    /// Starts the threads; results go to `done`. They end with this handle.
    pub(crate) fn start<D: Disk>(
        files: &Arc<D>,
        engines: &Arc<dyn Engines>,
        done: &mpsc::Sender<Input>,
    ) -> std::io::Result<Self> {
        let start = |name: &str, threads: usize, prepare: fn()| {
            let queue = Arc::new(Queue::default());
            for _ in 0..threads {
                let stores = Stores { files: Arc::clone(files), engines: Arc::clone(engines), done: done.clone() };
                let queue = Arc::clone(&queue);
                std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                    let _guard = AbortOnPanic;
                    prepare();
                    work(&stores, &queue);
                })?;
            }
            Ok::<_, std::io::Error>(queue)
        };
        Ok(Self {
            applies: start("apply", APPLY_THREADS, || {})?,
            flushes: start("flush", FLUSH_THREADS, || {})?,
            whole: start("snapshots", 1, || {})?,
            pieces: start("copies", 1, || {})?,
            retired: start("retired", 1, free_in_parts)?,
        })
    }

    /// Hands a job over; never blocks.
    pub(crate) fn submit(&self, job: Job) {
        let queue = match job {
            Job::Apply { .. } | Job::ApplyBatch { .. } | Job::Replay { .. } | Job::ReadLeases { .. } => &self.applies,
            Job::Flush { .. } | Job::Fit { .. } => &self.flushes,
            Job::Cut { .. }
            | Job::Load { .. }
            | Job::Build { .. }
            | Job::Reopen { .. }
            | Job::OpenEventual { .. }
            | Job::Retire { engine: None, .. }
            | Job::Forget { .. } => &self.whole,
            // With an engine: another is in its place for good. Without, it may still be made by a job that waits.
            Job::Retire { engine: Some(_), .. } | Job::Release { .. } => &self.retired,
            Job::LookUp { .. } | Job::Read { .. } | Job::Stage { .. } | Job::Discard { .. } | Job::Remove { .. } => &self.pieces,
        };
        queue.waiting.lock().expect(POISONED).jobs.push_back(job);
        queue.wake.notify_one();
    }
}

impl Drop for JobWorkers {
    fn drop(&mut self) {
        for queue in [&self.applies, &self.flushes, &self.whole, &self.pieces, &self.retired] {
            queue.waiting.lock().expect(POISONED).is_closed = true;
            queue.wake.notify_all();
        }
    }
}

impl Queue {
    /// Waits for a job; none once the queue is closed.
    fn take(&self) -> Option<Job> {
        let waiting = self.waiting.lock().expect(POISONED);
        let is_idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && !waiting.is_closed;
        let mut waiting = self.wake.wait_while(waiting, is_idle).expect(POISONED);
        if waiting.is_closed { None } else { waiting.jobs.pop_front() }
    }
}

fn work<D: Disk>(stores: &Stores<D>, queue: &Queue) {
    while let Some(job) = queue.take() {
        tracing::trace!(?job, "job");
        let done = job.run(stores.files.as_ref(), stores.engines.as_ref());
        tell_of_failure(&done);
        if stores.done.blocking_send(Input::JobDone(done)).is_err() {
            return;
        }
    }
}

/// An engine that fails is opened again without anybody's help; whoever operates the node must hear of it all the same.
fn tell_of_failure(done: &JobDone) {
    let group = done.group.0;
    match &done.result {
        JobResult::Applied { applied: Err(error) } => {
            tracing::error!(group, %error, "an engine failed; it is opened again and filled from the log");
        }
        JobResult::Flushed { durable_index: Err(error), .. } => {
            tracing::error!(group, %error, "an engine could not be flushed; it is opened again and filled from the log");
        }
        JobResult::Reopened { shard: Err(error), .. } => {
            tracing::error!(group, %error, "an engine does not open; it is tried again");
        }
        JobResult::Loaded { state: Err(error), .. } => {
            tracing::error!(group, %error, "a snapshot could not be loaded into an engine; it is tried again");
        }
        JobResult::Reopened { shard: Ok(_), .. } => tracing::info!(group, "an engine that failed is open again"),
        _ => {}
    }
}
