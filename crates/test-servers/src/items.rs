//! HTTP in the test's own process: anything that answers, and a service that keeps items.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::header::{AUTHORIZATION, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

/// What a service answers.
type Handler = dyn Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync;

/// Serves HTTP on loopback until it is dropped, which ends all connections.
#[derive(Debug)]
pub struct Http {
    /// Where.
    pub port: u16,
    task: JoinHandle<()>,
}

impl Http {
    /// On a port of the system's choice. Within a tokio runtime.
    pub async fn start(handler: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        Self::start_on(0, handler).await
    }

    /// On this port, as one that comes back does.
    pub async fn start_on(port: u16, handler: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let port = listener.local_addr().expect("it listens").port();
        Self { port, task: tokio::spawn(serve(listener, Arc::new(handler))) }
    }

    /// Ends it; when this returns, nobody listens there any more.
    pub async fn end(mut self) {
        self.task.abort();
        // It was told to end.
        (&mut self.task).await.ok();
    }
}

async fn serve(listener: TcpListener, handler: Arc<Handler>) {
    // Dropped with the connections when this is over.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let handler = handler.clone();
        let answer = move |request: Request<hyper::body::Incoming>| {
            let handler = handler.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                Ok::<_, Infallible>(handler(&Request::from_parts(head, body)).map(Full::new))
            }
        };
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        connections.spawn(async move { connection.await.ok() });
    }
}

impl Drop for Http {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer of this status.
pub fn answer(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    Response::builder().status(status).body(body.into()).expect("the status is one")
}

/// Items under paths, with strong entity tags and conditions.
#[derive(Debug, Default)]
pub struct ItemMap {
    items: BTreeMap<String, (Bytes, u64)>,
    writes: u64,
    /// The header without which nobody is let in.
    authorization: Option<String>,
}

/// A service that keeps them.
#[derive(Debug)]
pub struct Items {
    http: Http,
}

impl Items {
    /// An empty one that lets everybody in. Within a tokio runtime.
    pub async fn start() -> Self {
        Self::start_on(0, Arc::default()).await
    }

    /// On this port, with what there is.
    pub async fn start_on(port: u16, items: Arc<Mutex<ItemMap>>) -> Self {
        Self { http: Http::start_on(port, move |request| locked(&items).answer(request)).await }
    }

    /// As [`Http::end`].
    pub async fn end(self) {
        self.http.end().await;
    }

    /// Where a path of it is found.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http.port)
    }
}

fn locked(items: &Mutex<ItemMap>) -> MutexGuard<'_, ItemMap> {
    items.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ItemMap {
    /// None, and only for those who send this header.
    pub fn guarded(authorization: &str) -> Self {
        Self { authorization: Some(authorization.to_owned()), ..Self::default() }
    }

    /// What a request is answered.
    pub fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path().to_owned();
        let there = self.items.get(&path).map(|(value, write)| (value.clone(), format!("\"{write}\"")));
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let tag = there.as_ref().map(|(_, tag)| tag.as_str());
        if self.authorization.is_some() && self.authorization.as_deref() != header(AUTHORIZATION) {
            return answer(401, format!("not with {:?}", header(AUTHORIZATION)));
        }
        if header(IF_MATCH).is_some_and(|wanted| Some(wanted) != tag) || header(IF_NONE_MATCH) == Some("*") && tag.is_some() {
            return answer(412, "no");
        }
        let tagged = |status: u16, tag: String, body: Bytes| {
            let mut tagged = answer(status, body);
            tagged.headers_mut().insert(ETAG, tag.try_into().expect("a tag is a header"));
            tagged
        };
        match (request.method().clone(), there) {
            (Method::GET, Some((value, tag))) => tagged(200, tag, value),
            (Method::GET | Method::DELETE, None) => answer(404, "no such item"),
            (Method::PUT, _) => {
                self.writes += 1;
                self.items.insert(path, (request.body().clone(), self.writes));
                tagged(201, format!("\"{}\"", self.writes), Bytes::new())
            }
            (Method::DELETE, Some(_)) => {
                self.items.remove(&path);
                answer(204, "")
            }
            _ => answer(405, "no"),
        }
    }
}
