//! How a node begins: as the first of a new cluster, as one that joins, or from its own data folder.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_api::cluster::JoinAnswer;
use quorate_engine::{BehindSpec, EngineError, EngineSpec, Engines, PairForm, Place};
use quorate_keyspace::{Command, EntryHeader, Limits, RequestId, Settings, ShardError, encode_entry};
use quorate_log::{Disk, GroupId, HardState, Log, LogError, LogId, LogIndex, Reader, Record, Term};

use crate::catalog::{Catalog, CatalogError, KeyspaceRecord, SYSTEM_GROUP, SYSTEM_KEYSPACE};
use crate::eventual::Eventuals;
use crate::eventual_state::{EventualState, is_eventual_state};
use crate::housekeeping::{Dues, Steady};
use crate::io::Monotonic;
use crate::lease_asks::LeaseAsks;
use crate::limits::Config;
use crate::node::{Links, Node};
use crate::opening::Opening;
use crate::outbox::Outbox;
use crate::pending::Pending;
use crate::snapshot::{SnapshotFile, find};
use crate::status::{BeatCounts, Hosted};
use crate::transfer::Transfers;

/// Who a node is. Kept in its data folder by the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster: u64,
    /// The node's id.
    pub node: u64,
    /// Its name.
    pub name: String,
    /// Counts its starts from 1; durable before the node says anything.
    pub incarnation: u64,
}

/// Why a node cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log.
    #[error("log: {0}")]
    Log(#[from] LogError),
    /// A snapshot file.
    #[error("snapshot {file}: {source}")]
    Snapshot {
        /// The file.
        file: String,
        /// What is the matter.
        source: io::Error,
    },
    /// The snapshot that the log goes on from is not there.
    #[error("keyspace {keyspace}: the snapshot at or after log index {index} is missing")]
    SnapshotMissing {
        /// The keyspace.
        keyspace: String,
        /// Where the log begins.
        index: u64,
    },
    /// The state machine.
    #[error("keyspace {keyspace}: {source}")]
    Shard {
        /// The keyspace.
        keyspace: String,
        /// What is the matter.
        source: ShardError,
    },
    /// raft-rs.
    #[error("keyspace {keyspace}: {why}")]
    Raft {
        /// The keyspace.
        keyspace: String,
        /// What is the matter.
        why: String,
    },
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// An engine that does not open, or that this version does not know.
    #[error("keyspace {keyspace}: {source}")]
    Engine {
        /// The keyspace.
        keyspace: String,
        /// Why.
        source: EngineError,
    },
    /// A group's state in the log cannot be read.
    #[error("the log's state of group {group} cannot be read")]
    BadState {
        /// The group.
        group: u64,
    },
    /// The files cannot be listed.
    #[error("snapshot folder: {0}")]
    Files(io::Error),
}

/// What the log keeps about a replica, beside its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaState {
    pub(crate) replica: u64,
    pub(crate) epoch: u64,
    pub(crate) keyspace: String,
    pub(crate) engine: EngineSpec,
    /// Which of the group's engines on this node serves: see [`Place`].
    pub(crate) build: u64,
    /// Who votes and learns, at a point that the log goes on from; empty as long as it goes back to the group's beginning.
    pub(crate) membership: Bytes,
    /// How the group began, if this replica was there.
    pub(crate) founding: Option<Founding>,
}

/// The beginning of a group: its entry at index 1, which is in no log but here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    pub(crate) settings: Settings,
    pub(crate) voters: Vec<u64>,
    pub(crate) entry: Bytes,
}

/// The log position of a group's founding.
pub(crate) const FOUNDED_AT: LogId = LogId { term: Term(1), index: LogIndex(1) };

/// As long as no store is behind the engine; nodes of before know it.
const PLAIN_STATE_VERSION: u8 = 3;

const STATE_VERSION: u8 = 4;

impl ReplicaState {
    /// Version, replica, epoch, names of keyspace and engine, the engine's options, in version 4 kind and settings of the store
    /// behind it, build, membership, and, if there is a founding, a 1, its settings, voters and entry. Version 1 had no options,
    /// build and membership, and one limit; version 2 had limits only.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(if self.engine.behind.is_some() { STATE_VERSION } else { PLAIN_STATE_VERSION });
        out.put_u64_le(self.replica);
        out.put_u64_le(self.epoch);
        put_name(&self.keyspace, &mut out);
        put_name(&self.engine.kind, &mut out);
        out.put_u16_le(self.engine.options.len() as u16);
        for (name, value) in &self.engine.options {
            put_name(name, &mut out);
            out.put_u64_le(*value);
        }
        if let Some(behind) = &self.engine.behind {
            put_name(&behind.kind, &mut out);
            put_name(&behind.settings, &mut out);
        }
        out.put_u64_le(self.build);
        out.put_u32_le(self.membership.len() as u32);
        out.put_slice(&self.membership);
        let Some(founding) = &self.founding else {
            out.put_u8(0);
            return out.freeze();
        };
        out.put_u8(1);
        let Settings { limits, ttl_ms, retention } = founding.settings;
        for limit in [limits.max_bytes, limits.max_key_bytes, limits.max_value_bytes, ttl_ms.unwrap_or(0)] {
            out.put_u64_le(limit);
        }
        for bound in [retention.max_revisions, retention.max_age_ms, retention.max_bytes] {
            out.put_u64_le(bound);
        }
        out.put_u32_le(founding.voters.len() as u32);
        founding.voters.iter().for_each(|voter| out.put_u64_le(*voter));
        out.put_slice(&founding.entry);
        out.freeze()
    }

    /// None if the bytes are not such a state, or one of a newer version.
    pub(crate) fn decode(mut bytes: Bytes) -> Option<Self> {
        let version = bytes.try_get_u8().ok()?;
        if !(1..=STATE_VERSION).contains(&version) {
            return None;
        }
        let replica = bytes.try_get_u64_le().ok()?;
        let epoch = bytes.try_get_u64_le().ok()?;
        let keyspace = take_name(&mut bytes)?;
        let mut engine = EngineSpec::of(&take_name(&mut bytes)?);
        let mut build = 0;
        let mut membership = Bytes::new();
        if version >= 2 {
            for _ in 0..bytes.try_get_u16_le().ok()? {
                engine.options.insert(take_name(&mut bytes)?, bytes.try_get_u64_le().ok()?);
            }
            if version >= 4 {
                let (kind, settings) = (take_name(&mut bytes)?, take_name(&mut bytes)?);
                engine.behind = Some(BehindSpec { kind, settings, pairs: PairForm::Record });
            }
            build = bytes.try_get_u64_le().ok()?;
            let length = bytes.try_get_u32_le().ok()? as usize;
            membership = (bytes.len() >= length).then(|| bytes.split_to(length))?;
        }
        let founding = match bytes.try_get_u8().ok()? {
            0 => None,
            _ => Some(take_founding(bytes, version)?),
        };
        Some(Self { replica, epoch, keyspace, engine, build, membership, founding })
    }

    /// What a new log of the group begins with.
    pub(crate) fn records(&self, group: GroupId) -> Vec<(GroupId, Record)> {
        let mut records = vec![(group, Record::State(self.to_bytes()))];
        if self.founding.is_some() {
            let hard_state = HardState { term: FOUNDED_AT.term, vote: 0, commit: FOUNDED_AT.index };
            records.push((group, Record::Reset(FOUNDED_AT)));
            records.push((group, Record::HardState(hard_state)));
        }
        records
    }
}

fn put_name(name: &str, out: &mut BytesMut) {
    out.put_u16_le(name.len() as u16);
    out.put_slice(name.as_bytes());
}

fn take_name(bytes: &mut Bytes) -> Option<String> {
    let length = usize::from(bytes.try_get_u16_le().ok()?);
    (bytes.len() >= length).then(|| bytes.split_to(length)).and_then(|name| String::from_utf8(name.to_vec()).ok())
}

fn take_founding(mut bytes: Bytes, version: u8) -> Option<Founding> {
    let mut settings = Settings::of(Limits { max_bytes: bytes.try_get_u64_le().ok()?, ..Limits::default() });
    if version >= 2 {
        settings.limits.max_key_bytes = bytes.try_get_u64_le().ok()?;
        settings.limits.max_value_bytes = bytes.try_get_u64_le().ok()?;
    }
    if version >= 3 {
        settings.ttl_ms = Some(bytes.try_get_u64_le().ok()?).filter(|ttl_ms| *ttl_ms > 0);
        settings.retention.max_revisions = bytes.try_get_u64_le().ok()?;
        settings.retention.max_age_ms = bytes.try_get_u64_le().ok()?;
        settings.retention.max_bytes = bytes.try_get_u64_le().ok()?;
    }
    let count = bytes.try_get_u32_le().ok()? as usize;
    if bytes.len() / 8 < count {
        return None;
    }
    let voters = (0..count).map(|_| bytes.get_u64_le()).collect();
    Some(Founding { settings, voters, entry: bytes })
}

impl<D: Disk> Node<D> {
    /// Writes to an empty log what a new cluster of one begins with. Durable when it returns.
    pub fn found(log: &mut Log<D>, identity: &Identity, addresses: (&str, &str), config: &Config) -> Result<(), OpenError> {
        let catalog = Catalog::founding(identity.cluster, &identity.name, addresses, config);
        let write = Catalog::default().write_to(&catalog);
        let mut command = BytesMut::new();
        Command::encode_prefix(RequestId::default(), 0, &mut command);
        command.put_slice(&write.to_bytes());
        let entry = encode_entry(EntryHeader::default(), [command.freeze()].iter());
        let settings = catalog.keyspaces.get(SYSTEM_KEYSPACE).map(KeyspaceRecord::shard_settings).unwrap_or_default();
        let state = ReplicaState {
            replica: 1,
            epoch: 1,
            keyspace: SYSTEM_KEYSPACE.to_owned(),
            engine: EngineSpec::of("trie"),
            build: 0,
            membership: Bytes::new(),
            founding: Some(Founding { settings, voters: vec![1], entry }),
        };
        Ok(log.write(&[state.records(GroupId(SYSTEM_GROUP))])?)
    }

    /// Writes to an empty log what a node begins with that was let into a cluster. Durable when it returns.
    pub fn join(log: &mut Log<D>, answer: &JoinAnswer) -> Result<(), OpenError> {
        let state = ReplicaState {
            replica: answer.system_replica,
            epoch: 1,
            keyspace: SYSTEM_KEYSPACE.to_owned(),
            engine: EngineSpec::of("trie"),
            build: 0,
            membership: Bytes::new(),
            founding: None,
        };
        Ok(log.write(&[state.records(GroupId(SYSTEM_GROUP))])?)
    }

    /// A node from its log and its snapshot files: everything that is known to be committed is applied.
    ///
    /// Blocks for as long as it takes to read both. `seed` decides election timeouts.
    pub fn open(
        config: Config,
        identity: Identity,
        log: Reader<D>,
        (files, engines): (Arc<D>, Arc<dyn Engines>),
        (seed, now): (u64, Monotonic),
    ) -> Result<Self, OpenError> {
        let mut by_group: BTreeMap<u64, Vec<SnapshotFile>> = BTreeMap::new();
        for file in find(files.as_ref()).map_err(OpenError::Files)? {
            by_group.entry(file.group.0).or_default().push(file);
        }
        let pending = Pending::new(identity.node, identity.incarnation);
        let (mut replicas, mut found, mut places) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for group in log.groups() {
            let state = log.group(group).map(|state| state.state).unwrap_or_default();
            let bad_state = || OpenError::BadState { group: group.0 };
            if is_eventual_state(&state) {
                found.insert(group.0, EventualState::decode(state).ok_or_else(bad_state)?);
                continue;
            }
            let state = ReplicaState::decode(state).ok_or_else(bad_state)?;
            let own = by_group.remove(&group.0).unwrap_or_default();
            let opening = Opening {
                config: &config,
                log: &log,
                files: files.as_ref(),
                engines: engines.as_ref(),
                seed,
                origin: pending.origin(),
            };
            places.insert(Place { group: group.0, build: state.build });
            replicas.insert(group.0, opening.replica(group, state, own)?);
        }
        let stray = by_group.into_values().flatten().map(|file| file.to_string());
        remove_left_over((engines.as_ref(), &places, &found), (files.as_ref(), stray)).map_err(OpenError::Files)?;
        Ok(Self {
            dirty: replicas.keys().copied().collect(),
            next_tick: now.plus_ms(config.tick_ms),
            transfers: Transfers::new(config.snapshot_chunk_bytes),
            config,
            identity,
            log,
            files,
            engines,
            seed,
            now,
            steady: Steady::default(),
            dues: Dues::default(),
            pending,
            replicas,
            busy: BTreeSet::new(),
            awake: BTreeSet::new(),
            resting: BTreeMap::new(),
            told: Arc::default(),
            statuses: BTreeMap::new(),
            beat_counts: BeatCounts::default(),
            catalog: Arc::default(),
            catalog_revision: None,
            hosted: Arc::new(Hosted::default()),
            routes: BTreeMap::new(),
            links: Links::default(),
            forwards: BTreeMap::new(),
            forward_replies: BTreeMap::new(),
            lease_asks: LeaseAsks::default(),
            leader_waits: Vec::new(),
            retired: Vec::new(),
            locals: BTreeMap::new(),
            eventuals: Eventuals::new(found),
            catalog_change: None,
            next_ticket: 1,
            unsynced: VecDeque::new(),
            is_disk_full: false,
            draining_since: None,
            stopping: None,
            out: Outbox::default(),
            effects: Vec::new(),
        })
    }
}

/// Removes what a crash left of groups that are gone, or of engines that were not finished.
fn remove_left_over<D: Disk>(
    (engines, places, found): (&dyn Engines, &BTreeSet<Place>, &BTreeMap<u64, EventualState>),
    (files, stray): (&D, impl Iterator<Item = String>),
) -> io::Result<()> {
    let is_kept = |place: &Place| {
        let eventual = found.get(&place.group).filter(|state| state.is_durable);
        places.contains(place) || eventual.is_some_and(|state| state.place(GroupId(place.group)) == *place)
    };
    for place in engines.places()?.into_iter().filter(|place| !is_kept(place)) {
        engines.remove(place)?;
    }
    for file in stray {
        files.remove(&file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use quorate_keyspace::Retention;

    use super::*;

    #[test]
    fn replica_states_round_trip() {
        let options = BTreeMap::from([("max_bytes".to_owned(), 1 << 30), ("max_entries".to_owned(), 9)]);
        let engine = EngineSpec { options, ..EngineSpec::of("cache") };
        let plain = ReplicaState {
            replica: 4,
            epoch: 2,
            keyspace: "default".to_owned(),
            engine,
            build: 3,
            membership: Bytes::from_static(b"who"),
            founding: None,
        };
        let limits = Limits { max_bytes: 9, max_key_bytes: 8, max_value_bytes: 7 };
        let settings =
            Settings { limits, ttl_ms: Some(6), retention: Retention { max_revisions: 5, max_age_ms: 4, max_bytes: 3 } };
        let founding = Founding { settings, voters: vec![1, 2], entry: Bytes::from_static(b"entry") };
        let founded = ReplicaState { founding: Some(founding), ..plain.clone() };
        let behind = BehindSpec { kind: "s3".to_owned(), settings: r#"{"type":"s3"}"#.to_owned(), pairs: PairForm::Record };
        let engine = EngineSpec { behind: Some(behind), ..EngineSpec::of("lsm") };
        let carried = ReplicaState { engine, ..founded.clone() };
        assert_eq!((plain.to_bytes()[0], carried.to_bytes()[0]), (3, 4), "what says nothing new is read by nodes of before");
        for state in [plain, founded, carried] {
            let bytes = state.to_bytes();
            assert_eq!(ReplicaState::decode(bytes.clone()), Some(state));
            assert_eq!(ReplicaState::decode(bytes.slice(..12)), None);
        }
    }

    #[test]
    fn a_replica_state_of_version_1_is_read() {
        let mut bytes = vec![1];
        bytes.extend(4_u64.to_le_bytes());
        bytes.extend(2_u64.to_le_bytes());
        for name in ["default", "trie"] {
            bytes.extend((name.len() as u16).to_le_bytes());
            bytes.extend(name.as_bytes());
        }
        bytes.push(0);
        let engine = EngineSpec::of("trie");
        let state = ReplicaState {
            replica: 4,
            epoch: 2,
            keyspace: "default".to_owned(),
            engine,
            build: 0,
            membership: Bytes::new(),
            founding: None,
        };
        assert_eq!(ReplicaState::decode(bytes.into()), Some(state));
    }
}
