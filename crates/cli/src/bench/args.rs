//! How the bench is called.

use clap::{Args, Subcommand};
use quorate_api::quantity::parse_bytes;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Write
    Put(LoadArgs),
    /// Read; the keys are written first
    Get {
        #[command(flatten)]
        load: LoadArgs,
        /// Take what the asked node has, without asking the others
        #[arg(long)]
        local: bool,
    },
    /// The same load against a server that does nothing, within this process
    Bare(LoadArgs),
    /// Puts and gets beside the bare server; starts a cluster unless --endpoint names one
    Compare {
        #[command(flatten)]
        load: LoadArgs,
        /// Nodes of the cluster that is started
        #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
        nodes: u16,
    },
}

/// How much load, of what.
#[derive(Clone, Debug, Args)]
pub(crate) struct LoadArgs {
    /// Connections, each with one request at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub(crate) clients: u64,
    /// How long each measurement takes, after a short warm-up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Size of the values
    #[arg(long, value_name = "BYTES", default_value = "256", value_parser = parse_value_bytes)]
    pub(crate) value_bytes: u64,
    /// How many keys, of 16 bytes each
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) keys: u64,
}

/// The largest value that any node can be set to accept.
pub(crate) const MAX_VALUE_BYTES: u64 = 16 << 20;

fn parse_value_bytes(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    if bytes <= MAX_VALUE_BYTES { Ok(bytes) } else { Err("values have 16MiB at most".to_owned()) }
}
