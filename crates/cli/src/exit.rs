//! How a command ends: exit codes that scripts rely on, and one line that says what failed, why, and what to do.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;

use quorate_api::problem::{Code, Problem, WriteOutcome};
use quorate_client::Error;

/// The exit codes; stable, and part of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Failed = 1,
    WrongUsage = 2,
    NotFound = 3,
    ConditionFailed = 4,
    OutcomeUnknown = 5,
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It failed, and says so in one line.
    Told { exit: Exit, message: String },
    /// Whoever read our output has seen enough. That is no failure of ours.
    OutputClosed,
    /// A command that was run for the user ended with this code, and has told why.
    AsCommand(u8),
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self::Told { exit, message: message.into() }
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::WrongUsage, message)
    }

    /// What a request to a node ended with; `doing` continues "cannot".
    pub(crate) fn of_request(doing: impl Display, error: &Error) -> Self {
        let exit = exit_of(error);
        let advice = advice(exit, error).map_or(String::new(), |advice| format!("; {advice}"));
        Self::new(exit, format!("cannot {doing}: {error}{advice}"))
    }

    /// The same for what does no harm if it is done once more: not to know whether it was done is no reason for a warning.
    pub(crate) fn of_repeatable(doing: impl Display, error: &Error) -> Self {
        match exit_of(error) {
            Exit::OutcomeUnknown => Self::new(Exit::OutcomeUnknown, format!("cannot {doing}: {error}")),
            _ => Self::of_request(doing, error),
        }
    }
}

/// A failed write to stdout.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::failed(format!("cannot write the output: {error}")),
        }
    }
}

/// Tells how it went, on stderr, and to whoever started us.
pub(crate) fn report(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::AsCommand(code)) => ExitCode::from(code),
        Err(Failure::Told { exit, message }) => {
            note(format_args!("quorate: {message}"));
            ExitCode::from(exit as u8)
        }
    }
}

/// One line for people, on stderr. If nobody can read it there, nobody misses it.
pub(crate) fn note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn exit_of(error: &Error) -> Exit {
    match error {
        _ if error.outcome() == WriteOutcome::Unknown => Exit::OutcomeUnknown,
        Error::InvalidEndpoint { .. } | Error::InvalidRequest { .. } => Exit::WrongUsage,
        Error::Refused { problem, .. } => match problem.status {
            404 => Exit::NotFound,
            412 => Exit::ConditionFailed,
            _ => Exit::Failed,
        },
        _ => Exit::Failed,
    }
}

fn advice(exit: Exit, error: &Error) -> Option<String> {
    match error {
        _ if exit == Exit::OutcomeUnknown => Some("it may have been done or may still be: look before you try again".to_owned()),
        _ if error.outcome() == WriteOutcome::Applied => Some("it was done all the same".to_owned()),
        Error::Unreachable { .. } => {
            Some("is a node running there? `--endpoint` names others, `quorate demo` starts some".to_owned())
        }
        Error::NoAnswer { .. } => Some("try again, or with a longer --timeout".to_owned()),
        Error::Unexpected { .. } => Some("is --endpoint right?".to_owned()),
        Error::Refused { problem, .. } => advice_on(problem),
        _ => None,
    }
}

fn advice_on(problem: &Problem) -> Option<String> {
    if let Some(current) = &problem.current {
        return current.mod_revision.filter(|_| current.exists).map(|revision| format!("now --cas {revision} would hold"));
    }
    match Code::from_word(&problem.code) {
        Some(Code::NoLeader) => {
            Some("nothing was done; try again once most nodes are up, `quorate cluster status` shows them".to_owned())
        }
        _ if problem.retryable => Some("try again".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use quorate_api::problem::Current;

    use super::*;

    fn refused(code: Code, outcome: Option<WriteOutcome>, current: Option<Current>) -> Error {
        let problem = Problem { outcome, current, ..Problem::new(code, "so it is") };
        Error::Refused { endpoint: "http://a:1".to_owned(), problem: Box::new(problem) }
    }

    fn told(error: &Error) -> (Exit, String) {
        match Failure::of_request("put `k`", error) {
            Failure::Told { exit, message } => (exit, message),
            Failure::OutputClosed | Failure::AsCommand(_) => panic!("a request is neither output nor command"),
        }
    }

    #[test]
    fn each_failure_has_its_exit_code() {
        let not_applied = Some(WriteOutcome::NotApplied);
        let no_answer = |outcome| Error::NoAnswer { endpoint: "http://a:1".to_owned(), reason: "reset".to_owned(), outcome };
        let cases = [
            (refused(Code::KeyspaceNotFound, not_applied, None), Exit::NotFound),
            (refused(Code::NodeNotFound, None, None), Exit::NotFound),
            (refused(Code::PreconditionFailed, not_applied, None), Exit::ConditionFailed),
            (refused(Code::OutcomeUnknown, Some(WriteOutcome::Unknown), None), Exit::OutcomeUnknown),
            (refused(Code::NoLeader, not_applied, None), Exit::Failed),
            (refused(Code::ValueTooLarge, not_applied, None), Exit::Failed),
            (no_answer(WriteOutcome::Unknown), Exit::OutcomeUnknown),
            (no_answer(WriteOutcome::NotApplied), Exit::Failed),
            (Error::Unreachable { tried: Vec::new() }, Exit::Failed),
            (Error::InvalidRequest { reason: String::new() }, Exit::WrongUsage),
        ];
        for (error, exit) in cases {
            let (found, message) = told(&error);
            assert_eq!(found, exit, "{message}");
            assert!(message.starts_with("cannot put `k`: ") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_failed_condition_says_what_is_there() {
        let there = Current { exists: true, mod_revision: Some(13), etag: None };
        let (_, message) = told(&refused(Code::PreconditionFailed, Some(WriteOutcome::NotApplied), Some(there)));
        assert_eq!(message, "cannot put `k`: Precondition failed: so it is; now --cas 13 would hold");
        let (_, message) = told(&refused(Code::PreconditionFailed, None, Some(Current::default())));
        assert!(message.ends_with(": so it is"), "{message}");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert!(matches!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)), Failure::OutputClosed));
        assert!(matches!(Failure::from(io::Error::other("full")), Failure::Told { exit: Exit::Failed, .. }));
    }
}
