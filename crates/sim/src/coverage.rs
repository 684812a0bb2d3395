//! What happened how often: a run that did not meet a fault says nothing about it.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// One more.
    pub(crate) fn count(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    /// So many more.
    pub(crate) fn add(&mut self, name: &'static str, more: u64) {
        *self.counts.entry(name).or_default() += more;
    }

    /// At least so many.
    pub(crate) fn at_least(&mut self, name: &'static str, value: u64) {
        let count = self.counts.entry(name).or_default();
        *count = (*count).max(value);
    }

    /// How often.
    pub fn of(&self, name: &str) -> u64 {
        self.counts.get(name).copied().unwrap_or(0)
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (name, count) in &other.counts {
            if name.starts_with("longest") {
                self.at_least(name, *count);
            } else {
                self.add(name, *count);
            }
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(name, count)| writeln!(f, "{count:>12}  {name}"))
    }
}
