//! `quorate cluster`: who is in it, who leads, removal, leader transfer.

use quorate_api::cluster::{ClusterStatus, Items, KeyspaceLeader, NodeStatus, ShardStatus, TransferRequest};
use serde_json::json;

use crate::args::{ClientArgs, ClusterCommand};
use crate::exit::Failure;
use crate::output::{Format, Output};

pub(crate) async fn run(command: ClusterCommand, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    match command {
        ClusterCommand::Status => status(&mut output, client).await?,
        ClusterCommand::Members => members(&mut output, client).await?,
        ClusterCommand::Remove { name } => remove(&mut output, client, &name).await?,
        ClusterCommand::TransferLeader { name } => transfer_leader(&mut output, client, name).await?,
    }
    output.finish()
}

async fn status(output: &mut Output, client: &ClientArgs) -> Result<(), Failure> {
    let cluster = client.client().cluster().await;
    let cluster = cluster.map_err(|error| Failure::of_request("read the cluster's status", &error))?;
    if output.format == Format::Json {
        return output.json(&cluster);
    }
    let ClusterStatus { id, served_by, leader, nodes, shards } = cluster;
    output.line(format_args!("cluster {id}, leader {}, as seen by {served_by}\n", shown_leader(leader.as_deref())))?;
    node_table(output, &nodes, leader.as_deref())?;
    output.line("")?;
    shard_table(output, &shards)
}

async fn members(output: &mut Output, client: &ClientArgs) -> Result<(), Failure> {
    let nodes = client.client().nodes().await.map_err(|error| Failure::of_request("list the members", &error))?;
    match output.format {
        Format::Json => output.json(&Items { items: nodes }),
        _ => node_table(output, &nodes, None),
    }
}

async fn remove(output: &mut Output, client: &ClientArgs, name: &str) -> Result<(), Failure> {
    let removed = client.client().remove_node(name).await;
    removed.map_err(|error| Failure::of_request(format!("remove {name}"), &error))?;
    match output.format {
        Format::Json => output.json(&json!({ "removed": name })),
        _ => output.line(format_args!("removed {name}")),
    }
}

async fn transfer_leader(output: &mut Output, client: &ClientArgs, to: Option<String>) -> Result<(), Failure> {
    let doing = format!("hand leadership over to {}", to.as_deref().unwrap_or("another node"));
    let request = TransferRequest { to, keyspace: client.given_keyspace().map(str::to_owned) };
    let answer = client.client().transfer_leader(&request).await;
    let answer = answer.map_err(|error| Failure::of_request(doing, &error))?;
    if output.format == Format::Json {
        return output.json(&answer);
    }
    let row = |KeyspaceLeader { keyspace, leader }| vec![keyspace, shown_leader(leader.as_deref()).to_owned()];
    output.table(&["KEYSPACE", "LEADER"], answer.items.into_iter().map(row))
}

fn node_table(output: &mut Output, nodes: &[NodeStatus], leader: Option<&str>) -> Result<(), Failure> {
    let row = |node: &NodeStatus| {
        let is_leader = leader == Some(node.name.as_str());
        let role = if is_leader { format!("{}, leader", node.role) } else { node.role.clone() };
        let connected = if node.is_connected { "yes" } else { "no" }.to_owned();
        vec![node.name.clone(), role, node.client_address.clone(), node.peer_address.clone(), connected]
    };
    output.table(&["NODE", "ROLE", "CLIENTS AT", "PEERS AT", "CONNECTED"], nodes.iter().map(row))
}

fn shard_table(output: &mut Output, shards: &[ShardStatus]) -> Result<(), Failure> {
    let header = ["KEYSPACE", "GROUP", "LEADER", "TERM", "COMMIT", "APPLIED", "LOG", "REVISION", "BYTES", "VOTERS", "LEARNERS"];
    let row = |shard: &ShardStatus| {
        vec![
            shard.keyspace.clone(),
            shard.group.to_string(),
            shown_leader(shard.leader.as_deref()).to_owned(),
            shard.term.to_string(),
            shard.commit_index.to_string(),
            shard.applied_index.to_string(),
            format!("{}-{}", shard.first_index, shard.last_index),
            shard.revision.to_string(),
            shard.data_bytes.to_string(),
            shard.voters.join(","),
            shard.learners.join(","),
        ]
    };
    output.table(&header, shards.iter().map(row))
}

fn shown_leader(leader: Option<&str>) -> &str {
    leader.unwrap_or("unknown")
}
