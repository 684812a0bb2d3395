//! A server that does nothing, to measure by: what HTTP over loopback costs on this machine, whatever stands behind it.

use std::io;
use std::net::Ipv4Addr;
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::put;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use quorate_client::Endpoint;
use tokio::sync::oneshot;

use super::args::{LoadArgs, MAX_VALUE_BYTES};
use super::report::Measured;
use super::workload::{Mix, Operation, Workload};
use super::{load, process_usage};
use crate::exit::Failure;

/// Puts, then gets.
pub(super) async fn measure(load: &LoadArgs) -> Result<Vec<Measured>, Failure> {
    let workload = Workload::new(Mix::Only(Operation::Put), quorate_api::key::DEFAULT_KEYSPACE, load);
    let server = BareServer::start(workload.values.middle())?;
    let mut all = server.measure(&workload).await?;
    all.extend(server.measure(&workload.with_mix(Mix::Only(Operation::Get))).await?);
    Ok(all)
}

/// What the server's threads are called; Linux tells each thread's processor time.
const THREAD_NAME: &str = "bare-server";

/// An axum server on a thread of its own, with as many workers as a node would have. It stops when it is dropped.
#[derive(Debug)]
pub(super) struct BareServer {
    endpoint: Endpoint,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl BareServer {
    /// `PUT` answers what it was sent, `GET` answers `value`, under any key.
    pub(super) fn start(value: Bytes) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot start the bare server: {error}"));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().thread_name(THREAD_NAME).enable_all().build().map_err(failed)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let endpoint = address.to_string().parse().map_err(|error| Failure::failed(format!("{error}")))?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // What ends it early shows as errors of the load.
                    _ = serve(listener, value) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { endpoint, stop: Some(stop), thread: Some(thread.map_err(failed)?) })
    }

    pub(super) async fn measure(&self, workload: &Workload) -> Result<Vec<Measured>, Failure> {
        let cpu_s = || process_usage::threads_cpu_s(THREAD_NAME);
        let mut measured = process_usage::with_cpu(cpu_s, load::run(workload, std::slice::from_ref(&self.endpoint))).await?;
        measured[0].what.insert_str(0, "bare ");
        Ok(measured)
    }
}

impl Drop for BareServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: std::net::TcpListener, value: Bytes) -> io::Result<()> {
    let routes = Router::new()
        .route("/v1/kv/{keyspace}/{*key}", put(async |body: Bytes| body).get(async move || value.clone()))
        .layer(DefaultBodyLimit::max(MAX_VALUE_BYTES as usize));
    let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|stream| {
        // Without it the measurement would be of the system's delayed acknowledgements.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, routes).await
}
