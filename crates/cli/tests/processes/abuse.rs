//! Clients that take what they can: connections, time, memory. The node's memory stays bounded, and others are served throughout.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::support::{Cluster, Load, Request, now, pause, since, tell, until};

/// As many as the requirement says.
const CONNECTIONS: usize = 10_000;

/// How many of them are made at the same moment.
const CONNECTING: usize = 64;

/// Files that a process must be able to open for them: a node leaves a quarter of its files to others than clients.
const FILES: u64 = (CONNECTIONS + CONNECTIONS / 3 + 1000) as u64;

const MIB: u64 = 1 << 20;

/// A value close to the largest that a node accepts by default.
const LARGE_VALUE_BYTES: usize = 3 << 19;

/// How long others may go without an acknowledged write; far more than on a machine that does nothing else.
const MAX_SILENCE: Duration = Duration::from_secs(5);

/// Longer than a head may take.
const HEAD_LIMIT: Duration = Duration::from_secs(20);

/// A cluster of one with a load on it, which the abuse must not disturb.
struct Victim {
    cluster: Cluster,
    load: Load,
}

impl Victim {
    /// With these keys, which the load leaves alone.
    fn with(pairs: &[(String, Vec<u8>)]) -> Self {
        let cluster = Cluster::ready(1);
        let mut connection = cluster.connection("n1");
        for (key, value) in pairs {
            connection.expect(201, &Request::put(key.as_bytes(), value.clone()));
        }
        let load = Load::start(&cluster);
        Self { cluster, load }
    }

    fn address(&self) -> &str {
        &self.cluster.node("n1").client_address
    }

    /// Does it, and holds that others were served meanwhile.
    #[track_caller]
    fn suffer<T>(&self, what: &str, abuse: impl FnOnce(&Self) -> T) -> T {
        let start = now();
        let result = abuse(self);
        let silence = self.load.longest_silence(start, now());
        tell(format_args!("{what}: {:?}, longest silence {silence:?}, peak {} MiB", since(start), self.peak_mib()));
        assert!(silence < MAX_SILENCE, "{what}: others were disturbed for {silence:?}");
        result
    }

    /// The most memory that the node ever had.
    fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.cluster.node("n1").pid())).expect("the node runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        peak.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok()).expect("in KiB") >> 10
    }

    #[track_caller]
    fn assert_peak_below(&self, max_mib: u64) {
        let peak = self.peak_mib();
        assert!(peak < max_mib, "the node took {peak} MiB, {max_mib} were to be enough");
    }

    /// Takes note of writes beside those of the load.
    fn allow_more_writes(&mut self, count: usize) {
        (0..count).for_each(|_| self.load.allow_one_more_write());
    }

    /// Holds that the load's promises were kept.
    #[track_caller]
    fn recover(self) {
        pause(1500);
        let tally = self.load.finish(&self.cluster);
        assert_eq!((tally.refused, tally.unknown), (0, 0), "others were disturbed");
    }
}

/// Lets this process, and the nodes that are its children, open as many files as are needed. Fewer connections would test
/// nothing.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    let least = |limit: Option<u64>| limit.map(|files| files.max(FILES));
    // Beyond the maximum only who may do anything can go.
    let wanted = [limit.maximum, least(limit.maximum)];
    for most in wanted {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    assert!(
        files >= FILES,
        "{CONNECTIONS} connections need {FILES} open files, the system allows {files}: raise it (ulimit -Hn {FILES})"
    );
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the node accepts connections");
    stream.set_read_timeout(Some(HEAD_LIMIT)).expect("a socket takes a time limit");
    stream.set_write_timeout(Some(HEAD_LIMIT)).expect("a socket takes a time limit");
    stream
}

/// Writes; the node may have closed the connection, which is its right.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).is_ok()
}

/// Whether the node has closed the connection, perhaps with an answer before.
fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket can be asked without waiting");
    let mut answer = [0; 4096];
    loop {
        match stream.read(&mut answer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

fn head(method: &str, target: &str, rest: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\n{rest}\r\n").into_bytes()
}

/// Bytes that are no text, so that JSON has to write them as base64.
fn large_value() -> Vec<u8> {
    (0..LARGE_VALUE_BYTES).map(|index| (index % 251) as u8 | 0x80).collect()
}

/// Sends the request on each connection, then waits for all answers.
#[track_caller]
fn answered(streams: &mut [TcpStream], request: &[u8], status: &str) {
    streams.iter_mut().for_each(|stream| assert!(write_some(stream, request)));
    let mut answer = vec![0; 4096];
    for stream in streams {
        let count = stream.read(&mut answer).expect("every connection is answered");
        let answer = String::from_utf8_lossy(&answer[..count]);
        assert!(answer.starts_with(status), "{answer}");
    }
}

#[test]
fn ten_thousand_connections_at_once_are_all_served() {
    let count = CONNECTIONS;
    allow_files();
    let victim = Victim::with(&[("k".to_owned(), b"v".to_vec())]);
    let request = head("GET", "/v1/kv/default/k", "");
    let mut streams: Vec<TcpStream> = victim.suffer("connecting", |victim| {
        let share = |first: usize| (first..count).step_by(CONNECTING).map(|_| connect(victim.address())).collect::<Vec<_>>();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..CONNECTING).map(|first| scope.spawn(move || share(first))).collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("all connections are accepted")).collect()
        })
    });
    victim.suffer("a request on each", |_| answered(&mut streams, &request, "HTTP/1.1 200"));
    let text = victim.cluster.connection("n1").expect(200, &Request::new("GET", "/metrics")).text();
    let open = text.lines().find_map(|line| line.strip_prefix("quorate_rest_connections ")).expect("the node counts them");
    assert!(open.parse::<usize>().expect("a number") > count, "{open} connections are open");
    // Of which nothing may stay behind.
    let long = [head("PUT", "/v1/kv/_system/k", "content-length: 60000\r\n"), vec![b'x'; 60_000]].concat();
    victim.suffer("a body on each", |_| answered(&mut streams, &long, "HTTP/1.1 403"));
    victim.assert_peak_below(600);
    drop(streams);
    victim.recover();
}

/// Files run out: connections cannot be accepted any more, and those that are there are served.
#[test]
fn a_node_without_files_to_open_serves_who_is_there() {
    let victim = Victim::with(&[]);
    let pid = Pid::from_raw(victim.cluster.node("n1").pid().cast_signed());
    let open = std::fs::read_dir(format!("/proc/{}/fd", victim.cluster.node("n1").pid())).expect("the node runs").count();
    let few = Rlimit { current: Some(open as u64 + 50), maximum: Some(open as u64 + 50) };
    prlimit(pid, Resource::Nofile, few).expect("a process may lower the limit of its child");
    // The system completes connections that the node cannot accept.
    let streams: Vec<TcpStream> = victim.suffer("connections beyond the limit of files", |victim| {
        let streams = (0..300).map(|_| connect(victim.address())).collect();
        pause(1000);
        streams
    });
    drop(streams);
    victim.suffer("files again", |victim| {
        let mut other = victim.cluster.connection("n1");
        until("a new connection that is served", Duration::from_secs(15), || match other.send(&Request::new("GET", "/livez")) {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
    });
    victim.recover();
}

#[test]
fn slow_readers_hold_little_memory() {
    const READERS: usize = 600;
    let pairs: Vec<(String, Vec<u8>)> = (0..6).map(|number| (format!("large/{number}"), large_value())).collect();
    let victim = Victim::with(&pairs);
    // 10 MiB of JSON for each, if there were no limit: 6 GiB.
    let request = head("GET", "/v1/kv/default?prefix=large/&values=true", "");
    let mut readers = victim.suffer("lists that nobody reads", |victim| {
        let ask = |_| {
            let mut stream = connect(victim.address());
            write_some(&mut stream, &request);
            stream
        };
        (0..READERS).map(ask).collect::<Vec<TcpStream>>()
    });
    victim.suffer("reading them byte by byte", |_| {
        let mut byte = [0];
        for _ in 0..20 {
            readers.iter_mut().for_each(|stream| drop(stream.read(&mut byte)));
            pause(50);
        }
    });
    victim.assert_peak_below(900);
    // A value of ordinary size is served while they hold what they hold.
    let mut other = victim.cluster.connection("n1");
    assert_eq!(other.expect(200, &Request::get(b"large/0")).body.len(), LARGE_VALUE_BYTES);
    drop(readers);
    other.expect(200, &Request::new("GET", "/v1/kv/default?prefix=large/&values=true"));
    victim.recover();
}

#[test]
fn slow_heads_are_cut_off_and_long_ones_share_a_bounded_memory() {
    const DRIPPING: usize = 3000;
    const FLOODS: usize = 3000;
    let victim = Victim::with(&[]);
    let mut dripping = victim.suffer("heads that drip", |victim| {
        let begin = |_| {
            let mut stream = connect(victim.address());
            write_some(&mut stream, b"GET /v1/kv/default/k HTTP/1.1\r\nhost: localhost\r\nx-");
            stream
        };
        (0..DRIPPING).map(begin).collect::<Vec<TcpStream>>()
    });
    // Close to the longest head that there can be, and no end of it.
    let flood = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}", "y".repeat(120_000));
    let floods = victim.suffer("a flood of headers", |victim| {
        let begin = |_| {
            let mut stream = connect(victim.address());
            write_some(&mut stream, flood.as_bytes());
            stream
        };
        (0..FLOODS).map(begin).collect::<Vec<TcpStream>>()
    });
    victim.assert_peak_below(400);
    victim.suffer("until the time limit of a head", |_| {
        until("the end of heads that drip", HEAD_LIMIT, || {
            dripping.iter_mut().for_each(|stream| _ = write_some(stream, b"y"));
            dripping.retain_mut(|stream| !is_closed(stream));
            if dripping.is_empty() { Ok(()) } else { Err(format!("{} are open", dripping.len())) }
        });
    });
    drop(floods);
    victim.recover();
}

#[test]
fn slow_bodies_leave_room_for_others() {
    const DRIPPING: usize = 400;
    let mut victim = Victim::with(&[]);
    // Together they announce more than what all large bodies may take.
    let request = head("PUT", "/v1/kv/default/slow", &format!("content-length: {LARGE_VALUE_BYTES}\r\n"));
    let dripping = victim.suffer("bodies that do not come", |victim| {
        let begin = |_| {
            let mut stream = connect(victim.address());
            write_some(&mut stream, &[request.as_slice(), &vec![b'x'; 70_000]].concat());
            stream
        };
        (0..DRIPPING).map(begin).collect::<Vec<TcpStream>>()
    });
    victim.suffer("a large value beside them", |victim| {
        let mut other = victim.cluster.connection("n1");
        other.expect(201, &Request::put(b"large", large_value()));
        assert_eq!(other.expect(200, &Request::get(b"large")).body.len(), LARGE_VALUE_BYTES);
    });
    victim.assert_peak_below(400);
    drop(dripping);
    let mut other = victim.cluster.connection("n1");
    other.expect(404, &Request::get(b"slow"));
    victim.allow_more_writes(1);
    victim.recover();
}

#[test]
fn huge_bodies_are_refused_without_being_kept() {
    const CLIENTS: usize = 20;
    let victim = Victim::with(&[]);
    let huge = 100 * MIB as usize;
    victim.suffer("bodies of 100 MB", |victim| {
        std::thread::scope(|scope| {
            for number in 0..CLIENTS {
                let is_chunked = number % 2 == 0;
                scope.spawn(move || send_huge(victim.address(), is_chunked, huge));
            }
        });
    });
    victim.assert_peak_below(400);
    victim.cluster.connection("n1").expect(404, &Request::get(b"huge"));
    victim.recover();
}

/// Sends until it is refused, and reads the refusal.
fn send_huge(address: &str, is_chunked: bool, bytes: usize) {
    let mut stream = connect(address);
    let length = if is_chunked { "transfer-encoding: chunked\r\n".to_owned() } else { format!("content-length: {bytes}\r\n") };
    let mut reader = stream.try_clone().expect("a socket can be shared");
    let is_written = write_some(&mut stream, &head("PUT", "/v1/kv/default/huge", &length));
    let piece = [format!("{:x}\r\n", 1 << 16).as_bytes(), &vec![b'x'; 1 << 16], b"\r\n"].concat();
    let piece = if is_chunked { piece.as_slice() } else { &piece[7..piece.len() - 2] };
    let mut sent = 0;
    while is_written && sent < bytes && write_some(&mut stream, piece) {
        sent += piece.len();
    }
    let mut answer = Vec::new();
    // The connection may have been reset after the answer; what of it came is there.
    let _ = reader.read_to_end(&mut answer);
    assert!(sent < bytes, "the node took all of it");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
}
