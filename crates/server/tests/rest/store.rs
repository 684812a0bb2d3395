//! A store without a cluster: one real shard per keyspace, over the trie or a cache.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use quorate_api::cluster::{
    AddressChange, ClusterStatus, Formation, JoinAnswer, JoinRequest, KeyspaceLeader, NodeStatus, PeerAddress, ShardStatus,
    TransferAnswer, TransferRequest,
};
use quorate_api::keyspace::{Capability, JobBody, KeyspaceStats};
use quorate_engine::{Cache, CacheOptions, Engine, Trie};
use quorate_node::eventual_replication::Session;
use quorate_node::keyspace::{
    Command, EntryHeader, Lease, LeaseId, Limits, Op, Outcome, Put, RequestId, Revision, Shard, ShardHeader, Write, encode_entry,
    lease,
};
use quorate_node::{
    EngineSettings, KeyspaceRecord, KeyspaceSettings, LeaseQuestion, LeaseTime, LimitsRecord, Mode, MoveRecord, ReplicaRecord,
    ReplicaRole, ReplicationSettings, ShardRecord,
};
use quorate_server::rest::{
    Check, Freshness, KeyReading, KnownKeyspace, LiveFeed, Reading, SettingsPatch, Store, StoreError, Synced, Syncing, Wish,
    Written,
};

/// The epoch of every keyspace.
pub(crate) const EPOCH: u64 = 0xe1;

/// Keyspaces in memory, and a failure to be injected.
pub(crate) struct MemoryStore {
    state: Mutex<State>,
}

struct State {
    shards: BTreeMap<String, Shard>,
    feeds: BTreeMap<String, Arc<LiveFeed>>,
    records: BTreeMap<String, KeyspaceRecord>,
    jobs: Vec<JobBody>,
    sequence: u64,
    failure: Option<StoreError>,
    calls_before_failure: usize,
    reads: usize,
    calls: Vec<String>,
    checks: Vec<Check>,
    stall: Duration,
    now_ms: u64,
}

impl MemoryStore {
    /// Keyspaces `default`, `orders`, `_system`; `tiny`, which holds at most 100 bytes; `narrow`, whose keys have at most 8
    /// bytes and whose values at most 16.
    pub(crate) fn new() -> Self {
        let roomy = Limits { max_bytes: u64::MAX / 2, ..Limits::default() };
        let shards = [
            ("default", roomy),
            ("orders", roomy),
            ("_system", roomy),
            ("tiny", Limits { max_bytes: 100, ..roomy }),
            ("narrow", Limits { max_key_bytes: 8, max_value_bytes: 16, ..roomy }),
        ];
        let record = |limits: Limits| KeyspaceRecord {
            limits: LimitsRecord {
                max_bytes: Some(limits.max_bytes),
                max_key_bytes: Some(limits.max_key_bytes).filter(|max_bytes| *max_bytes > 0),
                max_value_bytes: Some(limits.max_value_bytes).filter(|max_bytes| *max_bytes > 0),
            },
            ..record(settings(limits), EPOCH)
        };
        let state = State {
            shards: shards.iter().map(|(name, limits)| ((*name).to_owned(), shard(&record(*limits)))).collect(),
            feeds: BTreeMap::new(),
            records: shards.iter().map(|(name, limits)| ((*name).to_owned(), record(*limits))).collect(),
            jobs: Vec::new(),
            sequence: 0,
            failure: None,
            calls_before_failure: 0,
            reads: 0,
            calls: Vec::new(),
            checks: vec![Check { name: "system", is_ok: true, detail: String::new() }],
            stall: Duration::ZERO,
            now_ms: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// From now on every call fails like this.
    pub(crate) fn fail_with(&self, failure: StoreError) {
        self.state().failure = Some(failure);
    }

    /// After so many more calls, every call fails like this.
    pub(crate) fn fail_after(&self, calls: usize, failure: StoreError) {
        let mut state = self.state();
        state.failure = Some(failure);
        state.calls_before_failure = calls;
    }

    /// From now on readiness is this.
    pub(crate) fn report(&self, checks: Vec<Check>) {
        self.state().checks = checks;
    }

    /// From now on these are the jobs.
    pub(crate) fn set_jobs(&self, jobs: Vec<JobBody>) {
        self.state().jobs = jobs;
    }

    /// From now on a keyspace moves from `trie`: one replica has arrived, one is on its way, one waits.
    pub(crate) fn begin_move(&self, name: &str) {
        let mut state = self.state();
        let record = state.records.get_mut(name).unwrap();
        let old = EngineSettings::of("trie");
        record.last_move = Some(MoveRecord { job: 7, from: old.clone(), started_ms: 1_800_000_000_000 });
        for (replica, is_moving) in record.shards[0].replicas.iter_mut().skip(1).zip([true, false]) {
            (replica.engine, replica.is_moving) = (Some(old.clone()), is_moving);
        }
    }

    /// From now on every call takes this long.
    pub(crate) fn stall(&self, stall: Duration) {
        self.state().stall = stall;
    }

    /// The calls so far, with what they were given, without reads.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state().calls.clone()
    }

    /// Fills a keyspace with keys k000000, k000001, ... and values of a few bytes.
    pub(crate) fn fill(&self, keyspace: &str, keys: usize) {
        let put = |number| Op::Put(Put::new(format!("k{number:06}").into(), format!("v{number}").into()));
        let write = Write { guards: Vec::new(), ops: (0..keys).map(put).collect() };
        self.state().apply(keyspace, write).unwrap();
    }

    /// From now on it is this time in every keyspace.
    pub(crate) fn advance(&self, now_ms: u64) {
        let mut state = self.state();
        state.now_ms = now_ms;
        state.shards.values().for_each(|shard| shard.engine().advance(now_ms));
    }

    /// How many views were asked for.
    pub(crate) fn reads(&self) -> usize {
        self.state().reads
    }

    /// The revision of a keyspace: it tells whether anything was changed.
    pub(crate) fn revision(&self, keyspace: &str) -> u64 {
        self.state().shards[keyspace].header().revision.0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn known(&self, name: &str) -> Result<KnownKeyspace, StoreError> {
        let record = self.state().records.get(name).cloned();
        let record = record.ok_or_else(|| StoreError::KeyspaceNotFound(name.to_owned()))?;
        Ok(KnownKeyspace { name: name.to_owned(), record, is_ready: true })
    }

    async fn called(&self, call: String) -> Result<(), StoreError> {
        let stall = self.state().stall;
        if !stall.is_zero() {
            tokio::time::sleep(stall).await;
        }
        self.state().calls.push(call);
        self.fail()
    }

    fn fail(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.calls_before_failure > 0 {
            state.calls_before_failure -= 1;
            return Ok(());
        }
        state.failure.clone().map_or(Ok(()), Err)
    }
}

impl State {
    fn feed(&mut self, keyspace: &str) -> Result<Arc<LiveFeed>, StoreError> {
        let revision = self.shard(keyspace)?.header().revision;
        let feed = self.feeds.entry(keyspace.to_owned()).or_insert_with(|| Arc::new(LiveFeed::new(revision)));
        Ok(Arc::clone(feed))
    }

    fn shard(&mut self, keyspace: &str) -> Result<&mut Shard, StoreError> {
        self.shards.get_mut(keyspace).ok_or_else(|| StoreError::KeyspaceNotFound(keyspace.to_owned()))
    }

    fn apply(&mut self, keyspace: &str, write: Write) -> Result<Outcome, StoreError> {
        self.sequence += 1;
        let id = RequestId { origin: 1, sequence: self.sequence };
        let now_ms = self.now_ms;
        let shard = self.shard(keyspace)?;
        let command = Command { id, floor: id.sequence, write }.to_bytes();
        let entry = encode_entry(EntryHeader { log_time_ms: now_ms }, [command].iter());
        let applied = shard.apply(&[(shard.header().applied_index + 1, 1, entry)]).unwrap();
        let revision = shard.header().revision;
        if let Some(feed) = self.feeds.get(keyspace) {
            feed.publish(revision, applied.changes);
        }
        let (_, outcome) = applied.outcomes.into_iter().next().unwrap();
        Ok(outcome)
    }
}

impl Store for MemoryStore {
    fn now_ms(&self, _keyspace: &str) -> u64 {
        self.state().now_ms
    }

    async fn feed(&self, keyspace: &str, _timeout: Duration) -> Result<(u64, Arc<LiveFeed>), StoreError> {
        self.fail()?;
        self.state().feed(keyspace).map(|feed| (EPOCH, feed))
    }

    async fn write(&self, keyspace: &str, write: Write, wish: Wish, timeout: Duration) -> Result<Written, StoreError> {
        let waits_for = wish.ack.map_or_else(String::new, |ack| format!(" {ack:?}"));
        self.called(format!("write {keyspace} {}ms{waits_for}", timeout.as_millis())).await?;
        let outcome = self.state().apply(keyspace, write)?;
        let now_ms = self.state().now_ms;
        Ok(Written { epoch: EPOCH, outcome, now_ms, replicated: None, session: None })
    }

    async fn level(&self, keyspace: &str, session: Session, _timeout: Duration) -> Result<Session, StoreError> {
        self.called(format!("level {keyspace}")).await?;
        Ok(session)
    }

    async fn read_key(
        &self,
        keyspace: &str,
        key: &Bytes,
        _session: Option<Session>,
        _timeout: Duration,
    ) -> Result<Option<KeyReading>, StoreError> {
        self.called(format!("ask {keyspace} {}", key.escape_ascii())).await?;
        Ok(None)
    }

    async fn sync(&self, keyspace: &str, how: Syncing, _timeout: Duration) -> Result<Synced, StoreError> {
        let word = match how {
            Syncing::Flush { rewrites: false, prunes: false } => "flush",
            Syncing::Flush { rewrites: true, .. } => "rewrite",
            Syncing::Flush { .. } => "prune",
            Syncing::Compare => "sync",
        };
        self.called(format!("{word} {keyspace}")).await?;
        Ok(Synced { reached: 1, others: 2, stored: false })
    }

    async fn read(&self, keyspace: &str, freshness: Freshness, _timeout: Duration) -> Result<Reading, StoreError> {
        self.fail()?;
        self.state().reads += 1;
        let view = self.state().shard(keyspace)?.engine().view();
        let reached = Revision(view.revision());
        match freshness.min_revision {
            Some(wanted) if wanted > reached => Err(StoreError::NotReached { wanted, reached }),
            _ => Ok(Reading { epoch: EPOCH, view, now_ms: self.state().now_ms, counted: None }),
        }
    }

    fn cluster(&self) -> ClusterStatus {
        cluster()
    }

    async fn join(&self, request: JoinRequest, _timeout: Duration) -> Result<JoinAnswer, StoreError> {
        self.called(format!("join {} {} {}", request.name, request.client_address, request.peer_address)).await?;
        let peers = vec![PeerAddress { node_id: 1, system_replica: 1, peer_address: "127.0.0.1:2380".to_owned() }];
        Ok(JoinAnswer { cluster_id: "00000000000000c1".to_owned(), node_id: 4, system_replica: 9, peers })
    }

    fn formation(&self, told: &Formation) -> Formation {
        Formation { name: "n1".to_owned(), cluster_id: Some("00000000000000c1".to_owned()), ..told.clone() }
    }

    async fn announce(&self, name: &str, peer_address: &str, _timeout: Duration) -> Result<(), StoreError> {
        self.called(format!("announce {name} {peer_address}")).await
    }

    async fn readdress(&self, name: &str, change: AddressChange, timeout: Duration) -> Result<(), StoreError> {
        let AddressChange { cluster_id, node_id, client_address, peer_address } = change;
        self.called(format!("readdress {name} {cluster_id} {node_id} {client_address} {peer_address} {}ms", timeout.as_millis()))
            .await
    }

    async fn remove_node(&self, name: &str, timeout: Duration) -> Result<(), StoreError> {
        self.called(format!("remove {name} {}ms", timeout.as_millis())).await?;
        let is_known = cluster().nodes.iter().any(|node| node.name == name);
        is_known.then_some(()).ok_or_else(|| StoreError::NodeNotFound(name.to_owned()))
    }

    async fn transfer_leader(&self, request: TransferRequest, _timeout: Duration) -> Result<TransferAnswer, StoreError> {
        self.called(format!("transfer {:?} {:?}", request.to, request.keyspace)).await?;
        Ok(TransferAnswer { items: vec![KeyspaceLeader { keyspace: "default".to_owned(), leader: request.to }] })
    }

    async fn keyspaces(&self, freshness: Freshness, _timeout: Duration) -> Result<Vec<KnownKeyspace>, StoreError> {
        self.called(format!("keyspaces {}", freshness.is_linearizable)).await?;
        let names: Vec<String> = self.state().records.keys().cloned().collect();
        names.iter().map(|name| self.known(name)).collect()
    }

    async fn keyspace(&self, name: &str, _freshness: Freshness, _timeout: Duration) -> Result<KnownKeyspace, StoreError> {
        self.fail()?;
        self.known(name)
    }

    async fn create_keyspace(
        &self,
        name: &str,
        settings: KeyspaceSettings,
        timeout: Duration,
    ) -> Result<(bool, KnownKeyspace), StoreError> {
        self.called(format!("create {name} {}ms", timeout.as_millis())).await?;
        if let Ok(known) = self.known(name) {
            let is_same = known.record.settings() == settings;
            return if is_same { Ok((false, known)) } else { Err(StoreError::Conflict(format!("{name} is there"))) };
        }
        let mut state = self.state();
        let epoch = EPOCH + state.records.len() as u64;
        let record = record(settings, epoch);
        let mut made = shard(&record);
        made.expire_after(record.ttl_ms);
        state.shards.insert(name.to_owned(), made);
        state.records.insert(name.to_owned(), record);
        drop(state);
        Ok((true, self.known(name)?))
    }

    async fn begin_restore(&self, name: &str, settings: KeyspaceSettings, timeout: Duration) -> Result<u64, StoreError> {
        let is_left = self.state().records.get(name).is_some_and(|record| record.is_restoring);
        if is_left {
            self.state().records.remove(name);
        } else if self.known(name).is_ok() {
            return Err(StoreError::Conflict(format!("{name} is there")));
        }
        let (_, known) = self.create_keyspace(name, settings, timeout).await?;
        self.state().records.get_mut(name).unwrap().is_restoring = true;
        Ok(known.record.epoch)
    }

    async fn restore_write(&self, name: &str, _epoch: u64, write: Write, timeout: Duration) -> Result<Written, StoreError> {
        assert!(self.state().records[name].is_restoring, "{name} was begun");
        self.write(name, write, Wish::default(), timeout).await
    }

    async fn end_restore(&self, name: &str, _epoch: u64, _timeout: Duration) -> Result<(), StoreError> {
        self.called(format!("end restore {name}")).await?;
        self.state().records.get_mut(name).unwrap().is_restoring = false;
        Ok(())
    }

    async fn abandon_restore(&self, name: &str, _epoch: u64, _timeout: Duration) -> Result<(), StoreError> {
        let mut state = self.state();
        state.records.remove(name);
        state.shards.remove(name);
        Ok(())
    }

    async fn alter_keyspace(&self, name: &str, patch: SettingsPatch, _timeout: Duration) -> Result<KnownKeyspace, StoreError> {
        self.called(format!("alter {name}")).await?;
        let known = self.known(name)?;
        let settings = patch.apply(&known.record.settings())?;
        settings.check()?;
        self.state().records.insert(name.to_owned(), record(settings, known.record.epoch));
        self.known(name)
    }

    async fn delete_keyspace(&self, name: &str, _timeout: Duration) -> Result<(), StoreError> {
        self.called(format!("delete {name}")).await?;
        self.known(name)?;
        self.state().records.remove(name);
        Ok(())
    }

    async fn keyspace_stats(&self, name: &str, _timeout: Duration) -> Result<KeyspaceStats, StoreError> {
        self.fail()?;
        self.known(name)?;
        let (served_by, engine) = ("n1".to_owned(), "trie".to_owned());
        Ok(KeyspaceStats {
            name: name.to_owned(),
            served_by,
            engine,
            keys: 3,
            data_bytes: 30,
            replicas: Vec::new(),
            eventual: Vec::new(),
            cache: None,
            outside: None,
            behind: None,
        })
    }

    async fn jobs(&self, _freshness: Freshness, _timeout: Duration) -> Result<Vec<JobBody>, StoreError> {
        self.fail()?;
        Ok(self.state().jobs.clone())
    }

    async fn leases(
        &self,
        keyspace: &str,
        question: LeaseQuestion,
        timeout: Duration,
    ) -> Result<Vec<Option<LeaseTime>>, StoreError> {
        let what = if question.keeps_alive { "keep alive" } else { "ask about" };
        self.called(format!("{what} {} leases of {keyspace} {}ms", question.leases.len(), timeout.as_millis())).await?;
        let view = self.state().shard(keyspace)?.engine().view();
        let time = |id: &LeaseId| {
            let found = lease(view.as_ref(), *id).unwrap();
            // As if a second had passed since its grant.
            found.map(|Lease { ttl_ms, .. }| LeaseTime {
                ttl_ms,
                left_ms: if question.keeps_alive { ttl_ms } else { ttl_ms - 1000 },
            })
        };
        Ok(question.leases.iter().map(time).collect())
    }

    fn can(&self, keyspace: &str, capability: Capability) -> bool {
        self.state().records.get(keyspace).is_none_or(|record| record.can(capability))
    }

    fn default_ttl_ms(&self, keyspace: &str) -> Option<u64> {
        self.state().records.get(keyspace)?.ttl_ms
    }

    fn liveness(&self) -> Vec<Check> {
        Vec::new()
    }

    fn readiness(&self) -> Vec<Check> {
        self.state().checks.clone()
    }

    fn metrics(&self, out: &mut String) {
        out.push_str("quorate_test_metric 7\n");
    }
}

/// On a cache where that is asked for, else on a trie, whatever that is.
fn shard(record: &KeyspaceRecord) -> Shard {
    let options = CacheOptions { max_bytes: 1 << 20, max_entries: None, idle_ms: None };
    let engine: Arc<dyn Engine> =
        if record.engine.kind == "cache" { Arc::new(Cache::new(options, 1)) } else { Arc::new(Trie::new()) };
    Shard::found(engine, ShardHeader { settings: record.shard_settings(), ..ShardHeader::default() }).unwrap()
}

/// The settings of a keyspace that is there from the start.
fn settings(limits: Limits) -> KeyspaceSettings {
    let engine = EngineSettings::of("trie");
    KeyspaceSettings::with_defaults(engine, ReplicationSettings::of(Mode::Raft), limits.max_bytes)
}

/// A keyspace with a replica on each of three nodes.
fn record(settings: KeyspaceSettings, epoch: u64) -> KeyspaceRecord {
    let replicas = (1..=3).map(|node| ReplicaRecord::new(node, node, ReplicaRole::Voter)).collect();
    KeyspaceRecord {
        epoch,
        engine: settings.engine,
        replication: settings.replication,
        ttl_ms: settings.ttl_ms,
        limits: settings.limits,
        retention: settings.retention,
        is_restoring: false,
        created_ms: 1_800_000_000_000,
        last_move: None,
        shards: vec![ShardRecord { group: epoch, founding: vec![1, 2, 3], begun_with: None, members_epoch: 0, replicas }],
    }
}

/// Three nodes; `n2` leads `default`, `n3` the system keyspace, `n1` answers.
fn cluster() -> ClusterStatus {
    let node = |name: &str, port: u16| NodeStatus {
        name: name.to_owned(),
        client_address: format!("127.0.0.1:{port}"),
        peer_address: format!("127.0.0.1:{}", port + 1),
        role: "voter".to_owned(),
        is_connected: true,
    };
    let names = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
    let shard = ShardStatus {
        keyspace: "default".to_owned(),
        group: 1,
        leader: Some("n2".to_owned()),
        role: "follower".to_owned(),
        term: 3,
        commit_index: 10,
        applied_index: 10,
        first_index: 1,
        last_index: 10,
        revision: 4,
        data_bytes: 100,
        voters: names,
        learners: Vec::new(),
    };
    ClusterStatus {
        id: "00000000000000c1".to_owned(),
        served_by: "n1".to_owned(),
        leader: Some("n3".to_owned()),
        nodes: vec![node("n1", 2379), node("n2", 12379), node("n3", 22379)],
        shards: vec![shard],
    }
}
