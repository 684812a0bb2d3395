//! Keyspaces over REST: what can be asked of one, what is told about it, the engines there are, and jobs.

mod capability;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::capability::{Capabilities, Capability, WatchScope};
use crate::duration;
use crate::outside::{BehindBody, OutsideStats};
use crate::quantity::parse_bytes;
use crate::replication::EventualStats;

/// A number, or text with a unit: `67108864` or `"64MiB"`, `"30m"`. What it counts, its place says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a whole number, or text with a unit such as 64MiB or 30m")]
pub enum Amount {
    /// A bare number.
    Number(u64),
    /// A number with a unit.
    Text(String),
}

impl Amount {
    /// As bytes. The error is one line for people.
    pub fn bytes(&self) -> Result<u64, String> {
        match self {
            Self::Number(bytes) => Ok(*bytes),
            Self::Text(text) => parse_bytes(text),
        }
    }

    /// As a count. The error is one line for people.
    pub fn count(&self) -> Result<u64, String> {
        match self {
            Self::Number(count) => Ok(*count),
            Self::Text(text) => text.parse().map_err(|_| format!("`{text}` is not a whole number")),
        }
    }

    /// As milliseconds. A bare number is refused: it would be taken for seconds by some, for milliseconds by others. The error
    /// is one line for people.
    pub fn milliseconds(&self) -> Result<u64, String> {
        match self {
            Self::Number(number) => Err(format!("{number} has no unit: write {number}s or {number}ms")),
            Self::Text(text) => {
                let duration = duration::parse(text).map_err(|error| format!("`{text}`: {error}"))?;
                u64::try_from(duration.as_millis()).map_err(|_| format!("`{text}` is too long"))
            }
        }
    }

    /// Milliseconds, in the largest unit that fits.
    pub fn of_milliseconds(ms: u64) -> Self {
        Self::Text(duration::format(std::time::Duration::from_millis(ms)))
    }
}

/// The value of an engine's option: an [`Amount`], or an object with options of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a whole number, or text with a unit such as 64MiB or 30m, or an object of such")]
pub enum Setting {
    /// A number, or text.
    Amount(Amount),
    /// Options of its own, by name: `{"env": {"password": "VARIABLE"}}`.
    Fields(BTreeMap<String, Self>),
}

impl From<Amount> for Setting {
    fn from(amount: Amount) -> Self {
        Self::Amount(amount)
    }
}

/// `PUT /v1/keyspaces/{ks}`: what is asked of a keyspace. What is not there has its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SettingsBody {
    /// Where its replicas keep their pairs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineBody>,
    /// How its replicas agree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationBody>,
    /// How long a pair lives that says nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Amount>,
    /// What it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsBody>,
    /// How much of the past is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionBody>,
}

/// The fields of a [`SettingsBody`], and so those that a merge patch may name.
pub const SETTINGS_FIELDS: [&str; 5] = ["engine", "replication", "ttl", "limits", "retention"];

/// The fields of a [`LimitsBody`].
pub const LIMITS_FIELDS: [&str; 3] = ["max_bytes", "max_key_bytes", "max_value_bytes"];

/// The fields of a [`RetentionBody`].
pub const RETENTION_FIELDS: [&str; 3] = ["revisions", "age", "bytes"];

/// An engine with its options: `{"type": "cache", "max_bytes": "64MiB"}`. `/v1/engines` lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EngineBody {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Options that were set, by name.
    #[serde(flatten)]
    pub options: BTreeMap<String, Setting>,
}

/// A replication mode with its options: `{"mode": "push", "ack": 1}`. `/v1/replication-modes` lists them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicationBody {
    /// The mode.
    pub mode: String,
    /// Options that were set, by name.
    #[serde(flatten)]
    pub options: BTreeMap<String, Amount>,
}

/// What a keyspace takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsBody {
    /// Most bytes of keys and records. Without it: the node's default if the pairs are in memory, else what the disk takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Amount>,
    /// Longest key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_key_bytes: Option<Amount>,
    /// Largest value. Whatever it says, none is larger than the node takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value_bytes: Option<Amount>,
}

/// How much of the past is kept; whichever bound is reached first counts. What is not there has its default: 10,000 revisions, an
/// hour, 64 MiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetentionBody {
    /// Most revisions; 0: no history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revisions: Option<Amount>,
    /// For how long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<Amount>,
    /// Most bytes of what was replaced or removed. It takes them beside `max_bytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Amount>,
}

/// What is told about a keyspace. Its first fields can be sent back as a [`SettingsBody`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyspaceBody {
    /// The name.
    pub name: String,
    /// Where its replicas keep their pairs, or will after the move.
    pub engine: EngineBody,
    /// How its replicas agree.
    pub replication: ReplicationBody,
    /// How long a pair lives that says nothing about it; none: forever.
    pub ttl: Option<Amount>,
    /// What it takes.
    pub limits: LimitsBody,
    /// How much of the past is kept; none: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionBody>,
    /// Whether it can be used through the answering node.
    pub state: KeyspaceState,
    /// What it can do.
    pub capabilities: Capabilities,
    /// Part of each `ETag`; renewed when a keyspace is made anew under the same name.
    pub epoch: u64,
    /// When it was made, as in RFC 3339; none if that is not known.
    pub created_at: Option<String>,
    /// The move to another engine that goes on.
    #[serde(rename = "move")]
    pub running_move: Option<MoveBody>,
}

/// Whether a keyspace can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyspaceState {
    /// It can.
    Ready,
    /// The answering node does not host it yet, or knows no leader.
    Starting,
    /// It is being filled from a backup, or was when that broke off; then it can be restored again, or deleted.
    Restoring,
}

/// A move to another engine that goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MoveBody {
    /// `/v1/jobs/{job}` says more.
    pub job: u64,
    /// The engine before.
    pub from: EngineBody,
    /// The engine after.
    pub to: EngineBody,
    /// How many replicas there are.
    pub replicas: u64,
    /// How many of them have arrived.
    pub done_replicas: u64,
}

/// `GET /v1/keyspaces/{ks}/stats`: what the answering node has of a keyspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KeyspaceStats {
    /// The keyspace.
    pub name: String,
    /// The node that answered, and whose replicas these are.
    pub served_by: String,
    /// The engine that its replica has now.
    pub engine: String,
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values, without the engine's overhead.
    pub data_bytes: u64,
    /// Its replicas, one of each shard. Empty where replicas do not agree.
    pub replicas: Vec<ReplicaStats>,
    /// Its replicas that take writes on their own, one of each shard.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eventual: Vec<EventualStats>,
    /// How the engine fares, if it is a cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<CacheFigures>,
    /// How this node stands with the store, if pairs are kept outside the nodes. Nobody counts them there: `keys` and
    /// `data_bytes` are 0 then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideStats>,
    /// How far the store behind this node's replica is, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<BehindBody>,
}

/// How the answering node's part of a cache fares. Counts are since the keyspace was opened there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CacheFigures {
    /// Reads of one key that found it.
    pub hits: u64,
    /// Reads of one key that did not.
    pub misses: u64,
    /// The share of hits, 0 to 1; none before the first read.
    pub hit_ratio: Option<f64>,
    /// The same of the last minute.
    pub recent_hit_ratio: Option<f64>,
    /// Why pairs went.
    pub gone: CacheCauses,
    /// Bytes of the pairs there are, with the engine's overhead: what counts towards `max_bytes`.
    pub weight_bytes: u64,
    /// The bound.
    pub max_bytes: u64,
}

/// Pairs that went, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CacheCauses {
    /// They were deleted.
    pub explicit: u64,
    /// Another value took their place.
    pub replaced: u64,
    /// Their time was up.
    pub expired: u64,
    /// Nobody asked for them for the idle time.
    pub idle: u64,
    /// They made room for others.
    pub size: u64,
    /// They were new, and others were wanted more; or larger than all the room there is.
    pub rejected: u64,
}

impl CacheCauses {
    /// The numbers with their names.
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("explicit", self.explicit),
            ("replaced", self.replaced),
            ("expired", self.expired),
            ("idle", self.idle),
            ("size", self.size),
            ("rejected", self.rejected),
        ]
    }
}

/// One replica of the answering node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaStats {
    /// The Raft group.
    pub group: u64,
    /// `leader`, `follower`, `candidate` or `pre_candidate`.
    pub role: String,
    /// The leading node, if one is known.
    pub leader: Option<String>,
    /// Names of the nodes with a voting replica.
    pub voters: Vec<String>,
    /// Names of the nodes with a learning replica.
    pub learners: Vec<String>,
    /// Whether it knows its leader and has applied all that it knows to be committed.
    pub is_caught_up: bool,
    /// The term.
    pub term: u64,
    /// The revision.
    pub revision: u64,
    /// The commit index.
    pub commit_index: u64,
    /// The applied index.
    pub applied_index: u64,
    /// The first index that is still in the log.
    pub first_index: u64,
    /// The last index in the log.
    pub last_index: u64,
    /// Keys and records, in bytes: what counts towards `max_bytes`.
    pub data_bytes: u64,
    /// What is kept of the past, in bytes.
    #[serde(default)]
    pub history_bytes: u64,
    /// The oldest revision that can be read.
    #[serde(default)]
    pub compacted_revision: u64,
    /// Entries applied since the process started.
    pub applied_entries: u64,
    /// Commands applied since the process started.
    pub applied_commands: u64,
    /// Snapshots cut since the process started.
    pub snapshots_cut: u64,
    /// Snapshots sent since the process started.
    pub snapshots_sent: u64,
    /// Snapshots loaded since the process started.
    pub snapshots_loaded: u64,
}

/// `POST /v1/keyspaces/{ks}/compact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompactBody {
    /// The revision that is to be the oldest that can be read.
    pub revision: u64,
    /// Whether to wait until what only older revisions needed is gone from the answering node's engine, up to the time limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub physical: bool,
}

/// What a compaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompactedBody {
    /// The oldest revision that can be read now.
    pub compacted_revision: u64,
    /// The keyspace's revision.
    pub revision: u64,
    /// Whether what only older revisions needed is known to be gone from the answering node's engine.
    pub is_swept: bool,
}

/// One of `GET /v1/engines`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EngineInfo {
    /// The name in a keyspace's settings.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is and what it is for, in one line.
    pub summary: String,
    /// Whether it is taken where settings name none.
    pub is_default: bool,
    /// Modes of replication that it goes with.
    pub replication: Vec<String>,
    /// What it can do by itself. What a keyspace on it can do depends on the mode too.
    pub capabilities: EngineCapabilities,
    /// What can be set.
    pub options: Vec<EngineOption>,
    /// What the store can do, with the options' defaults, if pairs are kept outside the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideInfo>,
}

/// A kind of store outside the nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OutsideInfo {
    /// Whether pairs can be written and removed.
    pub writes: bool,
    /// Whether keys can be listed.
    pub lists: bool,
    /// What a condition on a write is worth: `atomic`, `among-nodes` (not against other programs), or `unconditional`: refused.
    pub conditions: String,
    /// What becomes of a pair whose time to live is over: `removed`, `hidden`, or `none`: there is no such time.
    pub expiry: String,
    /// The largest value, in bytes.
    pub max_value_bytes: u64,
    /// The longest key, in bytes, if it is of the bytes that take most room.
    pub max_key_bytes: u64,
    /// Settings that work, as JSON.
    pub example: String,
}

/// What an engine can do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::struct_excessive_bools, reason = "independent capabilities, each asked for by name")]
pub struct EngineCapabilities {
    /// Scans cost what they return; otherwise they read and sort everything.
    pub ordered: bool,
    /// Its content is on disk.
    pub durable: bool,
    /// A page of a list is one moment's content.
    pub pinned_views: bool,
    /// It lets pairs go by itself: to keep to its bound, or when their time is up.
    pub evicts: bool,
}

/// Something that can be set for an engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EngineOption {
    /// The name.
    pub name: String,
    /// `bytes`, `count` or `milliseconds`; `text` of stores outside the nodes, where the help says what is meant.
    pub unit: String,
    /// What holds if nothing is set; none if there is no such bound then.
    pub default: Option<Amount>,
    /// The smallest value; none of a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Amount>,
    /// The greatest value; none if any will do.
    pub max: Option<Amount>,
    /// What it does, in one line.
    pub help: String,
}

/// One of `GET /v1/jobs`: a keyspace moves to another engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobBody {
    /// Its number, never used again.
    pub id: u64,
    /// What is done: `move`.
    pub kind: String,
    /// The keyspace.
    pub keyspace: String,
    /// How far it is.
    pub state: JobState,
    /// The share that is done, 0 to 1: replicas that have arrived, and of one that moves what it has copied.
    pub progress: f64,
    /// The engine before.
    pub from: EngineBody,
    /// The engine after.
    pub to: EngineBody,
    /// When it was begun, as in RFC 3339.
    pub started_at: Option<String>,
    /// Every replica.
    pub replicas: Vec<ReplicaMove>,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It goes on.
    Running,
    /// It has ended.
    Done,
}

/// One replica's part of a move.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaMove {
    /// The node.
    pub node: String,
    /// How far it is.
    pub state: MoveState,
    /// What it does just now: `cutting`, `building` or `replaying`; `pausing` between a try that failed and the next. None
    /// where it does not move now, or its node could not be asked, or the node that answers was asked for no more than it knows
    /// itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// Beside `phase`: how much of its pairs the new engine has, as of when it was begun, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copied: Option<f64>,
    /// Beside `phase`: why the last try failed, if this is not the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// How far a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// Others move first.
    Waiting,
    /// It moves.
    Moving,
    /// It has arrived.
    Done,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: Value) -> Result<SettingsBody, String> {
        serde_json::from_value(body).map_err(|error| error.to_string())
    }

    #[test]
    fn settings_round_trip_as_people_write_them() {
        let body = json!({
            "engine": {"type": "cache", "max_bytes": "64MiB", "max_entries": 1000},
            "replication": {"mode": "none"},
            "ttl": "30m",
            "limits": {"max_bytes": "1GiB", "max_key_bytes": 64, "max_value_bytes": 4096},
            "retention": {"revisions": 100, "age": "10m", "bytes": "1MiB"},
        });
        let settings = read(body.clone()).unwrap();
        let engine = settings.engine.as_ref().unwrap();
        assert_eq!((engine.kind.as_str(), &engine.options["max_entries"]), ("cache", &Amount::Number(1000).into()));
        assert_eq!(engine.options["max_bytes"], Amount::Text("64MiB".to_owned()).into());
        assert_eq!(serde_json::to_value(&settings).unwrap(), body);
        assert_eq!(read(json!({})), Ok(SettingsBody::default()));
    }

    #[test]
    fn settings_name_what_they_do_not_know() {
        for (body, told) in [
            (
                json!({"engin": {}}),
                "unknown field `engin`, expected one of `engine`, `replication`, `ttl`, `limits`, `retention`",
            ),
            (json!({"limits": {"max": 1}}), "expected one of `max_bytes`, `max_key_bytes`, `max_value_bytes`"),
            (json!({"replication": {"mode": "push", "ack": -1}}), "expected a whole number, or text with a unit"),
            (json!({"engine": {}}), "missing field `type`"),
            (json!({"engine": {"type": "lsm", "a": -1}}), "expected a whole number, or text with a unit"),
            (json!({"ttl": [1]}), "expected a whole number, or text with a unit"),
        ] {
            let error = read(body).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn the_fields_that_a_patch_may_name_are_those_that_there_are() {
        let fields = |value: Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        let amount = || Some(Amount::Number(1));
        let limits = LimitsBody { max_bytes: amount(), max_key_bytes: amount(), max_value_bytes: amount() };
        assert_eq!(fields(serde_json::to_value(&limits).unwrap()), LIMITS_FIELDS);
        let retention = RetentionBody { revisions: amount(), age: amount(), bytes: amount() };
        let told = fields(serde_json::to_value(&retention).unwrap());
        assert!(told.iter().all(|name| RETENTION_FIELDS.contains(&name.as_str())) && told.len() == RETENTION_FIELDS.len());
        let settings = SettingsBody {
            engine: Some(EngineBody::default()),
            replication: Some(ReplicationBody { mode: "raft".to_owned(), options: [].into() }),
            ttl: amount(),
            limits: Some(limits),
            retention: Some(retention),
        };
        let mut known = SETTINGS_FIELDS.to_vec();
        known.sort_unstable();
        assert_eq!(fields(serde_json::to_value(&settings).unwrap()), known);
    }

    #[test]
    fn amounts_mean_what_their_place_says() {
        let text = |text: &str| Amount::Text(text.to_owned());
        assert_eq!((text("1.5KiB").bytes(), Amount::Number(7).bytes()), (Ok(1536), Ok(7)));
        assert_eq!((text("12").count(), Amount::Number(7).count()), (Ok(12), Ok(7)));
        assert_eq!((text("2m").milliseconds(), text("250ms").milliseconds()), (Ok(120_000), Ok(250)));
        assert_eq!(Amount::of_milliseconds(120_000), text("2m"));
        assert!(text("2m").bytes().is_ok_and(|bytes| bytes == 2_000_000), "a megabyte here, a minute there");
        for wrong in [text("x").bytes(), text("1k").count(), text("").count(), text("5").milliseconds()] {
            assert!(wrong.is_err());
        }
        assert!(Amount::Number(5).milliseconds().is_err_and(|why| why.contains("5s or 5ms")));
    }
}
