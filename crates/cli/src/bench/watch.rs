//! `quorate bench watch`: many watchers on few connections, and how soon a write reaches those whom it concerns.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_api::problem::WriteOutcome;
use quorate_client::{Client, Error, News, Options, PutOptions, WatchQuery, WatchStream, Watched, WatchedKeys};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::args::WatchLoadArgs;
use super::load::now;
use super::process_usage::memory_mib;
use crate::args::ClientArgs;
use crate::exit::{Failure, note};
use crate::output::{Format, Output};

/// What every told watcher watches.
const TOLD_KEY: &[u8] = b"bench/watch/told";

/// How long a round may take.
const ROUND_LIMIT: Duration = Duration::from_secs(30);

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(100);

/// Streams that are opened at a time.
const OPENING: usize = 64;

pub(super) async fn run(args: &WatchLoadArgs, client: &ClientArgs, output: &mut Output) -> Result<(), Failure> {
    let before = memory(&args.pids);
    let writer = client.client();
    put(&writer, client.keyspace(), 0).await?;
    let (told, mut arrivals) = mpsc::channel(args.connections);
    let begun = now();
    let _streams = open_all(args, client, &told).await?;
    let opened = now().duration_since(begun);
    note(format_args!("{} watchers on {} connections after {opened:?}", args.watchers, args.connections));
    let after = memory(&args.pids);
    let mut latencies = Vec::with_capacity(args.connections * args.rounds);
    for round in 1..=args.rounds {
        let start = now();
        let revision = put(&writer, client.keyspace(), round).await?;
        for _ in 0..args.connections {
            let arrival: Arrival = timeout(ROUND_LIMIT, arrivals.recv())
                .await
                .map_err(|_| Failure::failed(format!("round {round}: a change did not come within {ROUND_LIMIT:?}")))?
                .ok_or_else(|| Failure::failed("every watch has ended"))??;
            if arrival.revision != revision {
                return Err(Failure::failed(format!("told of revision {} instead of {revision}", arrival.revision)));
            }
            latencies.push(arrival.at.duration_since(start).as_secs_f64() * 1e3);
        }
        sleep(PAUSE).await;
    }
    report(args, &mut latencies, (before, after), opened, output)
}

/// A change came to a connection.
struct Arrival {
    revision: u64,
    at: Instant,
}

async fn put(client: &Client, keyspace: &str, round: usize) -> Result<u64, Failure> {
    let written = client.put(keyspace, TOLD_KEY, Bytes::from(round.to_string()), &PutOptions::default()).await;
    written.map(|written| written.revision).map_err(|error| Failure::of_request("put", &error))
}

/// Opens all streams, and lets each tell of what comes.
async fn open_all(
    args: &WatchLoadArgs,
    client: &ClientArgs,
    told: &mpsc::Sender<Result<Arrival, Failure>>,
) -> Result<JoinSet<()>, Failure> {
    let mut streams = JoinSet::new();
    let endpoints = client.endpoints();
    let (opened, mut is_open) = mpsc::channel(OPENING);
    let mut open = 0;
    for number in 0..args.connections {
        // A client of its own each: they would turn to another endpoint together.
        let options = Options { timeout: Duration::from_secs(30), ..Options::default() };
        let own = Client::new(vec![endpoints[number % endpoints.len()].clone()], options);
        let stream = own
            .watch(client.keyspace(), WatchQuery { watched: watched(args, number), is_initial: true, ..WatchQuery::default() });
        streams.spawn(follow(stream, opened.clone(), told.clone()));
        if number + 1 - open >= OPENING {
            open += usize::from(wait_for(&mut is_open).await?);
        }
    }
    while open < args.connections {
        open += usize::from(wait_for(&mut is_open).await?);
    }
    Ok(streams)
}

async fn wait_for(is_open: &mut mpsc::Receiver<Result<(), Failure>>) -> Result<bool, Failure> {
    is_open.recv().await.ok_or_else(|| Failure::failed("every watch has ended"))?.map(|()| true)
}

/// What one connection watches: its part of those that are told, and keys that nobody writes.
fn watched(args: &WatchLoadArgs, number: usize) -> Vec<Watched> {
    let share = |whole: usize| whole / args.connections + usize::from(number < whole % args.connections);
    let told = share(args.told).max(1);
    let quiet = share(args.watchers).saturating_sub(told);
    let key = |key: Vec<u8>| Watched::keys(WatchedKeys::One(key));
    let named = (0..told).map(|place| Watched { id: Some(place.to_string()), ..key(TOLD_KEY.to_vec()) });
    named.chain((0..quiet).map(|place| key(format!("bench/watch/{number}/{place}").into_bytes()))).collect()
}

async fn follow(
    mut stream: WatchStream,
    opened: mpsc::Sender<Result<(), Failure>>,
    told: mpsc::Sender<Result<Arrival, Failure>>,
) {
    loop {
        let news = stream.next().await;
        let at = now();
        let is_heard = match news {
            Ok(News::Sync { .. }) => opened.send(Ok(())).await.is_ok(),
            Ok(News::Change { revision, .. }) => told.send(Ok(Arrival { revision, at })).await.is_ok(),
            Ok(News::Snapshot { .. } | News::Progress { .. } | News::Anew) => true,
            Err(error) => {
                // Whoever waits hears of it; nobody waits at both.
                let _ = opened.try_send(Err(failed(&error)));
                let _ = told.try_send(Err(failed(&error)));
                return;
            }
        };
        if !is_heard {
            return;
        }
    }
}

fn failed(error: &Error) -> Failure {
    debug_assert_eq!(error.outcome(), WriteOutcome::NotApplied, "a watch writes nothing");
    Failure::of_request("watch", error)
}

/// Of the largest of these processes.
fn memory(pids: &[u32]) -> Option<f64> {
    pids.iter().filter_map(|pid| memory_mib(*pid)).reduce(f64::max)
}

fn report(
    args: &WatchLoadArgs,
    latencies_ms: &mut [f64],
    (before, after): (Option<f64>, Option<f64>),
    opened: Duration,
    output: &mut Output,
) -> Result<(), Failure> {
    latencies_ms.sort_by(f64::total_cmp);
    let at = |percent: usize| latencies_ms[(latencies_ms.len() - 1) * percent / 100];
    let (p50_ms, p99_ms, max_ms) = (at(50), at(99), at(100));
    let WatchLoadArgs { watchers, connections, told, rounds, .. } = args;
    if output.format == Format::Json {
        return output.json(&json!({
            "watchers": watchers, "connections": connections, "told": told, "rounds": rounds,
            "opened_s": opened.as_secs_f64(), "p50_ms": p50_ms, "p99_ms": p99_ms, "max_ms": max_ms,
            "largest_node_mib_before": before, "largest_node_mib": after,
        }));
    }
    let mib = |mib: Option<f64>| mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.0}"));
    let row = vec![
        watchers.to_string(),
        connections.to_string(),
        format!("{:.1}", opened.as_secs_f64()),
        told.to_string(),
        format!("{p50_ms:.1}"),
        format!("{p99_ms:.1}"),
        format!("{max_ms:.1}"),
        mib(before),
        mib(after),
    ];
    let header =
        ["WATCHERS", "CONNECTIONS", "OPENED S", "TOLD EACH", "P50 MS", "P99 MS", "MAX MS", "NODE MIB BEFORE", "NODE MIB"];
    output.table(&header, [row])
}
