//! A cluster of nodes in a temporary folder.

use std::path::Path;
use std::process::Output;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_api::cluster::{ClusterStatus, ShardStatus};
use quorate_api::key::DEFAULT_KEYSPACE;
use serde_json::Value;
use tempfile::TempDir;

use super::http::{Connection, Request};
use super::process::{NodeProcess, program};
use super::time::{now, pause, since, tell, until};
use super::work::Work;

/// How long a cluster, or a node of it, may take until it is ready; on a machine that does other things too.
pub(crate) const READY_LIMIT: Duration = Duration::from_secs(30);

/// How long it may take until there is a leader who says so.
const LEADER_LIMIT: Duration = Duration::from_secs(15);

/// Largest page of a list.
const PAGE_ITEMS: usize = 10_000;

/// Nodes, running or not. Dropping it kills them and removes their data; if the test has failed, it shows their logs and keeps
/// the data.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<NodeProcess>,
    folder: TempDir,
    made: Instant,
    /// Two clusters would disturb each other's clocks.
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// No node yet. Waits until no other test of this process has a cluster.
    pub(crate) fn empty() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        // A test that failed with its turn has ended its nodes.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a temporary folder can be made");
        Self { nodes: Vec::new(), folder, made: now(), _turn: turn }
    }

    /// Nodes n1, n2, ..., all ready.
    pub(crate) fn ready(count: usize) -> Self {
        Self::ready_with(count, &[])
    }

    /// The same, each started with further arguments.
    pub(crate) fn ready_with(count: usize, arguments: &[&str]) -> Self {
        let mut cluster = Self::empty();
        let start = now();
        for number in 1..=count {
            let name = cluster.add(&format!("n{number}"));
            let first = cluster.node("n1").client_address.clone();
            let join: &[&str] = if number == 1 { &[] } else { &["--join", &first] };
            cluster.node_mut(&name).start_with(&[join, arguments].concat());
        }
        cluster.until_ready();
        tell(format_args!("{count} nodes ready after {:?}", since(start)));
        cluster
    }

    /// One more node; it is not started.
    pub(crate) fn add(&mut self, name: &str) -> String {
        self.nodes.push(NodeProcess::new(name, self.folder.path()));
        name.to_owned()
    }

    /// The same, with these addresses for clients and peers.
    pub(crate) fn add_at(&mut self, name: &str, addresses: [String; 2]) {
        self.nodes.push(NodeProcess::at(name, self.folder.path(), addresses));
    }

    /// Where the nodes have their data and logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[track_caller]
    pub(crate) fn node(&self, name: &str) -> &NodeProcess {
        self.nodes.iter().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    #[track_caller]
    pub(crate) fn node_mut(&mut self, name: &str) -> &mut NodeProcess {
        self.nodes.iter_mut().find(|node| node.name == name).unwrap_or_else(|| panic!("no node {name}"))
    }

    pub(crate) fn connection(&self, name: &str) -> Connection {
        self.node(name).connection()
    }

    /// Names of the nodes whose process runs.
    pub(crate) fn running(&self) -> Vec<String> {
        self.nodes.iter().filter(|node| node.is_running()).map(|node| node.name.clone()).collect()
    }

    /// A running node that is none of these.
    #[track_caller]
    pub(crate) fn other_than(&self, names: &[&str]) -> String {
        let mut running = self.running().into_iter();
        running.find(|name| !names.contains(&name.as_str())).unwrap_or_else(|| panic!("no node but {names:?} runs"))
    }

    /// Client addresses of all nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client_address.clone()).collect()
    }

    /// Starts a node again, with the data it has.
    pub(crate) fn restart(&mut self, name: &str) {
        self.node_mut(name).start(&[]);
    }

    /// Waits until every running node says that it is ready.
    #[track_caller]
    pub(crate) fn until_ready(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.is_running()) {
            let mut connection = Connection::with_patience(&node.client_address, Duration::from_secs(5));
            until(&format!("{} ready", node.name), READY_LIMIT, || {
                if let Some(status) = node.unexpected_end() {
                    panic!("{} has ended: {status}; its log:\n{}", node.name, node.log_tail());
                }
                match connection.send(&Request::new("GET", "/readyz")) {
                    Ok(answer) if answer.status == 200 => Ok(()),
                    Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
                    Err(error) => Err(format!("{error:?}")),
                }
            });
        }
    }

    /// Kills whoever leads and starts it again, so many times, each after a work beside it has done so many steps more; then the
    /// work is over.
    #[track_caller]
    pub(crate) fn kill_leaders(&mut self, times: usize, work: &Work, steps: u64) {
        let _end = work.end();
        for _ in 0..times {
            let before = work.steps();
            until("the work goes on", Duration::from_mins(1), || match work.steps() - before {
                done if done > steps => Ok(()),
                done => Err(format!("{done} steps")),
            });
            let leader = self.leader();
            self.node_mut(&leader).kill();
            pause(500);
            self.restart(&leader);
            self.until_ready();
        }
    }

    /// What a node says of the cluster.
    #[track_caller]
    pub(crate) fn status(&self, name: &str) -> ClusterStatus {
        self.connection(name).expect(200, &Request::new("GET", "/v1/cluster")).json()
    }

    /// The node that leads keyspace `default`, by its own word.
    #[track_caller]
    pub(crate) fn leader(&self) -> String {
        until("a leader", LEADER_LIMIT, || {
            let leads = |name: &String| {
                let mut connection = Connection::with_patience(&self.node(name).client_address, Duration::from_secs(1));
                let status: ClusterStatus = connection.send(&Request::new("GET", "/v1/cluster")).ok()?.json();
                let shard = default_shard(status)?;
                (shard.role == "leader").then_some((shard.term, name.clone()))
            };
            self.running().iter().filter_map(leads).max().map(|(_, name)| name).ok_or_else(|| "no leader".to_owned())
        })
    }

    /// Waits until the node says this of the cluster.
    #[track_caller]
    pub(crate) fn until_status(&self, name: &str, what: &str, is_so: impl Fn(&ClusterStatus) -> bool) {
        until(&format!("{name}: {what}"), READY_LIMIT, || {
            let status = self.status(name);
            if is_so(&status) { Ok(()) } else { Err(format!("{status:?}")) }
        });
    }

    /// Waits until a write and a read through this node succeed; how long that took.
    #[track_caller]
    pub(crate) fn until_serving(&self, name: &str, limit: Duration) -> Duration {
        let start = now();
        let key = format!("probe/{name}");
        let mut connection = self.connection(name);
        until(&format!("{name} serves"), limit, || {
            for request in [Request::put(key.as_bytes(), "x"), Request::get(key.as_bytes())] {
                match connection.send(&request.with_query("timeout=1s")) {
                    Ok(answer) if answer.status < 300 => {}
                    other => return Err(format!("{other:?}")),
                }
            }
            Ok(())
        });
        since(start)
    }

    /// Waits until every running node can use a keyspace.
    #[track_caller]
    pub(crate) fn until_keyspace(&self, keyspace: &str) {
        for name in self.running() {
            let show = Request::new("GET", format!("/v1/keyspaces/{keyspace}?consistency=local"));
            until(&format!("{name} has {keyspace}"), READY_LIMIT, || match self.connection(&name).send(&show) {
                Ok(answer) if answer.status == 200 && answer.text().contains(r#""state":"ready""#) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }

    /// Waits until every running node reads an eventual keyspace by itself: before, another one answers for it.
    #[track_caller]
    pub(crate) fn until_read_everywhere(&self, keyspace: &str) {
        self.until_keyspace(keyspace);
        for name in self.running() {
            let get = Request::new("GET", format!("/v1/kv/{keyspace}/nothing"));
            until(&format!("{name} reads {keyspace}"), READY_LIMIT, || match self.connection(&name).send(&get) {
                Ok(answer) if answer.status == 404 && answer.header("quorate-node") == Some(&name) => Ok(()),
                other => Err(format!("{other:?}")),
            });
        }
    }

    /// Calls the program as a client of this node.
    pub(crate) fn call(&self, name: &str, arguments: &[&str]) -> Output {
        let mut command = program();
        command.args(arguments).args(["--endpoint", &format!("http://{}", self.node(name).client_address)]);
        command.output().expect("the program can be called")
    }

    /// As [`Self::call`], and panics unless it succeeds.
    #[track_caller]
    pub(crate) fn must_call(&self, name: &str, arguments: &[&str]) -> Vec<u8> {
        let output = self.call(name, arguments);
        assert!(output.status.success(), "quorate {arguments:?}: {output:?}");
        output.stdout
    }

    /// Every entry of `default` as a node lists it, up to date when this is called.
    #[track_caller]
    pub(crate) fn list(&self, name: &str) -> Vec<Value> {
        let mut connection = self.connection(name);
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let target = format!("/v1/kv/default?values=true&limit={PAGE_ITEMS}{cursor}");
            let mut page: Value = connection.expect(200, &Request::new("GET", target)).json();
            let Value::Array(found) = page["items"].take() else { panic!("a list without items: {page}") };
            items.extend(found);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return items,
            }
        }
    }

    /// Panics unless all running nodes list the same entries. Nobody may be writing.
    #[track_caller]
    pub(crate) fn assert_same_everywhere(&self) {
        let mut lists = self.running().into_iter().map(|name| (self.list(&name), name));
        let (first, first_name) = lists.next().expect("a node runs");
        for (list, name) in lists {
            let difference = list.iter().zip(&first).find(|(one, other)| one != other);
            assert_eq!((list.len(), difference), (first.len(), None), "{name} (left) and {first_name} differ");
        }
    }
}

/// The shard of keyspace `default`, if the node hosts it.
pub(crate) fn default_shard(status: ClusterStatus) -> Option<ShardStatus> {
    status.shards.into_iter().find(|shard| shard.keyspace == DEFAULT_KEYSPACE)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        tell(format_args!("the cluster was used for {:?}", since(self.made)));
        if std::thread::panicking() {
            self.nodes.iter().for_each(show);
            self.folder.disable_cleanup(true);
            tell(format_args!("their data and logs are kept in {}", self.folder.path().display()));
        }
    }
}

/// What may tell why a test failed.
fn show(node: &NodeProcess) {
    let mut connection = Connection::with_patience(&node.client_address, Duration::from_secs(1));
    let state = match connection.send(&Request::new("GET", "/v1/cluster")) {
        _ if !node.is_running() => "was ended by the test".to_owned(),
        Ok(answer) => answer.text(),
        Err(error) => format!("{error:?}"),
    };
    tell(format_args!("\n--- {}, clients at {}: {state}\n{}", node.name, node.client_address, node.log_tail()));
}
