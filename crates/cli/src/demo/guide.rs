//! What the demo tells once it runs: for people, commands to paste; for programs, where everything is.

use serde_json::{Value, json};

use super::cluster::{Cluster, program};
use super::folder::Folder;
use super::node_process::NodeProcess;
use crate::exit::Failure;
use crate::output::Output;

pub(super) fn print(output: &mut Output, cluster: &Cluster, folder: &Folder) -> Result<(), Failure> {
    let nodes = cluster.nodes();
    let url = |position: usize| format!("http://{}", nodes[position % nodes.len()].client_address);
    let quorate = program();
    output.line(format_args!("A cluster is ready:\n"))?;
    let row = |node: &NodeProcess| vec![node.name.clone(), format!("http://{}", node.client_address), node.pid().to_string()];
    output.table(&["NODE", "CLIENTS AT", "PID"], nodes.iter().map(row))?;
    output.line("\nWrite through one node, read from another:\n")?;
    output.line(format_args!("  curl -X PUT --data-binary hello {}/v1/kv/default/greeting", url(0)))?;
    output.line(format_args!("  curl {}/v1/kv/default/greeting", url(1)))?;
    output.line(format_args!("  curl '{}/v1/kv/default?values=true'", url(2)))?;
    output.line("\nOr with this program:\n")?;
    let endpoints: Vec<String> = (0..nodes.len()).map(url).collect();
    output.line(format_args!("  export QUORATE_ENDPOINTS={}", endpoints.join(",")))?;
    output.line(format_args!("  {quorate} put color green"))?;
    output.line(format_args!("  {quorate} get color"))?;
    output.line(format_args!("  {quorate} cluster status"))?;
    if let [_, .., last] = nodes {
        let majority = if nodes.len() > 2 { "see that the others go on" } else { "see that writes wait for it" };
        output.line(format_args!("\nKill a node, and {majority}:\n\n  kill -9 {}", last.pid()))?;
    }
    let fate = if folder.is_temporary() { "removed at the end, or kept with --keep DIR" } else { "it stays" };
    output.line(format_args!("\nData and logs are in {} ({fate}). Ctrl-C stops the cluster.", folder.path().display()))
}

pub(super) fn description(cluster: &Cluster, folder: &Folder) -> Value {
    let node = |node: &NodeProcess| {
        json!({
            "name": node.name,
            "endpoint": format!("http://{}", node.client_address),
            "peer_address": node.peer_address,
            "pid": node.pid(),
            "data_dir": node.data_dir,
            "log": node.log,
            "command": node.command_line(&program()),
        })
    };
    json!({ "folder": folder.path(), "nodes": cluster.nodes().iter().map(node).collect::<Vec<_>>() })
}
