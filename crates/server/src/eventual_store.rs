//! Keyspaces whose replicas take writes on their own: what the REST API asks of them, put to this node's replica.

use bytes::Bytes;
use quorate_api::keyspace::Capability;
use quorate_log::GroupId;
use quorate_node::eventual_replication::{Answer as Told, Body, Refusal, Session};
use quorate_node::keyspace::{
    Condition, Detail, Edit, KeyMeta, Limits, Op, OpResult, Outcome, Put, Removed, Revision, Write, keys,
};
use quorate_node::{Answer, EventualAsk, Failure, HostedKeyspace, Mode, Monotonic, RequestKind};
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::eventual_view::{EntryView, meta_of, record_of};
use crate::node_store::{Running, error_of, mismatch};
use crate::rest::{Answered, KeyReading, Replicated, StoreError, Synced, Wish, Written};

/// Keys of a range that one step removes: each is a write of its own.
const MAX_KEYS_PER_STEP: u64 = 1_000;

/// What an eventual keyspace can do at once, and one that is outside.
pub(crate) enum Plan {
    Put(Put),
    Delete(Bytes),
    DeleteRange(quorate_engine::KeyRange, u64),
}

/// What became of a write, how far it came, and what its client has seen now.
type Done = (Outcome, Replicated, Option<Session>);

impl Running {
    /// Writes through this node's replica. `None`: it is not here any more, and nothing was done.
    pub(crate) async fn write_eventually(
        &self,
        hosted: HostedKeyspace,
        keyspace: &str,
        write: Write,
        wish: Wish,
        deadline: Monotonic,
    ) -> Result<Option<Written>, StoreError> {
        let plan = plan(write)?;
        let Wish { ack, session } = wish;
        let catalog = self.handle.views.catalog.load();
        let Some(record) = catalog.keyspaces.get(keyspace) else { return Ok(None) };
        let (limits, default_ttl_ms) = (record.shard_settings().limits, record.ttl_ms);
        drop(catalog);
        let HostedKeyspace { group, epoch, engine, .. } = hosted;
        let written = |(outcome, replicated, session)| {
            let now_ms = Clock::calendar_ms();
            Written { epoch, outcome, now_ms, replicated: Some(replicated), session }
        };
        let ask = match plan {
            Plan::Put(put) => {
                if let Some(refused) = too_large(&put, &limits) {
                    return Ok(Some(written((refused, Replicated::default(), session))));
                }
                let Put { key, value, content_type, user_meta, ttl_ms, .. } = put;
                let body = Body::Value { content_type, user_meta, value };
                EventualAsk::Write { key, body, ttl_ms: ttl_ms.or(default_ttl_ms), ack, session }
            }
            Plan::Delete(key) => EventualAsk::Write { key, body: Body::Tombstone, ttl_ms: None, ack, session },
            Plan::DeleteRange(range, max_keys) => {
                let view = EntryView::new(engine.view(), Clock::calendar_ms());
                let done = self.delete_range(group, (&view, range, max_keys), &Wish { ack, session }, deadline).await?;
                return Ok(done.map(written));
            }
        };
        drop(engine);
        Ok(self.write_one(group, ask, deadline).await?.map(written))
    }

    async fn write_one(&self, group: GroupId, ask: EventualAsk, deadline: Monotonic) -> Result<Option<Done>, StoreError> {
        let is_put = matches!(ask, EventualAsk::Write { body: Body::Value { .. }, .. });
        match self.ask_replica(group, ask, deadline).await? {
            None => Ok(None),
            Some(Told::Written { version, replaced, replicated, is_met, session }) => {
                let before = replaced.then_some(KeyMeta { create_revision: Revision(0), mod_revision: Revision(0), version: 0 });
                let result = OpResult { before, after: is_put.then(|| meta_of(version)), detail: None };
                let outcome = Outcome::Applied { revision: Revision(0), results: vec![result] };
                let replicated = Replicated { members: replicated, is_met, stamp: Some(version) };
                Ok(Some((outcome, replicated, session.map(|session| *session))))
            }
            Some(Told::Refused(Refusal::Full { max_bytes })) => {
                Ok(Some((Outcome::Full { max_bytes }, Replicated::default(), None)))
            }
            Some(Told::Refused(refusal)) => Err(self.refused_write(group, refusal)),
            Some(Told::Found { .. } | Told::Level { .. } | Told::Done { .. }) => Err(mismatch()),
        }
    }

    /// Why nothing was written, with the names of nodes that help.
    fn refused_write(&self, group: GroupId, refusal: Refusal) -> StoreError {
        match refusal {
            Refusal::ReadOnly { .. } => StoreError::Mirror(self.source_of(group)),
            Refusal::TooFewMembers { others, wanted } => {
                StoreError::TooFewReplicas { wanted, others, nodes: self.replicas_of(group) }
            }
            refusal => refused(refusal),
        }
    }

    /// Removes the first keys of a range, each by a write of its own.
    async fn delete_range(
        &self,
        group: GroupId,
        (view, range, max_keys): (&EntryView, quorate_engine::KeyRange, u64),
        wish: &Wish,
        deadline: Monotonic,
    ) -> Result<Option<Done>, StoreError> {
        let max_keys = max_keys.min(MAX_KEYS_PER_STEP) as usize;
        let mut found = Vec::new();
        for key in keys(view, &range).take(max_keys + 1) {
            found.push(key.map_err(|error| StoreError::Internal(error.to_string()))?);
        }
        let next = (found.len() > max_keys).then(|| found.pop()).flatten();
        let removed = Removed { keys: found.len() as u64, next };
        let mut writes = JoinSet::new();
        for key in found {
            let (handle, left) = (self.handle.clone(), self.handle.clock.until(deadline));
            let Wish { ack, session } = wish.clone();
            let ask = EventualAsk::Write { key, body: Body::Tombstone, ttl_ms: None, ack, session };
            writes.spawn(async move { handle.ask(group, RequestKind::Eventual(ask), left).await });
        }
        let mut all = Replicated { members: u32::MAX, is_met: true, stamp: None };
        let mut seen = wish.session.clone();
        while let Some(answer) = writes.join_next().await {
            match answer.map_err(|error| StoreError::Internal(error.to_string()))? {
                Answer::Eventual(Told::Written { replicated, is_met, session, .. }) => {
                    seen.iter_mut().zip(&session).for_each(|(seen, session)| seen.join(session));
                    all.members = all.members.min(replicated);
                    all.is_met &= is_met;
                }
                Answer::Eventual(Told::Refused(refusal)) => return Err(self.refused_write(group, refusal)),
                Answer::Failed(failure) => return Err(error_of(failure)),
                _ => return Err(mismatch()),
            }
        }
        let result = OpResult { detail: Some(Box::new(Detail::Removed(removed))), ..OpResult::default() };
        let outcome = Outcome::Applied { revision: Revision(0), results: vec![result] };
        let members = if all.members == u32::MAX { 0 } else { all.members };
        Ok(Some((outcome, Replicated { members, ..all }, seen)))
    }

    /// Reads a key through this node's replica, where the mode's reads ask others, or in a session.
    pub(crate) async fn read_key(
        &self,
        keyspace: &str,
        key: &Bytes,
        session: Option<Session>,
        deadline: Monotonic,
    ) -> Result<Option<KeyReading>, StoreError> {
        let HostedKeyspace { group, epoch, mode, .. } = self.hosted(keyspace, deadline).await?;
        let asks_others = mode == Mode::ReadRepair;
        if !asks_others && (session.is_none() || !mode.is_eventual()) {
            return Ok(None);
        }
        match self.ask_replica(group, EventualAsk::Read { key: key.clone(), session }, deadline).await? {
            Some(Told::Found { entry, answered, asked, session }) => {
                let record = entry.and_then(record_of);
                let answered = asks_others.then_some(Answered { answered, asked });
                let session = session.map(|session| *session);
                Ok(Some(KeyReading { epoch, record, now_ms: Clock::calendar_ms(), answered, session }))
            }
            Some(Told::Refused(refusal)) => Err(refused(refusal)),
            None => Err(StoreError::NoLeader),
            Some(Told::Written { .. } | Told::Level { .. } | Told::Done { .. }) => Err(mismatch()),
        }
    }

    /// Waits until all is here that a client has seen.
    pub(crate) async fn level(&self, keyspace: &str, session: Session, deadline: Monotonic) -> Result<Session, StoreError> {
        let group = self.hosted(keyspace, deadline).await?.group;
        match self.ask_replica(group, EventualAsk::Level(session), deadline).await? {
            Some(Told::Level { session }) => Ok(session),
            Some(Told::Refused(refusal)) => Err(refused(refusal)),
            None => Err(StoreError::NoLeader),
            Some(Told::Written { .. } | Told::Found { .. } | Told::Done { .. }) => Err(mismatch()),
        }
    }

    /// Sends what was collected, or compares with all others; how many that reached.
    pub(crate) async fn sync(&self, keyspace: &str, ask: EventualAsk, deadline: Monotonic) -> Result<Synced, StoreError> {
        let group = self.hosted(keyspace, deadline).await?.group;
        match self.ask_replica(group, ask, deadline).await? {
            Some(Told::Done { reached, others }) => Ok(Synced { reached, others, stored: false }),
            Some(Told::Refused(refusal)) => Err(refused(refusal)),
            None => Err(StoreError::NoLeader),
            Some(Told::Written { .. } | Told::Found { .. } | Told::Level { .. }) => Err(mismatch()),
        }
    }

    /// The node that alone takes the writes of a keyspace, for people.
    fn source_of(&self, group: GroupId) -> String {
        let catalog = self.handle.views.catalog.load();
        let source = catalog.shard(group.0).and_then(|(_, keyspace, _)| keyspace.replication.source());
        source.unwrap_or_default().to_owned()
    }

    /// The nodes that have a replica, for people.
    fn replicas_of(&self, group: GroupId) -> String {
        let catalog = self.handle.views.catalog.load();
        let Some((.., shard)) = catalog.shard(group.0) else { return "no node".to_owned() };
        let has_one = |id: u64| shard.replica_on(id).is_some();
        let names = catalog.nodes.iter().filter(|(_, node)| has_one(node.id)).map(|(name, _)| name.as_str());
        names.collect::<Vec<_>>().join(", ")
    }

    async fn ask_replica(&self, group: GroupId, ask: EventualAsk, deadline: Monotonic) -> Result<Option<Told>, StoreError> {
        match self.handle.ask(group, RequestKind::Eventual(ask), self.handle.clock.until(deadline)).await {
            Answer::Eventual(told) => Ok(Some(told)),
            Answer::Failed(Failure::NotHosted) => Ok(None),
            Answer::Failed(failure) => Err(error_of(failure)),
            Answer::ReadReady | Answer::Written(_) | Answer::Leases(_) | Answer::Transferred => Err(mismatch()),
        }
    }
}

/// The one thing that the write does. What would have to look at the key first, or to be done together with more, cannot be had:
/// others write meanwhile.
fn plan(write: Write) -> Result<Plan, StoreError> {
    let Write { guards, ops } = write;
    if let Some(guard) = guards.first() {
        let is_once = matches!(guard.condition, Condition::Once(_));
        return Err(StoreError::Lacks(if is_once { Capability::Idempotency } else { Capability::Cas }));
    }
    plan_of(ops)
}

/// The one thing that is to be done, where only one can be at once.
pub(crate) fn plan_of(mut ops: Vec<Op>) -> Result<Plan, StoreError> {
    let op = ops.pop().filter(|_| ops.is_empty()).ok_or(StoreError::Lacks(Capability::AtomicBatch))?;
    match op {
        Op::Put(put) if put.lease.is_some() => Err(StoreError::Lacks(Capability::Leases)),
        Op::Put(put) => Ok(Plan::Put(put)),
        Op::Delete { key } => Ok(Plan::Delete(key)),
        Op::DeleteRange { range, max_keys } => Ok(Plan::DeleteRange(range, max_keys)),
        Op::Patch(patch) if matches!(patch.edit, Edit::Increment { .. }) => Err(StoreError::Lacks(Capability::Counters)),
        Op::Patch(_) => Err(StoreError::Lacks(Capability::Cas)),
        Op::Get { .. } | Op::List(_) | Op::Transaction(_) => Err(StoreError::Lacks(Capability::Txn)),
        Op::Compact { .. } => Err(StoreError::Lacks(Capability::History)),
        Op::LeaseGrant { .. } | Op::LeaseRevoke { .. } | Op::LeaseExpire { .. } => Err(StoreError::Lacks(Capability::Leases)),
        Op::Configure(_) => Err(StoreError::Lacks(Capability::Snapshot)),
    }
}

pub(crate) fn too_large(put: &Put, limits: &Limits) -> Option<Outcome> {
    let is_beyond = |bytes: usize, max_bytes: u64| max_bytes > 0 && bytes as u64 > max_bytes;
    if is_beyond(put.key.len(), limits.max_key_bytes) {
        return Some(Outcome::KeyTooLong { max_bytes: limits.max_key_bytes });
    }
    is_beyond(put.value.len(), limits.max_value_bytes).then_some(Outcome::ValueTooLarge { max_bytes: limits.max_value_bytes })
}

fn refused(refusal: Refusal) -> StoreError {
    match refusal {
        Refusal::Overloaded => StoreError::Overloaded,
        Refusal::Full { max_bytes } => StoreError::Internal(format!("more than {max_bytes} bytes, where nothing is added")),
        Refusal::NotUp => StoreError::Busy("this node's replica has not all that it should have, or shall go".to_owned()),
        Refusal::ReadOnly { .. } => StoreError::Mirror("the source".to_owned()),
        Refusal::ClockSkew { offset_ms } => StoreError::ClockSkew { offset_ms },
        Refusal::NotYet => StoreError::NotYet,
        Refusal::TooFewMembers { others, wanted } => {
            StoreError::TooFewReplicas { wanted, others, nodes: "fewer nodes than that".to_owned() }
        }
        Refusal::TooFewAnswers { answered, needed } => StoreError::TooFewAnswers { answered, needed },
    }
}
