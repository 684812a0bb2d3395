//! A node that answers what the test says, and remembers what it was asked.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use quorate_api::problem::{Code, MEDIA_TYPE, Problem, WriteOutcome};
use quorate_client::Endpoint;
use tokio::net::TcpListener;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What the node does with a request.
pub(crate) enum Reaction {
    Answer(Response<Full<Bytes>>),
    /// Never answers.
    Hang,
    /// Closes the connection without an answer.
    HangUp,
}

pub(crate) struct FakeNode {
    pub(crate) endpoint: Endpoint,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeNode {
    pub(crate) async fn start(react: impl Fn(&Seen) -> Reaction + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string().parse().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (react, remembered) = (Arc::new(react), seen.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (react, seen) = (react.clone(), remembered.clone());
                let service = service_fn(move |request| answer(request, react.clone(), seen.clone()));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { endpoint, seen }
    }

    /// A node that always does the same.
    pub(crate) async fn always(status: u16, headers: &'static [(&'static str, &'static str)], body: &'static str) -> Self {
        Self::start(move |_| Reaction::Answer(answer_of(status, headers, body))).await
    }

    pub(crate) async fn refusing(code: Code, outcome: Option<WriteOutcome>) -> Self {
        Self::start(move |_| Reaction::Answer(problem(code, outcome))).await
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

pub(crate) fn answer_of(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let builder = headers.iter().fold(Response::builder().status(status), |builder, (name, value)| builder.header(*name, *value));
    builder.body(Full::new(body.into())).unwrap()
}

pub(crate) fn problem(code: Code, outcome: Option<WriteOutcome>) -> Response<Full<Bytes>> {
    let problem = Problem { outcome, ..Problem::new(code, "as the test says") };
    answer_of(problem.status, &[("content-type", MEDIA_TYPE)], serde_json::to_vec(&problem).unwrap())
}

/// An endpoint where nobody listens.
pub(crate) async fn deserted() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

#[derive(Debug, thiserror::Error)]
#[error("the node hangs up")]
struct HungUp;

async fn answer(
    request: http::Request<Incoming>,
    react: Arc<impl Fn(&Seen) -> Reaction>,
    seen: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<Full<Bytes>>, HungUp> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| HungUp)?.to_bytes();
    let arrived = Seen { method: head.method, target: head.uri.to_string(), headers: head.headers, body };
    let reaction = react(&arrived);
    seen.lock().unwrap().push(arrived);
    match reaction {
        Reaction::Answer(response) => Ok(response),
        Reaction::HangUp => Err(HungUp),
        Reaction::Hang => match std::future::pending::<Infallible>().await {},
    }
}
