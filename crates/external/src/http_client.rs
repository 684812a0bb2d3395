//! HTTP towards stores outside: connections, limits, and what statuses mean.

use std::fmt::{self, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::spec::NODE;
use crate::{ErrorKind, SpecError, StoreError};

/// Establishing a connection takes no longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that is not used is closed then.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Of an answer that is an error, so much is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// Connections to one store. Clones share them.
#[derive(Clone)]
pub(crate) struct HttpClient {
    store: &'static str,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// No connection yet. TLS trusts what the system trusts.
    pub(crate) fn new(store: &'static str) -> Result<Self, StoreError> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| StoreError::new(store, ErrorKind::Unexpected, format_args!("the system's certificates: {error}")))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client =
            Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_timer(TokioTimer::new()).build(https);
        Ok(Self { store, client })
    }

    /// Sends a request and reads the answer whole. One that does not come whole, or is longer than `max_bytes`, is an error. An
    /// error without an answer is [`crate::Outcome::Unknown`] unless nothing was sent.
    pub(crate) async fn send(&self, request: Request<Bytes>, max_bytes: usize) -> Result<Response<Bytes>, StoreError> {
        let authority = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let is_head = request.method() == http::Method::HEAD;
        let broken = |kind, error: &dyn fmt::Display| StoreError::new(self.store, kind, format_args!("{authority}: {error}"));
        let answer = self.client.request(request.map(Full::new)).await.map_err(|error| {
            let why = innermost(&error);
            if error.is_connect() { broken(ErrorKind::Unreachable, &why) } else { broken(ErrorKind::Unreachable, &why).unknown() }
        })?;
        let (head, body) = answer.into_parts();
        let max_bytes = if head.status.is_success() { max_bytes } else { MAX_ERROR_BYTES };
        let announced = head.headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok()?.parse::<u64>().ok());
        if !is_head && head.status.is_success() && announced.is_some_and(|len| len > max_bytes as u64) {
            return Err(broken(ErrorKind::TooLarge, &format_args!("the answer is longer than {max_bytes} bytes")).unknown());
        }
        let body = match read_body(body, max_bytes).await {
            Ok(body) => body,
            // What an error says in full matters less than which it is.
            Err(_) if !head.status.is_success() => Bytes::new(),
            Err(BodyError::TooLong) => {
                return Err(broken(ErrorKind::TooLarge, &format_args!("the answer is longer than {max_bytes} bytes")).unknown());
            }
            Err(BodyError::Broken(error)) => {
                return Err(
                    broken(ErrorKind::Unreachable, &format_args!("the answer broke off: {}", innermost(&error))).unknown()
                );
            }
        };
        Ok(Response::from_parts(head, body))
    }

    /// What a status that is no success means, if the store says nothing more of its own; none for those that belong to the
    /// question, as 404 and 412.
    pub(crate) fn failure(&self, answer: &Response<Bytes>) -> Option<StoreError> {
        failure(self.store, answer.status(), answer.headers(), answer.body())
    }

    /// An error in this store's name, with a status and the beginning of what was said.
    pub(crate) fn unexpected(&self, answer: &Response<Bytes>) -> StoreError {
        StoreError::new(self.store, ErrorKind::Unexpected, said(answer.status(), answer.body()))
    }
}

/// As [`HttpClient::failure`].
fn failure(store: &'static str, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<StoreError> {
    let retry_after = || headers.get(RETRY_AFTER).and_then(|wait| wait.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let error = |kind| StoreError::new(store, kind, said(status, body));
    Some(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => error(ErrorKind::Denied),
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::URI_TOO_LONG => error(ErrorKind::TooLarge),
        StatusCode::TOO_MANY_REQUESTS => error(ErrorKind::Throttled { retry_after: retry_after() }),
        // Object stores say so before they begin with anything; from others it may mean what it will.
        StatusCode::SERVICE_UNAVAILABLE if holds(body, "SlowDown") || holds(body, "ServerBusy") => {
            error(ErrorKind::Throttled { retry_after: retry_after() })
        }
        StatusCode::SERVICE_UNAVAILABLE => error(ErrorKind::Throttled { retry_after: retry_after() }).unknown(),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => error(ErrorKind::Timeout).unknown(),
        status if status.is_server_error() => error(ErrorKind::Failing).unknown(),
        _ => return None,
    })
}

/// Whether an answer speaks of something.
pub(crate) fn holds(body: &[u8], word: &str) -> bool {
    body.windows(word.len()).any(|part| part == word.as_bytes())
}

fn said(status: StatusCode, body: &[u8]) -> String {
    format!("{status}: {}", String::from_utf8_lossy(&body[..body.len().min(400)]))
}

/// Where a store answers: `http` or `https`, without a user in it.
pub(crate) fn checked_endpoint(field: &'static str, url: &str, example: &str) -> Result<String, SpecError> {
    let wrong = |problem: &str| Err(SpecError::new(field, problem, format!("\"{field}\": \"{example}\"")));
    let Some(rest) = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")) else {
        return wrong("must begin with http:// or https://");
    };
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        return wrong("must hold no user and password: they belong into \"credentials\"");
    }
    // `{node}` is filled in when it is opened.
    if url.replace(NODE, "node").parse::<http::Uri>().is_err() || url.contains(['?', '#']) {
        return wrong("must be a URL without a query");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// A text as it may stand in a URL: letters, digits and what is to be kept for themselves, all else by its bytes.
pub(crate) fn escaped(text: &str, kept: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a text takes everything");
        }
    }
    escaped
}

enum BodyError {
    TooLong,
    Broken(hyper::Error),
}

async fn read_body(mut body: hyper::body::Incoming, max_bytes: usize) -> Result<Bytes, BodyError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(BodyError::Broken)?.into_data() {
            if whole.len() + data.len() > max_bytes {
                return Err(BodyError::TooLong);
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

/// The error at the bottom, which says what happened; those above say where.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("store", &self.store).finish_non_exhaustive()
    }
}
