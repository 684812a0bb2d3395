//! How a node asks to be let in: it asks each of the addresses it was given, over and over, until one lets it in or says why
//! it never will.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use quorate_api::cluster::{JoinAnswer, JoinRequest};
use tokio::net::TcpStream;

/// Between two rounds over all addresses.
const PAUSE: Duration = Duration::from_millis(300);

/// How long one address may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer is larger only if it is none of ours.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why a node will never be let in.
#[derive(Debug, thiserror::Error)]
#[error("{address} does not let this node in: {reason}")]
pub struct JoinRefused {
    address: String,
    reason: String,
}

/// Asks until there is an answer. Never gives up on addresses that do not answer: they may start later.
pub(crate) async fn ask_to_join(addresses: &[String], request: &JoinRequest) -> Result<JoinAnswer, JoinRefused> {
    loop {
        for address in addresses {
            match tokio::time::timeout(PATIENCE, ask(address, request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Attempt::Refused(reason))) => return Err(JoinRefused { address: address.clone(), reason }),
                Ok(Err(Attempt::Failed(error))) => tracing::info!(address, %error, "not let in yet"),
                Err(_) => tracing::info!(address, "no answer yet"),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Attempt {
    /// It will not be different next time.
    Refused(String),
    /// It may be.
    Failed(String),
}

async fn ask(address: &str, request: &JoinRequest) -> Result<JoinAnswer, Attempt> {
    let (status, body) = post(address, request).await.map_err(|error| Attempt::Failed(error.to_string()))?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| Attempt::Failed(format!("its answer cannot be read: {error}")));
    }
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let reason = problem.get("detail").and_then(serde_json::Value::as_str).map_or_else(|| status.to_string(), str::to_owned);
    // What names and addresses are wrong for stays wrong; a time limit or too many requests do not.
    let is_final = [400, 403, 404, 405, 409, 413, 415, 422].contains(&status.as_u16());
    Err(if is_final { Attempt::Refused(reason) } else { Attempt::Failed(reason) })
}

async fn post(
    address: &str,
    request: &JoinRequest,
) -> Result<(http::StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let body = Full::new(Bytes::from(serde_json::to_vec(request)?));
    let request = http::Request::post("/v1/cluster/nodes")
        .header(http::header::HOST, address)
        .header(http::header::CONTENT_TYPE, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(body)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}
