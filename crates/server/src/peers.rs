//! The peer transport: frames between this node and its peers, over four TCP connections per direction and pair.
//!
//! A node dials each peer once per [`Lane`] and only writes on what it dialled; what it accepted it only reads. So the
//! frames of one lane of one peer arrive in the order they were sent, answers travel on the answering node's own connection,
//! and no lane waits for another.
//!
//! - Outgoing connections, their queues and their redialling: `link`.
//! - Accepted connections, and who is let in: `inbound`.
//! - What both ends say first: `handshake`.
//!
//! Delivery is at most once. Whatever is queued when a connection ends is dropped, and reported with
//! [`PeerEvents::on_unreachable`]; what had been written may have arrived or not. Nothing here knows what frames mean, but for
//! [`Frame::LogEnd`], which goes no further.

mod handshake;
mod inbound;
mod link;
mod queue;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use quorate_api::peer::{Frame, Lane, Refusal, frame_bytes};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use handshake::Identity;
use inbound::Registry;
use link::Peer;

pub use queue::max_queued_bytes;

pub use crate::starts::Start;

/// What the transport starts with.
#[derive(Debug)]
pub struct PeerConfig {
    /// Where peers are accepted; bound already, so that its address is known and a busy port is the caller's error.
    pub listen: std::net::TcpListener,
    /// The cluster; nodes of any other are refused.
    pub cluster: u64,
    /// This node.
    pub node: u64,
    /// Which start of this node; greater than that of every earlier start.
    pub incarnation: u64,
    /// Drawn at this start; not 0.
    pub start_id: u64,
    /// The last batch in this node's log, or [`quorate_api::peer::Hello::UNCHECKED`].
    pub log_end: u64,
    /// The newest start seen of each node, as persisted: copies and older ones are refused from the beginning.
    pub starts: BTreeMap<u64, Start>,
}

/// Where a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The node that sent it.
    pub from: u64,
    /// Which start of that node, as it was when the connection was accepted.
    pub start: Start,
    /// The accepted connection. Later ones have greater numbers, over all nodes and lanes: once a frame of a later connection
    /// of the same node and lane is there, frames of an earlier one are to be dropped.
    pub connection: u64,
    /// The lane.
    pub lane: Lane,
}

/// A frame on its way to the node; the connection reads on when it resolves.
pub type Delivery<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// What the transport reports, from its own tasks.
///
/// Obligations: no method blocks its thread, and none waits for one connection's delivery in another's.
pub trait PeerEvents: Send + Sync + 'static {
    /// A frame arrived. The connection is not read further until the delivery resolves, so waiting for room in a bounded
    /// queue is what slows the sender down. A delivery may be dropped before it resolves, when its connection is closed.
    fn on_frame(&self, arrival: Arrival, frame: Frame) -> Delivery<'_>;

    /// Frames for this lane of this peer may have been lost: a connection ended, or could not be made. Called once per
    /// failure, so again and again while a peer is away.
    fn on_unreachable(&self, node: u64, lane: Lane);

    /// What is queued for this lane of this peer travels from now on.
    fn on_connected(&self, node: u64, lane: Lane);

    /// A peer says that this node can be no member: it was removed from the cluster, or its folder is outdated
    /// ([`quorate_api::peer::RefusalKind::is_outdated`]).
    fn on_cast_out(&self, refusal: &Refusal);
}

/// One lane of one peer, as it is now. Counters begin at 0 when the peer becomes known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStatus {
    /// The peer.
    pub node: u64,
    /// The lane.
    pub lane: Lane,
    /// Whether the connection that this node writes on is there.
    pub is_connected: bool,
    /// Whether the connection that this node reads from is there.
    pub is_receiving: bool,
    /// Frames that wait to be written.
    pub queued_frames: u64,
    /// Their bytes.
    pub queued_bytes: u64,
    /// Frames written.
    pub sent_frames: u64,
    /// Bytes written.
    pub sent_bytes: u64,
    /// Frames that [`Peers::send`] did not take because the queue was full.
    pub refused_frames: u64,
    /// Frames that were taken and then dropped with a connection, or for want of one.
    pub dropped_frames: u64,
    /// Frames received.
    pub received_frames: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Why the last connection ended or could not be made; nothing once there is one again.
    pub last_error: Option<String>,
}

/// The transport's handle; clones are the same transport.
///
/// *Life cycle*: runs from [`Peers::start`] until [`Peers::shutdown`], or until its runtime ends, whether a handle is left
/// or not. Knows no peer until [`Peers::set_addresses`].
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    local_address: SocketAddr,
}

impl Peers {
    /// Starts to accept. Panics outside of a tokio runtime.
    pub fn start(config: PeerConfig, events: Arc<dyn PeerEvents>) -> io::Result<Self> {
        config.listen.set_nonblocking(true)?;
        let listener = TcpListener::from_std(config.listen)?;
        let local_address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            identity: Identity {
                cluster: config.cluster,
                node: config.node,
                incarnation: config.incarnation,
                start_id: config.start_id,
                log_end: config.log_end,
            },
            events,
            known: RwLock::default(),
            next_node: AtomicU64::new(0),
            registry: Mutex::new(Registry::new(config.starts)),
            tasks: Mutex::new(Some(JoinSet::new())),
            runtime: Handle::current(),
        });
        shared.spawn(inbound::accept(Arc::clone(&shared), listener));
        Ok(Self { shared, local_address })
    }

    /// Makes these the peers: node id to `host:port`, which is resolved anew at each dial. New ones are dialled, those that
    /// are missing are disconnected in both directions, and changed addresses are redialled. This node's own entry is
    /// ignored.
    pub fn set_addresses(&self, addresses: BTreeMap<u64, String>) {
        let mut known = self.shared.known.write().expect(LOCK_HELD);
        let is_shut_down = self.shared.tasks().is_none();
        if is_shut_down {
            return;
        }
        known.retain(|node, peer| {
            let stays = addresses.contains_key(node);
            if !stays {
                peer.forget();
            }
            stays
        });
        for (node, address) in addresses {
            if node == self.shared.identity.node {
                continue;
            }
            match known.get(&node) {
                Some(peer) => peer.set_address(address),
                None => {
                    known.insert(node, self.start_peer(node, address));
                }
            }
        }
        drop(known);
        self.shared.registry().close_where(|node, _| self.shared.peer(node).is_none());
    }

    /// Dials the peer there from now on, until [`Self::set_addresses`] says otherwise. Nothing happens if it is no peer.
    pub fn redirect(&self, node: u64, address: &str) {
        if let Some(peer) = self.shared.peer(node) {
            peer.set_address(address.to_owned());
        }
    }

    /// Says that ids below `next_node` were given out: a node with such an id that is not among the peers was removed, and is
    /// told so. Before this is said, it is told that it is not known yet.
    pub fn set_next_node(&self, next_node: u64) {
        self.shared.next_node.fetch_max(next_node, Ordering::Relaxed);
    }

    /// Queues the frame for the peer; never blocks. False means that it was dropped: the peer is unknown, or the lane's
    /// queue has no room ([`max_queued_bytes`]); the caller treats the peer as unreachable.
    ///
    /// A frame that no queue and no receiver would ever take is a fault of the caller, which is to split what it sends: it
    /// is logged as an error, and dropped likewise.
    pub fn send(&self, to: u64, lane: Lane, frame: Frame) -> bool {
        let bytes = match frame_bytes(&frame) {
            Ok(bytes) if bytes <= max_queued_bytes(lane) => bytes,
            Ok(bytes) => {
                tracing::error!(node = to, lane = lane.name(), bytes, "a frame is larger than its lane's queue");
                return false;
            }
            Err(error) => {
                tracing::error!(node = to, lane = lane.name(), %error, "a frame cannot be sent");
                return false;
            }
        };
        self.shared.peer(to).is_some_and(|peer| peer.link(lane).try_send(frame, bytes))
    }

    /// Every lane of every peer, by node and lane.
    pub fn status(&self) -> Vec<LinkStatus> {
        let known: Vec<_> = self.shared.known.read().expect(LOCK_HELD).values().cloned().collect();
        let registry = self.shared.registry();
        let links = known.iter().flat_map(|peer| Lane::ALL.map(|lane| (peer, lane)));
        links.map(|(peer, lane)| peer.status(lane, registry.is_open(peer.node, lane))).collect()
    }

    /// The newest start seen of each node, with how far its log is durable as of now. Those that are new are persisted before
    /// anything that they sent has an effect.
    pub fn starts(&self) -> BTreeMap<u64, Start> {
        self.shared.registry().starts().clone()
    }

    /// The peers.
    pub fn known(&self) -> Vec<u64> {
        self.shared.known.read().expect(LOCK_HELD).keys().copied().collect()
    }

    /// Where peers are accepted.
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Closes every connection and the port, and returns when no task is left. What is queued is dropped, nothing is
    /// reported any more, and [`Self::send`] returns false from now on.
    pub async fn shutdown(&self) {
        let tasks = self.shared.tasks().take();
        self.shared.known.write().expect(LOCK_HELD).clear();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }

    fn start_peer(&self, node: u64, address: String) -> Arc<Peer> {
        let peer = Arc::new(Peer::new(node, address));
        for lane in Lane::ALL {
            self.shared.spawn(link::run(Arc::clone(&self.shared), Arc::clone(&peer), lane));
        }
        peer
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = &self.shared.identity;
        f.debug_struct("Peers").field("identity", identity).field("local_address", &self.local_address).finish_non_exhaustive()
    }
}

/// What the tasks and the handles share. Locks are held for moments, never across an await; where two are held, they are
/// taken in the order `registry`, `known`, `tasks`.
struct Shared {
    identity: Identity,
    events: Arc<dyn PeerEvents>,
    known: RwLock<BTreeMap<u64, Arc<Peer>>>,
    /// Ids below it were given out: one of them that is not known was removed.
    next_node: AtomicU64,
    registry: Mutex<Registry>,
    /// Nothing after a shutdown.
    tasks: Mutex<Option<JoinSet<()>>>,
    runtime: Handle,
}

/// Why a lock is never found poisoned.
const LOCK_HELD: &str = "nothing panics while it holds this lock";

impl Shared {
    fn peer(&self, node: u64) -> Option<Arc<Peer>> {
        self.known.read().expect(LOCK_HELD).get(&node).cloned()
    }

    /// What a node that is not known is told.
    fn stranger(&self, node: u64) -> Refusal {
        let is_removed = node != self.identity.node && node < self.next_node.load(Ordering::Relaxed);
        let refusal = if is_removed { Refusal::removed_node } else { Refusal::unknown_node };
        refusal(node, self.identity.cluster)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect(LOCK_HELD)
    }

    fn tasks(&self) -> MutexGuard<'_, Option<JoinSet<()>>> {
        self.tasks.lock().expect(LOCK_HELD)
    }

    /// Starts a task that ends with the transport; none after a shutdown.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        let Some(tasks) = tasks.as_mut() else { return };
        // Accepted connections come and go: what has ended must not pile up.
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the peer transport failed");
            }
        }
        tasks.spawn_on(task, &self.runtime);
    }
}
