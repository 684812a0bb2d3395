//! Keyspaces, as a running node makes, changes and shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_api::cluster::Items;
use quorate_api::key::DEFAULT_KEYSPACE;
use quorate_api::keyspace::{CacheCauses, CacheFigures, JobBody, JobState, KeyspaceStats, MoveState, ReplicaMove, ReplicaStats};
use quorate_api::replication::{ConflictBody, EventualPeer, EventualStats, HeldBy};
use quorate_api::text64;
use quorate_engine::{CacheStats, Table};
use quorate_node::eventual_replication::{Conflict, InstanceId, MemberState, PeerStatus};
use quorate_node::keyspace::{Op, Settings, Write};
use quorate_node::{
    Catalog, CatalogError, EventualStatus, KeyspaceRecord, KeyspaceSettings, Monotonic, MoveStatus, ReplicaRecord, ReplicaStatus,
    SYSTEM_KEYSPACE, SettingsError,
};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::eventual_view::stamp_text;
use crate::finding::Found;
use crate::node_calls::get;
use crate::node_store::{CATALOG_POLL, Running};
use crate::rest::{Freshness, KnownKeyspace, SettingsPatch, StoreError, Written, engine_body, point_in_time, spec_of};

/// How long a node may take to say how far its replicas have moved.
const MOVER_TIMEOUT: Duration = Duration::from_millis(500);

/// So many nodes are asked that at one time; one replica of each keyspace moves at a time.
const MAX_MOVERS: usize = 16;

impl Running {
    pub(crate) async fn keyspaces(&self, freshness: Freshness, deadline: Monotonic) -> Result<Vec<KnownKeyspace>, StoreError> {
        let catalog = self.catalog(freshness, deadline).await?;
        let led = self.led_groups();
        let known = |(name, record): (&String, &KeyspaceRecord)| self.known(name, record.clone(), &led);
        Ok(catalog.keyspaces.iter().map(known).collect())
    }

    pub(crate) async fn keyspace(
        &self,
        name: &str,
        freshness: Freshness,
        deadline: Monotonic,
    ) -> Result<KnownKeyspace, StoreError> {
        let catalog = self.catalog(freshness, deadline).await?;
        let record = catalog.keyspaces.get(name).ok_or_else(|| StoreError::KeyspaceNotFound(name.to_owned()))?;
        Ok(self.known(name, record.clone(), &self.led_groups()))
    }

    pub(crate) async fn create_keyspace(
        &self,
        name: &str,
        settings: &KeyspaceSettings,
        deadline: Monotonic,
    ) -> Result<(bool, KnownKeyspace), StoreError> {
        if settings.engine.local.is_some() && self.is_new(name) {
            self.check_behind(settings, deadline).await?;
        }
        if settings.engine.outside.is_some() {
            // What is missing on this node is said at once; the store itself may be down.
            self.check_openable(&spec_of(&settings.engine)?).await?;
        }
        let now_ms = Clock::calendar_ms();
        let plan = |catalog: &Catalog| {
            let write = catalog.plan_create(name, settings, now_ms)?;
            let is_new = write.is_some();
            Ok((write, is_new))
        };
        let is_new = self.change_catalog(deadline, plan).await?;
        let mut known = self.keyspace(name, Freshness::LATEST, deadline).await?;
        known.is_ready = self.is_usable(&known, deadline).await;
        if settings.engine.outside.is_some() {
            self.prepare_outside(name, deadline).await;
        }
        Ok((is_new, known))
    }

    pub(crate) async fn alter_keyspace(
        &self,
        name: &str,
        patch: &SettingsPatch,
        deadline: Monotonic,
    ) -> Result<KnownKeyspace, StoreError> {
        let now_ms = Clock::calendar_ms();
        let settings_after = |catalog: &Catalog| -> Result<(KeyspaceSettings, KeyspaceSettings), StoreError> {
            let keyspace = catalog.keyspaces.get(name).ok_or_else(|| StoreError::KeyspaceNotFound(name.to_owned()))?;
            let present = keyspace.settings();
            Ok((patch.apply(&present)?, present))
        };
        let (next, present) = settings_after(&*self.catalog(Freshness::LATEST, deadline).await?)?;
        if next.engine.local.is_some() && !next.engine.is_same(&present.engine) {
            next.check()?;
            if next.engine.kind == present.engine.kind {
                self.check_openable(&spec_of(&next.engine)?).await?;
            } else {
                self.check_behind(&next, deadline).await?;
            }
        }
        self.check_room(name, &present, &next)?;
        let plan = |catalog: &Catalog| {
            let (settings, _) = settings_after(catalog)?;
            Ok((catalog.plan_alter(name, &settings, now_ms)?, ()))
        };
        self.change_catalog(deadline, plan).await?;
        self.keyspace(name, Freshness::LATEST, deadline).await
    }

    /// Refuses a move to an engine where the keyspace would be full, as far as this node knows how much there is.
    fn check_room(&self, name: &str, present: &KeyspaceSettings, next: &KeyspaceSettings) -> Result<(), StoreError> {
        let catalog = self.handle.views.catalog.load();
        let shards = catalog.keyspaces.get(name).map_or(&[][..], |keyspace| &keyspace.shards);
        let data_bytes: u64 = shards.iter().filter_map(|shard| Some(self.replica(shard.group)?.data_bytes)).sum();
        match next.limits.max_bytes.filter(|max_bytes| next.engine.kind != present.engine.kind && data_bytes > *max_bytes) {
            None => Ok(()),
            Some(max_bytes) => {
                let why = format!(
                    "engine: {name} holds {data_bytes} bytes of keys and values, and could hold {max_bytes} on {}: set \
                     limits.max_bytes with it, to what each node has memory or disk for",
                    next.engine.kind
                );
                Err(SettingsError::Unsupported(why).into())
            }
        }
    }

    pub(crate) async fn delete_keyspace(&self, name: &str, deadline: Monotonic) -> Result<(), StoreError> {
        let plan = |catalog: &Catalog| Ok((Some(catalog.plan_delete(name)?), catalog.keyspaces.get(name).map(|it| it.epoch)));
        let epoch = self.change_catalog(deadline, plan).await?;
        // It is deleted; that this node has heard of it is only for who asks it next.
        while epoch.is_some_and(|epoch| self.is_hosted(name, epoch)) {
            if self.handle.clock.now() >= deadline {
                break;
            }
            tokio::time::sleep(CATALOG_POLL).await;
        }
        Ok(())
    }

    pub(crate) async fn begin_restore(
        &self,
        name: &str,
        settings: &KeyspaceSettings,
        deadline: Monotonic,
    ) -> Result<u64, StoreError> {
        let present = self.handle.views.catalog.load().keyspaces.get(name).cloned();
        // One that was begun before wrote to the part itself.
        let is_repeated = present.is_some_and(|it| it.is_restoring && it.engine.is_same_place(&settings.engine));
        if settings.engine.local.is_some() && !is_repeated {
            settings.check()?;
            self.check_behind(settings, deadline).await?;
        }
        let default_is_empty = name == DEFAULT_KEYSPACE && self.is_empty(name, deadline).await?;
        let now_ms = Clock::calendar_ms();
        let plan = |catalog: &Catalog| Ok((Some(catalog.plan_begin_restore(name, settings, default_is_empty, now_ms)?), ()));
        self.change_catalog(deadline, plan).await?;
        let known = self.keyspace(name, Freshness::LATEST, deadline).await?;
        let epoch = known.record.epoch;
        while !self.is_hosted(name, epoch) {
            if self.handle.clock.now() >= deadline {
                return Err(StoreError::NoLeader);
            }
            tokio::time::sleep(CATALOG_POLL).await;
        }
        Ok(epoch)
    }

    pub(crate) async fn restore_write(
        &self,
        (name, epoch): (&str, u64),
        write: &Write,
        deadline: Monotonic,
    ) -> Result<Written, StoreError> {
        // Who waits for an outcome holds no engine.
        let (group, present) = {
            let hosted = self.hosted_in_any_state(name, deadline).await?;
            (hosted.group, hosted.epoch)
        };
        if present != epoch {
            return Err(StoreError::Conflict(format!(
                "keyspace {name} is not the one that was begun: somebody else restores it"
            )));
        }
        let outcome = self.maybe_write(group, write, deadline).await?.ok_or(StoreError::NoLeader)?;
        Ok(Written { epoch, outcome, now_ms: 0, replicated: None, session: None })
    }

    pub(crate) async fn end_restore(&self, name: &str, epoch: u64, deadline: Monotonic) -> Result<(), StoreError> {
        // Before anybody sees it: nothing is written to it that its settings do not let in.
        let settings = self.settings_of_restored(name, epoch)?;
        let configure = Write { ops: vec![Op::Configure(settings)], ..Write::default() };
        self.restore_write((name, epoch), &configure, deadline).await?;
        self.change_catalog(deadline, |catalog| Ok((Some(catalog.plan_end_restore(name, epoch)?), ()))).await?;
        // It is there for everybody; that this node has heard of it is for who asks it next.
        while self.handle.views.catalog.load().keyspaces.get(name).is_some_and(|record| record.is_restoring) {
            if self.handle.clock.now() >= deadline {
                break;
            }
            tokio::time::sleep(CATALOG_POLL).await;
        }
        Ok(())
    }

    pub(crate) async fn abandon_restore(&self, name: &str, epoch: u64, deadline: Monotonic) -> Result<(), StoreError> {
        let now_ms = Clock::calendar_ms();
        self.change_catalog(deadline, |catalog| Ok((catalog.plan_abandon_restore(name, epoch, now_ms)?, ()))).await
    }

    /// What the shards of a keyspace are to keep to once it is restored.
    fn settings_of_restored(&self, name: &str, epoch: u64) -> Result<Settings, StoreError> {
        let catalog = self.handle.views.catalog.load();
        let record = catalog.keyspaces.get(name).filter(|record| record.is_restoring && record.epoch == epoch);
        let record = record.ok_or_else(|| CatalogError::RestoreOver(name.to_owned()))?;
        Ok(KeyspaceRecord { is_restoring: false, ..record.clone() }.shard_settings())
    }

    /// Whether a keyspace has no pair, as far as can be said from outside; one that is being restored counts as empty.
    async fn is_empty(&self, name: &str, deadline: Monotonic) -> Result<bool, StoreError> {
        let hosted = match self.confirmed(name, deadline).await {
            Err(StoreError::Busy(_)) => return Ok(true),
            hosted => hosted?,
        };
        let is_empty = hosted.engine.view().pairs(Table::Current).next().is_none();
        Ok(is_empty)
    }

    pub(crate) async fn keyspace_stats(&self, name: &str, deadline: Monotonic) -> Result<KeyspaceStats, StoreError> {
        let hosted = match self.found(name, deadline).await? {
            Found::Outside(found) => return Ok(self.outside_stats(name, &found, deadline).await),
            Found::Hosted(hosted) => hosted,
        };
        let stats = hosted.engine.stats();
        let status = self.handle.views.status.load();
        let catalog = self.handle.views.catalog.load();
        let own = status.replicas.iter().filter(|replica| replica.group == hosted.group);
        let eventual = status.eventuals.iter().filter(|replica| replica.group == hosted.group);
        Ok(KeyspaceStats {
            name: name.to_owned(),
            served_by: self.name.clone(),
            engine: hosted.engine.kind().to_owned(),
            keys: stats.keys,
            data_bytes: stats.data_bytes,
            replicas: own.map(|replica| replica_stats(replica, &catalog)).collect(),
            eventual: eventual.map(|replica| eventual_stats(replica, &catalog)).collect(),
            cache: hosted.engine.cache_stats().map(|stats| cache_figures(&stats)),
            outside: None,
            behind: hosted.engine.behind().map(|behind| self.behind_body(hosted.group, behind.stats())),
        })
    }

    pub(crate) async fn jobs(&self, freshness: Freshness, deadline: Monotonic) -> Result<Vec<JobBody>, StoreError> {
        let catalog = self.catalog(freshness, deadline).await?;
        let status = self.handle.views.status.load();
        let own: BTreeMap<u64, &MoveStatus> =
            status.replicas.iter().filter_map(|replica| Some((replica.group.0, replica.moving.as_ref()?))).collect();
        let told = |record: &KeyspaceRecord, replica: &ReplicaRecord| {
            let shard = record.shards.iter().find(|shard| shard.replica_on(self.node) == Some(replica))?;
            own.get(&shard.group).copied()
        };
        let mut jobs: Vec<JobBody> =
            catalog.keyspaces.iter().filter_map(|(name, record)| job_body(name, record, &catalog, told)).collect();
        jobs.sort_unstable_by_key(|job| job.id);
        if freshness.is_linearizable {
            self.ask_movers(&mut jobs, &catalog, deadline).await;
        }
        jobs.iter_mut().for_each(|job| job.progress = progress(&job.replicas));
        Ok(jobs)
    }

    /// How far a replica is only its node knows: those that move one are asked. What they do not answer soon is left out.
    async fn ask_movers(&self, jobs: &mut [JobBody], catalog: &Catalog, deadline: Monotonic) {
        let patience = MOVER_TIMEOUT.min(Duration::from_millis(deadline.since(self.handle.clock.now())));
        let replicas = jobs.iter().flat_map(|job| &job.replicas);
        let moving = replicas.filter(|replica| replica.state == MoveState::Moving && replica.node != self.name);
        let movers: BTreeSet<String> = moving.map(|replica| replica.node.clone()).collect();
        let mut asked = JoinSet::new();
        for mover in movers.into_iter().take(MAX_MOVERS) {
            let Some(address) = catalog.nodes.get(&mover).map(|node| node.client_address.clone()) else { continue };
            asked.spawn(async move {
                let answer = get(&address, "/v1/jobs?consistency=local", patience).await;
                let told = answer.ok().and_then(|(_, body)| serde_json::from_slice::<Items<JobBody>>(&body).ok());
                (mover, told.map_or_else(Vec::new, |told| told.items))
            });
        }
        while let Some(Ok((mover, told))) = asked.join_next().await {
            let of_mover = |job: JobBody| Some((job.id, job.replicas.into_iter().find(|replica| replica.node == mover)?));
            let told: BTreeMap<u64, ReplicaMove> = told.into_iter().filter_map(of_mover).collect();
            for job in jobs.iter_mut() {
                let Some(ReplicaMove { phase, copied, last_error, .. }) = told.get(&job.id).cloned() else { continue };
                for replica in job.replicas.iter_mut().filter(|replica| replica.node == mover) {
                    (replica.phase, replica.copied, replica.last_error) = (phase.clone(), copied, last_error.clone());
                }
            }
        }
    }

    /// The catalog: as the cluster has it now, or as this node has applied it.
    async fn catalog(&self, freshness: Freshness, deadline: Monotonic) -> Result<Arc<Catalog>, StoreError> {
        if freshness.is_linearizable {
            return self.latest_catalog(deadline).await.map(Arc::new);
        }
        self.hosted(SYSTEM_KEYSPACE, deadline).await?;
        Ok(self.handle.views.catalog.load_full())
    }

    /// Groups whose leader this node knows.
    fn led_groups(&self) -> BTreeSet<u64> {
        let status = self.handle.views.status.load();
        status.replicas.iter().filter(|replica| replica.leader.is_some()).map(|replica| replica.group.0).collect()
    }

    fn known(&self, name: &str, record: KeyspaceRecord, led: &BTreeSet<u64>) -> KnownKeyspace {
        let is_led = !record.replication.is_raft() || record.shards.iter().all(|shard| led.contains(&shard.group));
        let is_open = self.outside.find(name).is_none_or(|found| found.is_open());
        let is_ready = is_led && is_open && self.is_hosted(name, record.epoch);
        KnownKeyspace { name: name.to_owned(), record, is_ready }
    }

    /// Whether this node does not know of such a keyspace.
    fn is_new(&self, name: &str) -> bool {
        !self.handle.views.catalog.load().keyspaces.contains_key(name)
    }

    fn is_hosted(&self, name: &str, epoch: u64) -> bool {
        let is_outside = || self.outside.find(name).is_some_and(|found| found.epoch == epoch);
        self.handle.views.hosted.load().keyspaces.get(name).is_some_and(|hosted| hosted.epoch == epoch) || is_outside()
    }

    /// Waits until a keyspace can be written to through this node; whether it came to that in time.
    async fn is_usable(&self, keyspace: &KnownKeyspace, deadline: Monotonic) -> bool {
        let record = &keyspace.record;
        while !self.is_hosted(&keyspace.name, record.epoch) {
            if self.handle.clock.now() >= deadline {
                return false;
            }
            tokio::time::sleep(CATALOG_POLL).await;
        }
        if record.engine.outside.is_some() {
            return self.outside(&keyspace.name, deadline).await.is_ok();
        }
        // Who confirms a read is a leader with a quorum behind it.
        !record.replication.is_raft() || self.confirmed(&keyspace.name, deadline).await.is_ok()
    }
}

pub(crate) fn cache_figures(stats: &CacheStats) -> CacheFigures {
    CacheFigures {
        hits: stats.hits,
        misses: stats.misses,
        hit_ratio: stats.hit_ratio(),
        recent_hit_ratio: stats.recent_hit_ratio(),
        gone: CacheCauses {
            explicit: stats.removed,
            replaced: stats.replaced,
            expired: stats.expired,
            idle: stats.idled,
            size: stats.evicted,
            rejected: stats.rejected,
        },
        weight_bytes: stats.weight_bytes,
        max_bytes: stats.max_bytes,
    }
}

fn replica_stats(replica: &ReplicaStatus, catalog: &Catalog) -> ReplicaStats {
    let names = |ids: &[u64]| ids.iter().map(|id| node_name(catalog, *id)).collect();
    ReplicaStats {
        group: replica.group.0,
        role: replica.role.to_owned(),
        leader: replica.leader.map(|id| node_name(catalog, id)),
        voters: names(&replica.voters),
        learners: names(&replica.learners),
        is_caught_up: replica.is_caught_up,
        term: replica.term,
        revision: replica.revision,
        commit_index: replica.commit_index,
        applied_index: replica.applied_index,
        first_index: replica.first_index,
        last_index: replica.last_index,
        data_bytes: replica.data_bytes,
        history_bytes: replica.history_bytes,
        compacted_revision: replica.compacted,
        applied_entries: replica.applied_entries,
        applied_commands: replica.applied_commands,
        snapshots_cut: replica.snapshots_cut,
        snapshots_sent: replica.snapshots_sent,
        snapshots_loaded: replica.snapshots_loaded,
    }
}

fn eventual_stats(own: &EventualStatus, catalog: &Catalog) -> EventualStats {
    let node =
        |instance: &InstanceId| own.nodes.get(instance).map_or_else(|| instance.0.to_string(), |id| node_name(catalog, *id));
    let status = &own.replica;
    let counts = status.counts;
    let peer = |peer: &PeerStatus| EventualPeer {
        node: node(&peer.instance),
        state: state_name(peer.state).to_owned(),
        is_reachable: peer.is_reachable,
        lag_entries: peer.lag_entries,
        lag_ms: peer.lag_ms,
        needs_sync: peer.needs_sync,
        pushed_bytes: peer.pushed_bytes,
        pulled_entries: peer.pulled,
        pulled_bytes: peer.pulled_bytes,
        put_entries: peer.put,
        put_bytes: peer.put_bytes,
        compared_at: peer.compared_wall_ms.and_then(point_in_time),
        copied_at: peer.copied_wall_ms.and_then(point_in_time),
        is_comparing: peer.is_comparing,
        rounds: peer.rounds,
        clock_offset_ms: peer.clock_offset_ms,
    };
    EventualStats {
        group: own.group.0,
        instance: status.instance.0.into(),
        state: own.replica.state.map_or("joining", state_name).to_owned(),
        keys: status.keys,
        tombstones: status.tombstones,
        digest: format!("{:032x}", status.digest),
        outbox_entries: status.outbox_entries,
        outbox_bytes: status.outbox_bytes,
        clock_ahead_ms: status.hlc_ahead_ms,
        clock_skew_ms: status.skew_ms,
        stable_at: point_in_time(status.stable.ms()),
        tombstones_held_by: status.gc_blocked_by.iter().map(|(from, to)| HeldBy { from: node(from), to: node(to) }).collect(),
        written: counts.written,
        merged: counts.merged,
        superseded: counts.superseded,
        conflicts: counts.conflicts,
        newest_conflicts: own.conflicts.iter().map(conflict_body).collect(),
        fenced: counts.fenced,
        pushed_entries: counts.pushed,
        pushed_bytes: counts.pushed_bytes,
        overflows: counts.overflows,
        rounds: counts.rounds,
        stalled_rounds: counts.stalled_rounds,
        pulled_entries: counts.pulled,
        put_entries: counts.put,
        repairs: counts.repairs,
        peers: status.peers.iter().map(peer).collect(),
    }
}

fn conflict_body(conflict: &Conflict) -> ConflictBody {
    let (key, key64) = text64::split(&conflict.key);
    ConflictBody {
        key: key.map(std::borrow::Cow::into_owned),
        key64,
        won: stamp_text(conflict.won),
        lost: stamp_text(conflict.lost),
        at: point_in_time(conflict.wall_ms),
    }
}

fn state_name(state: MemberState) -> &'static str {
    match state {
        MemberState::Joining => "joining",
        MemberState::Up => "up",
        MemberState::Leaving => "leaving",
    }
}

/// The last move of a keyspace, if it ever moved. `told` is what this node says of its own replica.
fn job_body<'a>(
    name: &str,
    record: &KeyspaceRecord,
    catalog: &Catalog,
    told: impl Fn(&KeyspaceRecord, &ReplicaRecord) -> Option<&'a MoveStatus>,
) -> Option<JobBody> {
    let last = record.last_move.as_ref()?;
    let replica_move = |replica: &ReplicaRecord| {
        let own = told(record, replica);
        ReplicaMove {
            node: node_name(catalog, replica.node),
            state: move_state(replica),
            phase: own.map(|own| own.phase.to_owned()),
            copied: own.map(|own| f64::from(own.filled_thousandths) / 1_000.0),
            last_error: own.and_then(|own| own.last_error.clone()),
        }
    };
    let replicas: Vec<ReplicaMove> = record.staying_replicas().map(replica_move).collect();
    let done = replicas.iter().filter(|replica| replica.state == MoveState::Done).count();
    Some(JobBody {
        id: last.job,
        kind: "move".to_owned(),
        keyspace: name.to_owned(),
        state: if done == replicas.len() { JobState::Done } else { JobState::Running },
        progress: progress(&replicas),
        from: engine_body(&last.from),
        to: engine_body(&record.engine),
        started_at: point_in_time(last.started_ms),
        replicas,
    })
}

fn progress(replicas: &[ReplicaMove]) -> f64 {
    let share = |replica: &ReplicaMove| match replica.state {
        MoveState::Done => 1.0,
        MoveState::Moving => replica.copied.unwrap_or(0.0),
        MoveState::Waiting => 0.0,
    };
    if replicas.is_empty() { 1.0 } else { replicas.iter().map(share).sum::<f64>() / replicas.len() as f64 }
}

fn move_state(replica: &ReplicaRecord) -> MoveState {
    match (replica.has_to_move(), replica.is_moving) {
        (false, _) => MoveState::Done,
        (true, true) => MoveState::Moving,
        (true, false) => MoveState::Waiting,
    }
}

fn node_name(catalog: &Catalog, id: u64) -> String {
    catalog.node_name(id).map_or_else(|| format!("node {id}"), str::to_owned)
}
