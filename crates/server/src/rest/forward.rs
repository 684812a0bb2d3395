//! Reads of a keyspace of which this node has no whole replica: one is being filled, or opened, or was damaged. A node that has
//! one answers in its place; without that, who joins would serve nothing until it has everything.
//!
//! What it answers goes to the client as it is, with its name in `Quorate-Node`. A request is forwarded once, and not if it waits
//! for changes: what a watch of one node goes by means nothing at the next.

use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CONNECTION, HOST, HeaderName, ORIGIN, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, REFERER, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, Either, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use quorate_api::header;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::AnswerBody;
use super::endpoint::App;
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::store::{Store, StoreError};

/// Requests that are with other nodes at one time, each on a connection of its own. What is more waits for this node's replica.
const MAX_FORWARDED: usize = 256;

/// A node that does not take the connection for so long is not there; the next one is asked.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

const FORWARDED_BY: HeaderName = HeaderName::from_static(header::FORWARDED_BY);
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What is of one connection, and not of the message (RFC 9110, section 7.6.1).
const OF_CONNECTIONS: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Room for requests that are forwarded.
#[derive(Clone, Debug)]
pub(super) struct Forwards(Arc<Semaphore>);

impl Forwards {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_FORWARDED)))
    }
}

/// The answer of a node that has a whole replica. None: it is read here, or nobody else can be asked, and the request takes its
/// usual way. An error: there is no such keyspace, or nobody answered within the time limit.
pub(super) async fn read<S: Store>(app: &App<S>, head: &Parts, keyspace: &str) -> Result<Option<Response<AnswerBody>>, Refusal> {
    if !matches!(head.method, Method::GET | Method::HEAD) || app.store.is_here(keyspace) {
        return Ok(None);
    }
    Box::pin(ask_others(app, head, keyspace)).await
}

async fn ask_others<S: Store>(app: &App<S>, head: &Parts, keyspace: &str) -> Result<Option<Response<AnswerBody>>, Refusal> {
    let Some(limit) = time_limit(head).filter(|_| !head.headers.contains_key(FORWARDED_BY)) else { return Ok(None) };
    let addresses = app.store.elsewhere(keyspace, limit).await.map_err(Refusal::of_read)?;
    let Ok(permit) = Arc::clone(&app.forwards.0).try_acquire_owned() else { return Ok(None) };
    let headers = forwarded(&head.headers, &app.config.node_name);
    let asking = async {
        for address in &addresses {
            match ask(address, head, &headers).await {
                // It cannot either.
                Ok(answer) if answer.status().is_server_error() => {}
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!(%address, %error, "a read could not be forwarded"),
            }
        }
        None
    };
    let answer = tokio::time::timeout(limit, asking).await.map_err(|_| Refusal::of_read(StoreError::Unknown))?;
    Ok(answer.map(|answer| passed_on(answer, permit)))
}

/// How long the client waits; none if it waits for changes, or asks for what no node understands.
fn time_limit(head: &Parts) -> Option<Duration> {
    let mut treatment = Treatment::default();
    for parameter in parameters(head.uri.query()) {
        if matches!(parameter.name, "wait" | "index") {
            return None;
        }
        treatment.take_read(parameter).ok()?;
    }
    treatment.timeout(&head.headers).ok()
}

/// The request's headers as another node gets them: without what was of the connection, or of a browser, which this node has
/// judged.
fn forwarded(headers: &HeaderMap, by: &str) -> HeaderMap {
    let mut forwarded = headers.clone();
    OF_CONNECTIONS.iter().chain(&[HOST, ORIGIN, REFERER, SEC_FETCH_SITE]).for_each(|name| _ = forwarded.remove(name));
    forwarded.insert(FORWARDED_BY, HeaderValue::from_str(by).unwrap_or(HeaderValue::from_static("unnamed")));
    forwarded
}

async fn ask(
    address: &str,
    head: &Parts,
    headers: &HeaderMap,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's body, or when that is dropped.
    tokio::spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = head.uri.path_and_query().map_or_else(|| "/".parse(), |asked| asked.as_str().parse())?;
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(HOST, HeaderValue::from_str(address)?);
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(sender.send_request(request).await?)
}

fn passed_on(mut answer: Response<Incoming>, permit: OwnedSemaphorePermit) -> Response<AnswerBody> {
    OF_CONNECTIONS.iter().for_each(|name| _ = answer.headers_mut().remove(name));
    let body = |body: Incoming| {
        let held = body.map_frame(move |frame| {
            // The room is taken for as long as the answer comes.
            let _ = &permit;
            frame
        });
        Either::Right(axum::body::Body::new(held))
    };
    answer.map(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str) -> Parts {
        Request::get(target).body(()).expect("a request").into_parts().0
    }

    #[test]
    fn what_waits_for_changes_stays_here() {
        assert_eq!(time_limit(&head("/v1/kv/a/k?timeout=2s&encoding=text")), Some(Duration::from_secs(2)));
        assert_eq!(time_limit(&head("/v1/kv/a/k")), Some(super::super::DEFAULT_TIMEOUT));
        for target in ["/v1/kv/a/k?wait=5s", "/v1/kv/a?prefix=x&index=3", "/v1/kv/a/k?timeout=soon"] {
            assert_eq!(time_limit(&head(target)), None, "{target}");
        }
    }

    #[test]
    fn a_forwarded_request_says_so_and_names_no_connection_and_no_page() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("host", "a:1"), ("connection", "close"), ("origin", "http://a:1"), ("accept", "application/json")]
        {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let forwarded = forwarded(&headers, "n3");
        let names: Vec<&str> = forwarded.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["accept", header::FORWARDED_BY]);
        assert_eq!(forwarded[header::FORWARDED_BY], "n3");
    }
}
