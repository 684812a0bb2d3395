//! Reads that wait for a change: `wait=30s`, for those who cannot read streams.

use std::time::Duration;

use quorate_api::duration;
use quorate_api::etag::EntityTag;
use quorate_api::keyspace::Capability;
use quorate_api::problem::Code;
use quorate_node::keyspace::watch::{Causes, Selection, Watch};
use quorate_node::keyspace::{Keys, Revision};
use tokio::time::timeout;

use super::super::DEFAULT_TIMEOUT;
use super::super::endpoint::App;
use super::super::keyspaces::require;
use super::super::query::Parameter;
use super::super::refusal::Refusal;
use super::super::store::{Freshness, Store};

/// Longest time that a read waits for a change.
const MAX_WAIT: Duration = Duration::from_mins(5);

/// What a read says about waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Patience {
    wait: Option<Duration>,
    index: Option<Index>,
}

/// What the client has.
#[derive(Clone, Copy, Debug)]
enum Index {
    /// Of a keyspace whose nodes have revisions in common.
    Revision(Revision),
    /// Of one where each node counts on its own: what names the count, and the revision.
    Counted(u64, Revision),
}

/// How long a read waits, and for what comes after which revision, under which epoch.
pub(in super::super) type Waiting = (Duration, (u64, Revision));

impl Patience {
    /// Takes the parameter if it is one of these; whether it was.
    pub(in super::super) fn take(&mut self, parameter: Parameter<'_>) -> Result<bool, Refusal> {
        match parameter.name {
            "wait" => parameter.set(&mut self.wait, parse_wait(parameter)?)?,
            "index" => parameter.set(&mut self.index, parse_index(parameter)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Refuses to wait for a change of what was: nothing changes there.
    pub(in super::super) fn check_with(&self, revision: Option<Revision>) -> Result<(), Refusal> {
        if revision.is_some() && self.wait.is_some() {
            return Err(Refusal::new(Code::BadParameter, "wait: has no meaning together with revision"));
        }
        Ok(())
    }

    /// Refuses an index of another kind than the keyspace has.
    pub(in super::super) fn check_in<S: Store>(&self, app: &App<S>, keyspace: &str) -> Result<(), Refusal> {
        match self.index {
            Some(Index::Revision(_)) if counts_by_node(app, keyspace) => {
                let detail = "index: the nodes of this keyspace have no revisions in common; take what Quorate-Index said";
                Err(Refusal::new(Code::UnsupportedCapability, detail))
            }
            Some(Index::Counted(..)) if !counts_by_node(app, keyspace) => {
                Err(Refusal::new(Code::BadParameter, "index: not a whole number"))
            }
            _ => Ok(()),
        }
    }

    /// Where the read's node stands, in a keyspace where each counts on its own, before the read looks at anything: what comes
    /// after that it is told, if it waits.
    pub(in super::super) async fn counted<S: Store>(
        &self,
        app: &App<S>,
        keyspace: &str,
    ) -> Result<Option<(u64, Revision)>, Refusal> {
        self.check_in(app, keyspace)?;
        if self.wait.is_none() || !counts_by_node(app, keyspace) {
            return Ok(None);
        }
        Ok(app.store.read(keyspace, Freshness::LOCAL, DEFAULT_TIMEOUT).await.map_err(Refusal::of_read)?.counted)
    }

    /// How long to wait, and for what, if it waits, in a keyspace of this epoch. `unchanged` is where the client is known to have
    /// what there is.
    pub(in super::super) fn of(&self, epoch: u64, unchanged: Option<(u64, Revision)>) -> Option<Waiting> {
        let known = self.index.map(|index| match index {
            Index::Revision(revision) => (epoch, revision),
            Index::Counted(epoch, revision) => (epoch, revision),
        });
        self.wait.zip(known.or(unchanged))
    }

    /// Whether it waits for what comes after an index.
    pub(in super::super) fn is_waiting(&self) -> bool {
        self.wait.is_some() && self.index.is_some()
    }

    /// How long it waits.
    pub(in super::super) fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// The revision after which the client wants to know more.
    pub(in super::super) fn index(&self) -> Option<Revision> {
        match self.index? {
            Index::Revision(revision) => Some(revision),
            // Keys have none of these.
            Index::Counted(..) => None,
        }
    }
}

/// Whether it can be watched, by the revisions of each node alone.
fn counts_by_node<S: Store>(app: &App<S>, keyspace: &str) -> bool {
    app.store.can(keyspace, Capability::Watch) && !app.store.can(keyspace, Capability::Revisions)
}

fn parse_index(parameter: Parameter<'_>) -> Result<Index, Refusal> {
    match EntityTag::parse(&parameter.text()?) {
        Some(EntityTag { epoch, mod_revision, instance: 0 }) => Ok(Index::Counted(epoch, Revision(mod_revision))),
        _ => parameter.number().map(|revision| Index::Revision(Revision(revision))),
    }
}

fn parse_wait(parameter: Parameter<'_>) -> Result<Duration, Refusal> {
    let wait = duration::parse(&parameter.text()?).map_err(|error| parameter.bad(error))?;
    if wait.is_zero() || wait > MAX_WAIT {
        return Err(parameter.bad(format_args!("a wait is above 0 and at most {}", duration::format(MAX_WAIT))));
    }
    Ok(wait)
}

/// Waits until something happened to these keys of a keyspace after a revision, or may have: what is not kept any more counts as
/// that. False if the time is over, or the node goes down.
pub(in super::super) async fn wait_for_change<S: Store>(
    app: &App<S>,
    keyspace: &str,
    keys: Vec<Keys>,
    (wait, (epoch, after)): Waiting,
) -> Result<bool, Refusal> {
    require(app, keyspace, Capability::Watch)?;
    let _room = app.watches.room_for(keys.len())?;
    let (present, feed) = app.store.feed(keyspace, DEFAULT_TIMEOUT).await.map_err(Refusal::of_read)?;
    if present != epoch {
        // It was made anew, and counts revisions from the beginning; or this is another node, which counts its own.
        return Ok(true);
    }
    let watcher = feed.watch(keys.clone());
    let selections = keys.into_iter().map(|keys| Selection { keys, causes: Causes::ALL }).collect();
    let mut watch = Watch::new(selections, after);
    let mut is_ending = app.watches.is_ending.subscribe();
    let looking = async {
        loop {
            let at = feed.at();
            let Some(piece) = feed.after(watch.told()) else { return true };
            if !watch.take(piece, 1).is_empty() {
                return true;
            }
            if watch.told() < at {
                continue;
            }
            if !watcher.changed().await {
                return true;
            }
            watch.skip_to(watcher.quiet_until(watch.told()));
        }
    };
    tokio::select! {
        looked = timeout(wait, looking) => Ok(looked.unwrap_or(false)),
        _ = is_ending.wait_for(|is_ending| *is_ending) => Ok(false),
    }
}
