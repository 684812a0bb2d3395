//! What a connection is doing, so that slow and idle ones can be told from busy ones without a timer per request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::config::RestConfig;
use super::unparsed::problem_instead_of;

/// What a connection is doing. One task reads and writes it; it is atomic because that task moves between threads.
#[derive(Debug)]
pub(super) struct Activity {
    phase: AtomicU8,
    /// An answer has begun to go out since the last tick.
    has_answered: AtomicBool,
    /// What went out, ever. It may begin anew at 0.
    written_bytes: AtomicUsize,
    /// What has come of a head that is not whole.
    head_bytes: AtomicUsize,
    head_memory: Arc<HeadMemory>,
}

/// Memory for long heads that are not whole, shared by all connections.
#[derive(Debug)]
pub(super) struct HeadMemory {
    max_bytes: usize,
    in_use_bytes: AtomicUsize,
}

/// Heads up to this size are not counted; connections are, so that these are bounded too.
const UNCOUNTED_HEAD_BYTES: usize = 16 << 10;

/// Whoever reads an answer more slowly than this in each idle time has stopped, as far as anybody can tell.
const MIN_READ_BYTES: usize = 64 << 10;

impl HeadMemory {
    pub(super) fn new(config: &RestConfig) -> Arc<Self> {
        Arc::new(Self { max_bytes: config.max_head_memory_bytes as usize, in_use_bytes: AtomicUsize::new(0) })
    }

    /// A head has grown. Whether there is room for it.
    fn on_growth(&self, from: usize, to: usize) -> bool {
        let counted = |bytes: usize| bytes.saturating_sub(UNCOUNTED_HEAD_BYTES);
        let growth = counted(to) - counted(from);
        growth == 0 || self.in_use_bytes.fetch_add(growth, Ordering::Relaxed) + growth <= self.max_bytes
    }

    fn release(&self, bytes: usize) {
        self.in_use_bytes.fetch_sub(bytes.saturating_sub(UNCOUNTED_HEAD_BYTES), Ordering::Relaxed);
    }
}

/// The head of a request is expected, or is coming. A new connection begins here.
const READING_HEAD: u8 = 0;
/// A request is with its route, which has time limits of its own.
const HANDLING: u8 = 1;
/// Between requests, or an answer is going out.
const IDLE: u8 = 2;

impl Activity {
    pub(super) fn new(head_memory: &Arc<HeadMemory>) -> Arc<Self> {
        Arc::new(Self {
            phase: AtomicU8::new(READING_HEAD),
            has_answered: AtomicBool::new(false),
            written_bytes: AtomicUsize::new(0),
            head_bytes: AtomicUsize::new(0),
            head_memory: Arc::clone(head_memory),
        })
    }

    /// A request is with its route until the guard is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> InRequest {
        self.release_head();
        self.phase.store(HANDLING, Ordering::Relaxed);
        InRequest(Arc::clone(self))
    }

    /// Whether there is room for what was read.
    fn on_read(&self, bytes: usize) -> bool {
        match self.phase.load(Ordering::Relaxed) {
            HANDLING => return true,
            IDLE => self.phase.store(READING_HEAD, Ordering::Relaxed),
            _ => {}
        }
        let before = self.head_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.head_memory.on_growth(before, before + bytes)
    }

    fn release_head(&self) {
        self.head_memory.release(self.head_bytes.swap(0, Ordering::Relaxed));
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.release_head();
    }
}

/// A request is with its route.
pub(super) struct InRequest(Arc<Activity>);

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.phase.store(IDLE, Ordering::Relaxed);
        self.0.has_answered.store(true, Ordering::Relaxed);
    }
}

/// Counts ticks to find out when a connection's time is over.
#[derive(Debug)]
pub(super) struct Patience {
    max_idle_ticks: u32,
    ticks_in_head: u32,
    ticks_idle: u32,
    /// What had gone out when the idle time last began.
    written_bytes: usize,
}

/// A head may last through two ticks, not through a third.
const MAX_HEAD_TICKS: u32 = 2;

impl Patience {
    /// Time between two ticks: a head is given two to three of them.
    pub(super) fn tick(config: &RestConfig) -> Duration {
        (config.header_timeout / 2).max(Duration::from_millis(1))
    }

    pub(super) fn new(config: &RestConfig) -> Self {
        let idle_ticks = config.idle_timeout.as_millis().div_ceil(Self::tick(config).as_millis().max(1));
        let max_idle_ticks = u32::try_from(idle_ticks).unwrap_or(u32::MAX);
        Self { max_idle_ticks, ticks_in_head: 0, ticks_idle: 0, written_bytes: 0 }
    }

    /// Called with every tick: whether the connection is to be closed.
    pub(super) fn is_over(&mut self, activity: &Activity) -> bool {
        let phase = activity.phase.load(Ordering::Relaxed);
        let written_bytes = activity.written_bytes.load(Ordering::Relaxed);
        let is_read = written_bytes.wrapping_sub(self.written_bytes) >= MIN_READ_BYTES;
        self.ticks_in_head = if phase == READING_HEAD { self.ticks_in_head + 1 } else { 0 };
        if activity.has_answered.swap(false, Ordering::Relaxed) || is_read || phase != IDLE {
            self.ticks_idle = 0;
            self.written_bytes = written_bytes;
        } else {
            self.ticks_idle += 1;
        }
        self.ticks_in_head > MAX_HEAD_TICKS || self.ticks_idle > self.max_idle_ticks
    }
}

/// A socket that tells its connection's [`Activity`] what moves, and turns hyper's bare refusals into problems.
#[derive(Debug)]
pub(super) struct WatchedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
    config: Arc<RestConfig>,
    /// Whether all that was to be written is: what comes then begins an answer.
    is_flushed: bool,
    refusal: Option<Refusal>,
}

/// A refusal on its way out.
#[derive(Debug)]
struct Refusal {
    bytes: Bytes,
    /// The length of what it replaces.
    bare_bytes: usize,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>, config: Arc<RestConfig>) -> Self {
        Self { stream, activity, config, is_flushed: true, refusal: None }
    }

    /// Nobody here answers while a head is being read, so that is hyper itself.
    fn begin_refusal(&mut self, start: &[u8], bare_bytes: usize) {
        if self.is_flushed && self.refusal.is_none() && self.activity.phase.load(Ordering::Relaxed) == READING_HEAD {
            let bytes = problem_instead_of(start, &self.config.node_name);
            self.refusal = bytes.map(|bytes| Refusal { bytes, bare_bytes });
        }
    }

    /// Writes the refusal, and then says that what it replaces was written.
    fn poll_refusal(&mut self, cx: &mut Context<'_>) -> Option<Poll<io::Result<usize>>> {
        let Refusal { bytes, bare_bytes } = self.refusal.as_mut()?;
        while !bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(count @ 1..)) => bytes.advance(count),
                Poll::Ready(Ok(0)) => return Some(Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                other => return Some(other),
            }
        }
        let written = Poll::Ready(Ok(*bare_bytes));
        self.refusal = None;
        Some(written)
    }

    fn on_written(&mut self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.is_flushed = false;
            self.activity.written_bytes.fetch_add(*bytes, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - filled;
        if read > 0 && !self.activity.on_read(read) {
            return Poll::Ready(Err(io::Error::other("too many long heads are under way")));
        }
        result
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.begin_refusal(buf, buf.len());
        let written = self.poll_refusal(cx).unwrap_or_else(|| Pin::new(&mut self.stream).poll_write(cx, buf));
        self.on_written(&written);
        written
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.begin_refusal(bufs.first().map_or(&[], |first| first), bufs.iter().map(|buf| buf.len()).sum());
        let written = self.poll_refusal(cx).unwrap_or_else(|| Pin::new(&mut self.stream).poll_write_vectored(cx, bufs));
        self.on_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes once it has handed over everything.
        self.is_flushed = true;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks_until_over(patience: &mut Patience, activity: &Activity) -> u32 {
        (1..100).find(|_| patience.is_over(activity)).unwrap_or(100)
    }

    fn config() -> RestConfig {
        RestConfig { header_timeout: Duration::from_secs(10), idle_timeout: Duration::from_mins(1), ..RestConfig::new("n1") }
    }

    #[test]
    fn a_head_has_two_ticks_an_idle_connection_more_and_a_request_no_end() {
        let config = config();
        let activity = Activity::new(&HeadMemory::new(&config));
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 3);
        let request = activity.begin_request();
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 100);
        drop(request);
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 14);
        activity.on_read(1);
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 3);
    }

    #[test]
    fn an_answer_that_is_read_has_no_end_and_one_that_is_only_sipped_has() {
        let config = config();
        let activity = Activity::new(&HeadMemory::new(&config));
        let ticks = |bytes_per_tick: usize| {
            drop(activity.begin_request());
            let mut patience = Patience::new(&config);
            let mut tick = || {
                activity.written_bytes.fetch_add(bytes_per_tick, Ordering::Relaxed);
                patience.is_over(&activity)
            };
            (1..1000).find(|_| tick()).unwrap_or(1000)
        };
        assert_eq!(ticks(MIN_READ_BYTES / 10), 1000);
        assert_eq!(ticks(MIN_READ_BYTES / 20), 14);
        activity.written_bytes.store(usize::MAX, Ordering::Relaxed);
        assert_eq!(ticks(MIN_READ_BYTES / 10), 1000, "the count may begin anew");
    }

    #[test]
    fn long_heads_share_a_memory_and_give_it_back() {
        let config = RestConfig { max_head_memory_bytes: 1000, ..config() };
        let memory = HeadMemory::new(&config);
        let (first, second) = (Activity::new(&memory), Activity::new(&memory));
        assert!(first.on_read(UNCOUNTED_HEAD_BYTES) && first.on_read(900), "a long head");
        assert!(second.on_read(UNCOUNTED_HEAD_BYTES), "a short one beside it");
        assert!(!second.on_read(101), "another long one");
        drop(second);
        let request = first.begin_request();
        assert_eq!(memory.in_use_bytes.load(Ordering::Relaxed), 0);
        assert!(first.on_read(1 << 20), "bodies are counted elsewhere");
        drop(request);
        assert!(!first.on_read(UNCOUNTED_HEAD_BYTES + 1001));
        drop(first);
        assert_eq!(memory.in_use_bytes.load(Ordering::Relaxed), 0);
    }
}
