//! `quorate demo`: a cluster of real processes on this machine.

pub(crate) mod cluster;
mod folder;
mod guide;
pub(crate) mod node_process;
mod ports;

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{ClientArgs, DemoArgs};
use crate::exit::{Failure, note};
use crate::output::{Format, Output};

use cluster::Cluster;
use folder::Folder;

/// How often the demo looks whether a node died.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Starts the nodes, says how to use them, and stops them on Ctrl-C.
pub(crate) async fn run(args: DemoArgs, client: &ClientArgs) -> Result<(), Failure> {
    let mut output = Output::without_raw(client.output)?;
    // Listened for before the first node runs: from here on, no Ctrl-C leaves a node or a folder behind.
    let mut stop = StopSignals::listen()?;
    let ports = ports::choose(args.nodes, args.base_port)?;
    let folder = Folder::for_demo(args.keep)?;
    let mut cluster = Cluster::start(&ports, &folder)?;
    let ready = tokio::select! {
        ready = cluster.until_ready() => ready,
        () = stop.next() => return cluster.stop().await,
    };
    if let Err(failure) = ready {
        cluster.kill();
        return Err(failure);
    }
    match output.format {
        Format::Json => output.json(&guide::description(&cluster, &folder))?,
        _ => guide::print(&mut output, &cluster, &folder)?,
    }
    output.flush()?;
    watch(&mut cluster, &mut stop).await;
    note("quorate: stopping the nodes");
    tokio::select! {
        stopped = cluster.stop() => stopped,
        // Asked twice, it does not wait.
        () = stop.next() => Ok(()),
    }
}

/// Reports nodes that died, until the demo is told to stop. The others go on: that is what they are for.
async fn watch(cluster: &mut Cluster, stop: &mut StopSignals) {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.next() => return,
        }
        for dead in cluster.newly_dead() {
            note(format_args!("quorate: {dead}"));
        }
    }
}

/// The signals that end a demo.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
