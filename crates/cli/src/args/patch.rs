//! Commands that change a key by what it holds.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use quorate_api::duration;
use quorate_client::{Condition, PatchOptions};

use super::KeyArgs;

/// What all of them take.
#[derive(Debug, Args)]
pub(crate) struct PatchedKeyArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// Only if the key's last change was at revision N; 0: only if it is not there
    #[arg(long, value_name = "N")]
    cas: Option<u64>,
    /// After how long the pair goes by itself, like 30s or 2h, if it comes to be or is touched; only where keys may go by
    /// themselves
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    ttl: Option<Duration>,
}

impl PatchedKeyArgs {
    pub(crate) fn options(&self) -> PatchOptions {
        PatchOptions { condition: self.cas.map(Condition::ModRevision), ttl: self.ttl }
    }
}

#[derive(Debug, Args)]
pub(crate) struct IncrArgs {
    #[command(flatten)]
    pub(crate) key: PatchedKeyArgs,
    /// How much to add; less than 0 subtracts
    #[arg(long, value_name = "N", default_value_t = 1, allow_negative_numbers = true)]
    pub(crate) by: i64,
    /// What a key counts as that is not there
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) initial: i64,
}

#[derive(Debug, Args)]
pub(crate) struct AppendArgs {
    #[command(flatten)]
    pub(crate) key: PatchedKeyArgs,
    /// What to append; @FILE reads a file, - reads standard input
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: OsString,
}

#[derive(Debug, Args)]
pub(crate) struct TouchArgs {
    #[command(flatten)]
    pub(crate) key: PatchedKeyArgs,
}

#[derive(Debug, Args)]
pub(crate) struct PatchArgs {
    #[command(flatten)]
    pub(crate) key: PatchedKeyArgs,
    /// The merge patch (RFC 7396), as JSON: what it names is set, what it names as null is taken out; @FILE reads a file, -
    /// reads standard input
    pub(crate) patch: OsString,
}
