//! Bodies that take their time: what goes out piece by piece, and answers that come line by line, in the memory of one line.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use quorate_api::problem::{ProblemLine, WriteOutcome};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::Error;
use crate::transport::Incoming;

/// The longest line: the largest value that any node can be set to accept (8 MiB), each byte of it escaped in six, with what
/// else there is.
const MAX_LINE_BYTES: usize = 64 << 20;

/// A request's body that is made while it is sent.
#[derive(Debug)]
pub(crate) struct Pieces(pub(crate) mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// The lines of an answer.
#[derive(Debug)]
pub(crate) struct Lines {
    endpoint: String,
    body: Incoming,
    buffer: BytesMut,
    /// So much of it was looked through for the end of a line.
    searched: usize,
    /// How long nothing may come.
    patience: Option<Duration>,
    /// What became of what was asked for, if the answer breaks off.
    outcome: WriteOutcome,
}

impl Lines {
    pub(crate) fn new(endpoint: String, body: Incoming, patience: Option<Duration>, outcome: WriteOutcome) -> Self {
        Self { endpoint, body, buffer: BytesMut::new(), searched: 0, patience, outcome }
    }

    /// The next line, without its end. That there is none is an error: every stream has a last line that says so. Nothing is
    /// lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Error> {
        loop {
            if let Some(end) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1).freeze();
                let line = line.slice(..self.searched + end);
                self.searched = 0;
                return Ok(line);
            }
            self.searched = self.buffer.len();
            if self.searched > MAX_LINE_BYTES {
                return Err(self.unexpected(format!("a line of more than {MAX_LINE_BYTES} bytes")));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), Error> {
        let frame = match self.patience {
            Some(patience) => timeout(patience, self.body.frame())
                .await
                .map_err(|_| self.broken(format!("nothing more came within {}", quorate_api::duration::format(patience))))?,
            None => self.body.frame().await,
        };
        match frame {
            None => Err(self.broken("the lines ended before the last one".to_owned())),
            Some(Err(reason)) => Err(self.broken(reason)),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                }
                Ok(())
            }
        }
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What a line says that is none of those expected.
    pub(crate) fn told(&self, line: &[u8], reason: &dyn std::fmt::Display) -> Error {
        match serde_json::from_slice::<ProblemLine>(line) {
            Ok(ProblemLine { problem }) => Error::Refused { endpoint: self.endpoint.clone(), problem: Box::new(problem) },
            Err(_) => self.unexpected(reason.to_string()),
        }
    }

    pub(crate) fn unexpected(&self, reason: String) -> Error {
        Error::Unexpected { endpoint: self.endpoint.clone(), reason, outcome: self.outcome }
    }

    fn broken(&self, reason: String) -> Error {
        Error::NoAnswer { endpoint: self.endpoint.clone(), reason, outcome: self.outcome }
    }
}
