//! The log's thread: takes everything that waits, of all groups, writes it once, syncs it once, and says so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use quorate_log::{Batch, Disk, Log, LogError, MAX_BATCH_BYTES, Record};
use tokio::sync::Notify;

use crate::abort::AbortOnPanic;

/// How long the thread waits for room before it tries again.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(200);

/// Hands batches to the log's thread.
///
/// The queue needs no bound of its own: what can wait in it is bounded by what raft-rs lets a leader have uncommitted, and by
/// what it lets be on its way to a follower, both per group.
#[derive(Clone, Debug)]
pub(crate) struct LogWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    durable: AtomicU64,
    last_sequence: AtomicU64,
    progress: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    batches: Vec<Batch>,
    last_ticket: u64,
    is_closed: bool,
}

const POISONED: &str = "no panic while the queue is locked";

impl LogWriter {
    /// Starts the thread. It ends when the writer is closed, after what waits is durable; a failed write ends the process.
    pub(crate) fn start<D: Disk>(log: Log<D>) -> std::io::Result<(Self, std::thread::JoinHandle<()>)> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            durable: AtomicU64::new(0),
            last_sequence: AtomicU64::new(log.last_sequence()),
            progress: Notify::new(),
        });
        let writer = Self { shared: Arc::clone(&shared) };
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let _guard = AbortOnPanic;
            write_all(log, &shared);
        })?;
        Ok((writer, thread))
    }

    /// Hands a batch over; never blocks.
    pub(crate) fn submit(&self, ticket: u64, batch: Batch) {
        let mut queue = self.shared.queue.lock().expect(POISONED);
        assert!(ticket > queue.last_ticket, "tickets ascend");
        queue.last_ticket = ticket;
        queue.batches.push(batch);
        drop(queue);
        self.shared.wake.notify_one();
    }

    /// The last ticket that is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.shared.durable.load(Ordering::Acquire)
    }

    /// See [`Log::last_sequence`].
    pub(crate) fn last_sequence(&self) -> u64 {
        self.shared.last_sequence.load(Ordering::Acquire)
    }

    /// Resolves when [`LogWriter::durable`] may have grown since this was last awaited.
    pub(crate) async fn progressed(&self) {
        self.shared.progress.notified().await;
    }

    /// Lets the thread end.
    pub(crate) fn close(&self) {
        self.shared.queue.lock().expect(POISONED).is_closed = true;
        self.shared.wake.notify_one();
    }
}

fn write_all<D: Disk>(mut log: Log<D>, shared: &Shared) {
    while let Some((batches, ticket)) = take(shared, log.has_leftovers()) {
        if batches.is_empty() {
            log.drop_leftover().unwrap_or_else(|error| end_process(&error));
            continue;
        }
        let mut rest = batches.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(fitting(rest));
            if !write_one(&mut log, now, shared) {
                return;
            }
            rest = later;
        }
        shared.last_sequence.store(log.last_sequence(), Ordering::Release);
        shared.durable.store(ticket, Ordering::Release);
        shared.progress.notify_one();
    }
}

/// What waits, with its last ticket; if nothing does, it is waited for, unless there is something else to do. None at the end.
fn take(shared: &Shared, has_leftovers: bool) -> Option<(Vec<Batch>, u64)> {
    let queue = shared.queue.lock().expect(POISONED);
    let is_idle = |queue: &mut Queue| queue.batches.is_empty() && !queue.is_closed && !has_leftovers;
    let mut queue = shared.wake.wait_while(queue, is_idle).expect(POISONED);
    let batches = std::mem::take(&mut queue.batches);
    let is_over = batches.is_empty() && queue.is_closed;
    (!is_over).then_some((batches, queue.last_ticket))
}

/// How many batches from the front go into one write: at least one.
fn fitting(batches: &[Batch]) -> usize {
    let mut size_bytes = 0;
    let fits = |batch: &&Batch| {
        size_bytes += batch.iter().map(|(_, record)| record_bytes(record)).sum::<u64>();
        size_bytes <= MAX_BATCH_BYTES / 2
    };
    batches.iter().take_while(fits).count().max(1)
}

/// About how large a record is.
fn record_bytes(record: &Record) -> u64 {
    match record {
        Record::Append(entries) => entries.iter().map(|entry| entry.payload.len() as u64 + 32).sum(),
        Record::State(state) => state.len() as u64 + 32,
        Record::HardState(_) | Record::Purge(_) | Record::Reset(_) | Record::Destroy => 64,
    }
}

/// A full disk is waited for: nothing was written, and a leader that waits too long hands over. After any other failure
/// nobody knows what is durable; only a new start can tell. False once the node has ended meanwhile.
fn write_one<D: Disk>(log: &mut Log<D>, batches: &[Batch], shared: &Shared) -> bool {
    loop {
        match log.write(batches) {
            Ok(()) => return true,
            // Nothing of it was acknowledged to anybody.
            Err(LogError::Full { .. }) if shared.queue.lock().expect(POISONED).is_closed => return false,
            Err(error @ LogError::Full { .. }) => {
                tracing::error!(%error, "the log waits for room");
                std::thread::sleep(FULL_DISK_PAUSE);
            }
            Err(error) => end_process(&error),
        }
    }
}

fn end_process(error: &LogError) -> ! {
    tracing::error!(%error, "the log cannot be written: the process ends here, lest it acknowledges what is lost");
    std::process::abort();
}
