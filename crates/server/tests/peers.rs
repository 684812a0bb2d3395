//! The peer transport over real loopback sockets.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_api::peer::{
    Forward, Frame, FrameDecoder, Greeting, Hello, Lane, RaftMessage, Refusal, RefusalKind, SnapshotPart, decode_greeting,
    encode_frame, encode_greeting,
};
use quorate_server::peers::{Arrival, Delivery, LinkStatus, PeerConfig, PeerEvents, Peers, max_queued_bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

const CLUSTER: u64 = 0xc1;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq)]
enum Happening {
    Connected(u64, Lane),
    CastOut(RefusalKind),
    Unreachable(u64, Lane),
}

/// Hands on what is reported; never takes a frame of the lane on which it is stuck.
struct Recorder {
    frames: mpsc::Sender<(Arrival, Frame)>,
    happenings: mpsc::Sender<Happening>,
    stuck: Option<Lane>,
}

impl PeerEvents for Recorder {
    fn on_frame(&self, arrival: Arrival, frame: Frame) -> Delivery<'_> {
        Box::pin(async move {
            if self.stuck == Some(arrival.lane) {
                std::future::pending::<()>().await;
            }
            let _ = self.frames.send((arrival, frame)).await;
        })
    }

    fn on_unreachable(&self, node: u64, lane: Lane) {
        let _ = self.happenings.try_send(Happening::Unreachable(node, lane));
    }

    fn on_connected(&self, node: u64, lane: Lane) {
        let _ = self.happenings.try_send(Happening::Connected(node, lane));
    }

    fn on_cast_out(&self, refusal: &Refusal) {
        let _ = self.happenings.try_send(Happening::CastOut(refusal.kind));
    }
}

struct Node {
    id: u64,
    peers: Peers,
    frames: mpsc::Receiver<(Arrival, Frame)>,
    happenings: mpsc::Receiver<Happening>,
}

struct Start {
    cluster: u64,
    node: u64,
    incarnation: u64,
    drawn: u64,
    log_end: u64,
    address: SocketAddr,
    stuck: Option<Lane>,
}

impl Default for Start {
    fn default() -> Self {
        let address = ([127, 0, 0, 1], 0).into();
        Self { cluster: CLUSTER, node: 1, incarnation: 1, drawn: 11, log_end: 0, address, stuck: None }
    }
}

impl Start {
    fn node(node: u64) -> Node {
        Self { node, ..Self::default() }.run()
    }

    fn run(self) -> Node {
        let listen = std::net::TcpListener::bind(self.address).unwrap();
        let (frames_in, frames) = mpsc::channel(16);
        let (happenings_in, happenings) = mpsc::channel(1 << 10);
        let recorder = Recorder { frames: frames_in, happenings: happenings_in, stuck: self.stuck };
        let config = PeerConfig {
            listen,
            cluster: self.cluster,
            node: self.node,
            incarnation: self.incarnation,
            start_id: self.drawn,
            log_end: self.log_end,
            starts: BTreeMap::new(),
        };
        let peers = Peers::start(config, Arc::new(recorder)).unwrap();
        Node { id: self.node, peers, frames, happenings }
    }
}

impl Node {
    fn knows(&self, others: &[&Self]) {
        let addresses = others.iter().map(|other| (other.id, other.peers.local_address().to_string()));
        self.peers.set_addresses(addresses.collect());
    }

    async fn next_frame(&mut self) -> (Arrival, Frame) {
        timeout(PATIENCE, self.frames.recv()).await.expect("a frame arrives in time").unwrap()
    }

    async fn waits_for(&mut self, expected: Happening) {
        let awaited = async { while self.happenings.recv().await.unwrap() != expected {} };
        timeout(PATIENCE, awaited).await.unwrap_or_else(|_| panic!("{expected:?} is reported in time"));
    }

    fn status(&self, node: u64, lane: Lane) -> LinkStatus {
        let mut links = self.peers.status().into_iter();
        links.find(|link| link.node == node && link.lane == lane).expect("the peer is known")
    }

    async fn waits_until(&self, node: u64, lane: Lane, what: &str, is_so: impl Fn(&LinkStatus) -> bool) -> LinkStatus {
        let awaited = async {
            loop {
                let link = self.status(node, lane);
                if is_so(&link) {
                    return link;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, awaited).await.unwrap_or_else(|_| panic!("{what}: {:?}", self.status(node, lane)))
    }

    /// Sends, waiting for room.
    async fn sends(&self, to: u64, lane: Lane, frame: Frame) {
        let sent = async {
            while !self.peers.send(to, lane, frame.clone()) {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, sent).await.expect("the queue has room in time");
    }
}

fn numbered(number: u64) -> Frame {
    Frame::Raft(vec![RaftMessage { group: 1, index: number, ..RaftMessage::default() }])
}

fn number_of(frame: &Frame) -> u64 {
    match frame {
        Frame::Raft(messages) => messages[0].index,
        other => panic!("not a numbered frame: {other:?}"),
    }
}

fn part(bytes: usize) -> Frame {
    let data = Bytes::from(vec![0xab; bytes]);
    Frame::Snapshot(SnapshotPart { group: 1, transfer: 1, offset: 0, total_bytes: bytes as u64, data, message: None })
}

fn hello(node: u64, incarnation: u64, lane: Lane) -> Hello {
    Hello { cluster: CLUSTER, node, incarnation, start_id: 11, log_end: 0, lane, min_wire: 1, max_wire: 2 }
}

/// Greets a node by hand.
async fn greet(address: SocketAddr, hello: Hello) -> (TcpStream, Greeting) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut out = BytesMut::new();
    encode_greeting(&Greeting::Hello(hello), &mut out);
    stream.write_all(&out).await.unwrap();
    let mut received = BytesMut::new();
    let answered = async {
        loop {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0, "an answer comes before the end");
            if let Some(greeting) = decode_greeting(&mut received).unwrap() {
                return greeting;
            }
        }
    };
    let greeting = timeout(PATIENCE, answered).await.unwrap();
    (stream, greeting)
}

async fn refusal(address: SocketAddr, hello: Hello) -> Refusal {
    let (stream, greeting) = greet(address, hello).await;
    is_closed(stream).await;
    match greeting {
        Greeting::Refusal(refusal) => refusal,
        Greeting::Hello(hello) => panic!("let in by {hello:?}"),
    }
}

async fn is_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the connection is closed in time") {
        Ok(_) => assert!(rest.is_empty(), "nothing is written before the end: {rest:?}"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_all_lanes_arrive_in_order_both_ways() {
    const COUNT: u64 = 2000;
    let (mut one, mut two) = (Start::node(1), Start::node(2));
    one.knows(&[&two]);
    two.knows(&[&one]);
    for (source, target) in [(&one, 2), (&two, 1)] {
        for lane in Lane::ALL {
            let peers = source.peers.clone();
            tokio::spawn(async move {
                for number in 0..COUNT {
                    while !peers.send(target, lane, numbered(number)) {
                        sleep(Duration::from_millis(1)).await;
                    }
                }
            });
        }
    }
    for (node, from) in [(&mut one, 2), (&mut two, 1)] {
        let mut next = [0; Lane::ALL.len()];
        while next != [COUNT; Lane::ALL.len()] {
            let (arrival, frame) = node.next_frame().await;
            assert_eq!((arrival.from, arrival.start.incarnation), (from, 1));
            assert_eq!(number_of(&frame), next[arrival.lane as usize], "on {:?}", arrival.lane);
            next[arrival.lane as usize] += 1;
        }
    }
    for lane in Lane::ALL {
        let sent = one.waits_until(2, lane, "all is written", |link| link.sent_frames == COUNT).await;
        let received = two.status(1, lane);
        assert_eq!((received.received_frames, received.received_bytes), (COUNT, sent.sent_bytes));
        assert!(sent.is_connected && sent.is_receiving && sent.last_error.is_none(), "{sent:?}");
        assert_eq!((sent.queued_frames, sent.queued_bytes, sent.refused_frames, sent.dropped_frames), (0, 0, 0, 0));
    }
}

#[tokio::test]
async fn large_payloads_arrive_whole() {
    let (one, mut two) = (Start::node(1), Start::node(2));
    one.knows(&[&two]);
    two.knows(&[&one]);
    for bytes in [0, 1, 64 << 10, (64 << 10) + 1, 3 << 20, 20 << 20] {
        let command = Bytes::from((0..bytes).map(|at| u8::try_from(at % 251).unwrap()).collect::<Vec<_>>());
        let frame = Frame::Forward(vec![Forward { group: 1, origin: 2, sequence: 3, command }]);
        one.sends(2, Lane::Append, frame.clone()).await;
        assert!(two.next_frame().await.1 == frame, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_peer_that_restarts_is_redialled_and_its_older_incarnation_refused() {
    let (mut one, two) = (Start::node(1), Start::node(2));
    let address = two.peers.local_address();
    one.knows(&[&two]);
    two.knows(&[&one]);
    one.waits_for(Happening::Connected(2, Lane::Append)).await;
    two.sends(1, Lane::Append, numbered(1)).await;
    let (before, _) = one.next_frame().await;

    two.peers.shutdown().await;
    assert!(!two.peers.send(1, Lane::Append, numbered(0)), "after a shutdown nobody is known");
    one.waits_for(Happening::Unreachable(2, Lane::Append)).await;
    let mut two = Start { node: 2, incarnation: 2, address, ..Start::default() }.run();
    two.knows(&[&one]);
    one.waits_for(Happening::Connected(2, Lane::Append)).await;
    one.sends(2, Lane::Append, numbered(7)).await;
    assert_eq!(number_of(&two.next_frame().await.1), 7);
    two.sends(1, Lane::Append, numbered(8)).await;
    let (after, frame) = one.next_frame().await;
    assert_eq!((after.start.incarnation, number_of(&frame)), (2, 8));
    assert!(after.connection > before.connection);

    let refusal = refusal(one.peers.local_address(), hello(2, 1, Lane::Append)).await;
    assert_eq!(refusal.kind, RefusalKind::OlderIncarnation);
    assert_eq!(refusal.reason, "incarnation 1 of node 2 is over: incarnation 2 has been seen");
    assert_eq!(one.peers.starts()[&2].incarnation, 2);
    two.sends(1, Lane::Append, numbered(9)).await;
    assert_eq!(one.next_frame().await.0.connection, after.connection, "the refused one disturbed nothing");
}

#[tokio::test]
async fn copies_of_a_node_and_older_states_of_it_are_refused() {
    let (one, mut two) = (Start::node(1), Start { node: 2, log_end: 40, ..Start::default() }.run());
    one.knows(&[&two]);
    two.knows(&[&one]);
    two.waits_for(Happening::Connected(1, Lane::Control)).await;
    two.sends(1, Lane::Control, Frame::LogEnd(60)).await;
    two.sends(1, Lane::Control, Frame::LogEnd(50)).await;
    let heard = async {
        while one.peers.starts().get(&2).is_none_or(|start| start.log_end < 60) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, heard).await.expect("the log's end is noted");

    let copy = Start { node: 2, drawn: 12, log_end: 70, ..Start::default() };
    let kinds = [
        (copy, RefusalKind::OtherStart),
        (Start { node: 2, incarnation: 2, drawn: 13, log_end: 59, ..Start::default() }, RefusalKind::OlderLog),
    ];
    for (start, kind) in kinds {
        let mut copy = start.run();
        copy.knows(&[&one]);
        copy.waits_for(Happening::CastOut(kind)).await;
    }
    let address = one.peers.local_address();
    let (_stream, greeting) = greet(address, Hello { start_id: 11, log_end: 40, ..hello(2, 1, Lane::Bulk) }).await;
    assert!(matches!(greeting, Greeting::Hello(_)), "the one that was there is let in again: {greeting:?}");
    let (_stream, greeting) = greet(address, Hello { start_id: 14, log_end: 60, ..hello(2, 2, Lane::Bulk) }).await;
    assert!(matches!(greeting, Greeting::Hello(_)), "its next start is let in: {greeting:?}");
}

#[tokio::test]
async fn peers_are_sent_what_their_wire_version_has() {
    let one = Start::node(1);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.peers.set_addresses(BTreeMap::from([(2, listener.local_addr().unwrap().to_string())]));
    let lane = loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = BytesMut::new();
        let greeted = loop {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
            if let Some(Greeting::Hello(hello)) = decode_greeting(&mut received).unwrap() {
                break hello;
            }
        };
        let mut answer = BytesMut::new();
        encode_greeting(&Greeting::Hello(Hello { max_wire: 1, ..hello(2, 1, greeted.lane) }), &mut answer);
        stream.write_all(&answer).await.unwrap();
        if greeted.lane == Lane::Control {
            break stream;
        }
    };
    one.sends(2, Lane::Control, Frame::LogEnd(7)).await;
    one.sends(2, Lane::Control, numbered(8)).await;
    let (mut stream, mut received, mut decoder) = (lane, BytesMut::new(), FrameDecoder::default());
    let first = async {
        loop {
            if let Some(frame) = decoder.decode(&mut received).unwrap() {
                return frame;
            }
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
        }
    };
    assert_eq!(timeout(PATIENCE, first).await.expect("a frame comes"), numbered(8));
}

#[tokio::test]
async fn what_is_queued_for_an_absent_peer_is_dropped_and_reported() {
    let mut one = Start::node(1);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    one.peers.set_addresses(BTreeMap::from([(2, address.to_string())]));
    one.waits_for(Happening::Unreachable(2, Lane::Control)).await;
    one.sends(2, Lane::Control, numbered(1)).await;
    let link = one.waits_until(2, Lane::Control, "the frame is dropped", |link| link.dropped_frames > 0).await;
    assert_eq!((link.queued_frames, link.queued_bytes), (0, 0));
    assert!(link.last_error.unwrap().starts_with("dial: "));
    one.waits_for(Happening::Unreachable(2, Lane::Control)).await;

    let mut two = Start { node: 2, address, ..Start::default() }.run();
    two.knows(&[&one]);
    one.waits_for(Happening::Connected(2, Lane::Control)).await;
    one.sends(2, Lane::Control, numbered(2)).await;
    assert_eq!(number_of(&two.next_frame().await.1), 2, "the dropped frame does not come back");
}

#[tokio::test]
async fn another_cluster_is_refused_by_name() {
    let one = Start::node(1);
    let stranger = Start { cluster: 0xdead, node: 2, ..Start::default() }.run();
    one.knows(&[&stranger]);
    stranger.knows(&[&one]);
    let link = stranger.waits_until(1, Lane::Control, "it is refused", |link| link.last_error.is_some()).await;
    let reason = "refused by the peer: this node belongs to cluster 00000000000000c1, not to cluster 000000000000dead";
    assert_eq!(link.last_error.as_deref(), Some(reason));
    assert!(!link.is_connected && !link.is_receiving);
    assert_eq!(one.peers.starts(), BTreeMap::new());
}

#[tokio::test]
async fn strangers_and_other_versions_are_refused() {
    let (one, two) = (Start::node(1), Start::node(2));
    let address = one.peers.local_address();
    one.knows(&[&two]);
    let unknown = refusal(address, hello(3, 1, Lane::Control)).await;
    assert_eq!(unknown.kind, RefusalKind::UnknownNode);
    assert!(unknown.reason.starts_with("node 3 is not a known member of cluster 00000000000000c1"), "{unknown}");
    let itself = refusal(address, hello(1, 1, Lane::Control)).await;
    assert_eq!(itself.kind, RefusalKind::UnknownNode);
    one.peers.set_next_node(4);
    assert_eq!(refusal(address, hello(3, 1, Lane::Control)).await.kind, RefusalKind::RemovedNode);
    assert_eq!(refusal(address, hello(4, 1, Lane::Control)).await.kind, RefusalKind::UnknownNode);
    let future = refusal(address, Hello { min_wire: 8, max_wire: 9, ..hello(2, 1, Lane::Control) }).await;
    assert_eq!(future.kind, RefusalKind::WireVersion);
}

#[tokio::test]
async fn an_address_that_belongs_to_another_node_is_not_used() {
    let (one, two) = (Start::node(1), Start::node(2));
    two.knows(&[&one]);
    one.peers.set_addresses(BTreeMap::from([(2, "127.0.0.1:1".to_owned()), (3, two.peers.local_address().to_string())]));
    let link = one.waits_until(3, Lane::Control, "it is noticed", |link| link.last_error.is_some()).await;
    assert_eq!(link.last_error.as_deref(), Some("node 2 answers at this address, not node 3"));
    one.knows(&[&two]);
    assert!(!one.peers.send(3, Lane::Control, numbered(1)), "node 3 is forgotten");
    one.waits_until(2, Lane::Control, "the changed address is dialled", |link| link.is_connected).await;
}

#[tokio::test]
async fn a_removed_peer_is_disconnected_both_ways() {
    let (mut one, two) = (Start::node(1), Start::node(2));
    one.knows(&[&two]);
    two.knows(&[&one]);
    two.sends(1, Lane::Request, numbered(1)).await;
    one.next_frame().await;
    one.waits_until(2, Lane::Request, "both are connected", |link| link.is_connected && link.is_receiving).await;
    one.knows(&[]);
    assert!(!one.peers.send(2, Lane::Request, numbered(1)));
    let refused = |link: &LinkStatus| link.last_error.as_ref().is_some_and(|error| error.contains("not a known member"));
    two.waits_until(1, Lane::Request, "the removed node is told why", refused).await;
    two.waits_until(1, Lane::Request, "nothing more is read", |link| !link.is_receiving).await;
}

#[tokio::test]
async fn a_later_connection_of_a_lane_replaces_the_earlier_one() {
    let mut one = Start::node(1);
    one.peers.set_addresses(BTreeMap::from([(2, "127.0.0.1:1".to_owned())]));
    let address = one.peers.local_address();
    let mut encoded = BytesMut::new();
    encode_frame(&numbered(1), &mut encoded).unwrap();
    let (mut earlier, _) = greet(address, hello(2, 1, Lane::Control)).await;
    let (bulk, _) = greet(address, hello(2, 1, Lane::Bulk)).await;
    earlier.write_all(&encoded).await.unwrap();
    let (first, _) = one.next_frame().await;

    let (mut later, greeting) = greet(address, hello(2, 1, Lane::Control)).await;
    assert_eq!(greeting, Greeting::Hello(hello(1, 1, Lane::Control)));
    is_closed(earlier).await;
    later.write_all(&encoded).await.unwrap();
    let (second, _) = one.next_frame().await;
    assert!(second.connection > first.connection);

    let (_newest, _) = greet(address, hello(2, 2, Lane::Append)).await;
    is_closed(later).await;
    is_closed(bulk).await;
}

#[tokio::test]
async fn garbage_on_the_port_does_no_harm() {
    let (one, mut two) = (Start::node(1), Start::node(2));
    one.knows(&[&two]);
    two.knows(&[&one]);
    one.waits_until(2, Lane::Control, "the pair is connected", |link| link.is_connected).await;
    let address = two.peers.local_address();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 5000], &[0xff; 5000], b"QRTE\x01\x01\xff\xff1234", b"QRTE\x09\x01\0\x001234"]
    {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The other end may have closed before all is written.
        let _ = stream.write_all(garbage).await;
        is_closed(stream).await;
    }

    two.peers.set_addresses(BTreeMap::from([(1, one.peers.local_address().to_string()), (3, "127.0.0.1:1".to_owned())]));
    for garbage in [&[0xff; 12][..], &[0, 0, 0, 0, 9, 1, 0, 0, 0, 0, 0, 0], &[1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0]] {
        let (mut stream, _) = greet(address, hello(3, 1, Lane::Append)).await;
        let _ = stream.write_all(garbage).await;
        is_closed(stream).await;
    }
    one.sends(2, Lane::Control, numbered(5)).await;
    let (arrival, frame) = two.next_frame().await;
    assert_eq!((arrival.from, number_of(&frame)), (1, 5));
}

#[tokio::test]
async fn silent_connections_are_few_and_closed() {
    let (one, two) = (Start::node(1), Start::node(2));
    let address = one.peers.local_address();
    let mut silent = Vec::new();
    for _ in 0..64 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Accepted in order, so all places are taken by now: the next one is closed long before the handshake's time is up.
    let excess = TcpStream::connect(address).await.unwrap();
    timeout(Duration::from_secs(2), is_closed(excess)).await.expect("no place is left");
    for stream in silent {
        is_closed(stream).await;
    }
    one.knows(&[&two]);
    two.knows(&[&one]);
    two.waits_until(1, Lane::Control, "there is room again", |link| link.is_connected).await;
}

#[tokio::test]
async fn a_full_queue_takes_nothing_more() {
    let one = Start::node(1);
    // Accepts, as every listener does, but never answers a greeting.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    one.peers.set_addresses(BTreeMap::from([(2, mute.local_addr().unwrap().to_string())]));
    let half = max_queued_bytes(Lane::Bulk) / 2;
    assert!(one.peers.send(2, Lane::Bulk, part(half - 100)));
    assert!(one.peers.send(2, Lane::Bulk, part(half - 100)));
    assert!(!one.peers.send(2, Lane::Bulk, part(half)), "there is no room");
    assert!(one.peers.send(2, Lane::Bulk, part(1)), "for a smaller one there is");
    assert!(one.peers.send(2, Lane::Append, part(half)), "lanes have a queue each");
    assert!(!one.peers.send(2, Lane::Control, part(max_queued_bytes(Lane::Control))), "it would never fit");
    assert!(!one.peers.send(3, Lane::Control, numbered(1)), "node 3 is unknown");
    let link = one.status(2, Lane::Bulk);
    assert_eq!((link.queued_frames, link.refused_frames, link.is_connected), (3, 1, false));
    assert!(link.queued_bytes <= max_queued_bytes(Lane::Bulk) as u64);
    let link = one.waits_until(2, Lane::Bulk, "the wait for a greeting ends", |link| link.last_error.is_some()).await;
    assert_eq!(link.last_error.as_deref(), Some("no greeting within 3 s"));
    assert_eq!((link.queued_frames, link.dropped_frames), (0, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_bulk_lane_delays_no_heartbeat_and_is_given_up() {
    let mut one = Start::node(1);
    let mut two = Start { node: 2, stuck: Some(Lane::Bulk), ..Start::default() }.run();
    one.knows(&[&two]);
    two.knows(&[&one]);
    one.waits_for(Happening::Connected(2, Lane::Bulk)).await;
    let filled = async {
        // The kernel's buffers and the queue are full when nothing is taken for longer than writing takes.
        let mut refused = 0;
        while refused < 20 {
            if one.peers.send(2, Lane::Bulk, part(1 << 20)) {
                refused = 0;
            } else {
                refused += 1;
                sleep(Duration::from_millis(5)).await;
            }
        }
    };
    timeout(PATIENCE, filled).await.expect("a stuck lane fills up");
    for number in 0..20 {
        one.sends(2, Lane::Control, numbered(number)).await;
        let arrived = timeout(Duration::from_secs(1), two.next_frame()).await.expect("control does not wait for bulk");
        assert_eq!(number_of(&arrived.1), number);
    }
    one.waits_for(Happening::Unreachable(2, Lane::Bulk)).await;
    assert!(one.status(2, Lane::Bulk).dropped_frames > 0);
    assert!(one.status(2, Lane::Control).is_connected);
    assert_eq!(one.status(2, Lane::Control).dropped_frames, 0);
}
