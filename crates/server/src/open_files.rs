//! How many files the process may have open: connections are files, and must leave some to the log, the engines and the peers.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of all files, the part that is not for clients. A log that cannot open its next segment would stop the node.
const RESERVED_FRACTION: u64 = 4;

/// Raises the limit to what the system allows without asking for privileges, and returns it.
pub(crate) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_err() {
        // Some systems name a maximum that they do not allow; what was allowed before still is.
        tracing::warn!(?limit, "the limit of open files cannot be raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many of the connections that are wanted there can be, at least one.
pub(crate) fn possible_connections(wanted: u32, max_files: u64) -> u32 {
    let for_clients = max_files - max_files / RESERVED_FRACTION;
    let possible = u32::try_from(for_clients).map_or(wanted, |files| files.clamp(1, wanted.max(1)));
    if possible < wanted {
        tracing::info!(
            possible,
            wanted,
            max_files,
            "the limit of open files allows fewer connections than --max-connections; raise it (ulimit -n, LimitNOFILE=)"
        );
    }
    possible
}

#[cfg(test)]
mod tests {
    use super::{possible_connections, raise_limit};

    #[test]
    fn connections_leave_files_to_the_rest() {
        assert_eq!(possible_connections(20_000, 1024), 768);
        assert_eq!(possible_connections(20_000, 1 << 20), 20_000);
        assert_eq!(possible_connections(20_000, u64::MAX), 20_000);
        assert_eq!(possible_connections(100, 1), 1);
    }

    #[test]
    fn the_limit_is_raised_once_and_stays() {
        let raised = raise_limit();
        assert!(raised > 0);
        assert_eq!(raise_limit(), raised);
    }
}
