//! A server to be tested, and a client that sends exactly the bytes it is told to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_api::problem::Problem;
use quorate_server::rest::{RestConfig, serve};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::store::MemoryStore;

/// Longer than any answer takes, shorter than a test's patience.
const PATIENCE: Duration = Duration::from_secs(10);

/// A server over a [`MemoryStore`], on a port of its own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) store: Arc<MemoryStore>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

/// A connection to it.
pub(crate) struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

/// Headers to be sent.
pub(crate) type Headers<'a> = &'a [(&'a str, &'a str)];

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    pub(crate) async fn start_with(set: impl FnOnce(&mut RestConfig)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = RestConfig::new("n1");
        set(&mut config);
        let store = Arc::new(MemoryStore::new());
        let (shutdown, wait) = oneshot::channel::<()>();
        let shutdown_begins = async move { drop(wait.await) };
        let task = tokio::spawn(serve(listener, Arc::clone(&store), Arc::new(config), shutdown_begins));
        Self { address, store, shutdown: Some(shutdown), task }
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection { stream: TcpStream::connect(self.address).await.unwrap(), received: Vec::new() }
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, method: &str, target: &str, headers: Headers<'_>, body: &[u8]) -> Reply {
        self.connect().await.send(method, target, headers, body).await
    }

    pub(crate) async fn get(&self, target: &str) -> Reply {
        self.send("GET", target, &[], b"").await
    }

    pub(crate) async fn put(&self, target: &str, body: &[u8]) -> Reply {
        self.send("PUT", target, &[], body).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Reply {
        self.send("DELETE", target, &[], b"").await
    }

    pub(crate) async fn post_json(&self, target: &str, body: &str) -> Reply {
        self.send("POST", target, &[("Content-Type", "application/json")], body.as_bytes()).await
    }

    pub(crate) async fn put_json(&self, target: &str, body: &Value) -> Reply {
        self.send("PUT", target, &[("Content-Type", "application/json")], body.to_string().as_bytes()).await
    }

    pub(crate) async fn patch_json(&self, target: &str, body: &Value) -> Reply {
        self.send("PATCH", target, &[("Content-Type", "application/json")], body.to_string().as_bytes()).await
    }

    /// Begins to shut down; the answer ends when that is done.
    pub(crate) fn shut_down(&mut self) -> impl Future<Output = ()> + '_ {
        drop(self.shutdown.take());
        async { timeout(PATIENCE, &mut self.task).await.expect("shutdown ends").unwrap().unwrap() }
    }
}

impl Connection {
    pub(crate) async fn send(&mut self, method: &str, target: &str, headers: Headers<'_>, body: &[u8]) -> Reply {
        let mut request = format!("{method} {target} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request.push_str("Host: localhost\r\n");
        }
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            request.extend(["Content-Length: ", &body.len().to_string(), "\r\n"]);
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(body);
        self.write(&bytes).await;
        self.reply_to(method).await
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// How many of these bytes the other side takes within this time.
    pub(crate) async fn write_some(&mut self, bytes: &[u8], patience: Duration) -> usize {
        timeout(patience, self.stream.write(bytes)).await.map_or(0, Result::unwrap)
    }

    pub(crate) async fn close_write(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// The next answer, which is not one to `HEAD`.
    pub(crate) async fn reply(&mut self) -> Reply {
        self.reply_to("GET").await
    }

    /// The head of the next answer: its status. What follows is still to be taken.
    pub(crate) async fn head(&mut self) -> u16 {
        self.reply_head().await.status
    }

    async fn reply_to(&mut self, method: &str) -> Reply {
        let mut reply = self.reply_head().await;
        if reply.find("content-type") == Some("text/event-stream") {
            // It has no end.
        } else if method != "HEAD" && reply.find("transfer-encoding") == Some("chunked") {
            reply.body = self.chunks().await;
        } else if method != "HEAD" && reply.status >= 200 {
            let length: usize = reply.find("content-length").map_or(0, |length| length.parse().unwrap());
            while self.received.len() < length {
                assert!(self.receive().await, "the connection ended within an answer's body");
            }
            reply.body = self.received.drain(..length).collect();
        }
        reply
    }

    /// The head of the next answer. What follows is still to be taken.
    pub(crate) async fn reply_head(&mut self) -> Reply {
        let end = loop {
            if let Some(end) = find(&self.received, b"\r\n\r\n") {
                break end + 4;
            }
            assert!(self.receive().await, "the connection ended before an answer: {:?}", String::from_utf8_lossy(&self.received));
        };
        let head = String::from_utf8(self.received.drain(..end).collect()).unwrap();
        let mut lines = head.lines();
        let status: u16 = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> =
            lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Reply { status, headers, body: Vec::new() }
    }

    /// The chunks of a body, put together.
    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await {
            body.extend(chunk);
        }
        body
    }

    /// The next chunk of a body; none at its end.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = loop {
            if let Some(end) = find(&self.received, b"\r\n") {
                break String::from_utf8(self.received.drain(..end + 2).collect()).unwrap();
            }
            assert!(self.receive().await, "the connection ended within an answer's chunks");
        };
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        while self.received.len() < size + 2 {
            assert!(self.receive().await, "the connection ended within an answer's chunk");
        }
        let chunk: Vec<u8> = self.received.drain(..size + 2).take(size).collect();
        (size > 0).then_some(chunk)
    }

    /// Whether the server ended the connection, without sending anything more.
    pub(crate) async fn is_ended(&mut self) -> bool {
        self.received.is_empty() && !self.receive().await && self.received.is_empty()
    }

    /// Whether a request gets an answer, rather than an end of the connection.
    pub(crate) async fn is_served(&mut self) -> bool {
        let request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.stream.write_all(request).await.is_ok() && self.receive().await
    }

    async fn receive(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("an answer in time");
        // A reset is an end too.
        read.is_ok_and(|count| count > 0)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

impl Reply {
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The objects of a body that has one a line.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        assert!(self.body.is_empty() || self.body.ends_with(b"\n"), "no line break at the end of {self:?}");
        self.text().lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The problem, after checks that hold for every one.
    #[track_caller]
    pub(crate) fn problem(&self) -> Problem {
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"));
        assert_eq!(problem.status, self.status);
        assert!(problem.request_id.is_some() && self.find("quorate-node") == Some("n1"));
        assert_eq!(self.find("retry-after"), (self.status == 503).then_some("1"));
        problem
    }

    /// Status and code of the problem.
    #[track_caller]
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status, self.problem().code.into_owned())
    }
}
