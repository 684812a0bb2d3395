//! Nodes that end in order: they hand over first, and nobody notices.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Cluster, Load, Request, now, since, tell};

/// Handing over takes at most 3 s, answering what is in flight somewhat longer.
const END_LIMIT: Duration = Duration::from_secs(15);

/// A follower waits that long before it stands for election: a shorter silence means that leadership was handed over.
const ELECTION_TIME: Duration = Duration::from_secs(1);

#[test]
fn a_rolling_restart_is_hardly_noticed() {
    let mut cluster = Cluster::ready(3);
    let load = Load::start(&cluster);
    let mut silences = Vec::new();
    for round in 1..=3 {
        let leader = cluster.leader();
        let start = now();
        end_in_order(&mut cluster, &leader);
        let ended = since(start);
        load.until_acknowledged_after(now(), Duration::from_secs(6));
        let silence = load.longest_silence(start, now());
        tell(format_args!("round {round}: leader {leader} ended in order after {ended:?}, longest silence {silence:?}"));
        silences.push(silence);
        cluster.restart(&leader);
        cluster.until_ready();
    }
    for name in cluster.running() {
        end_in_order(&mut cluster, &name);
        cluster.restart(&name);
        cluster.until_ready();
    }
    load.finish(&cluster);
    // The best of three: the others may have met a busy machine.
    assert!(silences.iter().min() < Some(&ELECTION_TIME), "leadership was not handed over: {silences:?}");
    assert!(silences.iter().max() < Some(&Duration::from_secs(6)), "{silences:?}");
}

#[test]
fn data_outlives_the_end_of_all_nodes() {
    let mut cluster = Cluster::ready(3);
    let mut connection = cluster.connection("n1");
    for number in 0..50 {
        connection.expect(201, &Request::put(format!("kept/{number}").as_bytes(), format!("value {number}")));
    }
    connection.expect(204, &Request::on_key("DELETE", b"kept/7"));
    let before = cluster.list("n2");
    assert_eq!(before.len(), 49);
    for _ in 0..2 {
        let names = cluster.running();
        for name in &names {
            cluster.node(name).signal(Signal::TERM);
        }
        for name in &names {
            assert_eq!(cluster.node_mut(name).wait(END_LIMIT).code(), Some(0), "{name}");
        }
        for name in names.iter().rev() {
            cluster.restart(name);
        }
        cluster.until_ready();
        for name in &names {
            assert_eq!(cluster.list(name), before, "at {name}");
        }
    }
}

/// SIGINT does the same; a node that waits to be let in ends as well.
#[test]
fn a_lone_node_ends_when_asked() {
    let mut cluster = Cluster::ready(1);
    cluster.connection("n1").expect(201, &Request::put(b"k", "v"));
    cluster.node("n1").signal(Signal::INT);
    assert_eq!(cluster.node_mut("n1").wait(END_LIMIT).code(), Some(0));
    cluster.restart("n1");
    cluster.until_ready();
    assert_eq!(cluster.connection("n1").expect(200, &Request::get(b"k")).body, b"v");

    cluster.add("n2");
    cluster.node_mut("n2").start(&["127.0.0.1:1"]);
    crate::support::pause(500);
    cluster.node("n2").signal(Signal::TERM);
    assert_eq!(cluster.node_mut("n2").wait(END_LIMIT).code(), Some(0));
}

#[track_caller]
fn end_in_order(cluster: &mut Cluster, name: &str) {
    cluster.node(name).signal(Signal::TERM);
    assert_eq!(cluster.node_mut(name).wait(END_LIMIT).code(), Some(0), "{name} was asked to end");
}
