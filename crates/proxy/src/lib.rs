//! A proxy in front of a node's peer port that can be told to misbehave, link by link; for black-box tests.
//!
//! A node advertises the proxy's address to its peers. Each of them dials it, and says in its greeting who it is; so what goes
//! from one node to another goes through one proxy under the name of the one who dials, and has a [`Link`] of its own: it can be
//! cut, held up, slowed down or damaged while all others go on. Answers between nodes travel on connections of their own: to part
//! two nodes, both directions have to be cut.
//!
//! In front of another server ([`Proxy::of_server`]) there is one link for all, and no greeting.
//!
//! What it must not know: anything that is said after the greeting.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use bytes::BytesMut;
use quorate_api::peer::{Greeting, MAX_GREETING_BYTES, decode_greeting};

/// How what comes from one node is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// It goes on as it comes.
    #[default]
    Open,
    /// Connections end, and no new ones are made.
    Cut,
    /// Connections stay, and nothing goes on; what waits goes on later, if it is still wanted.
    Held,
    /// Everything goes on so much later, in milliseconds, at most 64 KiB at a time.
    Slow(u64),
    /// In each piece of about so many bytes one bit is wrong.
    Damaged(usize),
}

/// A proxy in front of one node. Ends all connections when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    /// Whether who dials says who it is.
    is_greeted: bool,
    links: Mutex<BTreeMap<u64, Link>>,
    is_over: AtomicBool,
}

/// Who dials a server that nobody greets. No node has this id.
pub const ANYBODY: u64 = 0;

/// How often a connection looks whether its link is another, and the listener whether it shall end.
const LOOK: Duration = Duration::from_millis(10);

/// A greeting that takes longer is none.
const GREETING_LOOKS: usize = 300;

/// What is read at once.
const PIECE_BYTES: usize = 64 << 10;

impl Proxy {
    /// Listens at an address of loopback; what comes goes on to `target`.
    pub fn start(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        Self::begin(listen, target, true)
    }

    /// One in front of a server that nobody greets: all connections are of [`ANYBODY`].
    pub fn of_server(listen: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        Self::begin(listen, target, false)
    }

    fn begin(listen: SocketAddr, target: SocketAddr, is_greeted: bool) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared { target, is_greeted, links: Mutex::default(), is_over: AtomicBool::new(false) });
        let of_thread = Arc::clone(&shared);
        let listening = Builder::new().name(format!("proxy {address}")).spawn(move || of_thread.listen(&listener))?;
        Ok(Self { address, shared, listening: Some(listening) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Treats what comes from a node in this way from now on.
    pub fn set(&self, from: u64, link: Link) {
        self.shared.links().insert(from, link);
    }

    /// Treats what comes from all nodes in the usual way.
    pub fn heal(&self) {
        self.shared.links().clear();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(listening) = self.listening.take() {
            // It panics only if this test has failed already.
            let _ = listening.join();
        }
    }
}

impl Shared {
    fn links(&self) -> MutexGuard<'_, BTreeMap<u64, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None once everything is over.
    fn link(&self, from: u64) -> Option<Link> {
        let is_over = self.is_over.load(Ordering::Relaxed);
        (!is_over).then(|| self.links().get(&from).copied().unwrap_or_default())
    }

    /// The link, once it lets something through; none if it is cut, or once everything is over.
    fn passing(&self, from: u64) -> Option<Link> {
        loop {
            match self.link(from)? {
                Link::Cut => return None,
                Link::Held => std::thread::sleep(LOOK),
                link => return Some(link),
            }
        }
    }

    fn listen(self: &Arc<Self>, listener: &TcpListener) {
        while !self.is_over.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let shared = Arc::clone(self);
                    let begun = Builder::new().name("proxy connection".to_owned()).spawn(move || drop(shared.serve(&stream)));
                    // Without a thread there is no connection: the node dials again.
                    drop(begun);
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// One connection, to its end.
    fn serve(self: &Arc<Self>, dialler: &TcpStream) -> io::Result<()> {
        dialler.set_nonblocking(false)?;
        dialler.set_read_timeout(Some(LOOK))?;
        dialler.set_nodelay(true)?;
        let (from, greeting) = if self.is_greeted { self.read_greeting(dialler)? } else { (ANYBODY, Vec::new()) };
        if matches!(self.link(from), None | Some(Link::Cut)) {
            return dialler.shutdown(Shutdown::Both);
        }
        let node = TcpStream::connect(self.target)?;
        node.set_read_timeout(Some(LOOK))?;
        node.set_nodelay(true)?;
        (&node).write_all(&greeting)?;
        let (shared, back) = (Arc::clone(self), (node.try_clone()?, dialler.try_clone()?));
        let answering = Builder::new().name("proxy answers".to_owned()).spawn(move || shared.pump(from, &back.0, &back.1))?;
        self.pump(from, dialler, &node);
        // What it found is told by the sockets.
        let _ = answering.join();
        Ok(())
    }

    fn read_greeting(&self, mut dialler: &TcpStream) -> io::Result<(u64, Vec<u8>)> {
        let mut received = BytesMut::new();
        for _ in 0..GREETING_LOOKS {
            let mut piece = [0; MAX_GREETING_BYTES];
            match dialler.read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) => received.extend_from_slice(&piece[..bytes]),
                Err(error) if is_pause(&error) => {}
                Err(error) => return Err(error),
            }
            let whole = received.to_vec();
            if let Ok(Some(Greeting::Hello(hello))) = decode_greeting(&mut received.clone()) {
                return Ok((hello.node, whole));
            }
            if received.len() > MAX_GREETING_BYTES || self.is_over.load(Ordering::Relaxed) {
                break;
            }
        }
        Err(io::Error::new(ErrorKind::InvalidData, "no greeting"))
    }

    /// Carries bytes over until one end closes, or the link is cut.
    fn pump(&self, from: u64, mut source: &TcpStream, mut sink: &TcpStream) {
        let mut piece = vec![0; PIECE_BYTES];
        let mut carried = 0;
        while self.passing(from).is_some() {
            let bytes = match source.read(&mut piece) {
                Ok(0) => break,
                Ok(bytes) => bytes,
                Err(error) if is_pause(&error) => continue,
                Err(_) => break,
            };
            // As it is by now: what comes after a link was cut does not pass.
            let Some(link) = self.passing(from) else { break };
            match link {
                Link::Slow(ms) => std::thread::sleep(Duration::from_millis(ms)),
                Link::Damaged(every) => damage(&mut piece[..bytes], carried, every.max(1)),
                _ => {}
            }
            carried += bytes;
            if sink.write_all(&piece[..bytes]).is_err() {
                break;
            }
        }
        for end in [source, sink] {
            // It may be closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// Turns one bit in each so many bytes of a stream, of which `carried` went before.
fn damage(piece: &mut [u8], carried: usize, every: usize) {
    let first = (every - carried % every) % every;
    for at in (first..piece.len()).step_by(every) {
        piece[at] ^= 1 << (at % 8);
    }
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use quorate_api::peer::{Hello, Lane, encode_greeting};

    use super::*;

    fn hello(node: u64) -> BytesMut {
        let hello =
            Hello { cluster: 1, node, incarnation: 1, start_id: 0, log_end: 0, lane: Lane::Append, min_wire: 1, max_wire: 1 };
        let mut bytes = BytesMut::new();
        encode_greeting(&Greeting::Hello(hello), &mut bytes);
        bytes
    }

    /// A proxy, and the node behind it.
    fn proxy() -> (Proxy, TcpListener) {
        let node = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start("127.0.0.1:0".parse().unwrap(), node.local_addr().unwrap()).unwrap();
        (proxy, node)
    }

    fn dial(proxy: &Proxy, node: u64) -> TcpStream {
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(&hello(node)).unwrap();
        stream
    }

    /// The node's end of a connection, after the greeting.
    fn accepted(node: &TcpListener) -> TcpStream {
        let (mut stream, _) = node.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut greeting = vec![0; hello(1).len()];
        stream.read_exact(&mut greeting).unwrap();
        stream
    }

    fn comes_through(one: &mut TcpStream, other: &mut TcpStream) -> bool {
        let mut received = [0; 5];
        one.write_all(b"bytes").is_ok() && other.read_exact(&mut received).is_ok() && received == *b"bytes"
    }

    #[test]
    fn each_link_is_treated_on_its_own() {
        let (proxy, node) = proxy();
        let mut first = dial(&proxy, 1);
        let mut first_end = accepted(&node);
        let mut second = dial(&proxy, 2);
        let mut second_end = accepted(&node);
        assert!(comes_through(&mut first, &mut first_end) && comes_through(&mut first_end, &mut first));
        proxy.set(1, Link::Cut);
        assert_eq!(first.read(&mut [0; 9]).unwrap(), 0, "it ends");
        assert!(comes_through(&mut second, &mut second_end));
        assert_eq!(dial(&proxy, 1).read(&mut [0; 9]).unwrap(), 0, "and no other is made");
        proxy.heal();
        let mut again = dial(&proxy, 1);
        let mut again_end = accepted(&node);
        assert!(comes_through(&mut again, &mut again_end));
    }

    #[test]
    fn a_server_that_nobody_greets_has_one_link() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::of_server("127.0.0.1:0".parse().unwrap(), server.local_addr().unwrap()).unwrap();
        let mut one = TcpStream::connect(proxy.address()).unwrap();
        let (mut end, _) = server.accept().unwrap();
        for stream in [&one, &end] {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        assert!(comes_through(&mut one, &mut end) && comes_through(&mut end, &mut one));
        proxy.set(ANYBODY, Link::Cut);
        assert_eq!(one.read(&mut [0; 9]).unwrap(), 0, "it ends");
    }

    #[test]
    fn what_is_held_goes_on_later() {
        let (proxy, node) = proxy();
        let mut one = dial(&proxy, 1);
        let mut end = accepted(&node);
        proxy.set(1, Link::Held);
        std::thread::sleep(5 * LOOK);
        one.write_all(b"bytes").unwrap();
        end.set_read_timeout(Some(5 * LOOK)).unwrap();
        assert!(is_pause(&end.read(&mut [0; 9]).unwrap_err()));
        proxy.set(1, Link::Slow(1));
        end.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut received = [0; 5];
        end.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"bytes");
    }

    #[test]
    fn one_bit_in_so_many_bytes_is_wrong() {
        let mut whole = vec![0; 1000];
        damage(&mut whole, 0, 100);
        let mut in_pieces = vec![0; 1000];
        let mut carried = 0;
        for piece in in_pieces.chunks_mut(37) {
            damage(piece, carried, 100);
            carried += piece.len();
        }
        for bytes in [whole, in_pieces] {
            let wrong: Vec<usize> = (0..1000).filter(|at| bytes[*at].is_power_of_two()).collect();
            assert_eq!(wrong, (0..10).map(|number| number * 100).collect::<Vec<_>>());
        }
    }
}
