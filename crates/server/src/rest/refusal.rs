//! Refusals and failures on their way to the client.

use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use quorate_api::node::Message;
use quorate_api::problem::{Code, Current, MEDIA_TYPE, Problem, WriteOutcome};
use quorate_external::{ErrorKind, Outcome as StoreOutcome};
use quorate_node::SettingsError;
use quorate_node::keyspace::{KeyMeta, Outcome, PastError, Revision, ShardError};

use super::answer::{self, Answer, HeaderText, entity_tag};
use super::store::StoreError;

/// Why a request gets an error for an answer. Made where the reason is known, rendered by the endpoint, which knows the
/// request.
#[derive(Clone, Debug)]
pub(super) struct Refusal(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: Code,
    problem: Problem,
    headers: HeaderMap,
}

/// What is said of the request in a refusal.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) request_id: String,
}

/// A path longer than this is not repeated in the answer. Every key that fits the limits is below it.
const MAX_INSTANCE_BYTES: usize = 16 << 10;

impl From<ShardError> for Refusal {
    fn from(error: ShardError) -> Self {
        Self::new(Code::Internal, error.to_string())
    }
}

impl Refusal {
    pub(super) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { code, problem: Problem::new(code, detail), headers: HeaderMap::new() }))
    }

    /// No such method here; these are.
    pub(super) fn method_not_allowed(method: &Method, allow: &'static str) -> Self {
        Self::new(Code::MethodNotAllowed, format!("{method} is not possible here; {allow} are"))
            .with_header(ALLOW, HeaderValue::from_static(allow))
    }

    /// A read failed.
    pub(super) fn of_read(error: StoreError) -> Self {
        match error {
            StoreError::Unknown => Self::new(Code::TimedOut, "no answer within the time limit"),
            error => Self::of_write(error),
        }
    }

    /// A write, or any other call that changes something, failed.
    pub(super) fn of_write(error: StoreError) -> Self {
        let code = code_of(&error);
        match error {
            StoreError::Outside(error) if error.outcome == StoreOutcome::Unknown => {
                Self::new(code, error.to_string()).with_outcome(WriteOutcome::Unknown)
            }
            StoreError::Outside(error) if error.kind == ErrorKind::NoContainer => {
                let way_out = "make it or mount it, or name another: it is looked for again with each call";
                Self::new(code, format!("{error}; {way_out}"))
            }
            StoreError::Internal(detail) => Self::new(code, detail).with_outcome(WriteOutcome::Unknown),
            error @ StoreError::Unknown => Self::new(code, error.to_string()).with_outcome(WriteOutcome::Unknown),
            error => Self::new(code, error.to_string()),
        }
    }

    /// Settings that cannot be had.
    pub(super) fn of_settings(error: SettingsError) -> Self {
        Self::of_write(StoreError::Settings(error))
    }

    /// A write reached the state machine and was refused there; none if it was applied.
    pub(super) fn of_outcome(epoch: u64, outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Applied { .. } => None,
            Outcome::ConditionFailed { revision, current, .. } => Some(Self::precondition_failed(epoch, *revision, *current)),
            Outcome::Full { max_bytes } => {
                Some(Self::new(Code::KeyspaceFull, format!("the keyspace would hold more than {max_bytes} bytes")))
            }
            Outcome::KeyTooLong { max_bytes } => {
                Some(Self::new(Code::KeyTooLong, format!("the keyspace takes keys of at most {max_bytes} bytes")))
            }
            Outcome::ValueTooLarge { max_bytes } => {
                Some(Self::new(Code::ValueTooLarge, format!("the keyspace takes values of at most {max_bytes} bytes")))
            }
            Outcome::TooMuch { max_keys, max_bytes } => {
                let detail = format!("more than {max_keys} keys of ranges are looked at, or more than {max_bytes} bytes read");
                Some(Self::new(Code::TransactionTooLarge, detail))
            }
            Outcome::Compacted { compacted } => Some(Self::of_past(PastError::Compacted(*compacted))),
            Outcome::FutureRevision { present } => Some(Self::future_revision(*present)),
            Outcome::LeaseNotFound { lease } => {
                Some(Self::new(Code::LeaseNotFound, format!("the keyspace has no lease {lease}")))
            }
            Outcome::LeaseExists { lease } => {
                Some(Self::new(Code::LeaseExists, format!("the keyspace has a lease {lease} already")))
            }
            Outcome::LeaseFull { max_keys } => Some(Self::new(Code::LeaseFull, format!("{max_keys} keys hang on the lease"))),
            Outcome::Unfit { key, why } => Some(Self::new(Code::UnfitValue, format!("`{}`: {why}", key.escape_ascii()))),
            // Unwrapped before; and what was refused for lack of room is not remembered.
            Outcome::Repeated(earlier) => Self::of_outcome(epoch, earlier),
            Outcome::OtherRequest => {
                Some(Self::new(Code::IdempotencyKeyReused, "another write was done under the same Idempotency-Key"))
            }
            Outcome::TooManyOnce => {
                Some(Self::new(Code::TooManyIdempotencyKeys, "the keyspace remembers as many idempotency keys as it can"))
            }
            Outcome::Forgotten => Some(Self::of_write(StoreError::Unknown)),
        }
    }

    /// A condition did not hold; the key is like `current`.
    pub(super) fn precondition_failed(epoch: u64, revision: Revision, current: Option<KeyMeta>) -> Self {
        let detail = match current {
            Some(meta) if meta.create_revision == Revision(0) => "the key is there, with another content".to_owned(),
            Some(meta) => format!("the key was last changed at revision {}", meta.mod_revision),
            None => "the key is not there".to_owned(),
        };
        let mut refusal = Self::new(Code::PreconditionFailed, detail).with_revision(revision);
        let etag = |meta: &KeyMeta| format!("\"{}\"", entity_tag(epoch, meta));
        refusal.0.problem.current = Some(Current {
            exists: current.is_some(),
            mod_revision: current.filter(|meta| meta.create_revision != Revision(0)).map(|meta| meta.mod_revision.0),
            etag: current.as_ref().map(etag),
        });
        refusal
    }

    /// A revision was asked for that the keyspace has not reached.
    pub(super) fn future_revision(present: Revision) -> Self {
        Self::new(Code::FutureRevision, format!("the keyspace is at revision {present}")).with_revision(present)
    }

    /// The past cannot be read.
    pub(super) fn of_past(error: PastError) -> Self {
        match error {
            PastError::Compacted(oldest) => Self::compacted(oldest, format!("the oldest revision that can be read is {oldest}")),
            PastError::Future(present) => Self::future_revision(present),
            PastError::Failed(error) => error.into(),
        }
    }

    #[must_use]
    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.0.problem.status = status.as_u16();
        self
    }

    #[must_use]
    pub(super) fn with_outcome(mut self, outcome: WriteOutcome) -> Self {
        self.0.problem.outcome = Some(outcome);
        self
    }

    /// Says in which part of the request it is.
    #[must_use]
    pub(super) fn within(mut self, part: &str) -> Self {
        self.0.problem.detail.insert_str(0, &format!("{part}: "));
        self
    }

    /// Names how many keys were deleted before.
    #[must_use]
    pub(super) fn with_deleted(mut self, deleted: u64) -> Self {
        self.0.problem.deleted = Some(deleted);
        self
    }

    /// A revision that is not kept any more, or of a keyspace of before.
    pub(super) fn compacted(oldest: Revision, detail: impl Into<String>) -> Self {
        let mut refusal = Self::new(Code::Compacted, detail);
        refusal.0.problem.compacted_revision = Some(oldest.0);
        refusal
    }

    #[must_use]
    pub(super) fn with_header(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.insert(name, value);
        self
    }

    #[must_use]
    pub(super) fn with_revision(mut self, revision: Revision) -> Self {
        HeaderText::new().insert_revision(&mut self.0.headers, revision);
        self
    }

    /// Names the leader, where that may help the caller to find out more.
    pub(super) fn name_leader(&mut self, leader: impl FnOnce() -> Option<String>) {
        if matches!(self.0.code, Code::NoLeader | Code::OutcomeUnknown) {
            self.0.problem.leader = leader();
        }
    }

    /// The problem, for a place within an answer.
    pub(super) fn into_part(self, is_write: bool) -> Problem {
        let Parts { code, mut problem, .. } = *self.0;
        if code == Code::Internal {
            tracing::error!("within a batch: {}", problem.detail);
        }
        problem.outcome = if is_write { problem.outcome.or(Some(WriteOutcome::NotApplied)) } else { None };
        problem
    }

    /// The answer, as problem+json.
    pub(super) fn into_problem(self, asked: Asked<'_>) -> Answer {
        let Parts { code, mut problem, mut headers } = *self.0;
        log_internal(code, &problem, &asked);
        problem.outcome = match problem.outcome {
            _ if asked.method.is_safe() => None,
            None => Some(WriteOutcome::NotApplied),
            told => told,
        };
        problem.instance = (asked.path.len() <= MAX_INSTANCE_BYTES).then(|| asked.path.to_owned());
        problem.request_id = Some(asked.request_id);
        insert_retry_after(code, &mut headers);
        let mut answer = answer::json(status_of(&problem), headers, &problem);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        answer
    }

    /// The answer in the compat routes' form.
    pub(super) fn into_message(self, asked: &Asked<'_>) -> Answer {
        let Parts { code, problem, mut headers } = *self.0;
        log_internal(code, &problem, asked);
        insert_retry_after(code, &mut headers);
        let status = status_of(&problem);
        answer::json(status, headers, &Message { message: problem.detail })
    }
}

fn code_of(error: &StoreError) -> Code {
    match error {
        StoreError::KeyspaceNotFound(_) => Code::KeyspaceNotFound,
        StoreError::ReadOnly(_) | StoreError::Mirror(_) => Code::KeyspaceReadOnly,
        StoreError::NodeNotFound(_) => Code::NodeNotFound,
        StoreError::Conflict(_) => Code::Conflict,
        StoreError::Settings(SettingsError::Invalid(_)) => Code::InvalidSettings,
        StoreError::Settings(SettingsError::Unsupported(_)) => Code::UnsupportedSettings,
        StoreError::NoLeader => Code::NoLeader,
        StoreError::Unknown => Code::OutcomeUnknown,
        StoreError::NotReached { .. } => Code::RevisionNotReached,
        StoreError::Busy(_) => Code::Busy,
        StoreError::Overloaded => Code::Overloaded,
        StoreError::DiskFull => Code::DiskFull,
        StoreError::TooLarge { .. } => Code::BodyTooLarge,
        StoreError::Lacks(_) => Code::UnsupportedCapability,
        StoreError::ClockSkew { .. } => Code::ClockSkew,
        StoreError::TooFewAnswers { .. } => Code::TooFewAnswers,
        StoreError::TooFewReplicas { .. } => Code::TooFewReplicas,
        StoreError::NotYet => Code::NotYet,
        StoreError::Outside(error) => code_of_store(error.kind, error.outcome),
        StoreError::Unfit(_) => Code::StoreUnfit,
        StoreError::Behind(_) => Code::StoreBusy,
        StoreError::ShuttingDown => Code::ShuttingDown,
        StoreError::Internal(_) => Code::Internal,
    }
}

/// Sending a write again whose outcome is not known may do harm, whatever the store's trouble is.
pub(crate) fn code_of_store(kind: ErrorKind, outcome: StoreOutcome) -> Code {
    match kind {
        _ if outcome == StoreOutcome::Unknown => Code::OutcomeUnknown,
        ErrorKind::Unreachable => Code::StoreUnreachable,
        ErrorKind::Timeout => Code::StoreTimedOut,
        ErrorKind::Throttled { .. } => Code::StoreBusy,
        ErrorKind::Failing | ErrorKind::Unexpected => Code::StoreFailed,
        ErrorKind::Denied => Code::StoreDenied,
        ErrorKind::NoContainer => Code::StoreMissing,
        ErrorKind::TooLarge | ErrorKind::BadKey => Code::StoreUnfit,
        ErrorKind::BadData => Code::StoreBadData,
        ErrorKind::Unsupported => Code::UnsupportedCapability,
    }
}

fn log_internal(code: Code, problem: &Problem, asked: &Asked<'_>) {
    if code == Code::Internal {
        tracing::error!(request_id = %asked.request_id, method = %asked.method, path = asked.path, "{}", problem.detail);
    }
}

fn insert_retry_after(code: Code, headers: &mut HeaderMap) {
    if code.facts().status == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
}

fn status_of(problem: &Problem) -> StatusCode {
    StatusCode::from_u16(problem.status).expect("the table of codes holds HTTP statuses")
}

/// Carries the refusal through axum to the endpoint, which renders it.
impl IntoResponse for Refusal {
    fn into_response(self) -> axum::response::Response {
        let mut answer = Response::new(Full::new(Bytes::new())).into_response();
        *answer.status_mut() = status_of(&self.0.problem);
        answer.extensions_mut().insert(self);
        answer
    }
}
