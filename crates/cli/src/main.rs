//! The binary `quorate`: starts nodes, and talks to them.
//!
//! Each command is a module; what they share is how they are called ([`args`]), how they end ([`exit`]) and how they print
//! ([`output`]). *Must not know*: anything that is not reached through the client library or the server's entry point.

mod args;
mod backup;
mod bench;
mod cluster;
mod completion;
mod demo;
mod discover;
mod engine_move;
mod exit;
mod export;
mod history;
mod import;
mod interrupt;
mod keys;
mod keyspace;
mod lease;
mod lock;
mod log_output;
mod output;
mod pair_line;
mod patch;
mod printable;
mod progress;
mod replication;
mod server;
mod session;
mod top;
mod txn;
mod value_source;
mod watch;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command};
use exit::Failure;
use output::Output;

fn main() -> ExitCode {
    if let Some(answered) = completion::maybe_answer() {
        return answered;
    }
    match Cli::try_parse() {
        Ok(cli) => exit::report(run(cli)),
        Err(usage) => {
            // Help goes to stdout, mistakes to stderr; neither can be told to anybody if that fails.
            let _ = usage.print();
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1))
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Server(args) => server::run(*args),
        Command::Readmit { folder } => server::readmit(&folder, cli.client.output),
        Command::Completions { shell } => Output::new(output::Format::Raw).finish_with(&completion::script(shell)?),
        command => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::failed(format!("cannot start: {error}")))?
            .block_on(in_session(command, cli.client)),
    }
}

/// What was seen is kept, also by a command that failed.
async fn in_session(command: Command, mut client: args::ClientArgs) -> Result<(), Failure> {
    let Some(file) = client.session.clone() else { return run_client_command(command, &client).await };
    let session = session::read(&file)?;
    let before = session.tokens();
    client.in_session = Some(session.clone());
    let ended = run_client_command(command, &client).await;
    let kept = if session.tokens() == before { Ok(()) } else { session::keep(&session, &before, &file) };
    // What the command came to is of more use than that it could not be kept.
    ended.and(kept)
}

async fn run_client_command(command: Command, client: &args::ClientArgs) -> Result<(), Failure> {
    match command {
        Command::Get(args) => keys::get(args, client).await,
        Command::Put(args) => keys::put(args, client).await,
        Command::Del(args) => keys::del(args, client).await,
        Command::Incr(args) => patch::incr(args, client).await,
        Command::Append(args) => patch::append(args, client).await,
        Command::Touch(args) => patch::touch(args, client).await,
        Command::Patch(args) => patch::patch(args, client).await,
        Command::Ls(args) => keys::ls(args, client).await,
        Command::History(args) => history::history(args, client).await,
        Command::Diff(args) => history::diff(args, client).await,
        Command::Txn(args) => txn::run(args, client).await,
        Command::Watch(args) => watch::run(args, client).await,
        Command::Export(args) => export::run(args, client).await,
        Command::Import(args) => import::run(args, client).await,
        Command::Backup(args) => backup::run(args, client).await,
        Command::Restore(args) => backup::restore(args, client).await,
        Command::Cluster { command } => cluster::run(command, client).await,
        Command::Keyspace { command } => keyspace::run(command, client).await,
        Command::Engines => keyspace::engines(client).await,
        Command::Modes => replication::modes(client).await,
        Command::Lease { command } => lease::run(command, client).await,
        Command::Lock(args) => lock::lock(args, client).await,
        Command::Elect(args) => lock::elect(args, client).await,
        Command::Demo(args) => demo::run(args, client).await,
        Command::Discover(args) => discover::run(args, client).await,
        Command::Top(args) => top::run(args, client).await,
        Command::Bench { command } => bench::run(command, client).await,
        Command::Server(_) | Command::Readmit { .. } | Command::Completions { .. } => {
            unreachable!("these need no runtime of ours")
        }
    }
}
