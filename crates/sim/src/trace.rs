//! What happened, in order: hashed as a whole, kept for the last lines.

use std::collections::VecDeque;
use std::fmt::{self, Write};

use crate::fingerprint::Fingerprint;
use crate::time::SimTime;

/// Receives every line of a trace.
pub type Sink = Box<dyn FnMut(&str)>;

/// A running hash over everything that happens, and the last lines of it. Two runs of a seed have equal hashes.
pub struct Trace {
    hash: Fingerprint,
    line_count: u64,
    recent: VecDeque<String>,
    sink: Option<Sink>,
}

/// How many lines are kept for the report of a failure.
const RECENT_LINES: usize = 60;

impl Trace {
    /// An empty trace; `sink` gets each line as it comes.
    pub(crate) fn new(sink: Option<Sink>) -> Self {
        Self { hash: Fingerprint::default(), line_count: 0, recent: VecDeque::with_capacity(RECENT_LINES), sink }
    }

    /// Adds a line.
    pub(crate) fn note(&mut self, now: SimTime, what: fmt::Arguments<'_>) {
        let mut line =
            if self.recent.len() == RECENT_LINES { self.recent.pop_front().unwrap_or_default() } else { String::new() };
        line.clear();
        write!(line, "{now} {what}").expect("writing to a string does not fail");
        self.hash = self.hash.with(line.as_bytes());
        self.line_count += 1;
        if let Some(sink) = &mut self.sink {
            sink(&line);
        }
        self.recent.push_back(line);
    }

    /// The hash so far.
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    /// How many lines there were.
    pub fn line_count(&self) -> u64 {
        self.line_count
    }

    /// The last lines, oldest first.
    pub fn recent(&self) -> impl Iterator<Item = &str> {
        self.recent.iter().map(String::as_str)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace").field("hash", &self.hash).field("line_count", &self.line_count).finish_non_exhaustive()
    }
}
