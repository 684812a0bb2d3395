//! What a connection is doing, so that slow and idle ones can be told from busy ones without a timer per request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::config::RestConfig;

/// What a connection is doing. One task reads and writes it; it is atomic because that task moves between threads.
#[derive(Debug)]
pub(super) struct Activity {
    phase: AtomicU8,
    has_moved: AtomicBool,
}

/// The head of a request is expected, or is coming. A new connection begins here.
const READING_HEAD: u8 = 0;
/// A request is with its route, which has time limits of its own.
const HANDLING: u8 = 1;
/// Between requests, or an answer is going out.
const IDLE: u8 = 2;

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { phase: AtomicU8::new(READING_HEAD), has_moved: AtomicBool::new(false) })
    }

    /// A request is with its route until the guard is dropped.
    pub(super) fn begin_request(self: &Arc<Self>) -> InRequest {
        self.phase.store(HANDLING, Ordering::Relaxed);
        InRequest(Arc::clone(self))
    }

    fn on_read(&self) {
        if self.phase.load(Ordering::Relaxed) == IDLE {
            self.phase.store(READING_HEAD, Ordering::Relaxed);
        }
    }
}

/// A request is with its route.
pub(super) struct InRequest(Arc<Activity>);

impl Drop for InRequest {
    fn drop(&mut self) {
        self.0.phase.store(IDLE, Ordering::Relaxed);
        self.0.has_moved.store(true, Ordering::Relaxed);
    }
}

/// Counts ticks to find out when a connection's time is over.
#[derive(Debug)]
pub(super) struct Patience {
    max_idle_ticks: u32,
    ticks_in_head: u32,
    ticks_idle: u32,
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
        Self { max_idle_ticks: u32::try_from(idle_ticks).unwrap_or(u32::MAX), ticks_in_head: 0, ticks_idle: 0 }
    }

    /// Called with every tick: whether the connection is to be closed.
    pub(super) fn is_over(&mut self, activity: &Activity) -> bool {
        let phase = activity.phase.load(Ordering::Relaxed);
        let has_moved = activity.has_moved.swap(false, Ordering::Relaxed);
        self.ticks_in_head = if phase == READING_HEAD { self.ticks_in_head + 1 } else { 0 };
        self.ticks_idle = if phase == IDLE && !has_moved { self.ticks_idle + 1 } else { 0 };
        self.ticks_in_head > MAX_HEAD_TICKS || self.ticks_idle > self.max_idle_ticks
    }
}

/// A socket that tells its connection's [`Activity`] what moves.
#[derive(Debug)]
pub(super) struct WatchedStream {
    stream: TcpStream,
    activity: Arc<Activity>,
}

impl WatchedStream {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }

    fn on_written(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.activity.has_moved.store(true, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > filled {
            self.activity.on_read();
        }
        result
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.on_written(&written);
        written
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.on_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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

    #[test]
    fn a_head_has_two_ticks_an_idle_connection_more_and_a_request_no_end() {
        let config =
            RestConfig { header_timeout: Duration::from_secs(10), idle_timeout: Duration::from_mins(1), ..RestConfig::new("n1") };
        let activity = Activity::new();
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 3);
        let request = activity.begin_request();
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 100);
        drop(request);
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 14);
        activity.on_read();
        assert_eq!(ticks_until_over(&mut Patience::new(&config), &activity), 3);
    }
}
