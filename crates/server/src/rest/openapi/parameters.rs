//! The parameters of operations, each written once: by name, where it stands, and what it may be.

use quorate_api::entry::{DEFAULT_LIST_ITEMS, MAX_LIST_ITEMS};
use quorate_api::header;
use quorate_api::key::{DEFAULT_KEYSPACE, MAX_KEY_BYTES, MAX_NAME_BYTES, SYSTEM_KEYSPACE};
use quorate_api::lease::{DEFAULT_LEASE_ITEMS, MAX_LEASE_ITEMS};
use quorate_api::problem::Code;
use serde_json::{Map, Value, json};

use crate::rest::{DEFAULT_TIMEOUT, MAX_TIMEOUT};

/// What a read of pairs takes, beside what it is about.
pub(super) const FRESHNESS: [&str; 6] =
    ["consistency", "min_revision", "timeout", "header_consistency", "header_min_revision", "header_timeout"];

/// What a read of the catalog takes.
pub(super) const CATALOG: [&str; 4] = ["consistency", "timeout", "header_consistency", "header_timeout"];

/// What a change takes.
pub(super) const TIMEOUT: [&str; 2] = ["timeout", "header_timeout"];

/// What a flush takes.
pub(super) const FLUSH: [&str; 4] = ["rewrite", "prune", "timeout", "header_timeout"];

/// Which keys of a keyspace.
pub(super) const SELECTION: [&str; 6] = crate::rest::selection::PARAMETERS;

/// A time of waiting.
const WAIT: &str = "^[0-9]{1,9}(ms|s|m)$";

/// Whether a read waits for a change.
pub(super) const PATIENCE: [&str; 2] = ["wait", "index"];

/// What a watch takes besides.
pub(super) const WATCH: [&str; 8] =
    ["watched_key", "watched_key64", "types", "from_revision", "initial", "watch_values", "prev", "encoding"];

/// How long what is written is to live.
pub(super) const LIFETIME: [&str; 2] = ["ttl", "header_ttl"];

/// What a write to one key takes.
pub(super) const CONDITIONS: [&str; 3] = ["cas", "if_match", "if_none_match"];

/// What makes a write one that is done once.
pub(super) const ONCE: [&str; 1] = ["idempotency_key"];

/// The parts of the document that [`Operation::parameters`](super::operations::Operation) names.
pub(super) fn components() -> Map<String, Value> {
    let mut components = Map::new();
    components.extend(in_path());
    components.extend(of_one_key());
    components.extend(of_lists());
    components.extend(of_treatment());
    components.extend(of_watches());
    components.extend(of_locks());
    components
}

fn in_path() -> [(String, Value); 8] {
    let keyspace = format!("^({SYSTEM_KEYSPACE}|[a-z0-9][a-z0-9_-]{{0,{}}})$", MAX_NAME_BYTES - 1);
    let codes: Vec<String> = Code::ALL.iter().map(|code| code.facts().code.replace('_', "-")).collect();
    let key = "The key, percent-encoded: any bytes. Slashes may stand as they are; they are part of the key.";
    let path = |name: &str, told: &str, schema: Value, about: &str| parameter(name, (told, "path", true), schema, about);
    [
        path("keyspace", "keyspace", json!({"type": "string", "pattern": keyspace}), "The name of a keyspace."),
        path("key", "key", json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES}), key),
        path("compat_key", "key", json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES}), key),
        path("node", "name", json!({"type": "string", "minLength": 1, "maxLength": MAX_NAME_BYTES}), "The name of a node."),
        path(
            "lock",
            "name",
            json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES}),
            "The lock's name, percent-encoded: any bytes. Slashes may stand as they are; they are part of the name.",
        ),
        path("lease_id", "id", lease_id(), "The id of a lease."),
        path("job", "id", json!({"type": "integer", "minimum": 1}), "The number of a job."),
        path("code", "code", json!({"type": "string", "enum": codes}), "The word of a problem's code, or the end of its `type`."),
    ]
}

/// In any case of letters, and not all zeros.
fn lease_id() -> Value {
    json!({"type": "string", "pattern": "^(?!0+$)[0-7]?[0-9a-fA-F]{1,15}$"})
}

fn of_one_key() -> [(String, Value); 14] {
    let key64 = json!({"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]+$"});
    let key64_about = "The key as base64url, for clients that cannot send every path. It makes the request one about this key.";
    let text = || json!({"type": "string"});
    let tags = "`*`, or entity tags with commas between them.";
    let ttl = || json!({"type": "string", "pattern": "^[1-9][0-9]{0,3}(ms|s|m|h|d)$"});
    let ttl_about = "After how long the pair goes by itself, 1ms to 36500d; only with the capability `ttl_per_key`.";
    [
        query("key64", key64.clone(), key64_about),
        parameter("required_key64", ("key64", "query", true), key64, key64_about),
        query(
            "cas",
            json!({"type": "string", "pattern": "^([0-9a-f]+\\.)?[0-9]+$"}),
            "Only if the key's last change was at this \
            revision, alone or with the epoch as in an `ETag`; 0: only if the key is not there.",
        ),
        query(
            "format",
            json!({"enum": ["raw", "json", "meta"]}),
            "`raw`, the value's bytes; `json`, the key with all that goes with it; `meta`, the same without the value.",
        ),
        query(
            "encoding",
            json!({"enum": ["base64"]}),
            "Keys and values in JSON as base64url, always; only where JSON is answered.",
        ),
        query(
            "history",
            json!({"anyOf": [{"type": "boolean"}, {"enum": ["", "1", "0"]}], "default": false}),
            "The versions that the key had, instead of its value, as a `HistoryBody`. Together with it only `limit`, `before`, \
            `values`, `encoding` and what says how fresh.",
        ),
        query("ttl", ttl(), ttl_about),
        header("header_ttl", header::TTL, ttl(), &format!("{ttl_about} The parameter `ttl` wins over this header.")),
        query(
            "lease",
            lease_id(),
            "The lease that the pair hangs on, and with which it goes; only with the capability `leases`.",
        ),
        query(
            "ack",
            json!({"type": "string", "pattern": "^(local|all_up|[1-9][0-9]?)$"}),
            "In an eventual keyspace: whom the write waits for besides this node: nobody, all members that are up, or so many of \
            them; only with the capability `ack`.",
        ),
        header("idempotency_key", "Idempotency-Key", text(), ONCE_ABOUT),
        header("if_match", "If-Match", text(), &format!("Only if the key has one of these tags. {tags}")),
        header("if_none_match", "If-None-Match", text(), &format!("Only if the key has none of these tags. {tags}")),
        header(
            "prefer",
            "Prefer",
            json!({"enum": ["return=minimal", "return=representation"]}),
            "Whether the key, as it is \
            then, is answered.",
        ),
    ]
}

const ONCE_ABOUT: &str = "A name that the client makes up for this request. The write is done once under it within ten minutes, \
    through whichever node; a repetition is answered as the first was, with `Idempotency-Replayed: true`. Only with the \
    capability `idempotency`.";

fn of_lists() -> [(String, Value); 26] {
    let part = || json!({"type": "string", "maxLength": MAX_KEY_BYTES});
    let part64 = || json!({"type": "string", "pattern": "^[A-Za-z0-9_-]*$"});
    let not_empty = || json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES});
    let not_empty64 = || json!({"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]+$"});
    // The bare name, which is an empty value, stands for true.
    let flag = || json!({"anyOf": [{"type": "boolean"}, {"enum": ["", "1", "0"]}], "default": false});
    let name = format!("^[a-z0-9][a-z0-9_-]{{0,{}}}$", MAX_NAME_BYTES - 1);
    let limit = json!({"type": "integer", "minimum": 1, "maximum": MAX_LIST_ITEMS, "default": DEFAULT_LIST_ITEMS});
    [
        query("prefix", part(), "Keys that begin so, percent-encoded."),
        query("prefix64", part64(), "The same as base64url."),
        query("start", part(), "Keys from this one on."),
        query("start64", part64(), "The same as base64url."),
        query("end", part(), "Keys before this one."),
        query("end64", part64(), "The same as base64url."),
        query("limit", limit, "Most pairs of a page."),
        parameter(
            "lease_limit",
            ("limit", "query", false),
            json!({"type": "integer", "minimum": 1, "maximum": MAX_LEASE_ITEMS, "default": DEFAULT_LEASE_ITEMS}),
            "Most leases of a page.",
        ),
        query("keys", flag(), "With the keys that hang on the lease."),
        query("cursor", json!({"type": "string"}), "The `next_cursor` of the page before."),
        query("reverse", flag(), "From the last key to the first."),
        query("values", flag(), "With the values."),
        query("delimiter", not_empty(), "Shows what lies behind it as folders, in `prefixes`."),
        query("separator", not_empty(), "The same as `delimiter`."),
        query("delimiter64", not_empty64(), "The same as base64url."),
        query("count_only", flag(), "Only how many keys there are."),
        query(
            "before",
            json!({"type": "integer", "minimum": 1, "maximum": u64::MAX}),
            "With `history`: versions of revisions before this one.",
        ),
        query("atomic", flag(), "All operations as one write, under one revision, or none."),
        query("results", json!({"enum": ["all", "failed"]}), "Of a batch as lines: the results to answer with."),
        query("all", flag(), "Every key of the keyspace; only without a selection."),
        query("ks", json!({"type": "string", "pattern": name, "default": DEFAULT_KEYSPACE}), "The keyspace."),
        parameter(
            "backup_keyspaces",
            ("ks", "query", false),
            json!({"type": "string", "minLength": 1}),
            "Only these keyspaces, with commas between them.",
        ),
        query("strict", flag(), "If `if` does not hold and there is no `else`, answers 412 instead of 200."),
        query("verbose", flag(), "One line for each check, also if all is well."),
        query("rewrite", flag(), "To the store behind the node's replica everything is written again: it may have lost it."),
        query("prune", flag(), "From the node's part of that store all keys are removed that the replica does not have."),
    ]
}

fn of_treatment() -> [(String, Value); 8] {
    let consistency = || json!({"enum": ["linearizable", "consistent", "local", "stale"]});
    let revision = || json!({"type": "integer", "minimum": 0, "maximum": u64::MAX});
    let time = |limit| quorate_api::duration::format(limit);
    let timeout = || json!({"type": "string", "pattern": "^[0-9]{1,9}(ms|s|m)$", "default": time(DEFAULT_TIMEOUT)});
    let consistency_about = "`linearizable` (or `consistent`) sees every write that was acknowledged before; `local` (or \
        `stale`) is the answering node's own state. By default as fresh as the keyspace's replication can be.";
    let revision_about = "The answering node must have reached this revision; it waits for it up to the time limit.";
    let timeout_about = format!("The time limit, above 0 and at most {}.", time(MAX_TIMEOUT));
    let twin = |about: &str, of: &str| format!("{about} The parameter `{of}` wins over this header.");
    [
        query("consistency", consistency(), consistency_about),
        query("min_revision", revision(), revision_about),
        query(
            "revision",
            json!({"type": "integer", "minimum": 1, "maximum": u64::MAX}),
            "As it was at this revision; only with the capability `history`.",
        ),
        query("timeout", timeout(), &timeout_about),
        header("header_consistency", header::CONSISTENCY, consistency(), &twin(consistency_about, "consistency")),
        header("header_min_revision", header::MIN_REVISION, revision(), &twin(revision_about, "min_revision")),
        header("header_timeout", header::TIMEOUT, timeout(), &twin(&timeout_about, "timeout")),
        header(
            "session",
            header::SESSION,
            json!({"type": "string", "pattern": "^(new|[A-Za-z0-9_-]{20,})(, ?(new|[A-Za-z0-9_-]{20,}))*$"}),
            "What the client has seen of the keyspace, so that it sees no less at this node: `new`, or what the last answer \
             said; with the capability `sessions`.",
        ),
    ]
}

fn of_watches() -> [(String, Value); 10] {
    let revision = || json!({"type": "integer", "minimum": 0, "maximum": u64::MAX});
    let flag = |default: bool| json!({"anyOf": [{"type": "boolean"}, {"enum": ["", "1", "0"]}], "default": default});
    let key64 = json!({"type": "string", "minLength": 1, "pattern": "^[A-Za-z0-9_-]+$"});
    let as_query = |name: &str, told: &str, schema: Value, about: &str| parameter(name, (told, "query", false), schema, about);
    [
        query(
            "wait",
            json!({"type": "string", "pattern": WAIT}),
            "Waits so long, at most 5m, until there is something new: behind `index`, or than what `If-None-Match` names. 304 if \
             nothing is.",
        ),
        query(
            "index",
            json!({"type": "string", "pattern": "^([0-9]+|[0-9a-f]+\\.[0-9]+)$"}),
            "The revision that the client has, in an eventual keyspace what `Quorate-Index` said; only together with `wait`.",
        ),
        as_query(
            "watched_key",
            "key",
            json!({"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES}),
            "One key, percent-encoded; not together with a selection.",
        ),
        as_query("watched_key64", "key64", key64, "The same as base64url."),
        query("types", json!({"type": "string"}), "The kinds of events, with commas between them: `put`, `delete`, `expire`."),
        query(
            "from_revision",
            revision(),
            "The first revision to be told of; without it, the next one. Not in eventual keyspaces, where it names nothing.",
        ),
        query("initial", flag(false), "First what is there, then what changes."),
        as_query("watch_values", "values", flag(true), "Whether entries come with their values."),
        query("prev", flag(false), "Whether events say what was before."),
        header(
            "last_event_id",
            "Last-Event-ID",
            json!({"type": "string", "pattern": "^([0-9a-f]+\\.[0-9]+)?$"}),
            "The `id` of the event that was seen last: goes on behind it.",
        ),
    ]
}

fn of_locks() -> [(String, Value); 2] {
    [
        parameter(
            "lock_wait",
            ("wait", "query", false),
            json!({"type": "string", "pattern": WAIT}),
            "Waits so long, at most 5m, until the lock is held. Without it the lock is only tried. A lease of one's own keeps \
             its place in the line when it has waited in vain.",
        ),
        parameter("lock_lease", ("lease", "query", true), lease_id(), "The lease that holds the lock, or waits for it."),
    ]
}

fn query(name: &str, schema: Value, about: &str) -> (String, Value) {
    parameter(name, (name, "query", false), schema, about)
}

fn header(name: &str, told: &str, schema: Value, about: &str) -> (String, Value) {
    parameter(name, (told, "header", false), schema, about)
}

fn parameter(name: &str, (told, place, is_required): (&str, &str, bool), schema: Value, about: &str) -> (String, Value) {
    let mut parameter = json!({"name": told, "in": place, "required": is_required, "description": about});
    parameter["schema"] = schema;
    (name.to_owned(), parameter)
}
