//! Cluster administration over REST: who is in it, who leads, joining and leaving.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterStatus {
    /// The cluster's id, 16 hexadecimal digits.
    pub id: String,
    /// The node that answered.
    pub served_by: String,
    /// The leader of the system keyspace, if one is known.
    pub leader: Option<String>,
    /// Every node, by name.
    pub nodes: Vec<NodeStatus>,
    /// Every shard that the answering node hosts.
    pub shards: Vec<ShardStatus>,
}

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// The unique name.
    pub name: String,
    /// Where clients find it, `host:port`; empty for a node that has not come yet.
    pub client_address: String,
    /// Where peers find it, `host:port`.
    pub peer_address: String,
    /// In the system keyspace: `voter` or `learner`; `leaving` while it is removed, `announced` before it has come.
    pub role: String,
    /// Whether the answering node is connected to it.
    pub is_connected: bool,
}

/// One shard, as the answering node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShardStatus {
    /// The keyspace.
    pub keyspace: String,
    /// The Raft group.
    pub group: u64,
    /// The leading node, if one is known.
    pub leader: Option<String>,
    /// The answering node's role: `leader`, `follower`, `candidate`, `pre_candidate`.
    pub role: String,
    /// The term.
    pub term: u64,
    /// The commit index.
    pub commit_index: u64,
    /// The applied index.
    pub applied_index: u64,
    /// The first index that is still in the log.
    pub first_index: u64,
    /// The last index in the log.
    pub last_index: u64,
    /// The published revision.
    pub revision: u64,
    /// Keys and records, in bytes.
    pub data_bytes: u64,
    /// Names of the nodes with a voting replica.
    pub voters: Vec<String>,
    /// Names of the nodes with a learning replica.
    pub learners: Vec<String>,
}

/// `GET /v1/cluster/nodes`, and other lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Items<T> {
    /// What there is.
    pub items: Vec<T>,
}

/// `POST /v1/cluster/nodes`: a node asks to be let in. Asked again with the same `token`, it gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The unique name.
    pub name: String,
    /// Where clients shall find it, `host:port`.
    pub client_address: String,
    /// Where peers shall find it, `host:port`.
    pub peer_address: String,
    /// Drawn by the joining node and kept in its data folder, so that its own retry is told from another node of that name.
    #[serde(default)]
    pub token: String,
}

/// The answer: who the node is from now on, and where the others are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinAnswer {
    /// The cluster's id, 16 hexadecimal digits.
    pub cluster_id: String,
    /// The node's id, never used before and never again.
    pub node_id: u64,
    /// Its replica of the system keyspace.
    pub system_replica: u64,
    /// The other nodes.
    pub peers: Vec<PeerAddress>,
}

/// `POST /v1/cluster/formation`: what nodes tell each other before they are of a cluster, in both directions; a node that is of
/// one says of which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Formation {
    /// The unique name.
    pub name: String,
    /// Drawn for the data folder, 16 hexadecimal digits; empty as long as there is none, and once the node is of a cluster.
    pub id: String,
    /// Where clients find it, `host:port`.
    pub client_address: String,
    /// With how many nodes it begins a cluster; nothing if it only joins one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<u32>,
    /// Which candidacy of this node; what was promised to it in an earlier one is void.
    pub round: u64,
    /// Whom it lets begin the cluster; durable before it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promised: Option<FormationPromise>,
    /// The cluster that it is of, 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
}

/// That a node lets another, or itself, begin the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FormationPromise {
    /// The id of that node.
    pub id: String,
    /// Which candidacy of it.
    pub round: u64,
}

/// `PUT /v1/cluster/nodes/{name}/addresses`: a member says where it is found from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressChange {
    /// The cluster that it is of, 16 hexadecimal digits; another one refuses.
    pub cluster_id: String,
    /// The node's id.
    pub node_id: u64,
    /// Where clients find it, `host:port`.
    pub client_address: String,
    /// Where peers find it, `host:port`.
    pub peer_address: String,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerAddress {
    /// The node's id.
    pub node_id: u64,
    /// The node's replica of the system keyspace.
    pub system_replica: u64,
    /// `host:port`.
    pub peer_address: String,
}

/// `POST /v1/cluster/leader`: hand leadership over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// To this node; without it, to the voter that is furthest.
    #[serde(default)]
    pub to: Option<String>,
    /// Of this keyspace; without it, of every keyspace.
    #[serde(default)]
    pub keyspace: Option<String>,
}

/// The answer to a [`TransferRequest`]: who leads what now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransferAnswer {
    /// Keyspaces and their leaders' names.
    pub items: Vec<KeyspaceLeader>,
}

/// A keyspace and who leads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyspaceLeader {
    /// The keyspace.
    pub keyspace: String,
    /// The leader's name, if one is known.
    pub leader: Option<String>,
}
