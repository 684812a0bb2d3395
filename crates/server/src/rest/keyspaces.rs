//! Keyspaces, engines and jobs: `/v1/keyspaces...`, `/v1/engines`, `/v1/jobs...`.

use std::time::Duration;

use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::routing::{get, post};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use quorate_api::cluster::Items;
use quorate_api::key::{MAX_KEY_BYTES, SYSTEM_KEYSPACE, is_keyspace_name};
use quorate_api::keyspace::{
    Amount, Capabilities, Capability, EngineCapabilities, EngineInfo, EngineOption, KeyspaceBody, KeyspaceState, MoveBody,
    OutsideInfo,
};
use quorate_api::problem::Code;
use quorate_api::replication::{ModeInfo, ModeOption as ModeOptionBody, SyncBody};
use quorate_engine::{KINDS, Kind, OptionSpec, Unit};
use quorate_node::{DEFAULT_ENGINE, KeyspaceRecord, Mode, ModeOption};
use serde_json::{Map, Value};

use super::admin::{Result, Shared, no_parameters, ok, timeout};
use super::answer;
use super::config::RestConfig;
use super::endpoint::App;
use super::history;
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::settings::{
    SettingsPatch, amount_of, check_engine_name, engine_body, limits_body, mode_amount, parse, replication_body, retention_body,
    settings_of,
};
use super::store::{Freshness, KnownKeyspace, Store, StoreError, Synced, Syncing};

pub(super) type PathName = std::result::Result<Path<String>, PathRejection>;

/// Media types of a merge patch.
const PATCH_TYPES: [&str; 2] = ["application/json", "application/merge-patch+json"];

/// The routes.
pub(super) fn routes<S: Store>() -> Router<std::sync::Arc<App<S>>> {
    Router::new()
        .route("/v1/keyspaces", get(list::<S>))
        .route("/v1/keyspaces/{name}", get(show::<S>).put(create::<S>).patch(alter::<S>).delete(delete::<S>))
        .route("/v1/keyspaces/{name}/stats", get(stats::<S>))
        .route("/v1/keyspaces/{name}/compact", post(history::compact::<S>))
        .route("/v1/keyspaces/{name}/flush", post(flush::<S>))
        .route("/v1/keyspaces/{name}/sync", post(sync::<S>))
        .route("/v1/engines", get(engines))
        .route("/v1/replication-modes", get(modes))
        .route("/v1/jobs", get(jobs::<S>))
        .route("/v1/jobs/{id}", get(job::<S>))
}

/// Refuses what a keyspace cannot do, by name. One that is not known here may be known to others: the call that follows finds
/// out.
pub(super) fn require<S: Store>(app: &App<S>, keyspace: &str, capability: Capability) -> std::result::Result<(), Refusal> {
    if app.store.can(keyspace, capability) {
        return Ok(());
    }
    let name = capability.name();
    let detail = format!("keyspace {keyspace} does not have the capability {name}; /v1/keyspaces/{keyspace} lists what it has");
    Err(Refusal::new(Code::UnsupportedCapability, detail))
}

/// How fresh a read is to be: as asked, or else as fresh as the keyspace's replication can.
pub(super) fn freshness<S: Store>(
    app: &App<S>,
    keyspace: &str,
    treatment: &Treatment,
    headers: &HeaderMap,
) -> std::result::Result<Freshness, Refusal> {
    let told = treatment.told_linearizable(headers)?;
    let is_linearizable = match told {
        Some(false) => false,
        Some(true) => require(app, keyspace, Capability::Linearizable).map(|()| true)?,
        None => app.store.can(keyspace, Capability::Linearizable),
    };
    let min_revision = treatment.min_revision(headers)?;
    if min_revision.is_some() {
        require(app, keyspace, Capability::Revisions)?;
    }
    Ok(Freshness { is_linearizable, min_revision, asks_others: told.is_none() && !is_linearizable })
}

async fn list<S: Store>(State(app): Shared<S>, query: RawQuery, headers: HeaderMap) -> Result {
    let (freshness, timeout) = read_options(&query, &headers)?;
    let known = app.store.keyspaces(freshness, timeout).await.map_err(Refusal::of_read)?;
    Ok(ok(&Items { items: known.iter().map(|keyspace| body(keyspace, &app.config)).collect() }))
}

async fn show<S: Store>(State(app): Shared<S>, name: PathName, query: RawQuery, headers: HeaderMap) -> Result {
    let name = keyspace_name(name)?;
    let (freshness, timeout) = read_options(&query, &headers)?;
    let known = app.store.keyspace(&name, freshness, timeout).await.map_err(Refusal::of_read)?;
    Ok(ok(&body(&known, &app.config)))
}

async fn create<S: Store>(State(app): Shared<S>, name: PathName, query: RawQuery, headers: HeaderMap, sent: Bytes) -> Result {
    let name = changeable_name(name)?;
    let timeout = timeout(&query, &headers)?;
    let fields = if sent.is_empty() { Map::new() } else { json_object(&headers, &sent, &PATCH_TYPES[..1])? };
    let asked = parse(Value::Object(fields)).and_then(|body| {
        body.engine.as_ref().map_or(Ok(()), |engine| check_engine_name(&engine.kind))?;
        settings_of(body, app.config.max_keyspace_bytes)
    });
    let settings = asked.map_err(Refusal::of_settings)?;
    settings.check().map_err(Refusal::of_settings)?;
    let (is_new, known) = app.store.create_keyspace(&name, settings, timeout).await.map_err(Refusal::of_write)?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(answer::json(status, answer::headers(), &body(&known, &app.config)))
}

async fn alter<S: Store>(State(app): Shared<S>, name: PathName, query: RawQuery, headers: HeaderMap, sent: Bytes) -> Result {
    let name = changeable_name(name)?;
    let timeout = timeout(&query, &headers)?;
    let patch = json_object(&headers, &sent, &PATCH_TYPES)?;
    if let Some(Value::String(kind)) = patch.get("engine").and_then(|engine| engine.get("type")) {
        check_engine_name(kind).map_err(Refusal::of_settings)?;
    }
    let patch = SettingsPatch::new(patch, app.config.max_keyspace_bytes).map_err(Refusal::of_settings)?;
    let known = app.store.alter_keyspace(&name, patch, timeout).await.map_err(Refusal::of_write)?;
    Ok(ok(&body(&known, &app.config)))
}

async fn delete<S: Store>(State(app): Shared<S>, name: PathName, query: RawQuery, headers: HeaderMap) -> Result {
    let name = keyspace_name(name)?;
    let timeout = timeout(&query, &headers)?;
    app.store.delete_keyspace(&name, timeout).await.map_err(Refusal::of_write)?;
    Ok(answer::empty(StatusCode::NO_CONTENT, answer::headers()))
}

async fn stats<S: Store>(State(app): Shared<S>, name: PathName, query: RawQuery, headers: HeaderMap) -> Result {
    let name = keyspace_name(name)?;
    let timeout = timeout(&query, &headers)?;
    app.store.keyspace_stats(&name, timeout).await.map(|stats| ok(&stats)).map_err(Refusal::of_read)
}

async fn flush<S: Store>(State(app): Shared<S>, name: PathName, query: RawQuery, headers: HeaderMap) -> Result {
    let name = keyspace_name(name)?;
    let (mut treatment, mut rewrites, mut prunes) = (Treatment::default(), None, None);
    for parameter in parameters(query.0.as_deref()) {
        match parameter.name {
            "rewrite" => parameter.set(&mut rewrites, parameter.flag()?)?,
            "prune" => parameter.set(&mut prunes, parameter.flag()?)?,
            _ if treatment.take_write(parameter)? => {}
            _ => return Err(parameter.unknown(&["rewrite", "prune", "timeout"])),
        }
    }
    require(&app, &name, Capability::Flush)?;
    let how = Syncing::Flush { rewrites: rewrites == Some(true), prunes: prunes == Some(true) };
    sync_now(&app, &name, how, treatment.timeout(&headers)?).await
}

async fn sync<S: Store>(State(app): Shared<S>, name: PathName, query: RawQuery, headers: HeaderMap) -> Result {
    let name = keyspace_name(name)?;
    let timeout = timeout(&query, &headers)?;
    require(&app, &name, Capability::Sync)?;
    sync_now(&app, &name, Syncing::Compare, timeout).await
}

async fn sync_now<S: Store>(app: &App<S>, name: &str, how: Syncing, timeout: Duration) -> Result {
    let Synced { reached, others, stored } = app.store.sync(name, how, timeout).await.map_err(Refusal::of_read)?;
    let asked = match how {
        Syncing::Flush { rewrites: true, .. } => Some("rewrite"),
        Syncing::Flush { prunes: true, .. } => Some("prune"),
        _ => None,
    };
    if let Some(asked) = asked.filter(|_| !stored) {
        let detail = format!("{asked}: there is no store behind the replicas of keyspace {name}");
        return Err(Refusal::new(Code::UnsupportedCapability, detail));
    }
    Ok(ok(&SyncBody { reached: reached.into(), others: others.into(), stored }))
}

async fn modes(query: RawQuery) -> Result {
    no_parameters(&query)?;
    Ok(ok(&Items { items: Mode::ALL.into_iter().map(mode_info).collect() }))
}

async fn engines(query: RawQuery) -> Result {
    no_parameters(&query)?;
    let items = KINDS.iter().map(engine_info).chain(quorate_external::KINDS.iter().map(outside_info));
    Ok(ok(&Items { items: items.collect() }))
}

async fn jobs<S: Store>(State(app): Shared<S>, query: RawQuery, headers: HeaderMap) -> Result {
    let (freshness, timeout) = read_options(&query, &headers)?;
    let items = app.store.jobs(freshness, timeout).await.map_err(Refusal::of_read)?;
    Ok(ok(&Items { items }))
}

async fn job<S: Store>(State(app): Shared<S>, id: PathName, query: RawQuery, headers: HeaderMap) -> Result {
    let (freshness, timeout) = read_options(&query, &headers)?;
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let jobs = app.store.jobs(freshness, timeout).await.map_err(Refusal::of_read)?;
    let found = jobs.into_iter().find(|job| job.id.to_string() == id);
    found.map(|job| ok(&job)).ok_or_else(|| Refusal::new(Code::JobNotFound, format!("there is no job {id:?}")))
}

/// What reads of the catalog take: how fresh, and the time limit.
fn read_options(query: &RawQuery, headers: &HeaderMap) -> std::result::Result<(Freshness, Duration), Refusal> {
    let mut treatment = Treatment::default();
    for parameter in parameters(query.0.as_deref()) {
        if parameter.name == "min_revision" || !treatment.take_read(parameter)? {
            return Err(parameter.unknown(&["consistency", "timeout"]));
        }
    }
    let is_linearizable = treatment.told_linearizable(headers)?.unwrap_or(true);
    Ok((Freshness { is_linearizable, ..Freshness::LOCAL }, treatment.timeout(headers)?))
}

fn keyspace_name(name: PathName) -> std::result::Result<String, Refusal> {
    match name {
        Ok(Path(name)) if name == SYSTEM_KEYSPACE || is_keyspace_name(&name) => Ok(name),
        Ok(Path(name)) => Err(Refusal::new(Code::BadKeyspaceName, format!("{name:?} cannot be a keyspace"))),
        Err(rejection) => Err(Refusal::new(Code::BadKeyspaceName, rejection.body_text())),
    }
}

pub(super) fn changeable_name(name: PathName) -> std::result::Result<String, Refusal> {
    match keyspace_name(name)? {
        name if name == SYSTEM_KEYSPACE => Err(Refusal::of_write(StoreError::ReadOnly(name))),
        name => Ok(name),
    }
}

pub(super) fn json_object(headers: &HeaderMap, sent: &[u8], types: &[&str]) -> std::result::Result<Map<String, Value>, Refusal> {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()?.split(';').next());
    if !media_type.is_some_and(|told| types.iter().any(|known| told.trim().eq_ignore_ascii_case(known))) {
        let refusal = Refusal::new(Code::UnsupportedMediaType, format!("content-type: this route takes {}", types.join(", ")));
        return Err(refusal);
    }
    serde_json::from_slice(sent).map_err(|error| Refusal::new(Code::BadBody, error.to_string()))
}

fn body(known: &KnownKeyspace, config: &RestConfig) -> KeyspaceBody {
    let KnownKeyspace { name, record, is_ready } = known;
    let longest = record.limits.max_key_bytes.unwrap_or(u64::MAX).min(MAX_KEY_BYTES as u64);
    let largest = record.limits.max_value_bytes.unwrap_or(u64::MAX).min(config.max_value_bytes);
    KeyspaceBody {
        name: name.clone(),
        engine: engine_body(&record.engine),
        replication: replication_body(&record.replication),
        ttl: record.ttl_ms.map(Amount::of_milliseconds),
        limits: limits_body(&record.limits),
        retention: record.retention().as_ref().map(retention_body),
        state: match (record.is_restoring, is_ready) {
            (true, _) => KeyspaceState::Restoring,
            (false, true) => KeyspaceState::Ready,
            (false, false) => KeyspaceState::Starting,
        },
        capabilities: Capabilities::of(|capability| record.can(capability), longest, largest),
        epoch: record.epoch,
        created_at: point_in_time(record.created_ms),
        running_move: move_body(record),
    }
}

fn move_body(record: &KeyspaceRecord) -> Option<MoveBody> {
    let last = record.last_move.as_ref().filter(|_| record.is_moving())?;
    let replicas = record.staying_replicas();
    Some(MoveBody {
        job: last.job,
        from: engine_body(&last.from),
        to: engine_body(&record.engine),
        done_replicas: replicas.clone().filter(|replica| !replica.has_to_move()).count() as u64,
        replicas: replicas.count() as u64,
    })
}

/// Milliseconds since 1970, as people read them; none of 0.
pub(crate) fn point_in_time(ms: u64) -> Option<String> {
    let time = std::time::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).filter(|_| (1..=LAST_POINT_MS).contains(&ms))?;
    Some(humantime::format_rfc3339_millis(time).to_string())
}

/// The end of the year 9999: what comes later has no such form.
const LAST_POINT_MS: u64 = 253_402_300_799_999;

fn engine_info(kind: &Kind) -> EngineInfo {
    let capabilities = kind.capabilities;
    EngineInfo {
        kind: kind.name.to_owned(),
        summary: kind.summary.to_owned(),
        is_default: kind.name == DEFAULT_ENGINE,
        replication: Mode::ALL
            .into_iter()
            .filter(|mode| mode.is_possible_with(kind))
            .map(|mode| mode.name().to_owned())
            .collect(),
        capabilities: EngineCapabilities {
            ordered: capabilities.ordered,
            durable: capabilities.durable,
            pinned_views: capabilities.pinned_views,
            evicts: capabilities.evicts,
        },
        options: kind.options.iter().map(engine_option).collect(),
        outside: None,
    }
}

/// A kind of store outside. What all of them have in common is told of each.
fn outside_info(kind: &quorate_external::Kind) -> EngineInfo {
    let can = (kind.capabilities)();
    // With any other than none it stands behind replicas of each node, in an engine that is on a disk.
    let behind = quorate_engine::kind(quorate_external::DEFAULT_LOCAL).filter(|_| can.writable);
    let is_possible = |mode: &Mode| *mode == Mode::None || behind.is_some_and(|engine| mode.is_possible_with(engine));
    let modes = Mode::ALL.into_iter().filter(is_possible);
    let option = |(name, help): &(&str, &str)| EngineOption {
        name: (*name).to_owned(),
        unit: "text".to_owned(),
        default: None,
        min: None,
        max: None,
        help: (*help).to_owned(),
    };
    EngineInfo {
        kind: kind.name.to_owned(),
        summary: kind.summary.to_owned(),
        is_default: false,
        replication: modes.map(|mode| mode.name().to_owned()).collect(),
        capabilities: EngineCapabilities { ordered: can.ordered, durable: true, pinned_views: false, evicts: false },
        options: kind.options.iter().chain(&quorate_external::common_options(kind)).map(option).collect(),
        outside: Some(OutsideInfo {
            writes: can.writable,
            lists: can.listable,
            conditions: can.comparing.name().to_owned(),
            expiry: can.expiry.name().to_owned(),
            max_value_bytes: can.max_value_bytes,
            max_key_bytes: can.max_key_bytes as u64,
            example: kind.example.split_whitespace().collect::<Vec<_>>().join(" "),
        }),
    }
}

fn engine_option(option: &OptionSpec) -> EngineOption {
    let unit = match option.unit {
        Unit::Bytes => "bytes",
        Unit::Count => "count",
        Unit::Milliseconds => "milliseconds",
    };
    EngineOption {
        name: option.name.to_owned(),
        unit: unit.to_owned(),
        default: option.default.map(|value| amount_of(option, value)),
        min: Some(amount_of(option, option.min)),
        max: (option.max < u64::MAX).then(|| amount_of(option, option.max)),
        help: option.help.to_owned(),
    }
}

fn mode_info(mode: Mode) -> ModeInfo {
    let option = |option: &ModeOption| ModeOptionBody {
        name: option.name.to_owned(),
        values: option.form.to_string(),
        default: Some(mode_amount(option.form, option.default)).filter(|default| *default != Amount::Text(String::new())),
        help: option.help.to_owned(),
    };
    ModeInfo {
        mode: mode.name().to_owned(),
        summary: mode.summary().to_owned(),
        is_default: mode == Mode::default(),
        engines: {
            let inside = KINDS.iter().filter(|kind| mode.is_possible_with(kind)).map(|kind| kind.name);
            let outside = quorate_external::KINDS.iter().filter(|_| mode == Mode::None).map(|kind| kind.name);
            inside.chain(outside).map(str::to_owned).collect()
        },
        options: mode.options().map(option).collect(),
    }
}
