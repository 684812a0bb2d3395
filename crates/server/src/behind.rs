//! Keyspaces whose replicas have a store outside behind them: writes keep its pace, and a flush waits for it.

use std::sync::Arc;
use std::time::Duration;

use quorate_api::outside::BehindBody;
use quorate_engine::{BehindStats, KeyRange, StoreBehind};
use quorate_external::{Scan, Spec, Store};
use quorate_log::GroupId;
use quorate_node::{HostedKeyspace, KeyspaceSettings, Monotonic, SettingsError};

use crate::node_store::Running;
use crate::outside_store::calls_of;
use crate::rest::{StoreError, spec_in, spec_of};

/// So long a write waits for a store that is too far behind, and is refused then: whoever waits longer had better know why.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether the store has caught up.
const POLL: Duration = Duration::from_millis(10);

/// A write waits so long when the queue is about full, and less the emptier it is; nothing when it is half full.
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// A node's part of a store behind its replicas, seen by who looks for keys alone.
#[derive(Debug)]
pub(crate) struct Part {
    settings: Arc<str>,
    store: Arc<dyn Store>,
}

impl Running {
    /// A keyspace to write to, once the store behind this node's replica, if there is one, is not too far behind.
    pub(crate) async fn hosted_in_pace(&self, keyspace: &str, deadline: Monotonic) -> Result<HostedKeyspace, StoreError> {
        let hosted = self.hosted(keyspace, deadline).await?;
        let is_half_full = |stats: &BehindStats| stats.waiting_bytes > stats.max_waiting_bytes / 2;
        let Some(stats) = behind_stats(&hosted).filter(is_half_full) else {
            return Ok(hosted);
        };
        // Who waits holds no engine: one that failed is opened again only when nobody does.
        drop(hosted);
        tokio::time::sleep(pause_at(&stats)).await;
        let until = deadline.min(self.handle.clock.now().plus_ms(PATIENCE.as_millis() as u64));
        loop {
            let hosted = self.hosted(keyspace, deadline).await?;
            let Some(stats) = behind_stats(&hosted).filter(BehindStats::is_full) else {
                return Ok(hosted);
            };
            if self.handle.clock.now() >= until {
                return Err(StoreError::Behind(too_far(hosted.engine.kind(), &stats)));
            }
            drop(hosted);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Has everything written again to the store behind this node's replica, if there is one: it may have lost what it had.
    pub(crate) async fn rewrite_behind(&self, keyspace: &str, deadline: Monotonic) -> Result<(), StoreError> {
        let hosted = self.hosted(keyspace, deadline).await?;
        let noting = tokio::task::spawn_blocking(move || hosted.engine.behind().map_or(Ok(()), StoreBehind::rewrite));
        let failed = |error: &dyn std::fmt::Display| StoreError::Internal(error.to_string());
        match tokio::time::timeout(self.handle.clock.until(deadline), noting).await {
            Ok(noted) => noted.map_err(|error| failed(&error))?.map_err(|error| failed(&error)),
            Err(_) => Err(StoreError::Behind("everything is still being noted, which goes on: flush once more".to_owned())),
        }
    }

    /// The part of the store behind this node's replica, to be looked through; none if there is no such store. Refuses one
    /// that cannot be listed.
    pub(crate) async fn part_behind(&self, keyspace: &str, deadline: Monotonic) -> Result<Option<Part>, StoreError> {
        let Some(settings) = self.hosted(keyspace, deadline).await?.behind else { return Ok(None) };
        let spec = spec_in(&settings).map_err(|error| StoreError::Settings(SettingsError::Invalid(error)))?;
        if !spec.capabilities().listable {
            return Err(StoreError::Outside(quorate_external::StoreError::unsupported(spec.kind.name, "lists")));
        }
        let store = self.outside.try_open(spec.without_envelope()).await.map_err(StoreError::Outside)?;
        Ok(Some(Part { settings, store }))
    }

    /// Has removed from the part of the store behind this node's replica whatever keys are there that the replica does not have.
    /// Looks through it page by page.
    pub(crate) async fn prune_behind(&self, keyspace: &str, part: &Part, deadline: Monotonic) -> Result<(), StoreError> {
        let Part { settings, store } = part;
        let mut scan = Scan::of(KeyRange::all());
        loop {
            let Ok(page) = tokio::time::timeout(self.handle.clock.until(deadline), store.scan(&scan)).await else {
                return Err(StoreError::Behind("the store is still looked through: flush once more, with prune".to_owned()));
            };
            let page = page.map_err(StoreError::Outside)?;
            let keys: Vec<_> = page.entries.into_iter().map(|entry| entry.key).collect();
            let hosted = self.hosted(keyspace, deadline).await?;
            if hosted.behind.as_ref() != Some(settings) {
                return Err(StoreError::Busy(format!("keyspace {keyspace} was given another store meanwhile")));
            }
            let noting = tokio::task::spawn_blocking(move || hosted.engine.behind().map_or(Ok(0), |behind| behind.prune(&keys)));
            let failed = |error: &dyn std::fmt::Display| StoreError::Internal(error.to_string());
            noting.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
            scan.cursor = page.next;
            if scan.cursor.is_none() {
                return Ok(());
            }
            // What waits by now is removed all the same, and need not be met again.
            self.hosted_in_pace(keyspace, deadline).await?;
        }
    }

    /// Waits until the store behind this node's replica has all that the replica has now. Whether there is one.
    pub(crate) async fn flush_behind(&self, keyspace: &str, deadline: Monotonic) -> Result<bool, StoreError> {
        let Some(mut upto) = behind_stats(&self.hosted(keyspace, deadline).await?).map(|stats| stats.noted) else {
            return Ok(false);
        };
        loop {
            let hosted = self.hosted(keyspace, deadline).await?;
            let Some(stats) = behind_stats(&hosted) else { return Ok(false) };
            // An engine that was opened since counts anew.
            upto = upto.min(stats.noted);
            if stats.settled >= upto {
                return Ok(true);
            }
            if self.handle.clock.now() >= deadline {
                return Err(StoreError::Behind(too_far(hosted.engine.kind(), &stats)));
            }
            drop(hosted);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Refuses a store that this node cannot open: credentials are missing, say. The store is not asked.
    pub(crate) async fn check_openable(&self, spec: &Spec) -> Result<(), StoreError> {
        self.outside.try_open(spec.clone()).await.map(drop).map_err(|error| {
            let why = format!("engine: node {} cannot open the store: {error}", self.name);
            StoreError::Settings(SettingsError::Unsupported(why))
        })
    }

    /// Refuses a store for replicas that this node cannot open, or in whose part for this node there is something already: a
    /// keyspace begins empty, and what others wrote there would stay beside it for good. One that cannot be asked may be down.
    pub(crate) async fn check_behind(&self, settings: &KeyspaceSettings, deadline: Monotonic) -> Result<(), StoreError> {
        let unsupported = |why: String| StoreError::Settings(SettingsError::Unsupported(why));
        let spec = spec_of(&settings.engine)?;
        self.check_openable(&spec).await?;
        if !spec.capabilities().listable {
            return Ok(());
        }
        let looking = async {
            let first = Scan { max_entries: 1, ..Scan::of(KeyRange::all()) };
            self.outside.try_open(spec.without_envelope()).await?.scan(&first).await
        };
        match tokio::time::timeout(self.handle.clock.until(deadline) / 2, looking).await {
            Ok(Ok(page)) if !page.entries.is_empty() => Err(unsupported(format!(
                "engine: there are pairs in the part of {} that node {} would have: name a place that is empty, or serve what is \
                 there with \"path\": \"shared\"",
                settings.engine.kind, self.name
            ))),
            _ => Ok(()),
        }
    }
}

fn behind_stats(hosted: &HostedKeyspace) -> Option<BehindStats> {
    hosted.engine.behind().map(StoreBehind::stats)
}

fn pause_at(stats: &BehindStats) -> Duration {
    let half = (stats.max_waiting_bytes / 2).max(1);
    let above = stats.waiting_bytes.saturating_sub(half).min(half);
    LONGEST_PAUSE.mul_f64(above as f64 / half as f64)
}

/// For people.
fn too_far(kind: &str, stats: &BehindStats) -> String {
    let BehindStats { waiting_keys, waiting_bytes, max_waiting_bytes, last_error, .. } = stats;
    let more = if stats.is_spilled { " and more" } else { "" };
    let why =
        last_error.as_ref().map_or_else(|| "it takes them too slowly".to_owned(), |error| format!("its last error: {error}"));
    format!(
        "the store {kind} behind this node's replica has not got {waiting_keys} keys{more} yet, {waiting_bytes} bytes of at most \
         {max_waiting_bytes}: {why}"
    )
}

impl Running {
    /// All keyspaces here that have a store behind them.
    pub(crate) fn all_behind(&self) -> Vec<(String, BehindBody)> {
        let hosted = self.handle.views.hosted.load();
        let told = |(name, hosted): (&String, &HostedKeyspace)| {
            Some((name.clone(), self.behind_body(hosted.group, behind_stats(hosted)?)))
        };
        hosted.keyspaces.iter().filter_map(told).collect()
    }

    /// How far the store behind a group's engine is, as it is told.
    pub(crate) fn behind_body(&self, group: GroupId, stats: BehindStats) -> BehindBody {
        let calls = self.engines.meter(group.0).map(|meter| calls_of(&meter)).unwrap_or_default();
        BehindBody {
            calls,
            waiting_keys: stats.waiting_keys,
            waiting_bytes: stats.waiting_bytes,
            max_waiting_bytes: stats.max_waiting_bytes,
            is_spilled: stats.is_spilled,
            oldest_ms: stats.oldest_ms,
            written: stats.written,
            coalesced: stats.coalesced,
            failed: stats.failed,
            refused_keys: stats.refused_keys,
            error: stats.last_error.map(|error| error.to_string()),
        }
    }
}
