//! Which keys of a keyspace a request is about: by prefix, or between two keys, or both.

use std::ops::Bound;

use bytes::Bytes;
use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::problem::Code;
use quorate_api::txn::TxnRange;
use quorate_engine::KeyRange;

use super::query::Parameter;
use super::refusal::Refusal;

/// The parameters of a selection.
pub(super) const PARAMETERS: [&str; 6] = ["prefix", "prefix64", "start", "start64", "end", "end64"];

/// Which keys a request is about. An empty bound is no bound.
#[derive(Debug, Default)]
pub(super) struct Selection {
    prefix: Option<Bytes>,
    start: Option<Bytes>,
    end: Option<Bytes>,
}

/// The keys of a range within a transaction.
pub(super) fn range_of(range: &TxnRange) -> Result<KeyRange, Refusal> {
    let TxnRange { prefix, start, end } = range;
    for (name, bound) in [("prefix", prefix), ("start", start), ("end", end)] {
        if bound.len() > MAX_KEY_BYTES {
            let detail = format!("{name}: {} bytes, at most {MAX_KEY_BYTES} are possible", bound.len());
            return Err(Refusal::new(Code::KeyTooLong, detail));
        }
    }
    Ok(Selection::of(Some(prefix.clone()), Some(start.clone()), Some(end.clone())).range())
}

impl Selection {
    /// One with these bounds.
    pub(super) fn of(prefix: Option<Bytes>, start: Option<Bytes>, end: Option<Bytes>) -> Self {
        Self { prefix, start, end }
    }

    /// Takes the parameter if it is one of [`PARAMETERS`]; whether it was.
    pub(super) fn take(&mut self, parameter: Parameter<'_>) -> Result<bool, Refusal> {
        match parameter.name {
            "prefix" => parameter.set(&mut self.prefix, parameter.key()?)?,
            "prefix64" => parameter.set(&mut self.prefix, parameter.key64()?)?,
            "start" => parameter.set(&mut self.start, parameter.key()?)?,
            "start64" => parameter.set(&mut self.start, parameter.key64()?)?,
            "end" => parameter.set(&mut self.end, parameter.key()?)?,
            "end64" => parameter.set(&mut self.end, parameter.key64()?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The keys.
    pub(super) fn range(&self) -> KeyRange {
        let bound = |key: &Option<Bytes>| key.clone().filter(|key| !key.is_empty());
        let start = bound(&self.start).map_or(Bound::Unbounded, Bound::Included);
        let end = bound(&self.end).map_or(Bound::Unbounded, Bound::Excluded);
        KeyRange::prefix(self.prefix()).intersect(KeyRange { start, end })
    }

    /// What all keys begin with.
    pub(super) fn prefix(&self) -> &[u8] {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// Whether it leaves out no key.
    pub(super) fn is_everything(&self) -> bool {
        self.parts().into_iter().flatten().all(<[u8]>::is_empty)
    }

    /// What tells it from others.
    pub(super) fn parts(&self) -> [Option<&[u8]>; 3] {
        [self.prefix.as_deref(), self.start.as_deref(), self.end.as_deref()]
    }
}
