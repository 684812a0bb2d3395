//! Leases: granted, kept alive, looked at, revoked; and one that keeps itself alive.

use std::time::Duration;

use http::Method;
use quorate_api::duration;
use quorate_api::entry::DeletedBody;
use quorate_api::lease::{GrantBody, KeepAliveBody, KeptAlive, LeaseBody, LeaseDetail, LeaseList, format_id, parse_id};
use quorate_api::problem::{Code, WriteOutcome};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::call::{Client, deadline};
use crate::error::Error;
use crate::key_path::one_segment;
use crate::transport::{Effect, Request};

/// A lease is kept alive so often within its life: all but one of these may fail.
const KEEPS_PER_LIFE: u32 = 3;

/// An endpoint that hangs takes so much of a lease's life at most, and a moment for its answer to travel.
const ATTEMPTS_PER_LIFE: u32 = 8;

/// The pause after a try that failed, at most.
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// A granted lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantedLease {
    /// Its id, for puts and to keep it alive.
    pub id: u64,
    /// How long it lives after its grant, and after each time that it is kept alive: what was asked for, or the least there is.
    pub ttl: Duration,
}

/// A lease that is kept alive by a task of its own, as long as this value lives.
///
/// Who holds one must stop doing what it protects when it is lost: wait for [`HeldLease::lost`] beside the work, or ask
/// [`HeldLease::is_lost`]. It is taken for lost, too, when nobody could be reached for as long as it lives: others may have it
/// then. Dropped without [`HeldLease::revoke`], it ends by itself when its time is up.
#[derive(Debug)]
pub struct HeldLease {
    pub(crate) client: Client,
    pub(crate) keyspace: String,
    lease: GrantedLease,
    /// Until when it lives at least; none once it is lost.
    lives: watch::Receiver<Option<Instant>>,
    task: JoinHandle<()>,
}

impl Client {
    /// Grants a lease, of this id or of one that the server draws. It begins to live before this returns.
    ///
    /// An id that is taken is [`Error::Refused`] with the code `lease_exists`. If the outcome is not known, the lease may be
    /// there; nobody keeps it alive, and it ends by itself.
    pub async fn grant_lease(&self, keyspace: &str, ttl: Duration, id: Option<u64>) -> Result<GrantedLease, Error> {
        let body = GrantBody { ttl: duration::format(ttl), id: id.map(format_id) };
        let answer = self.call(Request::write(Method::POST, path_of(keyspace, "")).with_json(&body)).await?;
        let granted: LeaseBody = answer.json(WriteOutcome::Applied)?;
        match (parse_id(&granted.id), granted.ttl_ms) {
            (Some(id), Some(ttl_ms)) => Ok(GrantedLease { id, ttl: Duration::from_millis(ttl_ms) }),
            _ => Err(answer.unexpected(format!("no lease: {granted:?}"), WriteOutcome::Applied)),
        }
    }

    /// A lease begins its time anew; none if there is no such lease, or its time is up. Repeated freely.
    pub async fn keep_alive(&self, keyspace: &str, id: u64) -> Result<Option<LeaseBody>, Error> {
        self.keep_alive_within(keyspace, id, None).await
    }

    /// The same, and gives each endpoint no more than this.
    async fn keep_alive_within(&self, keyspace: &str, id: u64, attempt: Option<Duration>) -> Result<Option<LeaseBody>, Error> {
        let target = path_of(keyspace, &format!("/{}/keepalive", format_id(id)));
        let request = Request { effect: Effect::Repeatable, attempt, ..Request::write(Method::POST, target) };
        known(self.call(request).await)?.map(|answer| answer.json(WriteOutcome::Applied)).transpose()
    }

    /// The same of many, at most [`quorate_api::lease::MAX_KEEP_ALIVE_IDS`].
    pub async fn keep_many_alive(&self, keyspace: &str, ids: &[u64]) -> Result<KeptAlive, Error> {
        let body = KeepAliveBody { ids: ids.iter().copied().map(format_id).collect() };
        let request = Request::write(Method::POST, path_of(keyspace, "/keepalive")).with_json(&body);
        self.call(Request { effect: Effect::Repeatable, ..request }).await?.json(WriteOutcome::Applied)
    }

    /// A lease, with its keys if wanted; none if there is no such lease.
    pub async fn lease(&self, keyspace: &str, id: u64, with_keys: bool) -> Result<Option<LeaseDetail<'static>>, Error> {
        let query = if with_keys { "?keys" } else { "" };
        let request = Request::read(path_of(keyspace, &format!("/{}{query}", format_id(id))));
        known(self.call(request).await)?.map(|answer| answer.json(WriteOutcome::NotApplied)).transpose()
    }

    /// A page of all leases, by id: the first, or the one that a cursor of the page before asks for.
    pub async fn leases(&self, keyspace: &str, cursor: Option<&str>, limit: usize) -> Result<LeaseList, Error> {
        let cursor = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        self.call(Request::read(path_of(keyspace, &format!("?limit={limit}{cursor}")))).await?.json(WriteOutcome::NotApplied)
    }

    /// Revokes a lease, and deletes all keys that hang on it under one revision; none if there is no such lease.
    pub async fn revoke_lease(&self, keyspace: &str, id: u64) -> Result<Option<DeletedBody>, Error> {
        let target = path_of(keyspace, &format!("/{}", format_id(id)));
        let answer = known(self.call(Request::write(Method::DELETE, target)).await)?;
        answer.map(|answer| answer.json(WriteOutcome::Applied)).transpose()
    }

    /// Grants a lease, and keeps it alive until it is revoked, lost or dropped.
    pub async fn hold_lease(&self, keyspace: &str, ttl: Duration) -> Result<HeldLease, Error> {
        let began = deadline(Duration::ZERO);
        let lease = self.grant_lease(keyspace, ttl, None).await?;
        Ok(self.hold(keyspace, lease, began))
    }

    /// Keeps a lease alive that is there already, until it is revoked, lost or dropped; none if there is no such lease, or its
    /// time is up.
    pub async fn hold_granted_lease(&self, keyspace: &str, id: u64) -> Result<Option<HeldLease>, Error> {
        let began = deadline(Duration::ZERO);
        let kept = self.keep_alive(keyspace, id).await?;
        let ttl_ms = kept.and_then(|kept| kept.ttl_ms);
        Ok(ttl_ms.map(|ttl_ms| self.hold(keyspace, GrantedLease { id, ttl: Duration::from_millis(ttl_ms) }, began)))
    }

    fn hold(&self, keyspace: &str, lease: GrantedLease, began: Instant) -> HeldLease {
        let (told, lives) = watch::channel(Some(began + lease.ttl));
        let (client, of) = (self.clone(), keyspace.to_owned());
        let task = tokio::spawn(async move {
            keep(&client, &of, lease, &told).await;
            told.send_replace(None);
        });
        HeldLease { client: self.clone(), keyspace: keyspace.to_owned(), lease, lives, task }
    }
}

impl HeldLease {
    /// Its id, for puts.
    pub fn id(&self) -> u64 {
        self.lease.id
    }

    /// How long it lives without being kept alive.
    pub fn ttl(&self) -> Duration {
        self.lease.ttl
    }

    /// Whether it is lost: it ended, or may have. By the clock, also where nothing ran for a while.
    pub fn is_lost(&self) -> bool {
        self.lives.borrow().is_none_or(|ends| deadline(Duration::ZERO) >= ends)
    }

    /// Waits until it is lost.
    pub async fn lost(&self) {
        let mut lives = self.lives.clone();
        // A sender that is gone told so before.
        let _ = lives.wait_for(Option::is_none).await;
    }

    /// Revokes it, and deletes the keys that hang on it. Nothing happens if it is gone already.
    pub async fn revoke(self) -> Result<(), Error> {
        self.task.abort();
        self.client.revoke_lease(&self.keyspace, self.lease.id).await.map(drop)
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps a lease alive, and returns when it is lost. Its life is counted from when a request was sent: the answer may be late.
async fn keep(client: &Client, keyspace: &str, lease: GrantedLease, lives: &watch::Sender<Option<Instant>>) {
    let GrantedLease { id, ttl } = lease;
    let mut next = deadline(ttl / KEEPS_PER_LIFE);
    loop {
        let Some(ends) = *lives.borrow() else { return };
        sleep_until(next.min(ends)).await;
        let sent = deadline(Duration::ZERO);
        if sent >= ends {
            return;
        }
        match timeout_at(ends, client.keep_alive_within(keyspace, id, Some(ttl / ATTEMPTS_PER_LIFE))).await {
            Ok(Ok(Some(_))) => {
                lives.send_replace(Some(sent + ttl));
                next = sent + ttl / KEEPS_PER_LIFE;
            }
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(_)) => next = deadline((ttl / 10).min(MAX_PAUSE)),
        }
    }
}

/// None if the lease is not there.
fn known<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == Some(Code::LeaseNotFound.facts().code) => Ok(None),
        Err(error) => Err(error),
    }
}

fn path_of(keyspace: &str, rest: &str) -> String {
    format!("/v1/leases/{}{rest}", one_segment(keyspace))
}
