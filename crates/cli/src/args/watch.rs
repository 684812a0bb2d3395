//! How `quorate watch` is called.

use std::ffi::OsString;

use clap::Args;
use clap_complete::ArgValueCompleter;
use quorate_api::watch::EventType;
use quorate_client::{WatchQuery, Watched, WatchedKeys};

use super::{FreshnessArgs, RangeArgs, key_bytes};
use crate::completion;
use crate::exit::Failure;

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "they are flags")]
pub(crate) struct WatchArgs {
    /// The key; without it, and without --prefix, --start and --end, every key
    #[arg(add = ArgValueCompleter::new(completion::keys))]
    key: Option<OsString>,
    /// KEY, --prefix, --start and --end are base64url, for keys that no shell can carry
    #[arg(long)]
    key64: bool,
    #[command(flatten)]
    range: RangeArgs,
    /// From this revision on, as far as it is kept; without it, from now on
    #[arg(long, value_name = "N", conflicts_with = "initial")]
    from_revision: Option<u64>,
    /// First what is there, then what changes
    #[arg(long)]
    initial: bool,
    /// Only these kinds of events: put, delete, expire
    #[arg(long, value_name = "TYPE[,TYPE...]", value_delimiter = ',', value_parser = parse_type)]
    types: Vec<EventType>,
    /// With the values from before
    #[arg(long)]
    prev: bool,
    /// Without values
    #[arg(long)]
    keys_only: bool,
    /// End after so many revisions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    #[command(flatten)]
    freshness: FreshnessArgs,
}

impl WatchArgs {
    pub(crate) fn query(&self) -> Result<WatchQuery, Failure> {
        let keys = match self.key.clone() {
            Some(key) => WatchedKeys::One(key_bytes(key, self.key64)?),
            None => WatchedKeys::Many(self.range.selection(self.key64)?),
        };
        Ok(WatchQuery {
            watched: vec![Watched { types: self.types.clone(), ..Watched::keys(keys) }],
            from_revision: self.from_revision,
            is_initial: self.initial,
            without_values: self.keys_only,
            with_prev: self.prev,
            freshness: self.freshness.options(),
        })
    }
}

fn parse_type(text: &str) -> Result<EventType, String> {
    EventType::from_name(text).ok_or_else(|| "put, delete or expire".to_owned())
}
