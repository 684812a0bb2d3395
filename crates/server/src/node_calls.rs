//! Requests to other nodes' REST APIs, each on a connection of its own: the transport of nodes that are of no cluster yet.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

/// An answer is larger only if it is none of ours: that about a cluster with as many keyspaces as there can be has 3 MiB.
const MAX_ANSWER_BYTES: usize = 8 << 20;

/// What nodes tell each other before they are of a cluster is short, and so is a reason.
const MAX_TOLD_BYTES: usize = 64 << 10;
const MAX_REASON_CHARS: usize = 300;

/// Sends the body as JSON, and returns status and body of the answer. The error is for people.
pub(crate) async fn call(
    address: &str,
    (method, path): (Method, &str),
    body: &impl Serialize,
    patience: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
    in_time(patience, send(address, (method, path), body, MAX_TOLD_BYTES)).await
}

/// The same without a body.
pub(crate) async fn get(address: &str, path: &str, patience: Duration) -> Result<(StatusCode, Bytes), String> {
    in_time(patience, send(address, (Method::GET, path), Vec::new(), MAX_ANSWER_BYTES)).await
}

async fn in_time(
    patience: Duration,
    sending: impl Future<Output = Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>>>,
) -> Result<(StatusCode, Bytes), String> {
    match tokio::time::timeout(patience, sending).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
    }
}

/// What a refusal says to people.
pub(crate) fn reason(status: StatusCode, body: &[u8]) -> String {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = problem.get("detail").and_then(serde_json::Value::as_str);
    // It may be anybody's, and stands in one line of a log.
    let in_one_line = |detail: &str| detail.chars().take(MAX_REASON_CHARS).flat_map(char::escape_debug).collect();
    detail.map_or_else(|| status.to_string(), in_one_line)
}

async fn send(
    address: &str,
    (method, path): (Method, &str),
    body: Vec<u8>,
    max_bytes: usize,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, address)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), max_bytes).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
