//! Reads that take as long as there are keys, or as their client takes: they have threads of their own, a bounded number of
//! them, and give their turn away between two pieces of work.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use quorate_api::problem::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::deadline::Deadline;
use super::refusal::Refusal;
use super::turns::Turns;

/// Scans at a time in engines whose scans cost what they return. Each has a thread, and a stream as long as its client reads.
const MAX_SCANS: usize = 64;

/// Scans at a time in the other engines, which gather and sort all keys of a range for each.
const MAX_SORTING_SCANS: usize = 4;

/// Pieces of a stream that wait for the client, beside the one that is being made and those in the sockets' buffers.
const MAX_WAITING_PIECES: usize = 2;

/// What a read costs in its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cost {
    /// What it returns.
    Returned,
    /// All that is there, in time and in memory.
    Everything,
}

/// Room for scans.
#[derive(Debug)]
pub(super) struct Scans {
    turns: Turns,
    ordered: Arc<Semaphore>,
    sorting: Arc<Semaphore>,
}

/// Who asked for a scan that has one result, as the scan sees it.
pub(super) struct Asker<'a, T> {
    sender: &'a oneshot::Sender<T>,
    deadline: Deadline,
    turns: &'a Turns,
    turn: Option<OwnedSemaphorePermit>,
}

impl<T> Asker<'_, T> {
    /// Lets others have their turn. Refuses to go on if the time is up, or nobody waits any more.
    pub(super) fn pause(&mut self) -> Result<(), Refusal> {
        drop(self.turn.take());
        self.turn = Some(self.turns.take());
        if self.sender.is_closed() || self.deadline.left().is_none() {
            return Err(Refusal::new(Code::TimedOut, "the time limit ended before all keys were looked at"));
        }
        Ok(())
    }
}

impl Scans {
    pub(super) fn new(turns: Turns) -> Self {
        Self { turns, ordered: Arc::new(Semaphore::new(MAX_SCANS)), sorting: Arc::new(Semaphore::new(MAX_SORTING_SCANS)) }
    }

    /// Runs a scan beside the connections' threads, and waits for its result.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        cost: Cost,
        deadline: Deadline,
        scan: impl FnOnce(&mut Asker<'_, Result<T, Refusal>>) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = self.take(cost, deadline).await?;
        let (sender, result) = oneshot::channel();
        let turns = self.turns.clone();
        spawn_blocking(move || {
            let turn = Some(turns.take());
            let found = scan(&mut Asker { sender: &sender, deadline, turns: &turns, turn });
            drop(permit);
            // Who asked may be gone.
            let _ = sender.send(found);
        });
        result.await.unwrap_or_else(|_| Err(Refusal::new(Code::Internal, "a scan panicked")))
    }

    /// Begins a scan whose pieces go out one after the other, as the client takes them.
    pub(super) async fn stream(
        &self,
        cost: Cost,
        deadline: Deadline,
        scan: impl FnOnce(&mut Pieces) + Send + 'static,
    ) -> Result<Stream, Refusal> {
        let permit = self.take(cost, deadline).await?;
        let (sender, pieces) = mpsc::channel(MAX_WAITING_PIECES);
        let turns = self.turns.clone();
        spawn_blocking(move || {
            let turn = Some(turns.take());
            scan(&mut Pieces { sender, turns, turn });
            drop(permit);
        });
        Ok(Stream(pieces))
    }

    /// Runs a scan whose pieces go into a stream that goes on after it, as the client takes them.
    pub(super) async fn send<T: Send + 'static>(
        &self,
        cost: Cost,
        deadline: Deadline,
        sender: mpsc::Sender<Bytes>,
        scan: impl FnOnce(&mut Pieces) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let permit = self.take(cost, deadline).await?;
        let turns = self.turns.clone();
        let scanned = spawn_blocking(move || {
            let _permit = permit;
            let turn = Some(turns.take());
            scan(&mut Pieces { sender, turns, turn })
        });
        scanned.await.map_err(|_| Refusal::new(Code::Internal, "a scan panicked"))
    }

    /// Room for a scan, until it is dropped.
    pub(super) async fn take(&self, cost: Cost, deadline: Deadline) -> Result<OwnedSemaphorePermit, Refusal> {
        let room = match cost {
            Cost::Returned => &self.ordered,
            Cost::Everything => &self.sorting,
        };
        let overloaded = || Refusal::new(Code::Overloaded, "too many scans are under way");
        let left = deadline.left().ok_or_else(overloaded)?;
        match timeout(left, Arc::clone(room).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(overloaded()),
        }
    }
}

/// Where a scan puts what it found.
pub(super) struct Pieces {
    sender: mpsc::Sender<Bytes>,
    turns: Turns,
    turn: Option<OwnedSemaphorePermit>,
}

impl Pieces {
    /// Hands a piece over, and waits while the client is slow, and then for the next turn. Whether there is a client still.
    pub(super) fn send(&mut self, piece: Bytes) -> bool {
        drop(self.turn.take());
        let is_taken = self.sender.blocking_send(piece).is_ok();
        self.turn = is_taken.then(|| self.turns.take());
        is_taken
    }
}

/// The body of an answer that is made while it is sent.
#[derive(Debug)]
pub(super) struct Stream(mpsc::Receiver<Bytes>);

impl Stream {
    /// What is sent into a channel.
    pub(super) fn of(pieces: mpsc::Receiver<Bytes>) -> Self {
        Self(pieces)
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use http_body_util::BodyExt as _;

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(10))
    }

    #[tokio::test]
    async fn a_stream_runs_ahead_of_its_client_by_a_few_pieces_and_ends_with_it() {
        let scans = Scans::new(Turns::new());
        let made = Arc::new(AtomicUsize::new(0));
        let (count, (ended, end)) = (Arc::clone(&made), oneshot::channel());
        let scan = move |pieces: &mut Pieces| {
            while pieces.send(Bytes::from_static(b"piece")) {
                count.fetch_add(1, Ordering::Relaxed);
            }
            ended.send(()).unwrap();
        };
        let mut stream = scans.stream(Cost::Returned, soon(), scan).await.unwrap();
        for taken in 1..100 {
            stream.frame().await.unwrap().unwrap();
            assert!(made.load(Ordering::Relaxed) <= taken + MAX_WAITING_PIECES);
        }
        drop(stream);
        end.await.unwrap();
        // Its place is free again, or will be in a moment.
        drop(scans.ordered.acquire_many(MAX_SCANS as u32).await.unwrap());
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_and_the_others_wait_no_longer_than_they_may() {
        let scans = Scans::new(Turns::new());
        let stream = |deadline| scans.stream(Cost::Everything, deadline, |pieces| while pieces.send(Bytes::new()) {});
        let mut streams = Vec::new();
        for _ in 0..MAX_SORTING_SCANS {
            streams.push(stream(soon()).await.unwrap());
        }
        assert!(stream(Deadline::after(Duration::from_millis(20))).await.is_err());
        assert_eq!(scans.run(Cost::Returned, soon(), |_| Ok(7)).await.ok(), Some(7));
        let (next, ()) = tokio::join!(stream(soon()), async { streams.truncate(1) });
        assert!(next.is_ok());
    }

    #[tokio::test]
    async fn a_scan_learns_that_its_time_is_up_and_that_nobody_waits() {
        let scans = Scans::new(Turns::new());
        let endless = |asker: &mut Asker<'_, Result<(), Refusal>>| loop {
            asker.pause()?;
        };
        assert!(scans.run(Cost::Returned, Deadline::after(Duration::from_millis(20)), endless).await.is_err());
        let abandoned = timeout(Duration::from_millis(20), scans.run(Cost::Returned, soon(), endless)).await;
        assert!(abandoned.is_err());
        // Both have ended, or will in a moment.
        drop(scans.ordered.acquire_many(MAX_SCANS as u32).await.unwrap());
    }
}
