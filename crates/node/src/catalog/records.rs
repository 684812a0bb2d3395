//! The catalog's records, as they stand in the system keyspace in JSON. Fields that a record of an older version does not have
//! take the value that held then.

use std::collections::BTreeMap;

use quorate_api::keyspace::Capability;
use quorate_engine::{BehindSpec, EngineSpec, Kind, PairForm};
use quorate_eventual::{InstanceId, Options};
use quorate_keyspace::{Limits, Retention, Settings};
use serde::{Deserialize, Serialize};

use super::replication::{Beside, ReplicationSettings};
use super::settings::{DEFAULT_RETENTION, KeyspaceSettings, keyspace_can};
use crate::limits::MAX_VOTERS;

/// Identity and counters. What a counter gave out is never given out again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterRecord {
    /// The cluster's id.
    pub id: u64,
    /// Commands newer than this are not proposed.
    pub version: u32,
    /// The next node's id.
    pub next_node: u64,
    /// The next replica's id.
    pub next_replica: u64,
    /// The next group's id.
    pub next_group: u64,
    /// How many jobs were begun so far.
    #[serde(default)]
    pub jobs: u64,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its id; 0 while it is only announced.
    pub id: u64,
    /// Where clients find it.
    pub client_address: String,
    /// Where peers find it.
    pub peer_address: String,
    /// Whether it has come.
    pub state: NodeState,
    /// Drawn by the node when it first asked; tells its own retry from another node of that name.
    #[serde(default)]
    pub token: String,
}

/// Whether a node has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// Somebody said that it will.
    Announced,
    /// It has joined.
    Member,
    /// It shall go. Its record goes once it is in no group any more: until then its vote may be needed.
    Leaving,
}

/// A keyspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyspaceRecord {
    /// Part of each `ETag`. No two keyspaces ever have the same, not even under one name.
    pub epoch: u64,
    /// Where its replicas keep their pairs, or will once they have moved there.
    pub engine: EngineSettings,
    /// How its replicas agree.
    pub replication: ReplicationSettings,
    /// How long a pair lives that says nothing about it, in milliseconds; without it, forever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// What it takes. In the record's own JSON object, where `max_bytes` has always been.
    #[serde(flatten)]
    pub limits: LimitsRecord,
    /// How much of the past is kept where history is possible; without it, [`DEFAULT_RETENTION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionRecord>,
    /// It is being filled from a backup: nobody else may use it until that has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_restoring: bool,
    /// When it was made, in milliseconds since 1970 by the clock of the node that was asked; 0 if that is not known.
    #[serde(default)]
    pub created_ms: u64,
    /// The last move to another engine, also after its end.
    #[serde(default, rename = "move", skip_serializing_if = "Option::is_none")]
    pub last_move: Option<MoveRecord>,
    /// Its shards; one until there are more.
    pub shards: Vec<ShardRecord>,
}

/// What a keyspace takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsRecord {
    /// Most bytes of keys and records; without it, what the disk takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Longest key, in bytes; without it, the longest that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_key_bytes: Option<u64>,
    /// Largest value, in bytes; without it, the largest that the node takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_value_bytes: Option<u64>,
}

/// How much of the past is kept; whichever bound is reached first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRecord {
    /// Most revisions; 0: there is no history.
    pub max_revisions: u64,
    /// For how long, in milliseconds.
    pub max_age_ms: u64,
    /// Most bytes of what was replaced or removed, in each shard.
    pub max_bytes: u64,
}

/// A move of a keyspace's replicas to [`KeyspaceRecord::engine`], one replica of a shard at a time. Which are there already,
/// the [`ReplicaRecord`]s say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveRecord {
    /// Its number among the jobs of the cluster.
    pub job: u64,
    /// The keyspace's engine before.
    pub from: EngineSettings,
    /// When it was begun, in milliseconds since 1970 by the clock of the node that was asked.
    pub started_ms: u64,
}

/// An engine's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineSettings {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: String,
    /// Options that were set, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, EngineValue>,
    /// Set if the pairs are in a store outside the nodes, which is the only copy: the node hosts nothing of such a keyspace, and
    /// its shell reads and writes the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideRecord>,
    /// Set if `kind` and `options` are of a store outside of which each node has a part of its own, behind the engine of this
    /// kind that its replica has: pairs are read from there, and written to the store as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<String>,
}

/// The value of an engine's option. Engines of the nodes have numbers alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EngineValue {
    /// A count, bytes, or milliseconds.
    Number(u64),
    /// Whatever the store makes of it. Never a secret: those are named, not told.
    Text(String),
    /// Options of its own, by name.
    Fields(BTreeMap<String, Self>),
}

/// What a store outside can do, as the node knew that asked for the keyspace. In the record, so that all nodes refuse the same,
/// whatever their versions know of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent capabilities, each asked for by name")]
#[serde(default)]
pub struct OutsideRecord {
    /// Keys can be listed.
    pub lists: bool,
    /// Lists cost what they return.
    pub ordered: bool,
    /// It compares before it writes.
    pub compares: bool,
    /// Pairs can have a time to live.
    pub expires: bool,
}

/// A shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// Its group.
    pub group: u64,
    /// Replicas that begin with the group's configuration. All later ones begin empty. None where replicas do not agree.
    pub founding: Vec<u64>,
    /// What those begin with. It never changes: one that begins late, when the keyspace has other settings already, comes to
    /// those by the group's log, as the others did. None where replicas do not agree, in groups that are older than this, and in
    /// the first ones of a cluster, which one node founds at once.
    #[serde(default, rename = "begun", skip_serializing_if = "Option::is_none")]
    pub begun_with: Option<ShardSettings>,
    /// Rises each time that the replicas change which are members, where they take writes on their own; 0 where they do not.
    #[serde(default, rename = "epoch", skip_serializing_if = "is_zero")]
    pub members_epoch: u64,
    /// Its replicas as they shall be; the leader drives the group's membership there.
    pub replicas: Vec<ReplicaRecord>,
}

/// [`Settings`] as the catalog has them: most bytes of keys and records; longest key and largest value, or 0; time to live in
/// milliseconds, or 0; most revisions, age in milliseconds and bytes of the past. Without names: there may be ten thousand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardSettings([u64; 7]);

impl From<Settings> for ShardSettings {
    fn from(settings: Settings) -> Self {
        let Settings { limits, ttl_ms, retention } = settings;
        let Limits { max_bytes, max_key_bytes, max_value_bytes } = limits;
        let Retention { max_revisions, max_age_ms, max_bytes: past_bytes } = retention;
        Self([max_bytes, max_key_bytes, max_value_bytes, ttl_ms.unwrap_or(0), max_revisions, max_age_ms, past_bytes])
    }
}

impl From<ShardSettings> for Settings {
    fn from(settings: ShardSettings) -> Self {
        let [max_bytes, max_key_bytes, max_value_bytes, ttl_ms, max_revisions, max_age_ms, past_bytes] = settings.0;
        let retention = Retention { max_revisions, max_age_ms, max_bytes: past_bytes };
        let limits = Limits { max_bytes, max_key_bytes, max_value_bytes };
        Self { limits, ttl_ms: Some(ttl_ms).filter(|ttl_ms| *ttl_ms > 0), retention }
    }
}

/// A replica as it shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// The node that hosts it.
    pub node: u64,
    /// Its id in the group; never used for another.
    pub replica: u64,
    /// Its part in the group.
    pub role: ReplicaRole,
    /// The engine that it is known to have, if that is not the keyspace's: it has to move there. None in a replica that has
    /// arrived, or was begun with the keyspace's engine. See [`KeyspaceRecord::engine_of`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<EngineSettings>,
    /// It is the one replica of its shard that may move now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_moving: bool,
}

/// A replica's part in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    /// It counts for the quorum. Where replicas do not agree, each stands for itself, and all are this. One that takes writes on
    /// its own serves.
    Voter,
    /// It receives everything and counts for nothing. One that shall take writes on its own does not serve yet.
    Learner,
    /// It shall be taken out of the group. Until that is done it may still be needed: for the quorum, or for what it wrote and
    /// others lack.
    Leaving,
}

impl KeyspaceRecord {
    /// What can be asked for, out of all that is known.
    pub fn settings(&self) -> KeyspaceSettings {
        KeyspaceSettings {
            engine: self.engine.clone(),
            replication: self.replication.clone(),
            ttl_ms: self.ttl_ms,
            limits: self.limits.clone(),
            retention: self.retention,
        }
    }

    /// What its eventual replicas run with; none where it has none. `seed` is the same for all of them; `source` is the instance
    /// that is written to, if it is one alone.
    pub(crate) fn eventual_options(&self, seed: u64, source: Option<InstanceId>) -> Option<Options> {
        let evicts = self.engine.replica_kind().is_some_and(|kind| kind.capabilities.evicts);
        let cache_ttl_ms = self.ttl_ms.filter(|_| evicts);
        self.replication.eventual_options(Beside { max_bytes: self.max_bytes(), seed, source, cache_ttl_ms })
    }

    /// Whether it can do this.
    pub fn can(&self, capability: Capability) -> bool {
        match capability {
            Capability::History => self.retention().is_some(),
            _ => keyspace_can(&self.engine, &self.replication, capability),
        }
    }

    /// How much of the past is kept; none if nothing is, or not now: all replicas have to be able to, also those that move.
    pub fn retention(&self) -> Option<RetentionRecord> {
        let has_history = |engine| keyspace_can(engine, &self.replication, Capability::History);
        let replicas = self.shards.iter().flat_map(|shard| &shard.replicas);
        let is_possible = has_history(&self.engine) && replicas.map(|replica| self.engine_of(replica)).all(has_history);
        let wanted = self.retention.unwrap_or(DEFAULT_RETENTION);
        (is_possible && wanted.max_revisions > 0).then_some(wanted)
    }

    /// Most bytes of keys and records; the greatest number if there is no limit.
    pub fn max_bytes(&self) -> u64 {
        self.limits.max_bytes.unwrap_or(u64::MAX)
    }

    /// What the shards are to keep to.
    ///
    /// While it is being restored they keep to nothing: what is in a backup may be from before its keyspace had these settings.
    pub fn shard_settings(&self) -> Settings {
        if self.is_restoring {
            return Settings::of(Limits { max_bytes: u64::MAX, ..Limits::default() });
        }
        let LimitsRecord { max_bytes, max_key_bytes, max_value_bytes } = &self.limits;
        let limits = Limits {
            max_bytes: max_bytes.unwrap_or(u64::MAX),
            max_key_bytes: max_key_bytes.unwrap_or(0),
            max_value_bytes: max_value_bytes.unwrap_or(0),
        };
        let retention = self.retention().map_or_else(Retention::default, |retention| Retention {
            max_revisions: retention.max_revisions,
            max_age_ms: retention.max_age_ms,
            max_bytes: retention.max_bytes,
        });
        Settings { limits, ttl_ms: self.ttl_ms, retention }
    }

    /// The engine that a replica is known to have.
    pub fn engine_of<'a>(&'a self, replica: &'a ReplicaRecord) -> &'a EngineSettings {
        replica.engine.as_ref().unwrap_or(&self.engine)
    }

    /// The replicas that are not to leave.
    pub fn staying_replicas(&self) -> impl Iterator<Item = &ReplicaRecord> + Clone {
        self.shards.iter().flat_map(|shard| &shard.replicas).filter(|replica| replica.role != ReplicaRole::Leaving)
    }

    /// Whether a replica has not arrived at the keyspace's engine yet.
    pub fn is_moving(&self) -> bool {
        self.staying_replicas().any(ReplicaRecord::has_to_move)
    }
}

impl ShardRecord {
    /// The replica on a node.
    pub fn replica_on(&self, node: u64) -> Option<&ReplicaRecord> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// Adds a replica: one that learns first, if it is to agree with others, or to become equal to them.
    pub(super) fn add(&mut self, node: u64, replica: u64, replication: &ReplicationSettings) {
        let is_alone = !replication.is_raft() && !replication.is_eventual();
        let role = if is_alone { ReplicaRole::Voter } else { ReplicaRole::Learner };
        self.replicas.push(ReplicaRecord::new(node, replica, role));
        if replication.is_raft() {
            self.fill_voters();
        }
        self.members_epoch += u64::from(replication.is_eventual());
    }

    /// The replicas of a new keyspace serve at once: there is nothing that one of them lacks.
    pub(super) fn found_members(&mut self) {
        self.replicas.iter_mut().for_each(|replica| replica.role = ReplicaRole::Voter);
        self.members_epoch = 1;
    }

    /// Says that a node's replica shall leave. In a Raft group the first learner takes its place; the next replica may move.
    pub(super) fn let_go(&mut self, node: u64, is_raft: bool) {
        for replica in self.replicas.iter_mut().filter(|replica| replica.node == node) {
            replica.role = ReplicaRole::Leaving;
            replica.is_moving = false;
        }
        if is_raft {
            self.fill_voters();
        }
    }

    /// Makes learners voters, oldest first, while there is room.
    fn fill_voters(&mut self) {
        let voters = self.replicas.iter().filter(|replica| replica.role == ReplicaRole::Voter).count();
        let learners = self.replicas.iter_mut().filter(|replica| replica.role == ReplicaRole::Learner);
        learners.take(MAX_VOTERS.saturating_sub(voters)).for_each(|replica| replica.role = ReplicaRole::Voter);
    }
}

impl ReplicaRecord {
    /// A replica that begins with the keyspace's engine.
    pub fn new(node: u64, replica: u64, role: ReplicaRole) -> Self {
        Self { node, replica, role, engine: None, is_moving: false }
    }

    /// Whether it stays, and is not known to have the keyspace's engine.
    pub fn has_to_move(&self) -> bool {
        self.engine.is_some() && self.role != ReplicaRole::Leaving
    }
}

/// The options of a store behind replicas that say how it is asked, and not where its pairs are, and as what.
pub(super) const HOW_A_STORE_IS_ASKED: [&str; 6] = ["credentials", "endpoint", "max_calls", "queue_max", "region", "timeout"];

impl EngineSettings {
    /// An engine with its defaults.
    pub fn of(kind: &str) -> Self {
        Self { kind: kind.to_owned(), options: BTreeMap::new(), outside: None, local: None }
    }

    /// Whether this is the engine, however a store behind it is asked.
    pub fn is(&self, engine: &EngineSpec) -> bool {
        let own = self.spec();
        match (&own.behind, &engine.behind) {
            (Some(store), Some(other)) if store.settings != other.settings => {
                let is_same_place = || serde_json::from_str(&other.settings).is_ok_and(|other| self.is_at(&other));
                own.kind == engine.kind && store.kind == other.kind && is_same_place()
            }
            _ => own == *engine,
        }
    }

    /// Whether it is the same engine with the same place of a store behind it, which may be asked in another way: it need not be
    /// made anew.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.local.is_some() && self.local == other.local && self.kind == other.kind && self.is_at(&other.options)
    }

    /// Whether it is the same engine, and all options that differ can be altered while it serves.
    pub fn is_alterable_to(&self, other: &Self) -> bool {
        let is_inside = |engine: &Self| engine.outside.is_none() && engine.local.is_none();
        let Some(kind) = self.replica_kind().filter(|_| self.kind == other.kind && is_inside(self) && is_inside(other)) else {
            return false;
        };
        let names = self.options.keys().chain(other.options.keys());
        let mut differing = names.filter(|name| self.options.get(*name) != other.options.get(*name));
        differing.all(|name| kind.options.iter().any(|option| option.name == name && option.is_alterable))
    }

    fn is_at(&self, options: &BTreeMap<String, EngineValue>) -> bool {
        let says_where =
            |(name, _): &(&String, &EngineValue)| name.as_str() != "type" && !HOW_A_STORE_IS_ASKED.contains(&name.as_str());
        self.options.iter().filter(says_where).eq(options.iter().filter(says_where))
    }

    /// The kind of engine that replicas have, if this version knows it.
    pub fn replica_kind(&self) -> Option<&'static Kind> {
        quorate_engine::kind(self.local.as_ref().unwrap_or(&self.kind))
    }

    /// As the engines of a shard's replicas are opened, which know numbers alone.
    pub fn spec(&self) -> EngineSpec {
        if let Some(kind) = &self.local {
            let behind = BehindSpec { kind: self.kind.clone(), settings: self.json(), pairs: PairForm::Record };
            return EngineSpec { behind: Some(behind), ..EngineSpec::of(kind) };
        }
        let number = |(name, value): (&String, &EngineValue)| match value {
            EngineValue::Number(number) => Some((name.clone(), *number)),
            EngineValue::Text(_) | EngineValue::Fields(_) => None,
        };
        EngineSpec { options: self.options.iter().filter_map(number).collect(), ..EngineSpec::of(&self.kind) }
    }

    /// The same, as the engines of eventual replicas are opened.
    pub(crate) fn eventual_spec(&self) -> EngineSpec {
        let mut spec = self.spec();
        spec.behind.iter_mut().for_each(|behind| behind.pairs = PairForm::Entry);
        spec
    }

    /// Type and options, as they were asked for. The same settings are the same text.
    pub fn json(&self) -> String {
        let mut fields = self.options.clone();
        fields.insert("type".to_owned(), EngineValue::Text(self.kind.clone()));
        serde_json::to_string(&fields).expect("plain data has string keys")
    }

    /// How much it takes in the catalog, about, in bytes.
    pub(super) fn size(&self) -> usize {
        self.kind.len() + fields_size(&self.options)
    }

    /// Whether it is the same engine with the same options.
    pub fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.options == other.options
    }
}

impl From<EngineSpec> for EngineSettings {
    fn from(spec: EngineSpec) -> Self {
        let options = spec.options.into_iter().map(|(name, value)| (name, EngineValue::Number(value)));
        Self { options: options.collect(), ..Self::of(&spec.kind) }
    }
}

fn fields_size(fields: &BTreeMap<String, EngineValue>) -> usize {
    let size = |value: &EngineValue| match value {
        EngineValue::Number(_) => 20,
        EngineValue::Text(text) => text.len(),
        EngineValue::Fields(fields) => fields_size(fields),
    };
    fields.iter().map(|(name, value)| name.len() + size(value) + 6).sum()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over the field as it is")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
