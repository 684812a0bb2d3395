//! What the REST handlers need from behind them. The node is one implementation; tests inject another.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_api::cluster::{AddressChange, ClusterStatus, Formation, JoinAnswer, JoinRequest, TransferAnswer, TransferRequest};
use quorate_api::keyspace::{Capability, JobBody, KeyspaceStats};
use quorate_engine::View;
use quorate_node::eventual_replication::{Ack, Session, Version};
use quorate_node::keyspace::{Outcome, Record, Revision, Write};
use quorate_node::{KeyspaceRecord, KeyspaceSettings, LeaseQuestion, LeaseTime, SettingsError};

use super::feeds::LiveFeed;
use super::outside::Outside;
use super::settings::SettingsPatch;

/// The backing store of the REST endpoint.
///
/// Obligations of an implementation: every call ends within the time limit it was given, or, without one, within
/// [`super::DEFAULT_TIMEOUT`]; no call blocks its thread; a write error says truthfully whether the write may have happened.
pub trait Store: Send + Sync + 'static {
    /// Writes, and answers once the write is durable on a quorum and applied; in an eventual keyspace, once it is durable here
    /// and at those whom the wish names, or at the end of the time limit.
    fn write(
        &self,
        keyspace: &str,
        write: Write,
        wish: Wish,
        timeout: Duration,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Reads one key where this node's own state does not do: in a keyspace whose reads ask other nodes and keep the newest, or
    /// in a session of an eventual keyspace. None where [`Store::read`] has all there is.
    fn read_key(
        &self,
        keyspace: &str,
        key: &Bytes,
        session: Option<Session>,
        timeout: Duration,
    ) -> impl Future<Output = Result<Option<KeyReading>, StoreError>> + Send;

    /// Waits until this node has all that a session has seen of an eventual keyspace; what the session has seen that reads
    /// whatever is here now.
    fn level(
        &self,
        keyspace: &str,
        session: Session,
        timeout: Duration,
    ) -> impl Future<Output = Result<Session, StoreError>> + Send;

    /// Sends the others what an eventual keyspace has collected here, and waits for a store behind this node's replica; or
    /// compares with all the others.
    fn sync(&self, keyspace: &str, how: Syncing, timeout: Duration) -> impl Future<Output = Result<Synced, StoreError>> + Send;

    /// A view to read from, at least as fresh as asked for. That of a keyspace whose pairs are outside has its epoch
    /// alone: they are read by [`Store::outside`].
    fn read(
        &self,
        keyspace: &str,
        freshness: Freshness,
        timeout: Duration,
    ) -> impl Future<Output = Result<Reading, StoreError>> + Send;

    /// A keyspace whose pairs are in a store outside the nodes, with its store; none of any other keyspace, and where
    /// there are no such keyspaces.
    fn outside(&self, keyspace: &str, timeout: Duration) -> impl Future<Output = Result<Option<Outside>, StoreError>> + Send {
        let _ = (keyspace, timeout);
        std::future::ready(Ok(None))
    }

    /// Whether a keyspace can be read through this node now. Asks nobody: reads ask this first.
    fn is_here(&self, keyspace: &str) -> bool {
        let _ = keyspace;
        true
    }

    /// Where clients find other nodes that have a keyspace, whole; nothing if it can be read here after all. Waits for this
    /// node's start, and asks the cluster whether there is such a keyspace.
    fn elsewhere(&self, keyspace: &str, timeout: Duration) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send {
        let _ = (keyspace, timeout);
        std::future::ready(Ok(Vec::new()))
    }

    /// The cluster as this node sees it, without asking others.
    fn cluster(&self) -> ClusterStatus;

    /// Lets a node in.
    fn join(&self, request: JoinRequest, timeout: Duration) -> impl Future<Output = Result<JoinAnswer, StoreError>> + Send;

    /// Hears how another node stands that is of no cluster yet, and tells the same of this one.
    fn formation(&self, told: &Formation) -> Formation;

    /// Takes note of a node that will come with this name and peer address.
    fn announce(&self, name: &str, peer_address: &str, timeout: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes note of where a member is found from now on.
    fn readdress(
        &self,
        name: &str,
        change: AddressChange,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes a node for good.
    fn remove_node(&self, name: &str, timeout: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Hands leadership over.
    fn transfer_leader(
        &self,
        request: TransferRequest,
        timeout: Duration,
    ) -> impl Future<Output = Result<TransferAnswer, StoreError>> + Send;

    /// Every keyspace, by name. Only `is_linearizable` of the freshness counts.
    fn keyspaces(
        &self,
        freshness: Freshness,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<KnownKeyspace>, StoreError>> + Send;

    /// One keyspace. Only `is_linearizable` of the freshness counts.
    fn keyspace(
        &self,
        name: &str,
        freshness: Freshness,
        timeout: Duration,
    ) -> impl Future<Output = Result<KnownKeyspace, StoreError>> + Send;

    /// Makes a keyspace, and answers once it can be written to through this node, or with the end of the time limit. Whether
    /// it is new: it may be there with the same settings; with others, that is [`StoreError::Conflict`].
    fn create_keyspace(
        &self,
        name: &str,
        settings: KeyspaceSettings,
        timeout: Duration,
    ) -> impl Future<Output = Result<(bool, KnownKeyspace), StoreError>> + Send;

    /// Gives a keyspace other settings. A move to another engine begins, and is not waited for.
    fn alter_keyspace(
        &self,
        name: &str,
        patch: SettingsPatch,
        timeout: Duration,
    ) -> impl Future<Output = Result<KnownKeyspace, StoreError>> + Send;

    /// Deletes a keyspace with all its pairs.
    fn delete_keyspace(&self, name: &str, timeout: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Makes a keyspace that is to be filled from a backup, and that only [`Store::restore_write`] can use; its epoch. One that a
    /// restore left behind is made anew, and so is the one that always exists, if it is empty; any other is
    /// [`StoreError::Conflict`].
    fn begin_restore(
        &self,
        name: &str,
        settings: KeyspaceSettings,
        timeout: Duration,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Writes into a keyspace that is being restored, as [`Store::write`] does into others. [`StoreError::Conflict`] if it is not
    /// the one of this epoch any more: somebody else restores it now.
    fn restore_write(
        &self,
        name: &str,
        epoch: u64,
        write: Write,
        timeout: Duration,
    ) -> impl Future<Output = Result<Written, StoreError>> + Send;

    /// Lets everybody use a keyspace that was filled.
    fn end_restore(&self, name: &str, epoch: u64, timeout: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives up filling a keyspace: it is gone, or empty if it always exists.
    fn abandon_restore(&self, name: &str, epoch: u64, timeout: Duration) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// What this node has of a keyspace.
    fn keyspace_stats(&self, name: &str, timeout: Duration) -> impl Future<Output = Result<KeyspaceStats, StoreError>> + Send;

    /// The jobs that go on, and the last one of each keyspace, by number. Only `is_linearizable` of the freshness counts.
    fn jobs(&self, freshness: Freshness, timeout: Duration) -> impl Future<Output = Result<Vec<JobBody>, StoreError>> + Send;

    /// What is told of a keyspace at this node, while it can be read here. Asked for after a linearizable read, it tells of all
    /// that is written from then on. With the epoch that names its revisions: the keyspace's, or, where each node counts on its
    /// own, one of this start of its replica. Only of keyspaces with the capability `watch`.
    fn feed(&self, keyspace: &str, timeout: Duration) -> impl Future<Output = Result<(u64, Arc<LiveFeed>), StoreError>> + Send;

    /// Asks who leads a keyspace about leases: keeps them alive, or tells how long they live. One answer per lease; none if there
    /// is no such lease, or if it ends now.
    fn leases(
        &self,
        keyspace: &str,
        question: LeaseQuestion,
        timeout: Duration,
    ) -> impl Future<Output = Result<Vec<Option<LeaseTime>>, StoreError>> + Send;

    /// What time it is for pairs of a keyspace that go by themselves, in milliseconds, as far as this node knows.
    fn now_ms(&self, keyspace: &str) -> u64;

    /// Whether a keyspace can do this, as far as this node knows without asking others; one that it does not know can.
    fn can(&self, keyspace: &str, capability: Capability) -> bool;

    /// How long a pair lives that says nothing about it, if not forever, in milliseconds; as far as this node knows without
    /// asking others.
    fn default_ttl_ms(&self, keyspace: &str) -> Option<u64>;

    /// What `/livez` reports: whether the node's own loops go on. Never depends on others.
    fn liveness(&self) -> Vec<Check>;

    /// What `/readyz` reports; ready if all are.
    fn readiness(&self) -> Vec<Check>;

    /// Appends metrics in Prometheus' text form.
    fn metrics(&self, out: &mut String);
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Confirmed with a quorum, so that it sees every write acknowledged before it began; otherwise this node's own state.
    pub is_linearizable: bool,
    /// At this revision or later.
    pub min_revision: Option<Revision>,
    /// Where a keyspace's reads ask other nodes, this one does.
    pub asks_others: bool,
}

impl Freshness {
    /// This node's own state, as it is.
    pub(crate) const LOCAL: Self = Self { is_linearizable: false, min_revision: None, asks_others: false };
    /// Every write that was acknowledged before.
    pub(crate) const LATEST: Self = Self { is_linearizable: true, min_revision: None, asks_others: false };
}

/// What a write asks for that only an eventual keyspace knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Whom it waits for; none: whom the keyspace says.
    pub ack: Option<Ack>,
    /// What its client has seen: it is stamped above that.
    pub session: Option<Session>,
}

/// A write that reached the state machine.
#[derive(Clone, Debug)]
pub struct Written {
    /// Part of each `ETag`: renewed when a keyspace is made anew, so that an old tag never matches by accident.
    pub epoch: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// What time it is for pairs that go by themselves, in milliseconds.
    pub now_ms: u64,
    /// How far it came, in an eventual keyspace.
    pub replicated: Option<Replicated>,
    /// What the client has seen now, if it said what it had, in an eventual keyspace.
    pub session: Option<Session>,
}

/// How far a write came in an eventual keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replicated {
    /// How many other members are known to have it.
    pub members: u32,
    /// Whether those whom it was to wait for have it.
    pub is_met: bool,
    /// Its version, if it is one write.
    pub stamp: Option<Version>,
}

/// A key, read in an eventual keyspace.
#[derive(Clone, Debug)]
pub struct KeyReading {
    /// Part of each `ETag`.
    pub epoch: u64,
    /// What is there.
    pub record: Option<Record>,
    /// What time it is for pairs that go by themselves, in milliseconds.
    pub now_ms: u64,
    /// Who answered, where the keyspace's reads ask others.
    pub answered: Option<Answered>,
    /// What the client has seen now, if it said what it had.
    pub session: Option<Session>,
}

/// Who answered a read that asked others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// How many did in time.
    pub answered: u32,
    /// How many were asked.
    pub asked: u32,
}

/// What is done when it is asked for, and not when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syncing {
    /// What was collected is sent, and what waits for the store behind the replica is written.
    Flush {
        /// To that store everything is written again.
        rewrites: bool,
        /// What is there and not in the replica is removed.
        prunes: bool,
    },
    /// Replicas are compared.
    Compare,
}

/// What a flush or a comparison reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synced {
    /// How many other members it was done with.
    pub reached: u32,
    /// How many there are.
    pub others: u32,
    /// Whether a store behind this node's replica has got everything.
    pub stored: bool,
}

/// A view to read from.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Part of each `ETag`.
    pub epoch: u64,
    /// The pairs.
    pub view: Arc<dyn View>,
    /// What time it is for pairs that go by themselves, in milliseconds.
    pub now_ms: u64,
    /// Where an eventual replica stands by its own count: the epoch that names its revisions, and the view's. None where all
    /// replicas have revisions in common, or none.
    pub counted: Option<(u64, Revision)>,
}

impl Reading {
    /// What watches go by: the epoch that names the revisions, and the view's.
    pub(crate) fn watched_at(&self) -> (u64, Revision) {
        self.counted.unwrap_or_else(|| (self.epoch, Revision(self.view.revision())))
    }
}

/// A keyspace as the catalog has it.
#[derive(Clone, Debug)]
pub struct KnownKeyspace {
    /// Its name.
    pub name: String,
    /// What the catalog says.
    pub record: KeyspaceRecord,
    /// Whether it can be used through this node.
    pub is_ready: bool,
}

/// One line of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was checked, one word.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub is_ok: bool,
    /// What is the matter; empty if nothing.
    pub detail: String,
}

/// Why a call failed, by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No such keyspace.
    #[error("keyspace {0} not found")]
    KeyspaceNotFound(String),
    /// Clients may not write here.
    #[error("keyspace {0} is read-only")]
    ReadOnly(String),
    /// No such node.
    #[error("node {0} not found")]
    NodeNotFound(String),
    /// It stands in contradiction to what is there (a name that is taken, the last voter to be removed).
    #[error("{0}")]
    Conflict(String),
    /// A keyspace cannot have these settings; nothing was done.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// An earlier change is not done yet that this one waits for; nothing was done.
    #[error("{0}")]
    Busy(String),
    /// No leader could be reached in time; nothing was done.
    #[error("no leader was reached within the time limit")]
    NoLeader,
    /// The answer did not come in time; the write may or may not happen.
    #[error("the outcome is not known: no answer within the time limit")]
    Unknown,
    /// This node does not have the asked-for revision yet.
    #[error("revision {wanted} was not reached within the time limit; this node is at {reached}")]
    NotReached {
        /// Asked for.
        wanted: Revision,
        /// What is there.
        reached: Revision,
    },
    /// Too many requests wait already; nothing was done.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The disk is full; nothing was done.
    #[error("the disk is almost full: writes are refused until there is room")]
    DiskFull,
    /// The write is larger than what fits into one log entry.
    #[error("the write is larger than {max_bytes} bytes")]
    TooLarge {
        /// The limit.
        max_bytes: u64,
    },
    /// The node has a mirror of another, which alone takes writes; nothing was done.
    #[error("this node mirrors node {0}, which alone takes the writes of this keyspace: write there")]
    Mirror(String),
    /// The keyspace cannot do this; nothing was done.
    #[error("the keyspace does not have the capability {}", .0.name())]
    Lacks(Capability),
    /// The node's clock is off from those of the others by too much; nothing was done.
    #[error(
        "this node's clock is {offset_ms} ms off from those of the others: what it writes would win or lose for no good reason"
    )]
    ClockSkew {
        /// By how much, in milliseconds; positive if it is ahead.
        offset_ms: i64,
    },
    /// Those who have what the client's session has seen did not answer in time.
    #[error("this node has not got yet what the session has seen, and those who have did not answer in time")]
    NotYet,
    /// Fewer other nodes answered a read than the keyspace wants.
    #[error("{answered} other nodes answered in time; the keyspace's min_answers is {needed}")]
    TooFewAnswers {
        /// How many did.
        answered: u32,
        /// How many it wants.
        needed: u32,
    },
    /// A write is to wait for more other nodes than have a replica; nothing was done.
    #[error(
        "ack={wanted}: the keyspace has replicas at {nodes}, and so at most {others} others can have a write; use ack=all_up"
    )]
    TooFewReplicas {
        /// So many it is to wait for.
        wanted: u32,
        /// So many others have one.
        others: u32,
        /// The names of all that do.
        nodes: String,
    },
    /// The store outside that holds the pairs failed, or refused; the error says what became of a write.
    #[error("{0}")]
    Outside(quorate_external::StoreError),
    /// The store behind the replica has too much to get yet; nothing was done.
    #[error("{0}")]
    Behind(String),
    /// The store outside has no place for a part of what was to be written; nothing was done.
    #[error("{0}")]
    Unfit(&'static str),
    /// The node is going down; nothing was done.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// A defect, or a damaged engine.
    #[error("{0}")]
    Internal(String),
}
