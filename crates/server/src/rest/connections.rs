//! Accepting connections, and ending them.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::activity::{Activity, HeadMemory, Patience, WatchedStream};
use super::config::RestConfig;
use super::endpoint::Endpoint;
use super::exchange;
use super::store::Store;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Requests in flight are finished, idle connections are closed.
    Draining,
    /// Connections are dropped.
    Stopped,
}

/// Longest head of a request: a path of 64 KiB, which is what URLs can be, and as much again for headers.
const MAX_HEAD_BYTES: usize = 128 << 10;

/// How long to wait before accepting again after the system refused, as it does when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the REST API on the listener until `shutdown` ends, then lets requests in flight finish, for as long as
/// [`RestConfig::shutdown_timeout`], and returns. The listener is closed first.
///
/// Errors: only if the listener's own address cannot be read. A connection's failures end that connection alone.
pub async fn serve<S: Store>(
    listener: TcpListener,
    store: Arc<S>,
    config: Arc<RestConfig>,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let endpoint = Arc::new(Endpoint::new(store, Arc::clone(&config), listener.local_addr()?));
    let heads = HeadMemory::new(&config);
    let slots = Arc::new(Semaphore::new(config.max_connections as usize));
    let (stage, stages) = watch::channel(Stage::Serving);
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => admit(stream, &endpoint, &heads, &slots, &stages),
                Err(error) => pause_accepting(&error).await,
            },
        }
    }
    drop(listener);
    endpoint.end_watches();
    drain(&stage, &slots, &config).await;
    Ok(())
}

/// Gives the connection a task if there is a slot for it, and closes it otherwise.
fn admit<S: Store>(
    stream: TcpStream,
    endpoint: &Arc<Endpoint<S>>,
    heads: &Arc<HeadMemory>,
    slots: &Arc<Semaphore>,
    stages: &watch::Receiver<Stage>,
) {
    match Arc::clone(slots).try_acquire_owned() {
        Ok(slot) => drop(tokio::spawn(run(stream, Arc::clone(endpoint), Arc::clone(heads), slot, stages.clone()))),
        Err(_) => endpoint.metrics().on_connection_refused(),
    }
}

async fn pause_accepting(error: &io::Error) {
    // Aborted before it was accepted: the client's affair.
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        tracing::warn!(%error, "a connection could not be accepted");
        sleep(ACCEPT_PAUSE).await;
    }
}

async fn drain(stage: &watch::Sender<Stage>, slots: &Semaphore, config: &RestConfig) {
    for (next, patience) in [(Stage::Draining, config.shutdown_timeout), (Stage::Stopped, Duration::from_secs(1))] {
        stage.send_replace(next);
        if timeout(patience, slots.acquire_many(config.max_connections)).await.is_ok() {
            return;
        }
    }
}

/// One connection, from its first byte to its last. The slot is held that long.
async fn run<S: Store>(
    stream: TcpStream,
    endpoint: Arc<Endpoint<S>>,
    heads: Arc<HeadMemory>,
    slot: OwnedSemaphorePermit,
    mut stages: watch::Receiver<Stage>,
) {
    let _open = endpoint.metrics().on_connection_opened();
    let _slot = slot;
    // Answers are written whole; waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    let activity = Activity::new(&heads);
    let mut patience = Patience::new(endpoint.config());
    let mut ticks = interval(Patience::tick(endpoint.config()));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();

    let io = TokioIo::new(WatchedStream::new(stream, Arc::clone(&activity), Arc::clone(endpoint.config())));
    let (endpoint, in_connection) = (&*endpoint, &activity);
    let service = service_fn(move |request| {
        let in_request = in_connection.begin_request();
        async move {
            let answer = endpoint.answer(request).await;
            Ok::<_, Infallible>(exchange::end_with(answer, in_request))
        }
    });
    let mut connection = pin!(http().serve_connection(io, service));
    loop {
        tokio::select! {
            biased;
            // An error here is the peer's (it went away, or did not speak HTTP), and hyper has answered what can be.
            _ = connection.as_mut() => return,
            changed = stages.changed() => match *stages.borrow() {
                Stage::Draining if changed.is_ok() => connection.as_mut().graceful_shutdown(),
                _ => return,
            },
            _ = ticks.tick() => if patience.is_over(&activity) { return },
        }
    }
}

/// hyper's own limit on the head's time would also cut idle connections: [`Patience`] keeps the two apart, at less cost.
fn http() -> http1::Builder {
    let mut http = http1::Builder::new();
    // What it reads ahead is bounded too; its default would let every connection keep three times as much.
    http.timer(TokioTimer::new()).header_read_timeout(None).max_header_size(MAX_HEAD_BYTES).max_buf_size(MAX_HEAD_BYTES);
    http
}
