//! Every operation: what it takes, what it answers, and with which codes it can refuse.

use std::collections::BTreeMap;

use quorate_api::backup::RestoredKeyspace;
use quorate_api::batch::{BatchBody, BatchResults};
use quorate_api::cluster::{
    AddressChange, ClusterStatus, Formation, Items, JoinAnswer, JoinRequest, NodeStatus, TransferAnswer, TransferRequest,
};
use quorate_api::entry::{DeletedBody, EntryBody, HistoryBody, ListBody, PutBody};
use quorate_api::header::{
    ANSWERED, CONSISTENCY, CREATE_REVISION, DELETED, EPOCH, IDEMPOTENCY_REPLAYED, INDEX, LEASE, MOD_REVISION, REPLICATED,
    REVISION, SESSION, STAMP, TTL, VERSION, WATCH_SCOPE,
};
use quorate_api::lease::{GrantBody, KeepAliveBody, KeptAlive, LeaseBody, LeaseDetail, LeaseList};
use quorate_api::lock::{HolderBody, LockBody, LockRequest};
use quorate_api::node::{CompatJoin, CompatStatus, Message, NodeInfo};
use quorate_api::patch::{KEY_OP, PatchBody};
use quorate_api::problem::Code::{self, *};
use quorate_api::txn::{TxnBody, TxnResultBody};
use quorate_api::watch::{WatchBody, WatchMessage};
use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::document::{SchemaOf, of};
use super::of_keyspaces::{jobs_engines_and_modes, keyspaces};
use super::parameters::{CONDITIONS, FRESHNESS, LIFETIME, ONCE, PATIENCE, SELECTION, TIMEOUT, WATCH};

/// A path and a method.
pub(super) struct Operation {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    /// Names of components.
    pub(super) parameters: Vec<&'static str>,
    pub(super) body: Option<Body>,
    pub(super) answers: Vec<Answer>,
    pub(super) codes: Vec<Code>,
}

/// What is sent.
pub(super) struct Body {
    pub(super) media_types: &'static [&'static str],
    pub(super) schema: SchemaOf,
    pub(super) is_required: bool,
    /// What can be sent instead, in a media type of its own.
    pub(super) other: Option<(&'static str, SchemaOf)>,
    /// The same can be sent as lines.
    pub(super) has_lines: bool,
}

/// What is answered if all goes well, and in health checks if not.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content: Content,
    /// Beside the node's name.
    pub(super) headers: &'static [&'static str],
    pub(super) about: &'static str,
}

/// The body of an answer.
#[derive(Clone, Copy)]
pub(super) enum Content {
    None,
    Json(SchemaOf),
    /// The same, or lines, as it was sent.
    JsonOrLines(SchemaOf),
    Text,
    /// A backup.
    Backup,
    /// Server-sent events, or lines.
    Messages(SchemaOf),
    /// Whatever was stored, in the media type that it was stored with; or, where that is asked for, this.
    Stored(SchemaOf),
}

/// What a read of a key takes about the past.
const PAST: [&str; 5] = ["revision", "history", "limit", "before", "values"];

pub(super) const JSON: &[&str] = &["application/json"];
pub(super) const MERGE_PATCH: &[&str] = &["application/merge-patch+json", "application/json"];
const KEY_PATCH: &[&str] = &[KEY_OP];
const ANYTHING: &[&str] = &["application/octet-stream"];

/// Headers about one key, once it is written.
const OF_KEY: &[&str] =
    &[REVISION, "etag", MOD_REVISION, CREATE_REVISION, VERSION, IDEMPOTENCY_REPLAYED, STAMP, REPLICATED, SESSION];
const OF_READ_KEY: &[&str] =
    &[REVISION, "etag", MOD_REVISION, CREATE_REVISION, VERSION, CONSISTENCY, TTL, LEASE, STAMP, ANSWERED, SESSION, INDEX];
const OF_PATCHED_KEY: &[&str] =
    &[REVISION, "etag", MOD_REVISION, CREATE_REVISION, VERSION, CONSISTENCY, TTL, LEASE, IDEMPOTENCY_REPLAYED, SESSION];
const OF_DELETED: &[&str] = &[REVISION, DELETED, IDEMPOTENCY_REPLAYED, STAMP, REPLICATED, SESSION];
pub(super) const ACCEPTED: &str = "It is done here, and those whom `ack` names did not have it in time: it goes on to them.";

pub(super) const QUERY: &[Code] = &[UnknownParameter, BadParameter];
pub(super) const BODY: &[Code] = &[IncompleteBody, BodyTimeout, BodyTooLarge];
const PATCHED: &str = "The value as it is now; with `Prefer: return=representation` a `PutBody`.";
pub(super) const READ: &[Code] = &[NoLeader, Overloaded, Busy, ShuttingDown, TimedOut, Internal];
pub(super) const WRITE: &[Code] = &[NoLeader, Overloaded, Busy, ShuttingDown, OutcomeUnknown, Internal, DiskFull, BodyTooLarge];
pub(super) const IN_KEYSPACE: &[Code] = &[BadKeyspaceName, KeyspaceNotFound];
const OF_KEY_CODES: &[Code] = &[MalformedKey, EmptyKey, KeyTooLong, BadHeader, ContradictingConditions, PreconditionFailed];
const READ_KEY: &[Code] =
    &[KeyNotFound, UnsupportedCapability, RevisionNotReached, FutureRevision, Compacted, TooFewAnswers, NotYet];
const WRITE_KEY: &[Code] =
    &[KeyspaceReadOnly, TimedOut, UnsupportedCapability, IdempotencyKeyReused, TooManyIdempotencyKeys, ClockSkew, TooFewReplicas];
/// Where pairs lie in a store outside, or in one behind replicas.
pub(super) const OUTSIDE: &[Code] = &[
    StoreUnreachable,
    StoreBusy,
    StoreTimedOut,
    StoreFailed,
    StoreDenied,
    StoreMissing,
    StoreBadData,
    StoreUnfit,
    OutcomeUnknown,
    UnsupportedCapability,
];
/// Where a store behind the replicas has too much to get yet.
const BEHIND: &[Code] = &[StoreBusy];
/// An atomic batch is refused as a whole, for what its operations alone would have been refused for.
const ATOMIC: &[Code] = &[
    BadOperation,
    UnknownOperation,
    EmptyKey,
    KeyTooLong,
    ValueTooLarge,
    KeyspaceFull,
    PreconditionFailed,
    UnfitValue,
    TransactionTooLarge,
    LeaseNotFound,
    LeaseFull,
    IdempotencyKeyReused,
    TooManyIdempotencyKeys,
];
const PUT_KEY: &[Code] =
    &[UnsupportedMediaType, BadMeta, ValueTooLarge, KeyspaceFull, UnsupportedCapability, LeaseNotFound, LeaseFull];
const PATCH_KEY: &[Code] = &[
    BadBody,
    UnsupportedMediaType,
    UnknownOperation,
    ValueTooLarge,
    KeyspaceFull,
    UnsupportedCapability,
    UnfitValue,
    KeyNotFound,
    TransactionTooLarge,
];
const TXN: &[Code] = &[
    BadHeader,
    BadBody,
    BadTransaction,
    BadOperation,
    UnknownOperation,
    TooManyOperations,
    DuplicateKey,
    EmptyKey,
    KeyTooLong,
    EmptySelection,
    PreconditionFailed,
    UnfitValue,
    TransactionTooLarge,
    UnsupportedCapability,
];
const WATCH_CODES: &[Code] = &[
    BadHeader,
    BadBody,
    UnsupportedMediaType,
    MalformedKey,
    EmptyKey,
    KeyTooLong,
    Compacted,
    UnsupportedCapability,
    RevisionNotReached,
    WatchEnded,
    NotYet,
    ClockSkew,
];
const LEASE_BODY: &[Code] = &[BadHeader, BadBody, UnsupportedMediaType, KeyspaceReadOnly];
pub(super) const SETTINGS: &[Code] =
    &[BadKeyspaceName, KeyspaceReadOnly, BadBody, UnsupportedMediaType, InvalidSettings, UnsupportedSettings, Conflict, Busy];

/// All of them; `HEAD` goes with each `GET`.
pub(super) fn operations() -> Vec<Operation> {
    [
        one_key(),
        by_key64(),
        batches(),
        transactions(),
        watches(),
        leases(),
        locks(),
        snapshots(),
        keyspaces(),
        jobs_engines_and_modes(),
        cluster(),
        this_node(),
        help(),
        compat(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn one_key() -> Vec<Operation> {
    let path = "/v1/kv/{keyspace}/{key}";
    let of_key = |method, id, summary| {
        Operation::new(method, path, id, "keys", summary).takes(&["keyspace", "key", "session"]).refuses(&[
            IN_KEYSPACE,
            OF_KEY_CODES,
            QUERY,
        ])
    };
    vec![
        of_key("get", "get_key", "The value of a key")
            .takes(&["format", "encoding", "if_match", "if_none_match"])
            .takes(&PAST)
            .takes(&FRESHNESS)
            .takes(&PATIENCE)
            .answers_with(
                200,
                Content::Stored(entry_or_history),
                OF_READ_KEY,
                "The value as it was stored; with `format=json` an `EntryBody`, with `history` a `HistoryBody`.",
            )
            .answers_with(
                304,
                Content::None,
                OF_READ_KEY,
                "The client has this content already, or nothing happened while it waited.",
            )
            .refuses(&[READ, READ_KEY, OUTSIDE]),
        of_key("put", "put_key", "Sets a key")
            .takes(&CONDITIONS)
            .takes(&ONCE)
            .takes(&LIFETIME)
            .takes(&["lease", "ack"])
            .takes(&TIMEOUT)
            .takes(&["prefer"])
            .sends(ANYTHING, bytes, false)
            .answers_with(200, Content::Json(of::<PutBody<'_>>), OF_KEY, "It is set; with `Prefer: return=representation`.")
            .answers_with(201, Content::None, OF_KEY, "It is set, and was not there before.")
            .answers_with(202, Content::None, OF_KEY, ACCEPTED)
            .answers_with(204, Content::None, OF_KEY, "It is set, and was there before.")
            .refuses(&[WRITE, WRITE_KEY, OUTSIDE, PUT_KEY, BODY]),
        of_key(
            "patch",
            "patch_key",
            "Changes a key by what it holds: an increment, an append, a touch, a JSON merge patch (RFC 7396)",
        )
        .takes(&CONDITIONS)
        .takes(&ONCE)
        .takes(&LIFETIME)
        .takes(&TIMEOUT)
        .takes(&["prefer"])
        .sends(KEY_PATCH, of::<PatchBody<'_>>, true)
        .or_sends(quorate_api::patch::MERGE_PATCH, any)
        .answers_with(200, Content::Stored(of::<PutBody<'_>>), OF_PATCHED_KEY, PATCHED)
        .answers_with(204, Content::None, OF_KEY, "It is changed; with `Prefer: return=minimal`.")
        .refuses(&[WRITE, WRITE_KEY, OUTSIDE, PATCH_KEY, BODY]),
        of_key("delete", "delete_key", "Deletes a key")
            .takes(&CONDITIONS)
            .takes(&ONCE)
            .takes(&["ack"])
            .takes(&TIMEOUT)
            .answers_with(202, Content::None, OF_DELETED, ACCEPTED)
            .answers_with(204, Content::None, OF_DELETED, "The key is not there any more, or was not.")
            .refuses(&[WRITE, WRITE_KEY, OUTSIDE]),
    ]
}

fn by_key64() -> Vec<Operation> {
    let path = "/v1/kv/{keyspace}";
    let of_keys = |method, id, summary| {
        Operation::new(method, path, id, "keys", summary).takes(&["keyspace", "session"]).refuses(&[
            IN_KEYSPACE,
            OF_KEY_CODES,
            QUERY,
        ])
    };
    vec![
        of_keys(
            "get",
            "list_keys",
            "A page of keys, or with `Accept: application/x-ndjson` all, a line each; with `key64` the value of that key",
        )
        .takes(&SELECTION)
        .takes(&["limit", "cursor", "reverse", "values", "delimiter", "delimiter64", "separator", "count_only"])
        .takes(&["key64", "format", "encoding", "if_match", "if_none_match", "revision", "history", "before"])
        .takes(&FRESHNESS)
        .takes(&PATIENCE)
        .answers_with(
            200,
            Content::Stored(of::<ListBody<'_>>),
            &[REVISION, CONSISTENCY, SESSION, INDEX],
            "A `ListBody`; of one key, its value.",
        )
        .answers_with(
            304,
            Content::None,
            OF_READ_KEY,
            "The client has this content of the key already, or nothing happened while it waited.",
        )
        .refuses(&[READ, READ_KEY, OUTSIDE, &[BadCursor]]),
        of_keys("put", "put_key64", "Sets a key whose name no path can carry")
            .takes(&["required_key64", "prefer"])
            .takes(&CONDITIONS)
            .takes(&ONCE)
            .takes(&LIFETIME)
            .takes(&["lease", "ack"])
            .takes(&TIMEOUT)
            .sends(ANYTHING, bytes, false)
            .answers_with(200, Content::Json(of::<PutBody<'_>>), OF_KEY, "It is set; with `Prefer: return=representation`.")
            .answers_with(201, Content::None, OF_KEY, "It is set, and was not there before.")
            .answers_with(202, Content::None, OF_KEY, ACCEPTED)
            .answers_with(204, Content::None, OF_KEY, "It is set, and was there before.")
            .refuses(&[WRITE, WRITE_KEY, OUTSIDE, PUT_KEY, BODY, &[MethodNotAllowed]]),
        of_keys("patch", "patch_key64", "Changes a key whose name no path can carry, by what it holds")
            .takes(&["required_key64", "prefer"])
            .takes(&CONDITIONS)
            .takes(&ONCE)
            .takes(&LIFETIME)
            .takes(&TIMEOUT)
            .sends(KEY_PATCH, of::<PatchBody<'_>>, true)
            .or_sends(quorate_api::patch::MERGE_PATCH, any)
            .answers_with(200, Content::Stored(of::<PutBody<'_>>), OF_PATCHED_KEY, PATCHED)
            .answers_with(204, Content::None, OF_KEY, "It is changed; with `Prefer: return=minimal`.")
            .refuses(&[WRITE, WRITE_KEY, OUTSIDE, PATCH_KEY, BODY, &[MethodNotAllowed]]),
        of_keys("delete", "delete_range", "Deletes the keys of a selection; with `key64` that key, as under its own path")
            .takes(&SELECTION)
            .takes(&["all", "key64"])
            .takes(&CONDITIONS)
            .takes(&ONCE)
            .takes(&TIMEOUT)
            .answers_with(200, Content::Json(of::<DeletedBody>), OF_DELETED, "The selection is gone.")
            .answers_with(202, Content::None, OF_DELETED, ACCEPTED)
            .answers_with(204, Content::None, OF_DELETED, "The key of `key64` is not there any more, or was not.")
            .refuses(&[WRITE, WRITE_KEY, OUTSIDE, &[EmptySelection, Incomplete]]),
    ]
}

fn batches() -> Vec<Operation> {
    let about = "Many gets, puts, changes and deletes: an object, or lines of `BatchOpBody`, answered by lines of \
        `BatchResult` and a `BatchEnd`";
    vec![
        Operation::new("post", "/v1/batch/{keyspace}", "batch", "keys", about)
            .takes(&["keyspace", "results", "atomic"])
            .takes(&ONCE)
            .takes(&FRESHNESS)
            .sends(JSON, of::<BatchBody<'_>>, true)
            .or_lines()
            .answers_with(
                200,
                Content::JsonOrLines(of::<BatchResults<'_>>),
                &[IDEMPOTENCY_REPLAYED],
                "A result for each operation, failed ones too.",
            )
            .refuses(&[
                IN_KEYSPACE,
                QUERY,
                BODY,
                READ,
                WRITE,
                OUTSIDE,
                ATOMIC,
                &[BadHeader, BadBody, KeyspaceReadOnly, UnsupportedMediaType, UnsupportedCapability],
            ]),
    ]
}

fn transactions() -> Vec<Operation> {
    let about = "Compares, and does one thing if all compares hold and another if not: as a whole, under one revision";
    vec![
        Operation::new("post", "/v1/txn", "txn", "keys", about)
            .takes(&["ks", "strict"])
            .takes(&ONCE)
            .takes(&TIMEOUT)
            .sends(JSON, of::<TxnBody>, true)
            .answers_with(
                200,
                Content::Json(of::<TxnResultBody<'_>>),
                &[REVISION, IDEMPOTENCY_REPLAYED],
                "Which side was done, with a result for each of its operations.",
            )
            .refuses(&[IN_KEYSPACE, QUERY, BODY, READ, WRITE, WRITE_KEY, OUTSIDE, PUT_KEY, TXN]),
    ]
}

fn watches() -> Vec<Operation> {
    let watch = |method, id, summary| {
        Operation::new(method, "/v1/watch/{keyspace}", id, "keys", summary)
            .takes(&["keyspace", "last_event_id", "session"])
            .takes(&FRESHNESS)
            .answers_with(
                200,
                Content::Messages(of::<WatchMessage<'_>>),
                &[REVISION, CONSISTENCY, EPOCH, WATCH_SCOPE, SESSION],
                "Messages without an end: server-sent events named after `event`, with a `WatchMessage` as `data`; or, with \
                 `Accept: application/x-ndjson`, a `WatchMessage` a line. All events of a revision come in one. Of an eventual \
                 keyspace each node tells what it changed itself, under revisions of its own: `Quorate-Watch-Scope` is `node` \
                 then, and an id of another node, or of before a restart, is refused with 410.",
            )
            .refuses(&[IN_KEYSPACE, QUERY, BODY, READ, WATCH_CODES])
    };
    vec![
        watch("get", "watch", "Tells what happens to a key or to the keys of a selection").takes(&SELECTION).takes(&WATCH),
        watch("post", "watch_many", "Tells what happens to the keys of several selections, in one stream").sends(
            JSON,
            of::<WatchBody>,
            true,
        ),
    ]
}

fn leases() -> Vec<Operation> {
    let of_leases = |method, path, id, summary| {
        let operation = Operation::new(method, path, id, "leases", summary).takes(&["keyspace"]);
        operation.refuses(&[IN_KEYSPACE, QUERY, BODY, &[UnsupportedCapability]])
    };
    let one = |method, id, summary| {
        of_leases(method, "/v1/leases/{keyspace}/{id}", id, summary).takes(&["lease_id"]).refuses(&[&[LeaseNotFound]])
    };
    vec![
        of_leases("get", "/v1/leases/{keyspace}", "list_leases", "A page of leases, by id")
            .takes(&["lease_limit", "cursor"])
            .takes(&FRESHNESS)
            .answers_with(
                200,
                Content::Json(of::<LeaseList>),
                &[REVISION],
                "The leases; with how long they live, unless the read is local.",
            )
            .refuses(&[READ, &[BadHeader, BadCursor, RevisionNotReached]]),
        of_leases("post", "/v1/leases/{keyspace}", "grant_lease", "Grants a lease")
            .takes(&TIMEOUT)
            .sends(JSON, of::<GrantBody>, true)
            .answers_with(201, Content::Json(of::<LeaseBody>), &[REVISION], "It lives from now on.")
            .refuses(&[WRITE, BEHIND, LEASE_BODY, &[LeaseExists, KeyspaceFull]]),
        one("get", "get_lease", "A lease, and how long it lives")
            .takes(&["keys"])
            .takes(&TIMEOUT)
            .answers_with(
                200,
                Content::Json(of::<LeaseDetail<'_>>),
                &[REVISION],
                "As its leader and a linearizable read have it.",
            )
            .refuses(&[READ, &[BadHeader]]),
        one("delete", "revoke_lease", "Revokes a lease, and deletes all keys that hang on it")
            .takes(&TIMEOUT)
            .answers_with(200, Content::Json(of::<DeletedBody>), &[REVISION], "Lease and keys are gone, under one revision.")
            .refuses(&[WRITE, BEHIND, &[BadHeader, KeyspaceReadOnly]]),
        of_leases("post", "/v1/leases/{keyspace}/{id}/keepalive", "keep_alive", "A lease begins its time anew")
            .takes(&["lease_id"])
            .takes(&TIMEOUT)
            .answers(200, Content::Json(of::<LeaseBody>), "It lives as long as it was granted for, from now on.")
            .refuses(&[WRITE, BEHIND, &[BadHeader, KeyspaceReadOnly, LeaseNotFound]]),
        of_leases("post", "/v1/leases/{keyspace}/keepalive", "keep_many_alive", "Leases begin their time anew")
            .takes(&TIMEOUT)
            .sends(JSON, of::<KeepAliveBody>, true)
            .answers(200, Content::Json(of::<KeptAlive>), "Those that live on, and those that are gone.")
            .refuses(&[WRITE, BEHIND, LEASE_BODY]),
    ]
}

fn locks() -> Vec<Operation> {
    let of_lock = |method, id, summary| {
        Operation::new(method, "/v1/locks/{keyspace}/{name}", id, "leases", summary).takes(&["keyspace", "lock"]).refuses(&[
            IN_KEYSPACE,
            QUERY,
            &[BadHeader, MalformedKey, EmptyKey, KeyTooLong, UnsupportedCapability],
        ])
    };
    vec![
        of_lock("get", "get_lock", "Who holds a lock; of an election, who leads")
            .takes(&FRESHNESS)
            .takes(&PATIENCE)
            .answers_with(200, Content::Json(of::<LockBody<'_>>), &[REVISION, CONSISTENCY], "The holder, and how many wait.")
            .answers_with(304, Content::None, &[], "Nothing happened while it waited.")
            .refuses(&[READ, &[LockNotFound, RevisionNotReached]]),
        of_lock("post", "take_lock", "Takes a lock, at once or in turn, for a lease or for one that is granted with it")
            .takes(&["lock_wait"])
            .takes(&TIMEOUT)
            .sends(JSON, of::<LockRequest<'_>>, false)
            .answers_with(
                200,
                Content::Json(of::<HolderBody<'_>>),
                &[REVISION],
                "The lease holds the lock, as long as it is kept alive.",
            )
            .refuses(&[
                READ,
                WRITE,
                BEHIND,
                BODY,
                LEASE_BODY,
                &[LockHeld, LeaseNotFound, LeaseFull, KeyspaceFull, ValueTooLarge],
            ]),
        of_lock("delete", "release_lock", "Gives up a lock, or a place in the line for it; the lease stays")
            .takes(&["lock_lease"])
            .takes(&TIMEOUT)
            .answers_with(204, Content::None, &[REVISION], "The lease has no place in the line any more.")
            .refuses(&[READ, WRITE, BEHIND, &[LockNotFound, KeyspaceReadOnly]]),
    ]
}

fn snapshots() -> Vec<Operation> {
    let path = "/v1/snapshot";
    vec![
        Operation::new(
            "get",
            path,
            "backup",
            "snapshot",
            "A backup: keyspaces, each as of one revision, written while it is sent",
        )
        .takes(&["backup_keyspaces", "revision"])
        .takes(&TIMEOUT)
        .answers(200, Content::Backup, "The bytes of a file. It is whole if its last block says so.")
        .refuses(&[QUERY, READ, IN_KEYSPACE, &[UnsupportedCapability, KeyspaceReadOnly, FutureRevision, Compacted]]),
        Operation::new("put", path, "restore", "snapshot", "Restores a backup into keyspaces that are not there, or are empty")
            .takes(&["backup_keyspaces"])
            .takes(&TIMEOUT)
            .sends(&[quorate_api::backup::MEDIA_TYPE], bytes, true)
            .answers(200, Content::Json(of::<Items<RestoredKeyspace>>), "What was restored; each keyspace was shown as a whole.")
            .refuses(&[QUERY, BODY, READ, WRITE, SETTINGS, IN_KEYSPACE])
            .refuses(&[&[BadBackup, UnsupportedMediaType, ValueTooLarge, KeyTooLong, KeyspaceFull, LeaseNotFound, LeaseFull]]),
    ]
}

fn cluster() -> Vec<Operation> {
    let of_cluster = |method, path, id, summary| Operation::new(method, path, id, "cluster", summary).refuses(&[QUERY, BODY]);
    vec![
        of_cluster("get", "/v1/cluster", "get_cluster", "The cluster as this node sees it").answers(
            200,
            Content::Json(of::<ClusterStatus>),
            "Nodes and shards.",
        ),
        of_cluster("get", "/v1/cluster/nodes", "list_nodes", "Every node").answers(
            200,
            Content::Json(of::<Items<NodeStatus>>),
            "By name.",
        ),
        of_cluster("post", "/v1/cluster/nodes", "join", "A node asks to be let in")
            .takes(&TIMEOUT)
            .sends(JSON, of::<JoinRequest>, true)
            .answers(200, Content::Json(of::<JoinAnswer>), "Who it is from now on, and where the others are.")
            .refuses(&[WRITE, &[BadBody, UnsupportedMediaType, Conflict, Busy]]),
        of_cluster("get", "/v1/cluster/nodes/{name}", "get_node", "A node of the cluster")
            .takes(&["node"])
            .answers(200, Content::Json(of::<NodeStatus>), "As this node sees it.")
            .refuses(&[&[NodeNotFound]]),
        of_cluster("delete", "/v1/cluster/nodes/{name}", "remove_node", "Removes a node for good")
            .takes(&["node"])
            .takes(&TIMEOUT)
            .answers(204, Content::None, "It is gone.")
            .refuses(&[WRITE, &[NodeNotFound, Conflict, Busy]]),
        of_cluster("put", "/v1/cluster/nodes/{name}/addresses", "readdress_node", "A member is found elsewhere from now on")
            .takes(&["node"])
            .takes(&TIMEOUT)
            .sends(JSON, of::<AddressChange>, true)
            .answers(204, Content::None, "The cluster knows.")
            .refuses(&[WRITE, &[BadBody, UnsupportedMediaType, NodeNotFound, Conflict, Busy]]),
        of_cluster("post", "/v1/cluster/formation", "tell_formation", "How nodes stand that are of no cluster yet")
            .sends(JSON, of::<Formation>, true)
            .answers(200, Content::Json(of::<Formation>), "How this node stands; the cluster's id, if it is of one.")
            .refuses(&[QUERY, &[BadBody, UnsupportedMediaType]]),
        of_cluster("get", "/v1/cluster/leader", "list_leaders", "Who leads each keyspace").answers(
            200,
            Content::Json(of::<TransferAnswer>),
            "As far as this node knows.",
        ),
        of_cluster("post", "/v1/cluster/leader", "transfer_leader", "Hands leadership over")
            .takes(&TIMEOUT)
            .sends(JSON, of::<TransferRequest>, false)
            .answers(200, Content::Json(of::<TransferAnswer>), "Who leads now.")
            .refuses(&[WRITE, &[BadBody, UnsupportedMediaType, KeyspaceNotFound, NodeNotFound, Conflict, Busy]]),
    ]
}

fn this_node() -> Vec<Operation> {
    let of_node = |path, id, summary| Operation::new("get", path, id, "node", summary).refuses(&[BODY]);
    let check = |path, id, summary| {
        of_node(path, id, summary)
            .takes(&["verbose"])
            .answers(200, Content::Text, "`ok`, perhaps after a line for each check.")
            .answers(503, Content::Text, "A line for each check, and `not ok`.")
            .refuses(&[QUERY])
    };
    vec![
        of_node("/v1/node", "get_this_node", "Who this node is, and what it accepts")
            .answers(200, Content::Json(of::<NodeInfo>), "Its name, version and limits.")
            .refuses(&[QUERY]),
        check("/livez", "livez", "Whether the node's own loops go on"),
        check("/readyz", "readyz", "Whether the node can take requests"),
        of_node("/metrics", "metrics", "Figures for Prometheus").answers(200, Content::Text, "In its text format."),
    ]
}

fn help() -> Vec<Operation> {
    let of_help = |path, id, summary| Operation::new("get", path, id, "help", summary).refuses(&[BODY]);
    vec![
        of_help("/", "hello", "What this is, and where to go on").answers(200, Content::Json(object), "Links.").refuses(&[QUERY]),
        of_help("/openapi.json", "openapi", "This document")
            .answers(200, Content::Json(object), "OpenAPI 3.1.")
            .refuses(&[QUERY]),
        of_help("/problems", "list_problems", "Every code of a problem").answers(200, Content::Text, "For people."),
        of_help("/problems/{code}", "get_problem", "What a code means and what to do about it")
            .takes(&["code"])
            .answers(200, Content::Text, "For people.")
            .refuses(&[&[NotFound]]),
    ]
}

fn compat() -> Vec<Operation> {
    let of_compat = |method, path, id, summary| Operation::new(method, path, id, "compat", summary);
    let of_key = |method, id, summary| {
        of_compat(method, "/key/{key}", id, summary).takes(&["compat_key"]).refuses(&[&[
            MalformedKey,
            KeyTooLong,
            KeyNotFound,
            KeyspaceNotFound,
        ]])
    };
    vec![
        of_compat("post", "/key", "compat_post_key", "Sets one key that is not there, or any number if the node is set so")
            .sends(JSON, of::<BTreeMap<String, String>>, true)
            .answers(200, Content::Json(of::<BTreeMap<String, String>>), "What was set.")
            .refuses(&[WRITE, BODY, &[BadBody, EmptyKey, KeyTooLong, ValueTooLarge, KeyspaceFull, Conflict, KeyspaceNotFound]]),
        of_key("get", "compat_get_key", "A key with its value")
            .answers(200, Content::Json(of::<BTreeMap<String, String>>), "The pair.")
            .refuses(&[READ, &[Conflict]]),
        of_key("delete", "compat_delete_key", "Deletes a key")
            .answers(200, Content::Json(of::<Message>), "It is gone.")
            .refuses(&[WRITE]),
        of_compat("get", "/health", "compat_health", "The process serves")
            .answers(200, Content::Json(object), "It does.")
            .refuses(&[BODY]),
        of_compat("get", "/status", "compat_status", "Who leads and who follows in keyspace `default`")
            .answers(200, Content::Json(of::<CompatStatus>), "As this node sees it.")
            .refuses(&[BODY]),
        of_compat("post", "/join", "compat_join", "Announces a node")
            .sends(JSON, of::<CompatJoin>, true)
            .answers(200, Content::Json(of::<Message>), "It is awaited.")
            .refuses(&[WRITE, BODY, &[BadBody, Conflict, Busy]]),
    ]
}

impl Operation {
    pub(super) fn new(
        method: &'static str,
        path: &'static str,
        id: &'static str,
        tag: &'static str,
        summary: &'static str,
    ) -> Self {
        let codes = if method == "get" { vec![BadRequest, HostNotAllowed] } else { vec![BadRequest, HostNotAllowed, CrossSite] };
        Self { method, path, id, tag, summary, parameters: Vec::new(), body: None, answers: Vec::new(), codes }
    }

    pub(super) fn takes(mut self, parameters: &[&'static str]) -> Self {
        self.parameters.extend(parameters);
        self
    }

    pub(super) fn sends(self, media_types: &'static [&'static str], schema: SchemaOf, is_required: bool) -> Self {
        Self { body: Some(Body { media_types, schema, is_required, other: None, has_lines: false }), ..self }
    }

    fn or_sends(mut self, media_type: &'static str, schema: SchemaOf) -> Self {
        self.body.iter_mut().for_each(|body| body.other = Some((media_type, schema)));
        self
    }

    fn or_lines(mut self) -> Self {
        self.body.iter_mut().for_each(|body| body.has_lines = true);
        self
    }

    pub(super) fn answers(self, status: u16, content: Content, about: &'static str) -> Self {
        self.answers_with(status, content, &[], about)
    }

    fn answers_with(mut self, status: u16, content: Content, headers: &'static [&'static str], about: &'static str) -> Self {
        self.answers.push(Answer { status, content, headers, about });
        self
    }

    pub(super) fn refuses(mut self, codes: &[&[Code]]) -> Self {
        for code in codes.iter().copied().flatten() {
            if !self.codes.contains(code) {
                self.codes.push(*code);
            }
        }
        self
    }

    /// Whether errors are `{"message": ...}`.
    pub(super) fn is_compat(&self) -> bool {
        self.tag == "compat"
    }

    /// The status that goes with a code here.
    pub(super) fn status_of(&self, code: Code) -> u16 {
        match code {
            KeyTooLong if self.path.contains("{key}") || self.path.starts_with("/v1/locks/") => 414,
            code => code.facts().status,
        }
    }
}

fn bytes(_: &mut SchemaGenerator) -> Value {
    json!({"type": "string", "format": "binary"})
}

/// `HistoryBody` is one of the document's schemas as well.
fn entry_or_history(generator: &mut SchemaGenerator) -> Value {
    of::<HistoryBody<'_>>(generator);
    of::<EntryBody<'_>>(generator)
}

fn any(_: &mut SchemaGenerator) -> Value {
    json!({})
}

fn object(_: &mut SchemaGenerator) -> Value {
    json!({"type": "object"})
}
