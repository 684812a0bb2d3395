//! Work that goes on beside what is done to a cluster.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by those who work and by who ends it.
#[derive(Debug, Default)]
pub(crate) struct Work {
    is_over: AtomicBool,
    steps: AtomicU64,
}

/// Ends the work when it is dropped: also when a test fails, which otherwise waited for its workers for ever.
#[derive(Debug)]
pub(crate) struct EndOfWork<'a>(&'a Work);

impl Work {
    /// For who works: whether to go on.
    pub(crate) fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// One step more is done.
    pub(crate) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// How many steps are done.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// It is over when this is dropped.
    pub(crate) fn end(&self) -> EndOfWork<'_> {
        EndOfWork(self)
    }
}

impl Drop for EndOfWork<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}
