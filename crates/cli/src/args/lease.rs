//! How `quorate lease` is called.

use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_api::{duration, lease};

#[derive(Debug, Subcommand)]
pub(crate) enum LeaseCommand {
    /// Grant a lease; its id is printed
    #[command(after_help = super::examples::LEASE_GRANT)]
    Grant(GrantArgs),
    /// Begin a lease's time anew, exit code 3 if it is gone; with --hold again and again
    #[command(after_help = super::examples::LEASE_KEEP_ALIVE)]
    KeepAlive(KeepAliveArgs),
    /// The leases of a keyspace, by id
    #[command(visible_alias = "ls")]
    List,
    /// One lease: how long it lives, and how many keys hang on it
    Show {
        /// Its id
        #[arg(value_parser = parse_id)]
        id: u64,
        /// With the keys
        #[arg(long)]
        keys: bool,
    },
    /// End a lease, and delete all keys that hang on it at once
    Revoke {
        /// Its id
        #[arg(value_parser = parse_id)]
        id: u64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// How long it lives without being kept alive, like 30s or 2h; at least 2s
    #[arg(value_name = "TIME", value_parser = duration::parse)]
    pub(crate) ttl: Duration,
    /// Its id, one to sixteen hexadecimal digits; without it the server draws one
    #[arg(long, value_parser = parse_id)]
    pub(crate) id: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct KeepAliveArgs {
    /// Its id
    #[arg(value_parser = parse_id)]
    pub(crate) id: u64,
    /// Keep it alive until this command is ended, or the lease is gone
    #[arg(long)]
    pub(crate) hold: bool,
}

/// The id of a lease.
pub(crate) fn parse_id(text: &str) -> Result<u64, String> {
    lease::parse_id(text).ok_or_else(|| "an id has one to sixteen hexadecimal digits, and is not 0".to_owned())
}
