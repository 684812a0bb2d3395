//! Locks and elections: `/v1/locks/{keyspace}/{name}`. Who holds a lock follows from the keys that hang on leases below its name
//! (`quorate_node::keyspace::standing`); here they are put, waited for and removed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::keyspace::Capability;
use quorate_api::lock::{DEFAULT_LOCK_TTL, Holder, LockBody, LockRequest};
use quorate_api::problem::Code;
use quorate_api::text64;
use quorate_node::LeaseQuestion;
use quorate_node::keyspace::{
    CLAIM_KEY_BYTES, Claim, Condition, Keys, LeaseId, Op, Outcome, Put, Revision, Standing, Write, claim_key, claims, standing,
};
use tokio::time::sleep;

use super::admin::{MAX_BODY_BYTES, json_body};
use super::answer::{self, Answer, CONSISTENCY, HeaderText};
use super::body::RequestBody;
use super::deadline::Deadline;
use super::endpoint::App;
use super::keyspaces::{freshness, require};
use super::leases::{grant_lease, revoke_lease};
use super::one_key::{Target, consistency_value, parse_lease, parse_ttl};
use super::query::{Treatment, parameters};
use super::refusal::Refusal;
use super::store::{Freshness, Store, Wish};
use super::watch::{Patience, wait_for_change};

/// What can be done with a lock.
pub(super) const METHODS: &str = "GET, HEAD, POST, DELETE";

/// A lease that was granted for a request is kept alive so often within its life.
const KEEPS_PER_LIFE: u64 = 3;

type Refusable<T> = Result<T, Refusal>;

pub(super) async fn answer<S: Store>(
    app: &Arc<App<S>>,
    head: &Parts,
    target: Target<'_>,
    body: &mut RequestBody<'_>,
) -> Refusable<Answer> {
    require(app, target.keyspace, Capability::Leases)?;
    if target.key.len() + CLAIM_KEY_BYTES > MAX_KEY_BYTES {
        let detail = format!("{} bytes, at most {} are possible for a lock", target.key.len(), MAX_KEY_BYTES - CLAIM_KEY_BYTES);
        return Err(Refusal::new(Code::KeyTooLong, detail).with_status(StatusCode::URI_TOO_LONG));
    }
    match head.method {
        Method::GET | Method::HEAD => show(app, head, target).await,
        Method::POST => take(app, head, target, body).await,
        Method::DELETE => give_up(app, head, target).await,
        _ => Err(Refusal::method_not_allowed(&head.method, METHODS)),
    }
}

async fn show<S: Store>(app: &Arc<App<S>>, head: &Parts, target: Target<'_>) -> Refusable<Answer> {
    let (mut treatment, mut patience) = (Treatment::default(), Patience::default());
    for parameter in parameters(head.uri.query()) {
        if !treatment.take_read(parameter)? && !patience.take(parameter)? {
            return Err(parameter.unknown(&["consistency", "min_revision", "timeout", "wait", "index"]));
        }
    }
    let freshness = freshness(app, target.keyspace, &treatment, &head.headers)?;
    let timeout = treatment.timeout(&head.headers)?;
    let line = Line { app, keyspace: target.keyspace, name: target.key };
    if patience.is_waiting() {
        patience.check_in(app, line.keyspace)?;
        let epoch = app.store.read(line.keyspace, Freshness::LOCAL, timeout).await.map_err(Refusal::of_read)?.epoch;
        let keys = vec![Keys::Range(claims(&line.name))];
        if let Some(waiting) = patience.of(epoch, None)
            && !Box::pin(wait_for_change(app, line.keyspace, keys, waiting)).await?
        {
            return Ok(answer::empty(StatusCode::NOT_MODIFIED, answer::headers()));
        }
    }
    let Seen { standing, revision, .. } = line.look(None, freshness, timeout).await?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision);
    headers.insert(CONSISTENCY, consistency_value(freshness));
    let Some(holder) = standing.holder else {
        let refusal = line.not_found("nobody holds it").with_revision(revision);
        return Err(refusal.with_header(CONSISTENCY, consistency_value(freshness)));
    };
    let holder = holder_of(holder, None);
    let body = LockBody { holder: holder.to_body(), waiting: standing.waiting, revision: revision.0 };
    Ok(answer::json(StatusCode::OK, headers, &body))
}

async fn take<S: Store>(app: &Arc<App<S>>, head: &Parts, target: Target<'_>, body: &mut RequestBody<'_>) -> Refusable<Answer> {
    let (mut treatment, mut patience) = (Treatment::default(), Patience::default());
    for parameter in parameters(head.uri.query()) {
        let is_taken = treatment.take_write(parameter)? || (parameter.name == "wait" && patience.take(parameter)?);
        if !is_taken {
            return Err(parameter.unknown(&["timeout", "wait"]));
        }
    }
    let (wait, timeout) = (patience.wait(), treatment.timeout(&head.headers)?);
    let line = Line { app, keyspace: target.keyspace, name: target.key };
    let request = body.read(MAX_BODY_BYTES, Code::BodyTooLarge).await?;
    let (claim, revision, ttl_ms) = match Asked::parse(&head.headers, &request)? {
        Asked { holder: Ok(lease), value } => {
            let (claim, revision) = line.take(lease, value, wait, timeout).await?;
            (claim, revision, None)
        }
        Asked { holder: Err(ttl_ms), value } => line.take_anew(ttl_ms, value, wait, timeout).await?,
    };
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision);
    Ok(answer::json(StatusCode::OK, headers, &holder_of(claim, ttl_ms).to_body()))
}

async fn give_up<S: Store>(app: &Arc<App<S>>, head: &Parts, target: Target<'_>) -> Refusable<Answer> {
    let (mut treatment, mut lease) = (Treatment::default(), None);
    for parameter in parameters(head.uri.query()) {
        match parameter.name {
            "lease" => parameter.set(&mut lease, parse_lease(&parameter.text()?).map_err(|why| parameter.bad(why))?)?,
            _ if treatment.take_write(parameter)? => {}
            _ => return Err(parameter.unknown(&["lease", "timeout"])),
        }
    }
    let timeout = treatment.timeout(&head.headers)?;
    let lease = lease.ok_or_else(|| Refusal::new(Code::BadParameter, "lease: whose place it is that is given up"))?;
    let line = Line { app, keyspace: target.keyspace, name: target.key };
    let Seen { standing, revision: seen_at, .. } = line.look(Some(lease), Freshness::LATEST, timeout).await?;
    let own = standing.own.ok_or_else(|| line.not_found(&format!("lease {lease} neither holds it nor waits for it")))?;
    let gone_at = line.write(Write::delete(own.claim.key), timeout).await?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, gone_at.unwrap_or(seen_at));
    Ok(answer::empty(StatusCode::NO_CONTENT, headers))
}

/// Those who hold a lock, or wait for it.
struct Line<'a, S> {
    app: &'a Arc<App<S>>,
    keyspace: &'a str,
    name: Bytes,
}

/// How a lock was found.
struct Seen {
    standing: Standing,
    revision: Revision,
    epoch: u64,
}

impl<S: Store> Line<'_, S> {
    async fn look(&self, lease: Option<LeaseId>, freshness: Freshness, timeout: Duration) -> Refusable<Seen> {
        let reading = self.app.store.read(self.keyspace, freshness, timeout).await.map_err(Refusal::of_read)?;
        let (revision, epoch, name) = (Revision(reading.view.revision()), reading.epoch, self.name.clone());
        let look = move || Ok(standing(&*reading.view, &name, lease)?);
        Ok(Seen { standing: self.app.turns.run(timeout, look).await?, revision, epoch })
    }

    /// Takes the lock for a lease, at once or within the time of waiting. A lease that has waited keeps its place if it was in
    /// vain; one that only tried leaves nothing.
    async fn take(
        &self,
        lease: LeaseId,
        value: Option<Bytes>,
        wait: Option<Duration>,
        timeout: Duration,
    ) -> Refusable<(Claim, Revision)> {
        let waits_until = wait.map(Deadline::after);
        let mut has_entered = false;
        loop {
            let Seen { standing, revision, epoch } = self.look(Some(lease), Freshness::LATEST, timeout).await?;
            let Standing { holder, waiting, own, is_taken } = standing;
            let Some(own) = own else {
                match holder {
                    _ if is_taken => return Err(self.taken(lease)),
                    _ if has_entered => return Err(ended(lease)),
                    Some(holder) if wait.is_none() => return Err(self.held(&holder, waiting)),
                    _ => self.enter(lease, value.clone().unwrap_or_default(), timeout).await?,
                }
                has_entered = true;
                continue;
            };
            if let Some(value) = value.as_ref().filter(|value| **value != own.claim.record.value) {
                self.proclaim(&own.claim, value.clone(), timeout).await?;
                continue;
            }
            let (Some(before), Some(holder)) = (own.before, holder) else { return Ok((own.claim, revision)) };
            let Some(left) = waits_until.and_then(Deadline::left) else {
                if has_entered && wait.is_none() && !self.remove_behind(lease, before, timeout).await? {
                    continue;
                }
                return Err(self.held(&holder, waiting));
            };
            // Its own, too: with its lease it ends.
            let keys = vec![Keys::One(before), Keys::One(own.claim.key)];
            let has_changed = Box::pin(wait_for_change(self.app, self.keyspace, keys, (left, (epoch, revision)))).await?;
            if !has_changed && waits_until.is_some_and(|until| !until.is_over()) {
                return Err(Refusal::new(Code::ShuttingDown, "the node is going down: go on waiting at another one"));
            }
        }
    }

    /// The same for a lease that is granted for it, kept alive as long as the request waits, and gone with it if that is in vain.
    /// How long it lives, besides.
    async fn take_anew(
        &self,
        ttl_ms: u64,
        value: Option<Bytes>,
        wait: Option<Duration>,
        timeout: Duration,
    ) -> Refusable<(Claim, Revision, Option<u64>)> {
        if wait.is_none() {
            // Before anything is written for nothing.
            let Standing { holder, waiting, .. } = self.look(None, Freshness::LATEST, timeout).await?.standing;
            if let Some(holder) = holder {
                return Err(self.held(&holder, waiting));
            }
        }
        let granted = grant_lease(self.app, self.keyspace, None, ttl_ms, Deadline::after(timeout)).await?;
        let own = OwnLease { app: Some(Arc::clone(self.app)), keyspace: self.keyspace.to_owned(), lease: granted.id };
        let taking = async {
            let taken = tokio::select! {
                taken = self.take(granted.id, value, wait, timeout) => taken,
                refusal = self.keep_alive(granted.id, granted.ttl_ms) => Err(refusal),
            }?;
            // Its whole time is what the answer promises.
            if self.is_kept_alive(granted.id, timeout).await? { Ok(taken) } else { Err(ended(granted.id)) }
        };
        match taking.await {
            Ok((claim, revision)) => {
                own.keep();
                Ok((claim, revision, Some(granted.ttl_ms)))
            }
            Err(refusal) => {
                own.revoke(timeout).await;
                Err(refusal)
            }
        }
    }

    /// Goes on until the lease is gone.
    async fn keep_alive(&self, lease: LeaseId, ttl_ms: u64) -> Refusal {
        let interval = Duration::from_millis(ttl_ms / KEEPS_PER_LIFE);
        loop {
            sleep(interval).await;
            // What fails may be different the next time, or the lease is gone by then.
            if let Ok(false) = self.is_kept_alive(lease, interval).await {
                return ended(lease);
            }
        }
    }

    async fn is_kept_alive(&self, lease: LeaseId, timeout: Duration) -> Refusable<bool> {
        let question = LeaseQuestion { leases: vec![lease], keeps_alive: true };
        let times = self.app.store.leases(self.keyspace, question, timeout).await.map_err(Refusal::of_write)?;
        Ok(times.first().is_some_and(Option::is_some))
    }

    /// Puts the claim of a lease, if there is none.
    async fn enter(&self, lease: LeaseId, value: Bytes, timeout: Duration) -> Refusable<()> {
        let key = claim_key(&self.name, lease);
        let put = Put { lease: Some(lease), ..Put::new(key.clone(), value) };
        let write = Write { ops: vec![Op::Put(put)], ..Write::default() }.only_if(key, Condition::Absent);
        self.write(write, timeout).await.map(drop)
    }

    /// Gives a claim another value, if it is still as it was.
    async fn proclaim(&self, claim: &Claim, value: Bytes, timeout: Duration) -> Refusable<()> {
        let put = Put { lease: Some(claim.lease), ..Put::new(claim.key.clone(), value) };
        let as_it_was = Condition::ModRevisionIn(vec![claim.record.meta.mod_revision]);
        let write = Write { ops: vec![Op::Put(put)], ..Write::default() }.only_if(claim.key.clone(), as_it_was);
        self.write(write, timeout).await.map(drop)
    }

    /// Removes the claim of a lease as long as it stands behind this one: it may hold the lock meanwhile, and another answer may
    /// have said so. Whether it is removed.
    async fn remove_behind(&self, lease: LeaseId, before: Bytes, timeout: Duration) -> Refusable<bool> {
        let write = Write::delete(claim_key(&self.name, lease)).only_if(before, Condition::Exists);
        Ok(self.write(write, timeout).await?.is_some())
    }

    /// The revision of a write; none if its condition did not hold.
    async fn write(&self, write: Write, timeout: Duration) -> Refusable<Option<Revision>> {
        let written = self.app.store.write(self.keyspace, write, Wish::default(), timeout).await.map_err(Refusal::of_write)?;
        match written.outcome {
            Outcome::ConditionFailed { .. } => Ok(None),
            Outcome::Applied { revision, .. } => Ok(Some(revision)),
            outcome => Err(Refusal::of_outcome(written.epoch, &outcome)
                .unwrap_or_else(|| Refusal::new(Code::Internal, format!("{outcome:?}")))),
        }
    }

    fn taken(&self, lease: LeaseId) -> Refusal {
        let key = claim_key(&self.name, lease);
        let detail =
            format!("{} is there, and does not hang on lease {lease}: it is in the way of its claim", key.escape_ascii());
        Refusal::new(Code::Conflict, detail)
    }

    fn held(&self, holder: &Claim, waiting: u64) -> Refusal {
        let (name, lease, token) = (self.name.escape_ascii(), holder.lease, holder.token());
        Refusal::new(Code::LockHeld, format!("lock {name} is held by lease {lease}, with token {token}; waiting: {waiting}"))
    }

    fn not_found(&self, why: &str) -> Refusal {
        Refusal::new(Code::LockNotFound, format!("lock {}: {why}", self.name.escape_ascii()))
    }
}

/// What is asked for.
struct Asked {
    /// The lease, or how long one that is to be granted lives.
    holder: Result<LeaseId, u64>,
    value: Option<Bytes>,
}

impl Asked {
    /// Nothing at all asks for a new lease.
    fn parse(headers: &HeaderMap, body: &[u8]) -> Refusable<Self> {
        let request = if body.is_empty() { LockRequest::default() } else { json_body(headers, body)? };
        let LockRequest { lease, ttl, value, value64 } = request;
        let bad = |name: &str, why: &dyn std::fmt::Display| Refusal::new(Code::BadBody, format!("{name}: {why}"));
        let value =
            text64::join("value", value, value64.as_deref()).map_err(|error| Refusal::new(Code::BadBody, error.to_string()))?;
        let holder = match (lease, ttl) {
            (Some(_), Some(_)) => return Err(bad("ttl", &"has no meaning together with lease")),
            (Some(lease), None) => Ok(parse_lease(&lease).map_err(|why| bad("lease", &why))?),
            (None, ttl) => Err(parse_ttl(ttl.as_deref().unwrap_or(DEFAULT_LOCK_TTL)).map_err(|why| bad("ttl", &why))?),
        };
        Ok(Self { holder, value })
    }
}

/// A lease that was granted for a request. It goes with the request, should its client go first: a place in the line that nobody
/// waits at would hold up those behind it.
struct OwnLease<S: Store> {
    app: Option<Arc<App<S>>>,
    keyspace: String,
    lease: LeaseId,
}

impl<S: Store> OwnLease<S> {
    fn keep(mut self) {
        self.app = None;
    }

    async fn revoke(mut self, timeout: Duration) {
        if let Some(app) = self.app.take() {
            // Should that fail, its time ends soon.
            let _ = revoke_lease(&*app, &self.keyspace, self.lease, timeout).await;
        }
    }
}

impl<S: Store> Drop for OwnLease<S> {
    fn drop(&mut self) {
        let Some(app) = self.app.take() else { return };
        let (keyspace, lease) = (std::mem::take(&mut self.keyspace), self.lease);
        tokio::spawn(async move {
            let _ = revoke_lease(&*app, &keyspace, lease, super::DEFAULT_TIMEOUT).await;
        });
    }
}

fn ended(lease: LeaseId) -> Refusal {
    Refusal::new(Code::LeaseNotFound, format!("lease {lease} ended, or its place was given up"))
}

fn holder_of(claim: Claim, ttl_ms: Option<u64>) -> Holder {
    let token = claim.token().0;
    Holder { lease: claim.lease.0, key: claim.key, token, value: claim.record.value, ttl_ms }
}
