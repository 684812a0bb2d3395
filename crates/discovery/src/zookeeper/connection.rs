//! One connection to a ZooKeeper server: requests and their answers in turn, and notices beside them.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::wire::{self, Data, MAX_PACKET_BYTES, NOTICE, Request, Session};

/// How long connecting, or one answer, may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The connection is of no more use; the session may live on.
    #[error("{0}")]
    Lost(#[from] io::Error),
    /// The server's answer. The connection goes on.
    #[error("error {0}")]
    Refused(i32),
}

/// What servers answer, as far as anything follows from it.
pub(super) mod code {
    pub(in super::super) const NO_NODE: i32 = -101;
    pub(in super::super) const NO_PERMISSION: i32 = -102;
    pub(in super::super) const NODE_EXISTS: i32 = -110;
    pub(in super::super) const NO_CHILDREN_BELOW_EPHEMERALS: i32 = -108;
    pub(in super::super) const SESSION_EXPIRED: i32 = -112;
}

/// A connection with a session.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    received: BytesMut,
    last_number: i32,
    /// A watched node has changed since this was last looked at.
    is_notified: bool,
}

impl Connection {
    /// Connects, and takes up the session, or begins one if it is the empty one. None: the session has ended, and another is to
    /// be begun.
    pub(super) async fn open(server: &str, session: &Session) -> io::Result<Option<(Self, Session)>> {
        in_time(async {
            let stream = TcpStream::connect(server).await?;
            stream.set_nodelay(true)?;
            let mut connection = Self { stream, received: BytesMut::new(), last_number: 0, is_notified: false };
            connection.write(&wire::greeting(session)).await?;
            let answer = wire::take_greeting(connection.packet().await?).map_err(io::Error::other)?;
            Ok(answer.map(|session| (connection, session)))
        })
        .await
    }

    pub(super) async fn create(&mut self, path: &str, data: &[u8], is_ephemeral: bool) -> Result<(), Trouble> {
        self.ask(Request::Create { path, data, is_ephemeral }).await.map(drop)
    }

    pub(super) async fn delete(&mut self, path: &str) -> Result<(), Trouble> {
        self.ask(Request::Delete { path }).await.map(drop)
    }

    pub(super) async fn data(&mut self, path: &str) -> Result<Data, Trouble> {
        let fields = self.ask(Request::Data { path }).await?;
        Ok(wire::take_data(fields).map_err(io::Error::other)?)
    }

    /// The names below the path; from now on, [`Self::notified`] tells when they change.
    pub(super) async fn children(&mut self, path: &str) -> Result<Vec<String>, Trouble> {
        self.is_notified = false;
        let fields = self.ask(Request::Children { path }).await?;
        Ok(wire::take_names(fields).map_err(io::Error::other)?)
    }

    /// Ends the session: what goes with it is gone when this returns.
    pub(super) async fn close(mut self) -> Result<(), Trouble> {
        self.ask(Request::Close).await.map(drop)
    }

    /// Resolves when a watched node has changed. An error: the connection is lost. May be dropped and called again.
    pub(super) async fn notified(&mut self) -> io::Result<()> {
        while !self.is_notified {
            let (number, ..) = wire::take_answer(self.packet().await?).map_err(io::Error::other)?;
            self.is_notified = number == NOTICE;
        }
        Ok(())
    }

    async fn ask(&mut self, request: Request<'_>) -> Result<Bytes, Trouble> {
        self.last_number = self.last_number.wrapping_add(1).max(1);
        let number = self.last_number;
        let answered = in_time(async {
            self.write(&request.encode(number)).await?;
            loop {
                let (answered, error, fields) = wire::take_answer(self.packet().await?).map_err(io::Error::other)?;
                match answered {
                    NOTICE => self.is_notified = true,
                    _ if answered == number => return Ok((error, fields)),
                    // Who had asked that was dropped before it came.
                    _ if answered > 0 && answered < number => {}
                    _ => return Err(io::Error::other("an answer to what was not asked")),
                }
            }
        });
        match answered.await? {
            (0, fields) => Ok(fields),
            (error, _) => Err(Trouble::Refused(error)),
        }
    }

    async fn write(&mut self, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(io::Error::other)?;
        let packet = [&length.to_be_bytes(), content].concat();
        self.stream.write_all(&packet).await
    }

    /// The next packet. Dropped while it waits, it loses nothing.
    async fn packet(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(length) = self.received.first_chunk().map(|bytes| u32::from_be_bytes(*bytes) as usize) {
                if length > MAX_PACKET_BYTES {
                    return Err(io::Error::other(wire::MALFORMED));
                }
                if self.received.len() >= 4 + length {
                    let packet = self.received.split_to(4 + length).freeze();
                    return Ok(packet.slice(4..));
                }
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server has closed the connection"));
            }
        }
    }
}

async fn in_time<T>(doing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()));
    tokio::time::timeout(ANSWER_TIMEOUT, doing).await.unwrap_or_else(|_| Err(late()))
}
