//! `quorate keyspace` and `quorate engines`: keyspaces made, altered, deleted, shown.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use quorate_api::keyspace::{
    Amount, CacheFigures, Capabilities, Capability, CompactedBody, EngineBody, EngineInfo, EngineOption, KeyspaceBody,
    KeyspaceState, LimitsBody, ReplicationBody, RetentionBody, Setting, SettingsBody, WatchScope,
};
use quorate_api::outside::{BehindBody, FrontCacheFigures, OutsideStats, StoreCallFigures};
use quorate_api::problem::Code;
use quorate_api::quantity::format_bytes;
use quorate_client::{Error, FlushOptions, GetOptions, Selection};
use serde_json::{Map, Value, json};

use crate::args::{AlterArgs, ClientArgs, CompactArgs, CreateArgs, DeleteArgs, EngineArgs, KeyspaceCommand, SettingsArgs};
use crate::engine_move;
use crate::exit::Failure;
use crate::output::{Format, Output};
use crate::replication;

/// What takes a setting away.
const NONE: &str = "none";

pub(crate) async fn run(command: KeyspaceCommand, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    match command {
        KeyspaceCommand::Create(args) => create(&mut output, client, args).await?,
        KeyspaceCommand::List => list(&mut output, client).await?,
        KeyspaceCommand::Show { name } => show(&mut output, client, &name).await?,
        KeyspaceCommand::Stats { name } => stats(&mut output, client, &name).await?,
        KeyspaceCommand::Alter(args) => alter(&mut output, client, args).await?,
        KeyspaceCommand::Compact(args) => compact(&mut output, client, args).await?,
        KeyspaceCommand::Replicas(args) => replication::replicas(&mut output, client, args).await?,
        KeyspaceCommand::Flush { name, rewrite, prune } => {
            replication::flush(&mut output, client, &name, FlushOptions { rewrite, prune }).await?;
        }
        KeyspaceCommand::Sync { name } => replication::sync(&mut output, client, &name).await?,
        KeyspaceCommand::Delete(args) => delete(&mut output, client, args).await?,
    }
    output.finish()
}

pub(crate) async fn engines(client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let engines = client.client().engines().await.map_err(|error| Failure::of_request("list the engines", &error))?;
    if output.format == Format::Json {
        output.json(&json!({ "items": engines }))?;
        return output.finish();
    }
    let row = |engine: &EngineInfo| {
        let what = [
            (engine.capabilities.ordered, "ordered"),
            (engine.capabilities.durable && engine.outside.is_none(), "on disk"),
            (engine.outside.is_some(), "outside"),
            (engine.outside.as_ref().is_some_and(|outside| !outside.writes), "read-only"),
            (engine.capabilities.evicts, "evicts"),
            (engine.is_default, "default"),
        ];
        let what: Vec<&str> = what.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word).collect();
        vec![engine.kind.clone(), what.join(", "), engine.replication.join(", "), engine.summary.clone()]
    };
    output.table(&["ENGINE", "IS", "REPLICATION", "WHAT FOR"], engines.iter().map(row))?;
    let options: Vec<Vec<String>> =
        engines.iter().flat_map(|engine| engine.options.iter().map(|option| option_row(&engine.kind, option))).collect();
    if !options.is_empty() {
        output.line("")?;
        output.table(&["ENGINE", "OPTION", "DEFAULT", "FROM", "TO", "WHAT IT DOES"], options)?;
    }
    output.finish()
}

async fn create(output: &mut Output, client: &ClientArgs, args: CreateArgs) -> Result<(), Failure> {
    let CreateArgs { name, engine, mode, mode_options, settings } = args;
    if mode.is_none() && !mode_options.is_empty() {
        return Err(Failure::usage("--mode-option needs --mode: options belong to a mode"));
    }
    let mode_options = mode_options.into_iter().map(|(name, value)| (name, amount(value))).collect();
    if engine.engine.is_none() && !engine.options.is_empty() {
        return Err(Failure::usage("--option needs --engine: options belong to an engine"));
    }
    let options = settings_of(engine.options)?;
    let asked = SettingsBody {
        engine: engine.engine.map(|kind| EngineBody { kind, options }),
        replication: mode.map(|mode| ReplicationBody { mode, options: mode_options }),
        ttl: given(settings.ttl),
        limits: limits(settings.max_bytes, settings.max_key_bytes, settings.max_value_bytes),
        retention: retention(settings.retention_revisions, settings.retention_age, settings.retention_bytes),
    };
    let made = client.client().create_keyspace(&name, &asked).await;
    let (is_new, keyspace) = made.map_err(|error| Failure::of_request(format!("make keyspace {name}"), &error))?;
    if output.format == Format::Json {
        return output.json(&keyspace);
    }
    let what = if is_new { "created" } else { "unchanged: it was there, with these settings" };
    let on = format!("{}, replication {}", shown_engine(&keyspace.engine), shown_replication(&keyspace.replication));
    output.line(format_args!("keyspace {name} {what} (engine {on})"))?;
    if keyspace.state == KeyspaceState::Starting {
        output.line("it is not ready yet: no leader was found within the time limit")?;
    }
    Ok(())
}

async fn list(output: &mut Output, client: &ClientArgs) -> Result<(), Failure> {
    let keyspaces = client.client().keyspaces().await.map_err(|error| Failure::of_request("list the keyspaces", &error))?;
    if output.format == Format::Json {
        return output.json(&json!({ "items": keyspaces }));
    }
    let row = |keyspace: &KeyspaceBody| {
        vec![
            keyspace.name.clone(),
            shown_engine(&keyspace.engine),
            shown_replication(&keyspace.replication),
            shown_bytes(keyspace.limits.max_bytes.as_ref()),
            shown_amount(keyspace.ttl.as_ref()),
            shown_state(keyspace),
        ]
    };
    output.table(&["KEYSPACE", "ENGINE", "REPLICATION", "MAX BYTES", "TTL", "STATE"], keyspaces.iter().map(row))
}

async fn show(output: &mut Output, client: &ClientArgs, name: &str) -> Result<(), Failure> {
    let keyspace = client.client().keyspace(name).await;
    let keyspace = keyspace.map_err(|error| Failure::of_request(format!("show keyspace {name}"), &error))?;
    if output.format == Format::Json {
        return output.json(&keyspace);
    }
    let rows = [
        ("name", keyspace.name.clone()),
        ("engine", shown_engine(&keyspace.engine)),
        ("replication", shown_replication(&keyspace.replication)),
        ("state", shown_state(&keyspace)),
        ("ttl", shown_amount(keyspace.ttl.as_ref())),
        ("max bytes", shown_bytes(keyspace.limits.max_bytes.as_ref())),
        ("history", shown_retention(keyspace.retention.as_ref())),
        ("longest key", format_bytes(keyspace.capabilities.max_key_bytes)),
        ("largest value", format_bytes(keyspace.capabilities.max_value_bytes)),
        ("consistency", keyspace.capabilities.consistency.join(", ")),
        ("can do", shown_capabilities(&keyspace.capabilities)),
        ("created", keyspace.created_at.clone().unwrap_or_default()),
        ("epoch", keyspace.epoch.to_string()),
    ];
    output.table(&["FIELD", "VALUE"], rows.into_iter().map(|(field, value)| vec![field.to_owned(), value]))
}

async fn stats(output: &mut Output, client: &ClientArgs, name: &str) -> Result<(), Failure> {
    let stats = client.client().keyspace_stats(name).await;
    let stats = stats.map_err(|error| Failure::of_request(format!("read the stats of keyspace {name}"), &error))?;
    if output.format == Format::Json {
        return output.json(&stats);
    }
    let mut rows = vec![
        ("node", stats.served_by.clone()),
        ("engine", stats.engine.clone()),
        ("keys", stats.keys.to_string()),
        ("bytes", format_bytes(stats.data_bytes)),
    ];
    for replica in &stats.replicas {
        rows.extend([
            ("group", replica.group.to_string()),
            ("role", replica.role.clone()),
            ("leader", replica.leader.clone().unwrap_or_else(|| "unknown".to_owned())),
            ("caught up", if replica.is_caught_up { "yes" } else { "no" }.to_owned()),
            ("voters", replica.voters.join(", ")),
            ("learners", replica.learners.join(", ")),
            ("revision", replica.revision.to_string()),
            ("history", format!("{}, since revision {}", format_bytes(replica.history_bytes), replica.compacted_revision)),
            ("term", replica.term.to_string()),
            ("applied", format!("{} of {}", replica.applied_index, replica.commit_index)),
            ("log", format!("{}-{}", replica.first_index, replica.last_index)),
        ]);
    }
    for replica in &stats.eventual {
        rows.extend(replication::rows(replica));
    }
    rows.extend(stats.cache.as_ref().map(cache_rows).into_iter().flatten());
    rows.extend(stats.behind.as_ref().map(behind_rows).into_iter().flatten());
    if let Some(outside) = &stats.outside {
        // Nobody counts what is in a store outside.
        rows.retain(|(field, _)| !["keys", "bytes"].contains(field));
        rows.extend(outside_rows(outside));
    }
    output.table(&["FIELD", "VALUE"], rows.into_iter().map(|(field, value)| vec![field.to_owned(), value]))
}

fn outside_rows(outside: &OutsideStats) -> Vec<(&'static str, String)> {
    let state = match (outside.is_open, outside.is_reachable) {
        (false, _) => "not open at this node",
        (true, false) => "open, and does not answer as it should",
        (true, true) => "reachable",
    };
    let mut rows = vec![("store", state.to_owned())];
    rows.extend(outside.error.clone().map(|error| ("error", error)));
    rows.extend(outside.cache.into_iter().flat_map(|FrontCacheFigures { hits, stale, fetched, joined }| {
        let count = |number: u64| number.to_string();
        [("hits", count(hits)), ("stale", count(stale)), ("fetched", count(fetched)), ("joined", count(joined))]
    }));
    let used = outside.calls.iter().filter(|calls| calls.ended + calls.in_flight > 0);
    rows.extend(used.map(|calls| ("calls", calls_told(calls))));
    rows
}

fn behind_rows(behind: &BehindBody) -> Vec<(&'static str, String)> {
    let bytes = |bytes| format_bytes(bytes);
    let more = if behind.is_spilled { " and more" } else { "" };
    let (waiting, max) = (bytes(behind.waiting_bytes), bytes(behind.max_waiting_bytes));
    let mut rows = vec![
        ("waiting for the store", format!("{} keys{more}, {waiting} of {max}", behind.waiting_keys)),
        ("written to it", format!("{}, and spared {}", behind.written, behind.coalesced)),
    ];
    if behind.oldest_ms > 0 {
        rows.push(("waiting since", format!("{:.1} s", behind.oldest_ms as f64 / 1000.0)));
    }
    if behind.refused_keys > 0 {
        rows.push(("refused by it", format!("{} keys", behind.refused_keys)));
    }
    rows.extend(behind.error.clone().map(|error| ("error", error)));
    rows.extend(behind.calls.iter().filter(|calls| calls.ended > 0).map(|calls| ("calls", calls_told(calls))));
    rows
}

/// Such as `get: 12 in 3.4 ms each; 1 under way; failed: store_timed_out 2`.
fn calls_told(calls: &StoreCallFigures) -> String {
    let mut told = vec![format!("{}: {}", calls.call, calls.ended)];
    if let Some(mean_us) = calls.total_us.checked_div(calls.ended) {
        told[0] = format!("{} in {:.1} ms each", told[0], mean_us as f64 / 1000.0);
    }
    if calls.in_flight > 0 {
        told.push(format!("{} under way", calls.in_flight));
    }
    if !calls.failed.is_empty() {
        let failed: Vec<String> = calls.failed.iter().map(|(code, count)| format!("{code} {count}")).collect();
        told.push(format!("failed: {}", failed.join(", ")));
    }
    told.join("; ")
}

fn cache_rows(cache: &CacheFigures) -> Vec<(&'static str, String)> {
    let percent = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{:.1} %", 100.0 * ratio));
    let gone: Vec<String> = cache.gone.named().into_iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    vec![
        ("hits", cache.hits.to_string()),
        ("misses", cache.misses.to_string()),
        ("hit ratio", percent(cache.hit_ratio)),
        ("last minute", percent(cache.recent_hit_ratio)),
        ("gone", gone.join(", ")),
        ("room taken", format!("{} of {}", format_bytes(cache.weight_bytes), format_bytes(cache.max_bytes))),
    ]
}

async fn alter(output: &mut Output, client: &ClientArgs, args: AlterArgs) -> Result<(), Failure> {
    let AlterArgs { name, engine, mode_options, settings, no_wait } = args;
    let mut patch = patch(engine, settings);
    if !mode_options.is_empty() {
        let options: Map<String, Value> = mode_options.into_iter().map(|(name, value)| (name, option_or_null(value))).collect();
        patch.insert("replication".to_owned(), Value::from(options));
    }
    if patch.is_empty() {
        return Err(Failure::usage("nothing to alter: name a limit, --ttl, a --retention, --engine, --option or --mode-option"));
    }
    let asked = client.client();
    let altered = asked.alter_keyspace(&name, &patch).await;
    let altered = altered.map_err(|error| Failure::of_request(format!("alter keyspace {name}"), &error))?;
    if let Some(running) = altered.running_move.as_ref().filter(|_| !no_wait) {
        engine_move::wait(&asked, &name, running).await?;
    }
    match (output.format, &altered.running_move) {
        (Format::Json, _) if no_wait || altered.running_move.is_none() => output.json(&altered),
        (Format::Json, _) => {
            let moved = asked.keyspace(&name).await;
            output.json(&moved.map_err(|error| Failure::of_request(format!("show keyspace {name}"), &error))?)
        }
        (_, Some(running)) if no_wait => {
            output.line(format_args!("keyspace {name} moves to {} as job {}", shown_engine(&running.to), running.job))
        }
        (_, Some(running)) => {
            output.line(format_args!("keyspace {name} moved from {} to {}", running.from.kind, shown_engine(&running.to)))
        }
        (_, None) => output.line(format_args!("keyspace {name} altered")),
    }
}

async fn compact(output: &mut Output, client: &ClientArgs, args: CompactArgs) -> Result<(), Failure> {
    let CompactArgs { name, revision, physical } = &args;
    let failed = |error: &Error| Failure::of_request(format!("compact keyspace {name}"), error);
    let asked = client.client();
    let revision = match revision {
        Some(revision) => *revision,
        None => {
            let nothing = Selection { prefix: Vec::new(), start: None, end: Some(vec![0]) };
            asked.count(name, &nothing, &GetOptions::default()).await.map_err(|error| failed(&error))?.revision
        }
    };
    let (compacted, is_new) = match asked.compact(name, revision, *physical).await {
        // Whoever names no revision wants nothing older than the present one, and that is so.
        Err(error) if args.revision.is_none() && error.code() == Some(Code::Compacted.facts().code) => {
            (CompactedBody { compacted_revision: revision, revision, is_swept: false }, false)
        }
        compacted => (compacted.map_err(|error| failed(&error))?, true),
    };
    if output.format == Format::Json {
        return output.json(&compacted);
    }
    if !is_new {
        return output.line(format_args!("keyspace {name} is compacted to revision {revision}, the present one, already"));
    }
    output.line(format_args!("keyspace {name} compacted to revision {}", compacted.compacted_revision))?;
    match *physical {
        true if compacted.is_swept => output.line("what only older revisions needed is gone"),
        true => output.line("what only older revisions needed is not all gone yet: that goes on"),
        false => Ok(()),
    }
}

async fn delete(output: &mut Output, client: &ClientArgs, args: DeleteArgs) -> Result<(), Failure> {
    let DeleteArgs { name, yes } = args;
    if !yes {
        confirm(&name)?;
    }
    let deleted = client.client().delete_keyspace(&name).await;
    deleted.map_err(|error| Failure::of_request(format!("delete keyspace {name}"), &error))?;
    match output.format {
        Format::Json => output.json(&json!({ "deleted": name })),
        _ => output.line(format_args!("keyspace {name} deleted")),
    }
}

/// Asks whoever sits there; where nobody does, it must have been said before.
fn confirm(name: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!("deleting keyspace {name} takes all its keys along: say --yes if that is meant")));
    }
    let mut stderr = io::stderr();
    write!(stderr, "Delete keyspace {name} with all its keys? Type its name to go on: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::failed(format!("cannot read the answer: {error}")))?;
    if answer.trim() == name { Ok(()) } else { Err(Failure::failed("nothing was deleted")) }
}

/// What is asked of a keyspace that is there, as a merge patch: null takes away.
fn patch(engine: EngineArgs, settings: SettingsArgs) -> Map<String, Value> {
    let mut patch = Map::new();
    let mut engine_fields: Map<String, Value> =
        engine.options.into_iter().map(|(name, value)| (name, value_or_null(value))).collect();
    engine_fields.extend(engine.engine.map(|kind| ("type".to_owned(), Value::from(kind))));
    if !engine_fields.is_empty() {
        patch.insert("engine".to_owned(), Value::from(engine_fields));
    }
    patch.extend(settings.ttl.map(|ttl| ("ttl".to_owned(), value_or_null(ttl))));
    let limits = [
        ("max_bytes", settings.max_bytes),
        ("max_key_bytes", settings.max_key_bytes),
        ("max_value_bytes", settings.max_value_bytes),
    ];
    let limits: Map<String, Value> =
        limits.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value_or_null(value?)))).collect();
    if !limits.is_empty() {
        patch.insert("limits".to_owned(), Value::from(limits));
    }
    let retention =
        [("revisions", settings.retention_revisions), ("age", settings.retention_age), ("bytes", settings.retention_bytes)];
    let retention: Map<String, Value> =
        retention.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value_or_null(value?)))).collect();
    if !retention.is_empty() {
        patch.insert("retention".to_owned(), Value::from(retention));
    }
    patch
}

fn value_or_null(text: String) -> Value {
    if text == NONE { Value::Null } else { Value::from(text) }
}

/// The same of an option of a mode, some of which take words and numbers.
fn option_or_null(text: String) -> Value {
    match text.parse::<u64>() {
        Ok(number) => Value::from(number),
        Err(_) => value_or_null(text),
    }
}

/// Options of an engine; dots lead into objects, as in `cache.ttl=10s`.
fn settings_of(options: Vec<(String, String)>) -> Result<BTreeMap<String, Setting>, Failure> {
    let mut settings = BTreeMap::new();
    for (name, value) in options {
        let mut fields = &mut settings;
        let mut parts: Vec<&str> = name.split('.').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            let inner = fields.entry(part.to_owned()).or_insert_with(|| Setting::Fields(BTreeMap::new()));
            let Setting::Fields(inner) = inner else {
                return Err(Failure::usage(format!("--option {name}: {part} is given as a value, too")));
            };
            fields = inner;
        }
        fields.insert(last.to_owned(), amount(value).into());
    }
    Ok(settings)
}

fn amount(text: String) -> Amount {
    text.parse().map_or(Amount::Text(text), Amount::Number)
}

/// What was given and is not taken away.
fn given(text: Option<String>) -> Option<Amount> {
    text.filter(|text| text != NONE).map(amount)
}

fn limits(max_bytes: Option<String>, max_key_bytes: Option<String>, max_value_bytes: Option<String>) -> Option<LimitsBody> {
    let limits =
        LimitsBody { max_bytes: given(max_bytes), max_key_bytes: given(max_key_bytes), max_value_bytes: given(max_value_bytes) };
    (limits != LimitsBody::default()).then_some(limits)
}

fn retention(revisions: Option<String>, age: Option<String>, bytes: Option<String>) -> Option<RetentionBody> {
    let retention = RetentionBody { revisions: given(revisions), age: given(age), bytes: given(bytes) };
    (retention != RetentionBody::default()).then_some(retention)
}

fn shown_retention(retention: Option<&RetentionBody>) -> String {
    match retention {
        None => "none".to_owned(),
        Some(RetentionBody { revisions, age, bytes }) => format!(
            "{} revisions, {}, {}; whichever is less",
            shown_amount(revisions.as_ref()),
            shown_amount(age.as_ref()),
            shown_bytes(bytes.as_ref())
        ),
    }
}

/// An engine and its options, as in `cache max_bytes=64MiB`.
pub(crate) fn shown_engine(engine: &EngineBody) -> String {
    let mut shown = engine.kind.clone();
    show_options("", &engine.options, &mut shown);
    shown
}

/// Options of options are named with dots, as they are given.
fn show_options(within: &str, options: &BTreeMap<String, Setting>, shown: &mut String) {
    for (name, value) in options {
        match value {
            Setting::Fields(fields) => show_options(&format!("{within}{name}."), fields, shown),
            Setting::Amount(amount) => {
                let value = if name.ends_with("_bytes") { shown_bytes(Some(amount)) } else { shown_amount(Some(amount)) };
                shown.extend([" ", within, name, "=", &value.replace(' ', "")]);
            }
        }
    }
}

/// A mode and its options, as in `push ack=1`.
fn shown_replication(replication: &ReplicationBody) -> String {
    let options = replication.options.iter().map(|(name, value)| format!(" {name}={}", shown_amount(Some(value))));
    replication.mode.clone() + &options.collect::<String>()
}

fn shown_amount(amount: Option<&Amount>) -> String {
    match amount {
        None => String::new(),
        Some(Amount::Number(number)) => number.to_string(),
        Some(Amount::Text(text)) => text.clone(),
    }
}

fn shown_bytes(amount: Option<&Amount>) -> String {
    match amount {
        Some(Amount::Number(bytes)) => format_bytes(*bytes),
        other => shown_amount(other),
    }
}

fn shown_state(keyspace: &KeyspaceBody) -> String {
    let state = match keyspace.state {
        KeyspaceState::Ready => "ready",
        KeyspaceState::Starting => "starting",
        KeyspaceState::Restoring => "restoring",
    };
    match &keyspace.running_move {
        None => state.to_owned(),
        Some(running) => {
            format!("{state}, moving from {} ({} of {} replicas)", running.from.kind, running.done_replicas, running.replicas)
        }
    }
}

fn shown_capabilities(capabilities: &Capabilities) -> String {
    let can = Capability::ALL.into_iter().filter(|capability| capabilities.can(*capability));
    let name = |capability: Capability| match capability {
        Capability::Watch if capabilities.watch_scope == Some(WatchScope::Node) => "watch (per node)",
        capability => capability.name(),
    };
    can.map(name).collect::<Vec<_>>().join(", ")
}

fn option_row(engine: &str, option: &EngineOption) -> Vec<String> {
    let shown = |amount: Option<&Amount>| match option.unit.as_str() {
        "bytes" => shown_bytes(amount),
        _ => shown_amount(amount),
    };
    vec![
        engine.to_owned(),
        option.name.clone(),
        shown(option.default.as_ref()),
        shown(option.min.as_ref()),
        shown(option.max.as_ref()),
        option.help.clone(),
    ]
}
