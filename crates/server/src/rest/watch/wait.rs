//! Reads that wait for a change: `wait=30s`, for those who cannot read streams.

use std::time::Duration;

use quorate_api::duration;
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
use super::super::store::Store;

/// Longest time that a read waits for a change.
const MAX_WAIT: Duration = Duration::from_mins(5);

/// What a read says about waiting.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Patience {
    wait: Option<Duration>,
    index: Option<Revision>,
}

impl Patience {
    /// Takes the parameter if it is one of these; whether it was.
    pub(in super::super) fn take(&mut self, parameter: Parameter<'_>) -> Result<bool, Refusal> {
        match parameter.name {
            "wait" => parameter.set(&mut self.wait, parse_wait(parameter)?)?,
            "index" => parameter.set(&mut self.index, Revision(parameter.number()?))?,
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

    /// How long to wait, and for what comes after which revision, if it waits. `unchanged` is the revision at which the client is
    /// known to have what there is.
    pub(in super::super) fn of(&self, unchanged: Option<Revision>) -> Option<(Duration, Revision)> {
        self.wait.zip(self.index.or(unchanged))
    }

    /// How long it waits.
    pub(in super::super) fn wait(&self) -> Option<Duration> {
        self.wait
    }

    /// The revision after which the client wants to know more.
    pub(in super::super) fn index(&self) -> Option<Revision> {
        self.index
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
    (keyspace, epoch): (&str, u64),
    keys: Vec<Keys>,
    (wait, after): (Duration, Revision),
) -> Result<bool, Refusal> {
    require(app, keyspace, Capability::Watch)?;
    let _room = app.watches.room_for(keys.len())?;
    let (present, feed) = app.store.feed(keyspace, DEFAULT_TIMEOUT).await.map_err(Refusal::of_read)?;
    if present != epoch {
        // It was made anew, and counts revisions from the beginning.
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
