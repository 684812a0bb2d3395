//! Any number of operations in one request: they go out while the results of those before come in.

use std::fmt;
use std::pin::Pin;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, Method, header};
use http_body_util::Either;
use quorate_api::batch::{BatchEnd, BatchOp, BatchResult};
use quorate_api::entry::NDJSON;
use quorate_api::problem::WriteOutcome;
use tokio::sync::mpsc;

use crate::batch::{BatchOutcome, path};
use crate::call::Client;
use crate::error::Error;
use crate::streams::{Lines, Pieces};
use crate::transport::{Request, Streamed};

/// Operations go out once there are so many bytes of them.
const PIECE_BYTES: usize = 32 << 10;

/// Pieces that wait for the connection.
const MAX_WAITING_PIECES: usize = 2;

/// Takes the operations of a stream.
///
/// *Life cycle*: dropping it says that these were all, as [`BatchSender::finish`] does; what was not flushed is lost then.
#[derive(Debug)]
pub struct BatchSender {
    pieces: mpsc::Sender<Bytes>,
    buffer: BytesMut,
}

/// Has the results of a stream. Dropping it gives the stream up: of operations without a result it is not known whether they
/// happened.
pub struct BatchReceiver {
    state: Receiving,
    end: Option<BatchEnd>,
}

enum Receiving {
    /// The node answers once it has seen the first operation, or that there is none.
    Opening(Pin<Box<dyn Future<Output = Result<Streamed, Error>> + Send>>),
    Open(Lines),
}

/// The other half of the stream is gone, or the connection is; [`BatchReceiver::next`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream has ended; its results say why")]
pub struct StreamEnded;

impl Client {
    /// Begins to do any number of operations, in order for each key, and not as one: each succeeds or fails alone. One half
    /// takes them, the other has their results in the same order; with `only_failed`, just those of operations that failed.
    ///
    /// Both halves must be used at the same time, by two tasks or in turn: nothing is sent before [`BatchReceiver::next`] is
    /// called, and the node takes no further operations while results wait to be read. What is kept in memory on the way is
    /// bounded, here and there; an operation has at most [`quorate_api::batch::MAX_BATCH_BYTES`] as JSON, and a larger one
    /// ends the stream. The client's time limit is that of each operation. The stream has none, but the node ends one on which
    /// nothing was sent for half a minute with the problem `body_timeout`.
    ///
    /// It goes to the first endpoint that answers now; nothing is sent again if the connection fails later.
    pub async fn batch_stream(&self, keyspace: &str, only_failed: bool) -> Result<(BatchSender, BatchReceiver), Error> {
        // What is made while it is sent cannot be sent to a second node: look for one that answers first.
        self.call(Request::read("/v1/node".to_owned())).await?;
        let query = if only_failed { "?results=failed" } else { "" };
        let mut request = Request::write(Method::POST, format!("{}{query}", path(keyspace)));
        request.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NDJSON));
        let (pieces, body) = mpsc::channel(MAX_WAITING_PIECES);
        let client = self.clone();
        let opening = Box::pin(async move { client.open_once(request, Either::Right(Pieces(body))).await });
        let receiver = BatchReceiver { state: Receiving::Opening(opening), end: None };
        Ok((BatchSender { pieces, buffer: BytesMut::new() }, receiver))
    }
}

impl BatchSender {
    /// Takes an operation, and waits while the connection is behind. It is sent with others; [`BatchSender::flush`] sends it
    /// now. The operation is taken even if the future is dropped.
    pub async fn send(&mut self, op: &BatchOp) -> Result<(), StreamEnded> {
        self.push(op);
        if self.is_full() { self.flush().await } else { Ok(()) }
    }

    /// Takes an operation, and sends nothing yet. The caller bounds what is taken: see [`BatchSender::is_full`].
    pub fn push(&mut self, op: &BatchOp) {
        serde_json::to_writer((&mut self.buffer).writer(), &op.to_body()).expect("operations have only string keys");
        self.buffer.put_u8(b'\n');
    }

    /// Whether it is time to flush.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= PIECE_BYTES
    }

    /// Whether all that was taken was sent.
    pub fn is_flushed(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Sends what was taken, and waits while the connection is behind. Nothing is lost if the future is dropped.
    pub async fn flush(&mut self) -> Result<(), StreamEnded> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let place = self.pieces.reserve().await.map_err(|_| StreamEnded)?;
        place.send(self.buffer.split().freeze());
        Ok(())
    }

    /// Sends what was taken, and says that these were all.
    pub async fn finish(mut self) -> Result<(), StreamEnded> {
        self.flush().await
    }
}

impl BatchReceiver {
    /// The next result; `None` after the last of all operations. Nothing is lost if the future is dropped. After an error
    /// there is nothing more to come, and it is not known whether the operations without a result happened.
    pub async fn next(&mut self) -> Result<Option<BatchOutcome>, Error> {
        if self.end.is_some() {
            return Ok(None);
        }
        if let Receiving::Opening(opening) = &mut self.state {
            let opened = opening.await?;
            // Silence says nothing here: the sender may have nothing to send.
            self.state = Receiving::Open(Lines::new(opened.endpoint, opened.body, None, WriteOutcome::Unknown));
        }
        let Receiving::Open(lines) = &mut self.state else { unreachable!("it was opened") };
        let line = lines.next().await?;
        let error = match serde_json::from_slice::<BatchResult<'_>>(&line) {
            Ok(result) => return BatchOutcome::try_from(result).map(Some).map_err(|error| lines.unexpected(error.to_string())),
            Err(error) => error,
        };
        match serde_json::from_slice::<BatchEnd>(&line) {
            Ok(end) => {
                self.end = Some(end);
                Ok(None)
            }
            Err(_) => Err(lines.told(&line, &error)),
        }
    }

    /// The node that answers; empty before it does.
    pub fn endpoint(&self) -> &str {
        match &self.state {
            Receiving::Opening(_) => "",
            Receiving::Open(lines) => lines.endpoint(),
        }
    }

    /// How many operations there were, and how many failed; none before the end.
    pub fn end(&self) -> Option<BatchEnd> {
        self.end
    }
}

impl fmt::Debug for BatchReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_open = matches!(self.state, Receiving::Open(_));
        f.debug_struct("BatchReceiver").field("is_open", &is_open).field("end", &self.end).finish()
    }
}
