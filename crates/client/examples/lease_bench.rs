//! Makes many leases on a cluster, and keeps them alive at a rate: what it costs to have a million of them.
//!
//! `cargo run --release -p quorate-client --example lease_bench -- http://127.0.0.1:2379,... 1000000 20000 30 1h`: endpoints,
//! leases, keep-alives a second, seconds, and how long leases live (an hour if that is not said). Keep-alives go in requests of a
//! hundred leases each, in turn to each endpoint, each when it is due, whatever became of those before; latencies count from
//! then on. `tools/lease-figures.py` runs it on nodes of its own.

use std::sync::Arc;
use std::time::Duration;

use quorate_api::duration;
use quorate_client::{Client, Endpoint, Error, Options};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

/// Grants on their way at once.
const GRANTERS: u64 = 1536;

const IDS_PER_REQUEST: u64 = 100;

/// Requests under way at most: an overloaded cluster shall be seen, not buried.
const MAX_UNDER_WAY: usize = 2000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [endpoints, leases, rate, seconds, rest @ ..] = &arguments[..] else {
        return Err("arguments: ENDPOINTS LEASES KEEP-ALIVES-A-SECOND SECONDS [TTL]".into());
    };
    let ttl = duration::parse(rest.first().map_or("1h", String::as_str))?;
    let (leases, rate, seconds): (u64, u64, u64) = (leases.parse()?, rate.parse()?, seconds.parse()?);
    let endpoints = Endpoint::parse_list(endpoints)?;
    let client = |endpoint: &Endpoint| Client::new(vec![endpoint.clone()], Options::default());
    let clients: Vec<Client> = endpoints.iter().map(client).collect();

    let began = Instant::now();
    let mut granters = JoinSet::new();
    for granter in 0..GRANTERS {
        let client = clients[granter as usize % clients.len()].clone();
        granters.spawn(async move {
            for id in (1 + granter..=leases).step_by(GRANTERS as usize) {
                match client.grant_lease("default", ttl, Some(id)).await {
                    Err(error) if error.code() != Some("lease_exists") => return Err(error),
                    _ => {}
                }
            }
            Ok::<(), Error>(())
        });
    }
    while let Some(granted) = granters.join_next().await {
        granted??;
    }
    let took = began.elapsed();
    print(&format!("{leases} leases granted in {took:.1?}, {:.0}/s", leases as f64 / took.as_secs_f64()));
    keep_alive(&clients, leases, rate, seconds).await?;
    Ok(())
}

async fn keep_alive(clients: &[Client], leases: u64, rate: u64, seconds: u64) -> Result<(), Box<dyn std::error::Error>> {
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let interval = Duration::from_secs(1) * IDS_PER_REQUEST as u32 / rate as u32;
    let began = Instant::now();
    let (mut under_way, mut next, mut missing) = (JoinSet::new(), 0, 0_usize);
    for request in 0..rate * seconds / IDS_PER_REQUEST {
        let due = began + interval * request as u32;
        sleep_until(due).await;
        let ids: Vec<u64> = (0..IDS_PER_REQUEST).map(|place| 1 + (next + place) % leases).collect();
        next += IDS_PER_REQUEST;
        let (client, latencies) = (clients[request as usize % clients.len()].clone(), Arc::clone(&latencies));
        under_way.spawn(async move {
            let kept = client.keep_many_alive("default", &ids).await?;
            latencies.lock().await.push(due.elapsed());
            Ok::<usize, Error>(kept.missing.len())
        });
        while under_way.len() > MAX_UNDER_WAY {
            missing += under_way.join_next().await.transpose()?.transpose()?.unwrap_or(0);
        }
    }
    while let Some(kept) = under_way.join_next().await {
        missing += kept??;
    }
    let took = began.elapsed();
    let mut latencies = latencies.lock().await;
    latencies.sort_unstable();
    let at = |per_mille: usize| latencies.get((latencies.len() * per_mille / 1000).min(latencies.len() - 1)).copied();
    let kept = latencies.len() as u64 * IDS_PER_REQUEST;
    let (p50, p99, most) = (at(500).unwrap_or_default(), at(990).unwrap_or_default(), at(1000).unwrap_or_default());
    print(&format!(
        "{kept} keep-alives in {took:.1?}, {:.0}/s, {missing} missing; a request of {IDS_PER_REQUEST}: p50 {p50:.1?}, \
         p99 {p99:.1?}, at most {most:.1?}",
        kept as f64 / took.as_secs_f64()
    ));
    Ok(())
}

fn print(line: &str) {
    use std::io::Write as _;
    // Nobody to tell if nobody reads.
    let _ = writeln!(std::io::stdout(), "{line}");
}
