//! Nodes that are stopped in order, all of them in turn, and nodes that come back elsewhere.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Cluster, Connection, NodeProcess, Request, free_ports, now, pause, since, tell, until};

/// How long a stop may take by default; it takes far less where nothing is in the way.
const STOP_LIMIT: Duration = Duration::from_secs(15);

const CLIENTS: usize = 6;

/// Clients of all nodes, each of which sends a request that failed once more, to the next node, and to none after that.
struct Patience {
    is_over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    retried: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Patience {
    fn start(cluster: &Cluster) -> Self {
        let (is_over, done, retried) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let addresses = cluster.addresses();
        let client = |number: usize| {
            let (is_over, done, retried) = (Arc::clone(&is_over), Arc::clone(&done), Arc::clone(&retried));
            let addresses = addresses.clone();
            let work = move || {
                let mut lost = Vec::new();
                let mut connections: Vec<Connection> =
                    addresses.iter().map(|address| Connection::with_patience(address, Duration::from_secs(6))).collect();
                for round in 0_u64.. {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("client{number}/{}", round / 2 % 50);
                    let value = (round / 2).to_string();
                    let request = if round % 2 == 0 { Request::put(key.as_bytes(), value) } else { Request::get(key.as_bytes()) };
                    // Each client has a node of its own, whatever becomes of it.
                    let (first, second) = (number % addresses.len(), (number + 1) % addresses.len());
                    if let Err(why) = attempt(&mut connections[first], &request) {
                        retried.fetch_add(1, Ordering::Relaxed);
                        if let Err(again) = attempt(&mut connections[second], &request) {
                            lost.push(format!("{request:?}: {why}; then {again}"));
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    pause(2);
                }
                lost
            };
            std::thread::Builder::new().name(format!("client {number}")).spawn(work).expect("a thread can be started")
        };
        let clients = (0..CLIENTS).map(client).collect();
        Self { is_over, done, retried, clients }
    }

    /// Ends it, and holds that nothing was lost.
    #[track_caller]
    fn finish(self) {
        self.is_over.store(true, Ordering::Relaxed);
        let lost: Vec<String> = self.clients.into_iter().flat_map(|client| client.join().expect("no client panics")).collect();
        let (done, retried) = (self.done.load(Ordering::Relaxed), self.retried.load(Ordering::Relaxed));
        tell(format_args!("{done} requests, {retried} of them sent twice"));
        assert!(lost.is_empty(), "{} of {done} requests were lost; the first: {}", lost.len(), lost[0]);
        assert!(done > 500, "{done} requests are hardly any load");
    }
}

fn attempt(connection: &mut Connection, request: &Request) -> Result<(), String> {
    match connection.send(request) {
        Ok(answer) if answer.status < 300 => Ok(()),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
        Err(error) => Err(format!("{error:?}")),
    }
}

#[test]
fn a_rolling_restart_loses_no_request_that_is_sent_twice() {
    let mut cluster = Cluster::ready(3);
    let patience = Patience::start(&cluster);
    for name in ["n1", "n2", "n3"] {
        pause(500);
        let start = now();
        cluster.node(name).signal(Signal::TERM);
        let status = cluster.node_mut(name).wait(STOP_LIMIT);
        assert!(status.success(), "{name}: {status}; {}", cluster.node(name).log_tail());
        tell(format_args!("{name} had stopped after {:?}", since(start)));
        cluster.restart(name);
        cluster.until_ready();
    }
    patience.finish();
    cluster.assert_same_everywhere();
}

/// A request that stays at the node until its time limit: there is nothing to tell. Returns the answer's status.
fn wait_at(node: &NodeProcess, timeout: &str) -> JoinHandle<Option<u16>> {
    let mut connection = Connection::with_patience(&node.client_address, Duration::from_secs(10));
    let wait = Request::get(b"nothing").with_query(&format!("consistency=local&min_revision=1000000&timeout={timeout}"));
    let work = move || connection.send(&wait).ok().map(|answer| answer.status);
    std::thread::Builder::new().name("waiting".to_owned()).spawn(work).expect("a thread can be started")
}

/// Not ready before connections end; requests in flight are answered; exit code 0.
#[test]
fn a_node_that_stops_says_so_first_and_answers_what_it_was_asked() {
    let mut cluster = Cluster::ready(3);
    let leader = cluster.leader();
    cluster.node_mut(&leader).kill();
    cluster.node_mut(&leader).start_with(&["--stop-delay-ms", "4000"]);
    cluster.until_ready();
    let other = cluster.other_than(&[&leader]);
    cluster.must_call(&other, &["cluster", "transfer-leader", &leader]);
    let mut health = cluster.connection(&leader);
    let waiting = wait_at(cluster.node(&leader), "6s");
    pause(200);
    let start = now();
    cluster.node(&leader).signal(Signal::TERM);
    until("it says that it is not ready", Duration::from_secs(3), || match health.send(&Request::new("GET", "/readyz")) {
        Ok(answer) if answer.status == 503 && answer.text().contains("[-]draining") => Ok(()),
        other => Err(format!("{:?}", other.map(|answer| answer.text()))),
    });
    cluster.until_status(&other, "others lead", |status| {
        status.shards.iter().all(|shard| shard.leader.as_ref().is_some_and(|name| *name != leader))
    });
    health.expect(201, &Request::put(b"late", "it serves until connections end"));
    let status = cluster.node_mut(&leader).wait(STOP_LIMIT);
    assert!(status.success(), "{status}");
    let answered = waiting.join().expect("no panic");
    assert!(answered.is_some(), "what was asked before is answered");
    tell(format_args!("a stop that waits for a request of 6 s took {:?}", since(start)));
    assert_eq!(cluster.connection(&other).expect(200, &Request::get(b"late")).body, b"it serves until connections end");
}

/// Somebody who takes an answer slowly does not keep a node for longer than it was allowed.
#[test]
fn a_stop_has_a_limit() {
    let mut cluster = Cluster::empty();
    cluster.add("n1");
    cluster.node_mut("n1").start_with(&["--stop-timeout-ms", "1500"]);
    cluster.until_ready();
    let waiting = wait_at(cluster.node("n1"), "30s");
    pause(200);
    let start = now();
    cluster.node("n1").signal(Signal::TERM);
    let status = cluster.node_mut("n1").wait(STOP_LIMIT);
    let took = since(start);
    assert!(status.success() && took < Duration::from_secs(5), "{status} after {took:?}");
    drop(waiting.join());
    cluster.restart("n1");
    cluster.until_ready();
}

/// Gives a node that is down other ports.
fn move_elsewhere(node: &mut NodeProcess) {
    let ports = free_ports(2);
    [node.client_address, node.peer_address] = [0, 1].map(|place| format!("127.0.0.1:{}", ports[place]));
}

/// One node comes back elsewhere, and the others are not restarted; one was down when another moved. Then two change places, and
/// then all of them go elsewhere: no majority is left where it was, and `--join` says where they are now.
#[test]
fn nodes_that_move_are_found_again() {
    let mut cluster = Cluster::ready(3);
    let path = cluster.folder().join("nodes");
    let join = format!("file://{}", path.display());
    cluster.connection("n1").expect(201, &Request::put(b"k", "v"));

    cluster.node_mut("n2").kill();
    move_elsewhere(cluster.node_mut("n2"));
    let pids = ["n1", "n3"].map(|name| cluster.node(name).pid());
    cluster.node_mut("n2").start(&[]);
    assert_all_found(&mut cluster, "one node elsewhere");
    assert_eq!(["n1", "n3"].map(|name| cluster.node(name).pid()), pids, "nobody else was restarted");

    // One is down while another moves, and comes back when that one leads: it cannot answer before it has asked where that is.
    for name in ["n1", "n3"] {
        cluster.node_mut(name).kill();
    }
    move_elsewhere(cluster.node_mut("n3"));
    fs::write(&path, cluster.addresses().join("\n")).expect("a file can be written");
    cluster.node_mut("n3").start(&[&join]);
    cluster.until_ready();
    cluster.until_serving("n2", Duration::from_secs(10));
    cluster.must_call("n2", &["cluster", "transfer-leader", "n3"]);
    cluster.node_mut("n1").start(&[&join]);
    assert_all_found(&mut cluster, "one that was down meanwhile");

    for name in ["n1", "n3"] {
        cluster.node_mut(name).kill();
    }
    let places = ["n3", "n1"].map(|name| [cluster.node(name).client_address.clone(), cluster.node(name).peer_address.clone()]);
    for (name, place) in ["n1", "n3"].into_iter().zip(places) {
        let node = cluster.node_mut(name);
        [node.client_address, node.peer_address] = place;
    }
    fs::write(&path, cluster.addresses().join("\n")).expect("a file can be written");
    for name in ["n1", "n3"] {
        cluster.node_mut(name).start(&[&join]);
    }
    assert_all_found(&mut cluster, "two nodes in each other's place");

    for name in ["n1", "n2", "n3"] {
        cluster.node_mut(name).kill();
        move_elsewhere(cluster.node_mut(name));
    }
    fs::write(path, cluster.addresses().join("\n")).expect("a file can be written");
    for name in ["n1", "n2", "n3"] {
        cluster.node_mut(name).start(&[&join]);
    }
    assert_all_found(&mut cluster, "all nodes elsewhere");
    assert_eq!(cluster.connection("n3").expect(200, &Request::get(b"k")).body, b"v");
    cluster.until_serving("n2", Duration::from_secs(10));
}

/// Every node knows where every node is now, and is connected to it.
#[track_caller]
fn assert_all_found(cluster: &mut Cluster, what: &str) {
    let start = now();
    cluster.until_ready();
    for name in ["n1", "n2", "n3"] {
        cluster.until_status(name, what, |status| {
            status.nodes.len() == 3
                && status.nodes.iter().all(|node| {
                    let there = cluster.node(&node.name);
                    node.is_connected && node.client_address == there.client_address && node.peer_address == there.peer_address
                })
        });
    }
    tell(format_args!("{what}: found after {:?}", since(start)));
}
