//! What can go wrong with a store outside, by what the caller can do about it.

use std::fmt;
use std::time::Duration;

/// Why a store did not do what it was asked for.
///
/// The message is for people. It names the store's host or folder and what it said, cut to a bounded length, and never holds a
/// credential: those are taken out by value where a store might repeat them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{store}: {kind}: {message}")]
pub struct StoreError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// What became of the write; [`Outcome::NotApplied`] for reads.
    pub outcome: Outcome,
    /// The store's kind, as in settings.
    pub store: &'static str,
    /// What happened, for people.
    pub message: String,
}

/// What became of a write that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing was changed, and nothing will be.
    NotApplied,
    /// It was done, or not, or will be yet.
    Unknown,
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Nobody answers there, or the connection broke. Try later.
    Unreachable,
    /// It took too long.
    Timeout,
    /// The store, or our own bound on calls that wait for it, asks for less. Try after this time, if it is known.
    Throttled {
        /// How long to wait.
        retry_after: Option<Duration>,
    },
    /// The store fails by itself: an answer of 5xx, a full disk. Try later.
    Failing,
    /// The credentials are missing or wrong, or do not allow it. Somebody must look after it.
    Denied,
    /// There is no such bucket, folder, table or index. Somebody must make it.
    NoContainer,
    /// The key or the value is larger than the store takes.
    TooLarge,
    /// The store cannot hold this key as its keys are encoded.
    BadKey,
    /// What is stored is not what was written: half a body, a checksum that differs, a value of another program.
    BadData,
    /// The store cannot do this; its capabilities say so.
    Unsupported,
    /// The store understood nothing, or said what nobody expects of it: it is something else, or its settings are wrong.
    Unexpected,
}

/// Longer messages are cut: a store may answer an error with a page of text.
const MAX_MESSAGE_CHARS: usize = 300;

impl StoreError {
    /// An error of a read, or of a write that changed nothing.
    pub fn new(store: &'static str, kind: ErrorKind, message: impl fmt::Display) -> Self {
        let message: String = message.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let message = match message.char_indices().nth(MAX_MESSAGE_CHARS) {
            Some((at, _)) => format!("{}...", &message[..at]),
            None => message,
        };
        Self { kind, outcome: Outcome::NotApplied, store, message }
    }

    /// The same, of a write that may have happened.
    #[must_use]
    pub fn unknown(self) -> Self {
        Self { outcome: Outcome::Unknown, ..self }
    }

    /// What cannot be done, by the name of the capability.
    pub fn unsupported(store: &'static str, capability: &str) -> Self {
        Self::new(store, ErrorKind::Unsupported, format_args!("this store has no {capability}"))
    }
}

impl ErrorKind {
    /// Whether the same call may succeed a little later without anybody's doing.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Unreachable | Self::Timeout | Self::Throttled { .. } | Self::Failing)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "cannot be reached",
            Self::Timeout => "took too long",
            Self::Throttled { .. } => "asks for fewer requests",
            Self::Failing => "fails",
            Self::Denied => "denies access",
            Self::NoContainer => "has no such container",
            Self::TooLarge => "does not take so much",
            Self::BadKey => "cannot hold this key",
            Self::BadData => "holds something else",
            Self::Unsupported => "cannot do this",
            Self::Unexpected => "answers with something unexpected",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_text_is_cut_to_a_line() {
        let error = StoreError::new("s3", ErrorKind::Failing, "<html>\n".repeat(1000));
        assert!(error.message.len() < 400 && !error.message.contains('\n'), "{error}");
        assert!(error.to_string().starts_with("s3: fails: <html>"), "{error}");
    }
}
