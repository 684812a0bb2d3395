//! Backups: `GET /v1/snapshot`, written while it is sent, keyspace by keyspace, each as of one revision.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderValue, Response};
use http_body_util::Either;
use quorate_api::backup::{BackupHead, BackupLease, BackupPair, BackupWriter, KeyspaceHead, MEDIA_TYPE};
use quorate_api::key::SYSTEM_KEYSPACE;
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_engine::{Direction, KeyRange, Table, View};
use quorate_node::KeyspaceSettings;
use quorate_node::keyspace::{LeaseId, Record, Revision, ShardError, check_revision, lease, leases, log_time_of, pairs_at};
use tokio::runtime::Handle;

use super::answer::{self, AnswerBody};
use super::deadline::Deadline;
use super::endpoint::{App, keyspace_name};
use super::keyspaces::require;
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::scans::{Cost, Pieces};
use super::settings::body_of;
use super::store::{Freshness, KnownKeyspace, Reading, Store};

pub(super) const METHODS: &str = "GET, HEAD, PUT";

/// Leases of a block.
const LEASES_PER_BLOCK: usize = 4096;

/// What a backup or a restore asks for.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) treatment: Treatment,
    pub(super) keyspaces: Option<Vec<String>>,
    /// Only of a backup.
    pub(super) revision: Option<u64>,
}

/// Why a backup ends before its end.
enum Stop {
    /// Nobody reads it any more.
    Gone,
    /// This is told to who reads it.
    Refused(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ShardError> for Stop {
    fn from(error: ShardError) -> Self {
        Self::Refused(error.into())
    }
}

pub(super) async fn answer<S: Store>(app: &Arc<App<S>>, head: &Parts) -> Result<Response<AnswerBody>, Refusal> {
    let options = Options::parse(head.uri.query())?;
    let timeout = options.treatment.timeout(&head.headers)?;
    let pinned = options.revision.map(Revision);
    let is_one = options.keyspaces.as_ref().is_some_and(|keyspaces| keyspaces.len() == 1);
    if pinned.is_some() && !is_one {
        return Err(Refusal::new(Code::BadParameter, "revision: each keyspace has its own, so `ks` must name one"));
    }
    let keyspaces = chosen(app, options.keyspaces, timeout).await?;
    if let (Some(pinned), Some((name, _))) = (pinned, keyspaces.first()) {
        require(app, name, Capability::History)?;
        let reading = app.store.read(name, Freshness::LATEST, timeout).await.map_err(Refusal::of_read)?;
        check_revision(&*reading.view, pinned).map_err(Refusal::of_past)?;
    }
    let head = BackupHead {
        cluster: app.store.cluster().id,
        node: app.config.node_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        keyspaces: keyspaces.iter().map(|(name, _)| name.clone()).collect(),
    };
    let (shared, runtime) = (Arc::clone(app), Handle::current());
    let backup = move |pieces: &mut Pieces| {
        let (mut writer, begin) = BackupWriter::begin(&head);
        let done = send(pieces, begin).and_then(|()| {
            keyspaces.iter().try_for_each(|(name, settings)| {
                let reading = runtime.block_on(shared.store.read(name, Freshness::LATEST, timeout));
                write_keyspace((name, settings), &reading.map_err(Refusal::of_read)?, pinned, &mut writer, pieces)
            })
        });
        let last = match done {
            Ok(()) => writer.end(),
            Err(Stop::Refused(refusal)) => writer.fail(&refusal.into_part(false)),
            Err(Stop::Gone) => return,
        };
        // Nothing comes after it: whether somebody reads it still does not matter.
        let _ = pieces.send(last);
    };
    let stream = app.scans.stream(Cost::Returned, Deadline::after(timeout), backup).await?;
    let mut answer = Response::new(Either::Right(axum::body::Body::new(stream)));
    *answer.headers_mut() = answer::headers();
    answer::insert_sandbox(answer.headers_mut());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    Ok(answer)
}

/// The keyspaces that are asked for, with their settings; without a choice, all that can be backed up.
async fn chosen<S: Store>(
    app: &App<S>,
    asked: Option<Vec<String>>,
    timeout: Duration,
) -> Result<Vec<(String, KeyspaceSettings)>, Refusal> {
    let known = app.store.keyspaces(Freshness::LATEST, timeout).await.map_err(Refusal::of_read)?;
    let with_settings = |known: &KnownKeyspace| (known.name.clone(), known.record.settings());
    let Some(asked) = asked else {
        let can = |known: &&KnownKeyspace| {
            known.name != SYSTEM_KEYSPACE && !known.record.is_restoring && known.record.can(Capability::Snapshot)
        };
        return Ok(known.iter().filter(can).map(with_settings).collect());
    };
    let find = |name: String| match known.iter().find(|known| known.name == name) {
        Some(known) if known.record.can(Capability::Snapshot) => Ok(with_settings(known)),
        Some(_) => {
            Err(Refusal::new(Code::UnsupportedCapability, format!("keyspace {name} does not have the capability snapshot")))
        }
        None => Err(Refusal::new(Code::KeyspaceNotFound, format!("keyspace {name} not found"))),
    };
    asked.into_iter().map(find).collect()
}

/// The keyspace as it is, or as it was at a revision.
fn write_keyspace(
    (name, settings): (&str, &KeyspaceSettings),
    reading: &Reading,
    pinned: Option<Revision>,
    writer: &mut BackupWriter,
    pieces: &mut Pieces,
) -> Result<(), Stop> {
    let view = reading.view.as_ref();
    let revision = pinned.map_or_else(|| view.revision(), |pinned| pinned.0);
    send(pieces, writer.keyspace(&KeyspaceHead { name: name.to_owned(), settings: body_of(settings), revision }))?;
    write_leases(view, writer, pieces)?;
    let mut write = |key, record, now_ms| match writer.pair(&pair_of(key, record, now_ms)) {
        Some(block) => send(pieces, block),
        None => Ok(()),
    };
    match pinned {
        None => {
            for item in view.pairs(Table::Current) {
                let (key, record) = item.map_err(ShardError::from)?;
                write(key, Record::decode(record).map_err(ShardError::from)?, reading.now_ms)?;
            }
        }
        Some(pinned) => {
            // What goes by itself has as long to live as it had then, as far as it is known when that was.
            let then_ms = log_time_of(view, pinned)?.unwrap_or(reading.now_ms);
            for item in pairs_at(view, &KeyRange::all(), Direction::Forward, pinned).map_err(Refusal::of_past)? {
                let (key, record) = item?;
                // What hung on a lease that has ended since was its promise, and is not given without it.
                let has_ended = match record.lease {
                    Some(id) => lease(view, id)?.is_none(),
                    None => false,
                };
                if !has_ended {
                    write(key, record, then_ms)?;
                }
            }
        }
    }
    send(pieces, writer.end_keyspace())
}

fn write_leases(view: &dyn View, writer: &mut BackupWriter, pieces: &mut Pieces) -> Result<(), Stop> {
    let mut after: Option<LeaseId> = None;
    loop {
        let found = leases(view, after, LEASES_PER_BLOCK)?;
        let Some(last) = found.last() else { return Ok(()) };
        after = Some(last.id);
        let told: Vec<BackupLease> = found.iter().map(|lease| BackupLease { id: lease.id.0, ttl_ms: lease.ttl_ms }).collect();
        send(pieces, writer.leases(&told))?;
    }
}

fn pair_of(key: Bytes, record: Record, now_ms: u64) -> BackupPair {
    let Record { content_type, user_meta, expires_at_ms, lease, value, .. } = record;
    // What is due and not gone yet goes as soon as it is back.
    let ttl_ms = expires_at_ms.map(|end_ms| end_ms.get().saturating_sub(now_ms).max(1));
    BackupPair { key, value, content_type, ttl_ms, lease: lease.map(|lease| lease.0), meta: user_meta }
}

fn send(pieces: &mut Pieces, block: Bytes) -> Result<(), Stop> {
    if pieces.send(block) { Ok(()) } else { Err(Stop::Gone) }
}

impl Options {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for parameter in parameters(query) {
            match parameter.name {
                "ks" => {
                    let names = parameter.text()?;
                    let named = names.split(',').map(|name| keyspace_name(name, &http::Method::PUT).map(Cow::into_owned));
                    let mut keyspaces: Vec<String> = named.collect::<Result<_, _>>()?;
                    keyspaces.sort();
                    keyspaces.dedup();
                    parameter.set(&mut options.keyspaces, keyspaces)?;
                }
                "revision" => parameter.set(&mut options.revision, parameter.number()?)?,
                _ if options.treatment.take_write(parameter)? => {}
                _ => return Err(parameter.unknown(&["ks", "revision", "timeout"])),
            }
        }
        Ok(options)
    }
}
