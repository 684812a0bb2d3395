//! Names of the headers that are Quorate's own, in the lower case that HTTP libraries ask for.

/// The shard's revision after a write, or of the view that was read.
pub const REVISION: &str = "quorate-revision";
/// The revision of the key's last change.
pub const MOD_REVISION: &str = "quorate-mod-revision";
/// The revision at which the key came to be.
pub const CREATE_REVISION: &str = "quorate-create-revision";
/// How many times the key was set since it came to be.
pub const VERSION: &str = "quorate-version";
/// In an eventual keyspace, instead of revisions: what the key's last change is known by. Opaque.
pub const STAMP: &str = "quorate-stamp";
/// In the answer to a write in an eventual keyspace: how many other members are known to have it.
pub const REPLICATED: &str = "quorate-replicated";
/// In the answer to a read that asked other nodes: how many answered, of how many, as in `2/2`.
pub const ANSWERED: &str = "quorate-answered";
/// What a client has seen of a keyspace, so that it sees no less at another node: `new`, or what the last answer said. In answers
/// to requests that have it. Opaque; several, from requests that went beside each other, stand behind commas.
pub const SESSION: &str = "quorate-session";
/// The name of the node that answered.
pub const NODE: &str = "quorate-node";
/// In a read that a node without the whole keyspace sends on to one that has it: the name of the former. Such a request is not
/// sent on again.
pub const FORWARDED_BY: &str = "quorate-forwarded-by";
/// Asked for, and in the answer the one that applied: `linearizable` or `local`.
pub const CONSISTENCY: &str = "quorate-consistency";
/// The read must be at this revision or later.
pub const MIN_REVISION: &str = "quorate-min-revision";
/// The request's time limit, like `2s`.
pub const TIMEOUT: &str = "quorate-timeout";
/// With a write, after how long the pair goes, like `30s`; in answers, after how many seconds.
pub const TTL: &str = "quorate-ttl";
/// The lease that the key hangs on.
pub const LEASE: &str = "quorate-lease";
/// How many keys a `DELETE` removed.
pub const DELETED: &str = "quorate-deleted";
/// In the answer to a watch: names the keyspace for ever, with a revision behind a dot the id of an event. Where a watch is of
/// one node, it names the node's count of revisions, too, which ends with the process.
pub const EPOCH: &str = "quorate-epoch";
/// In the answer to a watch of an eventual keyspace: `node`. What it tells, and its revisions, are of the node that answers.
pub const WATCH_SCOPE: &str = "quorate-watch-scope";
/// In an eventual keyspace, in the answer to a read with `wait`: what `index` is to be, for the next one to wait for what comes
/// after this one. Opaque.
pub const INDEX: &str = "quorate-index";
/// Before each name of user metadata, with a write and in answers: `quorate-meta-owner: me`.
pub const META_PREFIX: &str = "quorate-meta-";
/// With a write: it is done once under this key, however often it is sent.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// In the answer to such a write: `true` if it was done before, and this is what it came to then.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";
/// Names the request in problem bodies and in the node's logs; taken over from the client if it sends one.
pub const REQUEST_ID: &str = "x-request-id";
