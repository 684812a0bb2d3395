//! Backups that come back: `PUT /v1/snapshot`, keyspace by keyspace, while it is received.
//!
//! Each keyspace is filled where nobody sees it, and shown as a whole. One that is not filled to its end is taken away again;
//! where even that does not happen, because the node or the cluster is gone, it stays marked, and the next restore makes it anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use quorate_api::backup::{BackupLease, BackupPair, BackupReader, KeyspaceEnd, KeyspaceHead, MEDIA_TYPE, Part, RestoredKeyspace};
use quorate_api::cluster::Items;
use quorate_api::key::SYSTEM_KEYSPACE;
use quorate_api::problem::{Code, WriteOutcome};
use quorate_node::keyspace::{LeaseId, Op, Outcome, Put, Write, is_claim};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::answer::{self, Answer};
use super::body::{RequestBody, media_type, refuse_coding};
use super::deadline::Deadline;
use super::endpoint::App;
use super::refusal::Refusal;
use super::settings::settings_of;
use super::snapshot::Options;
use super::store::{Freshness, Store, StoreError};

/// Pairs that are written as one: less than one log entry holds.
const WRITE_BYTES: usize = 256 << 10;
const WRITE_PAIRS: usize = 1000;

/// Writes under way. With what is read and what is gathered this is what a restore takes of memory, some megabytes.
const MAX_WRITES: usize = 8;

/// For how long each step is tried: a leader is lost and found meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(500);

/// Restores at a time, at one node.
pub(super) const MAX_RESTORES: usize = 1;

pub(super) async fn answer<S: Store>(app: &Arc<App<S>>, head: &Parts, body: &mut RequestBody<'_>) -> Result<Answer, Refusal> {
    let options = Options::parse(head.uri.query())?;
    let timeout = options.treatment.timeout(&head.headers)?;
    if options.revision.is_some() {
        return Err(Refusal::new(Code::UnknownParameter, "revision: a backup is restored as it is"));
    }
    refuse_coding(&head.headers, "a backup")?;
    if !media_type(&head.headers).is_some_and(|told| told.eq_ignore_ascii_case(MEDIA_TYPE)) {
        return Err(Refusal::new(Code::UnsupportedMediaType, format!("content-type: a backup is {MEDIA_TYPE}")));
    }
    let busy = |_| Refusal::new(Code::Busy, "this node restores a backup already");
    let _place = app.restores.try_acquire().map_err(busy)?;
    let mut restore = Restore {
        store: Arc::clone(&app.store),
        memory_bytes: app.config.max_keyspace_bytes,
        timeout,
        chosen: options.keyspaces,
        under_way: None,
        done: Vec::new(),
    };
    match restore.run(body).await {
        Ok(()) => Ok(answer::json(StatusCode::OK, answer::headers(), &Items { items: restore.done })),
        Err(refusal) => Err(restore.given_up(refusal).await),
    }
}

struct Restore<S> {
    store: Arc<S>,
    memory_bytes: u64,
    timeout: Duration,
    /// None: all that there are.
    chosen: Option<Vec<String>>,
    under_way: Option<UnderWay>,
    done: Vec<RestoredKeyspace>,
}

/// A keyspace that is being filled.
struct UnderWay {
    name: String,
    epoch: u64,
    gathered: Vec<Op>,
    gathered_bytes: usize,
    writes: JoinSet<Result<(), Refusal>>,
}

impl<S: Store> Restore<S> {
    async fn run(&mut self, body: &mut RequestBody<'_>) -> Result<(), Refusal> {
        let mut reader = BackupReader::default();
        let bad = |error: quorate_api::backup::BackupError| Refusal::new(Code::BadBackup, error.to_string());
        loop {
            while let Some(part) = reader.next_part().map_err(bad)? {
                self.take(part).await?;
            }
            match body.next_data().await? {
                Some(piece) => reader.push(&piece),
                None => return reader.finish().map_err(bad),
            }
        }
    }

    async fn take(&mut self, part: Part) -> Result<(), Refusal> {
        match part {
            Part::Head(head) => self.check_choice(&head.keyspaces),
            Part::Keyspace(head) => self.begin(*head).await,
            Part::Leases(leases) => self.grant(&leases).await,
            Part::Pairs(pairs) => {
                let Some(under_way) = &mut self.under_way else { return Ok(()) };
                for pair in pairs {
                    under_way.add(pair, &self.store, self.timeout).await?;
                }
                Ok(())
            }
            Part::KeyspaceEnd(end) => self.end(end).await,
            Part::End => Ok(()),
        }
    }

    fn check_choice(&self, there: &[String]) -> Result<(), Refusal> {
        match self.chosen.iter().flatten().find(|name| !there.contains(name)) {
            None => Ok(()),
            Some(name) => Err(Refusal::new(Code::KeyspaceNotFound, format!("the backup has no keyspace {name}"))),
        }
    }

    async fn begin(&mut self, head: KeyspaceHead) -> Result<(), Refusal> {
        let KeyspaceHead { name, settings, .. } = head;
        if self.chosen.as_ref().is_some_and(|chosen| !chosen.contains(&name)) {
            return Ok(());
        }
        if name == SYSTEM_KEYSPACE {
            return Err(Refusal::of_write(StoreError::ReadOnly(name)));
        }
        let settings = settings_of(settings, self.memory_bytes).map_err(Refusal::of_settings)?;
        let deadline = Deadline::after(PATIENCE);
        let epoch = loop {
            match self.store.begin_restore(&name, settings.clone(), self.timeout).await {
                Err(error) if is_passing(&error) && !deadline.is_over() => sleep(PAUSE).await,
                begun => break begun.map_err(Refusal::of_write)?,
            }
        };
        self.under_way = Some(UnderWay { name, epoch, gathered: Vec::new(), gathered_bytes: 0, writes: JoinSet::new() });
        Ok(())
    }

    /// They are there before the pairs that hang on them, and none ends while its keyspace is being restored.
    async fn grant(&mut self, leases: &[BackupLease]) -> Result<(), Refusal> {
        let Some(under_way) = &self.under_way else { return Ok(()) };
        for leases in leases.chunks(WRITE_PAIRS) {
            let grant = |lease: &BackupLease| Op::LeaseGrant { id: LeaseId(lease.id), ttl_ms: lease.ttl_ms };
            let write = Write { ops: leases.iter().map(grant).collect(), ..Write::default() };
            write_until_done(&*self.store, (&under_way.name, under_way.epoch), &write, self.timeout).await?;
        }
        Ok(())
    }

    async fn end(&mut self, end: KeyspaceEnd) -> Result<(), Refusal> {
        let Some(under_way) = &mut self.under_way else { return Ok(()) };
        under_way.flush(&self.store, self.timeout).await?;
        while under_way.wait().await? {}
        let deadline = Deadline::after(PATIENCE);
        let mut is_again = false;
        loop {
            match self.store.end_restore(&under_way.name, under_way.epoch, self.timeout).await {
                // That it is not being restored any more may be our own doing, of which no answer came.
                Err(StoreError::Conflict(_)) if is_again && under_way.is_shown(&*self.store, self.timeout).await => break,
                Err(error) if is_passing(&error) && !deadline.is_over() => is_again = true,
                ended => {
                    ended.map_err(Refusal::of_write)?;
                    break;
                }
            }
            sleep(PAUSE).await;
        }
        let restored = RestoredKeyspace { name: under_way.name.clone(), pairs: end.pairs, bytes: end.bytes };
        self.under_way = None;
        self.done.push(restored);
        Ok(())
    }

    /// Takes away what was not filled to its end.
    async fn given_up(mut self, refusal: Refusal) -> Refusal {
        if let Some(mut under_way) = self.under_way.take() {
            under_way.writes.shutdown().await;
            // If this fails too, the next restore makes it anew.
            let _ = self.store.abandon_restore(&under_way.name, under_way.epoch, self.timeout).await;
        }
        let names: Vec<&str> = self.done.iter().map(|done| done.name.as_str()).collect();
        if names.is_empty() {
            return refusal;
        }
        refusal.within(&format!("restored are {}; then", names.join(", "))).with_outcome(WriteOutcome::Applied)
    }
}

impl UnderWay {
    async fn add<S: Store>(&mut self, pair: BackupPair, store: &Arc<S>, timeout: Duration) -> Result<(), Refusal> {
        // Who holds a lock follows from the revisions of claims: each has one of its own.
        let is_claim = pair.lease.is_some_and(|lease| is_claim(&pair.key, LeaseId(lease)));
        if is_claim {
            self.flush(store, timeout).await?;
        }
        self.gathered_bytes += pair.key.len() + pair.value.len();
        // The block that it is part of is large, and shared: what is kept has to be its own.
        let own = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
        self.gathered.push(Op::Put(Put {
            content_type: pair.content_type.as_ref().map(own),
            user_meta: pair.meta.iter().map(|(name, text)| (own(name), own(text))).collect(),
            ttl_ms: pair.ttl_ms,
            lease: pair.lease.map(LeaseId),
            ..Put::new(own(&pair.key), own(&pair.value))
        }));
        if is_claim || self.gathered_bytes >= WRITE_BYTES || self.gathered.len() >= WRITE_PAIRS {
            self.flush(store, timeout).await?;
        }
        Ok(())
    }

    /// Writes what was gathered, once there is room for one more write.
    async fn flush<S: Store>(&mut self, store: &Arc<S>, timeout: Duration) -> Result<(), Refusal> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        while self.writes.len() >= MAX_WRITES {
            self.wait().await?;
        }
        let write = Write { ops: std::mem::take(&mut self.gathered), ..Write::default() };
        self.gathered_bytes = 0;
        let (store, name, epoch) = (Arc::clone(store), self.name.clone(), self.epoch);
        self.writes.spawn(async move { write_until_done(&*store, (&name, epoch), &write, timeout).await });
        Ok(())
    }

    /// Whether it is this very keyspace that everybody can use now.
    async fn is_shown<S: Store>(&self, store: &S, timeout: Duration) -> bool {
        let known = store.keyspace(&self.name, Freshness::LATEST, timeout).await;
        known.is_ok_and(|known| known.record.epoch == self.epoch && !known.record.is_restoring)
    }

    /// Waits for one write; whether there was one.
    async fn wait(&mut self) -> Result<bool, Refusal> {
        match self.writes.join_next().await {
            None => Ok(false),
            Some(Ok(written)) => written.map(|()| true),
            Some(Err(error)) => Err(Refusal::new(Code::Internal, error.to_string())),
        }
    }
}

/// Writes, again and again while that may help: nobody sees it if it is done twice.
async fn write_until_done<S: Store>(
    store: &S,
    (name, epoch): (&str, u64),
    write: &Write,
    timeout: Duration,
) -> Result<(), Refusal> {
    let deadline = Deadline::after(PATIENCE);
    loop {
        match store.restore_write(name, epoch, write.clone(), timeout).await {
            Ok(written) => {
                return match written.outcome {
                    // An earlier attempt was done, of which no answer came.
                    Outcome::LeaseExists { .. } => Ok(()),
                    outcome => Refusal::of_outcome(written.epoch, &outcome).map_or(Ok(()), Err),
                };
            }
            Err(error) if is_passing(&error) && !deadline.is_over() => sleep(PAUSE).await,
            Err(error) => return Err(Refusal::of_write(error)),
        }
    }
}

fn is_passing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NoLeader | StoreError::Unknown | StoreError::Overloaded | StoreError::Busy(_) | StoreError::DiskFull
    )
}
