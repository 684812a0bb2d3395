//! A cluster beside a server that does nothing, under the same load, in the same minute: absolute figures drift with the machine,
//! ratios do not.

use quorate_client::Endpoint;

use super::args::{BesideArgs, LoadArgs};
use super::bare::BareServer;
use super::report::Measured;
use super::workload::{Mix, Operation, Workload};
use super::{load, process_usage};
use crate::args::ClientArgs;
use crate::demo::cluster::Cluster;
use crate::demo::node_process::NodeProcess;
use crate::exit::{Failure, note};

/// Puts, gets and local gets with all clients, then puts with one, each beside the bare server's.
pub(super) async fn measure(load: &LoadArgs, nodes: u16, client: &ClientArgs) -> Result<Vec<Measured>, Failure> {
    let workload = Workload::new(Mix::Only(Operation::Put), client.keyspace(), load);
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

/// One load on the nodes; if asked for, on the bare server first.
pub(super) async fn measure_beside(
    workload: &Workload,
    endpoints: &[Endpoint],
    beside: &BesideArgs,
) -> Result<Vec<Measured>, Failure> {
    if !beside.bare {
        return measure_one(workload, endpoints, &beside.pids).await;
    }
    let mut all = BareServer::start(workload.values.middle())?.measure(workload).await?;
    let bare_rate = all[0].rate_per_s;
    all.extend(measure_one(workload, endpoints, &beside.pids).await.map(|rows| with_ratio(rows, bare_rate))?);
    Ok(all)
}

async fn measure_all(workload: &Workload, endpoints: &[Endpoint], pids: &[u32]) -> Result<Vec<Measured>, Failure> {
    let bare = BareServer::start(workload.values.middle())?;
    load::fill(workload, endpoints).await?;
    let mut all = Vec::new();
    for (bare_operation, operations, clients) in [
        (Operation::Put, [Operation::Put].as_slice(), workload.clients),
        (Operation::Get, &[Operation::Get, Operation::LocalGet], workload.clients),
        (Operation::Put, &[Operation::Put], 1),
    ] {
        let workload = workload.with_clients(clients);
        let baseline = bare.measure(&workload.with_mix(Mix::Only(bare_operation))).await?;
        let bare_rate = baseline[0].rate_per_s;
        all.extend(baseline);
        for &operation in operations {
            let rows = measure_one(&workload.with_mix(Mix::Only(operation)), endpoints, pids).await?;
            all.extend(with_ratio(rows, bare_rate));
        }
    }
    Ok(all)
}

/// With the processor time of the nodes, if their process ids are known.
async fn measure_one(workload: &Workload, endpoints: &[Endpoint], pids: &[u32]) -> Result<Vec<Measured>, Failure> {
    process_usage::with_cpu(|| process_usage::processes_cpu_s(pids), load::run(workload, endpoints)).await
}

/// The ratio is told with the whole, not with the parts of a mix.
fn with_ratio(mut rows: Vec<Measured>, bare_rate: f64) -> Vec<Measured> {
    if let [whole, ..] = rows.as_mut_slice() {
        whole.ratio_to_bare = Some(whole.rate_per_s / bare_rate).filter(|ratio| ratio.is_finite());
    }
    rows
}
