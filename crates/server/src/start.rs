//! From settings to a running node, and back down again.

use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_api::cluster::{AddressChange, JoinRequest};
use quorate_discovery::{Discovery, Entry, Options as DiscoveryOptions};
use quorate_engine::Engines;
use quorate_external::{AllowedCredentials, Surroundings};
use quorate_log::{Log, LogError, Options, RealDisk};
use quorate_node::{Config as NodeConfig, Identity, Node, NodeStatus, OpenError, StopReason};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::abort::AbortOnPanic;
use crate::clock::Clock;
use crate::config::{ConfigError, ServerConfig};
use crate::data_dir::{DataDir, DataDirError, Member, NodeFile};
use crate::formation::{Durable, Forming};
use crate::job_workers::JobWorkers;
use crate::joining::{JoinError, JoinRefused, Outcome, join_or_found};
use crate::log_writer::LogWriter;
use crate::node_loop::{LoopHandle, NodeLoop};
use crate::node_store::{NodeStore, Running};
use crate::open_files;
use crate::outside_engines::OutsideEngines;
use crate::outside_stores::OutsideStores;
use crate::peer_events::ToLoop;
use crate::peers::{PeerConfig, Peers};
use crate::rest::{self, RestConfig};
use crate::starts::{KeptStarts, Tracking};
use crate::waiting::Waiting;
use crate::whereabouts::Whereabouts;

/// Why a node did not start, or ended by itself. One line for people.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; is another program using the port?")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The log cannot be opened.
    #[error("data folder {path}: {source}")]
    Log {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: LogError,
    },
    /// What the folder holds cannot be used.
    #[error("data folder {path}: {source}")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The cluster does not let the node in.
    #[error(transparent)]
    Join(#[from] JoinRefused),
    /// An empty folder, beyond loopback, and no word of a new cluster.
    #[error(
        "data folder {0} is empty: give --join HOST:PORT to join a cluster, --expect N beside it to begin one together, or \
         --new-cluster to start one alone (a node that lost its folder must not come back as an empty cluster)"
    )]
    NeitherNewNorJoining(PathBuf),
    /// The configuration was not validated.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Threads, timers, signals.
    #[error("cannot start: {0}")]
    System(#[from] std::io::Error),
    /// The node cannot go on.
    #[error("{0}")]
    Broken(String),
    /// The node was removed from its cluster.
    #[error(
        "this node was removed from the cluster; its data folder is of no more use: to come back, start with an empty one and \
         --join"
    )]
    Removed,
    /// Other nodes refuse the node's data.
    #[error(
        "the other nodes refuse this node's data: {why}. The data folder {path} is a copy, or was put back from an older one: \
         with it the node would break what it has promised, and bring back what was deleted. Remove the node (quorate cluster \
         remove {name}), and start it with an empty folder and --join. Only if all nodes' disks were set back: quorate readmit \
         {path}"
    )]
    Outdated {
        /// The node.
        name: String,
        /// Its folder.
        path: PathBuf,
        /// What a peer said.
        why: String,
    },
}

/// What is ready before the node runs.
struct Prepared {
    folder: Arc<DataDir>,
    log: Log<RealDisk>,
    identity: Identity,
    member: Member,
    /// What is told of the log's end.
    log_end: u64,
}

/// Takes back that other nodes refused the node's data in this folder: they let its next starts in, whatever it has lost. The
/// node's name, or nothing if nobody had refused it. Blocks; fails where the folder is no node's, or a process has it open.
pub fn readmit(path: &Path) -> Result<Option<String>, DataDirError> {
    if !path.is_dir() {
        let source = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(DataDirError::Io { path: path.to_owned(), source });
    }
    DataDir::open(path)?.readmit()
}

/// Runs a node until it is told to stop by SIGTERM or SIGINT. Blocks.
pub fn run(mut config: ServerConfig) -> Result<(), StartError> {
    config.max_connections = open_files::possible_connections(config.max_connections as u32, open_files::raise_limit()) as usize;
    let clients = listen(&config.listen)?;
    let peers = listen(&config.peer_listen)?;
    let folder = Arc::new(DataDir::open(&config.data_dir)?);
    let file = folder.read(&config.name)?;
    let is_unclear = file.as_ref().is_none_or(|file| file.member.is_none())
        && config.join.is_empty()
        && config.expect.is_none()
        && !config.new_cluster
        && !config.is_loopback_only();
    if is_unclear {
        return Err(StartError::NeitherNewNorJoining(config.data_dir));
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    config.io_threads.map(|threads| runtime.worker_threads(threads));
    let runtime = runtime.enable_all().thread_name("io").build()?;
    let ended = runtime.block_on(serve(config, folder, file, (clients, peers)));
    // What has not ended by now was given up.
    runtime.shutdown_timeout(LAST_PATIENCE);
    ended
}

/// How long the process waits for tasks that are of no more use.
const LAST_PATIENCE: Duration = Duration::from_millis(500);

/// Connections that the system completes before the node accepts them; it may allow fewer. std's own 128 are full when
/// thousands of clients come back at once, and those beyond it try again after a second.
const ACCEPT_QUEUE: i32 = 4096;

/// Listens at the first of the name's addresses where that is possible.
fn listen(address: &str) -> Result<StdListener, StartError> {
    let failed = |source| StartError::Listen { address: address.to_owned(), source };
    let mut last_error = std::io::Error::other("the name has no address");
    for each in address.to_socket_addrs().map_err(failed)? {
        match listen_at(each) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(failed(last_error))
}

fn listen_at(address: SocketAddr) -> std::io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A node that starts again takes its port back from connections that the system still remembers.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPT_QUEUE)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

async fn serve(
    config: ServerConfig,
    folder: Arc<DataDir>,
    file: Option<NodeFile>,
    (clients, peers): (StdListener, StdListener),
) -> Result<(), StartError> {
    let clock = Clock::start();
    let waiting = Arc::new(Waiting::new(config.name.clone(), config.client_address().to_owned()));
    let store = Arc::new(NodeStore::new(config.name.clone(), Arc::clone(&waiting)));
    let discovery = discovery(&config)?;
    if !config.is_loopback_only() {
        tracing::warn!(
            listen = config.listen,
            peer_listen = config.peer_listen,
            "anybody who reaches these addresses can read and write"
        );
    }
    let (rest_stop, rest_stopped) = watch::channel(false);
    let rest = tokio::spawn(rest::serve(
        TcpListener::from_std(clients)?,
        Arc::clone(&store),
        Arc::new(rest_config(&config)),
        until(rest_stopped),
    ));
    let mut signals = Signals::new()?;
    let prepared = tokio::select! {
        prepared = prepare(&config, folder, file, (&discovery, &waiting)) => prepared?,
        () = signals.received() => {
            discovery.withdraw().await;
            return Ok(());
        }
    };
    let whereabouts = whereabouts(&config, &prepared);
    let (folder, start_id) = (Arc::clone(&prepared.folder), prepared.member.start_id);
    let Begun { handle, tracking, node_thread, log_thread } = begin(&config, prepared, peers, clock, &store)?;
    let tracked = tokio::spawn(tracking.clone().run());
    let asked_to_end = tokio::select! {
        _ = handle.stopped() => false,
        () = whereabouts.keep(&handle, &tracking.peers, &discovery) => unreachable!("it is kept until the end"),
        () = signals.received() => true,
    };
    let mut rest = RestTask { stop: rest_stop, task: rest };
    if asked_to_end {
        let limit = Duration::from_millis(config.stop_timeout_ms);
        let is_done = tokio::select! {
            stopped = tokio::time::timeout(limit, stop(&config, &handle, &discovery, &mut rest)) => stopped.is_ok(),
            () = signals.received() => false,
        };
        if !is_done {
            // What was acknowledged is durable, and whoever waits for an answer knows that it may come or not.
            tracing::warn!("not everything has come to its end in time: it is left");
            return Ok(());
        }
    }
    let reason = handle.stopped().await;
    tracing::info!(?reason, "the node has ended");
    tracked.abort();
    if let StopReason::Outdated(why) = &reason
        && let Err(error) = folder.mark_outdated(&config.name, start_id, why)
    {
        tracing::error!(%error, "that other nodes refuse this folder cannot be noted in it");
    }
    rest.end().await;
    let _ = node_thread.join();
    let _ = log_thread.join();
    tracking.finish().await;
    match reason {
        StopReason::ShutDown => Ok(()),
        StopReason::Removed => Err(StartError::Removed),
        StopReason::Outdated(why) => Err(outdated(&config, why)),
        StopReason::Broken(why) => Err(StartError::Broken(why)),
    }
}

/// The task that serves the REST API, and what ends it.
struct RestTask {
    stop: watch::Sender<bool>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl RestTask {
    /// Accepts no more, and waits until requests in flight are answered; both ends keep their own time limits.
    async fn end(&mut self) {
        let _ = self.stop.send(true);
        if !self.task.is_finished() {
            let _ = (&mut self.task).await;
        }
    }
}

/// Stops in an order in which nobody notices: first the node says that it is not ready, and nobody is sent to it any more, while
/// others take over what it leads; then connections end, each after the request that it has; then the node.
async fn stop(config: &ServerConfig, handle: &LoopHandle, discovery: &Discovery, rest: &mut RestTask) {
    tracing::info!("shutting down: handing leaderships over");
    let _ = handle.inputs.send(quorate_node::Input::Drain).await;
    let drained = async {
        while !handle.views.status.load().is_drained && !handle.is_stopped() {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    let delay = tokio::time::sleep(Duration::from_millis(config.stop_delay_ms));
    tokio::join!(drained, discovery.withdraw(), delay);
    tracing::info!("leaderships are handed over: ending connections");
    rest.end().await;
    let _ = handle.inputs.send(quorate_node::Input::ShutDown).await;
    handle.stopped().await;
}

/// How often the end of the handing over is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(10);

fn whereabouts(config: &ServerConfig, prepared: &Prepared) -> Whereabouts {
    let own = AddressChange {
        cluster_id: prepared.member.cluster_id.clone(),
        node_id: prepared.member.node_id,
        client_address: config.client_address().to_owned(),
        peer_address: config.peer_address().to_owned(),
    };
    Whereabouts { name: config.name.clone(), own }
}

/// Where this node looks for others, and shows itself to them. From here on, for as long as it runs: others look there for it.
fn discovery(config: &ServerConfig) -> Result<Discovery, ConfigError> {
    let entry = Entry { name: config.name.clone(), address: config.client_address().to_owned() };
    let options = DiscoveryOptions { dns_servers: config.dns_addresses()?, entry: Some(entry) };
    Ok(Discovery::start(config.join_specs()?, options))
}

/// Makes sure that the node is somebody: the first of a new cluster, or let in by others, or who it was before.
async fn prepare(
    config: &ServerConfig,
    folder: Arc<DataDir>,
    file: Option<NodeFile>,
    (discovery, waiting): (&Discovery, &Waiting),
) -> Result<Prepared, StartError> {
    let mut file = match file {
        Some(file) => file,
        None => {
            let file = NodeFile::new(&config.name, format!("{:016x}", draw()?));
            folder.write(&file)?;
            file
        }
    };
    if let Some(why) = file.member.as_ref().and_then(|member| member.outdated.clone()) {
        return Err(outdated(config, why));
    }
    let options = Options { max_log_bytes: config.max_log_bytes, ..Options::default() };
    let mut log = Log::open(folder.log()?, options).map_err(|source| log_error(config, source))?;
    let mut member = match file.member.take() {
        Some(member) => member,
        None if config.join.is_empty() && config.expect.is_none() => found(config, draw()?, &mut log)?,
        None => join(config, &folder, &file, &mut log, (discovery, waiting)).await?,
    };
    member.incarnation += 1;
    member.start_id = draw()?.max(1);
    let log_end = member.log_offset + log.last_sequence();
    file.member = Some(member.clone());
    folder.write(&file)?;
    folder.remove_formation()?;
    let identity = member.identity(&config.name).ok_or_else(|| damaged(config, "node.json names no cluster"))?;
    Ok(Prepared { folder, log, identity, member, log_end })
}

fn found(config: &ServerConfig, cluster: u64, log: &mut Log<RealDisk>) -> Result<Member, StartError> {
    let identity = Identity { cluster, node: 1, name: config.name.clone(), incarnation: 1 };
    let addresses = (config.client_address(), config.peer_address());
    Node::found(log, &identity, addresses, &node_config(config)).map_err(|source| open_error(config, source))?;
    Ok(Member::new(format!("{cluster:016x}"), 1, [].into()))
}

async fn join(
    config: &ServerConfig,
    folder: &DataDir,
    file: &NodeFile,
    log: &mut Log<RealDisk>,
    (discovery, waiting): (&Discovery, &Waiting),
) -> Result<Member, StartError> {
    if let Some(expect) = config.expect {
        let durable = match folder.read_formation()? {
            Some(durable) => durable,
            None => Durable { id: format!("{:016x}", draw()?), round: 0, promised: None, founds: None },
        };
        folder.write_formation(&durable)?;
        waiting.begin_forming(Forming::new(&config.name, expect, durable));
    }
    let request = JoinRequest {
        name: config.name.clone(),
        client_address: config.client_address().to_owned(),
        peer_address: config.peer_address().to_owned(),
        token: file.join_token.clone(),
    };
    match join_or_found(discovery, waiting, folder, &request).await? {
        Outcome::Founds(cluster) => {
            let id = u64::from_str_radix(&cluster, 16).map_err(|_| damaged(config, "formation.json names no cluster"))?;
            tracing::info!(cluster, "all nodes have promised: this one begins the cluster");
            found(config, id, log)
        }
        Outcome::Joined(answer) => {
            Node::join(log, &answer).map_err(|source| open_error(config, source))?;
            let first_peers = answer.peers.iter().map(|peer| (peer.node_id, peer.peer_address.clone())).collect();
            Ok(Member::new(answer.cluster_id, answer.node_id, first_peers))
        }
    }
}

fn outdated(config: &ServerConfig, why: String) -> StartError {
    StartError::Outdated { name: config.name.clone(), path: config.data_dir.clone(), why }
}

fn damaged(config: &ServerConfig, why: &str) -> StartError {
    StartError::Broken(format!("data folder {}: {why}", config.data_dir.display()))
}

impl From<JoinError> for StartError {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Refused(refused) => Self::Join(refused),
            JoinError::DataDir(error) => Self::DataDir(error),
            JoinError::Random(error) => Self::System(std::io::Error::other(error)),
        }
    }
}

/// What runs.
struct Begun {
    handle: LoopHandle,
    tracking: Tracking,
    node_thread: JoinHandle<()>,
    log_thread: JoinHandle<()>,
}

fn begin(
    config: &ServerConfig,
    prepared: Prepared,
    peer_listener: StdListener,
    clock: Clock,
    store: &NodeStore,
) -> Result<Begun, StartError> {
    let Prepared { folder, log, identity, member, log_end } = prepared;
    let files = folder.snapshots()?;
    let log_reader = log.reader();
    let now = clock.now();
    let seed_and_now = (draw()?, now);
    let surroundings = surroundings(config, &identity)?;
    let engines = Arc::new(OutsideEngines::new(folder.engines(draw()?)?, surroundings.clone(), clock));
    let opener: Arc<dyn Engines> = Arc::clone(&engines) as Arc<dyn Engines>;
    let stores = (Arc::clone(&files), Arc::clone(&opener));
    let node = Node::open(node_config(config), identity.clone(), log_reader.clone(), stores, seed_and_now)
        .map_err(|source| open_error(config, source))?;
    report_damage(&node.status());
    let (handle, queues) = LoopHandle::new(clock);
    let starts = Arc::new(KeptStarts::read(folder)?);
    let peer_config = PeerConfig {
        listen: peer_listener,
        cluster: identity.cluster,
        node: identity.node,
        incarnation: identity.incarnation,
        start_id: member.start_id,
        log_end,
        starts: starts.all(),
    };
    let events = ToLoop { inputs: handle.inputs.clone(), starts: Arc::clone(&starts) };
    let peers = Peers::start(peer_config, Arc::new(events))?;
    peers.set_addresses(member.first_peers);
    let log_offset = member.log_offset;
    let jobs = JobWorkers::start(&files, &opener, &handle.inputs)?;
    let (log, log_thread) = LogWriter::start(log)?;
    let outside = Arc::new(OutsideStores::new(surroundings));
    let (own_handle, own_peers, own_outside) = (handle.clone(), peers.clone(), Arc::clone(&outside));
    let own_log = log.clone();
    let node_loop = NodeLoop { node, handle: own_handle, log: own_log, log_reader, jobs, peers: own_peers, outside: own_outside };
    let io = tokio::runtime::Handle::current();
    let node_thread = std::thread::Builder::new().name("node".to_owned()).spawn(move || {
        let _guard = AbortOnPanic;
        let _io = io.enter();
        node_loop.run(queues);
    })?;
    store.begin(Running::new(handle.clone(), peers.clone(), (outside, engines), identity));
    let tracking = Tracking { peers, log, log_offset, kept: starts };
    Ok(Begun { handle, tracking, node_thread, log_thread })
}

/// What stores outside are opened with.
fn surroundings(config: &ServerConfig, identity: &Identity) -> Result<Surroundings, StartError> {
    Ok(Surroundings {
        node: identity.name.clone(),
        fs_roots: config.fs_roots.clone(),
        credentials: AllowedCredentials { variables: config.credentials_env.clone(), folders: config.credentials_dirs.clone() },
        clock: quorate_external::Clock::new(draw()?, Clock::calendar_ms),
    })
}

/// An engine that could not come back is made up for without anybody's help; whoever operates the node must hear of it all the
/// same, for the disk may be failing.
fn report_damage(status: &NodeStatus) {
    for replica in status.replicas.iter().filter(|replica| replica.is_rebuilding || replica.damage.is_some()) {
        let why = replica.damage.as_deref().unwrap_or("its snapshot file is missing");
        if replica.is_rebuilding {
            tracing::error!(
                keyspace = replica.keyspace,
                why,
                "an engine is lost and is filled again from the leader; until then the keyspace cannot be read at this node"
            );
        } else {
            tracing::error!(keyspace = replica.keyspace, why, "an engine was damaged and is filled again from snapshot and log");
        }
    }
}

fn node_config(config: &ServerConfig) -> NodeConfig {
    NodeConfig {
        tick_ms: config.heartbeat_ms,
        election_ticks: (config.election_ms / config.heartbeat_ms).max(2) as usize,
        default_max_bytes: config.max_keyspace_bytes,
        ..NodeConfig::default()
    }
}

fn rest_config(config: &ServerConfig) -> RestConfig {
    let mut rest = RestConfig::new(config.name.clone());
    rest.max_value_bytes = config.max_value_bytes;
    rest.max_keyspace_bytes = config.max_keyspace_bytes;
    rest.max_connections = config.max_connections as u32;
    rest.allowed_hosts = config.allow_hosts.iter().cloned().chain([config.client_address().to_owned()]).collect();
    rest.compat_post_key = config.compat_post_key;
    // Most of the time that a stop may take: handing over takes its part before.
    rest.shutdown_timeout = Duration::from_millis(config.stop_timeout_ms * 2 / 3);
    rest
}

fn log_error(config: &ServerConfig, source: LogError) -> StartError {
    StartError::Log { path: config.data_dir.clone(), source }
}

fn open_error(config: &ServerConfig, source: OpenError) -> StartError {
    StartError::Open { path: config.data_dir.clone(), source }
}

/// A number that nobody else draws: cluster ids, tokens, seeds.
fn draw() -> Result<u64, StartError> {
    getrandom::u64().map_err(|error| StartError::System(std::io::Error::other(error)))
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // The sender is gone only when the process ends.
    let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
}

/// What asks the process to end.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
