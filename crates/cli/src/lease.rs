//! `quorate lease`: leases granted, kept alive, shown, revoked.

use bytes::Bytes;
use quorate_api::duration::format_seconds;
use quorate_api::lease::{LeaseBody, LeaseDetail, MAX_LEASE_ITEMS, format_id};
use quorate_api::text64;
use quorate_client::{Error, HeldLease};
use serde_json::json;

use crate::args::{ClientArgs, GrantArgs, KeepAliveArgs, LeaseCommand};
use crate::exit::{Exit, Failure, note};
use crate::output::{Format, Output};
use crate::printable::printable;

pub(crate) async fn run(command: LeaseCommand, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::new(client.output.unwrap_or(Format::Table));
    match command {
        LeaseCommand::Grant(args) => grant(&mut output, client, &args).await?,
        LeaseCommand::KeepAlive(args) => keep_alive(&mut output, client, &args).await?,
        LeaseCommand::List => list(&mut output, client).await?,
        LeaseCommand::Show { id, keys } => show(&mut output, client, id, keys).await?,
        LeaseCommand::Revoke { id } => revoke(&mut output, client, id).await?,
    }
    output.finish()
}

async fn grant(output: &mut Output, client: &ClientArgs, args: &GrantArgs) -> Result<(), Failure> {
    let granted = client.client().grant_lease(client.keyspace(), args.ttl, args.id).await;
    let granted = granted.map_err(|error| Failure::of_request("grant a lease", &error))?;
    let (id, ttl_ms) = (format_id(granted.id), granted.ttl.as_millis() as u64);
    match output.format {
        Format::Json => output.json(&LeaseBody { id, ttl_ms: Some(ttl_ms), remaining_ms: Some(ttl_ms) }),
        Format::Raw => output.line(id),
        Format::Table => output.line(format_args!("lease {id} lives {} s", format_seconds(ttl_ms))),
    }
}

async fn keep_alive(output: &mut Output, client: &ClientArgs, args: &KeepAliveArgs) -> Result<(), Failure> {
    let failed = |error: Error| Failure::of_repeatable(format!("keep lease {} alive", format_id(args.id)), &error);
    if args.hold {
        let held = client.client().hold_granted_lease(client.keyspace(), args.id).await.map_err(failed)?;
        return hold(output, held.ok_or_else(|| not_found(args.id, client))?).await;
    }
    let kept = client.client().keep_alive(client.keyspace(), args.id).await.map_err(failed)?;
    let kept = kept.ok_or_else(|| not_found(args.id, client))?;
    match output.format {
        Format::Json => output.json(&kept),
        _ => output.line(format_args!("lease {} lives {} s more", kept.id, format_seconds(kept.ttl_ms.unwrap_or(0)))),
    }
}

/// Until it is lost, or the command is ended.
async fn hold(output: &mut Output, held: HeldLease) -> Result<(), Failure> {
    let (id, ttl_ms) = (format_id(held.id()), held.ttl().as_millis() as u64);
    match output.format {
        Format::Json => output.json(&LeaseBody { id: id.clone(), ttl_ms: Some(ttl_ms), remaining_ms: Some(ttl_ms) })?,
        _ => output.line(format_args!("lease {id} of {} s is kept alive", format_seconds(ttl_ms)))?,
    }
    output.flush()?;
    held.lost().await;
    Err(Failure::new(Exit::NotFound, format!("lease {id} is lost: it is gone, or nobody could be asked for as long as it lives")))
}

/// Page by page, so that a list of any length takes little memory.
async fn list(output: &mut Output, client: &ClientArgs) -> Result<(), Failure> {
    let (mut cursor, mut is_first): (Option<String>, bool) = (None, true);
    loop {
        let page = client.client().leases(client.keyspace(), cursor.as_deref(), MAX_LEASE_ITEMS).await;
        let page = page.map_err(|error| Failure::of_request("list the leases", &error))?;
        match output.format {
            Format::Json => page.items.iter().try_for_each(|lease| output.json(lease))?,
            Format::Raw => page.items.iter().try_for_each(|lease| output.line(&lease.id))?,
            Format::Table if page.items.is_empty() && !is_first => {}
            Format::Table => {
                let seconds = |ms: Option<u64>| ms.map(format_seconds).unwrap_or_default();
                let row = |lease: &LeaseBody| vec![lease.id.clone(), seconds(lease.ttl_ms), seconds(lease.remaining_ms)];
                output.table(&["LEASE", "SECONDS", "LEFT"], page.items.iter().map(row))?;
            }
        }
        output.flush()?;
        (cursor, is_first) = (page.next_cursor, false);
        if cursor.is_none() {
            return Ok(());
        }
    }
}

async fn show(output: &mut Output, client: &ClientArgs, id: u64, with_keys: bool) -> Result<(), Failure> {
    let found = client.client().lease(client.keyspace(), id, with_keys).await;
    let found = found.map_err(|error| Failure::of_request(format!("show lease {}", format_id(id)), &error))?;
    let found = found.ok_or_else(|| not_found(id, client))?;
    if found.has_more_keys {
        note(format_args!("of the {} keys of lease {} only the first are shown", found.key_count, format_id(id)));
    }
    match output.format {
        Format::Json => return output.json(&found),
        Format::Raw => {
            return keys_of(&found).into_iter().try_for_each(|key| {
                output.bytes(&key)?;
                output.bytes(b"\n")
            });
        }
        Format::Table => {}
    }
    let seconds = |ms: Option<u64>| ms.map(format_seconds).unwrap_or_default();
    let mut rows = vec![
        ("lease", found.lease.id.clone()),
        ("seconds", seconds(found.lease.ttl_ms)),
        ("left", seconds(found.lease.remaining_ms)),
        ("keys", found.key_count.to_string()),
    ];
    rows.extend(keys_of(&found).iter().map(|key| ("key", printable(key))));
    output.table(&["FIELD", "VALUE"], rows.into_iter().map(|(field, value)| vec![field.to_owned(), value]))
}

/// The keys in an answer, those that are text first.
fn keys_of(found: &LeaseDetail<'_>) -> Vec<Bytes> {
    let text = found.keys.iter().flatten().map(|key| Bytes::copy_from_slice(key.as_bytes()));
    // What a newer server writes otherwise is left out.
    let base64 = found.keys64.iter().filter_map(|key| text64::decode(key).ok()).map(Bytes::from);
    text.chain(base64).collect()
}

async fn revoke(output: &mut Output, client: &ClientArgs, id: u64) -> Result<(), Failure> {
    let revoked = client.client().revoke_lease(client.keyspace(), id).await;
    let revoked = revoked.map_err(|error| Failure::of_request(format!("revoke lease {}", format_id(id)), &error))?;
    let revoked = revoked.ok_or_else(|| not_found(id, client))?;
    match output.format {
        Format::Json => output.json(&json!({ "deleted": revoked.deleted, "revision": revoked.revision })),
        _ => output.line(format_args!("revoked lease {}, with {} keys", format_id(id), revoked.deleted)),
    }
}

fn not_found(id: u64, client: &ClientArgs) -> Failure {
    Failure::new(Exit::NotFound, format!("keyspace {} has no lease {}", client.keyspace(), format_id(id)))
}
