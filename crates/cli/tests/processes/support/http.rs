//! As little HTTP as the tests need, blocking, so that what goes over the wire is exactly what a test says.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use quorate_api::key::encode_percent;
use serde::de::DeserializeOwned;

/// How long a connection may take to be made. On loopback only a full backlog takes any time.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Longest head of an answer.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// One request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &'static str, target: impl Into<String>) -> Self {
        Self { method, target: target.into(), ..Self::default() }
    }

    /// On one key of keyspace `default`.
    pub(crate) fn on_key(method: &'static str, key: &[u8]) -> Self {
        Self::new(method, format!("/v1/kv/default/{}", encode_percent(key)))
    }

    pub(crate) fn get(key: &[u8]) -> Self {
        Self::on_key("GET", key)
    }

    pub(crate) fn put(key: &[u8], value: impl Into<Vec<u8>>) -> Self {
        Self { body: value.into(), ..Self::on_key("PUT", key) }
    }

    pub(crate) fn json(method: &'static str, target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::new(method, target) }.with_header("content-type", "application/json")
    }

    #[must_use]
    pub(crate) fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With one more query parameter.
    #[must_use]
    pub(crate) fn with_query(mut self, parameter: &str) -> Self {
        let separator = if self.target.contains('?') { '&' } else { '?' };
        self.target = format!("{}{separator}{parameter}", self.target);
        self
    }

    #[must_use]
    pub(crate) fn with_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn to_bytes(&self, host: &str) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: {host}\r\n", self.method, self.target);
        if !self.body.is_empty() || matches!(self.method, "PUT" | "POST") {
            let _ = write!(head, "content-length: {}\r\n", self.body.len());
        }
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// The shard's revision that the answer tells.
    #[track_caller]
    pub(crate) fn revision(&self) -> u64 {
        let revision = self.header("quorate-revision").and_then(|revision| revision.parse().ok());
        revision.unwrap_or_else(|| panic!("no revision in {self:?}"))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// Nothing of the request reached anybody.
    NotSent(io::Error),
    /// It may have been carried out.
    Lost(io::Error),
}

/// A connection to one node, kept for the next request and made anew when it broke.
#[derive(Debug)]
pub(crate) struct Connection {
    address: SocketAddr,
    stream: Option<TcpStream>,
    patience: Duration,
}

impl Connection {
    /// To a client address. Longer than any default time limit of a node, so that a test sees the node's own answer.
    pub(crate) fn to(address: &str) -> Self {
        Self::with_patience(address, Duration::from_secs(15))
    }

    /// Gives up when nothing comes for so long.
    pub(crate) fn with_patience(address: &str, patience: Duration) -> Self {
        let address = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
        Self { address, stream: None, patience }
    }

    /// Sends, and waits for the answer.
    pub(crate) fn send(&mut self, request: &Request) -> Result<Answer, NoAnswer> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().map_err(NoAnswer::NotSent)?,
        };
        let answer =
            exchange(&mut stream, &request.to_bytes(&self.address.to_string()), request.method).map_err(NoAnswer::Lost)?;
        if answer.header("connection") != Some("close") {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    /// Sends, and panics unless the answer has this status.
    #[track_caller]
    pub(crate) fn expect(&mut self, status: u16, request: &Request) -> Answer {
        let called = format!("{} {} at {}", request.method, request.target, self.address);
        match self.send(request) {
            Ok(answer) if answer.status == status => answer,
            Ok(answer) => panic!("{called}: {} and not {status}: {}", answer.status, answer.text()),
            Err(error) => panic!("{called}: {error:?}"),
        }
    }

    /// Sends these bytes as they are, on a connection of their own.
    pub(crate) fn send_bytes(&self, bytes: &[u8]) -> io::Result<Answer> {
        exchange(&mut self.connect()?, bytes, "")
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_write_timeout(Some(self.patience))?;
        Ok(stream)
    }
}

fn exchange(stream: &mut TcpStream, request: &[u8], method: &str) -> io::Result<Answer> {
    // A node may refuse and close before it has read everything: what it answered is there all the same.
    let written = stream.write_all(request);
    let mut answer = read_head(stream).map_err(|error| written.err().unwrap_or(error))?;
    let has_body = method != "HEAD" && !matches!(answer.status, 204 | 304);
    let length: usize = match answer.header("content-length").filter(|_| has_body) {
        Some(length) => length.parse().map_err(io::Error::other)?,
        None if has_body => return Err(io::Error::other("an answer without a length")),
        None => 0,
    };
    let missing = length.checked_sub(answer.body.len()).ok_or_else(|| io::Error::other("an answer longer than it says"))?;
    stream.take(missing as u64).read_to_end(&mut answer.body)?;
    if answer.body.len() == length { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Reads until the head is whole; the answer holds what of the body came with it.
fn read_head(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut received = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut piece)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        received.extend_from_slice(&piece[..count]);
        if let Some((mut answer, head_bytes)) = parse_head(&received)? {
            answer.body = received.split_off(head_bytes);
            return Ok(answer);
        }
    }
}

/// The head and its length, once it is whole.
fn parse_head(received: &[u8]) -> io::Result<Option<(Answer, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = response.parse(received).map_err(io::Error::other)? else {
        return if received.len() <= MAX_HEAD_BYTES { Ok(None) } else { Err(io::Error::other("the head is too long")) };
    };
    let text = |header: &httparse::Header<'_>| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned());
    let status = response.code.expect("a whole head has a status");
    Ok(Some((Answer { status, headers: response.headers.iter().map(text).collect(), body: Vec::new() }, head_bytes)))
}
