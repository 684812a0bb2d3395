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
use quorate_node::keyspace::{
    CLAIM_KEY_BYTES, Claim, Condition, Keys, LeaseId, Op, Outcome, Put, Revision, Standing, Write, claim_key, claims, standing,
};

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
use super::store::{Freshness, Store};
use super::watch::{Patience, wait_for_change};

/// What can be done with a lock.
pub(super) const METHODS: &str = "GET, HEAD, POST, DELETE";

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
    let mut freshness = freshness(app, target.keyspace, &treatment, &head.headers)?;
    let timeout = treatment.timeout(&head.headers)?;
    if let Some(waiting) = patience.of(None) {
        let has_changed =
            Box::pin(wait_for_change(app, target.keyspace, vec![Keys::Range(claims(&target.key))], waiting)).await?;
        // What it was woken by is in this node's own state.
        freshness = Freshness::LOCAL;
        if !has_changed {
            return Ok(answer::empty(StatusCode::NOT_MODIFIED, answer::headers()));
        }
    }
    let line = Line { app, keyspace: target.keyspace, name: target.key };
    let (standing, revision) = line.standing(None, freshness, timeout).await?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision);
    headers.insert(CONSISTENCY, consistency_value(freshness));
    let Some(holder) = standing.holder else {
        return Err(line
            .not_found("nobody holds it")
            .with_revision(revision)
            .with_header(CONSISTENCY, consistency_value(freshness)));
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
    let timeout = treatment.timeout(&head.headers)?;
    let line = Line { app, keyspace: target.keyspace, name: target.key };
    let request = body.read(MAX_BODY_BYTES, Code::BodyTooLarge).await?;
    let asked = Asked::parse(&head.headers, &request)?;
    let mut granted = None;
    let lease = match asked.holder {
        Ok(lease) => lease,
        Err(ttl_ms) => {
            if patience.wait().is_none() {
                // Before anything is written for nothing.
                line.check_free(None, timeout).await?;
            }
            let lease = grant_lease(app, line.keyspace, None, ttl_ms, Deadline::after(timeout)).await?;
            let own = OwnLease { app: Some(Arc::clone(app)), keyspace: line.keyspace.to_owned(), lease: lease.id };
            granted = Some((own, lease.ttl_ms));
            lease.id
        }
    };
    let taken = line.take(lease, asked.value, patience.wait(), timeout).await;
    let ttl_ms = match (granted, taken.is_ok()) {
        (Some((granted, ttl_ms)), true) => {
            granted.keep();
            Some(ttl_ms)
        }
        (Some((granted, _)), false) => {
            granted.revoke(timeout).await;
            None
        }
        (None, _) => None,
    };
    let (claim, revision) = taken?;
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
    let (standing, _) = line.standing(Some(lease), Freshness::LATEST, timeout).await?;
    let own = standing.own.ok_or_else(|| line.not_found(&format!("lease {lease} neither holds it nor waits for it")))?;
    let revision = line.remove(lease, timeout).await?;
    let mut headers = answer::headers();
    HeaderText::new().insert_revision(&mut headers, revision.max(own.token));
    Ok(answer::empty(StatusCode::NO_CONTENT, headers))
}

/// Those who hold a lock, or wait for it.
struct Line<'a, S> {
    app: &'a Arc<App<S>>,
    keyspace: &'a str,
    name: Bytes,
}

impl<S: Store> Line<'_, S> {
    async fn standing(&self, lease: Option<LeaseId>, freshness: Freshness, timeout: Duration) -> Refusable<(Standing, Revision)> {
        let reading = self.app.store.read(self.keyspace, freshness, timeout).await.map_err(Refusal::of_read)?;
        let (revision, name) = (Revision(reading.view.revision()), self.name.clone());
        let look = move || Ok(standing(&*reading.view, &name, lease)?);
        Ok((self.app.turns.run(timeout, look).await?, revision))
    }

    /// Refuses if somebody else than this lease holds the lock.
    async fn check_free(&self, lease: Option<LeaseId>, timeout: Duration) -> Refusable<()> {
        let (standing, _) = self.standing(lease, Freshness::LATEST, timeout).await?;
        match standing.holder {
            Some(holder) if Some(holder.lease) != lease => Err(self.held(&holder, standing.waiting)),
            _ => Ok(()),
        }
    }

    /// Takes the lock for a lease, at once or within the time of waiting. A lease that has waited keeps its place if it was in
    /// vain; one that only tried leaves nothing.
    async fn take(
        &self,
        lease: LeaseId,
        value: Bytes,
        wait: Option<Duration>,
        timeout: Duration,
    ) -> Refusable<(Claim, Revision)> {
        let waits_until = wait.map(Deadline::after);
        if wait.is_none() {
            self.check_free(Some(lease), timeout).await?;
        }
        let is_new = self.enter(lease, value, timeout).await?;
        loop {
            let (standing, revision) = self.standing(Some(lease), Freshness::LATEST, timeout).await?;
            let (Some(own), Some(holder)) = (standing.own, standing.holder) else {
                return Err(Refusal::new(Code::LeaseNotFound, format!("lease {lease} ended, or its place was given up")));
            };
            let Some(before) = own.before else { return Ok((holder, revision)) };
            let Some(left) = waits_until.and_then(Deadline::left) else {
                if is_new && wait.is_none() {
                    self.remove(lease, timeout).await?;
                }
                return Err(self.held(&holder, standing.waiting));
            };
            // Its own, too: with its lease it ends.
            let keys = vec![Keys::One(before), Keys::One(claim_key(&self.name, lease))];
            let has_changed = Box::pin(wait_for_change(self.app, self.keyspace, keys, (left, revision))).await?;
            if !has_changed && waits_until.is_some_and(|until| !until.is_over()) {
                return Err(Refusal::new(Code::ShuttingDown, "the node is going down: go on waiting at another one"));
            }
        }
    }

    /// Puts the claim of a lease, if there is none. Whether there was none.
    async fn enter(&self, lease: LeaseId, value: Bytes, timeout: Duration) -> Refusable<bool> {
        let key = claim_key(&self.name, lease);
        let put = Put { lease: Some(lease), ..Put::new(key.clone(), value) };
        let write = Write { ops: vec![Op::Put(put)], ..Write::default() }.only_if(key, Condition::Absent);
        let written = self.app.store.write(self.keyspace, write, timeout).await.map_err(Refusal::of_write)?;
        match written.outcome {
            Outcome::ConditionFailed { .. } => Ok(false),
            outcome => Refusal::of_outcome(written.epoch, &outcome).map_or(Ok(true), Err),
        }
    }

    /// Removes the claim of a lease. The revision since when it is gone.
    async fn remove(&self, lease: LeaseId, timeout: Duration) -> Refusable<Revision> {
        let write = Write::delete(claim_key(&self.name, lease));
        let written = self.app.store.write(self.keyspace, write, timeout).await.map_err(Refusal::of_write)?;
        match written.outcome {
            Outcome::Applied { revision, .. } => Ok(revision),
            outcome => Err(Refusal::of_outcome(written.epoch, &outcome)
                .unwrap_or_else(|| Refusal::new(Code::Internal, format!("{outcome:?}")))),
        }
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
    value: Bytes,
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
        Ok(Self { holder, value: value.unwrap_or_default() })
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

fn holder_of(claim: Claim, ttl_ms: Option<u64>) -> Holder {
    let token = claim.token().0;
    Holder { lease: claim.lease.0, key: claim.key, token, value: claim.record.value, ttl_ms }
}
