//! `quorate top`: what each node and keyspace does, every second.

mod figures;
mod sample;

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::args::{ClientArgs, TopArgs};
use crate::exit::Failure;
use crate::output::{Format, Output};
use crate::progress::shown_bytes;

use figures::{Figures, KeyspaceFigures, NodeFigures};
use sample::Sample;

/// Lines around the keyspaces, beside those of the nodes: headers, rules, and where the cursor stands.
const OTHER_LINES: usize = 9;

/// Keyspaces that are shown where nobody knows how many lines there are.
const DEFAULT_KEYSPACES: usize = 20;

pub(crate) async fn run(args: TopArgs, client: &ClientArgs) -> Result<(), Failure> {
    let format = Output::without_raw(client.output)?.format;
    let is_redrawn = io::stdout().is_terminal() && format == Format::Table && !args.once;
    let mut ticks = interval(Duration::from_secs(args.seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = Sample::take(client).await?;
    loop {
        ticks.tick().await;
        let now = Sample::take(client).await?;
        let figures = Figures::between(&before, &now);
        before = now;
        // Not held between two of them: others may write there too, such as a failure's last words.
        let mut output = Output::new(format);
        match output.format {
            Format::Json => output.json(&json!({ "nodes": figures.nodes, "keyspaces": figures.keyspaces }))?,
            _ => show(&mut output, &figures, is_redrawn)?,
        }
        output.finish()?;
        if args.once {
            return Ok(());
        }
    }
}

fn show(output: &mut Output, figures: &Figures, is_redrawn: bool) -> Result<(), Failure> {
    if is_redrawn {
        // To the upper left; what is below it goes.
        output.bytes(b"\x1b[H\x1b[J")?;
    }
    node_table(output, &figures.nodes)?;
    output.line("")?;
    let room = terminal_lines().map(|lines| lines.saturating_sub(figures.nodes.len() + OTHER_LINES).max(1));
    let shown = room.filter(|_| is_redrawn).unwrap_or(DEFAULT_KEYSPACES).min(figures.keyspaces.len());
    keyspace_table(output, &figures.keyspaces[..shown])?;
    let hidden = figures.keyspaces.len() - shown;
    if hidden > 0 {
        output.line(format_args!("and {hidden} keyspaces that do less"))?;
    }
    if is_redrawn { Ok(()) } else { output.line("") }
}

fn terminal_lines() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_row > 0).then_some(usize::from(size.ws_row))
}

fn node_table(output: &mut Output, nodes: &[NodeFigures]) -> Result<(), Failure> {
    let header = ["NODE", "ROLE", "CONNECTIONS", "GETS/S", "WRITES/S", "LISTS/S", "OTHER/S", "FAILED/S", "PENDING", "LEADS"];
    let row = |node: &NodeFigures| {
        let role = if node.is_reached { node.role.clone() } else { format!("{}, not reached", node.role) };
        let state = if node.is_disk_full { format!("{role}, disk full") } else { role };
        let mut row = vec![node.name.clone(), state, node.connections.to_string()];
        let rates = [node.gets_per_s, node.writes_per_s, node.lists_per_s, node.others_per_s, node.failed_per_s];
        row.extend(rates.map(|rate| format!("{rate:.0}")));
        row.extend([node.pending_requests.to_string(), node.leads.to_string()]);
        row
    };
    output.table(&header, nodes.iter().map(row))
}

fn keyspace_table(output: &mut Output, keyspaces: &[KeyspaceFigures]) -> Result<(), Failure> {
    let header = ["KEYSPACE", "LEADER", "COMMANDS/S", "REVISION", "DATA", "LOG ENTRIES", "BEHIND"];
    let row = |keyspace: &KeyspaceFigures| {
        vec![
            keyspace.name.clone(),
            keyspace.leader.clone().unwrap_or_else(|| "unknown".to_owned()),
            format!("{:.0}", keyspace.commands_per_s),
            keyspace.revision.to_string(),
            shown_bytes(keyspace.data_bytes),
            keyspace.log_entries.to_string(),
            keyspace.behind_entries.to_string(),
        ]
    };
    output.table(&header, keyspaces.iter().map(row))
}
