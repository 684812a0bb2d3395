//! Bugs that are planted in the shell, one at a time, to see that the checkers find them.

use quorate_api::peer::Forward;
use quorate_keyspace::{Command, Op, Transaction};
use quorate_log::{Batch, HardState, Record};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The node is told that its log is durable before it is written.
    AckBeforeSync,
    /// Votes are left out of what is written to the log.
    VoteNotWritten,
    /// A linearizable read is answered by whichever node is asked, without asking the leader.
    ReadWithoutIndex,
    /// A forwarded write that is sent again is given another request id.
    RetryWithoutId,
    /// Conditions of writes are dropped.
    ConditionsDropped,
    /// A client is told that its write was done when nobody knows.
    UnknownIsDone,
    /// A client is told that its write was not done when nobody knows.
    UnknownIsNotDone,
    /// A node whose disk was lost comes back under its old id, with an empty log.
    WipedNodeKeepsId,
    /// The engine of one replica loses a key when a snapshot is loaded.
    SnapshotLosesKey,
    /// One replica loses a version of a key that was replaced, as if compaction deleted one too many.
    VersionLost,
    /// One replica has a version that was replaced under another revision than its own.
    VersionMisplaced,
    /// Compares of transactions are dropped.
    ComparesDropped,
    /// A transaction is sent as two, one after the other.
    TransactionInTwo,
    /// A transaction that reads several keys reads some of them from another replica.
    TransactionReadsElsewhere,
    /// A watcher that comes to another node goes on with what happens there from now on.
    WatchResumesAtPresent,
    /// A watcher is told half of what there is, and counts all of it as told.
    WatchTellsHalf,
    /// Who watches an eventual keyspace at a node is told half of what it changed.
    NodeWatchTellsHalf,
    /// A keep-alive is answered by whoever takes itself for the leader, at once.
    KeptAliveWithoutIndex,
    /// A new leader gives leases less than their full time, as if it knew how much of it has passed.
    LeaderKeepsOldTime,
    /// When a snapshot is loaded, one replica loses when pairs go.
    SnapshotLosesEnds,
    /// An increment is made of a read at the asked node, and a put.
    IncrementByPut,
    /// A write that is done once is sent again under another key.
    OnceUnderAnotherKey,
    /// A lock is held by the first claim by key, and not by the one that was created first.
    LockByKey,
    /// A write to an eventual keyspace is answered as if all others had it.
    ReplicatedOverstated,
    /// What a client has seen of an eventual keyspace does not come along with what it asks.
    SessionForgotten,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::AckBeforeSync,
        Self::VoteNotWritten,
        Self::ReadWithoutIndex,
        Self::RetryWithoutId,
        Self::ConditionsDropped,
        Self::UnknownIsDone,
        Self::UnknownIsNotDone,
        Self::WipedNodeKeepsId,
        Self::SnapshotLosesKey,
        Self::VersionLost,
        Self::VersionMisplaced,
        Self::ComparesDropped,
        Self::TransactionInTwo,
        Self::TransactionReadsElsewhere,
        Self::WatchResumesAtPresent,
        Self::WatchTellsHalf,
        Self::NodeWatchTellsHalf,
        Self::KeptAliveWithoutIndex,
        Self::LeaderKeepsOldTime,
        Self::SnapshotLosesEnds,
        Self::IncrementByPut,
        Self::OnceUnderAnotherKey,
        Self::LockByKey,
        Self::ReplicatedOverstated,
        Self::SessionForgotten,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::VoteNotWritten => "vote-not-written",
            Self::ReadWithoutIndex => "read-without-index",
            Self::RetryWithoutId => "retry-without-id",
            Self::ConditionsDropped => "conditions-dropped",
            Self::UnknownIsDone => "unknown-is-done",
            Self::UnknownIsNotDone => "unknown-is-not-done",
            Self::WipedNodeKeepsId => "wiped-node-keeps-id",
            Self::SnapshotLosesKey => "snapshot-loses-key",
            Self::VersionLost => "version-lost",
            Self::VersionMisplaced => "version-misplaced",
            Self::ComparesDropped => "compares-dropped",
            Self::TransactionInTwo => "transaction-in-two",
            Self::TransactionReadsElsewhere => "transaction-reads-elsewhere",
            Self::WatchResumesAtPresent => "watch-resumes-at-present",
            Self::WatchTellsHalf => "watch-tells-half",
            Self::NodeWatchTellsHalf => "node-watch-tells-half",
            Self::KeptAliveWithoutIndex => "kept-alive-without-index",
            Self::LeaderKeepsOldTime => "leader-keeps-old-time",
            Self::SnapshotLosesEnds => "snapshot-loses-ends",
            Self::IncrementByPut => "increment-by-put",
            Self::OnceUnderAnotherKey => "once-under-another-key",
            Self::LockByKey => "lock-by-key",
            Self::ReplicatedOverstated => "replicated-overstated",
            Self::SessionForgotten => "session-forgotten",
        }
    }
}

/// The same write under another request id, as a careless retry would send it.
pub(crate) fn with_another_id(forward: &Forward) -> Option<Forward> {
    let mut command = Command::decode(forward.command.clone()).ok()?;
    command.id.sequence += 1 << 32;
    let sequence = command.id.sequence;
    Some(Forward { sequence, command: command.to_bytes(), ..forward.clone() })
}

/// The same transaction in two. What is done otherwise is left to the second.
pub(crate) fn in_two(transaction: &Transaction) -> [Transaction; 2] {
    let (first, second) = transaction.then.split_at(transaction.then.len() / 2);
    let part = |then: &[Op]| Transaction { then: then.to_vec(), ..transaction.clone() };
    [Transaction { otherwise: Vec::new(), ..part(first) }, part(second)]
}

/// The records without votes.
pub(crate) fn without_votes(batch: Batch) -> Batch {
    let without = |record| match record {
        Record::HardState(state) => Record::HardState(HardState { vote: 0, ..state }),
        record => record,
    };
    batch.into_iter().map(|(group, record)| (group, without(record))).collect()
}
