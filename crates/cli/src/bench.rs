//! `quorate bench`: load in a closed or an open loop, with rates and latencies.

pub(crate) mod args;
mod bare;
mod compare;
mod connection;
mod keys;
mod load;
mod pace;
mod process_usage;
mod report;
mod tally;
mod watch;
mod workload;

use std::io::{self, IsTerminal as _};

use crate::args::ClientArgs;
use crate::exit::Failure;
use crate::output::Output;

#[cfg(test)]
pub(crate) use load::now;

use args::{BenchCommand, BesideArgs, LoadArgs, ReadArgs};
use workload::{Mix, Operation, Workload};

pub(crate) async fn run(command: BenchCommand, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let results = match command {
        BenchCommand::Put { load, beside } => measure(Mix::Only(Operation::Put), load, false, &beside, client).await?,
        BenchCommand::Get { load, reads, beside } => {
            measure(Mix::Only(read(&reads)), load, !reads.no_fill, &beside, client).await?
        }
        BenchCommand::Mix { reads_percent, load, reads, beside } => {
            let mix = Mix::ReadsAndPuts { read: read(&reads), reads_percent };
            measure(mix, load, !reads.no_fill, &beside, client).await?
        }
        BenchCommand::Bare(load) => bare::measure(&shown(load)).await?,
        BenchCommand::Watch(args) => {
            watch::run(&args, client, &mut output).await?;
            return output.finish();
        }
        BenchCommand::Compare { load, nodes } => compare::measure(&shown(load), nodes, client).await?,
    };
    report::print(&mut output, &results)?;
    output.finish()
}

async fn measure(
    mix: Mix,
    load: LoadArgs,
    is_filled_first: bool,
    beside: &BesideArgs,
    client: &ClientArgs,
) -> Result<Vec<report::Measured>, Failure> {
    let workload = Workload::new(mix, client.keyspace(), &shown(load));
    let endpoints = client.endpoints();
    if is_filled_first {
        load::fill(&workload, &endpoints).await?;
    }
    compare::measure_beside(&workload, &endpoints, beside).await
}

fn read(reads: &ReadArgs) -> Operation {
    if reads.local { Operation::LocalGet } else { Operation::Get }
}

/// On a terminal every second is shown without being asked for.
fn shown(mut load: LoadArgs) -> LoadArgs {
    load.live |= io::stderr().is_terminal();
    load
}
