//! Accepted connections: who is let in, and reading what they send.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use quorate_api::peer::{DecodeError, Frame, FrameDecoder, Greeting, Hello, Lane, MAX_GREETING_BYTES, Refusal};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{sleep, timeout};

use super::handshake::{self, HANDSHAKE_TIMEOUT, HandshakeError, read_greeting, write_greeting};
use super::link::Peer;
use super::{Arrival, Shared};
use crate::starts::Start;

/// How many connections may be accepted of which nothing is known yet; further ones are closed at once.
const MAX_UNAUTHENTICATED: usize = 64;

/// The pause after the operating system could not accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is read at once where no longer frame is awaited.
const READ_BYTES: usize = 64 << 10;

/// Less room than this is not worth a read.
const MIN_READ_BYTES: usize = 4 << 10;

/// The accepted connections that passed the handshake, and what was learned from them.
///
/// Invariants: at most one connection per node and lane; all of a node's connections are of its highest incarnation seen.
pub(super) struct Registry {
    last_connection: u64,
    starts: BTreeMap<u64, Start>,
    open: BTreeMap<(u64, Lane), Open>,
}

struct Open {
    connection: u64,
    /// Dropped to close the connection.
    _hold: oneshot::Sender<()>,
}

impl Registry {
    pub(super) fn new(starts: BTreeMap<u64, Start>) -> Self {
        Self { last_connection: 0, starts, open: BTreeMap::new() }
    }

    pub(super) fn starts(&self) -> &BTreeMap<u64, Start> {
        &self.starts
    }

    pub(super) fn is_open(&self, node: u64, lane: Lane) -> bool {
        self.open.contains_key(&(node, lane))
    }

    /// Notes the start that a greeting is of; a newer one closes what older ones opened. Why it is refused, if it is.
    pub(super) fn observe(&mut self, hello: &Hello) -> Result<Start, Refusal> {
        let known = self.starts.get(&hello.node).copied();
        let start = Start::admit(known, hello)?;
        if known.is_none_or(|known| known.incarnation != start.incarnation) {
            self.starts.insert(hello.node, start);
            self.close_where(|of, _| of == hello.node);
        }
        Ok(start)
    }

    /// Notes how far the node's log is durable, by what this start of it says.
    fn note_log_end(&mut self, arrival: &Arrival, log_end: u64) {
        let known = self.starts.get_mut(&arrival.from).filter(|known| known.incarnation == arrival.start.incarnation);
        if let Some(known) = known {
            known.log_end = known.log_end.max(log_end);
        }
    }

    pub(super) fn close_where(&mut self, closes: impl Fn(u64, Lane) -> bool) {
        self.open.retain(|(node, lane), _| !closes(*node, *lane));
    }

    /// Takes up a connection in the place of any earlier one. Its number, and what resolves when it is to be closed.
    fn open(&mut self, node: u64, lane: Lane) -> (u64, oneshot::Receiver<()>) {
        self.last_connection += 1;
        let (hold, closed) = oneshot::channel();
        self.open.insert((node, lane), Open { connection: self.last_connection, _hold: hold });
        (self.last_connection, closed)
    }

    fn close(&mut self, arrival: &Arrival) {
        let key = (arrival.from, arrival.lane);
        if self.open.get(&key).is_some_and(|open| open.connection == arrival.connection) {
            self.open.remove(&key);
        }
    }
}

/// A place in the registry, held for as long as the connection is read.
struct Admission {
    shared: Arc<Shared>,
    peer: Arc<Peer>,
    arrival: Arrival,
    closed: oneshot::Receiver<()>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.shared.registry().close(&self.arrival);
    }
}

/// Why an accepted connection is read no further.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("malformed frame: {0}")]
    Malformed(#[from] DecodeError),
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error("the connection ended inside a frame")]
    Truncated,
}

/// Accepts until the transport ends.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let unauthenticated = Arc::new(Semaphore::new(MAX_UNAUTHENTICATED));
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                if let Ok(permit) = Arc::clone(&unauthenticated).try_acquire_owned() {
                    shared.spawn(serve(Arc::clone(&shared), stream, remote, permit));
                } else {
                    tracing::debug!(%remote, "connection dropped: too many have not said who they are");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "no peer connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One accepted connection, from its greeting to its end.
async fn serve(shared: Arc<Shared>, mut stream: TcpStream, remote: SocketAddr, permit: OwnedSemaphorePermit) {
    let mut received = BytesMut::with_capacity(MAX_GREETING_BYTES);
    let admitted = timeout(HANDSHAKE_TIMEOUT, welcome(&shared, &mut stream, &mut received)).await;
    let mut admission = match admitted.unwrap_or(Err(HandshakeError::Timeout)) {
        Ok(admission) => admission,
        Err(error) => {
            tracing::info!(%remote, %error, "connection not accepted");
            return;
        }
    };
    drop(permit);
    let Arrival { from: node, connection, lane, .. } = admission.arrival;
    let lane = lane.name();
    tracing::debug!(node, lane, connection, %remote, "peer connection accepted");
    let peer = Arc::clone(&admission.peer);
    let arrival = admission.arrival;
    tokio::select! {
        ended = read_frames(&shared, &peer, arrival, stream, received) => match ended {
            Ok(()) => tracing::debug!(node, lane, connection, "peer closed its connection"),
            Err(error) => tracing::warn!(node, lane, connection, %error, "peer connection closed"),
        },
        _ = &mut admission.closed => tracing::debug!(node, lane, connection, "peer connection replaced, or its peer removed"),
    }
}

/// The accepting end's part of the handshake: hears who it is, and lets it in or says why not.
async fn welcome(shared: &Arc<Shared>, stream: &mut TcpStream, received: &mut BytesMut) -> Result<Admission, HandshakeError> {
    handshake::tune(stream)?;
    let Greeting::Hello(hello) = read_greeting(stream, received).await? else {
        return Err(HandshakeError::OutOfPlace);
    };
    match admit(shared, &hello) {
        Ok(admission) => {
            write_greeting(stream, &Greeting::Hello(shared.identity.hello(hello.lane))).await?;
            admission.peer.on_heard();
            Ok(admission)
        }
        Err(refusal) => {
            write_greeting(stream, &Greeting::Refusal(refusal.clone())).await?;
            Err(refusal.into())
        }
    }
}

fn admit(shared: &Arc<Shared>, hello: &Hello) -> Result<Admission, Refusal> {
    shared.identity.check(hello)?;
    // Under the registry's lock throughout, or a peer that is forgotten meanwhile would stay.
    let mut registry = shared.registry();
    let Some(peer) = shared.peer(hello.node) else {
        return Err(shared.stranger(hello.node));
    };
    let start = registry.observe(hello)?;
    let (connection, closed) = registry.open(hello.node, hello.lane);
    let arrival = Arrival { from: hello.node, start, connection, lane: hello.lane };
    Ok(Admission { shared: Arc::clone(shared), peer, arrival, closed })
}

/// Reads and delivers frames, one at a time, until the peer closes.
async fn read_frames(
    shared: &Shared,
    peer: &Peer,
    arrival: Arrival,
    mut stream: TcpStream,
    mut received: BytesMut,
) -> Result<(), ReadError> {
    let link = peer.link(arrival.lane);
    let mut decoder = FrameDecoder::default();
    loop {
        while let Some(frame) = decoder.decode(&mut received)? {
            link.received_frames.fetch_add(1, Ordering::Relaxed);
            match frame {
                Frame::LogEnd(log_end) => shared.registry().note_log_end(&arrival, log_end),
                frame => shared.events.on_frame(arrival, frame).await,
            }
        }
        if received.capacity() - received.len() < MIN_READ_BYTES {
            received.reserve(READ_BYTES);
        }
        let read_bytes = stream.read_buf(&mut received).await?;
        if read_bytes == 0 {
            return if decoder.is_between_frames(&received) { Ok(()) } else { Err(ReadError::Truncated) };
        }
        link.received_bytes.fetch_add(read_bytes as u64, Ordering::Relaxed);
    }
}
