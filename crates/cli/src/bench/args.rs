//! How the bench is called.

use std::fmt;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};
use quorate_api::quantity::parse_bytes;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Write
    Put {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        beside: BesideArgs,
    },
    /// Read; the keys are written first
    Get {
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        reads: ReadArgs,
        #[command(flatten)]
        beside: BesideArgs,
    },
    /// Read and write at once; the keys are written first
    Mix {
        /// How many of a hundred requests read
        #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(1..=99))]
        reads_percent: u8,
        #[command(flatten)]
        load: LoadArgs,
        #[command(flatten)]
        reads: ReadArgs,
        #[command(flatten)]
        beside: BesideArgs,
    },
    /// The same load against a server that does nothing, within this process
    Bare(LoadArgs),
    /// Many watchers on few connections: how soon a write reaches those whom it concerns
    Watch(WatchLoadArgs),
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
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Begin so many requests a second, whether answers come or not; latencies count from when each was due [default: as
    /// many as the clients get answered]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) rate: Option<u64>,
    /// Size of the values; of a range, each size is as likely
    #[arg(long, value_name = "BYTES|MIN-MAX", default_value = "256")]
    pub(crate) value_bytes: ValueBytes,
    /// How many keys, of 16 bytes each
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub(crate) keys: u64,
    /// Which key is next
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub(crate) pick: Pick,
    /// For --pick zipf: the greater, the more requests go to few keys
    #[arg(long, value_name = "S", default_value = "0.99", value_parser = parse_exponent)]
    pub(crate) exponent: f64,
    /// Show the figures of every second on stderr, as is done on a terminal
    #[arg(long)]
    pub(crate) live: bool,
}

/// How many watchers, and who of them is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct WatchLoadArgs {
    /// Watchers
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    pub(crate) watchers: usize,
    /// Connections that they share, at most 1,000 watchers each
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = parse_count)]
    pub(crate) connections: usize,
    /// Watchers of the key that is written; the others watch keys that nobody writes
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) told: usize,
    /// Writes, one after the other
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = parse_count)]
    pub(crate) rounds: usize,
    /// Process ids of the nodes, if they run on this machine: tells their memory
    #[arg(long, value_name = "PID[,PID...]", value_delimiter = ',')]
    pub(crate) pids: Vec<u32>,
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| (1..=100_000).contains(count)).ok_or_else(|| "1 to 100000".to_owned())
}

/// How keys are read.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgs {
    /// Take what the asked node has, without asking the others
    #[arg(long)]
    pub(crate) local: bool,
    /// Do not write the keys first: they are there
    #[arg(long)]
    pub(crate) no_fill: bool,
}

/// What is measured beside the load itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct BesideArgs {
    /// Put the same load on a server that does nothing first, and compare
    #[arg(long)]
    pub(crate) bare: bool,
    /// Process ids of all nodes, if they run on this machine: tells the processor time they take
    #[arg(long, value_name = "PID[,PID...]", value_delimiter = ',')]
    pub(crate) pids: Vec<u32>,
}

/// How keys are picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pick {
    /// Any key as likely as any other
    #[default]
    Uniform,
    /// Few keys often, many rarely (Zipf's law), the frequent ones anywhere among the others
    Zipf,
    /// One after the other, from the first again after the last
    Sequential,
}

/// Sizes of values, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueBytes {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

/// The largest value that any node can be set to accept.
pub(crate) const MAX_VALUE_BYTES: u64 = 16 << 20;

impl FromStr for ValueBytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        let (min, max) = (parse_bytes(min)?, parse_bytes(max)?);
        match () {
            () if max > MAX_VALUE_BYTES => Err("values have 16MiB at most".to_owned()),
            () if min > max => Err("a range goes from the smaller to the larger".to_owned()),
            () => Ok(Self { min, max }),
        }
    }
}

impl fmt::Display for ValueBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{}-{}", self.min, self.max) }
    }
}

/// Beyond this nearly all requests go to one key.
const MAX_EXPONENT: f64 = 10.0;

fn parse_exponent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(exponent) if (0.0..=MAX_EXPONENT).contains(&exponent) => Ok(exponent),
        _ => Err(format!("an exponent is a number from 0 to {MAX_EXPONENT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{ValueBytes, parse_exponent};

    #[test]
    fn sizes_are_one_or_a_range() {
        let parse = |text: &str| text.parse::<ValueBytes>().map(|sizes| (sizes.min, sizes.max));
        assert_eq!(parse("256"), Ok((256, 256)));
        assert_eq!(parse("0-4KiB"), Ok((0, 4096)));
        assert_eq!(parse("4KiB-1").unwrap_err(), "a range goes from the smaller to the larger");
        assert_eq!(parse("1-17MiB").unwrap_err(), "values have 16MiB at most");
        assert!(parse("1-2-3").is_err() && parse("").is_err());
    }

    #[test]
    fn exponents_are_numbers_that_make_sense() {
        assert_eq!(parse_exponent("0.99"), Ok(0.99));
        for text in ["-0.1", "10.1", "NaN", "inf", "x"] {
            assert!(parse_exponent(text).is_err(), "{text}");
        }
    }
}
