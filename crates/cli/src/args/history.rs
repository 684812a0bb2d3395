//! How `quorate history` and `quorate diff` are called.

use std::ffi::OsString;

use clap::Args;
use clap_complete::ArgValueCompleter;
use quorate_client::Selection;

use super::{AmountArgs, KeyArgs, RangeArgs, key_bytes};
use crate::completion;
use crate::exit::Failure;

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    #[command(flatten)]
    amount: AmountArgs,
    /// Only versions of revisions before N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) before: Option<u64>,
}

impl HistoryArgs {
    /// The most versions to show.
    pub(crate) fn max_versions(&self) -> u64 {
        self.amount.max()
    }
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The revision before
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) from: u64,
    /// The revision after [default: the present one]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) to: Option<u64>,
    /// Only this key
    #[arg(long, add = ArgValueCompleter::new(completion::keys))]
    key: Option<OsString>,
    #[command(flatten)]
    range: RangeArgs,
    /// --key, --prefix, --start and --end are base64url
    #[arg(long)]
    key64: bool,
    /// With the values before and after
    #[arg(long)]
    pub(crate) values: bool,
}

impl DiffArgs {
    /// Which keys are looked at.
    pub(crate) fn selection(&self) -> Result<Selection, Failure> {
        let Some(key) = self.key.clone() else {
            return self.range.selection(self.key64);
        };
        let key = key_bytes(key, self.key64)?;
        let behind = [&key[..], &[0]].concat();
        Ok(Selection { start: Some(key), end: Some(behind), ..Selection::default() })
    }
}
