//! Threads for calls that block, a bounded number per store.
//!
//! A file system on a network may hang for ever, and a thread that is in it cannot be called back. So each store has a few
//! threads of its own: if all hang, this store is told to be slow, and nobody else notices. Who waits for an answer goes by a
//! deadline of its own.

use std::fmt;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::{ErrorKind, StoreError};

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that wait for a thread; with more, calls are refused at once.
const MAX_WAITING: usize = 256;

/// Some threads. They end when this is dropped and their last calls return.
pub(crate) struct Threads {
    store: &'static str,
    jobs: SyncSender<Job>,
}

impl Threads {
    /// Starts them.
    pub(crate) fn start(store: &'static str, count: usize) -> Result<Self, StoreError> {
        let (jobs, waiting) = sync_channel::<Job>(MAX_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for number in 0..count {
            let waiting = waiting.clone();
            thread::Builder::new()
                .name(format!("{store}-{number}"))
                .spawn(move || run(&waiting))
                .map_err(|error| StoreError::new(store, ErrorKind::Failing, error))?;
        }
        Ok(Self { store, jobs })
    }

    /// Runs a call on one of the threads. `changes` says whether it may change something: one that was handed over and is not
    /// answered may then have happened.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        changes: bool,
        call: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Nobody waits for it any more: a write would come as a surprise.
            if !answer.is_closed() {
                answer.send(call()).ok();
            }
        });
        self.jobs.try_send(job).map_err(|error| {
            let message = match error {
                TrySendError::Full(_) => "too many calls wait for threads, which all hang or are slow",
                TrySendError::Disconnected(_) => "its threads are gone",
            };
            StoreError::new(self.store, ErrorKind::Throttled { retry_after: None }, message)
        })?;
        answered.await.unwrap_or_else(|_| {
            let error = StoreError::new(self.store, ErrorKind::Failing, "the call panicked");
            Err(if changes { error.unknown() } else { error })
        })
    }
}

fn run(waiting: &Mutex<Receiver<Job>>) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        // A panic would take a thread away for good; what it interrupts is one call on files.
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).ok();
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("store", &self.store).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn calls_that_hang_hold_up_their_own_store_and_a_panic_nobody() {
        let (hanging, others) = (Threads::start("fs", 2).unwrap(), Threads::start("fs", 1).unwrap());
        let (release, held) = sync_channel::<()>(0);
        let held = Arc::new(Mutex::new(held));
        for _ in 0..2 {
            let held = held.clone();
            let call = hanging.run(false, move || {
                held.lock().unwrap().recv().ok();
                Ok(())
            });
            assert!(tokio::time::timeout(Duration::from_millis(50), call).await.is_err());
        }
        let late = hanging.run::<()>(true, || panic!("nobody waits for this any more"));
        assert!(tokio::time::timeout(Duration::from_millis(50), late).await.is_err());
        let error = others.run::<()>(true, || panic!("planted")).await.unwrap_err();
        assert_eq!((error.kind, error.outcome), (ErrorKind::Failing, crate::Outcome::Unknown));
        assert_eq!(others.run(false, || Ok(7)).await, Ok(7));
        drop(release);
        assert_eq!(hanging.run(false, || Ok(7)).await, Ok(7));
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let threads = Threads::start("fs", 1).unwrap();
        let (release, held) = sync_channel::<()>(0);
        let (begins, begun) = oneshot::channel();
        let hangs = threads.run(false, move || {
            begins.send(()).ok();
            held.recv().ok();
            Ok(())
        });
        let mut hangs = Box::pin(hangs);
        assert!(tokio::time::timeout(Duration::from_millis(10), &mut hangs).await.is_err());
        begun.await.unwrap();
        let mut waiting: Vec<_> = (0..MAX_WAITING).map(|_| Box::pin(threads.run(false, || Ok(())))).collect();
        for call in &mut waiting {
            assert!(futures_util::poll!(call).is_pending());
        }
        let error = threads.run(false, || Ok(())).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Throttled { .. }));
        drop(release);
        for call in waiting {
            call.await.unwrap();
        }
    }
}
