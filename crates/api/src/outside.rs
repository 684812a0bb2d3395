//! Stores outside the nodes, as a keyspace's figures tell of them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a node stands with a store outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutsideStats {
    /// Whether the node could open it: it has what the settings name, such as credentials.
    pub is_open: bool,
    /// Whether the store answered when it was asked just now.
    pub is_reachable: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How the cache in front fares on this node, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<FrontCacheFigures>,
    /// What this node asked of the store, past the cache, since it knows the keyspace: one for each sort of call.
    #[serde(default)]
    pub calls: Vec<StoreCallFigures>,
}

/// How far a store outside is behind a node's replica. Counts are since the replica was opened there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BehindBody {
    /// Keys that the store has not got as the replica has them; with `is_spilled`, there are more.
    pub waiting_keys: u64,
    /// Bytes of these keys and values, and 256 for each.
    pub waiting_bytes: u64,
    /// The bound: then writes wait, and are refused after a while.
    pub max_waiting_bytes: u64,
    /// More keys wait than are kept in memory; the node's disk knows which.
    pub is_spilled: bool,
    /// For how long the first of them has waited, in milliseconds; 0 if none does.
    pub oldest_ms: u64,
    /// Values and removals that the store has taken.
    pub written: u64,
    /// Changes that the store was spared, because their key changed again before its turn came.
    pub coalesced: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Keys that the store does not take as they are (too large, or not to be named so), or that fail while it takes others. They
    /// are tried again now and then.
    pub refused_keys: u64,
    /// Why the last attempt failed, if none has succeeded since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What this node asked of the store since it started: one for each sort of call.
    #[serde(default)]
    pub calls: Vec<StoreCallFigures>,
}

/// How calls of one sort to a store outside fared. Retries are within a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreCallFigures {
    /// `get`, `put`, `delete`, `scan` (one page of a list) or `check`.
    pub call: String,
    /// Calls that ended, well or not.
    pub ended: u64,
    /// Calls that run, or wait until they may.
    pub in_flight: u64,
    /// How long those that ended took together, in microseconds.
    pub total_us: u64,
    /// How many of them failed, by code.
    pub failed: BTreeMap<String, u64>,
}

/// How a cache in front of a store fares, since the node knows the keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FrontCacheFigures {
    /// Reads that it answered.
    pub hits: u64,
    /// Reads that it answered with a value beyond its time, because the store failed.
    pub stale: u64,
    /// Reads that went to the store.
    pub fetched: u64,
    /// Reads that waited for another's.
    pub joined: u64,
}
