//! The REST API's store: this node, and through it the cluster.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use quorate_api::cluster::{
    AddressChange, ClusterStatus, Formation, JoinAnswer, JoinRequest, KeyspaceLeader, NodeStatus as NodeEntry, ShardStatus,
    TransferAnswer, TransferRequest,
};
use quorate_api::keyspace::{Capability, JobBody, KeyspaceStats};
use quorate_engine::View;
use quorate_log::GroupId;
use quorate_node::eventual_replication::{MemberState, Session};
use quorate_node::keyspace::{Outcome, Revision, Write};
use quorate_node::{
    Answer, Catalog, CatalogError, EventualAsk, Failure, HostedKeyspace, Identity, KeyspaceRecord, KeyspaceSettings,
    LeaseQuestion, LeaseTime, Mode, Monotonic, NodeState, ReplicaStatus, RequestKind, SYSTEM_GROUP, SYSTEM_KEYSPACE,
};
use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::eventual_view::EntryView;
use crate::finding::Found;
use crate::node_loop::LoopHandle;
use crate::outside_engines::OutsideEngines;
use crate::outside_store::not_here;
use crate::outside_stores::OutsideStores;
use crate::peers::Peers;
use crate::rest::{
    Check, Freshness, KeyReading, KnownKeyspace, LiveFeed, MAX_WRITE_BYTES, Outside, Reading, SettingsPatch, Store, StoreError,
    Synced, Syncing, Wish, Written,
};
use crate::waiting::Waiting;

/// How often a read that waits for a revision looks again.
const REVISION_POLL: Duration = Duration::from_millis(2);

/// A loop or a log that stands still for this long is stuck: a restart may help.
const STUCK_MS: u64 = 30_000;

/// How often the end of a change to the catalog is looked for.
pub(crate) const CATALOG_POLL: Duration = Duration::from_millis(20);

/// How often a node that starts is looked for.
pub(crate) const START_POLL: Duration = Duration::from_millis(10);

/// This node as the REST API's store. Answers "not yet" until the node runs.
#[derive(Debug)]
pub(crate) struct NodeStore {
    name: String,
    running: OnceLock<Running>,
    waiting: Arc<Waiting>,
}

/// What a running node offers.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) handle: LoopHandle,
    pub(crate) peers: Peers,
    pub(crate) name: String,
    pub(crate) node: u64,
    pub(crate) cluster: u64,
    pub(crate) outside: Arc<OutsideStores>,
    pub(crate) engines: Arc<OutsideEngines>,
    /// Held while the catalog is changed through this node. Of changes that are planned at the same time one is written, and all
    /// others are planned anew: many at once would hardly come to an end, and the last ones not in time.
    catalog_turn: Mutex<()>,
}

impl NodeStore {
    /// A store of a node that does not run yet.
    pub(crate) fn new(name: String, waiting: Arc<Waiting>) -> Self {
        Self { name, running: OnceLock::new(), waiting }
    }

    /// From now on requests are served.
    pub(crate) fn begin(&self, running: Running) {
        assert!(self.running.set(running).is_ok(), "a node begins once");
    }

    /// The node, once it runs (a node that joins or reads its log lets requests wait), and when the time limit ends.
    async fn running(&self, timeout: Duration) -> Result<(&Running, Monotonic), StoreError> {
        let mut left = timeout;
        loop {
            if let Some(running) = self.running.get() {
                return Ok((running, running.handle.clock.now().plus_ms(left.as_millis() as u64)));
            }
            if left.is_zero() {
                return Err(StoreError::NoLeader);
            }
            let pause = START_POLL.min(left);
            tokio::time::sleep(pause).await;
            left -= pause;
        }
    }
}

impl Store for NodeStore {
    async fn write(&self, keyspace: &str, write: Write, wish: Wish, timeout: Duration) -> Result<Written, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        if keyspace == SYSTEM_KEYSPACE {
            return Err(StoreError::ReadOnly(keyspace.to_owned()));
        }
        if let Some(outside) = running.outside(keyspace, deadline).await? {
            return running.write_outside(&outside, keyspace, write, deadline).await;
        }
        loop {
            let hosted = running.hosted_in_pace(keyspace, deadline).await?;
            let written = if hosted.mode.is_eventual() {
                running.write_eventually(hosted, keyspace, write.clone(), wish.clone(), deadline).await?
            } else {
                running.write_hosted(hosted, &write, deadline).await?
            };
            match written {
                Some(written) => return Ok(written),
                // Deleted, and perhaps made anew. What guards and compares say of a key was true of the old one.
                None if !write.is_conditional() && running.handle.clock.now() < deadline => {
                    tokio::time::sleep(START_POLL).await;
                }
                None => return Err(StoreError::NoLeader),
            }
        }
    }

    async fn read(&self, keyspace: &str, freshness: Freshness, timeout: Duration) -> Result<Reading, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        if let Found::Outside(found) = running.found(keyspace, deadline).await? {
            return Ok(Reading { epoch: found.epoch, view: not_here(), now_ms: Clock::calendar_ms(), counted: None });
        }
        let hosted = if freshness.is_linearizable {
            running.confirmed(keyspace, deadline).await?
        } else {
            running.hosted(keyspace, deadline).await?
        };
        if hosted.mode.is_eventual() {
            let now_ms = Clock::calendar_ms();
            let entries = hosted.engine.view();
            let counted = Some(hosted.watched_at(&*entries));
            let view = Arc::new(EntryView::new(entries, now_ms));
            return Ok(Reading { epoch: hosted.epoch, view, now_ms, counted });
        }
        let now_ms = running.handle.clock.now().0;
        let mut view = match &hosted.local {
            Some(local) => local.view(now_ms),
            None => hosted.engine.view(),
        };
        if let Some(wanted) = freshness.min_revision {
            view = running.wait_for(keyspace, wanted, deadline).await?;
        }
        // Where replicas agree, time is that of the log.
        let now_ms = if hosted.local.is_some() { now_ms } else { hosted.log_time.at(Monotonic(now_ms)) };
        Ok(Reading { epoch: hosted.epoch, view, now_ms, counted: None })
    }

    async fn outside(&self, keyspace: &str, timeout: Duration) -> Result<Option<Outside>, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.outside(keyspace, deadline).await
    }

    async fn read_key(
        &self,
        keyspace: &str,
        key: &Bytes,
        session: Option<Session>,
        timeout: Duration,
    ) -> Result<Option<KeyReading>, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        if let Found::Outside(_) = running.found(keyspace, deadline).await? {
            return Ok(None);
        }
        running.read_key(keyspace, key, session, deadline).await
    }

    async fn level(&self, keyspace: &str, session: Session, timeout: Duration) -> Result<Session, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.level(keyspace, session, deadline).await
    }

    async fn sync(&self, keyspace: &str, how: Syncing, timeout: Duration) -> Result<Synced, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        let Syncing::Flush { rewrites, prunes } = how else {
            return running.sync(keyspace, EventualAsk::Sync, deadline).await;
        };
        let part = if prunes { running.part_behind(keyspace, deadline).await? } else { None };
        if rewrites {
            running.rewrite_behind(keyspace, deadline).await?;
        }
        if let Some(part) = part {
            // It may have to be made ready before it can be looked through.
            running.flush_behind(keyspace, deadline).await?;
            running.prune_behind(keyspace, &part, deadline).await?;
        }
        let is_eventual = running.hosted(keyspace, deadline).await?.mode.is_eventual();
        let sent = if is_eventual {
            running.sync(keyspace, EventualAsk::Flush, deadline).await?
        } else {
            Synced { reached: 0, others: 0, stored: false }
        };
        Ok(Synced { stored: running.flush_behind(keyspace, deadline).await?, ..sent })
    }

    fn is_here(&self, keyspace: &str) -> bool {
        self.running.get().is_some_and(|running| running.has(keyspace))
    }

    async fn elsewhere(&self, keyspace: &str, timeout: Duration) -> Result<Vec<String>, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        let look = || {
            let is_here = running.has(keyspace);
            let others = if is_here { Vec::new() } else { running.elsewhere(keyspace) };
            Some(others).filter(|others| is_here || !others.is_empty())
        };
        running.look_for(keyspace, deadline, look).await
    }

    fn cluster(&self) -> ClusterStatus {
        match self.running.get() {
            Some(running) => running.cluster_status(),
            None => ClusterStatus {
                id: String::new(),
                served_by: self.name.clone(),
                leader: None,
                nodes: Vec::new(),
                shards: Vec::new(),
            },
        }
    }

    async fn join(&self, request: JoinRequest, timeout: Duration) -> Result<JoinAnswer, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.change_catalog(deadline, |catalog| Ok(catalog.plan_join(&request)?)).await
    }

    fn formation(&self, told: &Formation) -> Formation {
        match self.running.get() {
            Some(running) => self.waiting.tell_of_member(running.cluster),
            None => {
                self.waiting.hear(told);
                self.waiting.tell()
            }
        }
    }

    async fn announce(&self, name: &str, peer_address: &str, timeout: Duration) -> Result<(), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.change_catalog(deadline, |catalog| Ok((catalog.plan_announce(name, peer_address)?, ()))).await
    }

    async fn readdress(&self, name: &str, change: AddressChange, timeout: Duration) -> Result<(), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        let node = running.handle.views.catalog.load().check_identity(name, &change)?;
        // At once: where all nodes have moved, there is no leader until they find each other again.
        running.peers.redirect(node, &change.peer_address);
        running.change_catalog(deadline, |catalog| Ok((catalog.plan_readdress(name, &change)?, ()))).await
    }

    async fn remove_node(&self, name: &str, timeout: Duration) -> Result<(), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.change_catalog(deadline, |catalog| Ok((catalog.plan_remove(name)?, ()))).await?;
        if name == running.name {
            // Its peers end its part; the catalog that says so does not come here any more.
            return Ok(());
        }
        running.wait_until_gone(name, deadline).await
    }

    async fn transfer_leader(&self, request: TransferRequest, timeout: Duration) -> Result<TransferAnswer, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        let catalog = running.handle.views.catalog.load_full();
        let to = match &request.to {
            Some(name) => {
                Some(catalog.nodes.get(name).map(|node| node.id).ok_or_else(|| StoreError::NodeNotFound(name.clone()))?)
            }
            None => None,
        };
        let is_asked = |keyspace: &str| request.keyspace.as_deref().is_none_or(|asked| asked == keyspace);
        let has_leader = |keyspace: &KeyspaceRecord| keyspace.replication.is_raft();
        let led = catalog.shards().filter(|(name, keyspace, _)| is_asked(name) && has_leader(keyspace));
        let shards: Vec<(String, u64)> = led.map(|(name, _, shard)| (name.to_owned(), shard.group)).collect();
        if shards.is_empty() {
            return Err(StoreError::KeyspaceNotFound(request.keyspace.unwrap_or_default()));
        }
        let mut items = Vec::new();
        for (keyspace, group) in shards {
            let left = running.handle.clock.until(deadline);
            match running.handle.ask(GroupId(group), RequestKind::TransferLeader(to), left).await {
                Answer::Failed(failure) => return Err(error_of(failure)),
                _ => items.push(KeyspaceLeader { leader: running.leader_name(group).await, keyspace }),
            }
        }
        Ok(TransferAnswer { items })
    }

    async fn keyspaces(&self, freshness: Freshness, timeout: Duration) -> Result<Vec<KnownKeyspace>, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.keyspaces(freshness, deadline).await
    }

    async fn keyspace(&self, name: &str, freshness: Freshness, timeout: Duration) -> Result<KnownKeyspace, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.keyspace(name, freshness, deadline).await
    }

    async fn create_keyspace(
        &self,
        name: &str,
        settings: KeyspaceSettings,
        timeout: Duration,
    ) -> Result<(bool, KnownKeyspace), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.create_keyspace(name, &settings, deadline).await
    }

    async fn alter_keyspace(&self, name: &str, patch: SettingsPatch, timeout: Duration) -> Result<KnownKeyspace, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.alter_keyspace(name, &patch, deadline).await
    }

    async fn delete_keyspace(&self, name: &str, timeout: Duration) -> Result<(), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.delete_keyspace(name, deadline).await
    }

    async fn begin_restore(&self, name: &str, settings: KeyspaceSettings, timeout: Duration) -> Result<u64, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.begin_restore(name, &settings, deadline).await
    }

    async fn restore_write(&self, name: &str, epoch: u64, write: Write, timeout: Duration) -> Result<Written, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.restore_write((name, epoch), &write, deadline).await
    }

    async fn end_restore(&self, name: &str, epoch: u64, timeout: Duration) -> Result<(), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.end_restore(name, epoch, deadline).await
    }

    async fn abandon_restore(&self, name: &str, epoch: u64, timeout: Duration) -> Result<(), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.abandon_restore(name, epoch, deadline).await
    }

    async fn keyspace_stats(&self, name: &str, timeout: Duration) -> Result<KeyspaceStats, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.keyspace_stats(name, deadline).await
    }

    async fn jobs(&self, freshness: Freshness, timeout: Duration) -> Result<Vec<JobBody>, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        running.jobs(freshness, deadline).await
    }

    async fn feed(&self, keyspace: &str, timeout: Duration) -> Result<(u64, Arc<LiveFeed>), StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        let (group, epoch) = {
            let hosted = running.hosted(keyspace, deadline).await?;
            (hosted.group, hosted.epoch)
        };
        let feed = running.handle.views.feeds.get(group.0).ok_or(StoreError::NoLeader)?;
        Ok((feed.epoch().unwrap_or(epoch), feed))
    }

    async fn leases(
        &self,
        keyspace: &str,
        question: LeaseQuestion,
        timeout: Duration,
    ) -> Result<Vec<Option<LeaseTime>>, StoreError> {
        let (running, deadline) = self.running(timeout).await?;
        loop {
            let group = running.hosted(keyspace, deadline).await?.group;
            let left = running.handle.clock.until(deadline);
            match running.handle.ask(group, RequestKind::Leases(question.clone()), left).await {
                Answer::Leases(times) => return Ok(times),
                // Deleted, and perhaps made anew.
                Answer::Failed(Failure::NotHosted) if !left.is_zero() => tokio::time::sleep(START_POLL).await,
                Answer::Failed(failure) => return Err(error_of(failure)),
                Answer::ReadReady | Answer::Written(_) | Answer::Transferred | Answer::Eventual(_) => return Err(mismatch()),
            }
        }
    }

    fn now_ms(&self, keyspace: &str) -> u64 {
        let Some(running) = self.running.get() else { return 0 };
        let now = running.handle.clock.now();
        let hosted = running.handle.views.hosted.load();
        let found = hosted.keyspaces.get(keyspace);
        found.map_or(0, |found| match found.mode {
            Mode::Raft => found.log_time.at(now),
            Mode::None => now.0,
            Mode::Push | Mode::ReadRepair | Mode::Batch | Mode::FullCopy => Clock::calendar_ms(),
        })
    }

    fn can(&self, keyspace: &str, capability: Capability) -> bool {
        let catalog = self.running.get().map(|running| running.handle.views.catalog.load());
        let record = catalog.as_ref().and_then(|catalog| catalog.keyspaces.get(keyspace));
        record.is_none_or(|record| record.can(capability))
    }

    fn default_ttl_ms(&self, keyspace: &str) -> Option<u64> {
        self.running.get()?.handle.views.catalog.load().keyspaces.get(keyspace)?.ttl_ms
    }

    fn liveness(&self) -> Vec<Check> {
        self.running.get().map_or_else(Vec::new, Running::liveness)
    }

    fn readiness(&self) -> Vec<Check> {
        match self.running.get() {
            Some(running) => running.readiness(),
            None => vec![Check { name: "joined", is_ok: false, detail: self.waiting.awaited() }],
        }
    }

    fn metrics(&self, out: &mut String) {
        if let Some(running) = self.running.get() {
            let views = &running.handle.views;
            crate::metrics::node(out, &views.status.load(), &running.peers.status());
            crate::metrics::eventuals(out, &views.status.load(), &views.catalog.load());
            crate::metrics::caches(out, &views.hosted.load());
            crate::metrics::stores(out, &running.outside.all());
            crate::metrics::behind(out, &running.all_behind());
        }
    }
}

impl Running {
    pub(crate) fn new(
        handle: LoopHandle,
        peers: Peers,
        (outside, engines): (Arc<OutsideStores>, Arc<OutsideEngines>),
        identity: Identity,
    ) -> Self {
        let Identity { cluster, node, name, .. } = identity;
        Self { handle, peers, name, node, cluster, outside, engines, catalog_turn: Mutex::default() }
    }

    /// Where a keyspace is, once a read there sees all that was acknowledged before. If its group goes away meanwhile, the
    /// keyspace was deleted, and perhaps made anew.
    pub(crate) async fn confirmed(&self, keyspace: &str, deadline: Monotonic) -> Result<HostedKeyspace, StoreError> {
        loop {
            let hosted = self.hosted(keyspace, deadline).await?;
            if hosted.mode != Mode::Raft {
                // There is nobody to confirm it with.
                return Ok(hosted);
            }
            // Who waits holds no engine: one that failed is opened again only when nobody does.
            let group = hosted.group;
            drop(hosted);
            let left = self.handle.clock.until(deadline);
            match self.handle.ask(group, RequestKind::ReadIndex, left).await {
                // Asked for again: the keyspace may have moved to another engine since, and the old one knows nothing newer.
                Answer::ReadReady => match self.hosted(keyspace, deadline).await? {
                    now if now.group == group => return Ok(now),
                    _ => {}
                },
                Answer::Failed(Failure::NotHosted) if !left.is_zero() => tokio::time::sleep(START_POLL).await,
                answer => return Err(read_error(&answer)),
            }
        }
    }

    /// Writes to a keyspace of Raft, or of this node alone. None: it is not here any more, and nothing was done.
    async fn write_hosted(
        &self,
        hosted: HostedKeyspace,
        write: &Write,
        deadline: Monotonic,
    ) -> Result<Option<Written>, StoreError> {
        // Who waits for an outcome holds no engine: one that failed is opened again only when nobody does.
        let HostedKeyspace { group, epoch, local, log_time, engine, .. } = hosted;
        drop(engine);
        if let Some(local) = local {
            let now_ms = self.handle.clock.now().0;
            let outcome = local.write(now_ms, write.clone()).map_err(|error| StoreError::Internal(error.to_string()))?;
            return Ok(Some(Written { epoch, outcome, now_ms, replicated: None, session: None }));
        }
        let outcome = self.maybe_write(group, write, deadline).await?;
        let now_ms = log_time.at(self.handle.clock.now());
        Ok(outcome.map(|outcome| Written { epoch, outcome, now_ms, replicated: None, session: None }))
    }

    async fn write(&self, group: GroupId, write: &Write, deadline: Monotonic) -> Result<Outcome, StoreError> {
        self.maybe_write(group, write, deadline).await?.ok_or(StoreError::NoLeader)
    }

    /// None: the group is not here any more, and nothing was done.
    pub(crate) async fn maybe_write(
        &self,
        group: GroupId,
        write: &Write,
        deadline: Monotonic,
    ) -> Result<Option<Outcome>, StoreError> {
        let encoded = write.to_bytes();
        if encoded.len() > MAX_WRITE_BYTES {
            return Err(StoreError::TooLarge { max_bytes: MAX_WRITE_BYTES as u64 });
        }
        match self.handle.ask(group, RequestKind::Write(encoded), self.handle.clock.until(deadline)).await {
            Answer::Written(outcome) => Ok(Some(outcome)),
            Answer::Failed(Failure::NotHosted) => Ok(None),
            Answer::Failed(failure) => Err(error_of(failure)),
            Answer::ReadReady | Answer::Leases(_) | Answer::Transferred | Answer::Eventual(_) => Err(mismatch()),
        }
    }

    pub(crate) async fn read_index(&self, group: GroupId, deadline: Monotonic) -> Result<(), StoreError> {
        match self.handle.ask(group, RequestKind::ReadIndex, self.handle.clock.until(deadline)).await {
            Answer::ReadReady => Ok(()),
            answer => Err(read_error(&answer)),
        }
    }

    async fn wait_for(&self, keyspace: &str, wanted: Revision, deadline: Monotonic) -> Result<Arc<dyn View>, StoreError> {
        loop {
            let view = self.hosted(keyspace, deadline).await?.engine.view();
            let reached = Revision(view.revision());
            if reached >= wanted {
                return Ok(view);
            }
            if self.handle.clock.now() >= deadline {
                return Err(StoreError::NotReached { wanted, reached });
            }
            tokio::time::sleep(REVISION_POLL).await;
        }
    }

    /// Resolves once the node is in no group any more, and forgotten.
    async fn wait_until_gone(&self, name: &str, deadline: Monotonic) -> Result<(), StoreError> {
        while self.handle.views.catalog.load().nodes.contains_key(name) {
            if self.handle.clock.now() >= deadline {
                // It was said, and goes on: only the end was not seen.
                return Err(StoreError::Unknown);
            }
            tokio::time::sleep(CATALOG_POLL).await;
        }
        Ok(())
    }

    /// The catalog as the cluster has it now.
    pub(crate) async fn latest_catalog(&self, deadline: Monotonic) -> Result<Catalog, StoreError> {
        let system = self.confirmed(SYSTEM_KEYSPACE, deadline).await?;
        Ok(Catalog::read(system.engine.view().as_ref())?)
    }

    /// Reads the catalog, plans a change and writes it; begins again when another node changed it in between. Changes through
    /// this node wait for each other, in the order in which they came.
    pub(crate) async fn change_catalog<T>(
        &self,
        deadline: Monotonic,
        plan: impl Fn(&Catalog) -> Result<(Option<Write>, T), StoreError>,
    ) -> Result<T, StoreError> {
        let turn = tokio::time::timeout(self.handle.clock.until(deadline), self.catalog_turn.lock()).await;
        let _turn = turn.map_err(|_| StoreError::Overloaded)?;
        loop {
            let catalog = self.latest_catalog(deadline).await?;
            let (write, answer) = plan(&catalog)?;
            let Some(write) = write else {
                return Ok(answer);
            };
            match self.write(GroupId(SYSTEM_GROUP), &write, deadline).await? {
                Outcome::Applied { .. } => return Ok(answer),
                Outcome::ConditionFailed { .. } => {}
                Outcome::Forgotten => return Err(StoreError::Unknown),
                refused => return Err(StoreError::Internal(format!("the catalog refuses a change: {refused:?}"))),
            }
        }
    }

    pub(crate) fn replica(&self, group: u64) -> Option<Arc<ReplicaStatus>> {
        self.handle.views.status.load().replicas.iter().find(|replica| replica.group.0 == group).cloned()
    }

    /// The leader after a transfer; the published status follows with the next tick.
    async fn leader_name(&self, group: u64) -> Option<String> {
        let before = self.handle.views.status.load_full();
        for _ in 0..100 {
            if !Arc::ptr_eq(&before, &self.handle.views.status.load()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let leader = self.replica(group)?.leader?;
        self.handle.views.catalog.load().node_name(leader).map(str::to_owned)
    }

    fn cluster_status(&self) -> ClusterStatus {
        let catalog = self.handle.views.catalog.load();
        let status = self.handle.views.status.load();
        let links = self.peers.status();
        let is_connected = |id: u64| id == self.node || links.iter().any(|link| link.node == id && link.is_connected);
        let name = |id: u64| catalog.node_name(id).map_or_else(|| format!("node {id}"), str::to_owned);
        let system = status.replicas.iter().find(|replica| replica.group.0 == SYSTEM_GROUP);
        let role = |id: u64, state| match state {
            NodeState::Announced => "announced",
            NodeState::Leaving => "leaving",
            NodeState::Member if system.is_some_and(|system| system.voters.contains(&id)) => "voter",
            NodeState::Member => "learner",
        };
        let node = |(name, node): (&String, &quorate_node::NodeRecord)| NodeEntry {
            name: name.clone(),
            client_address: node.client_address.clone(),
            peer_address: node.peer_address.clone(),
            role: role(node.id, node.state).to_owned(),
            is_connected: is_connected(node.id),
        };
        let shard = |replica: &ReplicaStatus| ShardStatus {
            keyspace: replica.keyspace.clone(),
            group: replica.group.0,
            leader: replica.leader.and_then(|id| catalog.node_name(id)).map(str::to_owned),
            role: replica.role.to_owned(),
            term: replica.term,
            commit_index: replica.commit_index,
            applied_index: replica.applied_index,
            first_index: replica.first_index,
            last_index: replica.last_index,
            revision: replica.revision,
            data_bytes: replica.data_bytes,
            voters: replica.voters.iter().map(|id| name(*id)).collect(),
            learners: replica.learners.iter().map(|id| name(*id)).collect(),
        };
        ClusterStatus {
            id: format!("{:016x}", catalog.cluster.id),
            served_by: self.name.clone(),
            leader: system.and_then(|system| system.leader).and_then(|id| catalog.node_name(id)).map(str::to_owned),
            nodes: catalog.nodes.iter().map(node).collect(),
            shards: status.replicas.iter().map(Arc::as_ref).map(shard).collect(),
        }
    }

    fn liveness(&self) -> Vec<Check> {
        let views = &self.handle.views;
        let silent_ms = self.handle.clock.now().since(Monotonic(views.status_at_ms.load(Ordering::Relaxed)));
        let status = views.status.load();
        // A full disk is waited for; a restart would not help.
        let unsynced_ms = if status.is_disk_full { 0 } else { status.unsynced_ms };
        vec![
            check("loop", silent_ms < STUCK_MS, format!("the node's loop has not come round for {silent_ms} ms")),
            check("log", unsynced_ms < STUCK_MS, format!("the log has not synced for {unsynced_ms} ms")),
        ]
    }

    fn readiness(&self) -> Vec<Check> {
        let status = self.handle.views.status.load();
        let hosted = self.handle.views.hosted.load();
        let refusal = self.peers.status().into_iter().find_map(|link| link.last_error);
        let system = status.replicas.iter().find(|replica| replica.group.0 == SYSTEM_GROUP);
        let has_leader = system.is_some_and(|system| system.leader.is_some());
        let leader_detail = match refusal {
            Some(refusal) if !has_leader => format!("no leader is known; last failure of a peer connection: {refusal}"),
            _ => "no leader is known".to_owned(),
        };
        let behind: Vec<&str> =
            status.replicas.iter().filter(|replica| !replica.is_caught_up).map(|replica| replica.keyspace.as_str()).collect();
        let joining = status.eventuals.iter().filter(|own| own.replica.state == Some(MemberState::Joining));
        let behind: Vec<&str> = behind.into_iter().chain(joining.map(|own| own.keyspace.as_str())).collect();
        let replicated = hosted.keyspaces.values().filter(|hosted| hosted.mode == Mode::Raft).count();
        let missing = hosted.keyspaces.is_empty() || status.replicas.len() < replicated;
        vec![
            check("joined", true, String::new()),
            check("leader", has_leader, leader_detail),
            check("keyspaces", behind.is_empty() && !missing, format!("not caught up yet: {}", behind.join(", "))),
            check("draining", !status.is_stopping, "the node hands over what it leads, and ends".to_owned()),
            check("disk", !status.is_disk_full, "the disk is almost full: writes are refused".to_owned()),
        ]
    }
}

fn check(name: &'static str, is_ok: bool, detail: String) -> Check {
    Check { name, is_ok, detail: if is_ok { String::new() } else { detail } }
}

pub(crate) fn error_of(failure: Failure) -> StoreError {
    match failure {
        Failure::NoLeader | Failure::NotHosted => StoreError::NoLeader,
        Failure::Unknown => StoreError::Unknown,
        Failure::NoSuccessor => StoreError::Conflict("there is no other voter that could lead".to_owned()),
        Failure::Overloaded => StoreError::Overloaded,
        Failure::DiskFull => StoreError::DiskFull,
        Failure::StoreBusy => StoreError::Behind(
            "the store behind the leader's replica is too far behind: that node's statistics say why".to_owned(),
        ),
        Failure::ShuttingDown => StoreError::ShuttingDown,
    }
}

fn read_error(answer: &Answer) -> StoreError {
    match answer {
        Answer::Failed(Failure::Unknown | Failure::ShuttingDown) => StoreError::ShuttingDown,
        Answer::Failed(failure) => error_of(*failure),
        Answer::ReadReady | Answer::Written(_) | Answer::Leases(_) | Answer::Transferred | Answer::Eventual(_) => mismatch(),
    }
}

impl From<CatalogError> for StoreError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::NodeNotFound(name) => Self::NodeNotFound(name),
            CatalogError::KeyspaceNotFound(name) => Self::KeyspaceNotFound(name),
            CatalogError::SystemKeyspace => Self::ReadOnly(SYSTEM_KEYSPACE.to_owned()),
            CatalogError::Settings(error) => Self::Settings(error),
            CatalogError::StillLeaving(_) | CatalogError::OtherMoves(_) => Self::Busy(error.to_string()),
            CatalogError::Damaged { .. } => Self::Internal(error.to_string()),
            _ => Self::Conflict(error.to_string()),
        }
    }
}

pub(crate) fn mismatch() -> StoreError {
    StoreError::Internal("the node answered another question".to_owned())
}
