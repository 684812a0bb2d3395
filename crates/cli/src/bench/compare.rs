//! A cluster beside a server that does nothing, under the same load, in the same minute: absolute figures drift with the machine,
//! ratios do not.

use quorate_client::Endpoint;

use super::args::LoadArgs;
use super::bare::BareServer;
use super::report::Measured;
use super::workload::{Operation, Workload};
use super::{load, process_usage};
use crate::args::ClientArgs;
use crate::demo::cluster::Cluster;
use crate::demo::node_process::NodeProcess;
use crate::exit::{Failure, note};

/// Puts, gets and local gets with all clients, then puts with one, each beside the bare server's.
pub(super) async fn measure(load: &LoadArgs, nodes: u16, client: &ClientArgs) -> Result<Vec<Measured>, Failure> {
    let workload = Workload::new(Operation::Put, client.keyspace(), load);
    let Some(endpoints) = client.given_endpoints() else {
        note(format_args!("quorate: starting {nodes} nodes"));
        let (mut cluster, _folder) = Cluster::start_temporary(nodes).await?;
        let pids: Vec<u32> = cluster.nodes().iter().map(NodeProcess::pid).collect();
        let measured = measure_all(&workload, &cluster.endpoints(), &pids).await;
        if let Some(mib) = pids.iter().filter_map(|&pid| process_usage::memory_mib(pid)).reduce(f64::max) {
            note(format_args!("quorate: the largest node takes {mib:.0} MiB of memory"));
        }
        cluster.stop().await?;
        return measured;
    };
    measure_all(&workload, &endpoints, &[]).await
}

async fn measure_all(workload: &Workload, endpoints: &[Endpoint], pids: &[u32]) -> Result<Vec<Measured>, Failure> {
    let bare = BareServer::start(workload.value.clone())?;
    load::fill(workload, endpoints).await?;
    let mut all = Vec::new();
    for (bare_operation, operations, clients) in [
        (Operation::Put, [Operation::Put].as_slice(), workload.clients),
        (Operation::Get, &[Operation::Get, Operation::LocalGet], workload.clients),
        (Operation::Put, &[Operation::Put], 1),
    ] {
        let workload = workload.with_clients(clients);
        let baseline = bare.measure(&workload.with_operation(bare_operation)).await?;
        let bare_rate = baseline.rate_per_s;
        all.push(baseline);
        for &operation in operations {
            let measured = measure_one(&workload.with_operation(operation), endpoints, pids).await?;
            all.push(Measured { ratio_to_bare: Some(measured.rate_per_s / bare_rate), ..measured });
        }
    }
    Ok(all)
}

/// With the processor time of the nodes, if their process ids are known.
async fn measure_one(workload: &Workload, endpoints: &[Endpoint], pids: &[u32]) -> Result<Measured, Failure> {
    let cpu_s = || pids.iter().filter_map(|&pid| process_usage::cpu_s(pid)).reduce(|sum, each| sum + each);
    let before = cpu_s();
    let measured = load::run(workload, endpoints).await?;
    // The warm-up's requests are paid for too, but not counted: the figure is a little too high rather than too low.
    let spent = before.zip(cpu_s()).map(|(before, after)| after - before);
    let per_100k = spent.filter(|_| measured.requests > 0).map(|spent| spent * 100_000.0 / measured.requests as f64);
    Ok(Measured { server_cpu_s_per_100k: per_100k, ..measured })
}
