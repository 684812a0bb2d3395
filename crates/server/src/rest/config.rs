//! What can be set about the REST API.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What can be set about the REST API.
#[derive(Clone, Debug)]
pub struct RestConfig {
    /// The node's unique name; every answer carries it.
    pub node_name: String,
    /// Largest value that a request may carry.
    pub max_value_bytes: u64,
    /// Keys and values of a keyspace in memory whose settings do not say how much it takes.
    pub max_keyspace_bytes: u64,
    /// The shortest life of a lease, in milliseconds; what is asked for below it is raised.
    pub min_lease_ttl_ms: u64,
    /// Most connections at a time; further ones are closed as soon as they are accepted.
    pub max_connections: u32,
    /// Hosts that requests may name in `Host`, as `host` or `host:port`, beside `localhost`, loopback addresses and the
    /// address listened on: the advertised addresses and those of `--allow-host`. Ports do not matter. A listener on an
    /// unspecified address (`0.0.0.0`, `::`) accepts every IP address as host: a web page cannot make a browser send one
    /// that is not the server's own.
    pub allowed_hosts: Vec<String>,
    /// What `POST /key` does.
    pub compat_post_key: CompatPostKey,
    /// How long the head of a request may take. A connection may live up to half as long again, since this is looked at in
    /// steps.
    pub header_timeout: Duration,
    /// What has come of heads larger than 16 KiB that are not whole may take this many bytes together, over all connections;
    /// beyond it such connections are closed.
    pub max_head_memory_bytes: u64,
    /// How long a connection may do nothing between requests, or take for each 64 KiB of an answer.
    pub idle_timeout: Duration,
    /// How long the body of a request may make no progress.
    pub body_progress_timeout: Duration,
    /// After so long without a message a watch is told how far it knows everything.
    pub watch_progress_interval: Duration,
    /// How long the body of a request may take as a whole.
    pub body_timeout: Duration,
    /// What has come of bodies larger than 64 KiB may take this many bytes together, over all connections; beyond it such
    /// requests are refused as overload.
    pub max_body_memory_bytes: u64,
    /// Answers larger than 64 KiB may take this many bytes together until their readers have taken them, over all connections;
    /// beyond it such requests are refused as overload.
    pub max_answer_memory_bytes: u64,
    /// How long requests in flight may go on after shutdown began.
    pub shutdown_timeout: Duration,
}

/// What `POST /key` does with keys that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompatPostKey {
    /// Exactly one pair, and 409 if its key is there already.
    #[default]
    Create,
    /// Any number of pairs, in one atomic batch, each set whatever it was.
    Upsert,
}

impl RestConfig {
    /// The defaults, for a node of this name.
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            max_value_bytes: 3 << 19,
            max_keyspace_bytes: 1 << 30,
            min_lease_ttl_ms: quorate_node::Config::default().min_lease_ttl_ms(),
            max_connections: 20_000,
            allowed_hosts: Vec::new(),
            compat_post_key: CompatPostKey::default(),
            header_timeout: Duration::from_secs(10),
            max_head_memory_bytes: 64 << 20,
            idle_timeout: Duration::from_secs(90),
            body_progress_timeout: Duration::from_secs(30),
            watch_progress_interval: Duration::from_secs(10),
            body_timeout: Duration::from_mins(5),
            max_body_memory_bytes: 256 << 20,
            max_answer_memory_bytes: 512 << 20,
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}
