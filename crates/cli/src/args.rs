//! How the program is called.

mod backup;
mod discover;
mod dns;
mod examples;
mod history;
mod keyspace;
mod lease;
mod lock;
mod patch;
mod server;
mod watch;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::ArgValueCompleter;
use quorate_api::user_meta::UserMeta;
use quorate_api::{duration, key, text64};
use quorate_client::{Ack, Client, Consistency, Endpoint, GetOptions, Options, Selection, Session};

use crate::bench::args::BenchCommand;
use crate::completion;
use crate::exit::Failure;
use crate::output::Format;

pub(crate) use backup::{BackupArgs, BackupCommand, RestoreArgs};
pub(crate) use discover::DiscoverArgs;
pub(crate) use history::{DiffArgs, HistoryArgs};
pub(crate) use keyspace::{
    AlterArgs, CompactArgs, CreateArgs, DeleteArgs, EngineArgs, KeyspaceCommand, ReplicasArgs, SettingsArgs,
};
pub(crate) use lease::{GrantArgs, KeepAliveArgs, LeaseCommand, parse_id};
pub(crate) use lock::{ElectArgs, LockArgs};
pub(crate) use patch::{AppendArgs, IncrArgs, PatchArgs, PatchedKeyArgs, TouchArgs};
pub(crate) use server::ServerArgs;
pub(crate) use watch::WatchArgs;

/// A distributed key-value store: any bytes under any key, over REST, on any number of nodes.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = examples::ALL, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node, until SIGTERM or Ctrl-C
    #[command(after_help = examples::SERVER)]
    Server(Box<ServerArgs>),
    /// Start a cluster of real processes on this machine, to try things out
    #[command(after_help = examples::DEMO)]
    Demo(DemoArgs),
    /// Read a key; the value goes to stdout byte for byte
    #[command(after_help = examples::GET)]
    Get(GetArgs),
    /// Write a key
    #[command(after_help = examples::PUT)]
    Put(PutArgs),
    /// Delete a key, exit code 3 if it was not there; or many
    #[command(after_help = examples::DEL)]
    Del(DelArgs),
    /// Add to a number, and print the sum
    #[command(after_help = examples::INCR)]
    Incr(IncrArgs),
    /// Append to a value
    #[command(after_help = examples::APPEND)]
    Append(AppendArgs),
    /// Set the value that is there once more, exit code 3 if there is none
    #[command(after_help = examples::TOUCH)]
    Touch(TouchArgs),
    /// Change parts of a value that is JSON, by a merge patch
    #[command(after_help = examples::PATCH)]
    Patch(PatchArgs),
    /// List keys
    #[command(after_help = examples::LS)]
    Ls(LsArgs),
    /// The versions that a key had
    #[command(after_help = examples::HISTORY)]
    History(HistoryArgs),
    /// What changed between two revisions: added, removed, changed
    #[command(after_help = examples::DIFF)]
    Diff(DiffArgs),
    /// Compare keys, and do one thing or another, as a whole
    #[command(after_help = examples::TXN)]
    Txn(TxnArgs),
    /// See what happens to keys, as it happens
    #[command(after_help = examples::WATCH)]
    Watch(WatchArgs),
    /// Make, see, alter and delete keyspaces
    #[command(after_help = examples::KEYSPACE)]
    Keyspace {
        #[command(subcommand)]
        command: KeyspaceCommand,
    },
    /// Grant, keep alive, see and revoke leases, with which keys go
    #[command(after_help = examples::LEASE)]
    Lease {
        #[command(subcommand)]
        command: LeaseCommand,
    },
    /// Run a command, or wait, while a lock is held, by one at a time
    #[command(after_help = examples::LOCK)]
    Lock(LockArgs),
    /// Lead, as long as this command runs; or see who leads
    #[command(after_help = examples::ELECT)]
    Elect(ElectArgs),
    /// The engines that a keyspace can have, with their options
    #[command(after_help = examples::ENGINES)]
    Engines,
    /// The replication modes that a keyspace can have, with their options
    #[command(after_help = examples::MODES)]
    Modes,
    /// Write a keyspace's pairs as lines of JSON
    #[command(after_help = examples::EXPORT)]
    Export(ExportArgs),
    /// Read pairs as lines of JSON, and write each into a keyspace
    #[command(after_help = examples::IMPORT)]
    Import(ImportArgs),
    /// Write keyspaces into a file, each as of one revision, while the cluster works
    #[command(after_help = examples::BACKUP)]
    Backup(BackupArgs),
    /// Read keyspaces from a backup into a cluster that does not have them
    #[command(after_help = examples::RESTORE)]
    Restore(RestoreArgs),
    /// See and change who is in the cluster
    #[command(after_help = examples::CLUSTER)]
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// See which addresses a specification for --join finds now, and why not
    #[command(after_help = examples::DISCOVER)]
    Discover(DiscoverArgs),
    /// Let a node start although other nodes refused its data as a copy or as too old
    #[command(after_help = examples::READMIT)]
    Readmit {
        /// The node's data folder; the node must not run
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Measure rates and latencies
    #[command(after_help = examples::BENCH)]
    Bench {
        #[command(subcommand)]
        command: BenchCommand,
    },
    /// See what each node and keyspace does, once a second
    #[command(after_help = examples::TOP)]
    Top(TopArgs),
    /// Print a script with which a shell completes commands, keyspaces and keys
    #[command(after_help = examples::COMPLETIONS)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Shells that can complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Elvish,
    Fish,
    Powershell,
    Zsh,
}

impl Shell {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Elvish => "elvish",
            Self::Fish => "fish",
            Self::Powershell => "powershell",
            Self::Zsh => "zsh",
        }
    }
}

/// What all commands that talk to a cluster share; given before or after the command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Client options")]
pub(crate) struct ClientArgs {
    /// Nodes to ask, tried in turn
    #[arg(
        help = "Nodes to ask, tried in turn [default: http://127.0.0.1:2379]",
        short,
        long = "endpoint",
        global = true,
        env = "QUORATE_ENDPOINTS",
        value_name = "URL[,URL...]",
        value_delimiter = ',',
        hide_env_values = true
    )]
    endpoints: Option<Vec<Endpoint>>,
    /// The keyspace [default: default]
    #[arg(
        short,
        long,
        global = true,
        env = "QUORATE_KEYSPACE",
        value_name = "NAME",
        hide_env_values = true,
        add = ArgValueCompleter::new(completion::keyspaces)
    )]
    keyspace: Option<String>,
    /// How results are written: table, json or raw [default: raw for get, else table]
    #[arg(short, long, global = true, value_name = "FORMAT", hide_possible_values = true)]
    pub(crate) output: Option<Format>,
    /// How long a request may take, like 500ms, 5s, 1m
    #[arg(
        long,
        global = true,
        env = "QUORATE_TIMEOUT",
        value_name = "DURATION",
        default_value = "5s",
        value_parser = parse_timeout,
        hide_env_values = true
    )]
    timeout: Duration,
    /// What was seen, in this file, so that commands with it see no less at any node
    #[arg(long, global = true, env = "QUORATE_SESSION", value_name = "FILE", hide_env_values = true)]
    pub(crate) session: Option<PathBuf>,
    /// The same, once it is read.
    #[arg(skip)]
    pub(crate) in_session: Option<Session>,
}

/// The longest time limit that nodes accept.
const MAX_TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:2379";

impl ClientArgs {
    pub(crate) fn client(&self) -> Client {
        let client = Client::new(self.endpoints(), Options { timeout: self.timeout, ..Options::default() });
        self.in_session.iter().fold(client, |client, session| client.in_session(session))
    }

    /// The endpoints to use.
    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        self.given_endpoints().unwrap_or_else(|| vec![DEFAULT_ENDPOINT.parse().expect("the default endpoint is one")])
    }

    /// The endpoints, if some were named.
    pub(crate) fn given_endpoints(&self) -> Option<Vec<Endpoint>> {
        self.endpoints.clone().filter(|endpoints| !endpoints.is_empty())
    }

    /// How long a request may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn keyspace(&self) -> &str {
        self.keyspace.as_deref().unwrap_or(key::DEFAULT_KEYSPACE)
    }

    /// The keyspace, if one was named.
    pub(crate) fn given_keyspace(&self) -> Option<&str> {
        self.keyspace.as_deref()
    }
}

/// A key on the command line.
#[derive(Clone, Debug, Args)]
pub(crate) struct KeyArgs {
    /// The key: any bytes
    #[arg(add = ArgValueCompleter::new(completion::keys))]
    key: OsString,
    /// KEY is base64url, for keys that no shell can carry
    #[arg(long)]
    key64: bool,
}

impl KeyArgs {
    pub(crate) fn bytes(self) -> Result<Vec<u8>, Failure> {
        key_bytes(self.key, self.key64)
    }
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct FreshnessArgs {
    /// Take what the asked node has, perhaps a little old, without asking the others
    #[arg(long)]
    local: bool,
    /// Wait until the node has this revision
    #[arg(long, value_name = "N")]
    min_revision: Option<u64>,
}

impl FreshnessArgs {
    pub(crate) fn options(&self) -> GetOptions {
        let consistency = if self.local { Consistency::Local } else { Consistency::Linearizable };
        GetOptions { consistency, min_revision: self.min_revision, revision: None }
    }
}

/// What is read: how fresh, or how old.
#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    freshness: FreshnessArgs,
    /// As it was at revision N, where the keyspace keeps history
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    revision: Option<u64>,
}

impl ReadArgs {
    pub(crate) fn options(&self) -> GetOptions {
        GetOptions { revision: self.revision, ..self.freshness.options() }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) key: KeyArgs,
    /// The value; @FILE reads a file, - reads standard input
    #[arg(allow_negative_numbers = true)]
    pub(crate) value: OsString,
    /// Only if the key's last change was at revision N; 0: only if it is not there
    #[arg(long, value_name = "N", conflicts_with = "if_absent")]
    pub(crate) cas: Option<u64>,
    /// Only if the key is not there
    #[arg(long)]
    pub(crate) if_absent: bool,
    /// The media type to keep with the value
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
    /// What to note beside the value; can be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_meta)]
    meta: Vec<(String, String)>,
    /// After how long the pair goes by itself, like 30s or 2h; only where keys may go by themselves
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) ttl: Option<Duration>,
    /// The lease that the pair hangs on, and with which it goes
    #[arg(long, value_name = "ID", value_parser = parse_id)]
    pub(crate) lease: Option<u64>,
    /// In an eventual keyspace, wait for so many other nodes, or for `all_up`, or for nobody: `local`
    #[arg(long, value_name = "WHOM")]
    pub(crate) ack: Option<Ack>,
}

impl PutArgs {
    pub(crate) fn meta(&self) -> Result<UserMeta, Failure> {
        let mut meta = UserMeta::default();
        let added = self.meta.iter().try_for_each(|(name, value)| meta.insert(name, value));
        added.map(|()| meta).map_err(|error| Failure::usage(error.to_string()))
    }
}

#[derive(Debug, Args)]
pub(crate) struct DelArgs {
    /// The key: any bytes
    #[arg(required_unless_present_any = MANY, add = ArgValueCompleter::new(completion::keys))]
    key: Option<OsString>,
    /// KEY, --prefix, --start and --end are base64url, for keys that no shell can carry
    #[arg(long)]
    key64: bool,
    /// Only if the key's last change was at revision N
    #[arg(long, value_name = "N", conflicts_with_all = MANY)]
    pub(crate) cas: Option<u64>,
    /// In an eventual keyspace, wait for so many other nodes, or for `all_up`, or for nobody: `local`
    #[arg(long, value_name = "WHOM", conflicts_with_all = MANY)]
    pub(crate) ack: Option<Ack>,
    #[command(flatten)]
    range: RangeArgs,
    /// All keys of the keyspace
    #[arg(long, conflicts_with_all = ["key", "prefix", "start", "end"])]
    all: bool,
}

/// What makes `del` delete many keys.
const MANY: [&str; 4] = ["prefix", "start", "end", "all"];

/// What `del` deletes.
pub(crate) enum Deletion {
    Key(Vec<u8>),
    Many(Selection),
    Everything,
}

impl DelArgs {
    pub(crate) fn deletion(&self) -> Result<Deletion, Failure> {
        if let Some(key) = self.key.clone() {
            return Ok(Deletion::Key(key_bytes(key, self.key64)?));
        }
        let selection = self.range.selection(self.key64)?;
        match (self.all, selection.is_everything()) {
            (true, _) => Ok(Deletion::Everything),
            (false, true) => Err(Failure::usage("an empty selection is every key: say --all if that is meant")),
            (false, false) => Ok(Deletion::Many(selection)),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct TxnArgs {
    /// Where it stands, as JSON; - is standard input
    #[arg(conflicts_with_all = ["compares", "then", "otherwise"])]
    pub(crate) file: Option<PathBuf>,
    /// What must hold; can be given several times
    #[arg(long = "if", value_name = "COMPARE")]
    pub(crate) compares: Vec<String>,
    /// What to do if all of it holds; can be given several times
    #[arg(long, value_name = "OPERATION")]
    pub(crate) then: Vec<String>,
    /// What to do if not; can be given several times
    #[arg(long = "else", value_name = "OPERATION")]
    pub(crate) otherwise: Vec<String>,
}

impl TxnArgs {
    /// Whether it stands on the command line.
    pub(crate) fn has_words(&self) -> bool {
        !(self.compares.is_empty() && self.then.is_empty() && self.otherwise.is_empty())
    }
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    #[command(flatten)]
    amount: AmountArgs,
    /// Show keys with this text behind PREFIX as one folder, like / for paths
    #[arg(long, value_name = "TEXT")]
    delimiter: Option<OsString>,
    /// Only how many keys there are
    #[arg(long, conflicts_with_all = ["limit", "all", "delimiter", "reverse", "values"])]
    pub(crate) count: bool,
    /// From the last to the first
    #[arg(long)]
    pub(crate) reverse: bool,
    /// With values
    #[arg(long)]
    pub(crate) values: bool,
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
}

#[derive(Debug, Args)]
struct AmountArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// All, however many
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

#[derive(Debug, Args)]
struct SelectionArgs {
    /// Only keys that begin so
    #[arg(add = ArgValueCompleter::new(completion::keys))]
    prefix: Option<OsString>,
    /// PREFIX, --start and --end are base64url
    #[arg(long)]
    key64: bool,
    /// From this key on
    #[arg(long, value_name = "KEY", add = ArgValueCompleter::new(completion::keys))]
    start: Option<OsString>,
    /// Up to this key, which is not listed
    #[arg(long, value_name = "KEY", add = ArgValueCompleter::new(completion::keys))]
    end: Option<OsString>,
}

impl SelectionArgs {
    fn selection(&self) -> Result<Selection, Failure> {
        let Self { prefix, key64, start, end } = self;
        selection([prefix, start, end], *key64)
    }
}

/// A range, of a command that takes a single key as well.
#[derive(Debug, Args)]
struct RangeArgs {
    /// All keys that begin so
    #[arg(long, value_name = "KEY", conflicts_with = "key", add = ArgValueCompleter::new(completion::keys))]
    prefix: Option<OsString>,
    /// All keys from this one on
    #[arg(long, value_name = "KEY", conflicts_with = "key", add = ArgValueCompleter::new(completion::keys))]
    start: Option<OsString>,
    /// All keys before this one
    #[arg(long, value_name = "KEY", conflicts_with = "key", add = ArgValueCompleter::new(completion::keys))]
    end: Option<OsString>,
}

impl RangeArgs {
    fn selection(&self, is_base64: bool) -> Result<Selection, Failure> {
        selection([&self.prefix, &self.start, &self.end], is_base64)
    }
}

fn selection(texts: [&Option<OsString>; 3], is_base64: bool) -> Result<Selection, Failure> {
    let [prefix, start, end] = texts.map(|text| text.clone().map(|text| key_bytes(text, is_base64)).transpose());
    Ok(Selection { prefix: prefix?.unwrap_or_default(), start: start?, end: end? })
}

impl LsArgs {
    pub(crate) fn selection(&self) -> Result<Selection, Failure> {
        self.selection.selection()
    }

    /// What makes folders; nothing does if it is empty.
    pub(crate) fn delimiter(&self) -> Result<Vec<u8>, Failure> {
        match self.delimiter.clone().map(OsString::into_vec) {
            Some(delimiter) if delimiter.is_empty() => Err(Failure::usage("--delimiter: every key has nothing in it")),
            delimiter => Ok(delimiter.unwrap_or_default()),
        }
    }

    /// The most keys to list.
    pub(crate) fn max_keys(&self) -> u64 {
        self.amount.max()
    }
}

impl AmountArgs {
    fn max(&self) -> u64 {
        if self.all { u64::MAX } else { self.limit }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Where to; - is standard output. A file comes into its place once it is whole
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// Only keys that begin so
    #[arg(long, add = ArgValueCompleter::new(completion::keys))]
    prefix: Option<OsString>,
    /// The prefix is base64url
    #[arg(long, requires = "prefix")]
    key64: bool,
    #[command(flatten)]
    pub(crate) reading: ReadArgs,
}

impl ExportArgs {
    pub(crate) fn prefix(&self) -> Result<Vec<u8>, Failure> {
        self.prefix.clone().map_or(Ok(Vec::new()), |prefix| key_bytes(prefix, self.key64))
    }
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Where from; - is standard input
    #[arg(default_value = "-")]
    pub(crate) file: PathBuf,
    /// Leave out the first N lines, which an import that was interrupted has done
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) skip: u64,
    /// Go on with the next line after one that cannot be written; each is told, and the exit code is 1
    #[arg(long)]
    pub(crate) continue_on_error: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Show one interval, and end
    #[arg(long)]
    pub(crate) once: bool,
    /// Length of an interval
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Nodes and shards, as the answering node sees them
    Status,
    /// The nodes
    Members,
    /// Remove a node for good, such as one that lost its disk
    Remove {
        /// The node's name
        #[arg(add = ArgValueCompleter::new(completion::nodes))]
        name: String,
    },
    /// Hand leadership over: of one keyspace with --keyspace, else of all
    TransferLeader {
        /// To this node; without it, to the voter that is furthest
        #[arg(add = ArgValueCompleter::new(completion::nodes))]
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Use this port and those after it, two for each node [default: 2379 if they are free, else any]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) base_port: Option<u16>,
    /// Keep the data in this folder, and go on with what is there
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

fn key_bytes(text: OsString, is_base64: bool) -> Result<Vec<u8>, Failure> {
    let bytes = text.into_vec();
    if !is_base64 {
        return Ok(bytes);
    }
    text64::decode(&bytes).map_err(|error| Failure::usage(format!("with --key64, keys are base64url: {error}")))
}

fn parse_meta(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration::parse(text).map_err(|error| error.to_string())?;
    if timeout.is_zero() || timeout > MAX_TIMEOUT {
        return Err("a time limit is 1ms to 1m".to_owned());
    }
    Ok(timeout)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::{Cli, Command, Deletion};
    use crate::output::Format;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn client_options_stand_before_or_after_the_command() {
        for line in ["quorate -e a:1,http://b:2 -k ks -o json get k", "quorate get k -e a:1 -e http://b:2 -k ks -o json"] {
            let cli = parse(line).unwrap();
            let endpoints: Vec<String> = cli.client.endpoints().iter().map(ToString::to_string).collect();
            assert_eq!(endpoints, ["http://a:1", "http://b:2"], "{line}");
            assert_eq!((cli.client.keyspace(), cli.client.output), ("ks", Some(Format::Json)), "{line}");
        }
        let cli = parse("quorate get k").unwrap();
        assert_eq!(cli.client.endpoints()[0].to_string(), "http://127.0.0.1:2379");
        assert_eq!((cli.client.keyspace(), cli.client.given_keyspace()), ("default", None));
    }

    #[test]
    fn mistakes_are_wrong_usage() {
        for line in [
            "quorate get",
            "quorate get k v",
            "quorate put k",
            "quorate put k v --cas 1 --if-absent",
            "quorate put k v --cas x",
            "quorate ls --limit 0",
            "quorate ls --all --limit 5",
            "quorate ls --count --values",
            "quorate put k v --meta owner",
            "quorate del",
            "quorate del k --prefix a",
            "quorate del k --all",
            "quorate del --all --start a",
            "quorate del --prefix a --cas 5",
            "quorate get k -e nowhere",
            "quorate get k -o xml",
            "quorate get k --timeout 5",
            "quorate get k --timeout 0ms",
            "quorate get k --timeout 2m",
            "quorate demo --nodes 0",
            "quorate demo --nodes 10",
            "quorate cluster remove",
            "quorate keyspace",
            "quorate keyspace create",
            "quorate keyspace create a b",
            "quorate keyspace create a --option max_bytes",
            "quorate keyspace alter a --mode none",
            "quorate keyspace delete",
            "quorate completions tcsh",
            "quorate discover",
            "quorate readmit",
            "quorate discover a:1 --dns-server localhost",
            "quorate bench mix --reads-percent 0",
            "quorate bench put --reads-percent 50",
            "quorate bench put --rate 0",
            "quorate bench put --value-bytes 1-17MiB",
            "quorate bench get --pick often",
            "quorate bench bare --pids 1",
            "quorate export --key64",
            "quorate import a b",
            "quorate import --skip -1",
            "quorate import --skip 1 --skip 2",
            "quorate frobnicate",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn keys_are_bytes() {
        let key = |line: &str| match parse(line).unwrap().command {
            Command::Del(args) => args.deletion().map(|deletion| match deletion {
                Deletion::Key(key) => key,
                Deletion::Many(_) | Deletion::Everything => panic!("{args:?}"),
            }),
            other => panic!("{other:?}"),
        };
        assert_eq!(key("quorate del a/../b").unwrap(), b"a/../b");
        assert_eq!(key("quorate del --key64 _w").unwrap(), b"\xff");
        assert_eq!(key("quorate del --key64 _w==").unwrap(), b"\xff");
        assert!(key("quorate del --key64 ?").is_err());
        assert_eq!(key("quorate del -- -k").unwrap(), b"-k");
    }

    #[test]
    fn many_keys_are_deleted_if_that_is_said() {
        let deletion = |line: &str| match parse(line).unwrap().command {
            Command::Del(args) => args.deletion(),
            other => panic!("{other:?}"),
        };
        assert!(matches!(deletion("quorate del --all"), Ok(Deletion::Everything)));
        let Ok(Deletion::Many(selection)) = deletion("quorate del --prefix _w --end YQ --key64") else { panic!("not many") };
        assert_eq!((selection.prefix, selection.start, selection.end), (b"\xff".to_vec(), None, Some(b"a".to_vec())));
        assert!(deletion("quorate del --prefix=").is_err());
        assert!(deletion("quorate del --start= --end=").is_err());
    }

    #[test]
    fn values_may_look_like_numbers() {
        let Command::Put(args) = parse("quorate put k -1").unwrap().command else { panic!("not put") };
        assert_eq!(args.value, "-1");
    }
}
