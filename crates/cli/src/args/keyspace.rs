//! How `quorate keyspace` is called.

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use crate::completion;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyspaceCommand {
    /// Make a keyspace; nothing happens if it is there with the same settings
    #[command(after_help = super::examples::KEYSPACE_CREATE)]
    Create(CreateArgs),
    /// The keyspaces
    #[command(visible_alias = "ls")]
    List,
    /// One keyspace, with what it can do
    Show {
        /// Its name
        #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
        name: String,
    },
    /// What the answering node has of a keyspace: keys, bytes, its replica
    Stats {
        /// Its name
        #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
        name: String,
    },
    /// Change limits, time to live, retention of history, engine or options of replication; what is not named stays as it is
    #[command(after_help = super::examples::KEYSPACE_ALTER)]
    Alter(AlterArgs),
    /// Let go of the past of a keyspace: what is older than a revision cannot be read any more
    #[command(after_help = super::examples::KEYSPACE_COMPACT)]
    Compact(CompactArgs),
    /// How the replicas of an eventual keyspace are, node by node, and whether they are equal
    #[command(after_help = super::examples::KEYSPACE_REPLICAS)]
    Replicas(ReplicasArgs),
    /// Let the answering node send what it has collected of an eventual keyspace, or copy it, to all others now, and wait until
    /// the store behind its replica, if there is one, has got everything
    Flush {
        /// Its name
        #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
        name: String,
        /// Write everything again to the store behind the node's replica, which may have lost what it had
        #[arg(long)]
        rewrite: bool,
        /// Remove from the node's part of that store whatever is there and not in its replica
        #[arg(long)]
        prune: bool,
    },
    /// Let the answering node compare what it has of an eventual keyspace with all others now
    Sync {
        /// Its name
        #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
        name: String,
    },
    /// Delete a keyspace with all its keys
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: a-z 0-9 _ -, a letter or digit first
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// How replicas agree; `quorate modes` lists what there is [default: raft]
    #[arg(long, value_name = "MODE", visible_alias = "replication", add = ArgValueCompleter::new(completion::modes))]
    pub(crate) mode: Option<String>,
    /// An option of the mode, like `ack=1`; may be given several times
    #[arg(long = "mode-option", value_name = "NAME=VALUE", value_parser = parse_option)]
    pub(crate) mode_options: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct AlterArgs {
    /// Its name
    #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// An option of its replication mode, like `linger=5ms`, or `ack=none` for the default; may be given several times
    #[arg(long = "mode-option", value_name = "NAME=VALUE", value_parser = parse_option)]
    pub(crate) mode_options: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) settings: SettingsArgs,
    /// Do not wait until all replicas have moved to another engine
    #[arg(long)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Where the keys are kept; `quorate engines` lists what there is
    #[arg(long, value_name = "TYPE", add = ArgValueCompleter::new(completion::engines))]
    pub(crate) engine: Option<String>,
    /// An option of the engine, like `max_bytes=64MiB`; may be given several times
    #[arg(long = "option", value_name = "NAME=VALUE", value_parser = parse_option)]
    pub(crate) options: Vec<(String, String)>,
}

/// Settings that can change at any time. `none` takes one away, where that makes sense.
#[derive(Debug, Args)]
pub(crate) struct SettingsArgs {
    /// How long a key lives that says nothing about it, like 30m; none: forever
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<String>,
    /// Most bytes of keys and values, like 1GiB; none: the default
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_bytes: Option<String>,
    /// Longest key, in bytes; none: the default
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_key_bytes: Option<String>,
    /// Largest value, like 64KiB; none: the default
    #[arg(long, value_name = "BYTES")]
    pub(crate) max_value_bytes: Option<String>,
    /// Most revisions of the past that are kept; 0: no history; none: the default, 10000
    #[arg(long, value_name = "COUNT")]
    pub(crate) retention_revisions: Option<String>,
    /// For how long the past is kept, like 10m; none: the default, 1h
    #[arg(long, value_name = "DURATION")]
    pub(crate) retention_age: Option<String>,
    /// Most bytes of the past, like 1GiB; none: the default, 64MiB
    #[arg(long, value_name = "BYTES")]
    pub(crate) retention_bytes: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    /// Its name
    #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
    pub(crate) name: String,
    /// The oldest revision that can be read from now on [default: the present one]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) revision: Option<u64>,
    /// Wait until what only older revisions needed is gone from the answering node, up to --timeout
    #[arg(long)]
    pub(crate) physical: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Its name
    #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
    pub(crate) name: String,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ReplicasArgs {
    /// Its name
    #[arg(add = ArgValueCompleter::new(completion::keyspaces))]
    pub(crate) name: String,
    /// Show them again every second, until interrupted
    #[arg(long)]
    pub(crate) watch: bool,
    /// Show them again every second, until all are there and equal
    #[arg(long)]
    pub(crate) until_equal: bool,
}

fn parse_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
