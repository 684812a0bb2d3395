//! Batches as lines: operations in, results out, at the same time and in the memory of a few.
//!
//! The client has to read while it writes, as curl does: the server takes no further lines once results wait to be read. One
//! that cannot asks for `results=failed`, which says nothing while all goes well.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Response;
use quorate_api::batch::{BatchEnd, BatchOp, MAX_BATCH_BYTES};
use quorate_api::problem::{Code, ProblemLine};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer::{self, AnswerBody};
use super::batch::{Finished, Shared, bad_op};
use super::body::RequestBody;
use super::exchange::Exchange;
use super::lines::Lines;
use super::list::put_line;
use super::refusal::Refusal;
use super::scans::Stream;
use super::store::{Freshness, Store};
use super::window::Window;

/// Batches as lines at a time.
pub(super) const MAX_STREAMS: usize = 64;

/// Results are handed over once there are so many bytes of them, or nothing else is to be done.
const PIECE_BYTES: usize = 16 << 10;

/// Pieces that wait for the client.
const MAX_WAITING_PIECES: usize = 2;

/// Begins to take lines, and answers at once.
pub(super) async fn begin<S: Store>(
    shared: Shared<S>,
    body: &mut RequestBody<'_>,
    is_only_failed: bool,
) -> Result<Response<AnswerBody>, Refusal> {
    let overloaded = || Refusal::new(Code::Overloaded, "too many batches as lines are under way");
    let place = Arc::clone(&shared.app.batch_streams).try_acquire_owned().map_err(|_| overloaded())?;
    // A keyspace that is not there is told before the first line is read.
    let timeout = shared.limit.left()?;
    shared.app.store.read(&shared.keyspace, Freshness::LOCAL, timeout).await.map_err(Refusal::of_write)?;
    let taken = || Refusal::new(Code::Internal, "the body was taken before");
    let mut lines = body.take_lines(MAX_BATCH_BYTES).ok_or_else(taken)?;
    lines.begin().await?;
    let (sender, pieces) = mpsc::channel(MAX_WAITING_PIECES);
    let results = Results {
        sender,
        patience: shared.app.config.idle_timeout,
        buffer: BytesMut::new(),
        is_only_failed,
        end: BatchEnd { ops: 0, failed: 0 },
        numbers: VecDeque::new(),
    };
    tokio::spawn(async move {
        // Whoever went away is told nothing.
        let _ = run(lines, Window::new(shared), results).await;
        drop(place);
    });
    let mut answer = answer::ndjson(answer::headers(), Stream::of(pieces));
    answer.extensions_mut().insert(Exchange);
    Ok(answer)
}

/// The client is gone, or does not read.
struct Gone;

/// Results on their way to the client.
struct Results {
    sender: mpsc::Sender<Bytes>,
    patience: Duration,
    buffer: BytesMut,
    is_only_failed: bool,
    end: BatchEnd,
    /// The numbers of the lines whose results are to come, in order.
    numbers: VecDeque<u64>,
}

async fn run<S: Store>(mut lines: Lines, mut window: Window<S>, mut results: Results) -> Result<(), Gone> {
    let mut number = 0;
    let mut waiting: Option<BatchOp> = None;
    // Why no more lines are taken: the last one was, or something went wrong.
    let mut closed: Option<Result<(), Refusal>> = None;
    loop {
        waiting = waiting.and_then(|op| window.begin(op).err());
        while let Some(finished) = window.take() {
            results.put(&finished).await?;
        }
        if waiting.is_none()
            && window.is_empty()
            && let Some(why) = closed
        {
            return results.end(why, number).await;
        }
        let takes_lines = closed.is_none() && waiting.is_none() && window.has_room();
        if !(takes_lines && lines.has_line()) {
            results.flush().await?;
        }
        let next = tokio::select! {
            next = lines.next(), if takes_lines => next,
            ended = window.wait(), if window.is_waiting() => match ended {
                Ok(()) => continue,
                Err(refusal) => return results.end(Err(refusal), number).await,
            },
        };
        match next {
            Err(refusal) => closed = Some(Err(refusal)),
            Ok(None) => closed = Some(Ok(())),
            Ok(Some(line)) => {
                number += 1;
                if !line.trim_ascii().is_empty() {
                    results.numbers.push_back(number);
                    match BatchOp::parse(&line) {
                        Ok(op) => waiting = Some(op),
                        Err(error) => window.refuse(bad_op(&error)),
                    }
                }
            }
        }
    }
}

impl Results {
    async fn put(&mut self, finished: &Finished) -> Result<(), Gone> {
        let number = self.numbers.pop_front();
        self.end.ops += 1;
        self.end.failed += u64::from(finished.is_failed());
        if finished.is_failed() || !self.is_only_failed {
            put_line(&mut self.buffer, &finished.to_body(number));
        }
        if self.buffer.len() >= PIECE_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Hands over what there is, and waits for the client to take it.
    async fn flush(&mut self) -> Result<(), Gone> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        match timeout(self.patience, self.sender.send(piece)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Gone),
        }
    }

    /// Says that these were all, or why not more lines were taken.
    async fn end(&mut self, why: Result<(), Refusal>, number: u64) -> Result<(), Gone> {
        match why {
            Ok(()) => put_line(&mut self.buffer, &self.end),
            Err(refusal) => {
                let mut problem = refusal.into_part(false);
                problem.detail = format!("behind line {number}: {}", problem.detail);
                put_line(&mut self.buffer, &ProblemLine { problem });
            }
        }
        self.flush().await
    }
}
