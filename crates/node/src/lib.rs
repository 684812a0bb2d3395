//! One node, without I/O: inputs in, effects out.
//!
//! A [`Node`] holds the replicas of any number of Raft groups, the requests that clients wait for, the catalog, and the
//! snapshots on their way. It reads no clock, opens no socket and starts no thread: the shell around it (real in `server`,
//! simulated in `sim`) hands in [`Input`]s with the time, and carries out the [`Effect`]s that come back.
//!
//! What it must not know: tokio, HTTP, real clocks and sockets.

mod beats;
mod catalog;
mod convert;
mod durable_point;
mod election;
mod eventual;
mod eventual_engines;
mod eventual_state;
mod eventual_watch;
mod files;
mod hosting;
mod housekeeping;
mod io;
mod jobs;
mod lease_asks;
mod leases;
mod limits;
mod log_time;
mod machine;
mod membership;
mod moving;
mod node;
mod opening;
mod outbox;
mod pending;
mod reads;
mod reopening;
mod replica;
mod requests;
mod resting;
mod snapshot;
mod start;
mod status;
mod storage;
mod tick;
mod transfer;

/// The state machine's words, for those who write to and read from keyspaces through a node.
pub use quorate_keyspace as keyspace;

/// The words of replicas that take writes on their own.
pub use quorate_eventual as eventual_replication;

pub use catalog::{
    Catalog, CatalogError, ClusterRecord, DEFAULT_ENGINE, DEFAULT_RETENTION, EngineSettings, EngineValue, Form, KeyspaceRecord,
    KeyspaceSettings, LimitsRecord, MODE_OPTIONS, Mode, ModeOption, MoveRecord, NodeRecord, NodeState, OptionValue,
    OutsideRecord, ReplicaRecord, ReplicaRole, ReplicationSettings, RetentionRecord, SYSTEM_GROUP, SYSTEM_KEYSPACE,
    SettingsError, ShardRecord, ShardSettings,
};
pub use eventual::{EventualAsk, EventualStatus};
pub use eventual_state::is_eventual_state;
pub use io::{Answer, Effect, Failure, Input, LeaseQuestion, LeaseTime, Monotonic, PeerFrame, Request, RequestKind, StopReason};
pub use jobs::{Held, Job, JobDone, JobResult};
pub use limits::{Config, MAX_ASKED_LEASES};
pub use log_time::LogTime;
pub use machine::ShardWork;
pub use moving::MoveStatus;
pub use node::Node;
pub use snapshot::{Filled, SnapshotFile};
pub use start::{Identity, OpenError};
pub use status::{BeatCounts, Hosted, HostedKeyspace, NodeStatus, ReplicaStatus};
