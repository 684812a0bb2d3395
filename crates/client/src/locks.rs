//! Locks and elections: one that holds a name at a time, in the order in which they asked.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use quorate_api::entry::Entry;
use quorate_api::lease::format_id;
use quorate_api::lock::{Holder, HolderBody, LockBody, LockRequest};
use quorate_api::problem::{Code, WriteOutcome};
use quorate_api::{batch, duration, text64, txn};
use tokio::time::{Instant, sleep};

use crate::call::{Client, deadline};
use crate::error::Error;
use crate::key_path::one_lock;
use crate::keys::GetOptions;
use crate::leases::HeldLease;
use crate::selection::Selection;
use crate::transport::{Effect, Request};
use crate::watch::{News, WatchQuery, WatchStream, Watched, WatchedKeys};

/// How long one request waits: a node that hangs meanwhile delays whose turn it is by so much.
const WAIT: Duration = Duration::from_secs(10);

/// How long somebody is looked for who grants the first lease, if there is no other limit.
const FIRST_CONTACT: Duration = Duration::from_secs(10);

/// Before what failed is tried again.
const PAUSE: Duration = Duration::from_millis(300);

/// How a lock is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockOptions {
    /// How long the lock stays held when nothing is heard of its holder any more; 2 s at least.
    pub ttl: Duration,
    /// How long to wait for it: none as long as it takes, zero not at all.
    pub wait: Option<Duration>,
    /// What others are to know of the holder; in an election, what the leader says of itself.
    pub value: Bytes,
}

impl Default for LockOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(10), wait: None, value: Bytes::new() }
    }
}

/// A lock that is held, as long as this value lives and nodes can be reached.
///
/// Who holds one must stop what it protects when it is lost: wait for [`HeldLock::lost`] beside the work. That alone does not
/// keep two apart: a process may stand still, and come back after the lock went to another. What must not happen then, has to be
/// told by the [`HeldLock::token`]: writes to Quorate have the [`HeldLock::guard`] among the compares of their transaction,
/// others compare the token with the greatest that they have seen. Dropped without [`HeldLock::release`], it ends when its time
/// is up.
#[derive(Debug)]
pub struct HeldLock {
    lease: HeldLease,
    holder: Holder,
}

/// A lock that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockState {
    /// Who.
    pub holder: Holder,
    /// How many wait.
    pub waiting: u64,
    /// The revision of this.
    pub revision: u64,
}

/// Who holds a lock, and each time that it is another. See [`Client::observe_lock`].
#[derive(Debug)]
pub struct LockObserver {
    client: Client,
    keyspace: String,
    name: String,
    changes: WatchStream,
    /// Something may have changed since it was looked at last.
    is_stale: bool,
    has_told: bool,
    /// Who was told last.
    told: Option<Holder>,
}

impl Client {
    /// Takes a lock, in turn; none if it was not to be had within the time of waiting.
    ///
    /// The names of locks have any characters but what a path does not carry (empty segments, `.`, `..`, control characters):
    /// those are [`Error::InvalidRequest`]. Fails only with what will not pass; as long as there is time, all else is tried
    /// again.
    pub async fn lock(&self, keyspace: &str, name: &str, options: &LockOptions) -> Result<Option<HeldLock>, Error> {
        self.lock_unless(keyspace, name, options, std::future::pending()).await
    }

    /// The same, and gives up its place in the line at once when `cancelled` ends. Whoever drops the future instead leaves the
    /// place to those behind only when the lease has ended.
    pub async fn lock_unless(
        &self,
        keyspace: &str,
        name: &str,
        options: &LockOptions,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Option<HeldLock>, Error> {
        let until = options.wait.map(deadline);
        let path = one_lock(keyspace, name)?;
        // Who was never in the line is told that nobody answers.
        let mut first_contact = Some(deadline(FIRST_CONTACT));
        let mut cancelled = std::pin::pin!(cancelled);
        loop {
            let lease = tokio::select! {
                () = &mut cancelled => return Ok(None),
                lease = self.hold_lease(keyspace, options.ttl) => lease,
            };
            let lease = match lease {
                Ok(lease) => lease,
                Err(error) if may_pass(&error, until.or(first_contact)) => {
                    sleep(PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            first_contact = None;
            let turn = tokio::select! {
                () = &mut cancelled => Ok(Turn::TimeOver),
                turn = self.wait_in_line(&path, &lease, options, until) => turn,
            };
            match turn {
                // One that stood still meanwhile may have come too late for its own lease.
                Ok(Turn::Held(holder)) if !lease.is_lost() => {
                    return Ok(Some(HeldLock { lease, holder }));
                }
                // Nobody could be reached for as long as it lives, or somebody gave its place up: from the end of the line, then.
                Ok(Turn::Held(_) | Turn::LeaseLost) => {
                    let _ = lease.revoke().await;
                    sleep(PAUSE).await;
                }
                Ok(Turn::TimeOver) => {
                    lease.revoke().await?;
                    return Ok(None);
                }
                Err(error) => {
                    // What it failed for is of more use than that the lease may stay for a moment.
                    let _ = lease.revoke().await;
                    return Err(error);
                }
            }
        }
    }

    async fn wait_in_line(
        &self,
        path: &str,
        lease: &HeldLease,
        options: &LockOptions,
        until: Option<Instant>,
    ) -> Result<Turn, Error> {
        loop {
            let now = deadline(Duration::ZERO);
            let wait = until.map_or(WAIT, |until| until.saturating_duration_since(now).min(WAIT));
            let error = match self.ask_for_lock(path, lease.id(), &options.value, wait).await {
                Ok(holder) => return Ok(Turn::Held(holder)),
                Err(error) => error,
            };
            let is_held = is_refused_for(&error, Code::LockHeld);
            if is_refused_for(&error, Code::LeaseNotFound) || lease.is_lost() {
                return Ok(Turn::LeaseLost);
            }
            if is_held && until.is_some_and(|until| deadline(Duration::ZERO) >= until) {
                return Ok(Turn::TimeOver);
            }
            if !is_held {
                if !may_pass(&error, until) {
                    return Err(error);
                }
                sleep(PAUSE).await;
            }
        }
    }

    async fn ask_for_lock(&self, path: &str, lease: u64, value: &Bytes, wait: Duration) -> Result<Holder, Error> {
        let (value, value64) = text64::split(value);
        let value64: Option<String> = value64;
        let body = LockRequest { lease: Some(format_id(lease)), ttl: None, value, value64: value64.map(Into::into) };
        let target = if wait.is_zero() { path.to_owned() } else { format!("{path}?wait={}", whole_ms(wait)) };
        // It has its place under its lease, however often it asks.
        let request =
            Request { effect: Effect::Repeatable, patience: wait, ..Request::write(Method::POST, target).with_json(&body) };
        let answer = self.call(request).await?;
        let body: HolderBody<'_> = answer.json(WriteOutcome::Applied)?;
        Holder::from_body(body).map_err(|error| answer.unexpected(error.to_string(), WriteOutcome::Applied))
    }

    /// Who holds a lock, read linearizably; none if nobody does.
    pub async fn lock_state(&self, keyspace: &str, name: &str) -> Result<Option<LockState>, Error> {
        let answer = match self.call(Request::read(one_lock(keyspace, name)?)).await {
            Err(error) if is_refused_for(&error, Code::LockNotFound) => return Ok(None),
            answer => answer?,
        };
        let LockBody { holder, waiting, revision } = answer.json(WriteOutcome::NotApplied)?;
        let holder = Holder::from_body(holder).map_err(|error| answer.unexpected(error.to_string(), WriteOutcome::NotApplied))?;
        Ok(Some(LockState { holder, waiting, revision }))
    }

    /// Gives up a lock that a lease holds or waits for, whoever's it is; false if it does neither. Its holder is not asked.
    pub async fn release_lock(&self, keyspace: &str, name: &str, lease: u64) -> Result<bool, Error> {
        let target = format!("{}?lease={}", one_lock(keyspace, name)?, format_id(lease));
        match self.call(Request::write(Method::DELETE, target)).await {
            Ok(_) => Ok(true),
            Err(error) if is_refused_for(&error, Code::LockNotFound) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Tells who holds a lock, now and whenever that changes. Nothing is asked for before [`LockObserver::next`].
    pub fn observe_lock(&self, keyspace: &str, name: &str) -> LockObserver {
        let changes = self.watch(keyspace, claims_of(name));
        let (client, keyspace, name) = (self.clone(), keyspace.to_owned(), name.to_owned());
        LockObserver { client, keyspace, name, changes, is_stale: false, has_told: false, told: None }
    }
}

/// What became of waiting in a line.
enum Turn {
    Held(Holder),
    TimeOver,
    LeaseLost,
}

impl HeldLock {
    /// The fencing token: greater than that of all who held the lock before.
    pub fn token(&self) -> u64 {
        self.holder.token
    }

    /// The key that is there, with the token as its `create_revision`, as long as the lock is held.
    pub fn key(&self) -> &Bytes {
        &self.holder.key
    }

    /// The lease that holds it: pairs that are put on it go with the lock.
    pub fn lease(&self) -> u64 {
        self.lease.id()
    }

    /// What a transaction compares that may be done only while the lock is held.
    pub fn guard(&self) -> [txn::TxnCompare; 2] {
        let is = txn::Relation::Equal;
        [txn::TxnTest::CreateRevision(is, self.holder.token), txn::TxnTest::Lease(is, self.lease.id())]
            .map(|test| txn::TxnCompare { keys: txn::TxnKeys::One(self.holder.key.clone()), test })
    }

    /// Whether the lease is lost: it ended, or may have.
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost()
    }

    /// Waits until the lock is lost: the lease ended, or may have, or somebody took the lock away.
    pub async fn lost(&self) {
        tokio::select! {
            () = self.lease.lost() => {}
            () = self.removed() => {}
        }
    }

    /// Waits until its key is gone, or is no claim any more. As long as nobody can tell, the lease decides.
    async fn removed(&self) {
        let watched = Watched { keys: WatchedKeys::One(self.holder.key.to_vec()), ..Watched::default() };
        let query = WatchQuery { watched: vec![watched], is_initial: true, without_values: true, ..WatchQuery::default() };
        let mut watch = self.lease.client.watch(&self.lease.keyspace, query.clone());
        loop {
            match watch.next().await {
                Ok(News::Change { .. } | News::Sync { .. }) => {
                    if !self.is_there_for_sure().await {
                        return;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    if is_refused_for(&error, Code::Compacted) {
                        watch = self.lease.client.watch(&self.lease.keyspace, query.clone());
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Asks until somebody knows.
    async fn is_there_for_sure(&self) -> bool {
        loop {
            match self.is_there().await {
                Ok(is_there) => return is_there,
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    async fn is_there(&self) -> Result<bool, Error> {
        let found = self.lease.client.get(&self.lease.keyspace, &self.holder.key, &GetOptions::default()).await?;
        let is_claim = |entry: &Entry| entry.create_revision == self.holder.token && entry.lease == Some(self.lease.id());
        Ok(found.is_some_and(|found| is_claim(&found.entry)))
    }

    /// Says something else of the holder. False if the lock is not held any more.
    pub async fn proclaim(&self, value: Bytes) -> Result<bool, Error> {
        let put = batch::BatchPut {
            key: self.holder.key.clone(),
            value,
            lease: Some(format_id(self.lease.id())),
            ..batch::BatchPut::default()
        };
        let compares = self.guard().to_vec();
        let then = vec![txn::TxnOp::Put(Box::new(put))];
        let result = self.lease.client.txn(&self.lease.keyspace, &txn::Txn { compares, then, ..txn::Txn::default() }).await?;
        Ok(result.failed_if.is_none())
    }

    /// Lets it go, for who waits next.
    pub async fn release(self) -> Result<(), Error> {
        self.lease.revoke().await
    }
}

impl LockObserver {
    /// Who holds the lock; none if nobody does. The first time at once, then when that is another, or says another thing of
    /// itself. Holders that come and go in quick succession may be left out, the last one is not.
    ///
    /// An error is of a try to ask; this may be called again.
    pub async fn next(&mut self) -> Result<Option<Holder>, Error> {
        loop {
            if self.is_stale {
                let holder = self.client.lock_state(&self.keyspace, &self.name).await?.map(|state| state.holder);
                self.is_stale = false;
                if !std::mem::replace(&mut self.has_told, true) || self.told != holder {
                    self.told.clone_from(&holder);
                    return Ok(holder);
                }
            }
            match self.changes.next().await {
                Ok(News::Sync { .. } | News::Change { .. }) => self.is_stale = true,
                Ok(_) => {}
                // What was there meanwhile is of no interest, only what is.
                Err(error) if is_refused_for(&error, Code::Compacted) => {
                    self.changes = self.client.watch(&self.keyspace, claims_of(&self.name));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// All that there is below a lock's name, and what changes there.
fn claims_of(name: &str) -> WatchQuery {
    let selection = Selection { prefix: format!("{name}/").into_bytes(), ..Selection::default() };
    let watched = Watched { keys: WatchedKeys::Many(selection), ..Watched::default() };
    WatchQuery { watched: vec![watched], is_initial: true, without_values: true, ..WatchQuery::default() }
}

fn is_refused_for(error: &Error, code: Code) -> bool {
    error.code() == Some(code.facts().code)
}

/// Whether it may be different in a moment, and there is time for it.
fn may_pass(error: &Error, until: Option<Instant>) -> bool {
    let is_final = match error {
        Error::InvalidEndpoint { .. } | Error::InvalidRequest { .. } => true,
        // A keyspace that is full stays so.
        error => error.problem().is_some_and(|problem| !problem.retryable && (problem.status < 500 || problem.status == 507)),
    };
    !is_final && until.is_none_or(|until| deadline(Duration::ZERO) < until)
}

/// In the form of a parameter; above zero.
fn whole_ms(wait: Duration) -> String {
    duration::format(wait.max(Duration::from_millis(1)))
}
