//! Connections between processes, with TCP's promises and no more: what arrives of a connection arrives in order, and what is
//! lost is lost from some point on.
//!
//! As in the real shell, a process dials each peer once per lane and only writes there. While there is no connection, frames
//! wait in a bounded queue; they are dropped when a dial fails or a connection ends. A blocked way holds frames back, and
//! breaks the connection after a while. Every frame goes through the real codec.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};
use quorate_api::peer::{
    Frame, FrameDecoder, Greeting, Hello, Lane, MAX_WIRE_VERSION, MIN_WIRE_VERSION, decode_greeting, encode_frame,
    encode_greeting,
};
use quorate_node::{Input, PeerFrame};

use crate::host::{Boot, HostId};
use crate::mutation::{self, Mutation};
use crate::queue::Event;
use crate::simulation::Simulation;
use crate::time::SimTime;
use crate::violation::{Step, Violation};

/// One lane from a process to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId {
    pub(crate) from: HostId,
    pub(crate) boot: Boot,
    pub(crate) node: u64,
    pub(crate) lane: Lane,
}

impl LinkId {
    /// The node that dialled; its process may be gone.
    fn node_from(&self, boots: &BTreeMap<Boot, u64>) -> u64 {
        boots.get(&self.boot).copied().expect("every process is registered when it starts")
    }
}

/// A connection; no two are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnectionId(u64);

/// All links and connections.
#[derive(Debug, Default)]
pub(crate) struct Transport {
    links: BTreeMap<LinkId, Link>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: u64,
}

#[derive(Debug)]
struct Link {
    target: HostId,
    state: LinkState,
    /// Frames that wait for a connection.
    queue: VecDeque<Bytes>,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkState {
    /// Dials again later.
    Resting,
    Dialling,
    Open(ConnectionId),
}

/// *Invariant*: arrival times ascend; a delivery is scheduled while frames are under way.
#[derive(Debug)]
struct Connection {
    link: LinkId,
    to: HostId,
    to_boot: Boot,
    /// The receiver's count.
    number: u64,
    incarnation: u64,
    under_way: VecDeque<(SimTime, Bytes)>,
    last_arrival: SimTime,
    /// Frames are held back since then.
    stalled_since: Option<SimTime>,
    /// The sender has given it up: what is under way may still arrive.
    is_broken: bool,
    /// One of the frames under way was changed on the way.
    is_garbled: bool,
}

/// How long a connection may stand still.
const STALL_US: u64 = 3_000_000;

/// How long a dial waits for an answer.
const DIAL_US: u64 = 1_000_000;

/// Frames that wait for a connection, at most.
const MAX_QUEUED_FRAMES: usize = 1000;

impl Simulation {
    /// The peers of a process changed.
    pub(crate) fn on_addresses(&mut self, from: HostId, addresses: BTreeMap<u64, HostId>) {
        let Some(process) = &mut self.hosts[from.0].process else { return };
        let boot = process.boot;
        process.shell.addresses.clone_from(&addresses);
        let is_kept =
            |id: &LinkId, link: &Link| (id.from, id.boot) != (from, boot) || addresses.get(&id.node) == Some(&link.target);
        self.transport.links.retain(|id, link| is_kept(id, link));
        let own = (from, boot);
        let forgotten = |connection: &Connection| {
            (connection.to, connection.to_boot) == own && !addresses.contains_key(&connection.link.node_from(&self.boots))
        };
        let forgotten: Vec<ConnectionId> =
            self.transport.connections.iter().filter(|(_, connection)| forgotten(connection)).map(|(id, _)| *id).collect();
        for id in forgotten {
            self.break_connection(id, 0);
        }
        for (node, target) in addresses {
            for lane in Lane::ALL {
                let id = LinkId { from, boot, node, lane };
                if let Entry::Vacant(vacant) = self.transport.links.entry(id) {
                    vacant.insert(Link { target, state: LinkState::Dialling, queue: VecDeque::new(), failures: 0 });
                    self.queue.schedule(self.now, Event::Dial(id));
                }
            }
        }
    }

    /// A process sends a frame.
    pub(crate) fn send(&mut self, from: HostId, to: u64, lane: Lane, frame: &Frame) -> Step {
        let Some(process) = &self.hosts[from.0].process else { return Ok(()) };
        let id = LinkId { from, boot: process.boot, node: to, lane };
        let mut bytes = BytesMut::new();
        encode_frame(frame, &mut bytes)
            .map_err(|error| Violation::new("frames can be sent", format!("{from} to node {to}: {error}")))?;
        let bytes = bytes.freeze();
        let Some(link) = self.transport.links.get_mut(&id) else {
            self.tell(from, Input::Unreachable { node: to, lane });
            return Ok(());
        };
        match link.state {
            LinkState::Open(connection) => self.put_on_wire(connection, bytes),
            LinkState::Resting | LinkState::Dialling if link.queue.len() < MAX_QUEUED_FRAMES => link.queue.push_back(bytes),
            LinkState::Resting | LinkState::Dialling => self.tell(from, Input::Unreachable { node: to, lane }),
        }
        Ok(())
    }

    fn put_on_wire(&mut self, id: ConnectionId, bytes: Bytes) {
        let connection = self.transport.connections.get_mut(&id).expect("an open link has its connection");
        let travel_us = self.network.travel_us((connection.link.from, connection.to), bytes.len());
        let arrives_at = self.now.plus_us(travel_us).max(connection.last_arrival);
        connection.last_arrival = arrives_at;
        if connection.under_way.is_empty() {
            self.queue.schedule(arrives_at, Event::Deliver(id));
        }
        connection.under_way.push_back((arrives_at, bytes));
    }

    pub(crate) fn on_dial(&mut self, id: LinkId) {
        let Some(link) = self.transport.links.get_mut(&id) else { return };
        link.state = LinkState::Dialling;
        let (there, back) = ((id.from, link.target), (link.target, id.from));
        if self.network.is_open(there) && self.network.is_open(back) {
            let us = self.network.travel_us(there, 0) + self.network.travel_us(back, 0);
            self.queue.schedule(self.now.plus_us(us), Event::Dialled(id));
        } else {
            self.queue.schedule(self.now.plus_us(DIAL_US), Event::DialExpired(id));
        }
    }

    pub(crate) fn on_dialled(&mut self, id: LinkId) -> Step {
        let Some(link) = self.transport.links.get(&id) else { return Ok(()) };
        let target = link.target;
        let is_reached = self.network.is_open((id.from, target)) && self.network.is_open((target, id.from));
        let is_listening = self.hosts[target.0].process.is_none() || self.hosts[target.0].is_awake();
        if !is_reached || !is_listening {
            self.queue.schedule(self.now.plus_us(DIAL_US), Event::DialExpired(id));
            return Ok(());
        }
        match self.shake_hands(id, target)? {
            Some(connection) => self.on_connected(id, connection),
            None => self.on_link_failed(id),
        }
        Ok(())
    }

    /// Both ends' greetings. None if they do not belong together.
    fn shake_hands(&mut self, id: LinkId, target: HostId) -> Step<Option<ConnectionId>> {
        let Some(own) = self.hosts[id.from.0].folder.as_ref() else { return Ok(None) };
        let Some(theirs) = self.hosts[target.0].folder.as_ref() else { return Ok(None) };
        let hello = travelled(&hello_of(&own.identity, id.lane))?;
        let answer = travelled(&hello_of(&theirs.identity, id.lane))?;
        let Some(receiver) = &mut self.hosts[target.0].process else { return Ok(None) };
        if hello.cluster != answer.cluster || answer.node != id.node {
            return Ok(None);
        }
        if !receiver.shell.addresses.contains_key(&hello.node) {
            if receiver.shell.catalog.is_removed(hello.node) {
                self.coverage.count("refused because removed");
                self.tell(id.from, Input::Removed);
                return Ok(None);
            }
            // A member that this node's catalog does not have yet: it says where it can be reached.
            self.coverage.count("calls from members not known yet");
            let mut addresses = receiver.shell.addresses.clone();
            addresses.insert(hello.node, id.from);
            self.on_addresses(target, addresses);
        }
        let seen = self.hosts[target.0].folder.as_mut().map(|folder| &mut folder.seen_incarnations);
        let seen = seen.expect("a process has a folder").entry(hello.node).or_default();
        if hello.incarnation < *seen {
            return Ok(None);
        }
        *seen = hello.incarnation;
        let receiver = self.hosts[target.0].process.as_mut().expect("it was there above");
        receiver.shell.last_connection += 1;
        let number = receiver.shell.last_connection;
        receiver.shell.accepted.insert((hello.node, id.lane), number);
        let to_boot = receiver.boot;
        self.transport.next_connection += 1;
        let connection = ConnectionId(self.transport.next_connection);
        self.transport.connections.insert(
            connection,
            Connection {
                link: id,
                to: target,
                to_boot,
                number,
                incarnation: hello.incarnation,
                under_way: VecDeque::new(),
                last_arrival: self.now,
                stalled_since: None,
                is_broken: false,
                is_garbled: false,
            },
        );
        self.on_heard(target, to_boot, hello.node);
        Ok(Some(connection))
    }

    /// A process heard of a peer: it dials again at once.
    fn on_heard(&mut self, host: HostId, boot: Boot, node: u64) {
        for lane in Lane::ALL {
            let id = LinkId { from: host, boot, node, lane };
            if self.transport.links.get(&id).is_some_and(|link| link.state == LinkState::Resting) {
                self.queue.schedule(self.now, Event::Dial(id));
            }
        }
    }

    fn on_connected(&mut self, id: LinkId, connection: ConnectionId) {
        let Some(link) = self.transport.links.get_mut(&id) else { return };
        link.state = LinkState::Open(connection);
        link.failures = 0;
        for bytes in std::mem::take(&mut link.queue) {
            self.put_on_wire(connection, bytes);
        }
    }

    /// A dial failed, or a connection ended.
    pub(crate) fn on_link_failed(&mut self, id: LinkId) {
        let Some(link) = self.transport.links.get_mut(&id) else { return };
        link.state = LinkState::Resting;
        link.queue.clear();
        let rest_ms = (20_u64 << link.failures.min(6)).min(1000);
        link.failures += 1;
        let rest_us = self.random.between(rest_ms * 500, rest_ms * 1000);
        self.queue.schedule(self.now.plus_us(rest_us), Event::Dial(id));
        self.tell(id.from, Input::Unreachable { node: id.node, lane: id.lane });
    }

    pub(crate) fn on_deliver(&mut self, id: ConnectionId) -> Step {
        let Some(connection) = self.transport.connections.get_mut(&id) else { return Ok(()) };
        let (way, to_boot) = ((connection.link.from, connection.to), connection.to_boot);
        if !self.network.is_open(way) {
            let since = *connection.stalled_since.get_or_insert(self.now);
            if self.now.since(since) >= STALL_US {
                self.coverage.count("connections timed out");
                self.break_connection(id, 0);
            } else {
                let retry_us = self.random.between(20_000, 200_000);
                self.queue.schedule(self.now.plus_us(retry_us), Event::Deliver(id));
            }
            return Ok(());
        }
        connection.stalled_since = None;
        if self.hosts[way.1.0].process_of(to_boot).is_none() {
            self.break_connection(id, 0);
            return Ok(());
        }
        let Some((_, bytes)) = connection.under_way.pop_front() else { return Ok(()) };
        if let Some((next, _)) = connection.under_way.front() {
            let next = (*next).max(self.now);
            self.queue.schedule(next, Event::Deliver(id));
        }
        self.receive(id, &bytes)?;
        if self.transport.connections.get(&id).is_some_and(|connection| connection.is_broken && connection.under_way.is_empty()) {
            self.transport.connections.remove(&id);
        }
        Ok(())
    }

    /// A frame's bytes are there.
    fn receive(&mut self, id: ConnectionId, bytes: &[u8]) -> Step {
        let connection = &self.transport.connections[&id];
        let (link, to, is_garbled) = (connection.link, connection.to, connection.is_garbled);
        let (number, incarnation) = (connection.number, connection.incarnation);
        let mut received = BytesMut::from(bytes);
        let frame = match FrameDecoder::default().decode(&mut received) {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) if is_garbled => {
                self.coverage.count("garbled frames refused");
                self.break_connection(id, 0);
                return Ok(());
            }
            undecoded => {
                let detail = format!("{} to {to}: {undecoded:?} of {} bytes", link.from, bytes.len());
                return Err(Violation::new("frames survive the wire", detail));
            }
        };
        self.trace.note(self.now, format_args!("{}>{to} {}", link.from, FrameText(&frame)));
        let from = link.node_from(&self.boots);
        let frame = PeerFrame { from, incarnation, connection: number, lane: link.lane, frame };
        let receiver = self.hosts[to.0].process.as_ref().expect("looked at before");
        if receiver.shell.accepted.get(&(from, link.lane)) != Some(&number) {
            self.coverage.count("frames of earlier connections");
        }
        self.tell(to, Input::Frame(frame));
        Ok(())
    }

    /// Ends a connection: the first `arriving` frames under way still arrive.
    fn break_connection(&mut self, id: ConnectionId, arriving: usize) {
        let Some(connection) = self.transport.connections.get_mut(&id) else { return };
        let link = connection.link;
        connection.is_broken = true;
        connection.under_way.truncate(arriving);
        if connection.under_way.is_empty() {
            self.transport.connections.remove(&id);
        }
        if self.transport.links.get(&link).is_some_and(|link| link.state == LinkState::Open(id)) {
            self.on_link_failed(link);
        }
    }

    /// Ends all connections to processes that ended. Whoever sends finds out by itself; who has nothing to say would be connected
    /// to nobody for ever, where in truth the system tells.
    pub(crate) fn end_dead_connections(&mut self) {
        let hosts = &mut self.hosts;
        let mut is_dead = |connection: &Connection| hosts[connection.to.0].process_of(connection.to_boot).is_none();
        let connections = self.transport.connections.iter();
        let dead: Vec<ConnectionId> = connections.filter(|(_, connection)| is_dead(connection)).map(|(id, _)| *id).collect();
        dead.into_iter().for_each(|id| self.break_connection(id, 0));
    }

    /// Breaks all connections from one host to another; what was under way arrives in part.
    pub(crate) fn reset_connections(&mut self, from: HostId, to: HostId) {
        for id in self.transport.open_between(from, to) {
            let under_way = self.transport.connections[&id].under_way.len() as u64;
            let arriving = self.random.below(under_way + 1) as usize;
            self.break_connection(id, arriving);
        }
    }

    /// Flips a bit of something that is under way from one host to another. False if nothing is.
    pub(crate) fn garble(&mut self, from: HostId, to: HostId) -> bool {
        let busy: Vec<ConnectionId> = self.transport.open_between(from, to);
        let busy: Vec<ConnectionId> =
            busy.into_iter().filter(|id| !self.transport.connections[id].under_way.is_empty()).collect();
        let Some(id) = self.random.pick(&busy) else { return false };
        let connection = self.transport.connections.get_mut(id).expect("listed above");
        let (_, bytes) = connection.under_way.front_mut().expect("it is not empty");
        let mut garbled = bytes.to_vec();
        let bit = self.random.below(garbled.len() as u64 * 8) as usize;
        garbled[bit / 8] ^= 1 << (bit % 8);
        *bytes = garbled.into();
        connection.is_garbled = true;
        true
    }

    /// A process has ended: its links are gone, and what it had sent arrives in part.
    pub(crate) fn drop_links(&mut self, host: HostId, boot: Boot) {
        self.transport.links.retain(|id, _| (id.from, id.boot) != (host, boot));
        let own = self.transport.connections.iter().filter(|(_, connection)| connection.link.boot == boot);
        let own: Vec<(ConnectionId, u64)> = own.map(|(id, connection)| (*id, connection.under_way.len() as u64)).collect();
        for (id, under_way) in own {
            let arriving = self.random.below(under_way + 1) as usize;
            self.break_connection(id, arriving);
        }
    }

    /// What a mutation makes of a frame that is sent.
    pub(crate) fn mutated(&self, mut frame: Frame) -> Frame {
        if self.scenario.mutation == Some(Mutation::RetryWithoutId)
            && let Frame::Forward(forwards) = &mut frame
        {
            let again: Vec<_> = forwards.iter().filter_map(mutation::with_another_id).collect();
            forwards.extend(again);
        }
        frame
    }
}

impl Transport {
    fn open_between(&self, from: HostId, to: HostId) -> Vec<ConnectionId> {
        let between = |connection: &Connection| (connection.link.from, connection.to) == (from, to) && !connection.is_broken;
        self.connections.iter().filter(|(_, connection)| between(connection)).map(|(id, _)| *id).collect()
    }
}

fn hello_of(identity: &quorate_node::Identity, lane: Lane) -> Greeting {
    Greeting::Hello(Hello {
        cluster: identity.cluster,
        node: identity.node,
        incarnation: identity.incarnation,
        // The simulator makes no copies of folders.
        start_id: 0,
        log_end: Hello::UNCHECKED,
        lane,
        min_wire: MIN_WIRE_VERSION,
        max_wire: MAX_WIRE_VERSION,
    })
}

/// What arrives of a greeting.
fn travelled(greeting: &Greeting) -> Step<Hello> {
    let mut bytes = BytesMut::new();
    encode_greeting(greeting, &mut bytes);
    match decode_greeting(&mut bytes) {
        Ok(Some(Greeting::Hello(hello))) if bytes.is_empty() => Ok(hello),
        other => Err(Violation::new("greetings survive the wire", format!("{greeting:?} became {other:?}"))),
    }
}

/// A frame in one line of a trace.
struct FrameText<'a>(&'a Frame);

impl std::fmt::Display for FrameText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Frame::Raft(messages) => {
                f.write_str("raft")?;
                for message in messages {
                    let name = KIND_NAMES.get(usize::from(message.kind)).unwrap_or(&"?");
                    write!(f, " {name}(g{} t{} i{}", message.group, message.term, message.index)?;
                    if !message.entries.is_empty() {
                        write!(f, "+{}", message.entries.len())?;
                    }
                    write!(f, " c{}{})", message.commit, if message.reject { " no" } else { "" })?;
                }
                Ok(())
            }
            Frame::Forward(forwards) => write!(f, "forward x{}", forwards.len()),
            Frame::ForwardReply(replies) => write!(f, "forward-reply x{}", replies.len()),
            Frame::LeaseAsks(asks) => write!(f, "lease-asks x{}", asks.len()),
            Frame::LeaseAnswers(answers) => write!(f, "lease-answers x{}", answers.len()),
            Frame::LogEnd(_) => f.write_str("log end"),
            Frame::Eventual(messages) => write!(f, "eventual x{}", messages.len()),
            Frame::Snapshot(part) => {
                write!(f, "snapshot g{} {}+{}/{}", part.group, part.offset, part.data.len(), part.total_bytes)
            }
            Frame::Beats(beats) | Frame::BeatAnswers(beats) => {
                f.write_str(if matches!(self.0, Frame::Beats(_)) { "beats" } else { "beats-ok" })?;
                beats.iter().try_for_each(|beat| write!(f, " g{} t{} c{}", beat.group, beat.term, beat.commit))
            }
            Frame::SnapshotAsk(ask) => write!(f, "snapshot-ask g{} from {}", ask.group, ask.min_index),
            Frame::SnapshotAck(ack) => {
                write!(f, "snapshot-ack g{} {} failed={} done={}", ack.group, ack.next_offset, ack.failed, ack.done)
            }
        }
    }
}

/// raft-rs' kinds of messages, by number.
const KIND_NAMES: [&str; 19] = [
    "hup",
    "beat",
    "propose",
    "append",
    "append-ok",
    "vote?",
    "vote",
    "snapshot",
    "heartbeat",
    "heartbeat-ok",
    "unreachable",
    "snap-status",
    "check-quorum",
    "transfer",
    "timeout-now",
    "read-index",
    "read-index-ok",
    "pre-vote?",
    "pre-vote",
];
