//! `quorate watch`.

use std::time::Duration;

use quorate_api::entry::{Encoding, Entry};
use quorate_api::watch::{EventType, Happened, WatchEvent, WatchMessage};
use quorate_client::{Error, News, WatchStream};
use tokio::time::sleep;

use crate::args::{ClientArgs, WatchArgs};
use crate::exit::{Failure, note};
use crate::interrupt::interrupted;
use crate::output::{Format, Output};
use crate::printable::{printable, printable_start};

/// What of a value is shown in a table.
const MAX_SHOWN_CHARS: usize = 60;

/// Between two tries to reach a node.
const PAUSE: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: WatchArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let mut stream = client.client().watch(client.keyspace(), args.query()?);
    let mut left = args.count;
    let mut told_by = None;
    let mut interrupted = std::pin::pin!(interrupted());
    while left != Some(0) {
        let news = tokio::select! {
            () = &mut interrupted => break,
            news = next(&mut stream, client) => news?,
        };
        if let Some(endpoint) = stream.told_by().filter(|endpoint| told_by.as_deref() != Some(*endpoint)) {
            note(format_args!(
                "quorate: nodes of keyspace {} take writes on their own: this is what the one at {endpoint} has, in its order",
                client.keyspace()
            ));
            told_by = Some(endpoint.to_owned());
        }
        if matches!(news, News::Change { .. }) {
            left = left.map(|left| left - 1);
        }
        match output.format {
            Format::Json => show_json(&mut output, &news)?,
            _ => show(&mut output, &news)?,
        }
        output.flush()?;
    }
    output.finish()
}

/// What comes next. While no node can be reached, it goes on trying: who watches wants to know when there is one again.
async fn next(stream: &mut WatchStream, client: &ClientArgs) -> Result<News, Failure> {
    let mut has_told = false;
    loop {
        let error = match stream.next().await {
            Ok(news) => return Ok(news),
            Err(error) => error,
        };
        let may_pass = match &error {
            Error::Refused { problem, .. } => problem.retryable,
            Error::Unreachable { .. } | Error::NoAnswer { .. } | Error::NotReady { .. } => true,
            _ => false,
        };
        // The first time it is more likely that there is nobody at all.
        if !may_pass || stream.told().is_none() {
            return Err(Failure::of_request(format!("watch keyspace {}", client.keyspace()), &error));
        }
        if !has_told {
            note(format_args!("quorate: {error}; trying on"));
            has_told = true;
        }
        sleep(PAUSE).await;
    }
}

/// The messages as nodes write them, one a line. That another node tells from now on stands in none of them: what is there comes
/// again, and `sync`.
fn show_json(output: &mut Output, news: &News) -> Result<(), Failure> {
    let message = match news {
        News::Change { revision, events } => WatchMessage::Change { revision: *revision, events: bodies(events) },
        News::Snapshot { revision, events, .. } => WatchMessage::Snapshot { revision: *revision, events: bodies(events) },
        News::Sync { revision } => WatchMessage::Sync { revision: *revision },
        News::Progress { revision } => WatchMessage::Progress { revision: *revision },
        News::Anew => return Ok(()),
    };
    let line = serde_json::to_string(&message).map_err(std::io::Error::from)?;
    output.line(line)
}

fn bodies(events: &[Happened]) -> Vec<WatchEvent<'_>> {
    events.iter().map(body).collect()
}

fn body(happened: &Happened) -> WatchEvent<'_> {
    WatchEvent {
        kind: happened.kind,
        entry: happened.entry.to_body(Encoding::Text),
        prev: happened.prev.as_ref().map(|prev| Box::new(prev.to_body(Encoding::Text))),
        watches: happened.watches.iter().map(|id| id.as_str().into()).collect(),
    }
}

/// A line for each event; nothing for what only says that all is well.
fn show(output: &mut Output, news: &News) -> Result<(), Failure> {
    let (revision, events, is_present) = match news {
        News::Change { revision, events } => (revision, events, false),
        News::Snapshot { revision, events, is_first } => {
            if *is_first {
                output.line(format_args!("{revision:>8}  what is there:"))?;
            }
            (revision, events, true)
        }
        News::Sync { revision } => return output.line(format_args!("{revision:>8}  what changes:")),
        News::Progress { .. } => return Ok(()),
        News::Anew => return output.line("          another node tells from now on: what was told before counts no more"),
    };
    for Happened { kind, entry, prev, .. } in events {
        let name = if is_present { "is" } else { kind.name() };
        let value = |entry: &Entry| entry.value.as_ref().map(|value| printable_start(value, MAX_SHOWN_CHARS)).unwrap_or_default();
        let now = if *kind == EventType::Put { value(entry) } else { String::new() };
        let before = prev.as_ref().map(|prev| format!("(was {})", value(prev))).unwrap_or_default();
        let mut line = format!("{revision:>8}  {name:<6}  {}", printable(&entry.key));
        for part in [now, before].iter().filter(|part| !part.is_empty()) {
            line.extend(["  ", part]);
        }
        output.line(line)?;
    }
    Ok(())
}
