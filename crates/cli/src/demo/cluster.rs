//! The nodes of a demo together: started, waited for, watched, stopped.

use std::path::Path;
use std::time::Duration;

use quorate_client::{Client, Endpoint, Options};
use tokio::time::{sleep, timeout};

use super::folder::Folder;
use super::node_process::NodeProcess;
use super::ports::{self, NodePorts};
use crate::exit::{Failure, note};

/// Running nodes. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Cluster {
    nodes: Vec<NodeProcess>,
    /// Positions of nodes whose death was reported.
    reported: Vec<usize>,
}

/// How long the nodes may take to be ready, all together.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long they may take to hand over and stop; a node with a slow disk finishes its last write in this time.
const STOP_LIMIT: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_millis(50);

impl Cluster {
    /// Starts a node for each pair of ports; all but the first join the first. Returns at once: see [`Self::until_ready`].
    pub(crate) fn start(ports: &[NodePorts], folder: &Folder) -> Result<Self, Failure> {
        let mut cluster = Self { nodes: Vec::new(), reported: Vec::new() };
        // They share the processors: with threads for all of these in each node, much time goes into waking threads.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let io_threads = (processors / ports.len().max(1)).max(1);
        for (position, &ports) in ports.iter().enumerate() {
            let first = cluster.nodes.first().map(|node| node.client_address.clone());
            let node = NodeProcess::start(position + 1, ports, folder.path(), (first.as_deref(), io_threads));
            cluster.nodes.push(node.map_err(|error| Failure::failed(format!("cannot start node {}: {error}", position + 1)))?);
        }
        Ok(cluster)
    }

    /// A cluster on any free ports in a temporary folder, ready to be used.
    pub(crate) async fn start_temporary(nodes: u16) -> Result<(Self, Folder), Failure> {
        let folder = Folder::temporary()?;
        let mut cluster = Self::start(&ports::choose(nodes, None)?, &folder)?;
        cluster.until_ready().await?;
        Ok((cluster, folder))
    }

    pub(crate) fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.nodes.iter().map(endpoint).collect()
    }

    /// Waits until every node is ready; the failure shows the end of the log of the one that is not.
    pub(crate) async fn until_ready(&mut self) -> Result<(), Failure> {
        let mut last_word = String::new();
        let ready = timeout(START_LIMIT, async {
            for node in &mut self.nodes {
                until_node_ready(node, &mut last_word).await?;
            }
            Ok(())
        });
        match ready.await {
            Ok(result) => result,
            Err(_) => Err(Failure::failed(format!("not ready after {} s: {last_word}", START_LIMIT.as_secs()))),
        }
    }

    /// A line about each node that died since the last call.
    pub(crate) fn newly_dead(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for (position, node) in self.nodes.iter_mut().enumerate() {
            if self.reported.contains(&position) {
                continue;
            }
            if let Some(status) = node.exit_status() {
                self.reported.push(position);
                lines.push(format!("{} is down ({status}); start it again with\n  {}", node.name, node.command_line(&program())));
            }
        }
        lines
    }

    /// Asks all nodes to stop and waits; those that do not in time are killed.
    pub(crate) async fn stop(&mut self) -> Result<(), Failure> {
        self.nodes.iter_mut().for_each(NodeProcess::terminate);
        let all_stopped = async {
            while self.nodes.iter_mut().any(|node| node.exit_status().is_none()) {
                sleep(POLL_INTERVAL).await;
            }
        };
        if timeout(STOP_LIMIT, all_stopped).await.is_err() {
            for node in self.nodes.iter_mut().filter_map(|node| node.exit_status().is_none().then_some(node)) {
                note(format_args!("quorate: {} did not stop within {} s and is killed", node.name, STOP_LIMIT.as_secs()));
            }
        }
        self.kill();
        Ok(())
    }

    pub(crate) fn kill(&mut self) {
        self.nodes.iter_mut().for_each(NodeProcess::kill);
    }
}

/// How this program can be called from here.
pub(crate) fn program() -> String {
    let path = std::env::current_exe().unwrap_or_else(|_| "quorate".into());
    let here = std::env::current_dir().ok().and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    let path = here.unwrap_or(path).to_string_lossy().into_owned();
    // A shell looks for a bare name elsewhere.
    super::node_process::shell_word(&if path.contains('/') { path } else { format!("./{path}") })
}

fn endpoint(node: &NodeProcess) -> Endpoint {
    node.client_address.parse().expect("the demo chose this address")
}

async fn until_node_ready(node: &mut NodeProcess, last_word: &mut String) -> Result<(), Failure> {
    let options = Options { timeout: Duration::from_secs(1), max_rounds: 1, ..Options::default() };
    let client = Client::new(vec![endpoint(node)], options);
    loop {
        if let Some(status) = node.exit_status() {
            return Err(Failure::failed(format!(
                "{} did not start ({status}); the end of its log:\n{}",
                node.name,
                node.log_tail()
            )));
        }
        match client.ready().await {
            Ok(()) => return Ok(()),
            Err(error) => *last_word = format!("{}: {error}; the end of its log:\n{}", node.name, node.log_tail()),
        }
        sleep(POLL_INTERVAL).await;
    }
}
