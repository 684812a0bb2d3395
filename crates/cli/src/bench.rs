//! `quorate bench`: load in a closed loop, with rates and latencies.

pub(crate) mod args;
mod bare;
mod compare;
mod connection;
mod load;
mod process_usage;
mod report;
mod workload;

use crate::args::ClientArgs;
use crate::exit::Failure;
use crate::output::Output;

use args::BenchCommand;
use workload::{Operation, Workload};

pub(crate) async fn run(command: BenchCommand, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    let results = match command {
        BenchCommand::Put(load) => vec![measure(Operation::Put, &load, client).await?],
        BenchCommand::Get { load, local } => {
            let operation = if local { Operation::LocalGet } else { Operation::Get };
            vec![measure(operation, &load, client).await?]
        }
        BenchCommand::Bare(load) => bare::measure(&load).await?,
        BenchCommand::Compare { load, nodes } => compare::measure(&load, nodes, client).await?,
    };
    report::print(&mut output, &results)?;
    output.finish()
}

async fn measure(operation: Operation, load: &args::LoadArgs, client: &ClientArgs) -> Result<report::Measured, Failure> {
    let workload = Workload::new(operation, client.keyspace(), load);
    if operation != Operation::Put {
        load::fill(&workload, &client.endpoints()).await?;
    }
    load::run(&workload, &client.endpoints()).await
}
