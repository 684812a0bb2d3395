//! `quorate modes`, and of `quorate keyspace` what is about eventual keyspaces: `replicas`, `flush`, `sync`.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use quorate_api::keyspace::Amount;
use quorate_api::quantity::format_bytes;
use quorate_api::replication::{EventualPeer, EventualStats, ModeInfo, ModeOption, SyncBody};
use quorate_client::{Client, FlushOptions, Options};
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::{ClientArgs, ReplicasArgs};
use crate::exit::Failure;
use crate::output::{Format, Output};

/// How long one node may keep all others from being shown.
const NODE_TIME_LIMIT: Duration = Duration::from_millis(800);

/// So much of a digest is shown: enough to see whether two are equal.
const DIGEST_CHARS: usize = 8;

pub(crate) async fn modes(client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let modes = client.client().replication_modes().await;
    let modes = modes.map_err(|error| Failure::of_request("list the replication modes", &error))?;
    if output.format == Format::Json {
        output.json(&json!({ "items": modes }))?;
        return output.finish();
    }
    let row = |mode: &ModeInfo| {
        let name = if mode.is_default { format!("{} (default)", mode.mode) } else { mode.mode.clone() };
        vec![name, mode.engines.join(", "), mode.summary.clone()]
    };
    output.table(&["MODE", "ENGINES", "HOW REPLICAS AGREE"], modes.iter().map(row))?;
    output.line("")?;
    let option = |mode: &ModeInfo, option: &ModeOption| {
        vec![
            mode.mode.clone(),
            option.name.clone(),
            option.default.as_ref().map(shown).unwrap_or_default(),
            option.values.clone(),
            option.help.clone(),
        ]
    };
    let options = modes.iter().flat_map(|mode| mode.options.iter().map(|own| option(mode, own)).collect::<Vec<_>>());
    output.table(&["MODE", "OPTION", "DEFAULT", "CAN BE", "WHAT IT DOES"], options)?;
    output.finish()
}

pub(crate) async fn flush(output: &mut Output, client: &ClientArgs, name: &str, options: FlushOptions) -> Result<(), Failure> {
    let done = client.client().flush_keyspace_with(name, options).await;
    let done = done.map_err(|error| Failure::of_request(format!("flush keyspace {name}"), &error))?;
    tell(output, done, "was sent to")
}

pub(crate) async fn sync(output: &mut Output, client: &ClientArgs, name: &str) -> Result<(), Failure> {
    let done = client.client().sync_keyspace(name).await;
    let done = done.map_err(|error| Failure::of_request(format!("compare keyspace {name}"), &error))?;
    tell(output, done, "was compared with")
}

fn tell(output: &mut Output, done: SyncBody, what: &str) -> Result<(), Failure> {
    let SyncBody { reached, others, stored } = done;
    if output.format == Format::Json {
        output.json(&done)?;
    } else if stored {
        output.line("the store behind the node's replica has what the replica has")?;
    }
    if output.format != Format::Json && (others > 0 || !stored) {
        output.line(format_args!("what the node has {what} {reached} of {others} other nodes"))?;
    }
    if reached >= others {
        return Ok(());
    }
    Err(Failure::failed(format!("{} nodes were not reached in time; they get it once they are", others - reached)))
}

/// What one node says of its replica.
#[derive(Debug, Serialize)]
struct Row {
    node: String,
    /// None if it cannot be reached, or has no replica.
    replica: Option<EventualStats>,
}

pub(crate) async fn replicas(output: &mut Output, client: &ClientArgs, args: ReplicasArgs) -> Result<(), Failure> {
    let format = output.format;
    let is_once = !args.watch && !args.until_equal;
    let is_redrawn = io::stdout().is_terminal() && format == Format::Table && !is_once;
    let mut ticks = interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let rows = ask_all(client, &args.name).await?;
        let mut output = Output::new(format);
        show(&mut output, &rows, is_redrawn)?;
        output.finish()?;
        if is_once || (args.until_equal && are_equal(&rows)) {
            return Ok(());
        }
    }
}

/// What a table of stats says of a replica.
pub(crate) fn rows(replica: &EventualStats) -> Vec<(&'static str, String)> {
    let held = replica.tombstones_held_by.iter().map(|held| format!("what {} wrote, from {}", held.from, held.to));
    let held: Vec<String> = held.collect();
    let peers = replica.peers.iter().map(|peer| {
        let heard = if peer.is_reachable { "heard of" } else { "not heard of" };
        let lag = peer.lag_entries.map_or_else(|| "is compared with".to_owned(), |lag| format!("lacks {lag}"));
        format!("{} ({}, {heard}, {lag}, clock {:+} ms)", peer.node, peer.state, peer.clock_offset_ms)
    });
    let mut rows = vec![
        ("state", replica.state.clone()),
        ("instance", replica.instance.to_string()),
        ("digest", replica.digest.clone()),
        ("tombstones", replica.tombstones.to_string()),
        ("all have", replica.stable_at.as_ref().map_or_else(String::new, |at| format!("what was written before {at}"))),
        ("outbox", format!("{} ({})", replica.outbox_entries, format_bytes(replica.outbox_bytes))),
        ("written", replica.written.to_string()),
        ("of others", format!("{}, {} in the place of an own write", replica.merged, replica.superseded)),
        ("conflicts", replica.conflicts.to_string()),
        ("sent", format!("{} ({})", replica.pushed_entries, format_bytes(replica.pushed_bytes))),
        ("compared", format!("{} times, {} given up", replica.rounds, replica.stalled_rounds)),
        ("exchanged", format!("{} taken, {} given", replica.pulled_entries, replica.put_entries)),
        ("overflows", replica.overflows.to_string()),
        ("repairs", replica.repairs.to_string()),
    ];
    if !held.is_empty() {
        rows.push(("tombstones kept for", held.join("; ")));
    }
    rows.extend(peers.map(|peer| ("peer", peer)));
    rows
}

/// Asks any node who the others are, and each of them for its replica.
async fn ask_all(client: &ClientArgs, keyspace: &str) -> Result<Vec<Row>, Failure> {
    let any = client.client();
    let known = any.keyspace(keyspace).await;
    let known = known.map_err(|error| Failure::of_request(format!("show keyspace {keyspace}"), &error))?;
    if !known.capabilities.sync {
        let mode = known.replication.mode;
        return Err(Failure::usage(format!(
            "keyspace {keyspace} has replication {mode}, whose replicas take no writes on their own: see `quorate keyspace stats`"
        )));
    }
    let nodes = any.nodes().await.map_err(|error| Failure::of_request("list the members", &error))?;
    let mut asked = JoinSet::new();
    for node in nodes {
        let keyspace = keyspace.to_owned();
        asked.spawn(async move { Row { replica: replica_of(&node.client_address, &keyspace).await, node: node.name } });
    }
    let mut rows = asked.join_all().await;
    rows.sort_by(|one, other| one.node.cmp(&other.node));
    Ok(rows)
}

async fn replica_of(address: &str, keyspace: &str) -> Option<EventualStats> {
    let options = Options { timeout: NODE_TIME_LIMIT, connect_timeout: NODE_TIME_LIMIT, max_rounds: 1 };
    let client = Client::new(vec![address.parse().ok()?], options);
    client.keyspace_stats(keyspace).await.ok()?.eventual.into_iter().next()
}

/// Whether all nodes tell of a replica, and all have the same.
fn are_equal(rows: &[Row]) -> bool {
    let mut digests = rows.iter().map(|row| row.replica.as_ref().map(|replica| &replica.digest));
    let first = digests.next().flatten();
    first.is_some() && digests.all(|digest| digest == first)
}

fn show(output: &mut Output, rows: &[Row], is_redrawn: bool) -> Result<(), Failure> {
    if output.format == Format::Json {
        return output.json(&json!({ "replicas": rows, "equal": are_equal(rows) }));
    }
    if is_redrawn {
        // To the upper left; what is below it goes.
        output.bytes(b"\x1b[H\x1b[J")?;
    }
    let header = ["NODE", "STATE", "KEYS", "TOMBSTONES", "DIGEST", "BEHIND", "OUTBOX", "DOES", "OVERTAKEN"];
    output.table(&header, rows.iter().map(cells))?;
    let told: Vec<&EventualStats> = rows.iter().filter_map(|row| row.replica.as_ref()).collect();
    let mut digests: Vec<&str> = told.iter().map(|replica| replica.digest.as_str()).collect();
    digests.sort_unstable();
    digests.dedup();
    let how = match digests.len() {
        0 | 1 => "are equal".to_owned(),
        kinds => format!("differ in {kinds} ways"),
    };
    output.line(format_args!("{} of {} replicas are there, and {how}", told.len(), rows.len()))
}

fn cells(row: &Row) -> Vec<String> {
    let Some(replica) = &row.replica else {
        return [row.node.as_str(), "not reached", "", "", "", "", "", "", ""].map(str::to_owned).into();
    };
    let behind = |peer: &EventualPeer| match peer.lag_entries {
        _ if !peer.is_reachable => Some(format!("{} is not heard of", peer.node)),
        Some(0) | None => None,
        Some(lag) => Some(format!("{} by {lag}, {} ms", peer.node, peer.lag_ms)),
    };
    let behind: Vec<String> = replica.peers.iter().filter_map(behind).collect();
    let compares: Vec<&str> = replica.peers.iter().filter(|peer| peer.is_comparing).map(|peer| peer.node.as_str()).collect();
    let does = match (replica.clock_skew_ms, compares.is_empty()) {
        (Some(skew_ms), _) => format!("takes no writes: clock off by {skew_ms} ms"),
        (None, true) => String::new(),
        (None, false) => format!("compares with {}", compares.join(", ")),
    };
    vec![
        row.node.clone(),
        replica.state.clone(),
        replica.keys.to_string(),
        replica.tombstones.to_string(),
        replica.digest.chars().take(DIGEST_CHARS).collect(),
        behind.join(", "),
        format!("{} ({})", replica.outbox_entries, format_bytes(replica.outbox_bytes)),
        does,
        replica.superseded.to_string(),
    ]
}

fn shown(amount: &Amount) -> String {
    match amount {
        Amount::Number(number) => number.to_string(),
        Amount::Text(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(digest: Option<&str>) -> Row {
        let replica = digest.map(|digest| {
            serde_json::from_value(json!({
                "group": 2, "instance": 7, "state": "up", "keys": 1, "tombstones": 0, "digest": digest, "outbox_entries": 0,
                "outbox_bytes": 0, "clock_ahead_ms": 0, "clock_skew_ms": null, "stable_at": null, "tombstones_held_by": [],
                "written": 0, "merged": 0, "superseded": 0, "fenced": 0, "pushed_entries": 0, "pushed_bytes": 0, "overflows": 0,
                "conflicts": 0, "rounds": 0, "stalled_rounds": 0, "pulled_entries": 0, "put_entries": 0, "repairs": 0,
                "peers": [],
            }))
            .unwrap()
        });
        Row { node: "n".to_owned(), replica }
    }

    #[test]
    fn replicas_are_equal_once_all_are_there_and_have_the_same() {
        assert!(are_equal(&[row(Some("a")), row(Some("a"))]));
        assert!(!are_equal(&[row(Some("a")), row(Some("b"))]));
        assert!(!are_equal(&[row(Some("a")), row(None)]) && !are_equal(&[row(None)]) && !are_equal(&[]));
    }
}
