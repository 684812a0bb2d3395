//! What a keyspace can do, by name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that a keyspace can do or not, by the name that answers call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Lists cost what they return.
    Ordered,
    /// Lists of keys with a common beginning.
    Prefix,
    /// Lists between two keys.
    Range,
    /// Conditions: `If-Match`, `If-None-Match`, `cas`.
    Cas,
    /// A time to live for one pair.
    TtlPerKey,
    /// Transactions.
    Txn,
    /// Leases, and pairs that hang on them.
    Leases,
    /// Watches.
    Watch,
    /// Reads in the past.
    History,
    /// Backups while it is written to.
    Snapshot,
    /// Increments.
    Counters,
    /// Batches that are applied as one.
    AtomicBatch,
    /// Writes that are done once under an `Idempotency-Key`.
    Idempotency,
    /// Linearizable reads.
    Linearizable,
    /// Revisions that all nodes have in common: `min_revision`.
    Revisions,
    /// Writes that wait for other nodes as the request says: `ack`.
    Ack,
    /// Comparing when it is asked for: `sync`.
    Sync,
    /// What a client has seen goes with it from node to node: `Quorate-Session`.
    Sessions,
    /// Sending what was collected, or writing it to the store behind the replica, when it is asked for: `flush`.
    Flush,
}

impl Capability {
    /// All, in the order in which they are told.
    pub const ALL: [Self; 19] = [
        Self::Ordered,
        Self::Prefix,
        Self::Range,
        Self::Cas,
        Self::TtlPerKey,
        Self::Txn,
        Self::Leases,
        Self::Watch,
        Self::History,
        Self::Snapshot,
        Self::Counters,
        Self::AtomicBatch,
        Self::Idempotency,
        Self::Linearizable,
        Self::Revisions,
        Self::Ack,
        Self::Sync,
        Self::Sessions,
        Self::Flush,
    ];

    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Prefix => "prefix",
            Self::Range => "range",
            Self::Cas => "cas",
            Self::TtlPerKey => "ttl_per_key",
            Self::Txn => "txn",
            Self::Leases => "leases",
            Self::Watch => "watch",
            Self::History => "history",
            Self::Snapshot => "snapshot",
            Self::Counters => "counters",
            Self::AtomicBatch => "atomic_batch",
            Self::Idempotency => "idempotency",
            Self::Linearizable => "linearizable",
            Self::Revisions => "revisions",
            Self::Ack => "ack",
            Self::Sync => "sync",
            Self::Sessions => "sessions",
            Self::Flush => "flush",
        }
    }
}

/// What a keyspace can do; the rest is answered 422, naming the [`Capability`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "independent capabilities, each asked for by name")]
pub struct Capabilities {
    /// [`Capability::Ordered`].
    pub ordered: bool,
    /// [`Capability::Prefix`].
    pub prefix: bool,
    /// [`Capability::Range`].
    pub range: bool,
    /// [`Capability::Cas`].
    pub cas: bool,
    /// [`Capability::TtlPerKey`].
    pub ttl_per_key: bool,
    /// [`Capability::Txn`].
    pub txn: bool,
    /// [`Capability::Leases`].
    pub leases: bool,
    /// [`Capability::Watch`].
    pub watch: bool,
    /// Whose changes a watch tells, and whose revisions; none, if there are no watches, or by a node of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_scope: Option<WatchScope>,
    /// [`Capability::History`].
    pub history: bool,
    /// [`Capability::Snapshot`].
    pub snapshot: bool,
    /// [`Capability::Counters`].
    pub counters: bool,
    /// [`Capability::AtomicBatch`].
    pub atomic_batch: bool,
    /// [`Capability::Idempotency`].
    #[serde(default)]
    pub idempotency: bool,
    /// [`Capability::Revisions`].
    #[serde(default)]
    pub revisions: bool,
    /// [`Capability::Ack`].
    #[serde(default)]
    pub ack: bool,
    /// [`Capability::Sync`].
    #[serde(default)]
    pub sync: bool,
    /// [`Capability::Sessions`].
    #[serde(default)]
    pub sessions: bool,
    /// [`Capability::Flush`].
    #[serde(default)]
    pub flush: bool,
    /// Longest key, in bytes.
    #[serde(rename = "max_key")]
    pub max_key_bytes: u64,
    /// Largest value, in bytes.
    #[serde(rename = "max_value")]
    pub max_value_bytes: u64,
    /// What `consistency` may ask for; the first is what holds if it is not said.
    pub consistency: Vec<String>,
}

/// Whose changes a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchScope {
    /// All changes of the keyspace, in the one order that they have: any node goes on where another ended.
    Cluster,
    /// What the node that is asked changed of its own replica, in its order. No other node can go on, nor this one after a
    /// restart.
    Node,
}

impl WatchScope {
    fn of(has_revisions: bool) -> Self {
        if has_revisions { Self::Cluster } else { Self::Node }
    }

    /// Its name in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Node => "node",
        }
    }
}

impl Capabilities {
    /// Those for which `can` holds.
    pub fn of(can: impl Fn(Capability) -> bool, max_key_bytes: u64, max_value_bytes: u64) -> Self {
        let consistency: &[&str] = if can(Capability::Linearizable) { &["linearizable", "local"] } else { &["local"] };
        Self {
            ordered: can(Capability::Ordered),
            prefix: can(Capability::Prefix),
            range: can(Capability::Range),
            cas: can(Capability::Cas),
            ttl_per_key: can(Capability::TtlPerKey),
            txn: can(Capability::Txn),
            leases: can(Capability::Leases),
            watch: can(Capability::Watch),
            watch_scope: can(Capability::Watch).then(|| WatchScope::of(can(Capability::Revisions))),
            history: can(Capability::History),
            snapshot: can(Capability::Snapshot),
            counters: can(Capability::Counters),
            atomic_batch: can(Capability::AtomicBatch),
            idempotency: can(Capability::Idempotency),
            revisions: can(Capability::Revisions),
            ack: can(Capability::Ack),
            sync: can(Capability::Sync),
            sessions: can(Capability::Sessions),
            flush: can(Capability::Flush),
            max_key_bytes,
            max_value_bytes,
            consistency: consistency.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// Whether this is among them.
    pub fn can(&self, capability: Capability) -> bool {
        match capability {
            Capability::Ordered => self.ordered,
            Capability::Prefix => self.prefix,
            Capability::Range => self.range,
            Capability::Cas => self.cas,
            Capability::TtlPerKey => self.ttl_per_key,
            Capability::Txn => self.txn,
            Capability::Leases => self.leases,
            Capability::Watch => self.watch,
            Capability::History => self.history,
            Capability::Snapshot => self.snapshot,
            Capability::Counters => self.counters,
            Capability::AtomicBatch => self.atomic_batch,
            Capability::Idempotency => self.idempotency,
            Capability::Revisions => self.revisions,
            Capability::Ack => self.ack,
            Capability::Sync => self.sync,
            Capability::Sessions => self.sessions,
            Capability::Flush => self.flush,
            Capability::Linearizable => self.consistency.iter().any(|name| name == "linearizable"),
        }
    }
}
