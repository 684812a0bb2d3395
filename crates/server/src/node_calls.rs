//! Requests to other nodes' REST APIs, each on a connection of its own: the transport of nodes that are of no cluster yet.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;

/// An answer is larger only if it is none of ours.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Sends the body as JSON, and returns status and body of the answer. The error is for people.
pub(crate) async fn call(
    address: &str,
    (method, path): (Method, &str),
    body: &impl Serialize,
    patience: Duration,
) -> Result<(StatusCode, Bytes), String> {
    let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
    in_time(patience, send(address, method, path, body)).await
}

/// The same without a body.
pub(crate) async fn get(address: &str, path: &str, patience: Duration) -> Result<(StatusCode, Bytes), String> {
    in_time(patience, send(address, Method::GET, path, Vec::new())).await
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
    problem.get("detail").and_then(serde_json::Value::as_str).map_or_else(|| status.to_string(), str::to_owned)
}

async fn send(
    address: &str,
    method: Method,
    path: &str,
    body: Vec<u8>,
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
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
