//! One request: checks, dispatch, and the rendering of refusals.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use bytes::Bytes;
use http::header::ALLOW;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use quorate_api::header;
use quorate_api::key::{MAX_KEY_BYTES, SYSTEM_KEYSPACE, decode_percent, is_keyspace_name};
use quorate_api::problem::Code;
use tokio::sync::Semaphore;

use super::answer::{Answer, AnswerBody, NODE};
use super::answer_memory::AnswerMemory;
use super::batch_stream::MAX_STREAMS;
use super::body::{BodyMemory, RequestBody};
use super::browser::{self, AllowedHosts};
use super::config::RestConfig;
use super::forward::{self, Forwards};
use super::metrics::{Metrics, RouteKind};
use super::one_key::Target;
use super::query::{Parameter, parameters};
use super::refusal::{Asked, Refusal};
use super::scans::Scans;
use super::session::Session;
use super::store::{Store, StoreError};
use super::turns::Turns;
use super::watch::Watches;
use super::{admin, batch, compat, delete_range, list, locks, one_key, patch, restore, snapshot, txn, watch};

/// What the routes share.
#[derive(Debug)]
pub(super) struct App<S> {
    pub(super) store: Arc<S>,
    pub(super) config: Arc<RestConfig>,
    pub(super) metrics: Metrics,
    /// For routes that take a processor for long.
    pub(super) turns: Turns,
    /// For reads that take as long as there are keys, or as their client takes.
    pub(super) scans: Scans,
    /// Room for batches as lines.
    pub(super) batch_streams: Arc<Semaphore>,
    /// Room for restores of backups.
    pub(super) restores: Semaphore,
    pub(super) watches: Watches,
    pub(super) forwards: Forwards,
    body_memory: BodyMemory,
    answer_memory: AnswerMemory,
    hosts: AllowedHosts,
    node: HeaderValue,
    request_ids: RequestIds,
}

/// Answers requests.
#[derive(Debug)]
pub(super) struct Endpoint<S> {
    app: Arc<App<S>>,
    router: Router,
}

/// Where a path leads. Keyspaces and keys are still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Key {
        keyspace: &'a str,
        key: &'a str,
    },
    Keyspace(&'a str),
    Batch(&'a str),
    Txn,
    Watch(&'a str),
    Snapshot,
    /// All that is about leases of a keyspace.
    Leases(&'a str),
    Lock {
        keyspace: &'a str,
        name: &'a str,
    },
    CompatKey(Option<&'a str>),
    Other,
}

impl<'a> Route<'a> {
    fn of(path: &'a str) -> Self {
        if let Some(rest) = path.strip_prefix("/v1/kv/") {
            return match rest.split_once('/') {
                Some((keyspace, key)) => Self::Key { keyspace, key },
                None => Self::Keyspace(rest),
            };
        }
        if let Some(keyspace) = path.strip_prefix("/v1/batch/") {
            return Self::Batch(keyspace);
        }
        if let Some(keyspace) = path.strip_prefix("/v1/watch/") {
            return Self::Watch(keyspace);
        }
        if let Some(rest) = path.strip_prefix("/v1/leases/") {
            return Self::Leases(rest.split_once('/').map_or(rest, |(keyspace, _)| keyspace));
        }
        if let Some((keyspace, name)) = path.strip_prefix("/v1/locks/").and_then(|rest| rest.split_once('/')) {
            return Self::Lock { keyspace, name };
        }
        if path == "/v1/txn" {
            return Self::Txn;
        }
        if path == "/v1/snapshot" {
            return Self::Snapshot;
        }
        match path.strip_prefix("/key") {
            Some("") => Self::CompatKey(None),
            Some(rest) if rest.starts_with('/') => Self::CompatKey(Some(&rest[1..])),
            _ => Self::Other,
        }
    }
}

impl<S: Store> Endpoint<S> {
    pub(super) fn new(store: Arc<S>, config: Arc<RestConfig>, listened: SocketAddr) -> Self {
        let turns = Turns::new();
        let app = Arc::new(App {
            store,
            metrics: Metrics::default(),
            scans: Scans::new(turns.clone()),
            batch_streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            restores: Semaphore::new(restore::MAX_RESTORES),
            watches: Watches::new(),
            forwards: Forwards::new(),
            turns,
            body_memory: BodyMemory::new(&config),
            answer_memory: AnswerMemory::new(&config),
            hosts: AllowedHosts::new(&config.allowed_hosts, listened),
            node: HeaderValue::from_str(&config.node_name).unwrap_or(HeaderValue::from_static("unnamed")),
            request_ids: RequestIds::new(),
            config,
        });
        Self { router: admin::router(Arc::clone(&app)), app }
    }

    pub(super) fn config(&self) -> &Arc<RestConfig> {
        &self.app.config
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.app.metrics
    }

    /// The node goes down: ends the answers that would go on for ever.
    pub(super) fn end_watches(&self) {
        self.app.watches.end_all();
    }

    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let (head, incoming) = request.into_parts();
        let app = &*self.app;
        let mut body = RequestBody::new(incoming, &head.headers, &app.config, &app.body_memory);
        let mut kind = RouteKind::Other;
        let answered = match browser::check(&head, &app.hosts) {
            Ok(()) => self.dispatch(&head, &mut body, &mut kind).await,
            Err(refusal) => Err(refusal),
        };
        let mut answer = match answered {
            Ok(answer) => answer,
            Err(refusal) => app.render(refusal, &head).map(Either::Left),
        };
        body.discard().await;
        app.metrics.on_answer(kind, answer.status());
        // Where another node answered, it has said who it is.
        answer.headers_mut().entry(NODE).or_insert_with(|| app.node.clone());
        answer
    }

    /// The key routes are answered in place; what is rarer has its future on the heap, to keep this one small.
    async fn dispatch(
        &self,
        head: &Parts,
        body: &mut RequestBody<'_>,
        kind: &mut RouteKind,
    ) -> Result<Response<AnswerBody>, Refusal> {
        let app = &*self.app;
        let answer = match Route::of(head.uri.path()) {
            Route::Key { keyspace, key } => {
                *kind = RouteKind::of_key(&head.method);
                check_method(head, one_key::METHODS)?;
                let keyspace = keyspace_name(keyspace, &head.method)?;
                if let Some(answer) = forward::read(app, head, &keyspace).await? {
                    return Ok(answer);
                }
                app.answer_key(head, path_target(&keyspace, key)?, body).await?
            }
            Route::Keyspace(keyspace) => {
                check_method(head, list::METHODS)?;
                let keyspace = keyspace_name(keyspace, &head.method)?;
                if let Some(answer) = forward::read(app, head, &keyspace).await? {
                    return Ok(answer);
                }
                match Box::pin(app.answer_keyspace(head, &keyspace, body, kind)).await? {
                    Either::Left(answer) => answer,
                    Either::Right(stream) => return Ok(stream),
                }
            }
            Route::Batch(keyspace) => {
                *kind = RouteKind::Batch;
                if head.method != Method::POST {
                    return Err(Refusal::method_not_allowed(&head.method, "POST"));
                }
                let keyspace = keyspace_name(keyspace, &head.method)?;
                match Box::pin(batch::answer(&self.app, head, &keyspace, body)).await? {
                    Either::Left(answer) => answer,
                    Either::Right(stream) => return Ok(stream),
                }
            }
            Route::Txn => {
                *kind = RouteKind::Txn;
                if head.method != Method::POST {
                    return Err(Refusal::method_not_allowed(&head.method, "POST"));
                }
                Box::pin(txn::answer(app, head, body)).await?
            }
            Route::Watch(keyspace) => {
                *kind = RouteKind::Watch;
                if !matches!(head.method, Method::GET | Method::HEAD | Method::POST) {
                    return Err(Refusal::method_not_allowed(&head.method, watch::METHODS));
                }
                let keyspace = keyspace_name(keyspace, &Method::GET)?;
                return Box::pin(watch::answer(&self.app, head, &keyspace, body)).await;
            }
            Route::Snapshot => match head.method {
                Method::GET | Method::HEAD => return Box::pin(snapshot::answer(&self.app, head)).await,
                Method::PUT => Box::pin(restore::answer(&self.app, head, body)).await?,
                _ => return Err(Refusal::method_not_allowed(&head.method, snapshot::METHODS)),
            },
            Route::Lock { keyspace, name } => {
                if !matches!(head.method, Method::GET | Method::HEAD | Method::POST | Method::DELETE) {
                    return Err(Refusal::method_not_allowed(&head.method, locks::METHODS));
                }
                let keyspace = keyspace_name(keyspace, &head.method)?;
                Box::pin(locks::answer(&self.app, head, path_target(&keyspace, name)?, body)).await?
            }
            Route::CompatKey(key) => {
                *kind = RouteKind::Compat;
                Box::pin(compat::answer(app, head, key, body)).await?
            }
            Route::Leases(_) | Route::Other => return Box::pin(self.route(head, body)).await,
        };
        Ok(app.answer_memory.hold(answer).await?.map(Either::Left))
    }

    /// Through axum, whose routes get the whole body at once.
    async fn route(&self, head: &Parts, body: &mut RequestBody<'_>) -> Result<Response<AnswerBody>, Refusal> {
        let body = body.read(admin::MAX_BODY_BYTES, Code::BodyTooLarge).await?;
        let request = Request::from_parts(head.clone(), axum::body::Body::from(body));
        let Ok(mut answer) = TowerToHyperService::new(self.router.clone()).call(request).await;
        match answer.extensions_mut().remove::<Refusal>() {
            None => Ok(answer.map(Either::Right)),
            Some(refusal) => Err(match answer.headers_mut().remove(ALLOW) {
                Some(allow) => refusal.with_header(ALLOW, allow),
                None => refusal,
            }),
        }
    }
}

impl<S: Store> App<S> {
    async fn answer_key(&self, head: &Parts, target: Target<'_>, body: &mut RequestBody<'_>) -> Result<Answer, Refusal> {
        let mut session = Session::of(self, target.keyspace, &head.headers).await?;
        let answer = match head.method {
            Method::GET | Method::HEAD => one_key::read(self, head, target, &mut session).await,
            Method::PUT => one_key::put(self, head, target, body, &mut session).await,
            Method::PATCH => Box::pin(patch::patch(self, head, target, body, &mut session)).await,
            Method::DELETE => one_key::delete(self, head, target, &mut session).await,
            _ => return Err(Refusal::method_not_allowed(&head.method, one_key::METHODS)),
        };
        Session::told(session, answer)
    }

    /// A list, or one key whose name stands in `key64`.
    async fn answer_keyspace(
        &self,
        head: &Parts,
        keyspace: &str,
        body: &mut RequestBody<'_>,
        kind: &mut RouteKind,
    ) -> Result<Either<Answer, Response<AnswerBody>>, Refusal> {
        if let Some(key64) = key64(head.uri.query())? {
            *kind = RouteKind::of_key(&head.method);
            let key = key64.key64()?;
            return self.answer_key(head, target(keyspace, key, true)?, body).await.map(Either::Left);
        }
        *kind = RouteKind::List;
        let mut session = Session::of(self, keyspace, &head.headers).await?;
        let answer = match head.method {
            Method::GET | Method::HEAD => list::read(self, head, keyspace, &mut session).await,
            Method::DELETE => {
                *kind = RouteKind::of_key(&head.method);
                delete_range::delete(self, head, keyspace, &mut session).await.map(Either::Left)
            }
            _ => return Err(Refusal::method_not_allowed(&head.method, list::METHODS)),
        };
        match answer {
            Ok(Either::Left(answer)) => Session::told(session, Ok(answer)).map(Either::Left),
            Ok(Either::Right(stream)) => Session::told(session, Ok(stream)).map(Either::Right),
            Err(refusal) => Session::told(session, Err(refusal)).map(Either::Left),
        }
    }

    /// Who leads what the route is about: its keyspace, or else the system keyspace.
    fn leader(&self, uri: &Uri) -> Option<String> {
        let cluster = self.store.cluster();
        let named;
        let keyspace = match Route::of(uri.path()) {
            Route::Key { keyspace, .. }
            | Route::Keyspace(keyspace)
            | Route::Batch(keyspace)
            | Route::Watch(keyspace)
            | Route::Leases(keyspace)
            | Route::Lock { keyspace, .. } => keyspace,
            Route::Txn => {
                named = txn::keyspace_in(uri.query());
                &named
            }
            Route::Snapshot | Route::CompatKey(_) | Route::Other => return cluster.leader,
        };
        cluster.shards.into_iter().find(|shard| shard.keyspace == keyspace)?.leader
    }

    fn render(&self, mut refusal: Refusal, head: &Parts) -> Answer {
        let path = head.uri.path();
        let asked = Asked { method: &head.method, path, request_id: self.request_ids.of(&head.headers) };
        if compat::is_compat_path(path) {
            return refusal.into_message(&asked);
        }
        refusal.name_leader(|| self.leader(&head.uri));
        refusal.into_problem(asked)
    }
}

/// A method that no key route has is refused as such, whatever else may be wrong. `methods` are those without `key64`.
fn check_method(head: &Parts, methods: &'static str) -> Result<(), Refusal> {
    match head.method {
        Method::GET | Method::HEAD | Method::PUT | Method::PATCH | Method::DELETE => Ok(()),
        _ if parameters(head.uri.query()).any(|parameter| parameter.name == "key64") => {
            Err(Refusal::method_not_allowed(&head.method, one_key::METHODS))
        }
        _ => Err(Refusal::method_not_allowed(&head.method, methods)),
    }
}

/// The keyspace's name, if a request with this method may use it.
pub(super) fn keyspace_name<'a>(raw: &'a str, method: &Method) -> Result<Cow<'a, str>, Refusal> {
    let bad = || Refusal::new(Code::BadKeyspaceName, format!("{raw:?} cannot be a keyspace"));
    let name = match decode_percent(raw.as_bytes()) {
        _ if !raw.contains('%') => Cow::Borrowed(raw),
        Ok(bytes) => Cow::Owned(String::from_utf8(bytes.into()).map_err(|_| bad())?),
        Err(_) => return Err(bad()),
    };
    match &*name {
        SYSTEM_KEYSPACE if method.is_safe() => Ok(name),
        SYSTEM_KEYSPACE => Err(Refusal::of_write(StoreError::ReadOnly(name.into_owned()))),
        name_given if is_keyspace_name(name_given) => Ok(name),
        _ => Err(bad()),
    }
}

fn path_target<'a>(keyspace: &'a str, key: &str) -> Result<Target<'a>, Refusal> {
    let key = decode_percent(key.as_bytes()).map_err(|error| Refusal::new(Code::MalformedKey, error.to_string()))?;
    if key.len() > MAX_KEY_BYTES {
        return Err(Refusal::new(Code::KeyTooLong, format!("{} bytes, at most {MAX_KEY_BYTES} are possible", key.len()))
            .with_status(http::StatusCode::URI_TOO_LONG));
    }
    target(keyspace, key, false)
}

fn target(keyspace: &str, key: Bytes, is_key64: bool) -> Result<Target<'_>, Refusal> {
    if key.is_empty() {
        return Err(Refusal::new(Code::EmptyKey, "a key has at least one byte"));
    }
    Ok(Target { keyspace, key, is_key64 })
}

fn key64(query: Option<&str>) -> Result<Option<Parameter<'_>>, Refusal> {
    let mut found = None;
    for parameter in parameters(query).filter(|parameter| parameter.name == "key64") {
        parameter.set(&mut found, parameter)?;
    }
    Ok(found)
}

/// Makes names for requests that come without one: random per start, then counted.
#[derive(Debug)]
struct RequestIds {
    start: u32,
    next: AtomicU64,
}

/// Longest name that is taken over from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

impl RequestIds {
    fn new() -> Self {
        // The hasher's seed is random: good enough to tell two starts apart in a log.
        Self { start: RandomState::new().hash_one(0) as u32, next: AtomicU64::new(1) }
    }

    fn of(&self, headers: &HeaderMap) -> String {
        let told = headers.get(header::REQUEST_ID).and_then(|value| value.to_str().ok());
        match told {
            Some(told) if (1..=MAX_REQUEST_ID_BYTES).contains(&told.len()) => told.to_owned(),
            _ => format!("{:08x}-{:x}", self.start, self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_once_and_otherwise_left_alone() {
        let key = |keyspace, key| Route::Key { keyspace, key };
        let cases = [
            ("/v1/kv/a/b", key("a", "b")),
            ("/v1/kv/a/", key("a", "")),
            ("/v1/kv/a//b/../c%2F/", key("a", "/b/../c%2F/")),
            ("/v1/kv//b", key("", "b")),
            ("/v1/kv/a", Route::Keyspace("a")),
            ("/v1/kv/", Route::Keyspace("")),
            ("/v1/kv", Route::Other),
            ("/v1/leases/a", Route::Leases("a")),
            ("/v1/locks/a/b/c", Route::Lock { keyspace: "a", name: "b/c" }),
            ("/v1/locks/a/", Route::Lock { keyspace: "a", name: "" }),
            ("/v1/locks/a", Route::Other),
            ("/v1/leases/a/1/keepalive", Route::Leases("a")),
            ("/v1/batch/a", Route::Batch("a")),
            ("/v1/batch", Route::Other),
            ("/v1/txn", Route::Txn),
            ("/v1/watch/a", Route::Watch("a")),
            ("/v1/watch", Route::Other),
            ("/v1/txn/a", Route::Other),
            ("/v1/snapshot", Route::Snapshot),
            ("/v1/snapshot/", Route::Other),
            ("/key", Route::CompatKey(None)),
            ("/key/", Route::CompatKey(Some(""))),
            ("/key//a", Route::CompatKey(Some("/a"))),
            ("/keys", Route::Other),
            ("//v1/kv/a/b", Route::Other),
        ];
        for (path, route) in cases {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }
}
