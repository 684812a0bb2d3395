//! Turns for work that takes a processor for much longer than a key does, such as the writing of a list: it is done by threads
//! of its own, a few at a time, so that whoever asks for a key does not wait behind it.

use std::sync::Arc;
use std::time::Duration;

use quorate_api::problem::Code;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::refusal::Refusal;

/// Who waits, waits in line; no more wait than there are connections.
#[derive(Clone, Debug)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    /// As many at a time as leave half of the machine to everything else.
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(processors.div_ceil(2))))
    }

    /// Does the work when its turn comes; refuses it as overload if that is not within the time limit. Once begun it is done to
    /// its end, even if nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let Ok(Ok(turn)) = timeout(limit, Arc::clone(&self.0).acquire_owned()).await else {
            return Err(Refusal::new(Code::Overloaded, "too many lists are under way"));
        };
        // The turn ends with the work, not with whoever waits for it.
        let done = spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        let done = done.await;
        done.unwrap_or_else(|error| Err(Refusal::new(Code::Internal, error.to_string())))
    }

    /// A turn for a thread that may block, which gives it back soon: by dropping it.
    pub(super) fn take(&self) -> OwnedSemaphorePermit {
        let turn = Handle::current().block_on(Arc::clone(&self.0).acquire_owned());
        turn.expect("the semaphore is never closed")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::Turns;

    #[tokio::test]
    async fn few_at_a_time_whether_somebody_waits_or_not() {
        let (turns, running, most) = (Arc::new(Turns::new()), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (turns, running, most) = (Arc::clone(&turns), Arc::clone(&running), Arc::clone(&most));
            let work = move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(10));
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            };
            let of_a_client_that_leaves =
                tokio::time::timeout(Duration::from_millis(1), turns.run(Duration::from_mins(1), work.clone()));
            let _ = of_a_client_that_leaves.await;
            waiting.spawn(async move { turns.run(Duration::from_mins(1), work).await });
        }
        let done = waiting.join_all().await;
        assert!(done.len() == 16 && done.iter().all(Result::is_ok));
        assert!((1..=turns.0.available_permits()).contains(&most.load(Ordering::SeqCst)), "{most:?} at a time");
    }

    #[tokio::test]
    async fn nobody_waits_beyond_the_limit() {
        let turns = Turns::new();
        let all = Arc::clone(&turns.0).acquire_many_owned(turns.0.available_permits() as u32).await;
        let refused = turns.run(Duration::from_millis(10), || Ok(())).await;
        assert!(refused.is_err() && all.is_ok());
        drop(all);
        assert!(turns.run(Duration::from_mins(1), || Ok(())).await.is_ok());
    }
}
