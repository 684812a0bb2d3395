//! A request's body as lines, of any number, in the memory of one.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use quorate_api::problem::Code;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::body::BodyMemory;
use super::refusal::Refusal;

/// The lines of a body that is still coming.
pub(super) struct Lines {
    incoming: Incoming,
    memory: BodyMemory,
    permit: Option<OwnedSemaphorePermit>,
    progress_timeout: Duration,
    max_line_bytes: usize,
    /// What has come and was not taken.
    buffer: BytesMut,
    /// So much of it was looked through for the end of a line.
    searched: usize,
    is_ended: bool,
}

impl Lines {
    pub(super) fn new(incoming: Incoming, memory: BodyMemory, progress_timeout: Duration, max_line_bytes: u64) -> Self {
        Self {
            incoming,
            memory,
            permit: None,
            progress_timeout,
            max_line_bytes: max_line_bytes as usize,
            buffer: BytesMut::new(),
            searched: 0,
            is_ended: false,
        }
    }

    /// Waits for the beginning, so that a client that asked whether it may send one is told before it is answered.
    pub(super) async fn begin(&mut self) -> Result<(), Refusal> {
        if self.buffer.is_empty() && !self.is_ended { self.receive().await } else { Ok(()) }
    }

    /// The next line, without its end; none after the last. Nothing is lost if the future is dropped before it is done.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            if let Some(line) = self.take_line() {
                return Ok(Some(line));
            }
            if self.is_ended {
                return Ok(None);
            }
            if self.buffer.len() > self.max_line_bytes {
                return Err(Refusal::new(Code::BodyTooLarge, format!("a line has more than {} bytes", self.max_line_bytes)));
            }
            self.receive().await?;
        }
    }

    /// Whether the next line is here.
    pub(super) fn has_line(&self) -> bool {
        self.is_ended || self.buffer[self.searched..].contains(&b'\n')
    }

    fn take_line(&mut self) -> Option<Bytes> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
        let line = match found {
            Some(end) => {
                let mut line = self.buffer.split_to(self.searched + end + 1);
                line.truncate(self.searched + end);
                line
            }
            None if self.is_ended && !self.buffer.is_empty() => self.buffer.split(),
            None => {
                self.searched = self.buffer.len();
                return None;
            }
        };
        self.searched = 0;
        Some(line.freeze())
    }

    async fn receive(&mut self) -> Result<(), Refusal> {
        let Ok(frame) = timeout(self.progress_timeout, self.incoming.frame()).await else {
            let limit = quorate_api::duration::format(self.progress_timeout);
            return Err(Refusal::new(Code::BodyTimeout, format!("nothing more came within {limit}")));
        };
        match frame {
            None => self.is_ended = true,
            Some(Err(error)) => return Err(Refusal::new(Code::IncompleteBody, error.to_string())),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.buffer.extend_from_slice(data);
                    self.memory.hold(&mut self.permit, self.buffer.len() as u64)?;
                }
            }
        }
        Ok(())
    }
}
