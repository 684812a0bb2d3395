//! What eventual replication takes between real processes: printed, and held to nothing. Run one at a time, on a machine that
//! does nothing else, with optimised nodes:
//!
//!     cargo test --release -p quorate-cli --test processes -- --ignored --nocapture --test-threads 1 figures

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use quorate_proxy::Link;

use crate::replication::{create, until_equal};
use crate::support::{Cluster, Connection, Linked, Request, now, pause, program, since, tell, until};

/// Sets so many keys through a node.
fn fill(cluster: &Cluster, name: &str, keyspace: &str, (prefix, count): (&str, usize), value: &str) {
    let mut lines = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    let mut writer = std::io::BufWriter::new(lines.as_file_mut());
    for number in 0..count {
        writeln!(writer, "{{\"key\":\"{prefix}/{number}\",\"value\":\"{value}\"}}").expect("it can be written to");
    }
    drop(writer);
    cluster.must_call(name, &["import", "-k", keyspace, lines.path().to_str().expect("it is text")]);
}

/// What a node's process has used of processors, in seconds: what others do on the machine does not count.
fn processor_secs(cluster: &Cluster, name: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.node(name).pid())).expect("Linux tells");
    // Behind the name, which is in brackets: the 12th and 13th, in hundredths.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number"));
    ticks.sum::<u64>() as f64 / 100.0
}

fn percentile(sorted: &[Duration], of_hundred: usize) -> Duration {
    sorted[(sorted.len() * of_hundred / 100).min(sorted.len() - 1)]
}

/// How long after its answer a write is there at another node, while the node takes 10,000 others in a second.
#[test]
#[ignore = "a benchmark"]
fn how_far_behind_pushes_are() {
    let cluster = Cluster::ready(3);
    for (keyspace, durability) in [("volatile", "none"), ("durable", "log")] {
        create(&cluster, keyspace, &format!(r#"{{"mode":"push","durability":"{durability}"}}"#));
        for rate in ["0", "10000"] {
            let mut load = (rate != "0").then(|| {
                let mut load = program();
                load.args(["bench", "put", "-k", keyspace, "--clients", "64", "--rate", rate, "--seconds", "20", "-o", "json"]);
                load.args(["--endpoint", &format!("http://{}", cluster.node("n1").client_address)]);
                load.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the load can be started")
            });
            pause(3_000);
            let (mut at, mut elsewhere) = (cluster.connection("n1"), cluster.connection("n2"));
            let mut lags: Vec<Duration> = (0..500)
                .map(|number| {
                    let target = format!("/v1/kv/{keyspace}/probe-{rate}-{number}");
                    at.expect(201, &Request::new("PUT", &*target).with_body("v"));
                    let written = now();
                    let get = Request::new("GET", &*target);
                    while elsewhere.send(&get).expect("an answer").status != 200 {
                        assert!(since(written) < Duration::from_secs(10), "it never comes");
                    }
                    let lag = since(written);
                    pause(20);
                    lag
                })
                .collect();
            lags.sort_unstable();
            let told = load.take().map(|load| load.wait_with_output().expect("it ends").stdout).unwrap_or_default();
            tell(format_args!(
                "{keyspace}, {rate} other writes/s asked for: behind by p50 {:?}, p99 {:?}, at most {:?}; the load: {}",
                percentile(&lags, 50),
                percentile(&lags, 99),
                percentile(&lags, 100),
                String::from_utf8_lossy(&told).trim()
            ));
        }
    }
}

/// How long after a cut is healed 100,000 keys are equal that were written on both sides.
#[test]
#[ignore = "a benchmark"]
fn how_soon_a_hundred_thousand_keys_are_equal() {
    let linked = Linked::ready();
    let cluster = &linked.cluster;
    for (keyspace, outbox) in [("sent", "64MiB"), ("compared", "64KiB")] {
        create(cluster, keyspace, &format!(r#"{{"mode":"push","outbox_max":"{outbox}","sync_interval":"1s"}}"#));
        fill(cluster, "n1", keyspace, ("both", 100_000), "v");
        until_equal(cluster, keyspace);
        linked.set(1, Link::Cut);
        pause(500);
        fill(cluster, "n1", keyspace, ("here", 50_000), &"v".repeat(100));
        fill(cluster, "n2", keyspace, ("there", 50_000), &"v".repeat(100));
        linked.heal();
        let took = until_equal(cluster, keyspace);
        tell(format_args!("{keyspace} (outbox {outbox}): 100,000 of 200,000 keys were equal {took:?} after the heal"));
    }
}

/// How fast a full copy goes to two nodes.
#[test]
#[ignore = "a benchmark"]
fn how_fast_a_full_copy_is() {
    let cluster = Cluster::ready(3);
    let manual = r#"{"mode":"full-copy","trigger":"manual","durability":"none","sync_interval":"1h"}"#;
    for value_bytes in [256, 4 << 10] {
        let keyspace = format!("of-{value_bytes}");
        create(&cluster, &keyspace, manual);
        let count = (128 << 20) / value_bytes;
        fill(&cluster, "n1", &keyspace, ("k", count), &"v".repeat(value_bytes));
        let flush = Request::new("POST", format!("/v1/keyspaces/{keyspace}/flush?timeout=1m"));
        let mut connection = Connection::with_patience(&cluster.node("n1").client_address, Duration::from_mins(2));
        let used = || ["n1", "n2", "n3"].map(|name| processor_secs(&cluster, name));
        let (begun, before) = (now(), used());
        until("the copy is there", Duration::from_mins(2), || {
            let told = connection.expect(200, &flush).text();
            if told.contains("\"reached\":2") { Ok(()) } else { Err(told) }
        });
        let took = since(begun);
        let rate = 128.0 / took.as_secs_f64();
        let [source, second, third] = std::array::from_fn(|at| (used()[at] - before[at]) * 1e6 / count as f64);
        tell(format_args!(
            "{count} values of {value_bytes} bytes, 128 MiB to each of two: {took:?}, {rate:.0} MiB/s each; {source:.1} us of \
             processor per pair at the source, {second:.1} and {third:.1} us at the others"
        ));
    }
}
