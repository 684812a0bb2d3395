//! Outgoing: one connection per lane of a peer, dialled again whenever it ends.

use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use quorate_api::peer::{Frame, Lane, Refusal, RefusalKind, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};

use super::handshake::{self, HANDSHAKE_TIMEOUT, HandshakeError, STALL_TIMEOUT};
use super::queue::{SendQueue, max_queued_bytes};
use super::{LOCK_HELD, LinkStatus, Shared};

/// How long resolving and connecting may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after the first failure, at most; it doubles with each further one.
const MIN_BACKOFF_MS: u64 = 20;

/// The pause after many failures, at most: below an election timeout, so that a peer that comes back is heard in time.
const MAX_BACKOFF_MS: u64 = 1000;

/// How much goes into one write, unless a single frame is longer.
const MAX_WRITE_BYTES: usize = 1 << 20;

/// Another member, and this node's lanes to it.
///
/// *Life cycle*: made when the member becomes known; its four tasks end when it is forgotten. One that becomes known again
/// is another `Peer`.
pub(super) struct Peer {
    pub(super) node: u64,
    links: [Link; Lane::ALL.len()],
    /// Where to dial; nothing once the peer is forgotten.
    address: watch::Sender<Option<String>>,
    /// The peer was heard of: who waits before the next dial need not wait on.
    revived: Notify,
}

impl Peer {
    pub(super) fn new(node: u64, address: String) -> Self {
        Self {
            node,
            links: Lane::ALL.map(|lane| Link::new(node, lane)),
            address: watch::Sender::new(Some(address)),
            revived: Notify::new(),
        }
    }

    /// Dials the address from now on, if it is another one.
    pub(super) fn set_address(&self, address: String) {
        self.address.send_if_modified(|current| {
            let is_changed = current.as_deref() != Some(&*address);
            *current = Some(address);
            is_changed
        });
    }

    /// Ends the peer's tasks.
    pub(super) fn forget(&self) {
        self.address.send_replace(None);
    }

    /// Makes lanes that wait before the next dial stop waiting.
    pub(super) fn on_heard(&self) {
        self.revived.notify_waiters();
    }

    pub(super) fn link(&self, lane: Lane) -> &Link {
        &self.links[lane as usize]
    }

    pub(super) fn status(&self, lane: Lane, is_receiving: bool) -> LinkStatus {
        let link = self.link(lane);
        let (queued_frames, queued_bytes) = link.queue.len();
        LinkStatus {
            node: self.node,
            lane,
            is_connected: link.is_connected.load(Ordering::Relaxed),
            is_receiving,
            queued_frames: queued_frames as u64,
            queued_bytes: queued_bytes as u64,
            sent_frames: link.sent_frames.load(Ordering::Relaxed),
            sent_bytes: link.sent_bytes.load(Ordering::Relaxed),
            refused_frames: link.refused_frames.load(Ordering::Relaxed),
            dropped_frames: link.dropped_frames.load(Ordering::Relaxed),
            received_frames: link.received_frames.load(Ordering::Relaxed),
            received_bytes: link.received_bytes.load(Ordering::Relaxed),
            last_error: link.last_error().clone(),
        }
    }
}

/// One lane to a peer: its queue, and what is counted of both directions.
pub(super) struct Link {
    node: u64,
    lane: Lane,
    queue: SendQueue,
    is_connected: AtomicBool,
    sent_frames: AtomicU64,
    sent_bytes: AtomicU64,
    refused_frames: AtomicU64,
    dropped_frames: AtomicU64,
    pub(super) received_frames: AtomicU64,
    pub(super) received_bytes: AtomicU64,
    last_error: Mutex<Option<String>>,
}

impl Link {
    fn new(node: u64, lane: Lane) -> Self {
        Self {
            node,
            lane,
            queue: SendQueue::new(max_queued_bytes(lane)),
            is_connected: AtomicBool::new(false),
            sent_frames: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            refused_frames: AtomicU64::new(0),
            dropped_frames: AtomicU64::new(0),
            received_frames: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            last_error: Mutex::default(),
        }
    }

    /// Queues a frame that takes `bytes` on the wire.
    pub(super) fn try_send(&self, frame: Frame, bytes: usize) -> bool {
        let is_taken = self.queue.try_push(frame, bytes);
        if !is_taken {
            self.refused_frames.fetch_add(1, Ordering::Relaxed);
        }
        is_taken
    }

    fn on_connected(&self) {
        *self.last_error() = None;
        self.is_connected.store(true, Ordering::Relaxed);
        tracing::info!(node = self.node, lane = self.lane.name(), "connected to peer");
    }

    /// Drops what is queued: it was meant for a connection that is gone, and would arrive stale on the next.
    fn on_failure(&self, error: &LinkError) {
        self.is_connected.store(false, Ordering::Relaxed);
        let dropped_frames = self.queue.clear();
        self.dropped_frames.fetch_add(dropped_frames as u64, Ordering::Relaxed);
        let error = error.to_string();
        let mut last_error = self.last_error();
        // A peer may stay away for days: the same failure is worth one line.
        if last_error.as_deref() == Some(&*error) {
            tracing::debug!(node = self.node, lane = self.lane.name(), error, dropped_frames, "peer is still unreachable");
        } else {
            tracing::warn!(node = self.node, lane = self.lane.name(), error, dropped_frames, "peer is unreachable");
            *last_error = Some(error);
        }
    }

    fn last_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().expect(LOCK_HELD)
    }
}

/// Why an outgoing connection ended or could not be made.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("no connection within {} s", DIAL_TIMEOUT.as_secs())]
    DialTimeout,
    #[error("dial: {0}")]
    Dial(io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the peer took nothing for {} s", STALL_TIMEOUT.as_secs())]
    Stalled,
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error("the peer closed the connection")]
    Closed,
    #[error("the peer wrote on a connection that it only reads from")]
    OutOfPlace,
    #[error("the peer's address changed")]
    AddressChanged,
}

impl LinkError {
    /// What the peer says, if that is that this node can be no member: it was removed, or its folder is outdated.
    fn casts_out(&self) -> Option<&Refusal> {
        let Self::Handshake(HandshakeError::RefusedByPeer(refusal)) = self else { return None };
        Some(refusal).filter(|refusal| refusal.kind == RefusalKind::RemovedNode || refusal.kind.is_outdated())
    }
}

/// Keeps one lane of one peer connected until the peer is forgotten.
pub(super) async fn run(shared: Arc<Shared>, peer: Arc<Peer>, lane: Lane) {
    let mut address = peer.address.subscribe();
    let mut failures = 0;
    loop {
        let Some(target) = address.borrow_and_update().clone() else { return };
        let ended = tokio::select! {
            ended = run_connection(&shared, &peer, lane, &target, &mut failures) => ended,
            _ = address.changed() => Err(LinkError::AddressChanged),
        };
        let Err(error) = ended;
        if address.borrow().is_none() {
            // Forgotten: what is lost with it is no failure.
            return shared.events.on_unreachable(peer.node, lane);
        }
        peer.link(lane).on_failure(&error);
        if let Some(refusal) = error.casts_out() {
            shared.events.on_cast_out(refusal);
        }
        shared.events.on_unreachable(peer.node, lane);
        if matches!(error, LinkError::AddressChanged) {
            failures = 0;
            continue;
        }
        tokio::select! {
            () = sleep(backoff(shared.identity.node, peer.node, lane, failures)) => {}
            () = peer.revived.notified() => {}
            _ = address.changed() => {}
        }
        failures = failures.saturating_add(1);
    }
}

/// One connection, from dialling to its end.
async fn run_connection(
    shared: &Shared,
    peer: &Peer,
    lane: Lane,
    address: &str,
    failures: &mut u32,
) -> Result<Infallible, LinkError> {
    let stream = timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await.map_err(|_| LinkError::DialTimeout)?;
    let mut stream = stream.map_err(LinkError::Dial)?;
    handshake::tune(&stream)?;
    let introduction = handshake::introduce(&mut stream, &shared.identity, peer.node, lane);
    let hello = timeout(HANDSHAKE_TIMEOUT, introduction).await.map_err(|_| HandshakeError::Timeout)??;
    shared.registry().observe(&hello).map_err(HandshakeError::Refused)?;
    let wire = shared.identity.hello(lane).common_wire(&hello).map_err(HandshakeError::Refused)?;
    *failures = 0;
    peer.link(lane).on_connected();
    shared.events.on_connected(peer.node, lane);
    write_frames(stream, peer.link(lane), wire).await
}

/// Writes what is queued, as much as there is at a time and what the peer's wire version has, until the connection ends.
async fn write_frames(stream: TcpStream, link: &Link, wire: u16) -> Result<Infallible, LinkError> {
    let (mut reading, mut writing) = stream.into_split();
    let mut buffer = BytesMut::new();
    let mut unexpected = [0];
    loop {
        let frames = tokio::select! {
            frames = link.queue.take(MAX_WRITE_BYTES) => frames,
            // The peer never writes here: this resolves when it goes away, which no write would tell in time.
            read = reading.read(&mut unexpected) => match read? {
                0 => return Err(LinkError::Closed),
                _ => return Err(LinkError::OutOfPlace),
            },
        };
        for frame in frames.iter().filter(|frame| frame.since_wire() <= wire) {
            encode_frame(frame, &mut buffer).expect("a frame was measured before it was queued");
        }
        let frame_count = frames.len() as u64;
        // The payloads are in the buffer now; holding them twice during a slow write helps nobody.
        drop(frames);
        write_all(&mut writing, &buffer, &link.sent_bytes).await?;
        link.sent_frames.fetch_add(frame_count, Ordering::Relaxed);
        buffer.clear();
        if buffer.capacity() > 2 * MAX_WRITE_BYTES {
            buffer = BytesMut::new();
        }
    }
}

/// Writes all of `rest`, as long as the peer takes something of it now and then.
async fn write_all(writing: &mut (impl AsyncWrite + Unpin), mut rest: &[u8], sent_bytes: &AtomicU64) -> Result<(), LinkError> {
    while !rest.is_empty() {
        let written = timeout(STALL_TIMEOUT, writing.write(rest)).await.map_err(|_| LinkError::Stalled)??;
        if written == 0 {
            return Err(LinkError::Closed);
        }
        sent_bytes.fetch_add(written as u64, Ordering::Relaxed);
        rest = &rest[written..];
    }
    Ok(())
}

/// How long to wait after this many earlier failures in a row: doubling up to the limit. Half of it is spread, by who dials
/// whom, so that nodes that lost a peer at the same moment do not all come back at the same moment.
fn backoff(node: u64, peer: u64, lane: Lane, failures: u32) -> Duration {
    let max_ms = MAX_BACKOFF_MS.min(MIN_BACKOFF_MS << failures.min(16));
    let seed = [node, peer, lane as u64, failures.into()].into_iter().fold(0, |seed, part| mixed(seed ^ part));
    Duration::from_millis(max_ms / 2 + seed % (max_ms / 2 + 1))
}

/// The finalizer of `SplitMix64`: close inputs give far outputs.
fn mixed(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_limit_and_spreads() {
        for failures in 0..200 {
            let max_ms = MAX_BACKOFF_MS.min(MIN_BACKOFF_MS << failures.min(10));
            let pause_ms = backoff(1, 2, Lane::Control, failures).as_millis() as u64;
            assert!((max_ms / 2..=max_ms).contains(&pause_ms), "{pause_ms} ms after {failures} failures");
        }
        let pauses: std::collections::BTreeSet<_> = (1..=20).map(|node| backoff(node, 99, Lane::Append, 9)).collect();
        assert!(pauses.len() > 15, "nodes that dial the same peer wait differently: {pauses:?}");
    }
}
