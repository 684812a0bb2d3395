//! Nodes that are all started with the same `--expect`, in any order, and killed meanwhile: one cluster, from every source.
//!
//! `QUORATE_REPETITIONS` says how often each is repeated; every repetition has a seed of its own, which is printed.

use std::collections::BTreeSet;
use std::fs;

use quorate_api::cluster::ClusterStatus;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::{Cluster, DnsServer, Request, ZooKeeper, free_ports, now, pause, since, tell};

const NAMES: [&str; 3] = ["n1", "n2", "n3"];

/// Repetitions of each source.
fn repetitions() -> u64 {
    std::env::var("QUORATE_REPETITIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(20)
}

/// Starts all nodes in the order and at the times that the seed says, kills some of them within the first second and starts them
/// again, and returns how long it took until all were ready.
fn start_and_kill(cluster: &mut Cluster, arguments: &[&str], seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut order = NAMES;
    order.shuffle(&mut random);
    // Starts and kills, each with its time.
    let mut plan: Vec<(u64, &str, bool)> = order.iter().map(|name| (random.random_range(0..300), *name, true)).collect();
    for _ in 0..random.random_range(1..=3) {
        let at = random.random_range(20..1000);
        plan.push((at, order[random.random_range(0..order.len())], false));
    }
    plan.sort_unstable();
    let start = now();
    for (at, name, is_start) in plan {
        pause(at.saturating_sub(since(start).as_millis() as u64));
        let node = cluster.node_mut(name);
        match (node.is_running(), is_start) {
            // Not started yet: there is nothing to kill.
            (false, false) => continue,
            (true, false) => node.kill(),
            (_, true) => {}
        }
        node.start_with(arguments);
    }
    cluster.until_ready();
}

/// All three are voters of one cluster, and serve.
#[track_caller]
fn assert_one_cluster(cluster: &Cluster) {
    for name in NAMES {
        cluster.until_status(name, "three voters", |status| {
            status.nodes.len() == 3 && status.nodes.iter().all(|node| node.role == "voter")
        });
    }
    let statuses: Vec<ClusterStatus> = NAMES.iter().map(|name| cluster.status(name)).collect();
    let ids: BTreeSet<&str> = statuses.iter().map(|status| status.id.as_str()).collect();
    assert_eq!(ids.len(), 1, "one cluster");
    cluster.connection("n2").expect(201, &Request::put(b"k", "v"));
    assert_eq!(cluster.connection("n3").expect(200, &Request::get(b"k")).body, b"v");
}

/// Repeats it, each time with empty folders and another seed.
fn repeat(source: &str, mut clusters: impl FnMut(u64) -> Option<(Cluster, Vec<String>, Option<DnsServer>)>) {
    let start = now();
    for seed in 0..repetitions() {
        tell(format_args!("{source}, seed {seed}"));
        let Some((mut cluster, arguments, _dns)) = clusters(seed) else { return };
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        start_and_kill(&mut cluster, &arguments, seed);
        assert_one_cluster(&cluster);
    }
    tell(format_args!("{source}: one cluster each of {} times, {:?} in all", repetitions(), since(start)));
}

fn three() -> Cluster {
    let mut cluster = Cluster::empty();
    for name in NAMES {
        cluster.add(name);
    }
    cluster
}

fn expecting(join: &str) -> Vec<String> {
    ["--expect", "3", "--join", join].map(str::to_owned).to_vec()
}

#[test]
fn by_addresses() {
    repeat("addresses", |_| {
        let cluster = three();
        let join = cluster.addresses().join(",");
        Some((cluster, expecting(&join), None))
    });
}

#[test]
fn by_a_file() {
    repeat("file", |_| {
        let cluster = three();
        let path = cluster.folder().join("nodes");
        let addresses = cluster.addresses().join("\n");
        let join = format!("file://{}", path.display());
        fs::write(path, addresses).expect("a file can be written");
        Some((cluster, expecting(&join), None))
    });
}

/// Addresses are those of the name, or of what its SRV records point at, in turn.
#[test]
fn by_dns() {
    repeat("DNS", |seed| {
        let mut cluster = Cluster::empty();
        let ports = free_ports(2);
        let mut hosts = Vec::new();
        for (number, name) in (2..).zip(NAMES) {
            cluster.add_at(name, [0, 1].map(|place| format!("127.0.0.{number}:{}", ports[place])));
            hosts.extend([format!("127.0.0.{number} {name}.test"), format!("127.0.0.{number} nodes.test")]);
        }
        let services: Vec<String> = NAMES.iter().map(|name| format!("_quorate._tcp.test,{name}.test,{}", ports[0])).collect();
        let dns = DnsServer::start(cluster.folder(), &hosts.join("\n"), &services)?;
        let join =
            if seed % 2 == 0 { format!("dns://nodes.test:{}", ports[0]) } else { "dns+srv://_quorate._tcp.test".to_owned() };
        let mut arguments = expecting(&join);
        arguments.extend(["--dns-server".to_owned(), dns.address()]);
        Some((cluster, arguments, Some(dns)))
    });
}

/// One server for all repetitions, each below a path of its own.
#[test]
fn by_zookeeper() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let Some(zookeeper) = ZooKeeper::start(folder.path()) else { return };
    repeat("ZooKeeper", |seed| Some((three(), expecting(&zookeeper.spec(&format!("/quorate/{seed}"))), None)));
}
