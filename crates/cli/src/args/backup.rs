//! Backups on the command line.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BackupArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BackupCommand>,
    /// Where to. It comes into its place once it is whole
    #[arg(required = true)]
    pub(crate) file: Option<PathBuf>,
    /// Only these keyspaces, and not all
    #[arg(long, value_name = "NAME[,NAME...]", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// The keyspace of --only as it was at this revision, as far as its history goes
    #[arg(long, value_name = "N", requires = "only")]
    pub(crate) revision: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Read a backup to its end, and say whether it is whole
    Verify(BackupFileArgs),
    /// What is in a backup
    Show(BackupFileArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The backup; it is read to its end before anything is sent
    pub(crate) file: PathBuf,
    /// Only these keyspaces of it, and not all
    #[arg(long, value_name = "NAME[,NAME...]", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct BackupFileArgs {
    /// The file
    pub(crate) file: PathBuf,
}
