//! Keys with one writer each, whose every read can be judged.
//!
//! A register's values are its versions 1, 2, 3, ... A write whose outcome is unknown retires it, because that write may still
//! take effect after any later one; so on a live register versions only grow, and a linearizable read must see
//!
//! - nothing older than what was acknowledged, or seen by anybody, before it began,
//! - nothing that was not attempted, and nothing that was refused.

use std::collections::BTreeSet;
use std::sync::Mutex;

use quorate_api::problem::{Problem, WriteOutcome};

use super::http::{Answer, Connection, NoAnswer, Request};

/// Every value carries so many bytes behind its version if nothing else is said, to look a little more like data.
pub(crate) const PADDING_BYTES: usize = 64;

/// One key and what is known of it.
#[derive(Debug)]
pub(crate) struct Register {
    pub(crate) key: String,
    padding_bytes: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// The newest version that was acknowledged or seen: what later reads see at least.
    floor: u64,
    /// The newest version that was sent.
    attempted: u64,
    /// Versions that certainly were not written.
    refused: BTreeSet<u64>,
    /// Versions that somebody read.
    seen: BTreeSet<u64>,
}

/// How a write ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Acknowledged,
    /// Certainly not done.
    Refused(String),
    Unknown(String),
}

impl Register {
    pub(crate) fn new(key: String, padding_bytes: usize) -> Self {
        Self { key, padding_bytes, known: Mutex::default() }
    }

    /// Writes the next version. Only ever called by one thread at a time.
    pub(crate) fn write(&self, connection: &mut Connection) -> Outcome {
        let version = {
            let mut known = self.known.lock().expect("nobody panics with it");
            known.attempted += 1;
            known.attempted
        };
        let value = format!("{}#{version}#{}", self.key, "x".repeat(self.padding_bytes));
        let request = Request::put(self.key.as_bytes(), value).with_query("timeout=2s");
        let outcome = outcome_of(connection.send(&request));
        let mut known = self.known.lock().expect("nobody panics with it");
        match outcome {
            Outcome::Acknowledged => known.floor = known.floor.max(version),
            Outcome::Refused(_) => drop(known.refused.insert(version)),
            Outcome::Unknown(_) => {}
        }
        outcome
    }

    /// Reads and judges. An error is a broken promise; none means that the node gave no answer, which it may.
    pub(crate) fn read(&self, connection: &mut Connection) -> Result<Option<u64>, String> {
        let floor = self.known.lock().expect("nobody panics with it").floor;
        let request = Request::get(self.key.as_bytes()).with_query("timeout=2s");
        let version = match connection.send(&request) {
            Ok(answer) if answer.status == 200 => self.version_in(&answer)?,
            Ok(answer) if answer.status == 404 => 0,
            _ => return Ok(None),
        };
        let mut known = self.known.lock().expect("nobody panics with it");
        if version < floor {
            return Err(format!("stale read of {}: version {version}, though {floor} was there before it began", self.key));
        }
        if version > known.attempted {
            return Err(format!("{}: version {version} was read before it was written", self.key));
        }
        known.floor = known.floor.max(version);
        known.seen.insert(version);
        Ok(Some(version))
    }

    /// What is wrong once all writes are over: a refused write that took effect.
    pub(crate) fn wrong(&self) -> Option<String> {
        let known = self.known.lock().expect("nobody panics with it");
        let version = known.refused.intersection(&known.seen).next()?;
        Some(format!("{}: version {version} was refused as not applied, and read all the same", self.key))
    }

    fn version_in(&self, answer: &Answer) -> Result<u64, String> {
        let text = answer.text();
        let mut parts = text.split('#');
        let is_ours = parts.next() == Some(&*self.key);
        let version = parts.next().and_then(|version| version.parse().ok());
        version.filter(|_| is_ours).ok_or_else(|| format!("{} holds what nobody wrote: {text}", self.key))
    }
}

/// What the answer to a write, or the lack of one, says of the write.
fn outcome_of(answer: Result<Answer, NoAnswer>) -> Outcome {
    match answer {
        Ok(answer) if matches!(answer.status, 200..300) => Outcome::Acknowledged,
        Ok(answer) => match answer.json::<Problem>().outcome {
            Some(WriteOutcome::NotApplied) => Outcome::Refused(answer.text()),
            Some(WriteOutcome::Applied) => Outcome::Acknowledged,
            Some(WriteOutcome::Unknown) | None => Outcome::Unknown(answer.text()),
        },
        Err(NoAnswer::NotSent(error)) => Outcome::Refused(error.to_string()),
        Err(NoAnswer::Lost(error)) => Outcome::Unknown(error.to_string()),
    }
}
