//! Nodes that look for each other in files, DNS and ZooKeeper: what goes wrong there, what changes, and what is told.

use std::fs;
use std::time::Duration;

use quorate_api::cluster::ClusterStatus;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Cluster, DnsServer, Request, ZooKeeper, free_ports, now, pause, program, since, tell, until};

/// How long it may take until a change of a source is noticed.
const NOTICE_LIMIT: Duration = Duration::from_secs(20);

/// What `quorate discover` prints as JSON, and its exit code.
fn discover(arguments: &[&str]) -> (Value, Option<i32>) {
    let output = program().args(["discover", "-o", "json"]).args(arguments).output().expect("the program can be called");
    (serde_json::from_slice(&output.stdout).unwrap_or_default(), output.status.code())
}

/// The addresses that one specification finds.
#[track_caller]
fn found(arguments: &[&str]) -> Vec<String> {
    let (answer, _) = discover(arguments);
    serde_json::from_value(answer["items"][0]["addresses"].clone()).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// Why it finds none, and the exit code.
fn why_not(arguments: &[&str]) -> (String, Option<i32>) {
    let (answer, exit) = discover(arguments);
    assert_eq!(answer["items"][0]["addresses"], Value::Array(Vec::new()), "{answer}");
    (answer["items"][0]["problem"].as_str().unwrap_or_default().to_owned(), exit)
}

/// Waits until the node says on `/readyz` that it waits for this.
#[track_caller]
fn until_awaited(cluster: &Cluster, name: &str, awaited: &str) {
    until(&format!("{name} waits: {awaited}"), NOTICE_LIMIT, || {
        let readiness = cluster.node(name).connection().send(&Request::new("GET", "/readyz"));
        match readiness {
            Ok(answer) if answer.status == 503 && answer.text().contains(awaited) => Ok(()),
            other => Err(format!("{:?}", other.map(|answer| answer.text()))),
        }
    });
}

#[track_caller]
fn assert_one_cluster(cluster: &mut Cluster, names: &[&str]) {
    cluster.until_ready();
    let ids: Vec<String> = names.iter().map(|name| cluster.status(name).id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    for name in names {
        cluster.until_status(name, "all of them", |status| status.nodes.len() == names.len());
    }
}

/// One of three is missing: nothing begins. The file names it later, and it comes.
#[test]
fn fewer_than_expected_wait_and_say_for_whom() {
    let mut cluster = Cluster::empty();
    let names = ["n1", "n2", "n3"].map(|name| cluster.add(name));
    let path = cluster.folder().join("nodes");
    let addresses = cluster.addresses();
    fs::write(&path, addresses[..2].join("\n")).expect("a file can be written");
    let spec = format!("file://{}", path.display());
    let arguments = ["--expect", "3", "--join", &spec];
    for name in &names[..2] {
        cluster.node_mut(name).start_with(&arguments);
    }
    for name in &names[..2] {
        until_awaited(&cluster, name, "waiting for 1 more of 3 nodes; here are n1, n2");
    }
    pause(1500);
    for name in &names[..2] {
        assert_eq!(cluster.status(name), ClusterStatus { served_by: name.clone(), ..nobody() }, "nothing has begun");
        cluster.connection(name).expect(200, &Request::new("GET", "/livez"));
        assert!(cluster.node(name).log_tail().contains("waiting for 1 more of 3 nodes"), "the log says so too");
    }
    assert_eq!(found(&[&spec]), addresses[..2]);
    fs::write(&path, format!("# all three\n{}\n", addresses.join("\n"))).expect("a file can be written");
    cluster.node_mut("n3").start_with(&arguments);
    assert_one_cluster(&mut cluster, &["n1", "n2", "n3"]);
    assert_eq!(found(&[&spec]), addresses);
    let (_, exit) = discover(&[&spec, "file:///no/such/file"]);
    assert_eq!(exit, Some(1));
}

fn nobody() -> ClusterStatus {
    ClusterStatus { id: String::new(), served_by: String::new(), leader: None, nodes: Vec::new(), shards: Vec::new() }
}

/// A name that DNS does not know, one without addresses, a server that does not answer; then the name comes to be.
#[test]
fn a_name_gets_its_addresses_later() {
    let mut cluster = Cluster::empty();
    let ports = free_ports(2);
    for (number, name) in (2..).zip(["n1", "n2"]) {
        cluster.add_at(name, [0, 1].map(|place| format!("127.0.0.{number}:{}", ports[place])));
    }
    let services = [format!("_quorate._tcp.test,nodes.test,{}", ports[0]), format!("_other._tcp.test,nowhere.test,{}", ports[0])];
    let Some(dns) = DnsServer::start(cluster.folder(), "127.0.0.9 other.test\n", &services) else { return };
    let server = ["--dns-server", &dns.address()];
    let (spec, service) = (format!("dns://nodes.test:{}", ports[0]), "dns+srv://_quorate._tcp.test");
    for (spec, why) in [
        (spec.as_str(), "DNS knows no name nodes.test"),
        ("dns+srv://_none._tcp.test", "DNS knows no name _none._tcp.test"),
        ("dns+srv://other.test", "the name other.test has no SRV record"),
        ("dns+srv://_other._tcp.test", "DNS knows no name nowhere.test"),
    ] {
        let (problem, exit) = why_not(&[&[spec], server.as_slice()].concat());
        assert!(problem.starts_with(why), "{spec}: {problem}");
        assert_eq!(exit, Some(3), "{spec}");
    }
    let (problem, exit) = why_not(&[&spec, "--dns-server", "127.0.0.1:1"]);
    assert!(problem.contains("nodes.test") && exit == Some(1), "{problem} {exit:?}");

    cluster.node_mut("n1").start_with(&[]);
    let arguments = ["--join", &spec, server[0], server[1]];
    cluster.node_mut("n2").start_with(&arguments);
    until_awaited(&cluster, "n2", "DNS knows no name nodes.test");
    dns.set_hosts("127.0.0.8 nodes.test\n127.0.0.2 nodes.test\n127.0.0.3 nodes.test\n");
    assert_one_cluster(&mut cluster, &["n1", "n2"]);
    let addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.8"].map(|ip| format!("{ip}:{}", ports[0]));
    for spec in [spec.as_str(), service] {
        assert_eq!(found(&[&[spec], server.as_slice()].concat()), addresses, "{spec}");
    }
}

/// ZooKeeper is killed while nodes wait, comes back, is killed again while they work; a node that stood still for longer than its
/// session lives, and one that was killed and comes back at once, are in it again.
#[test]
fn zookeeper_comes_and_goes() {
    let mut cluster = Cluster::empty();
    let Some(mut zookeeper) = ZooKeeper::start(cluster.folder()) else { return };
    let names = ["n1", "n2", "n3"].map(|name| cluster.add(name));
    let (spec, addresses) = (zookeeper.spec("/quorate/nodes"), cluster.addresses());
    let arguments = ["--expect", "3", "--join", &spec];
    for name in &names[..2] {
        cluster.node_mut(name).start_with(&arguments);
    }
    until_awaited(&cluster, "n1", "waiting for 1 more of 3 nodes; here are n1, n2");
    assert_eq!(found(&[&spec]), addresses[..2]);
    zookeeper.stop();
    cluster.node_mut("n3").start_with(&arguments);
    until_awaited(&cluster, "n3", "refused");
    assert_eq!(why_not(&[&spec]).1, Some(1));
    zookeeper.begin();
    assert_one_cluster(&mut cluster, &["n1", "n2", "n3"]);
    until_found(&spec, &addresses);
    assert!(zookeeper.call(&["get", "/quorate/nodes/n2"]).contains(&addresses[1]), "as ZooKeeper's own client sees it");

    zookeeper.stop();
    cluster.connection("n1").expect(201, &Request::put(b"k", "without it"));
    zookeeper.begin();
    until_found(&spec, &addresses);

    cluster.node("n2").signal(Signal::STOP);
    let start = now();
    until_found(&spec, &[addresses[0].clone(), addresses[2].clone()]);
    tell(format_args!("a node that stood still was out of ZooKeeper after {:?}", since(start)));
    cluster.node("n2").signal(Signal::CONT);
    until_found(&spec, &addresses);

    cluster.node_mut("n3").kill();
    cluster.node_mut("n3").start_with(&arguments);
    cluster.until_ready();
    until_found(&spec, &addresses);
    // The entry is that of the new start: that of the old one is gone by now, or will not be missed.
    pause(7000);
    assert_eq!(found(&[&spec]), addresses);
    cluster.node("n3").signal(Signal::TERM);
    assert!(cluster.node_mut("n3").wait(Duration::from_secs(20)).success());
    assert_eq!(found(&[&spec]), addresses[..2], "who stops takes its entry back");
}

#[track_caller]
fn until_found(spec: &str, addresses: &[String]) {
    until(&format!("{spec} finds {addresses:?}"), NOTICE_LIMIT, || match found(&[spec]) {
        found if found == addresses => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

#[test]
fn wrong_paths_and_permissions_are_told() {
    let mut cluster = Cluster::empty();
    let Some(zookeeper) = ZooKeeper::start(cluster.folder()) else { return };
    let (problem, exit) = why_not(&[&zookeeper.spec("/nowhere")]);
    assert!(problem.contains("/nowhere: no node has registered there") && exit == Some(3), "{problem} {exit:?}");
    zookeeper.call(&["create", "/empty", ""]);
    let (problem, exit) = why_not(&[&zookeeper.spec("/empty")]);
    assert!(problem.contains("no node is registered below /empty") && exit == Some(3), "{problem} {exit:?}");
    // A server that is down is passed over.
    let (problem, exit) = why_not(&[&zookeeper.spec("/empty").replace("zk://", "zk://127.0.0.1:1,")]);
    assert!(problem.contains("no node is registered below /empty") && exit == Some(3), "{problem} {exit:?}");
    // What somebody else keeps under a node's name stays there.
    zookeeper.call(&["create", "/others", ""]);
    zookeeper.call(&["create", "/others/n9", "mine"]);
    let name = cluster.add("n9");
    cluster.node_mut(&name).start_with(&["--expect", "2", "--join", &zookeeper.spec("/others")]);
    until_awaited(&cluster, &name, "stands below /others under the name of this node");
    assert!(zookeeper.call(&["get", "/others/n9"]).contains("mine"));
    // Nobody may do anything there but change the permissions; one may read, but not write.
    for (path, permissions, is_readable) in [("/closed", "world:anyone:a", false), ("/read-only", "world:anyone:ra", true)] {
        let created = zookeeper.call(&["create", path, "", permissions]);
        assert!(created.contains(&format!("Created {path}")), "{created}");
        let spec = zookeeper.spec(path);
        let (problem, exit) = why_not(&[&spec]);
        assert_eq!(
            (problem.contains("does not permit it"), exit),
            (!is_readable, Some(if is_readable { 3 } else { 1 })),
            "{path}"
        );
        let name = cluster.add(&path[1..]);
        cluster.node_mut(&name).start_with(&["--expect", "2", "--join", &spec]);
        until_awaited(&cluster, &name, &format!("the access list of {path} must let"));
    }
}

/// What is found is of two clusters: a node joins neither, and names both. Members of two clusters refuse each other by name.
#[test]
fn clusters_do_not_mix() {
    let mut cluster = Cluster::empty();
    for name in ["a1", "b1", "b2"] {
        cluster.add(name);
    }
    cluster.node_mut("a1").start(&[]);
    cluster.node_mut("b1").start(&[]);
    cluster.until_ready();
    let ids = ["a1", "b1"].map(|name| cluster.status(name).id);
    assert_ne!(ids[0], ids[1]);
    let [a1, b1] = ["a1", "b1"].map(|name| cluster.node(name).client_address.clone());
    for arguments in [["--join", &format!("{a1},{b1}"), "--log", "info"], ["--join", &format!("{b1},{a1}"), "--expect", "3"]] {
        cluster.node_mut("b2").start_with(&arguments);
        for id in &ids {
            until_awaited(&cluster, "b2", id);
        }
        until_awaited(&cluster, "b2", "joining none of several clusters");
        cluster.node_mut("b2").kill();
    }
    cluster.node_mut("b2").start_with(&["--join", &b1]);
    assert_one_cluster(&mut cluster, &["b1", "b2"]);

    // A node of cluster A listens where B's peers look for b2.
    cluster.node_mut("b2").kill();
    cluster.node_mut("a1").kill();
    cluster.node_mut("a1").peer_address = cluster.node("b2").peer_address.clone();
    cluster.node_mut("a1").start(&[]);
    until("b1 is refused, and told both clusters", NOTICE_LIMIT, || {
        let log = cluster.node("b1").log_tail();
        let told = format!("this node belongs to cluster {}, not to cluster {}", ids[0], ids[1]);
        if log.contains(&told) { Ok(()) } else { Err(log) }
    });
    cluster.until_status("a1", "alone", |status| status.nodes.len() == 1);
    cluster.until_status("b1", "with b2", |status| status.nodes.len() == 2);
}
