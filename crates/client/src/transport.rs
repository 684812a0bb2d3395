//! One request to one endpoint, over pooled connections.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Either, Full, Limited};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use quorate_api::header as own_header;
use quorate_api::problem::{self, Problem, WriteOutcome};

use crate::endpoint::Endpoint;
use crate::error::{Error, Tried};
use crate::session::InSession;
use crate::streams::Pieces;

/// The largest answer: a page of a list (8 MiB of keys and values) written as base64 in JSON, with room for the rest; or the
/// largest value (16 MiB).
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// Connections kept for use again, per endpoint.
const MAX_IDLE_CONNECTIONS: usize = 64;

/// Shorter than any server's patience with an idle connection, so that a request rarely meets one that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection on which nothing moves is asked for a sign of life after this time: a stream may say nothing for long.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How much of an answer that is no problem document is shown.
const MAX_EXCERPT_CHARS: usize = 200;

/// Answers 503 in plain text, unlike all other paths.
pub(crate) const READINESS_PATH: &str = "/readyz";

/// A request that may be sent to any endpoint, more than once.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) effect: Effect,
    /// The server knows it again by an idempotency key.
    pub(crate) takes_key: bool,
    /// How long the node may wait before it begins to answer.
    pub(crate) patience: Duration,
    /// How long one endpoint may take at most, if less than otherwise.
    pub(crate) attempt: Option<Duration>,
    /// What its answer says of what was seen goes there.
    pub(crate) session: Option<InSession>,
}

/// What sending a request twice would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it reads, or the server knows a repetition by its token.
    Repeatable,
    /// It might overwrite what somebody else wrote in between.
    Write,
    /// Nothing: it writes, but once.
    Once,
}

impl Request {
    pub(crate) fn read(target: String) -> Self {
        Self {
            method: Method::GET,
            target,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            effect: Effect::Repeatable,
            takes_key: false,
            patience: Duration::ZERO,
            attempt: None,
            session: None,
        }
    }

    pub(crate) fn write(method: Method, target: String) -> Self {
        Self { method, effect: Effect::Write, ..Self::read(target) }
    }

    /// With a JSON body.
    pub(crate) fn with_json(mut self, body: &impl serde::Serialize) -> Self {
        self.body = serde_json::to_vec(body).expect("our own bodies have only string keys and write to memory").into();
        self.headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        self
    }

    /// What became of the request if it left and nothing came back.
    fn outcome_without_answer(&self) -> WriteOutcome {
        match self.effect {
            Effect::Repeatable => WriteOutcome::NotApplied,
            Effect::Write | Effect::Once => WriteOutcome::Unknown,
        }
    }
}

/// An answer with a status below 400.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) endpoint: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, outcome: WriteOutcome) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected(error.to_string(), outcome))
    }

    /// A header that holds a number.
    pub(crate) fn number(&self, name: &str, outcome: WriteOutcome) -> Result<u64, Error> {
        number(&self.endpoint, &self.headers, name, outcome)
    }

    /// A header that holds a revision, or counts them; 0 in an eventual keyspace, which has none.
    pub(crate) fn counter(&self, name: &str, outcome: WriteOutcome) -> Result<u64, Error> {
        if self.headers.contains_key(own_header::STAMP) { Ok(0) } else { self.number(name, outcome) }
    }

    /// A header that holds text, if it is there.
    pub(crate) fn text(&self, name: header::HeaderName) -> Option<String> {
        self.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
    }

    pub(crate) fn unexpected(&self, reason: String, outcome: WriteOutcome) -> Error {
        Error::Unexpected { endpoint: self.endpoint.clone(), reason, outcome }
    }
}

/// The head of an answer with a status below 400, and a body that is still coming.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(crate) endpoint: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
}

impl Streamed {
    /// A header that is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// A header that holds a number.
    pub(crate) fn number(&self, name: &str, outcome: WriteOutcome) -> Result<u64, Error> {
        number(&self.endpoint, &self.headers, name, outcome)
    }
}

fn number(endpoint: &str, headers: &HeaderMap, name: &str, outcome: WriteOutcome) -> Result<u64, Error> {
    let value = headers.get(name).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
    let reason = || format!("the header {name} is not there, or no number");
    value.ok_or_else(|| Error::Unexpected { endpoint: endpoint.to_owned(), reason: reason(), outcome })
}

/// What goes out: at hand, or made while it is sent.
pub(crate) type Outgoing = Either<Full<Bytes>, Pieces>;

/// What comes in; an error says what the system said.
pub(crate) type Incoming = UnsyncBoxBody<Bytes, String>;

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection: nothing left this machine.
    NotSent(String),
    /// It left, or may have; the error says with what outcome.
    Sent(Error),
}

impl Failure {
    /// For a request that goes to one endpoint only.
    pub(crate) fn into_error(self, endpoint: &Endpoint) -> Error {
        match self {
            Self::NotSent(reason) => Error::Unreachable { tried: vec![Tried { endpoint: endpoint.to_string(), reason }] },
            Self::Sent(error) => error,
        }
    }
}

/// Connections to all endpoints.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    http: legacy::Client<HttpConnector, Outgoing>,
}

impl Transport {
    pub(crate) fn new(connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_keepalive(Some(KEEPALIVE));
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .build(connector);
        Self { http }
    }

    /// Sends the request and reads the whole answer. There is no time limit here but that of the connection.
    pub(crate) async fn exchange(&self, endpoint: &Endpoint, request: &Request) -> Result<Answer, Failure> {
        let body = Either::Left(Full::new(request.body.clone()));
        let answer = whole(endpoint, request, self.send(endpoint, request, body).await?).await?;
        if answer.status.as_u16() < 400 { Ok(answer) } else { Err(Failure::Sent(refusal(&answer, request))) }
    }

    /// Sends the request, with this body instead of its own, and reads the head of the answer, or all of it if that is a refusal.
    pub(crate) async fn open(&self, endpoint: &Endpoint, request: &Request, body: Outgoing) -> Result<Streamed, Failure> {
        let response = self.send(endpoint, request, body).await?;
        if response.status().as_u16() >= 400 {
            return Err(Failure::Sent(refusal(&whole(endpoint, request, response).await?, request)));
        }
        let (head, body) = response.into_parts();
        Ok(Streamed { endpoint: endpoint.to_string(), headers: head.headers, body })
    }

    async fn send(&self, endpoint: &Endpoint, request: &Request, body: Outgoing) -> Result<Response<Incoming>, Failure> {
        let built =
            http::Request::builder().method(request.method.clone()).uri(format!("{endpoint}{}", request.target)).body(body);
        let mut outgoing = built.map_err(|error| Failure::Sent(Error::InvalidRequest { reason: error.to_string() }))?;
        *outgoing.headers_mut() = request.headers.clone();
        match self.http.request(outgoing).await {
            Ok(response) => {
                request.session.iter().for_each(|session| session.note(response.headers()));
                let (head, body) = response.into_parts();
                Ok(Response::from_parts(head, body.map_err(|error| innermost(&error)).boxed_unsync()))
            }
            Err(error) if error.is_connect() => Err(Failure::NotSent(innermost(&error))),
            Err(error) => Err(Failure::Sent(broken(endpoint, request, innermost(&error)))),
        }
    }
}

/// Reads the rest of an answer.
async fn whole(endpoint: &Endpoint, request: &Request, response: Response<Incoming>) -> Result<Answer, Failure> {
    let (head, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
    let body = body.map_err(|error| Failure::Sent(broken(endpoint, request, error.to_string())))?;
    Ok(Answer { endpoint: endpoint.to_string(), status: head.status, headers: head.headers, body: body.to_bytes() })
}

fn broken(endpoint: &Endpoint, request: &Request, reason: String) -> Error {
    Error::NoAnswer { endpoint: endpoint.to_string(), reason, outcome: request.outcome_without_answer() }
}

/// What an answer of 400 and above says.
fn refusal(answer: &Answer, request: &Request) -> Error {
    let endpoint = answer.endpoint.clone();
    let is_problem = answer.text(header::CONTENT_TYPE).is_some_and(|kind| kind.starts_with(problem::MEDIA_TYPE));
    match serde_json::from_slice::<Problem>(&answer.body) {
        Ok(mut problem) if is_problem => {
            if problem.outcome.is_none() && problem.status >= 500 && request.effect != Effect::Repeatable {
                problem.outcome = Some(WriteOutcome::Unknown);
            }
            Error::Refused { endpoint, problem: Box::new(problem) }
        }
        _ if request.target == READINESS_PATH && answer.status == StatusCode::SERVICE_UNAVAILABLE => {
            Error::NotReady { endpoint, checks: excerpt(&answer.body) }
        }
        // Whoever refuses in other words may have passed the request on before.
        _ => {
            let reason = format!("status {} {}", answer.status.as_u16(), excerpt(&answer.body));
            answer.unexpected(reason.trim_end().to_owned(), request.outcome_without_answer())
        }
    }
}

/// The beginning of a text, in one line.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let one_line = text.split(char::is_control).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(", ");
    one_line.chars().take(MAX_EXCERPT_CHARS).collect()
}

/// The cause behind all wrappers: what the system said.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
