//! Taking request bodies off the wire: bounded in size, in time and in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use quorate_api::problem::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::config::RestConfig;
use super::lines::Lines;
use super::refusal::Refusal;

/// The media type that is told, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<&str> {
    Some(headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim())
}

/// Refuses a content coding; `what` is what has none.
pub(super) fn refuse_coding(headers: &HeaderMap, what: &str) -> Result<(), Refusal> {
    if headers.get(CONTENT_ENCODING).is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Refusal::new(Code::UnsupportedMediaType, format!("content-encoding: {what} is taken as it is sent")));
    }
    Ok(())
}

/// Refuses what is not said to be JSON as it is.
pub(super) fn require_json(headers: &HeaderMap, what: &str) -> Result<(), Refusal> {
    refuse_coding(headers, what)?;
    if !media_type(headers).is_some_and(|told| told.eq_ignore_ascii_case("application/json")) {
        return Err(Refusal::new(Code::UnsupportedMediaType, format!("content-type: {what} is application/json")));
    }
    Ok(())
}

/// Memory for large bodies, shared by all connections.
#[derive(Clone, Debug)]
pub(super) struct BodyMemory(Arc<Semaphore>);

/// The body of one request, read at most once. What it took of [`BodyMemory`] goes back when it is dropped.
pub(super) struct RequestBody<'a> {
    /// None once it was taken.
    incoming: Option<Incoming>,
    announced_bytes: Option<u64>,
    /// The client sends the body only after the server began to read it.
    waits_for_continue: bool,
    is_broken: bool,
    config: &'a RestConfig,
    memory: &'a BodyMemory,
    permit: Option<OwnedSemaphorePermit>,
}

/// Bodies up to this size are not counted; connections are, so that these are bounded too.
const UNCOUNTED_BYTES: u64 = 64 << 10;

/// What is left of a refused body is read and dropped up to these, so that the client gets to see the answer.
const MAX_DISCARDED_BYTES: usize = 4 << 20;
const MAX_DISCARD_TIME: Duration = Duration::from_secs(1);

impl BodyMemory {
    pub(super) fn new(config: &RestConfig) -> Self {
        Self(Arc::new(Semaphore::new((config.max_body_memory_bytes / UNCOUNTED_BYTES) as usize)))
    }

    /// Room for exactly what a body has now.
    pub(super) fn hold(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: u64) -> Result<(), Refusal> {
        if bytes <= UNCOUNTED_BYTES {
            *held = None;
        }
        self.extend(held, bytes)
    }

    /// Room for a body of this size, beside what it `held` so far. In units of [`UNCOUNTED_BYTES`].
    fn extend(&self, held: &mut Option<OwnedSemaphorePermit>, bytes: u64) -> Result<(), Refusal> {
        let units = u32::try_from(bytes.div_ceil(UNCOUNTED_BYTES)).unwrap_or(u32::MAX);
        let missing = units.saturating_sub(held.as_ref().map_or(0, |held| held.num_permits() as u32));
        if bytes <= UNCOUNTED_BYTES || missing == 0 {
            return Ok(());
        }
        let overloaded = |_| Refusal::new(Code::Overloaded, "too many large bodies are under way");
        let taken = Arc::clone(&self.0).try_acquire_many_owned(missing).map_err(overloaded)?;
        match held {
            Some(held) => held.merge(taken),
            None => *held = Some(taken),
        }
        Ok(())
    }
}

impl<'a> RequestBody<'a> {
    pub(super) fn new(incoming: Incoming, headers: &HeaderMap, config: &'a RestConfig, memory: &'a BodyMemory) -> Self {
        let announced_bytes = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let waits_for_continue = headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Self { incoming: Some(incoming), announced_bytes, waits_for_continue, is_broken: false, config, memory, permit: None }
    }

    /// The whole body. A larger one than `max_bytes` is refused with `code`: before it is read if its length is announced,
    /// else as soon as it is known.
    pub(super) async fn read(&mut self, max_bytes: u64, code: Code) -> Result<Bytes, Refusal> {
        if self.announced_bytes.is_some_and(|announced| announced > max_bytes) {
            return Err(too_large(max_bytes, code));
        }
        if self.is_end() {
            return Ok(Bytes::new());
        }
        self.waits_for_continue = false;
        let first = self.next_data().await?.unwrap_or_default();
        if self.is_end() && first.len() as u64 <= max_bytes {
            return Ok(first);
        }
        match timeout(self.config.body_timeout, self.gather(first, max_bytes, code)).await {
            Ok(gathered) => gathered,
            Err(_) => Err(self.too_slow(self.config.body_timeout)),
        }
    }

    fn is_end(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    /// The body as lines, which go on coming when this is gone. None of them may have more than `max_line_bytes`.
    pub(super) fn take_lines(&mut self, max_line_bytes: u64) -> Option<Lines> {
        let incoming = self.incoming.take()?;
        Some(Lines::new(incoming, self.memory.clone(), self.config.body_progress_timeout, max_line_bytes))
    }

    /// Reads on behind the first piece. Memory is taken, and counted, as bytes come, not on the word of the announced length: a
    /// body that does not come must not keep others out.
    async fn gather(&mut self, first: Bytes, max_bytes: u64, code: Code) -> Result<Bytes, Refusal> {
        let mut whole = BytesMut::from(first);
        loop {
            if whole.len() as u64 > max_bytes {
                return Err(too_large(max_bytes, code));
            }
            self.memory.extend(&mut self.permit, whole.len() as u64)?;
            let Some(next) = self.next_data().await? else {
                return Ok(whole.freeze());
            };
            if whole.capacity() < whole.len() + next.len() && whole.len() as u64 >= UNCOUNTED_BYTES {
                let missing = self.announced_bytes.unwrap_or_default().saturating_sub(whole.len() as u64);
                whole.reserve(next.len().max(missing as usize));
            }
            whole.extend_from_slice(&next);
        }
    }

    /// The next piece; none at the end.
    pub(super) async fn next_data(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let Some(incoming) = &mut self.incoming else { return Ok(None) };
            let Ok(frame) = timeout(self.config.body_progress_timeout, incoming.frame()).await else {
                return Err(self.too_slow(self.config.body_progress_timeout));
            };
            match frame {
                None => return Ok(None),
                // Trailers carry nothing that a key-value store has a use for: they are read over.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    self.is_broken = true;
                    return Err(Refusal::new(Code::IncompleteBody, error.to_string()));
                }
            }
        }
    }

    fn too_slow(&mut self, limit: Duration) -> Refusal {
        self.is_broken = true;
        let limit = quorate_api::duration::format(limit);
        Refusal::new(Code::BodyTimeout, format!("the body made no progress, or did not end, within {limit}"))
            .with_header(CONNECTION, HeaderValue::from_static("close"))
    }

    /// Reads and drops what the route left unread, within limits.
    pub(super) async fn discard(&mut self) {
        if self.is_end() || self.is_broken || self.waits_for_continue {
            return;
        }
        let Some(incoming) = &mut self.incoming else { return };
        let discard = async {
            let mut discarded_bytes = 0;
            while discarded_bytes < MAX_DISCARDED_BYTES {
                let Some(Ok(frame)) = incoming.frame().await else { return };
                discarded_bytes += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        let _ = timeout(MAX_DISCARD_TIME, discard).await;
    }
}

fn too_large(max_bytes: u64, code: Code) -> Refusal {
    Refusal::new(code, format!("the body is larger than {max_bytes} bytes"))
}
