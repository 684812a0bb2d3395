//! Everything but the key routes, by an axum router: cluster, node, health, metrics, help; what is about keyspaces stands in
//! `keyspaces`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::routing::{get, post, put};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use quorate_api::batch::{MAX_BATCH_BYTES, MAX_BATCH_OPS};
use quorate_api::cluster::{AddressChange, Formation, Items, JoinRequest, KeyspaceLeader, TransferAnswer, TransferRequest};
use quorate_api::entry::{MAX_LIST_BYTES, MAX_LIST_ITEMS};
use quorate_api::key::{MAX_KEY_BYTES, is_address, is_node_name};
use quorate_api::node::{NodeInfo, NodeLimits};
use quorate_api::problem::{Code, Facts};
use quorate_api::txn::{MAX_TXN_BYTES, MAX_TXN_OPS};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::answer::{self, Answer};
use super::endpoint::App;
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::store::{Check, Store, StoreError};
use super::{DEFAULT_TIMEOUT, MAX_TIMEOUT, compat, keyspaces, leases, openapi};

/// Largest body of these routes.
pub(super) const MAX_BODY_BYTES: u64 = 64 << 10;

pub(super) type Result = std::result::Result<Answer, Refusal>;
pub(super) type Shared<S> = State<Arc<App<S>>>;

/// The routes, over the store.
pub(super) fn router<S: Store>(app: Arc<App<S>>) -> Router {
    Router::new()
        .route("/", get(hello::<S>))
        .route("/livez", get(livez::<S>))
        .route("/readyz", get(readyz::<S>))
        .route("/metrics", get(metrics::<S>))
        .route("/openapi.json", get(openapi::document))
        .route("/problems", get(problems))
        .route("/problems/{code}", get(problem))
        .route("/v1/node", get(node::<S>))
        .route("/v1/cluster", get(cluster::<S>))
        .route("/v1/cluster/nodes", get(nodes::<S>).post(join::<S>))
        .route("/v1/cluster/nodes/{name}", get(one_node::<S>).delete(remove_node::<S>))
        .route("/v1/cluster/nodes/{name}/addresses", put(readdress::<S>))
        .route("/v1/cluster/formation", post(formation::<S>))
        .route("/v1/cluster/leader", get(leaders::<S>).post(transfer_leader::<S>))
        .route("/health", get(|| async { compat::health() }))
        .route("/status", get(compat_status::<S>))
        .route("/join", post(compat_join::<S>))
        .merge(keyspaces::routes())
        .merge(leases::routes())
        .fallback(|| async { Refusal::new(Code::NotFound, "there is nothing at this path") })
        .method_not_allowed_fallback(|| async { Refusal::new(Code::MethodNotAllowed, "the path knows other methods") })
        .with_state(app)
}

async fn hello<S: Store>(State(app): Shared<S>, query: RawQuery) -> Result {
    no_parameters(&query)?;
    let links = [
        "/v1/kv/default",
        "/v1/keyspaces",
        "/v1/leases/default",
        "/v1/engines",
        "/v1/cluster",
        "/v1/node",
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/problems",
    ];
    let body = json!({"name": "quorate", "version": env!("CARGO_PKG_VERSION"), "node": app.config.node_name, "links": links});
    Ok(ok(&body))
}

async fn livez<S: Store>(State(app): Shared<S>, query: RawQuery) -> Result {
    checks(&query, &app.store.liveness())
}

async fn readyz<S: Store>(State(app): Shared<S>, query: RawQuery) -> Result {
    checks(&query, &app.store.readiness())
}

/// `ok`, or one line per check where somebody asked or something is wrong.
fn checks(query: &RawQuery, checks: &[Check]) -> Result {
    let mut is_verbose = None;
    for parameter in parameters(query.0.as_deref()) {
        match parameter.name {
            "verbose" => parameter.set(&mut is_verbose, parameter.flag()?)?,
            _ => return Err(parameter.unknown(&["verbose"])),
        }
    }
    let is_ok = checks.iter().all(|check| check.is_ok);
    let mut body = String::new();
    if !is_ok || is_verbose == Some(true) {
        for check in checks {
            let _ = if check.is_ok {
                writeln!(body, "[+]{} ok", check.name)
            } else {
                writeln!(body, "[-]{} failed: {}", check.name, check.detail)
            };
        }
    }
    body.push_str(if is_ok { "ok\n" } else { "not ok\n" });
    Ok(answer::text(if is_ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body))
}

async fn metrics<S: Store>(State(app): Shared<S>) -> Answer {
    let mut body = String::new();
    app.metrics.write(&mut body);
    app.watches.write_metrics(&mut body);
    app.store.metrics(&mut body);
    let mut answer = answer::text(StatusCode::OK, body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    answer
}

async fn problems() -> Answer {
    let mut body = String::from("Every error has one of these codes. /problems/CODE says more.\n\n");
    for code in Code::ALL {
        let Facts { code, status, title, .. } = code.facts();
        let _ = writeln!(body, "{status} {code}: {title}");
    }
    answer::text(StatusCode::OK, body)
}

async fn problem(code: std::result::Result<Path<String>, PathRejection>) -> Result {
    let Some(code) = code.ok().and_then(|Path(word)| Code::from_word(&word)) else {
        return Err(Refusal::new(Code::NotFound, "there is no such problem code; /problems lists them"));
    };
    let Facts { code, status, title, help, is_retryable } = code.facts();
    let again = if *is_retryable { "yes, a little later" } else { "not as it is" };
    let body = format!("{title}\n\ncode: {code}\nstatus: {status}\nsend again: {again}\n\n{help}\n");
    Ok(answer::text(StatusCode::OK, body))
}

async fn node<S: Store>(State(app): Shared<S>, query: RawQuery) -> Result {
    no_parameters(&query)?;
    let limits = NodeLimits {
        max_key_bytes: MAX_KEY_BYTES as u64,
        max_value_bytes: app.config.max_value_bytes,
        max_list_items: MAX_LIST_ITEMS as u64,
        max_list_bytes: MAX_LIST_BYTES as u64,
        max_batch_ops: MAX_BATCH_OPS as u64,
        max_batch_bytes: MAX_BATCH_BYTES,
        max_txn_ops: MAX_TXN_OPS as u64,
        max_txn_bytes: MAX_TXN_BYTES,
        max_timeout_ms: MAX_TIMEOUT.as_millis() as u64,
        default_timeout_ms: DEFAULT_TIMEOUT.as_millis() as u64,
        max_connections: u64::from(app.config.max_connections),
    };
    let (name, version) = (app.config.node_name.clone(), env!("CARGO_PKG_VERSION").to_owned());
    Ok(ok(&NodeInfo { name, version, limits }))
}

async fn cluster<S: Store>(State(app): Shared<S>, query: RawQuery) -> Result {
    no_parameters(&query)?;
    Ok(ok(&app.store.cluster()))
}

async fn nodes<S: Store>(State(app): Shared<S>, query: RawQuery) -> Result {
    no_parameters(&query)?;
    Ok(ok(&Items { items: app.store.cluster().nodes }))
}

async fn one_node<S: Store>(
    State(app): Shared<S>,
    name: std::result::Result<Path<String>, PathRejection>,
    query: RawQuery,
) -> Result {
    no_parameters(&query)?;
    let name = node_name(name)?;
    let node = app.store.cluster().nodes.into_iter().find(|node| node.name == name);
    node.map(|node| ok(&node)).ok_or_else(|| Refusal::of_read(StoreError::NodeNotFound(name)))
}

async fn join<S: Store>(State(app): Shared<S>, query: RawQuery, headers: HeaderMap, body: Bytes) -> Result {
    let timeout = timeout(&query, &headers)?;
    let request: JoinRequest = json_body(&headers, &body)?;
    if !is_node_name(&request.name) {
        return Err(Refusal::new(Code::BadBody, "name: 1 to 63 letters, digits, '.', '_' or '-', a letter or digit first"));
    }
    check_addresses(&request.client_address, &request.peer_address)?;
    app.store.join(request, timeout).await.map(|answer| ok(&answer)).map_err(Refusal::of_write)
}

fn check_addresses(client: &str, peer: &str) -> std::result::Result<(), Refusal> {
    let wrong = [("client_address", client), ("peer_address", peer)].into_iter().find(|(_, address)| !is_address(address));
    wrong.map_or(Ok(()), |(field, _)| Err(Refusal::new(Code::BadBody, format!("{field}: not host:port"))))
}

async fn readdress<S: Store>(
    State(app): Shared<S>,
    name: std::result::Result<Path<String>, PathRejection>,
    query: RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result {
    let timeout = timeout(&query, &headers)?;
    let name = node_name(name)?;
    let change: AddressChange = json_body(&headers, &body)?;
    check_addresses(&change.client_address, &change.peer_address)?;
    app.store.readdress(&name, change, timeout).await.map_err(Refusal::of_write)?;
    Ok(answer::empty(StatusCode::NO_CONTENT, answer::headers()))
}

async fn formation<S: Store>(State(app): Shared<S>, query: RawQuery, headers: HeaderMap, body: Bytes) -> Result {
    no_parameters(&query)?;
    let told: Formation = json_body(&headers, &body)?;
    if !is_node_name(&told.name) {
        return Err(Refusal::new(Code::BadBody, "name: 1 to 63 letters, digits, '.', '_' or '-', a letter or digit first"));
    }
    let ids = [Some(told.id.as_str()).filter(|id| !id.is_empty()), told.promised.as_ref().map(|promised| promised.id.as_str())];
    let is_id = |id: &str| id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !ids.into_iter().flatten().all(is_id) {
        return Err(Refusal::new(Code::BadBody, "id: not 16 hexadecimal digits"));
    }
    Ok(ok(&app.store.formation(&told)))
}

async fn remove_node<S: Store>(
    State(app): Shared<S>,
    name: std::result::Result<Path<String>, PathRejection>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result {
    let timeout = timeout(&query, &headers)?;
    app.store.remove_node(&node_name(name)?, timeout).await.map_err(Refusal::of_write)?;
    Ok(answer::empty(StatusCode::NO_CONTENT, answer::headers()))
}

async fn leaders<S: Store>(State(app): Shared<S>, query: RawQuery) -> Result {
    no_parameters(&query)?;
    let shards = app.store.cluster().shards.into_iter();
    let items = shards.map(|shard| KeyspaceLeader { keyspace: shard.keyspace, leader: shard.leader }).collect();
    Ok(ok(&TransferAnswer { items }))
}

async fn transfer_leader<S: Store>(State(app): Shared<S>, query: RawQuery, headers: HeaderMap, body: Bytes) -> Result {
    let timeout = timeout(&query, &headers)?;
    let request = if body.is_empty() { TransferRequest::default() } else { json_body(&headers, &body)? };
    app.store.transfer_leader(request, timeout).await.map(|answer| ok(&answer)).map_err(Refusal::of_write)
}

async fn compat_status<S: Store>(State(app): Shared<S>) -> Answer {
    compat::status(&app.store.cluster())
}

async fn compat_join<S: Store>(State(app): Shared<S>, body: Bytes) -> Result {
    compat::join(&app, &body).await
}

pub(super) fn ok(body: &impl serde::Serialize) -> Answer {
    answer::json(StatusCode::OK, answer::headers(), body)
}

pub(super) fn no_parameters(query: &RawQuery) -> std::result::Result<(), Refusal> {
    parameters(query.0.as_deref()).next().map_or(Ok(()), |parameter| Err(parameter.unknown(&[])))
}

pub(super) fn timeout(query: &RawQuery, headers: &HeaderMap) -> std::result::Result<Duration, Refusal> {
    let mut treatment = Treatment::default();
    for parameter in parameters(query.0.as_deref()) {
        if !treatment.take_write(parameter)? {
            return Err(parameter.unknown(&["timeout"]));
        }
    }
    treatment.timeout(headers)
}

fn node_name(name: std::result::Result<Path<String>, PathRejection>) -> std::result::Result<String, Refusal> {
    match name {
        Ok(Path(name)) => Ok(name),
        Err(rejection) => Err(Refusal::new(Code::NodeNotFound, rejection.body_text())),
    }
}

pub(super) fn json_body<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> std::result::Result<T, Refusal> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()?.split(';').next());
    if !media_type.is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Refusal::new(Code::UnsupportedMediaType, "content-type: this route takes application/json"));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::new(Code::BadBody, error.to_string()))
}
