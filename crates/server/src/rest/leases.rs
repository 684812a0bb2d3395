//! Leases: `/v1/leases/{keyspace}...`. Which there are is read like pairs; how long they live is asked of their leader.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use quorate_api::entry::{DeletedBody, Encoding, MAX_LIST_BYTES, folder_names};
use quorate_api::keyspace::Capability;
use quorate_api::lease::{
    DEFAULT_LEASE_ITEMS, GrantBody, KeepAliveBody, KeptAlive, LeaseBody, LeaseDetail, LeaseList, MAX_KEEP_ALIVE_IDS,
    MAX_LEASE_ITEMS, format_id,
};
use quorate_api::problem::Code;
use quorate_node::keyspace::{self, Detail, Lease, LeaseId, MAX_LEASE_KEYS, Op, OpResult, Outcome, Place, Revision, Write};
use quorate_node::{LeaseQuestion, LeaseTime};

use super::admin::{Result, Shared, json_body, ok, timeout};
use super::answer::{self, Answer, HeaderText};
use super::cursor::Cursor;
use super::deadline::Deadline;
use super::endpoint::{App, keyspace_name};
use super::keyspaces::{freshness, require};
use super::one_key::{parse_lease, parse_ttl};
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::store::{Freshness, Reading, Store, Wish, Written};

type PathParts<T> = std::result::Result<Path<T>, PathRejection>;
type Refusable<T> = std::result::Result<T, Refusal>;

/// How often another id is drawn if there is a lease of that name: one in nine quintillion.
const MAX_DRAWS: usize = 3;

/// The routes.
pub(super) fn routes<S: Store>() -> Router<std::sync::Arc<App<S>>> {
    Router::new()
        .route("/v1/leases/{keyspace}", get(list::<S>).post(grant::<S>))
        .route("/v1/leases/{keyspace}/keepalive", post(keep_many_alive::<S>))
        .route("/v1/leases/{keyspace}/{id}", get(show::<S>).delete(revoke::<S>))
        .route("/v1/leases/{keyspace}/{id}/keepalive", post(keep_alive::<S>))
}

async fn grant<S: Store>(
    State(app): Shared<S>,
    keyspace: PathParts<String>,
    query: RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result {
    let keyspace = checked_keyspace(&app, keyspace, &Method::POST)?;
    let deadline = Deadline::after(timeout(&query, &headers)?);
    let GrantBody { ttl, id } = json_body(&headers, &body)?;
    let ttl_ms = parse_ttl(&ttl).map_err(|why| Refusal::new(Code::BadBody, format!("ttl: {why}")))?;
    let told = id.map(|id| parse_lease(&id).map_err(|why| Refusal::new(Code::BadBody, format!("id: {why}")))).transpose()?;
    let Granted { id, ttl_ms, revision } = grant_lease(&app, &keyspace, told, ttl_ms, deadline).await?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision);
    let body = LeaseBody { id: id.to_string(), ttl_ms: Some(ttl_ms), remaining_ms: Some(ttl_ms) };
    Ok(answer::json(StatusCode::CREATED, headers, &body))
}

/// A lease that is there now.
pub(super) struct Granted {
    pub(super) id: LeaseId,
    /// As long as was asked for, or as the shortest there is.
    pub(super) ttl_ms: u64,
    revision: Revision,
}

/// Grants a lease of this id, or of one that is drawn.
pub(super) async fn grant_lease<S: Store>(
    app: &App<S>,
    keyspace: &str,
    told: Option<LeaseId>,
    ttl_ms: u64,
    deadline: Deadline,
) -> Refusable<Granted> {
    let ttl_ms = ttl_ms.max(app.config.min_lease_ttl_ms);
    for _ in 0..MAX_DRAWS {
        let id = told.unwrap_or_else(draw_id);
        let write = Write { ops: vec![Op::LeaseGrant { id, ttl_ms }], ..Write::default() };
        let left = deadline.left().unwrap_or_default();
        let Written { epoch, outcome, .. } =
            app.store.write(keyspace, write, Wish::default(), left).await.map_err(Refusal::of_write)?;
        match outcome {
            Outcome::LeaseExists { .. } if told.is_none() => {}
            Outcome::Applied { revision, .. } => return Ok(Granted { id, ttl_ms, revision }),
            outcome => return Err(refused(epoch, &outcome)),
        }
    }
    Err(Refusal::new(Code::Internal, "every id that was drawn is taken"))
}

/// Any id: two that are drawn are hardly ever the same, and then the second is refused.
fn draw_id() -> LeaseId {
    // The hasher's seed is random, and another one each time.
    LeaseId((RandomState::new().hash_one(0) >> 1).max(1))
}

async fn revoke<S: Store>(
    State(app): Shared<S>,
    path: PathParts<(String, String)>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result {
    let (keyspace, id) = checked_lease(&app, path, &Method::DELETE)?;
    let timeout = timeout(&query, &headers)?;
    let deleted = revoke_lease(&app, &keyspace, id, timeout).await?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, Revision(deleted.revision));
    Ok(answer::json(StatusCode::OK, headers, &deleted))
}

/// Revokes a lease, with the keys that hang on it.
pub(super) async fn revoke_lease<S: Store>(
    app: &App<S>,
    keyspace: &str,
    id: LeaseId,
    timeout: Duration,
) -> Refusable<DeletedBody> {
    let write = Write { ops: vec![Op::LeaseRevoke { id }], ..Write::default() };
    let Written { epoch, outcome, .. } =
        app.store.write(keyspace, write, Wish::default(), timeout).await.map_err(Refusal::of_write)?;
    let Outcome::Applied { revision, results } = outcome else { return Err(refused(epoch, &outcome)) };
    let deleted = match results.first().and_then(|result: &OpResult| result.detail.as_deref()) {
        Some(Detail::Removed(removed)) => removed.keys,
        _ => 0,
    };
    Ok(DeletedBody { deleted, revision: revision.0 })
}

async fn keep_alive<S: Store>(
    State(app): Shared<S>,
    path: PathParts<(String, String)>,
    query: RawQuery,
    headers: HeaderMap,
) -> Result {
    let (keyspace, id) = checked_lease(&app, path, &Method::POST)?;
    let timeout = timeout(&query, &headers)?;
    let question = LeaseQuestion { leases: vec![id], keeps_alive: true };
    let times = app.store.leases(&keyspace, question, timeout).await.map_err(Refusal::of_write)?;
    times.first().copied().flatten().map(|time| ok(&body_of(id, time))).ok_or_else(|| not_found(id))
}

async fn keep_many_alive<S: Store>(
    State(app): Shared<S>,
    keyspace: PathParts<String>,
    query: RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result {
    let keyspace = checked_keyspace(&app, keyspace, &Method::POST)?;
    let timeout = timeout(&query, &headers)?;
    let KeepAliveBody { ids } = json_body(&headers, &body)?;
    if ids.len() > MAX_KEEP_ALIVE_IDS {
        return Err(Refusal::new(Code::BadBody, format!("ids: at most {MAX_KEEP_ALIVE_IDS} at once")));
    }
    let id_of = |(position, id): (usize, &String)| {
        parse_lease(id).map_err(|why| Refusal::new(Code::BadBody, format!("ids[{position}]: {why}")))
    };
    let leases: Vec<LeaseId> = ids.iter().enumerate().map(id_of).collect::<Refusable<_>>()?;
    let question = LeaseQuestion { leases: leases.clone(), keeps_alive: true };
    let times = app.store.leases(&keyspace, question, timeout).await.map_err(Refusal::of_write)?;
    let mut kept = KeptAlive::default();
    for (id, time) in leases.into_iter().zip(times) {
        match time {
            Some(time) => kept.items.push(body_of(id, time)),
            None => kept.missing.push(id.to_string()),
        }
    }
    Ok(ok(&kept))
}

async fn show<S: Store>(State(app): Shared<S>, path: PathParts<(String, String)>, query: RawQuery, headers: HeaderMap) -> Result {
    let (keyspace, id) = checked_lease(&app, path, &Method::GET)?;
    let (mut treatment, mut has_keys) = (Treatment::default(), None);
    for parameter in parameters(query.0.as_deref()) {
        match parameter.name {
            "keys" => parameter.set(&mut has_keys, parameter.flag()?)?,
            _ if treatment.take_write(parameter)? => {}
            _ => return Err(parameter.unknown(&["keys", "timeout"])),
        }
    }
    let deadline = Deadline::after(treatment.timeout(&headers)?);
    let question = LeaseQuestion { leases: vec![id], keeps_alive: false };
    let times = app.store.leases(&keyspace, question, deadline.left().unwrap_or_default()).await.map_err(Refusal::of_read)?;
    let time = times.first().copied().flatten().ok_or_else(|| not_found(id))?;
    // Only now: what is read is not older than what the leader told.
    let reading =
        app.store.read(&keyspace, Freshness::LATEST, deadline.left().unwrap_or_default()).await.map_err(Refusal::of_read)?;
    let Lease { keys: key_count, .. } = keyspace::lease(&*reading.view, id)?.ok_or_else(|| not_found(id))?;
    let (mut names, mut has_more_keys) = ((None, Vec::new()), false);
    let keys;
    if has_keys == Some(true) {
        (keys, has_more_keys) = held_keys(&reading, id)?;
        let (text, base64) = folder_names(&keys, Encoding::Text);
        names = (Some(text), base64);
    }
    let lease = body_of(id, time);
    let body = LeaseDetail { lease, key_count, keys: names.0, keys64: names.1, has_more_keys };
    Ok(with_revision(reading.view.revision(), &body))
}

/// The keys that hang on a lease, as many as an answer holds.
fn held_keys(reading: &Reading, id: LeaseId) -> Refusable<(Vec<Bytes>, bool)> {
    let mut keys = keyspace::lease_keys(&*reading.view, id, None, MAX_LEASE_KEYS as usize)?;
    let mut bytes = 0;
    let fits = keys.iter().take_while(|key| {
        bytes += key.len();
        bytes <= MAX_LIST_BYTES
    });
    let count = fits.count();
    let has_more = count < keys.len();
    keys.truncate(count);
    Ok((keys, has_more))
}

async fn list<S: Store>(State(app): Shared<S>, keyspace: PathParts<String>, query: RawQuery, headers: HeaderMap) -> Result {
    let keyspace = checked_keyspace(&app, keyspace, &Method::GET)?;
    let (mut treatment, mut limit, mut cursor) = (Treatment::default(), None, None);
    for parameter in parameters(query.0.as_deref()) {
        match parameter.name {
            "limit" => {
                let told = usize::try_from(parameter.number()?).ok().filter(|told| (1..=MAX_LEASE_ITEMS).contains(told));
                let told = told.ok_or_else(|| parameter.bad(format!("not 1 to {MAX_LEASE_ITEMS}")))?;
                parameter.set(&mut limit, told)?;
            }
            "cursor" => parameter.set(&mut cursor, parameter.bytes()?)?,
            _ if treatment.take_read(parameter)? => {}
            _ => return Err(parameter.unknown(&["limit", "cursor", "consistency", "min_revision", "timeout"])),
        }
    }
    let selection = crc32c::crc32c(format!("leases of {keyspace}").as_bytes());
    let after = cursor.map(|text| place_of(&text, selection)).transpose()?;
    let freshness = freshness(&app, &keyspace, &treatment, &headers)?;
    let deadline = Deadline::after(treatment.timeout(&headers)?);
    let reading = app.store.read(&keyspace, freshness, deadline.left().unwrap_or_default()).await.map_err(Refusal::of_read)?;
    let limit = limit.unwrap_or(DEFAULT_LEASE_ITEMS);
    let mut leases = keyspace::leases(&*reading.view, after, limit + 1)?;
    let has_more = leases.len() > limit;
    leases.truncate(limit);
    // A local read asks nobody.
    let times = if freshness.is_linearizable && !leases.is_empty() {
        let question = LeaseQuestion { leases: leases.iter().map(|lease| lease.id).collect(), keeps_alive: false };
        app.store.leases(&keyspace, question, deadline.left().unwrap_or_default()).await.map_err(Refusal::of_read)?
    } else {
        vec![None; leases.len()]
    };
    let revision = reading.view.revision();
    let next = leases.last().filter(|_| has_more).map(|last| Bytes::copy_from_slice(&last.id.0.to_be_bytes()));
    let next_cursor = next.map(|id| Cursor { selection, revision, place: Place::Key(id) }.to_text());
    let item = |(lease, time): (&Lease, Option<LeaseTime>)| LeaseBody {
        id: format_id(lease.id.0),
        ttl_ms: Some(lease.ttl_ms),
        remaining_ms: time.map(|time| time.left_ms),
    };
    let items = leases.iter().zip(times).map(item).collect();
    Ok(with_revision(revision, &LeaseList { items, revision, next_cursor }))
}

fn place_of(cursor: &[u8], selection: u32) -> Refusable<LeaseId> {
    let place = Cursor::parse(cursor, selection).map(|cursor| cursor.place);
    let id = match place {
        Some(Place::Key(id)) => id[..].try_into().ok().map(u64::from_be_bytes),
        _ => None,
    };
    id.map(LeaseId).ok_or_else(|| Refusal::new(Code::BadCursor, "the cursor was not given out for the leases of this keyspace"))
}

fn checked_keyspace<S: Store>(app: &App<S>, keyspace: PathParts<String>, method: &Method) -> Refusable<String> {
    let Path(keyspace) = keyspace.map_err(|rejection| Refusal::new(Code::BadKeyspaceName, rejection.body_text()))?;
    // Already decoded: what is left of it is no encoding.
    if keyspace.contains('%') {
        return Err(Refusal::new(Code::BadKeyspaceName, format!("{keyspace:?} cannot be a keyspace")));
    }
    let name = keyspace_name(&keyspace, method)?.into_owned();
    require(app, &name, Capability::Leases)?;
    Ok(name)
}

fn checked_lease<S: Store>(app: &App<S>, path: PathParts<(String, String)>, method: &Method) -> Refusable<(String, LeaseId)> {
    let Path((keyspace, id)) = path.map_err(|rejection| Refusal::new(Code::BadKeyspaceName, rejection.body_text()))?;
    let keyspace = checked_keyspace(app, Ok(Path(keyspace)), method)?;
    let id = parse_lease(&id).map_err(|why| Refusal::new(Code::LeaseNotFound, format!("{id:?}: {why}")))?;
    Ok((keyspace, id))
}

fn body_of(id: LeaseId, LeaseTime { ttl_ms, left_ms }: LeaseTime) -> LeaseBody {
    LeaseBody { id: id.to_string(), ttl_ms: Some(ttl_ms), remaining_ms: Some(left_ms) }
}

fn with_revision(revision: u64, body: &impl serde::Serialize) -> Answer {
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, Revision(revision));
    answer::json(StatusCode::OK, headers, body)
}

fn refused(epoch: u64, outcome: &Outcome) -> Refusal {
    Refusal::of_outcome(epoch, outcome).unwrap_or_else(|| Refusal::new(Code::Internal, format!("{outcome:?}")))
}

fn not_found(id: LeaseId) -> Refusal {
    Refusal::new(Code::LeaseNotFound, format!("the keyspace has no lease {id}"))
}
