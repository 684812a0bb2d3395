//! What can go wrong, by what the caller has to do.

use std::io;

use crate::{GroupId, LogIndex};

/// Why a call of the log failed.
///
/// After [`LogError::Full`], [`LogError::TooLarge`] and [`LogError::Invalid`] nothing was written and the log goes on. After
/// any other error of a write the log is poisoned: whether the batch is durable is unknown, and the process should end, for
/// only reading the disk again at the next start can tell.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed.
    #[error("cannot {operation} {file}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With which file.
        file: String,
        /// What the disk said.
        source: io::Error,
    },
    /// Bytes that were durable are not what was written. Needs a person, or a new node in this one's place.
    #[error("the log is damaged: {file} at offset {offset}: {detail}")]
    Corrupt {
        /// The file.
        file: String,
        /// Where in it, in bytes.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// The files are in a format that this program does not know.
    #[error("{file} was written by a newer Quorate (log format {version}; this one knows up to {supported})")]
    NewerVersion {
        /// The file.
        file: String,
        /// Its format version.
        version: u32,
        /// The newest one known here.
        supported: u32,
    },
    /// There is no room for the next segment. Free disk space, or purge: records that only free or replace may use the reserve.
    #[error("the disk is full: a log segment needs {needed_bytes} bytes, and {reserve_bytes} must stay free")]
    Full {
        /// What the segment needs.
        needed_bytes: u64,
        /// What must be left after that; 0 where the disk itself refused.
        reserve_bytes: u64,
    },
    /// More was passed to one write than a batch can hold; pass it in parts.
    #[error("{bytes} bytes in one write; the log takes up to {max_bytes}")]
    TooLarge {
        /// The size of the batch.
        bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// A record does not fit its group's log: an error of the caller.
    #[error("group {}: {reason}", group.0)]
    Invalid {
        /// The group.
        group: GroupId,
        /// What is wrong with the record.
        reason: String,
    },
    /// Options that cannot be used.
    #[error("log options: {0}")]
    Options(&'static str),
    /// Entries were asked for that have been purged.
    #[error("group {}: entries before {} were purged", group.0, first.0)]
    Purged {
        /// The group.
        group: GroupId,
        /// The lowest index that may be asked for.
        first: LogIndex,
    },
    /// Entries were asked for that do not exist, or of a group that does not.
    #[error("group {}: there are no entries after {}", group.0, last.0)]
    Missing {
        /// The group.
        group: GroupId,
        /// Its last index; 0 if there is no such group.
        last: LogIndex,
    },
    /// An earlier write failed; nothing more is accepted.
    #[error("the log stopped after a failed write")]
    Poisoned,
}

impl LogError {
    /// Whether the log can be used after a write that failed with this.
    pub(crate) fn is_harmless(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::TooLarge { .. } | Self::Invalid { .. })
    }
}

/// Adds the operation and the file to an error of the disk.
pub(crate) fn io_error(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::Io { operation, file: file.to_owned(), source }
}
