//! What a node says of itself, and the bodies of the compat routes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/node`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeInfo {
    /// The unique name.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// What it accepts.
    pub limits: NodeLimits,
}

/// What a node accepts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NodeLimits {
    /// Longest key.
    pub max_key_bytes: u64,
    /// Largest value.
    pub max_value_bytes: u64,
    /// Most pairs of a page of a list.
    pub max_list_items: u64,
    /// Bytes of keys and values after which a page ends.
    pub max_list_bytes: u64,
    /// Most operations of a batch that is one JSON object.
    #[serde(default)]
    pub max_batch_ops: u64,
    /// Largest body of such a batch, and largest line of a batch as lines.
    #[serde(default)]
    pub max_batch_bytes: u64,
    /// Most compares of a transaction, and most operations on each side.
    #[serde(default)]
    pub max_txn_ops: u64,
    /// Largest body of a transaction.
    #[serde(default)]
    pub max_txn_bytes: u64,
    /// Longest time limit of a request.
    pub max_timeout_ms: u64,
    /// Time limit of a request that names none.
    pub default_timeout_ms: u64,
    /// Most connections at a time.
    pub max_connections: u64,
}

/// Every error, and some successes, of the compat routes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Message {
    /// For people.
    pub message: String,
}

/// A node in the compat routes' words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompatNode {
    /// The node's name.
    pub id: String,
    /// Where clients find it.
    pub address: String,
}

/// `GET /status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompatStatus {
    /// The node that answered.
    pub me: CompatNode,
    /// The leader of keyspace `default`, if one is known.
    pub leader: Option<CompatNode>,
    /// The other voters of keyspace `default`.
    pub followers: Vec<CompatNode>,
}

/// `POST /join`, in either program's words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompatJoin {
    /// The node's name.
    #[serde(alias = "node_id")]
    pub id: String,
    /// Its peer address.
    #[serde(alias = "address")]
    pub addr: String,
}
