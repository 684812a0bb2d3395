//! What both ends of a connection say before any frame, and whether they belong together.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use quorate_api::peer::{
    DecodeError, Greeting, Hello, Lane, MAX_GREETING_BYTES, MAX_WIRE_VERSION, MIN_WIRE_VERSION, Refusal, decode_greeting,
    encode_greeting,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long both ends' greetings may take.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a peer may take nothing of what is written before it counts as gone.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a silent connection is probed by the operating system.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// Who this node says that it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) cluster: u64,
    pub(super) node: u64,
    pub(super) incarnation: u64,
    pub(super) start_id: u64,
    pub(super) log_end: u64,
}

/// Why a connection got no further than the greetings.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("no greeting within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
    #[error("greeting: {0}")]
    Io(#[from] io::Error),
    #[error("the connection ended before the greeting")]
    Closed,
    #[error("greeting: {0}")]
    Malformed(#[from] DecodeError),
    #[error("refused by the peer: {0}")]
    RefusedByPeer(Refusal),
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    #[error("the greeting is not the one that belongs here")]
    OutOfPlace,
    #[error("node {answered} answers at this address, not node {expected}")]
    OtherNode { expected: u64, answered: u64 },
}

impl Identity {
    pub(super) fn hello(&self, lane: Lane) -> Hello {
        let Self { cluster, node, incarnation, start_id, log_end } = *self;
        let (min_wire, max_wire) = (MIN_WIRE_VERSION, MAX_WIRE_VERSION);
        Hello { cluster, node, incarnation, start_id, log_end, lane, min_wire, max_wire }
    }

    /// Whether the other end may talk to this node at all, be it a member or not.
    pub(super) fn check(&self, theirs: &Hello) -> Result<(), Refusal> {
        if theirs.cluster != self.cluster {
            return Err(Refusal::wrong_cluster(self.cluster, theirs.cluster));
        }
        self.hello(theirs.lane).common_wire(theirs).map(drop)
    }
}

/// The dialling end's part: says who it is, and returns what `node` answers.
pub(super) async fn introduce(
    stream: &mut TcpStream,
    identity: &Identity,
    node: u64,
    lane: Lane,
) -> Result<Hello, HandshakeError> {
    write_greeting(stream, &Greeting::Hello(identity.hello(lane))).await?;
    let mut received = BytesMut::with_capacity(MAX_GREETING_BYTES);
    let hello = match read_greeting(stream, &mut received).await? {
        Greeting::Hello(hello) => hello,
        Greeting::Refusal(refusal) => return Err(HandshakeError::RefusedByPeer(refusal)),
    };
    identity.check(&hello)?;
    if hello.node != node {
        return Err(HandshakeError::OtherNode { expected: node, answered: hello.node });
    }
    if hello.lane != lane || !received.is_empty() {
        return Err(HandshakeError::OutOfPlace);
    }
    Ok(hello)
}

/// The next greeting; what was read beyond it is left in `received`.
pub(super) async fn read_greeting(stream: &mut TcpStream, received: &mut BytesMut) -> Result<Greeting, HandshakeError> {
    loop {
        if let Some(greeting) = decode_greeting(received)? {
            return Ok(greeting);
        }
        if stream.read_buf(received).await? == 0 {
            return Err(HandshakeError::Closed);
        }
    }
}

pub(super) async fn write_greeting(stream: &mut TcpStream, greeting: &Greeting) -> io::Result<()> {
    let mut out = BytesMut::new();
    encode_greeting(greeting, &mut out);
    stream.write_all(&out).await
}

/// Sets what every peer connection needs of its socket: small frames leave at once, and a peer that vanished without a
/// word is noticed within seconds even where nothing, or too little to fill the kernel's buffers, is written.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(STALL_TIMEOUT).with_interval(KEEPALIVE_INTERVAL))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(STALL_TIMEOUT))?;
    Ok(())
}
