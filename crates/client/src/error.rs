//! Why a request did not end as asked, and what became of it.

use std::fmt;

use quorate_api::problem::{Problem, WriteOutcome};

/// Why a request did not end as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was given as an endpoint is none. Nothing was sent.
    #[error("`{endpoint}` is no endpoint: {reason}")]
    InvalidEndpoint {
        /// As it was given.
        endpoint: String,
        /// What would be right.
        reason: &'static str,
    },
    /// The request cannot be written as HTTP, such as a content type with a line break. Nothing was sent.
    #[error("the request cannot be sent: {reason}")]
    InvalidRequest {
        /// What is wrong with it.
        reason: String,
    },
    /// No endpoint could be connected to. Nothing was sent.
    #[error("no node could be reached: {}", Listed(.tried))]
    Unreachable {
        /// Every endpoint with what went wrong there.
        tried: Vec<Tried>,
    },
    /// A node answered that it did not, or could not, do it.
    #[error("{}", Told(.problem))]
    Refused {
        /// Who answered.
        endpoint: String,
        /// What it said.
        problem: Box<Problem>,
    },
    /// The node serves, and is not ready for requests of clients yet.
    #[error("{endpoint} is not ready: {checks}")]
    NotReady {
        /// Who answered.
        endpoint: String,
        /// What it waits for, in its own words.
        checks: String,
    },
    /// The request left, and no answer came.
    #[error("no answer from {endpoint}: {reason}")]
    NoAnswer {
        /// Who was asked last.
        endpoint: String,
        /// What happened instead.
        reason: String,
        /// Whether a write may have happened.
        outcome: WriteOutcome,
    },
    /// An answer came that no node gives: probably something else listens there.
    #[error("{endpoint} does not answer like a Quorate node: {reason}")]
    Unexpected {
        /// Who answered.
        endpoint: String,
        /// What is wrong with the answer.
        reason: String,
        /// Whether a write may have happened.
        outcome: WriteOutcome,
    },
}

impl Error {
    /// Whether the write that failed may have happened. A read never happened.
    pub fn outcome(&self) -> WriteOutcome {
        match self {
            Self::InvalidEndpoint { .. } | Self::InvalidRequest { .. } | Self::Unreachable { .. } | Self::NotReady { .. } => {
                WriteOutcome::NotApplied
            }
            Self::Refused { problem, .. } => problem.outcome.unwrap_or(WriteOutcome::NotApplied),
            Self::NoAnswer { outcome, .. } | Self::Unexpected { outcome, .. } => *outcome,
        }
    }

    /// What the node said, if one did.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }

    /// The stable word of the problem, such as `precondition_failed`, if a node named one.
    pub fn code(&self) -> Option<&str> {
        self.problem().map(|problem| problem.code.as_ref())
    }
}

/// An endpoint and what went wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The endpoint.
    pub endpoint: String,
    /// What went wrong.
    pub reason: String,
}

struct Listed<'a>(&'a [Tried]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Tried { endpoint, reason }) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}{endpoint} ({reason})")?;
        }
        Ok(())
    }
}

struct Told<'a>(&'a Problem);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.title.as_ref(), self.0.detail.as_str()) {
            (title, "") => f.write_str(title),
            (title, detail) => write!(f, "{title}: {detail}"),
        }
    }
}
