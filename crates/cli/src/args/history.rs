//! How `quorate history` and `quorate diff` are called.

use std::ffi::OsString;

use clap::Args;
use clap_complete::ArgValueCompleter;
use quorate_client::Selection;

use super::{AmountArgs, KeyArgs, SelectionArgs, key_bytes};
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
    #[arg(long, conflicts_with_all = ["prefix", "start", "end"], add = ArgValueCompleter::new(completion::keys))]
    key: Option<OsString>,
    #[command(flatten)]
    selection: DiffSelectionArgs,
    /// With the values before and after
    #[arg(long)]
    pub(crate) values: bool,
}

#[derive(Debug, Args)]
struct DiffSelectionArgs {
    /// Only keys that begin so
    #[arg(long, value_name = "KEY", add = ArgValueCompleter::new(completion::keys))]
    prefix: Option<OsString>,
    /// --key, --prefix, --start and --end are base64url
    #[arg(long)]
    key64: bool,
    /// From this key on
    #[arg(long, value_name = "KEY", add = ArgValueCompleter::new(completion::keys))]
    start: Option<OsString>,
    /// Up to this key, which is not looked at
    #[arg(long, value_name = "KEY", add = ArgValueCompleter::new(completion::keys))]
    end: Option<OsString>,
}

impl DiffArgs {
    /// Which keys are looked at.
    pub(crate) fn selection(&self) -> Result<Selection, Failure> {
        let DiffSelectionArgs { prefix, key64, start, end } = &self.selection;
        if let Some(key) = &self.key {
            let key = key_bytes(key.clone(), *key64)?;
            let behind = [&key[..], &[0]].concat();
            return Ok(Selection { start: Some(key), end: Some(behind), ..Selection::default() });
        }
        let (prefix, key64, start, end) = (prefix.clone(), *key64, start.clone(), end.clone());
        SelectionArgs { prefix, key64, start, end }.selection()
    }
}
