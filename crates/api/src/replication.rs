//! How replicas agree, over REST: the modes there are, and how replicas that take writes on their own are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::keyspace::Amount;

/// A replication mode that keyspaces can have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModeInfo {
    /// Its name.
    pub mode: String,
    /// What it is, in one line for people.
    pub summary: String,
    /// Whether a keyspace has it whose settings name none.
    #[serde(rename = "default")]
    pub is_default: bool,
    /// The engines that go with it.
    pub engines: Vec<String>,
    /// What can be set.
    pub options: Vec<ModeOption>,
}

/// Something that can be set for a mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModeOption {
    /// Its name.
    pub name: String,
    /// What it can be, in one line for people.
    pub values: String,
    /// What holds if nothing is set; none: nothing does.
    pub default: Option<Amount>,
    /// What it does, in one line for people.
    pub help: String,
}

/// `POST /v1/keyspaces/{ks}/flush` and `/sync`: how many other members that was done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SyncBody {
    /// How many.
    pub reached: u64,
    /// How many there are.
    pub others: u64,
    /// Whether the store behind the answering node's replica has got all that the replica had; left out where there is none, and
    /// by `sync`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stored: bool,
}

/// How the answering node's replica of an eventual keyspace is. Counts are since it was opened there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventualStats {
    /// Its group.
    pub group: u64,
    /// The replica's id; one that lost what it had gets another.
    pub instance: u64,
    /// `joining`, `up` or `leaving`.
    pub state: String,
    /// Keys with a value.
    pub keys: u64,
    /// Keys of which only a tombstone is left, or that a value expired.
    pub tombstones: u64,
    /// A sum of all that is there: replicas with equal ones are equal.
    pub digest: String,
    /// Own writes that another member has not confirmed.
    pub outbox_entries: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// By how much its clock is ahead of the node's wall clock, in milliseconds.
    pub clock_ahead_ms: u64,
    /// By how much the node's wall clock is off from those of the others, if that stops writes, in milliseconds.
    pub clock_skew_ms: Option<i64>,
    /// Everything that was written before this is at all members, as in RFC 3339; none if that is not known.
    pub stable_at: Option<String>,
    /// Whose writes are not known to have reached whom, where that keeps tombstones from being dropped.
    pub tombstones_held_by: Vec<HeldBy>,
    /// Own writes.
    pub written: u64,
    /// Writes of others that were kept.
    pub merged: u64,
    /// Of them, those that took the place of an own write.
    pub superseded: u64,
    /// Of those, the ones that knew nothing of the write whose place they took, or it nothing of them.
    pub conflicts: u64,
    /// The newest of these, oldest first, where the keyspace has a `conflict_log`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newest_conflicts: Vec<ConflictBody>,
    /// Entries that came too late to matter.
    pub fenced: u64,
    /// Own writes that were sent, once per member.
    pub pushed_entries: u64,
    /// Their bytes.
    pub pushed_bytes: u64,
    /// Members that fell too far behind to be sent what they lacked.
    pub overflows: u64,
    /// Comparisons and copies that ended.
    pub rounds: u64,
    /// Those that were given up.
    pub stalled_rounds: u64,
    /// Entries that they brought here.
    pub pulled_entries: u64,
    /// Entries that they brought to others.
    pub put_entries: u64,
    /// Reads that found something newer at others.
    pub repairs: u64,
    /// The other members, seen from here.
    pub peers: Vec<EventualPeer>,
}

/// A write that gave way to another, neither of which knew of the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConflictBody {
    /// The key, if it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key as base64url, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key64: Option<String>,
    /// The stamp of what stayed.
    pub won: String,
    /// The stamp of what did not.
    pub lost: String,
    /// When that was noticed, as in RFC 3339.
    pub at: Option<String>,
}

/// Two nodes that keep tombstones from being dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HeldBy {
    /// Whose writes.
    pub from: String,
    /// Are not known to have reached this one.
    pub to: String,
}

/// Another member of an eventual keyspace, seen from the answering node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventualPeer {
    /// Its node.
    pub node: String,
    /// `joining`, `up` or `leaving`.
    pub state: String,
    /// Whether it was heard of lately.
    pub is_reachable: bool,
    /// Own writes that it has not confirmed; none if it is not sent them, but compared with.
    pub lag_entries: Option<u64>,
    /// How long the oldest of them has been waiting, in milliseconds; 0 if there is none.
    pub lag_ms: u64,
    /// Whether it may lack what only a comparison brings.
    pub needs_sync: bool,
    /// Bytes of own writes that were sent to it.
    pub pushed_bytes: u64,
    /// Entries that comparisons brought from it.
    pub pulled_entries: u64,
    /// Their bytes.
    pub pulled_bytes: u64,
    /// Entries that comparisons and copies brought to it.
    pub put_entries: u64,
    /// Their bytes.
    pub put_bytes: u64,
    /// When a comparison with it ended last, as in RFC 3339.
    pub compared_at: Option<String>,
    /// When a copy to it ended last, as in RFC 3339.
    pub copied_at: Option<String>,
    /// Whether a comparison with it, or a copy to it, goes on.
    pub is_comparing: bool,
    /// Comparisons and copies with it that ended.
    pub rounds: u64,
    /// Milliseconds by which its wall clock is ahead of the answering node's.
    pub clock_offset_ms: i64,
}
