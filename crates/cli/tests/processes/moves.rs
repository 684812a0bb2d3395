//! A keyspace of some size moves from engine to engine under load: nobody is refused anything, and a node that is killed in any
//! phase of it has the old engine or the new one, whole.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Cluster, Connection, Load, Request, now, pause, since, tell, until};

/// How long a move may take, with a node that is killed and started again on its way.
const MOVE_LIMIT: Duration = Duration::from_mins(2);

/// How long a node may take until it serves again.
const BACK_LIMIT: Duration = Duration::from_secs(30);

/// What clients see of a kill goes on for so long after the node is ready again: connections that broke, and a leader that is
/// new.
const AFTERMATH: Duration = Duration::from_secs(2);

const KEYSPACE: &str = "/v1/keyspaces/default";

/// Each engine is moved from and to.
const ENGINES: [&str; 4] = ["btree", "hash", "lsm", "trie"];

/// Pairs that nobody changes: 24 MiB.
const PAIR_COUNT: usize = 12_000;
const VALUE_BYTES: usize = 2 << 10;
const BATCH_LEN: usize = 500;

/// What the load writes besides, so that there is something to replay once an engine is built.
const LOAD_VALUE_BYTES: usize = 8 << 10;

/// When a node is killed. A phase that is over before anybody sees it is tried again with the next move, so often.
const MAX_TRIES: usize = 5;

/// A phase of one replica's move.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// The job says so: `cutting`, `building`, `replaying`.
    Job(&'static str),
    /// The new engine serves.
    Switched,
    /// What the old engine had on the disk is gone.
    Dropped,
}

const PHASES: [Phase; 5] =
    [Phase::Job("cutting"), Phase::Dropped, Phase::Job("building"), Phase::Switched, Phase::Job("replaying")];

fn get(connection: &mut Connection, path: &str) -> Result<Value, String> {
    match connection.send(&Request::new("GET", path)) {
        Ok(answer) if answer.status == 200 => Ok(answer.json()),
        other => Err(format!("{other:?}")),
    }
}

fn begin_move(cluster: &Cluster, asked: &str, engine: &str) {
    let settings = json!({"engine": {"type": engine}}).to_string();
    cluster.connection(asked).expect(200, &Request::json("PATCH", KEYSPACE, settings));
}

/// Waits until the catalog and every node say that the move is over. What the first node told of replicas that moved.
#[track_caller]
fn until_moved(cluster: &Cluster, engine: &str) -> Vec<Value> {
    let mut told = Vec::new();
    until(&format!("the move to {engine} is over"), MOVE_LIMIT, || {
        let job = get(&mut cluster.connection("n1"), "/v1/jobs")?["items"][0].clone();
        told.extend(
            job["replicas"].as_array().into_iter().flatten().filter(|replica| replica["state"] == json!("moving")).cloned(),
        );
        if job["state"] != json!("done") {
            return Err(job.to_string());
        }
        for name in cluster.running() {
            let stats = get(&mut cluster.connection(&name), &format!("{KEYSPACE}/stats"))?;
            if stats["engine"] != json!(engine) {
                return Err(stats.to_string());
            }
        }
        Ok(())
    });
    told
}

fn key(number: usize) -> String {
    format!("bulk/{number:05}")
}

fn value(number: usize) -> String {
    format!("{number:08x}").repeat(VALUE_BYTES / 8)
}

fn fill(cluster: &Cluster) {
    let mut node = cluster.connection("n1");
    for first in (0..PAIR_COUNT).step_by(BATCH_LEN) {
        let op = |number| json!({"op": "put", "key": key(number), "value": value(number)});
        let ops: Vec<Value> = (first..first + BATCH_LEN).map(op).collect();
        node.expect(200, &Request::json("POST", "/v1/batch/default", json!({"ops": ops}).to_string()));
    }
}

/// Panics unless a node's own replica has every pair that nobody changes, as it was written.
#[track_caller]
fn assert_whole(cluster: &Cluster, name: &str) {
    let mut node = cluster.connection(name);
    let items = until(&format!("{name} lists what it has"), BACK_LIMIT, || list(&mut node));
    for (number, item) in items.iter().enumerate() {
        assert_eq!(item["key"], json!(key(number)), "{name}");
        assert!(item["value"] == json!(value(number)), "{name} has another value of {}", key(number));
    }
    assert_eq!(items.len(), PAIR_COUNT, "{name}");
}

/// All pairs that nobody changes, page by page. Begun anew where history begins anew: pages are of one revision.
fn list(node: &mut Connection) -> Result<Vec<Value>, String> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("/v1/kv/default?prefix=bulk/&values=true&limit=1000&consistency=local{cursor}");
        let page = get(node, &page)?;
        items.extend(page["items"].as_array().expect("a list has items").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(items),
        }
    }
}

#[test]
fn nobody_is_refused_anything_while_a_keyspace_moves() {
    let cluster = Cluster::ready(3);
    fill(&cluster);
    let load = Load::start_with(&cluster, LOAD_VALUE_BYTES);
    let mut told = Vec::new();
    for (round, engine) in ENGINES.iter().enumerate() {
        let begun = now();
        begin_move(&cluster, &format!("n{}", 1 + round % 3), engine);
        told.extend(until_moved(&cluster, engine));
        let silence = load.longest_silence(begun, now());
        tell(format_args!("moved to {engine} within {:?}; no write was acknowledged for {silence:?} at most", since(begun)));
        load.assert_answered_but_for(&[]);
        cluster.running().iter().for_each(|name| assert_whole(&cluster, name));
    }
    for name in cluster.running() {
        let is_half_done = |replica: &&Value| {
            let copied = replica["copied"].as_f64().unwrap_or(0.0);
            replica["node"] == json!(name) && replica["phase"] == json!("building") && copied > 0.0 && copied < 1.0
        };
        assert!(told.iter().any(|replica| is_half_done(&replica)), "n1 does not tell how far {name} is: {told:?}");
    }
    let tally = load.finish(&cluster);
    assert_eq!((tally.refused, tally.unknown), (0, 0));
}

#[test]
fn a_node_that_is_killed_in_any_phase_of_a_move_has_the_old_engine_or_the_new_whole() {
    let mut cluster = Cluster::ready(3);
    fill(&cluster);
    let load = Load::start_with(&cluster, LOAD_VALUE_BYTES);
    let mut outages = Vec::new();
    let mut engines = ENGINES.iter().copied().cycle();
    for phase in PHASES {
        let is_killed = (0..MAX_TRIES).any(|_| {
            let engine = engines.next().expect("it goes round");
            let killed = kill_in(&mut cluster, phase, engine);
            outages.extend(killed);
            until_moved(&cluster, engine);
            killed.is_some()
        });
        assert!(is_killed, "nobody was seen in {phase:?}");
        cluster.running().iter().for_each(|name| assert_whole(&cluster, name));
        load.assert_answered_but_for(&outages);
    }
    load.finish(&cluster);
}

/// Begins a move, kills the first node that is seen in this phase, starts it again, and looks whether it has everything. From
/// when to when that could be noticed; none if nobody was seen.
fn kill_in(cluster: &mut Cluster, phase: Phase, engine: &str) -> Option<(Instant, Instant)> {
    let names = cluster.running();
    let mut watched: Vec<Watched> = names.iter().map(|name| Watched::new(cluster, name, engine)).collect();
    begin_move(cluster, &names[0], engine);
    let begun = now();
    let killed = loop {
        if let Some(seen) = watched.iter_mut().position(|node| node.is_in(phase)) {
            break names[seen].clone();
        }
        if watched.iter_mut().all(|node| node.is_in(Phase::Switched)) {
            return None;
        }
        assert!(since(begun) < MOVE_LIMIT, "the move to {engine} does not end");
        pause(1);
    };
    let from = now();
    cluster.node_mut(&killed).kill();
    let left = engine_folders(cluster, &killed);
    cluster.restart(&killed);
    assert_whole(cluster, &killed);
    cluster.until_ready();
    tell(format_args!("{killed} killed {phase:?} on the way to {engine}, with {left:?}, ready again after {:?}", since(from)));
    Some((from, now() + AFTERMATH))
}

/// A node that is on its way to an engine.
struct Watched {
    name: String,
    engine: String,
    connection: Connection,
    /// Where the engine that it moves from is, if that is on the disk.
    old: Option<PathBuf>,
}

impl Watched {
    fn new(cluster: &Cluster, name: &str, engine: &str) -> Self {
        let old = engine_folders(cluster, name).pop();
        Self { name: name.to_owned(), engine: engine.to_owned(), connection: cluster.connection(name), old }
    }

    fn is_in(&mut self, phase: Phase) -> bool {
        match phase {
            Phase::Job(phase) => {
                let jobs = get(&mut self.connection, "/v1/jobs?consistency=local").unwrap_or_default();
                let replicas = jobs["items"][0]["replicas"].as_array().cloned().unwrap_or_default();
                replicas.iter().any(|replica| replica["node"] == json!(self.name) && replica["phase"] == json!(phase))
            }
            Phase::Switched => {
                let stats = get(&mut self.connection, &format!("{KEYSPACE}/stats")).unwrap_or_default();
                stats["engine"] == json!(self.engine)
            }
            Phase::Dropped => self.old.as_ref().is_some_and(|old| !old.exists()),
        }
    }
}

/// Where engines of the group that moves lie on a node's disk, the oldest first.
fn engine_folders(cluster: &Cluster, name: &str) -> Vec<PathBuf> {
    let engines = cluster.node(name).data_dir.join("engines");
    let entries = fs::read_dir(engines).expect("a node has engines").map(|entry| entry.expect("an entry can be read").path());
    // The first group after the system keyspace's.
    let is_of_default =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("0000000000000001-"));
    let mut folders: Vec<PathBuf> = entries.filter(is_of_default).collect();
    folders.sort();
    folders
}
