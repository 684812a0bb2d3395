//! Errors as they travel: `application/problem+json` (RFC 9457), and the one table of their codes.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`].
pub const MEDIA_TYPE: &str = "application/problem+json";

/// What is known of a [`Code`] without looking at the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The stable machine word, in `snake_case`.
    pub code: &'static str,
    /// The HTTP status, unless the code's help names another one.
    pub status: u16,
    /// Whether the same request, sent again later, may succeed, and does no harm if the first one was done after all.
    pub is_retryable: bool,
    /// A few words for people.
    pub title: &'static str,
    /// What it means and what to do about it.
    pub help: &'static str,
}

macro_rules! codes {
    ($($variant:ident $code:literal $status:literal $retry:ident $title:literal $help:literal;)+) => {
        /// Why a request was refused or failed. The words are stable: clients switch on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $help] $variant,)+
        }

        impl Code {
            /// All codes, by status.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// What is known of it.
            pub const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$variant => &Facts {
                        code: $code, status: $status, is_retryable: codes!(@$retry), title: $title, help: $help,
                    },)+
                }
            }
        }
    };
    (@retry) => { true };
    (@final) => { false };
}

codes! {
    BadRequest "bad_request" 400 final "Bad request"
        "The request is not well-formed HTTP as this server needs it; the detail says where.";
    MalformedRequest "malformed_request" 400 final "Malformed request"
        "The request is no HTTP/1.1: its first line or a header is broken, or another protocol is spoken. Nothing was done.";
    UnknownParameter "unknown_parameter" 400 final "Unknown query parameter"
        "The route does not know this query parameter; the detail names those that it knows.";
    BadParameter "bad_parameter" 400 final "Bad query parameter"
        "The value of a query parameter, or of its header twin, is not understood, out of range, or given twice.";
    BadHeader "bad_header" 400 final "Bad header"
        "The value of a header is not understood.";
    ContradictingConditions "contradicting_conditions" 400 final "Contradicting conditions"
        "The conditions can never hold together, whatever the key is like.";
    MalformedKey "malformed_key" 400 final "Malformed key"
        "The key's percent-encoding or base64url is broken. In a path, % stands before two hexadecimal digits.";
    EmptyKey "empty_key" 400 final "Empty key"
        "A key has at least one byte.";
    KeyTooLong "key_too_long" 400 final "Key too long"
        "A key has at most 4096 bytes after decoding, or fewer where the keyspace has a limit of its own. The status is 414 if \
         the key stands in the path, otherwise 400.";
    BadKeyspaceName "bad_keyspace_name" 400 final "Bad keyspace name"
        "Keyspace names are 1 to 63 of the characters a-z, 0-9, _ and -, and begin with a letter or a digit.";
    EmptySelection "empty_selection" 400 final "Nothing selected"
        "Deleting many keys needs a selection: `prefix`, or `start` and `end`, or `all=true` for every key of the keyspace.";
    BadCursor "bad_cursor" 400 final "Bad cursor"
        "The cursor was not given out for this keyspace, selection and order. Begin again without a cursor.";
    BadMeta "bad_meta" 400 final "Bad user metadata"
        "Names of user metadata are HTTP tokens, values visible ASCII; at most 32 of them, 2048 bytes in all, beside a value.";
    BadOperation "bad_operation" 400 final "Bad operation"
        "An operation of a batch is not the JSON object that it should be; the detail says where. Nothing was done by it.";
    BadTransaction "bad_transaction" 400 final "Bad transaction"
        "A compare or an operation of a transaction is not what it should be; the detail says which, as in `then[2]`. Nothing \
         was done.";
    TooManyOperations "too_many_operations" 400 final "Too many operations"
        "A transaction has at most 128 compares, and as many operations on each side; one within another has what that one \
         left, and they may lie 16 deep. Nothing was done.";
    DuplicateKey "duplicate_key" 400 final "Key written twice"
        "A transaction sets each key once, and deletes no key that it sets. Nothing was done.";
    BadBackup "bad_backup" 400 final "Bad backup"
        "What was sent is no backup, or one that is cut or damaged; the detail names the byte and the keyspace. That keyspace is \
         as if it had not been begun; those before it are restored.";
    BadBody "bad_body" 400 final "Bad body"
        "The body is not the JSON that the route expects; the detail says where.";
    FutureRevision "future_revision" 400 final "Revision to come"
        "The keyspace has not reached this revision; the detail says at which it is. Nothing was done.";
    IncompleteBody "incomplete_body" 400 final "Incomplete body"
        "The body ended before its announced length, or its chunks are malformed. Nothing was done.";
    HostNotAllowed "host_not_allowed" 403 final "Host not allowed"
        "The Host header names no address of this node. This keeps web pages from reaching it by a name that they control \
         (DNS rebinding). Allow further names with --allow-host.";
    CrossSite "cross_site" 403 final "Cross-site request"
        "A browser sent this request on behalf of a page from another site. Such requests may not change anything.";
    KeyspaceReadOnly "keyspace_read_only" 403 final "Keyspace is read-only"
        "Clients can read this keyspace, and not write it.";
    NotFound "not_found" 404 final "No such route"
        "There is nothing at this path.";
    KeyNotFound "key_not_found" 404 final "Key not found"
        "The keyspace does not hold this key.";
    KeyspaceNotFound "keyspace_not_found" 404 final "Keyspace not found"
        "There is no keyspace of this name.";
    NodeNotFound "node_not_found" 404 final "Node not found"
        "The cluster has no node of this name.";
    LeaseNotFound "lease_not_found" 404 final "Lease not found"
        "The keyspace has no lease of this id: it was never granted, was revoked, or its time is up. Nothing was done.";
    LockNotFound "lock_not_found" 404 final "Lock not found"
        "Nobody holds the lock; or, where that was asked, the lease neither holds it nor waits for it. Nothing was done.";
    JobNotFound "job_not_found" 404 final "Job not found"
        "There is no job of this number, or it was followed by another of the same keyspace.";
    MethodNotAllowed "method_not_allowed" 405 final "Method not allowed"
        "The path knows other methods; the Allow header lists them.";
    BodyTimeout "body_timeout" 408 retry "Body too slow"
        "The body came too slowly, or not at all. Nothing was done.";
    Conflict "conflict" 409 final "Conflict"
        "It stands in contradiction to what is there; the detail says to what.";
    LeaseExists "lease_exists" 409 final "Lease exists"
        "The keyspace has a lease of this id already. Nothing was done.";
    LockHeld "lock_held" 409 retry "Lock is held"
        "Somebody else holds the lock; the detail says who. Ask again with `wait`, and with a lease of your own: it keeps its \
         place in the line between one request and the next.";
    LeaseFull "lease_full" 409 final "Lease is full"
        "10,000 keys hang on the lease, and it holds no more: all of them go at once when it ends. Nothing was done.";
    UnfitValue "unfit_value" 409 final "Value cannot be changed so"
        "The key's value is no whole number, or no JSON that can be patched, or what would come of it is more than a number can \
         be. Nothing was done; a PUT replaces the value whatever it is.";
    Compacted "compacted" 410 final "Compacted"
        "The revision asked for is not kept any more, or is of a keyspace that was made anew. `compacted_revision` is the oldest \
         that can be read: read what is there now, and go on from its revision. A list that was read in part is begun anew \
         without its cursor, or with `start` behind its last key.";
    PreconditionFailed "precondition_failed" 412 final "Precondition failed"
        "If-Match, If-None-Match or `cas` did not hold, and `current` says what the key is like; or, with `strict`, `if` of a \
         transaction. Nothing was done.";
    ValueTooLarge "value_too_large" 413 final "Value too large"
        "The value is larger than the server accepts, whose limit /v1/node names, or than the keyspace does. Nothing was done.";
    BodyTooLarge "body_too_large" 413 final "Body too large"
        "The body, or the write that it asks for, is larger than this route accepts. Nothing was done.";
    AnswerTooLarge "answer_too_large" 413 final "Answer too large"
        "What the batch read before this operation is as much as one answer holds. Read the rest with another batch or as lines.";
    TransactionTooLarge "transaction_too_large" 413 final "Transaction too large"
        "The transaction compares, lists or deletes more than 10,000 keys of ranges, or reads more than 9 MiB. Nothing was done; \
         narrower ranges or `limit` help.";
    TargetTooLong "target_too_long" 414 final "Path too long"
        "Path and query are longer than any route takes. Nothing was done.";
    UnsupportedMediaType "unsupported_media_type" 415 final "Unsupported media type"
        "The route takes application/json, a batch application/x-ndjson too, and bodies without a content coding; what a PATCH \
         of a key takes is in the header Accept-Patch.";
    InvalidSettings "invalid_settings" 422 final "Settings that cannot be"
        "The settings name an engine, an option, a mode or a field that does not exist, or give one a value that it cannot \
         have. The detail says which, and what is known. Nothing was done.";
    UnsupportedSettings "unsupported_settings" 422 final "Settings that do not go together"
        "Each of the settings is known, but not possible together, or not possible yet. The detail says why, and what is \
         possible. Nothing was done.";
    StoreUnfit "store_unfit" 422 final "The store outside cannot hold this"
        "The key or the value is larger than the store takes, or the key cannot be written as `key_encoding` says, or there is \
         user metadata, for which stores outside have no place. Nothing was done.";
    UnknownOperation "unknown_operation" 422 final "Unknown operation"
        "There is no such operation in a batch or a transaction; the detail names those that there are. Nothing was done by it.";
    UnsupportedCapability "unsupported_capability" 422 final "The keyspace cannot do this"
        "The keyspace's engine and replication do not offer what was asked for; the detail names the capability, and \
         /v1/keyspaces/{keyspace} lists those that it has. Nothing was done.";
    TooFewReplicas "too_few_replicas" 422 final "Fewer replicas than that"
        "`ack` asks for more other nodes than have a replica of the keyspace; the detail names those that have one. Nothing was \
         done: ask for fewer, or for `all_up`, or let another node join.";
    IdempotencyKeyReused "idempotency_key_reused" 422 final "Idempotency key used for another request"
        "Another write was done under this `Idempotency-Key` within the last ten minutes. Nothing was done; a new request needs \
         a key of its own.";
    HeadTooLarge "head_too_large" 431 final "Head too large"
        "The head of a request has 128 KiB and 100 headers at most. Nothing was done.";
    Internal "internal" 500 final "Internal error"
        "A defect, or a damaged engine. The node's log has more under the request id.";
    StoreFailed "store_failed" 502 retry "The store outside failed"
        "The store that holds the keyspace's pairs failed by itself, or answered with something unexpected; the detail says \
         what it said. Nothing was done.";
    StoreDenied "store_denied" 502 final "The store outside denies access"
        "The credentials that the keyspace's settings name are missing on this node, or wrong, or do not allow it. Nothing was \
         done; the node looks for them again every few seconds, so that no restart is needed.";
    StoreMissing "store_missing" 502 final "The store outside has no such container"
        "The folder, bucket, table or index that the keyspace's settings name is not there, and is not made by itself: a disk \
         that is not mounted is not replaced by an empty folder. Nothing was done.";
    StoreBadData "store_bad_data" 502 final "The store outside holds something else"
        "What lies under the key is not what Quorate wrote: half a value, or another program's. A PUT replaces it; with \
         `\"envelope\": \"none\"` a keyspace serves what other programs wrote.";
    StoreUnreachable "store_unreachable" 503 retry "The store outside cannot be reached"
        "Nobody answers where the keyspace's pairs are kept. Nothing was done; other keyspaces are not concerned.";
    StoreBusy "store_busy" 503 retry "The store outside is busy"
        "The store asks for fewer requests, or as many as the keyspace's `max_calls` wait for it already. Nothing was done.";
    NoLeader "no_leader" 503 retry "No leader"
        "No leader was reached within the time limit. Nothing was done; trying again later helps once a quorum is there.";
    RevisionNotReached "revision_not_reached" 503 retry "Revision not reached"
        "The node did not have the revision asked for with `min_revision` within the time limit.";
    Busy "busy" 503 retry "Busy with an earlier change"
        "An earlier change that this one depends on is not done yet, such as the removal of a node of the same name. \
         Nothing was done. Try again after the time in Retry-After.";
    Overloaded "overloaded" 503 retry "Overloaded"
        "Too many requests wait already. Nothing was done; try again a little later.";
    WatchEnded "watch_ended" 503 retry "The watch ended"
        "The keyspace cannot be read at this node any more: it was deleted, or is being rebuilt. Go on from the revision that \
         was seen last, here or at another node.";
    TooManyIdempotencyKeys "too_many_idempotency_keys" 503 retry "Too many idempotency keys"
        "The keyspace remembers as many keys, or as large outcomes, as it can, each for ten minutes. Nothing was done; without \
         `Idempotency-Key` it would be.";
    ClockSkew "clock_skew" 503 retry "Clock is off"
        "The node's clock is off from those of the others by more than the keyspace's `max_clock_offset`, so that what it writes \
         would win or lose for no good reason. Nothing was done; ask another node, and set this one's clock.";
    NotYet "not_yet" 503 retry "Not here yet"
        "The session has seen what this node has not got yet, and those who have it did not answer in time. Ask again, or \
         another node.";
    TooFewAnswers "too_few_answers" 503 retry "Too few answers"
        "Fewer other nodes answered the read in time than the keyspace's `min_answers`. `consistency=local` asks nobody.";
    ShuttingDown "shutting_down" 503 retry "Shutting down"
        "The node is going down. Nothing was done; ask another node.";
    TimedOut "timed_out" 504 retry "Timed out"
        "The answer did not come within the time limit. Nothing is changed by a read.";
    Incomplete "incomplete" 504 retry "Only partly done"
        "The time limit ended after a part was done. Of a range, `deleted` says how much; of a batch, this operation was not \
         begun. Send it again to go on, or with more `timeout`.";
    OutcomeUnknown "outcome_unknown" 504 final "Outcome unknown"
        "The write may have happened, or may still happen. Read the key to know, or make the write conditional before \
         sending it again.";
    StoreTimedOut "store_timed_out" 504 retry "The store outside took too long"
        "The store that holds the keyspace's pairs did not answer within its `timeout`. Nothing was done; the detail names the \
         store.";
    DiskFull "disk_full" 507 final "Disk full"
        "The node's disk is almost full; writes are refused until there is room. Nothing was done.";
    KeyspaceFull "keyspace_full" 507 final "Keyspace full"
        "The write would grow the keyspace beyond its `max_bytes`. Nothing was done; deletes are always possible.";
}

impl Code {
    /// The code with this word; the hyphens of a problem's `type` do as well as underscores.
    pub fn from_word(word: &str) -> Option<Self> {
        let matches = |code: &str| {
            code.len() == word.len() && code.bytes().zip(word.bytes()).all(|(a, b)| a == b || (a, b) == (b'_', b'-'))
        };
        Self::ALL.iter().copied().find(|code| matches(code.facts().code))
    }

    /// The path of the help page, which is the problem's `type`.
    pub fn type_path(self) -> String {
        format!("/problems/{}", self.facts().code.replace('_', "-"))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.facts().code)
    }
}

/// Whether a write that failed may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WriteOutcome {
    /// It did not, and will not.
    NotApplied,
    /// It may have, or may still.
    Unknown,
    /// It did.
    Applied,
}

/// What the key of a failed condition is like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Current {
    /// Whether it is there.
    pub exists: bool,
    /// The revision of its last change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_revision: Option<u64>,
    /// Its `ETag`, with quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
}

/// The body of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// Where the node serves help on it, as a relative link.
    #[serde(rename = "type")]
    pub type_path: Cow<'static, str>,
    /// A few words for people.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What is the matter in this case.
    pub detail: String,
    /// The path that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The stable machine word; one that this version does not know may come from a newer node.
    pub code: Cow<'static, str>,
    /// Whether the same request, sent again later, may succeed, and does no harm if the first one was done after all.
    pub retryable: bool,
    /// Whether the write may have happened; on writes only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<WriteOutcome>,
    /// The leading node, where one is known and it matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// What the key is like, after a failed condition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Current>,
    /// How many keys were deleted all the same, of a range that was not deleted to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// The oldest revision that can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compacted_revision: Option<u64>,
    /// Names the request in the node's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem with the facts of its code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let facts = code.facts();
        Self {
            type_path: Cow::Owned(code.type_path()),
            title: Cow::Borrowed(facts.title),
            status: facts.status,
            detail: detail.into(),
            instance: None,
            code: Cow::Borrowed(facts.code),
            retryable: facts.is_retryable,
            outcome: None,
            leader: None,
            current: None,
            deleted: None,
            compacted_revision: None,
            request_id: None,
        }
    }
}

/// A line of a stream that cannot go on as it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProblemLine {
    /// What is the matter.
    pub problem: Problem,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_its_words_are_unique() {
        let words: std::collections::BTreeSet<&str> = Code::ALL.iter().map(|code| code.facts().code).collect();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(Code::ALL.is_sorted_by_key(|code| code.facts().status));
        for code in Code::ALL {
            let facts = code.facts();
            assert!(facts.code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code}");
            assert!((400..600).contains(&facts.status) && !facts.help.is_empty(), "{code}");
            let path = code.type_path();
            assert_eq!(Code::from_word(path.strip_prefix("/problems/").unwrap()), Some(*code));
            assert_eq!(Code::from_word(facts.code), Some(*code));
        }
        assert_eq!(Code::from_word("no-such-code"), None);
    }

    #[test]
    fn problems_round_trip_and_leave_out_what_is_not_there() {
        let bare = Problem::new(Code::EmptyKey, "no");
        let text = serde_json::to_string(&bare).unwrap();
        let facts = r#""title":"Empty key","status":400,"detail":"no","code":"empty_key","retryable":false"#;
        assert_eq!(text, format!(r#"{{"type":"/problems/empty-key",{facts}}}"#));
        let current = Current { exists: true, mod_revision: Some(13), etag: Some("\"1.13\"".to_owned()) };
        let full = Problem {
            instance: Some("/v1/kv/app/a".to_owned()),
            outcome: Some(WriteOutcome::NotApplied),
            leader: Some("n2".to_owned()),
            current: Some(current),
            deleted: Some(10_000),
            compacted_revision: Some(8),
            request_id: Some("r".to_owned()),
            ..Problem::new(Code::PreconditionFailed, "")
        };
        for problem in [bare, full] {
            let text = serde_json::to_string(&problem).unwrap();
            assert_eq!(serde_json::from_str::<Problem>(&text).unwrap(), problem);
        }
    }
}
