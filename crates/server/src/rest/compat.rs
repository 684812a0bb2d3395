//! The routes of the programs that came before: `/key`, `/status`, `/join`, `/health`, on keyspace `default`.
//!
//! Any content type is accepted, query strings are ignored, errors are `{"message": ...}`.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, StatusCode};
use quorate_api::cluster::ClusterStatus;
use quorate_api::key::{DEFAULT_KEYSPACE, MAX_KEY_BYTES, decode_percent, is_address, is_node_name};
use quorate_api::node::{CompatJoin, CompatNode, CompatStatus, Message};
use quorate_api::problem::Code;
use quorate_node::keyspace::{Condition, Op, Outcome, Put, Write};
use serde_json::json;

use super::DEFAULT_TIMEOUT;
use super::answer::{self, Answer};
use super::body::RequestBody;
use super::config::CompatPostKey;
use super::endpoint::App;
use super::refusal::Refusal;
use super::store::{Freshness, Store, Wish};

/// Whether errors at this path are `{"message": ...}`.
pub(super) fn is_compat_path(path: &str) -> bool {
    matches!(path, "/key" | "/status" | "/join" | "/health") || path.starts_with("/key/")
}

/// `/key` and `/key/{key...}`; `key` is what stands behind `/key/`, still encoded.
pub(super) async fn answer<S: Store>(
    app: &App<S>,
    head: &Parts,
    key: Option<&str>,
    body: &mut RequestBody<'_>,
) -> Result<Answer, Refusal> {
    match (key, &head.method) {
        (None, &Method::POST) => post(app, body).await,
        (None, method) => Err(Refusal::method_not_allowed(method, "POST")),
        (Some(raw), &Method::GET | &Method::HEAD) => get(app, decode_key(raw)?).await,
        (Some(raw), &Method::DELETE) => delete(app, decode_key(raw)?).await,
        (Some(_), method) => Err(Refusal::method_not_allowed(method, "GET, HEAD, DELETE")),
    }
}

fn decode_key(raw: &str) -> Result<Bytes, Refusal> {
    let key = decode_percent(raw.as_bytes()).map_err(|error| Refusal::new(Code::MalformedKey, error.to_string()))?;
    if key.len() > MAX_KEY_BYTES {
        return Err(Refusal::new(Code::KeyTooLong, format!("a key has at most {MAX_KEY_BYTES} bytes"))
            .with_status(StatusCode::URI_TOO_LONG));
    }
    Ok(key)
}

async fn get<S: Store>(app: &App<S>, key: Bytes) -> Result<Answer, Refusal> {
    if key.is_empty() {
        return Err(not_found(&key));
    }
    let reading = app.store.read(DEFAULT_KEYSPACE, Freshness::LATEST, DEFAULT_TIMEOUT).await.map_err(Refusal::of_read)?;
    let Some(record) = quorate_node::keyspace::get(&*reading.view, &key)? else {
        return Err(not_found(&key));
    };
    let (Ok(key), Ok(value)) = (std::str::from_utf8(&key), std::str::from_utf8(&record.value)) else {
        let why = "the key or its value is not UTF-8 and does not fit into JSON: get its bytes from /v1/kv/default/{key}";
        return Err(Refusal::new(Code::Conflict, why));
    };
    Ok(answer::json(StatusCode::OK, answer::headers(), &BTreeMap::from([(key, value)])))
}

async fn delete<S: Store>(app: &App<S>, key: Bytes) -> Result<Answer, Refusal> {
    if key.is_empty() {
        return Err(not_found(&key));
    }
    let results = write(app, Write::delete(key.clone())).await?.unwrap_or_default();
    if results.iter().all(|result| result.before.is_none()) {
        return Err(not_found(&key));
    }
    Ok(message("key deleted successfully"))
}

async fn post<S: Store>(app: &App<S>, body: &mut RequestBody<'_>) -> Result<Answer, Refusal> {
    // JSON may need more room than what it says.
    let max_bytes = app.config.max_value_bytes.saturating_mul(2) + (16 << 10);
    let body = body.read(max_bytes, Code::BodyTooLarge).await?;
    if body.is_empty() {
        return Err(Refusal::new(Code::BadBody, "empty request body"));
    }
    let pairs: BTreeMap<String, String> =
        serde_json::from_slice(&body).map_err(|_| Refusal::new(Code::BadBody, "request is not a valid json"))?;
    check_limits(app, &pairs)?;
    match app.config.compat_post_key {
        CompatPostKey::Create => create(app, pairs).await,
        CompatPostKey::Upsert => upsert(app, pairs).await,
    }
}

fn check_limits<S: Store>(app: &App<S>, pairs: &BTreeMap<String, String>) -> Result<(), Refusal> {
    for (key, value) in pairs {
        if key.is_empty() {
            return Err(Refusal::new(Code::EmptyKey, "a key must not be empty"));
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(Refusal::new(Code::KeyTooLong, format!("a key has at most {MAX_KEY_BYTES} bytes")));
        }
        if value.len() as u64 > app.config.max_value_bytes {
            return Err(Refusal::new(Code::ValueTooLarge, format!("a value has at most {} bytes", app.config.max_value_bytes)));
        }
    }
    Ok(())
}

async fn create<S: Store>(app: &App<S>, mut pairs: BTreeMap<String, String>) -> Result<Answer, Refusal> {
    let Some((key, value)) = pairs.pop_first() else {
        return Err(Refusal::new(Code::BadBody, "no data provided"));
    };
    if !pairs.is_empty() {
        return Err(Refusal::new(Code::BadBody, "only a single key can be accepted"));
    }
    if value.is_empty() {
        return Err(Refusal::new(Code::BadBody, "a value must not be empty"));
    }
    let bytes = Bytes::copy_from_slice(key.as_bytes());
    let put = Write::put(bytes.clone(), Bytes::copy_from_slice(value.as_bytes())).only_if(bytes, Condition::Absent);
    if write(app, put).await?.is_none() {
        return Err(Refusal::new(Code::Conflict, format!("key {key} already exists")));
    }
    Ok(answer::json(StatusCode::OK, answer::headers(), &BTreeMap::from([(key, value)])))
}

async fn upsert<S: Store>(app: &App<S>, pairs: BTreeMap<String, String>) -> Result<Answer, Refusal> {
    let put = |(key, value): (&String, &String)| {
        let (key, value) = (Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        Op::Put(Put::new(key, value))
    };
    if !pairs.is_empty() {
        write(app, Write { guards: Vec::new(), ops: pairs.iter().map(put).collect() }).await?;
    }
    Ok(answer::json(StatusCode::OK, answer::headers(), &pairs))
}

/// Writes; none if a condition did not hold.
async fn write<S: Store>(app: &App<S>, write: Write) -> Result<Option<Vec<quorate_node::keyspace::OpResult>>, Refusal> {
    let written = app.store.write(DEFAULT_KEYSPACE, write, Wish::default(), DEFAULT_TIMEOUT).await.map_err(Refusal::of_write)?;
    match &written.outcome {
        Outcome::Applied { results, .. } => Ok(Some(results.clone())),
        Outcome::ConditionFailed { .. } => Ok(None),
        outcome => Err(Refusal::of_outcome(written.epoch, outcome).expect("it was not applied")),
    }
}

/// `GET /health`: the process serves.
pub(super) fn health() -> Answer {
    answer::json(StatusCode::OK, answer::headers(), &json!({"status": "ok"}))
}

/// `GET /status`: who leads and who follows in keyspace `default`.
pub(super) fn status(cluster: &ClusterStatus) -> Answer {
    let named = |name: &String| {
        let node = cluster.nodes.iter().find(|node| node.name == *name);
        CompatNode { id: name.clone(), address: node.map(|node| node.client_address.clone()).unwrap_or_default() }
    };
    let shard = cluster.shards.iter().find(|shard| shard.keyspace == DEFAULT_KEYSPACE);
    let leader = shard.and_then(|shard| shard.leader.as_ref());
    let voters = shard.map(|shard| shard.voters.as_slice()).unwrap_or_default();
    let status = CompatStatus {
        me: named(&cluster.served_by),
        leader: leader.map(named),
        followers: voters.iter().filter(|voter| Some(*voter) != leader).map(named).collect(),
    };
    answer::json(StatusCode::OK, answer::headers(), &status)
}

/// `POST /join`: announces a node.
pub(super) async fn join<S: Store>(app: &App<S>, body: &[u8]) -> Result<Answer, Refusal> {
    if body.is_empty() {
        return Err(Refusal::new(Code::BadBody, "empty request body"));
    }
    let join: CompatJoin =
        serde_json::from_slice(body).map_err(|_| Refusal::new(Code::BadBody, "request is not a valid json"))?;
    if !is_node_name(&join.id) || !is_address(&join.addr) {
        return Err(Refusal::new(Code::BadBody, "id must be a node name and addr a host:port"));
    }
    app.store.announce(&join.id, &join.addr, DEFAULT_TIMEOUT).await.map_err(Refusal::of_write)?;
    Ok(message("Added node to cluster"))
}

fn message(text: &str) -> Answer {
    answer::json(StatusCode::OK, answer::headers(), &Message { message: text.to_owned() })
}

fn not_found(key: &[u8]) -> Refusal {
    Refusal::new(Code::KeyNotFound, format!("key {} not found", String::from_utf8_lossy(key)))
}
