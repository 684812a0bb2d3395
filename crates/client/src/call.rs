//! The client itself: which endpoint is asked next, and when a request may be sent again.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use http_body_util::{Either, Full};
use quorate_api::problem::WriteOutcome;
use quorate_api::{duration, header};
use tokio::time::{Instant, sleep, timeout_at};

use crate::endpoint::Endpoint;
use crate::error::{Error, Tried};
use crate::session::Session;
use crate::transport::{Answer, Effect, Failure, Outgoing, Request, Streamed, Transport};

/// How long a client waits, and how often it tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The time limit of a request as a whole, over all attempts. The nodes are told it, so that they answer in time.
    pub timeout: Duration,
    /// The time limit of a connection, after which the next endpoint is tried.
    pub connect_timeout: Duration,
    /// How many times every endpoint is asked before the client gives up; at least once.
    pub max_rounds: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(5), connect_timeout: Duration::from_secs(1), max_rounds: 2 }
    }
}

/// A client of one cluster. Cheap to clone; clones share connections.
///
/// The endpoint that answered last is asked first. A request ends within [`Options::timeout`] and a moment for the answer to
/// travel. All methods need a tokio runtime with time and network.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
    /// Under which writes are done once.
    idempotency_key: Option<HeaderValue>,
    /// In which it reads and writes keys.
    session: Option<Session>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Vec<Endpoint>,
    transport: Transport,
    options: Options,
    /// The position of the endpoint that is asked first.
    preferred: AtomicUsize,
}

/// A node that was told a time limit answers within it; this is for the answer's way back.
const TRAVEL_TIME: Duration = Duration::from_millis(500);

/// Between two rounds over all endpoints: long enough for a restarted node to listen again, short beside an election.
const PAUSE_BETWEEN_ROUNDS: Duration = Duration::from_millis(200);

/// A read is not given less than this per endpoint, however many there are.
const MIN_READ_ATTEMPT: Duration = Duration::from_millis(500);

impl Client {
    /// A client of the cluster that these endpoints belong to; connects when it is used.
    ///
    /// # Panics
    ///
    /// If there is no endpoint.
    pub fn new(endpoints: Vec<Endpoint>, options: Options) -> Self {
        assert!(!endpoints.is_empty(), "a client needs an endpoint");
        let transport = Transport::new(options.connect_timeout);
        let shared = Shared { endpoints, transport, options, preferred: AtomicUsize::new(0) };
        Self { shared: Arc::new(shared), idempotency_key: None, session: None }
    }

    /// The same client for one write, which is done once under this key within ten minutes, however often it is sent and through
    /// whichever node: a put, a change, a delete of one key, or a transaction. It is sent again also where it is not known
    /// whether it was done. For another write there has to be another key; with the same, it is [`Error::Refused`] with the code
    /// `idempotency_key_reused`; a write of another kind is [`Error::InvalidRequest`].
    ///
    /// The key has 1 to 255 visible ASCII characters without double quotes; others are [`Error::InvalidRequest`].
    pub fn once(&self, key: &str) -> Result<Self, Error> {
        let is_fit = (1..=255).contains(&key.len()) && key.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'"');
        let value = HeaderValue::from_str(key).ok().filter(|_| is_fit);
        let unfit = || Error::InvalidRequest { reason: format!("`{}` is no idempotency key", key.escape_debug()) };
        Ok(Self { idempotency_key: Some(value.ok_or_else(unfit)?), ..self.clone() })
    }

    /// The same client in a session: what it reads of keys, at whichever node, is nothing older than what was seen in the session
    /// before, and what it writes stands over all of that. Where a node cannot know, the next is asked; [`Error::Refused`] with
    /// the code `not_yet` says that none could.
    ///
    /// This is for eventual keyspaces, and for reads of a node's own state ([`crate::Consistency::Local`]) of the others. Batches
    /// are in no session.
    #[must_use]
    pub fn in_session(&self, session: &Session) -> Self {
        Self { session: Some(session.clone()), ..self.clone() }
    }

    /// The endpoints, in the order given.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.shared.endpoints
    }

    /// Asks another endpoint first from now on, if there is one: for whoever knows that the one asked last is of no use, although
    /// it answers. It is asked again when its turn comes.
    pub fn turn_to_next_endpoint(&self) {
        let next = |position| Some((position + 1) % self.shared.endpoints.len());
        let _ = self.shared.preferred.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }

    /// Sends a request, to one endpoint after the other while that is safe and may help.
    pub(crate) async fn call(&self, request: Request) -> Result<Answer, Error> {
        self.try_each(request, |transport, endpoint, request| Box::pin(transport.exchange(endpoint, request))).await
    }

    /// The same, until the answer begins: then the rest is the caller's.
    pub(crate) async fn open(&self, request: Request) -> Result<Streamed, Error> {
        self.try_each(request, |transport, endpoint, request| {
            let body = Either::Left(Full::new(request.body.clone()));
            Box::pin(transport.open(endpoint, request, body))
        })
        .await
    }

    /// Sends a request with a body that can be sent once, to the endpoint that answered last, without a time limit.
    pub(crate) async fn open_once(&self, mut request: Request, body: Outgoing) -> Result<Streamed, Error> {
        let shared = &*self.shared;
        request.headers.insert(header::TIMEOUT, timeout_value(shared.options.timeout));
        let endpoint = &shared.endpoints[shared.preferred.load(Ordering::Relaxed)];
        shared.transport.open(endpoint, &request, body).await.map_err(|failure| failure.into_error(endpoint))
    }

    async fn try_each<T>(
        &self,
        mut request: Request,
        attempt: for<'a> fn(&'a Transport, &'a Endpoint, &'a Request) -> Attempt<'a, T>,
    ) -> Result<T, Error> {
        let shared = &*self.shared;
        if let Some(key) = self.idempotency_key.as_ref().filter(|_| request.effect == Effect::Write) {
            if !request.takes_key {
                let reason =
                    "with an idempotency key there are puts, changes and deletes of one key, and transactions".to_owned();
                return Err(Error::InvalidRequest { reason });
            }
            request.headers.insert(header::IDEMPOTENCY_KEY, key.clone());
            request.effect = Effect::Once;
        }
        if let Some((session, value)) = self.session.as_ref().map(|session| session.begin(&request.target)).transpose()?.flatten()
        {
            request.headers.insert(header::SESSION, value);
            request.session = Some(session);
        }
        let limit = self.attempt_limit(request.effect);
        let limit = request.attempt.map_or(limit, |attempt| limit.min(attempt));
        request.headers.insert(header::TIMEOUT, timeout_value(limit));
        let last_begin = deadline(shared.options.timeout + request.patience);
        let count = shared.endpoints.len();
        let first = shared.preferred.load(Ordering::Relaxed);
        let mut failures = Failures::default();
        for number in 0..count * shared.options.max_rounds.max(1) {
            if number > 0 && number % count == 0 {
                sleep(PAUSE_BETWEEN_ROUNDS).await;
            }
            let position = (first + number) % count;
            let endpoint = &shared.endpoints[position];
            let attempt_end = deadline(limit + request.patience).min(last_begin) + TRAVEL_TIME;
            let failure = match timeout_at(attempt_end, attempt(&shared.transport, endpoint, &request)).await {
                Ok(Ok(answer)) => {
                    shared.preferred.store(position, Ordering::Relaxed);
                    return Ok(answer);
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::Sent(overdue(endpoint, limit + request.patience, request.effect)),
            };
            match failure {
                Failure::Sent(error) if !may_send_again(request.effect, &error) => return Err(error),
                failure => failures.add(endpoint, failure),
            }
            if deadline(Duration::ZERO) >= last_begin {
                break;
            }
        }
        Err(failures.into_error())
    }

    /// A write is sent to one node, so it gets all the time; a read leaves time to ask the others when a node hangs.
    fn attempt_limit(&self, effect: Effect) -> Duration {
        let whole = self.shared.options.timeout;
        match effect {
            Effect::Write => whole,
            Effect::Repeatable | Effect::Once => (whole / self.shared.endpoints.len() as u32).max(MIN_READ_ATTEMPT).min(whole),
        }
    }
}

/// A request on its way to one endpoint. Named, so that whoever waits for it may do so on any thread.
type Attempt<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// What went wrong so far, to be told at the end.
#[derive(Debug, Default)]
struct Failures {
    tried: Vec<Tried>,
    /// The last word of a node, or that there was none.
    last_sent: Option<Error>,
}

impl Failures {
    fn add(&mut self, endpoint: &Endpoint, failure: Failure) {
        match failure {
            Failure::NotSent(reason) => {
                let tried = Tried { endpoint: endpoint.to_string(), reason };
                // Once per endpoint is enough for people, whatever the number of rounds.
                if !self.tried.contains(&tried) {
                    self.tried.push(tried);
                }
            }
            Failure::Sent(error) => {
                let had_word = self.last_sent.as_ref().is_some_and(|last| last.problem().is_some());
                if error.problem().is_some() || !had_word {
                    self.last_sent = Some(error);
                }
            }
        }
    }

    /// What a node said is of more use than that others kept silent or could not be reached.
    fn into_error(self) -> Error {
        self.last_sent.unwrap_or(Error::Unreachable { tried: self.tried })
    }
}

/// Whether the same request may go to the next endpoint after this error.
fn may_send_again(effect: Effect, error: &Error) -> bool {
    let status = error.problem().map(|problem| problem.status);
    match (effect, error) {
        (_, Error::InvalidEndpoint { .. } | Error::InvalidRequest { .. }) => false,
        (Effect::Repeatable | Effect::Once, Error::Refused { .. }) => matches!(status, Some(502..=504)),
        (Effect::Repeatable | Effect::Once, _) => true,
        // Only the node's word counts, not the silence about it.
        (Effect::Write, Error::Refused { problem, .. }) => {
            status == Some(503) && problem.outcome == Some(WriteOutcome::NotApplied)
        }
        (Effect::Write, _) => false,
    }
}

fn overdue(endpoint: &Endpoint, limit: Duration, effect: Effect) -> Error {
    let outcome = if effect == Effect::Repeatable { WriteOutcome::NotApplied } else { WriteOutcome::Unknown };
    Error::NoAnswer {
        endpoint: endpoint.to_string(),
        reason: format!("nothing came within {}", duration::format(limit)),
        outcome,
    }
}

/// The moment this long from now on the runtime's clock, which tests may hold still.
pub(crate) fn deadline(from_now: Duration) -> Instant {
    sleep(from_now).deadline()
}

fn timeout_value(limit: Duration) -> HeaderValue {
    // A limit below a millisecond would be written as none at all.
    let limit = limit.max(Duration::from_millis(1));
    HeaderValue::from_str(&duration::format(limit)).expect("a duration is written in ASCII")
}
