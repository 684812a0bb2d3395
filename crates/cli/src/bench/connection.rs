//! One keep-alive connection of the bench: writes a finished request, reads the answer, keeps nothing of it but the status.
//!
//! This is no HTTP client for anything else: the load shares the machine with what it measures, so it does only what the answers
//! of a node and of the bare server need.

use std::io;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// Heads of answers are far smaller; bodies are read through it piece by piece.
const BUFFER_BYTES: usize = 16 << 10;

const MAX_HEADERS: usize = 32;

impl Connection {
    pub(super) async fn open(authority: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Sends a request and waits for the whole answer; returns its status. After an error the connection is of no more use.
    pub(super) async fn exchange(&mut self, head: &[u8], body: Bytes) -> io::Result<u16> {
        // Both in one system call.
        self.stream.write_all_buf(&mut Buf::chain(head, body)).await?;
        let mut filled = 0;
        let (answer, body_in_buffer) = loop {
            if filled == self.buffer.len() {
                return Err(malformed("an answer's head is too long"));
            }
            filled += self.read_into(filled).await?;
            if let Some(answer) = AnswerHead::parse(&self.buffer[..filled])? {
                break (answer, filled - answer.head_bytes);
            }
        };
        let mut left =
            answer.body_bytes.checked_sub(body_in_buffer).ok_or_else(|| malformed("an answer is longer than it says"))?;
        while left > 0 {
            let read = self.read_into(0).await?;
            left = left.checked_sub(read).ok_or_else(|| malformed("an answer is longer than it says"))?;
        }
        Ok(answer.status)
    }

    async fn read_into(&mut self, at: usize) -> io::Result<usize> {
        match self.stream.read(&mut self.buffer[at..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}

/// What must be known of an answer to read it to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AnswerHead {
    status: u16,
    head_bytes: usize,
    body_bytes: usize,
}

impl AnswerHead {
    /// `None` if the head is not complete yet.
    fn parse(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(bytes).map_err(|error| malformed(&error.to_string()))?;
        let httparse::Status::Complete(head_bytes) = parsed else { return Ok(None) };
        let status = response.code.ok_or_else(|| malformed("an answer has no status"))?;
        let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
        let body_bytes = match length {
            Some(header) => std::str::from_utf8(header.value).ok().and_then(|text| text.parse().ok()),
            None if matches!(status, 204 | 304) => Some(0),
            None => None,
        };
        let body_bytes = body_bytes.ok_or_else(|| malformed("an answer does not say its length"))?;
        Ok(Some(Self { status, head_bytes, body_bytes }))
    }
}

fn malformed(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::{AnswerHead, Connection};

    #[test]
    fn heads_say_how_long_the_answer_is() {
        let parse = |text: &str| AnswerHead::parse(text.as_bytes());
        assert_eq!(parse("HTTP/1.1 200 OK\r\ncontent-le").unwrap(), None);
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(parse(head).unwrap(), Some(AnswerHead { status: 200, head_bytes: head.len(), body_bytes: 5 }));
        assert_eq!(parse("HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap().body_bytes, 0);
        assert!(parse("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
        assert!(parse("SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }

    #[tokio::test]
    async fn answers_in_pieces_are_read_to_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authority = listener.local_addr().unwrap().to_string();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 7];
            for _ in 0..2 {
                stream.read_exact(&mut request).await.unwrap();
                assert_eq!(&request, b"headbod");
                for piece in ["HTTP/1.1 20", "1 Created\r\ncontent-length: 40000\r\n\r\nx"] {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    tokio::task::yield_now().await;
                }
                stream.write_all(&vec![b'x'; 39_999]).await.unwrap();
            }
        };
        let client = async {
            let mut connection = Connection::open(&authority).await.unwrap();
            for _ in 0..2 {
                assert_eq!(connection.exchange(b"head", "bod".into()).await.unwrap(), 201);
            }
            assert!(connection.exchange(b"head", "bod".into()).await.is_err(), "the server has gone");
        };
        tokio::join!(server, client);
    }
}
