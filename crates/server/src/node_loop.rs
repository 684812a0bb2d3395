//! The node's thread: gathers inputs, polls the node, carries out its effects.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use quorate_api::peer::{Frame, Lane};
use quorate_log::{Disk, Reader};
use quorate_node::keyspace::Revision;
use quorate_node::{
    Answer, Catalog, Effect, Failure, Hosted, HostedKeyspace, Input, Mode, Node, NodeStatus, Request, RequestKind, StopReason,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::job_workers::JobWorkers;
use crate::log_writer::LogWriter;
use crate::outside_stores::OutsideStores;
use crate::peers::Peers;
use crate::rest::Feeds;

/// Requests that wait for the loop. Beyond it the caller is told that the node is overloaded.
const MAX_QUEUED_REQUESTS: usize = 1 << 14;

/// Frames and results that wait for the loop. Beyond it connections are not read on.
const MAX_QUEUED_INPUTS: usize = 1 << 12;

/// Inputs taken in one poll: bounds how long a reply waits for others.
const MAX_INPUTS_PER_POLL: usize = 1 << 12;

/// A client's question on its way to the loop.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) group: quorate_log::GroupId,
    pub(crate) deadline: quorate_node::Monotonic,
    pub(crate) kind: RequestKind,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// What the loop's thread shares with everybody else.
#[derive(Clone, Debug)]
pub(crate) struct LoopHandle {
    pub(crate) clock: Clock,
    requests: mpsc::Sender<Ask>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) views: Arc<Views>,
    stopped: watch::Receiver<Option<StopReason>>,
}

/// What the node last published.
#[derive(Debug, Default)]
pub(crate) struct Views {
    pub(crate) catalog: ArcSwap<Catalog>,
    pub(crate) hosted: ArcSwap<Hosted>,
    pub(crate) feeds: Feeds,
    pub(crate) status: ArcSwap<NodeStatus>,
    /// When the status was published, in the clock's milliseconds.
    pub(crate) status_at_ms: AtomicU64,
}

/// The receiving ends of a [`LoopHandle`].
#[derive(Debug)]
pub(crate) struct LoopQueues {
    requests: mpsc::Receiver<Ask>,
    inputs: mpsc::Receiver<Input>,
    stopped: watch::Sender<Option<StopReason>>,
}

impl LoopHandle {
    pub(crate) fn new(clock: Clock) -> (Self, LoopQueues) {
        let (requests, requests_end) = mpsc::channel(MAX_QUEUED_REQUESTS);
        let (inputs, inputs_end) = mpsc::channel(MAX_QUEUED_INPUTS);
        let (stopped_end, stopped) = watch::channel(None);
        let handle = Self { clock, requests, inputs, views: Arc::default(), stopped };
        (handle, LoopQueues { requests: requests_end, inputs: inputs_end, stopped: stopped_end })
    }

    /// Asks the node, and waits for its answer, which comes at the deadline at the latest.
    pub(crate) async fn ask(&self, group: quorate_log::GroupId, kind: RequestKind, timeout: std::time::Duration) -> Answer {
        let deadline = self.clock.now().plus_ms(timeout.as_millis() as u64);
        let (answer, answered) = oneshot::channel();
        match self.requests.try_send(Ask { group, deadline, kind, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Answer::Failed(Failure::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => return Answer::Failed(Failure::ShuttingDown),
        }
        // The loop ended with the request in its hands: nobody knows how far it came.
        answered.await.unwrap_or(Answer::Failed(Failure::Unknown))
    }

    /// Whether the node has ended.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.borrow().is_some()
    }

    /// Resolves when the node has ended, with the reason.
    pub(crate) async fn stopped(&self) -> StopReason {
        let mut stopped = self.stopped.clone();
        let ended = stopped.wait_for(Option::is_some).await;
        let reason = ended.ok().and_then(|reason| reason.clone());
        reason.unwrap_or_else(|| StopReason::Broken("the node's thread panicked".to_owned()))
    }
}

/// The loop with all it drives.
pub(crate) struct NodeLoop<D: Disk> {
    pub(crate) node: Node<D>,
    pub(crate) handle: LoopHandle,
    pub(crate) log: LogWriter,
    pub(crate) log_reader: Reader<D>,
    pub(crate) jobs: JobWorkers,
    pub(crate) peers: Peers,
    pub(crate) outside: Arc<OutsideStores>,
}

/// What the loop keeps between polls.
#[derive(Default)]
struct State {
    inputs: Vec<Input>,
    effects: Vec<Effect>,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    next_token: u64,
    durable: u64,
    is_disk_full: bool,
    stop: Option<StopReason>,
}

impl<D: Disk> NodeLoop<D> {
    /// Runs until the node ends. Blocks: to be called on a thread of its own.
    pub(crate) fn run(mut self, mut queues: LoopQueues) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let reason = StopReason::Broken(format!("the node's thread has no timer: {error}"));
                return queues.stopped.send_replace(Some(reason)).map_or((), drop);
            }
        };
        let mut state = State { next_token: 1, ..State::default() };
        let reason = runtime.block_on(async {
            loop {
                if let Some(reason) = state.stop.take() {
                    return reason;
                }
                self.gather(&mut queues, &mut state).await;
                let now = self.handle.clock.now();
                self.node.tell_wall_clock(Clock::calendar_ms());
                self.node.poll(now, &mut state.inputs, &mut state.effects);
                for effect in std::mem::take(&mut state.effects) {
                    self.carry_out(effect, &mut state);
                }
            }
        });
        self.log.close();
        queues.stopped.send_replace(Some(reason));
    }

    /// Waits for something to happen, and takes in all that has.
    async fn gather(&self, queues: &mut LoopQueues, state: &mut State) {
        if state.inputs.is_empty() && self.log.durable() == state.durable {
            let next_tick = self.handle.clock.until(self.node.next_due());
            let mut asks = Vec::new();
            tokio::select! {
                biased;
                _ = queues.inputs.recv_many(&mut state.inputs, MAX_INPUTS_PER_POLL) => {}
                () = self.log.progressed() => {}
                _ = queues.requests.recv_many(&mut asks, MAX_INPUTS_PER_POLL) => {}
                () = tokio::time::sleep(next_tick) => {}
            }
            asks.into_iter().for_each(|ask| state.take_in(ask));
        }
        let durable = self.log.durable();
        if durable > state.durable {
            state.durable = durable;
            state.inputs.push(Input::LogDurable { ticket: durable });
        }
        while state.inputs.len() < MAX_INPUTS_PER_POLL
            && let Ok(input) = queues.inputs.try_recv()
        {
            state.inputs.push(input);
        }
        while state.inputs.len() < MAX_INPUTS_PER_POLL
            && let Ok(ask) = queues.requests.try_recv()
        {
            state.take_in(ask);
        }
    }

    fn carry_out(&self, effect: Effect, state: &mut State) {
        match effect {
            Effect::Send { to, lane, frame } => self.send(to, lane, frame, state),
            Effect::Persist { ticket, records } => self.log.submit(ticket, records),
            Effect::Reply { token, answer } => {
                // A client that no longer listens is no concern of the node's.
                if let Some(waiting) = state.waiting.remove(&token) {
                    let _ = waiting.send(answer);
                }
            }
            Effect::Job(job) => self.jobs.submit(job),
            Effect::Catalog(catalog) => {
                self.peers.set_addresses(Node::<D>::peer_addresses(&catalog, self.node.identity().node));
                // Only now: a node that was just let in must not be taken for one that was removed.
                self.peers.set_next_node(catalog.cluster.next_node);
                self.handle.views.catalog.store(Arc::clone(&catalog));
                self.outside.follow(&catalog);
            }
            Effect::Hosted(hosted) => {
                self.handle.views.feeds.host(&watchable(&hosted));
                for hosted in hosted.keyspaces.values() {
                    if let (Some(behind), Some(settings)) = (hosted.engine.behind(), &hosted.behind) {
                        behind.serve(settings);
                    }
                }
                self.handle.views.hosted.store(hosted);
            }
            Effect::Changes { group, watch_epoch, revision, changes } => {
                self.handle.views.feeds.publish((group.0, watch_epoch), revision, changes);
            }
            Effect::Status(status) => {
                self.handle.views.status.store(status);
                self.handle.views.status_at_ms.store(self.handle.clock.now().0, Ordering::Relaxed);
                self.watch_disk(state);
            }
            Effect::Stop(reason) => state.stop = Some(reason),
        }
    }

    fn send(&self, to: u64, lane: Lane, frame: Frame, state: &mut State) {
        if !self.peers.send(to, lane, frame) {
            state.inputs.push(Input::Unreachable { node: to, lane });
        }
    }

    fn watch_disk(&self, state: &mut State) {
        let is_disk_full = self.log_reader.usage().is_below_reserve;
        if is_disk_full != state.is_disk_full {
            state.is_disk_full = is_disk_full;
            tracing::warn!(is_disk_full, "the disk's reserve");
            state.inputs.push(Input::DiskFull(is_disk_full));
        }
    }
}

/// The groups that can be watched, with what names their revisions, where they count on their own, and where they stand.
fn watchable(hosted: &Hosted) -> BTreeMap<u64, (Option<u64>, Revision)> {
    let replicated = hosted.keyspaces.values().filter(|keyspace| keyspace.mode != Mode::None);
    let place = |keyspace: &HostedKeyspace| (keyspace.watch_epoch, keyspace.watched_at(&*keyspace.engine.view()).1);
    replicated.map(|keyspace| (keyspace.group.0, place(keyspace))).collect()
}

impl State {
    fn take_in(&mut self, ask: Ask) {
        let token = self.next_token;
        self.next_token += 1;
        self.waiting.insert(token, ask.answer);
        self.inputs.push(Input::Request(Request { token, group: ask.group, deadline: ask.deadline, kind: ask.kind }));
    }
}
