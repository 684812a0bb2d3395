//! The catalog: members, keyspaces and their replicas, as the system keyspace holds them.
//!
//! It is read from the system keyspace's pairs and changed by writes to it. Each change is planned here from a catalog that
//! was read, and guarded by the revision of the `cluster` record, which every change rewrites: of two plans made from the
//! same catalog, one fails its guard and is made anew.

mod keyspaces;
mod records;
mod replication;
mod settings;

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_api::cluster::{AddressChange, JoinAnswer, JoinRequest, PeerAddress};
use quorate_api::key::{DEFAULT_KEYSPACE, is_address, is_node_name};
use quorate_engine::{Direction, EngineSpec, KeyRange, Table, View};
use quorate_keyspace::{Condition, Op, Put, Record, Revision, Write};
use serde::{Deserialize, Serialize};

use crate::limits::{Config, MAX_KEYSPACES};

pub use records::{
    ClusterRecord, EngineSettings, EngineValue, KeyspaceRecord, LimitsRecord, MoveRecord, NodeRecord, NodeState, OutsideRecord,
    ReplicaRecord, ReplicaRole, RetentionRecord, ShardRecord, ShardSettings,
};
pub use replication::{Form, MODE_OPTIONS, Mode, ModeOption, OptionValue, ReplicationSettings};
pub use settings::{DEFAULT_ENGINE, DEFAULT_RETENTION, KeyspaceSettings, SettingsError};

/// The system keyspace's group.
pub const SYSTEM_GROUP: u64 = 0;

/// The system keyspace's name: clients may read it.
pub const SYSTEM_KEYSPACE: &str = "_system";

/// The system keyspace's engine, which never changes: a node that joins must know it before it has the catalog.
const SYSTEM_ENGINE: &str = "trie";

const CLUSTER_KEY: &[u8] = b"cluster";
const NODE_PREFIX: &str = "nodes/";
const KEYSPACE_PREFIX: &str = "keyspaces/";

/// The catalog at one revision of the system keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Catalog {
    /// When it was last changed; the guard of every plan.
    pub changed_at: Revision,
    /// Counters and the cluster's identity.
    pub cluster: ClusterRecord,
    /// Nodes by name.
    pub nodes: BTreeMap<String, NodeRecord>,
    /// Keyspaces by name.
    pub keyspaces: BTreeMap<String, KeyspaceRecord>,
    /// The keyspace of each group: with a thousand of them, looking through all for one is what a node would do most.
    by_group: BTreeMap<u64, String>,
}

/// Why a change of the catalog cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// The name is that of another member.
    #[error(
        "a node named {name} is a member already (peer address {address}); if it lost its data folder, remove it first: \
         quorate cluster remove {name}"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// The member's peer address.
        address: String,
    },
    /// The node of that name is being removed.
    #[error("node {0} is being removed: try again when that is done")]
    StillLeaving(String),
    /// The peer address is that of another member.
    #[error("the peer address {address} belongs to node {name}")]
    AddressTaken {
        /// The member.
        name: String,
        /// The address.
        address: String,
    },
    /// Names are 1 to 63 of `[A-Za-z0-9._-]`, beginning with a letter or digit.
    #[error("{0:?} is not a node name: 1 to 63 of A-Z a-z 0-9 . _ -, the first a letter or digit")]
    BadName(String),
    /// Not `host:port`.
    #[error("{0:?} is not an address of the form host:port")]
    BadAddress(String),
    /// No such node.
    #[error("node {0} not found")]
    NodeNotFound(String),
    /// A node of another cluster.
    #[error("node {name} belongs to cluster {theirs}; this is cluster {ours:016x}")]
    OtherCluster {
        /// The node.
        name: String,
        /// Its cluster.
        theirs: String,
        /// This one.
        ours: u64,
    },
    /// Nobody would be left.
    #[error("{0} is the last voter of the cluster; without it there is no cluster")]
    LastVoter(String),
    /// A keyspace is there under this name, with other settings.
    #[error("keyspace {name} is there with other settings: {what} differ; alter it, or delete it first")]
    KeyspaceExists {
        /// The name.
        name: String,
        /// Which settings differ.
        what: String,
    },
    /// A backup cannot be restored into what is there.
    #[error("keyspace {0} is there already: a backup is restored into keyspaces that are not; delete it first")]
    KeyspaceInUse(String),
    /// The keyspace that was to be filled from a backup is gone, or another restore has begun.
    #[error("keyspace {0} is not being restored any more: it was deleted, or another restore has begun")]
    RestoreOver(String),
    /// No such keyspace.
    #[error("keyspace {0} not found")]
    KeyspaceNotFound(String),
    /// Not a name that clients may give: `[a-z0-9][a-z0-9_-]{0,62}`.
    #[error("{0:?} is not a keyspace name: 1 to 63 of a-z 0-9 _ -, the first a letter or digit")]
    BadKeyspaceName(String),
    /// The keyspace always exists.
    #[error("keyspace {0} is always there and cannot be deleted")]
    KeyspaceStays(String),
    /// Only the cluster itself changes the system keyspace.
    #[error("keyspace {SYSTEM_KEYSPACE} is the cluster's own and cannot be changed")]
    SystemKeyspace,
    /// The catalog holds as many as it takes.
    #[error("there are {MAX_KEYSPACES} keyspaces already: delete some first")]
    TooManyKeyspaces,
    /// The settings cannot be had.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The replica has no engine to move to.
    #[error("replica {replica} of group {group} has nowhere to move to")]
    NothingToMove {
        /// The group.
        group: u64,
        /// The replica.
        replica: u64,
    },
    /// Another replica of the shard moves: its turn first.
    #[error("another replica of keyspace {0} is on its way to another engine")]
    OtherMoves(String),
    /// A record cannot be read.
    #[error("the catalog's record {key} cannot be read: {why}")]
    Damaged {
        /// Its key.
        key: String,
        /// Why.
        why: String,
    },
}

impl Catalog {
    /// What a new cluster of one begins with.
    pub(crate) fn founding(cluster: u64, name: &str, (client_address, peer_address): (&str, &str), config: &Config) -> Self {
        let keyspace = |group, replica, engine| KeyspaceRecord {
            epoch: keyspaces::epoch_of(group),
            engine: EngineSpec::of(engine).into(),
            replication: ReplicationSettings::of(Mode::Raft),
            ttl_ms: None,
            limits: LimitsRecord {
                max_bytes: quorate_engine::kind(engine)
                    .and_then(|engine| settings::default_max_bytes(engine, config.default_max_bytes)),
                ..LimitsRecord::default()
            },
            retention: None,
            is_restoring: false,
            created_ms: 0,
            last_move: None,
            shards: vec![ShardRecord {
                group,
                founding: vec![replica],
                begun_with: None,
                members_epoch: 0,
                replicas: vec![ReplicaRecord::new(1, replica, ReplicaRole::Voter)],
            }],
        };
        let node = NodeRecord {
            id: 1,
            client_address: client_address.to_owned(),
            peer_address: peer_address.to_owned(),
            state: NodeState::Member,
            token: String::new(),
        };
        Self {
            changed_at: Revision::FIRST,
            cluster: ClusterRecord { id: cluster, version: 1, next_node: 2, next_replica: 3, next_group: 2, jobs: 0 },
            nodes: BTreeMap::from([(name.to_owned(), node)]),
            keyspaces: BTreeMap::from([
                (SYSTEM_KEYSPACE.to_owned(), keyspace(SYSTEM_GROUP, 1, SYSTEM_ENGINE)),
                (DEFAULT_KEYSPACE.to_owned(), keyspace(1, 2, &config.default_engine)),
            ]),
            by_group: BTreeMap::from([(SYSTEM_GROUP, SYSTEM_KEYSPACE.to_owned()), (1, DEFAULT_KEYSPACE.to_owned())]),
        }
    }

    /// The catalog that a view of the system keyspace holds. Empty if the view is.
    pub fn read(view: &dyn View) -> Result<Self, CatalogError> {
        let mut catalog = Self::default();
        for item in view.scan(Table::Current, &KeyRange::all(), Direction::Forward) {
            let (key, bytes) = item.map_err(|error| damaged(b"", &error))?;
            let record = Record::decode(bytes).map_err(|error| damaged(&key, &error))?;
            catalog.add(&key, &record)?;
        }
        Ok(catalog)
    }

    /// The keyspace of this name in a view of the system keyspace; without reading all of the catalog.
    pub fn keyspace(view: &dyn View, name: &str) -> Result<Option<KeyspaceRecord>, CatalogError> {
        let key = format!("{KEYSPACE_PREFIX}{name}");
        let Some(bytes) = view.get(Table::Current, key.as_bytes()).map_err(|error| damaged(key.as_bytes(), &error))? else {
            return Ok(None);
        };
        let record = Record::decode(bytes).map_err(|error| damaged(key.as_bytes(), &error))?;
        parse(key.as_bytes(), &record).map(Some)
    }

    fn add(&mut self, key: &[u8], record: &Record) -> Result<(), CatalogError> {
        let text = String::from_utf8_lossy(key);
        if key == CLUSTER_KEY {
            self.cluster = parse(key, record)?;
            self.changed_at = record.meta.mod_revision;
        } else if let Some(name) = text.strip_prefix(NODE_PREFIX) {
            self.nodes.insert(name.to_owned(), parse(key, record)?);
        } else if let Some(name) = text.strip_prefix(KEYSPACE_PREFIX) {
            let keyspace: KeyspaceRecord = parse(key, record)?;
            self.by_group.extend(keyspace.shards.iter().map(|shard| (shard.group, name.to_owned())));
            self.keyspaces.insert(name.to_owned(), keyspace);
        }
        Ok(())
    }

    /// A node's name.
    pub fn node_name(&self, id: u64) -> Option<&str> {
        self.nodes.iter().find(|(_, node)| node.id == id && id != 0).map(|(name, _)| name.as_str())
    }

    /// Whether this id was given out, and its node is no member any more.
    pub fn is_removed(&self, id: u64) -> bool {
        id != 0 && id < self.cluster.next_node && self.node_name(id).is_none()
    }

    /// Whether this group was given out, and its keyspace was deleted. A catalog that is behind, as after a restart, does not
    /// know the newest groups: what it never gave out is not deleted.
    pub fn is_deleted(&self, group: u64) -> bool {
        group < self.cluster.next_group && self.shard(group).is_none()
    }

    /// Whether a node shall go, and is still there.
    pub(crate) fn has_leaving(&self) -> bool {
        self.nodes.values().any(|node| node.state == NodeState::Leaving)
    }

    /// Every shard with its keyspace's name.
    pub fn shards(&self) -> impl Iterator<Item = (&str, &KeyspaceRecord, &ShardRecord)> {
        self.keyspaces
            .iter()
            .flat_map(|(name, keyspace)| keyspace.shards.iter().map(move |shard| (name.as_str(), keyspace, shard)))
    }

    /// The shard of a group.
    pub fn shard(&self, group: u64) -> Option<(&str, &KeyspaceRecord, &ShardRecord)> {
        let (name, keyspace) = self.keyspaces.get_key_value(self.by_group.get(&group)?)?;
        let shard = keyspace.shards.iter().find(|shard| shard.group == group)?;
        Some((name.as_str(), keyspace, shard))
    }

    /// Lets a node in: gives it an id, and a replica of every shard. The same node asking again gets the same answer, and
    /// nothing to write but its addresses, if it has moved before it knew that it was let in.
    pub fn plan_join(&self, request: &JoinRequest) -> Result<(Option<Write>, JoinAnswer), CatalogError> {
        check_name(&request.name)?;
        check_address(&request.client_address)?;
        check_address(&request.peer_address)?;
        self.check_address_free(&request.name, &request.peer_address)?;
        if let Some(node) = self.nodes.get(&request.name).filter(|node| node.state != NodeState::Announced) {
            if node.state == NodeState::Leaving {
                return Err(CatalogError::StillLeaving(request.name.clone()));
            }
            if node.token.is_empty() || node.token != request.token {
                return Err(CatalogError::NameTaken { name: request.name.clone(), address: node.peer_address.clone() });
            }
            let here = NodeRecord {
                client_address: request.client_address.clone(),
                peer_address: request.peer_address.clone(),
                ..node.clone()
            };
            if here == *node {
                return Ok((None, self.join_answer(node.id)));
            }
            let mut next = self.clone();
            next.nodes.insert(request.name.clone(), here);
            return Ok((Some(self.write_to(&next)), next.join_answer(node.id)));
        }
        let mut next = self.clone();
        let id = next.cluster.next_node;
        next.cluster.next_node += 1;
        let node = NodeRecord {
            id,
            client_address: request.client_address.clone(),
            peer_address: request.peer_address.clone(),
            state: NodeState::Member,
            token: request.token.clone(),
        };
        next.nodes.insert(request.name.clone(), node);
        next.add_replicas(id);
        Ok((Some(self.write_to(&next)), next.join_answer(id)))
    }

    /// Whether the one who says so is the member of that name; its id.
    pub fn check_identity(&self, name: &str, change: &AddressChange) -> Result<u64, CatalogError> {
        if change.cluster_id != format!("{:016x}", self.cluster.id) {
            let (name, theirs) = (name.to_owned(), change.cluster_id.clone());
            return Err(CatalogError::OtherCluster { name, theirs, ours: self.cluster.id });
        }
        let node = self.nodes.get(name).filter(|node| node.id == change.node_id && node.id != 0);
        node.map(|node| node.id).ok_or_else(|| CatalogError::NodeNotFound(name.to_owned()))
    }

    /// Moves a member to other addresses. Nothing to write if it has them already.
    ///
    /// Another member may have the same address still: two that have changed theirs at once, the one for the other's, say so one
    /// after the other, and who is not there is not taken for who is.
    pub fn plan_readdress(&self, name: &str, change: &AddressChange) -> Result<Option<Write>, CatalogError> {
        check_address(&change.client_address)?;
        check_address(&change.peer_address)?;
        self.check_identity(name, change)?;
        let mut next = self.clone();
        let node = next.nodes.get_mut(name).ok_or_else(|| CatalogError::NodeNotFound(name.to_owned()))?;
        node.client_address.clone_from(&change.client_address);
        node.peer_address.clone_from(&change.peer_address);
        Ok((next != *self).then(|| self.write_to(&next)))
    }

    /// Takes note of a node that will come. Nothing to write if it is known as that already.
    pub fn plan_announce(&self, name: &str, peer_address: &str) -> Result<Option<Write>, CatalogError> {
        check_name(name)?;
        check_address(peer_address)?;
        self.check_address_free(name, peer_address)?;
        match self.nodes.get(name) {
            Some(node) if node.state == NodeState::Leaving => return Err(CatalogError::StillLeaving(name.to_owned())),
            Some(node) if node.peer_address == peer_address => return Ok(None),
            Some(node) if node.state != NodeState::Announced => {
                return Err(CatalogError::NameTaken { name: name.to_owned(), address: node.peer_address.clone() });
            }
            _ => {}
        }
        let mut next = self.clone();
        let node = NodeRecord {
            id: 0,
            client_address: String::new(),
            peer_address: peer_address.to_owned(),
            state: NodeState::Announced,
            token: String::new(),
        };
        next.nodes.insert(name.to_owned(), node);
        Ok(Some(self.write_to(&next)))
    }

    /// Says that a node and its replicas shall go; it is forgotten once no group has it any more. Where a quorum loses a voter,
    /// the first learner takes its place. Nothing to write if that was said before; an announced node is gone at once.
    pub fn plan_remove(&self, name: &str) -> Result<Option<Write>, CatalogError> {
        let mut next = self.clone();
        let node = next.nodes.get_mut(name).ok_or_else(|| CatalogError::NodeNotFound(name.to_owned()))?;
        match node.state {
            NodeState::Leaving => return Ok(None),
            NodeState::Announced => {
                next.nodes.remove(name);
                return Ok(Some(self.write_to(&next)));
            }
            NodeState::Member => node.state = NodeState::Leaving,
        }
        let id = node.id;
        for keyspace in next.keyspaces.values_mut() {
            let is_raft = keyspace.replication.is_raft();
            for shard in &mut keyspace.shards {
                if is_raft || keyspace.replication.is_eventual() {
                    shard.let_go(id, is_raft);
                } else {
                    // Nobody needs its vote: there is none.
                    shard.replicas.retain(|replica| replica.node != id);
                }
                if is_raft && !shard.replicas.iter().any(|replica| replica.role == ReplicaRole::Voter) {
                    return Err(CatalogError::LastVoter(name.to_owned()));
                }
            }
        }
        Ok(Some(self.write_to(&next)))
    }

    /// Takes out the record of a node that is in no group any more, and what its replicas left in the descriptors.
    pub(crate) fn plan_forget(&self, name: &str) -> Option<Write> {
        let mut next = self.clone();
        let node = next.nodes.remove(name)?;
        for shard in next.keyspaces.values_mut().flat_map(|keyspace| &mut keyspace.shards) {
            shard.replicas.retain(|replica| replica.node != node.id);
        }
        Some(self.write_to(&next))
    }

    fn add_replicas(&mut self, node: u64) {
        // Where pairs are in a store outside, nodes have no replicas.
        for keyspace in self.keyspaces.values_mut().filter(|keyspace| keyspace.engine.outside.is_none()) {
            for shard in &mut keyspace.shards {
                let replica = self.cluster.next_replica;
                self.cluster.next_replica += 1;
                shard.add(node, replica, &keyspace.replication);
            }
        }
    }

    fn join_answer(&self, id: u64) -> JoinAnswer {
        let replicas = self.shard(SYSTEM_GROUP).map_or(&[][..], |(_, _, shard)| &shard.replicas);
        let replica_of = |node| replicas.iter().find(|replica| replica.node == node).map_or(0, |replica| replica.replica);
        let others = self.nodes.values().filter(|node| node.state != NodeState::Announced && node.id != id);
        let peers = others.map(|node| PeerAddress {
            node_id: node.id,
            system_replica: replica_of(node.id),
            peer_address: node.peer_address.clone(),
        });
        JoinAnswer {
            cluster_id: format!("{:016x}", self.cluster.id),
            node_id: id,
            system_replica: replica_of(id),
            peers: peers.collect(),
        }
    }

    fn check_address_free(&self, name: &str, peer_address: &str) -> Result<(), CatalogError> {
        let taken = self.nodes.iter().find(|(other, node)| other.as_str() != name && node.peer_address == peer_address);
        match taken {
            None => Ok(()),
            Some((name, node)) if node.state == NodeState::Leaving => Err(CatalogError::StillLeaving(name.clone())),
            Some((name, _)) => Err(CatalogError::AddressTaken { name: name.clone(), address: peer_address.to_owned() }),
        }
    }

    /// The records in which `next` differs, guarded by this catalog's revision.
    pub(crate) fn write_to(&self, next: &Self) -> Write {
        let condition = match self.changed_at {
            Revision(0) => Condition::Absent,
            revision => Condition::ModRevisionIn(vec![revision]),
        };
        let mut write = Write::default().only_if(Bytes::from_static(CLUSTER_KEY), condition);
        write.ops.push(put(Bytes::from_static(CLUSTER_KEY), &next.cluster));
        diff(NODE_PREFIX, &self.nodes, &next.nodes, &mut write.ops);
        diff(KEYSPACE_PREFIX, &self.keyspaces, &next.keyspaces, &mut write.ops);
        write
    }
}

fn diff<T: Serialize + PartialEq>(prefix: &str, old: &BTreeMap<String, T>, new: &BTreeMap<String, T>, ops: &mut Vec<Op>) {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        ops.push(Op::Delete { key: Bytes::from(format!("{prefix}{name}")) });
    }
    for (name, record) in new.iter().filter(|(name, record)| old.get(*name) != Some(record)) {
        ops.push(put(Bytes::from(format!("{prefix}{name}")), record));
    }
}

fn put<T: Serialize>(key: Bytes, record: &T) -> Op {
    let value = serde_json::to_vec(record).expect("catalog records are plain data");
    let content_type = Some(Bytes::from_static(b"application/json"));
    Op::Put(Put { content_type, ..Put::new(key, value.into()) })
}

fn parse<T: for<'a> Deserialize<'a>>(key: &[u8], record: &Record) -> Result<T, CatalogError> {
    serde_json::from_slice(&record.value).map_err(|error| damaged(key, &error))
}

fn damaged(key: &[u8], why: &dyn std::fmt::Display) -> CatalogError {
    CatalogError::Damaged { key: String::from_utf8_lossy(key).into_owned(), why: why.to_string() }
}

fn check_name(name: &str) -> Result<(), CatalogError> {
    if is_node_name(name) { Ok(()) } else { Err(CatalogError::BadName(name.to_owned())) }
}

fn check_address(address: &str) -> Result<(), CatalogError> {
    if is_address(address) { Ok(()) } else { Err(CatalogError::BadAddress(address.to_owned())) }
}

#[cfg(test)]
mod tests;
