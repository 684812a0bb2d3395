//! The threads that read and write snapshot files beside the loop: one for whole snapshots, one for pieces, so that cutting a
//! large one does not stop a copy that is on its way.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use quorate_log::Disk;
use quorate_node::{Input, Job};
use tokio::sync::mpsc;

use crate::abort::AbortOnPanic;

/// Jobs that wait per thread. Each group has at most one cut and one load, and a window of pieces per copy; a thousand groups
/// at once stay below it. Beyond it the loop would wait, so it is far off.
const MAX_QUEUED_JOBS: usize = 1 << 14;

/// Hands jobs to their threads.
#[derive(Debug)]
pub(crate) struct JobWorkers {
    whole: SyncSender<Job>,
    pieces: SyncSender<Job>,
}

impl JobWorkers {
    /// Starts the threads; results go to `done`. They end with this handle.
    pub(crate) fn start<D: Disk>(files: &Arc<D>, done: &mpsc::Sender<Input>) -> std::io::Result<Self> {
        let spawn = |name: &str| {
            let (sender, receiver) = sync_channel(MAX_QUEUED_JOBS);
            let (files, done) = (Arc::clone(files), done.clone());
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                let _guard = AbortOnPanic;
                work(files.as_ref(), &receiver, &done);
            })?;
            Ok::<_, std::io::Error>(sender)
        };
        Ok(Self { whole: spawn("snapshots")?, pieces: spawn("copies")? })
    }

    /// Hands a job over.
    pub(crate) fn submit(&self, job: Job) {
        let queue = match job {
            Job::Cut { .. } | Job::Load { .. } => &self.whole,
            Job::Read { .. } | Job::Stage { .. } | Job::Discard { .. } | Job::Remove { .. } => &self.pieces,
        };
        // The threads live as long as this handle.
        queue.send(job).expect("the job threads run while the loop does");
    }
}

fn work<D: Disk>(files: &D, jobs: &Receiver<Job>, done: &mpsc::Sender<Input>) {
    while let Ok(job) = jobs.recv() {
        tracing::debug!(?job, "job");
        if done.blocking_send(Input::JobDone(job.run(files))).is_err() {
            return;
        }
    }
}
