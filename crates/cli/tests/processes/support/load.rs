//! Writers and readers that go on through every fault, and judge what they see.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::cluster::Cluster;
use super::http::{Connection, Request};
use super::registers::{Outcome, PADDING_BYTES, Register};
use super::time::{now, pause, tell, until};

const WRITERS: usize = 4;
const READERS: usize = 4;

/// Registers that a writer writes in turn.
const REGISTERS_PER_WRITER: usize = 8;

/// After so many writes a register is left as it is, and looked at again at the end.
const WRITES_PER_REGISTER: u64 = 10;

/// Registers that readers look at: the newest ones.
const REGISTERS_READ: usize = 64;

/// Between two requests of one client, so that the load measures the cluster and not the machine.
const PACE_MS: u64 = 3;

/// Longer than a node takes by the time limit in each request.
const PATIENCE: Duration = Duration::from_secs(4);

/// A running load. Dropping it stops its threads.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// The revision that only the load's own writes may raise.
    revision_before: u64,
}

/// How the load's writes ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) acknowledged: u64,
    /// Certainly not done.
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
}

/// A request that was not answered as it should have been.
#[derive(Debug)]
struct Failed {
    begin: Instant,
    end: Instant,
    why: String,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    /// How large values are, about.
    padding_bytes: usize,
    addresses: RwLock<Vec<String>>,
    registers: RwLock<Vec<Arc<Register>>>,
    /// Begin and end of every acknowledged write, by end.
    acks: Mutex<Vec<(Instant, Instant)>>,
    reads: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    failures: Mutex<Vec<Failed>>,
    violations: Mutex<Vec<String>>,
}

impl Load {
    /// Starts it, on all nodes that the cluster has now. Nobody else may write until it is finished.
    pub(crate) fn start(cluster: &Cluster) -> Self {
        Self::start_with(cluster, PADDING_BYTES)
    }

    /// The same with values that are about so large.
    pub(crate) fn start_with(cluster: &Cluster, padding_bytes: usize) -> Self {
        let revision_before = revision(cluster);
        let addresses = RwLock::new(cluster.addresses());
        let shared = Arc::new(Shared { padding_bytes, addresses, ..Shared::default() });
        let spawn = |name: String, work: fn(usize, &Shared), number: usize| {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(name).spawn(move || work(number, &shared));
            thread.expect("a thread can be started")
        };
        let writers = (0..WRITERS).map(|number| spawn(format!("writer {number}"), write, number));
        let readers = (0..READERS).map(|number| spawn(format!("reader {number}"), read, number));
        let threads = writers.chain(readers).collect();
        let load = Self { shared, threads, revision_before };
        load.until_acknowledged_after(now(), Duration::from_secs(10));
        load
    }

    /// From now on the load uses these nodes.
    pub(crate) fn use_nodes_of(&self, cluster: &Cluster) {
        *self.shared.addresses.write().expect("nobody panics with it") = cluster.addresses();
    }

    /// Takes note of a write that somebody else did meanwhile, and that was acknowledged.
    pub(crate) fn allow_one_more_write(&mut self) {
        self.revision_before += 1;
    }

    /// Waits for the first acknowledgement of a write that began after `start`; how long after `start` it came.
    #[track_caller]
    pub(crate) fn until_acknowledged_after(&self, start: Instant, limit: Duration) -> Duration {
        let end = until("a write that is acknowledged", limit, || {
            let acks = self.shared.acks.lock().expect("nobody panics with it");
            let first = acks.iter().rev().take_while(|(_, end)| *end >= start).filter(|(begin, _)| *begin >= start).last();
            let failures = || self.shared.failures.lock().expect("nobody panics with it");
            let last_failure = || failures().last().map(|failed| failed.why.clone()).unwrap_or_default();
            first.map(|(_, end)| *end).ok_or_else(last_failure)
        });
        end.saturating_duration_since(start)
    }

    /// The longest time without an acknowledgement between two moments.
    pub(crate) fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let acks = self.shared.acks.lock().expect("nobody panics with it");
        let between = acks.iter().map(|(_, end)| *end).filter(|end| (from..=to).contains(end));
        let moments: Vec<Instant> = std::iter::once(from).chain(between).chain([to]).collect();
        moments.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().expect("there are two moments at least")
    }

    /// Panics if a write or a read was not answered that did not overlap with one of these times.
    #[track_caller]
    pub(crate) fn assert_answered_but_for(&self, outages: &[(Instant, Instant)]) {
        let failures = self.shared.failures.lock().expect("nobody panics with it");
        let is_explained = |failed: &&Failed| outages.iter().any(|(from, to)| failed.begin <= *to && failed.end >= *from);
        let unexplained: Vec<&Failed> = failures.iter().filter(|failed| !is_explained(failed)).collect();
        let first = &unexplained[..unexplained.len().min(5)];
        assert!(unexplained.is_empty(), "{} of {} failures for no reason: {first:#?}", unexplained.len(), failures.len());
        let acknowledged = self.shared.tally().acknowledged;
        let reads = self.shared.reads.load(Ordering::Relaxed);
        tell(format_args!("load: {acknowledged} writes, {reads} reads, {} failures for a reason", failures.len()));
    }

    /// Ends the load and holds everything that was promised:
    /// no stale read, nothing acknowledged is lost, nothing refused was done, and no write was done twice.
    #[track_caller]
    pub(crate) fn finish(mut self, cluster: &Cluster) -> Tally {
        self.stop();
        let shared = &self.shared;
        let broken = shared.violations.lock().expect("nobody panics with it");
        assert!(broken.is_empty(), "{} broken promises; the first ones: {:#?}", broken.len(), &broken[..broken.len().min(5)]);
        let registers = shared.registers.read().expect("nobody panics with it");
        assert_nothing_lost(&registers, cluster);
        let tally = shared.tally();
        let Tally { acknowledged, unknown, .. } = tally;
        let reads = shared.reads.load(Ordering::Relaxed);
        tell(format_args!("load: {tally:?}, {reads} reads, {} keys", registers.len()));
        assert!(acknowledged > 100 && reads > 100, "the load was hardly any");
        let applied = revision(cluster) - self.revision_before;
        assert!(
            (acknowledged..=acknowledged + unknown).contains(&applied),
            "{applied} writes were applied, but {acknowledged} acknowledged and {unknown} unknown"
        );
        cluster.assert_same_everywhere();
        tally
    }

    fn stop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic there was printed there; when this one is unwinding already, it stays at that.
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a client of the load panicked");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reads every register once more, each through another node.
#[track_caller]
fn assert_nothing_lost(registers: &[Arc<Register>], cluster: &Cluster) {
    let mut connections: Vec<Connection> = cluster.running().iter().map(|name| cluster.connection(name)).collect();
    let count = connections.len();
    for (number, register) in registers.iter().enumerate() {
        let version = register.read(&mut connections[number % count]).unwrap_or_else(|broken| panic!("at the end: {broken}"));
        assert!(version.is_some(), "{} cannot be read at the end", register.key);
        assert_eq!(register.wrong(), None);
    }
}

/// The revision of `default`, confirmed by its leader.
fn revision(cluster: &Cluster) -> u64 {
    let name = cluster.running().remove(0);
    cluster.connection(&name).expect(200, &Request::new("GET", "/v1/kv/default?limit=1")).revision()
}

fn write(number: usize, shared: &Shared) {
    let mut route = Route::new(number);
    let mut made = 0;
    let mut registers: VecDeque<(Arc<Register>, u64)> = VecDeque::new();
    while !shared.is_over() {
        while registers.len() < REGISTERS_PER_WRITER {
            made += 1;
            let register = Arc::new(Register::new(format!("writer{number}/{made}"), shared.padding_bytes));
            shared.registers.write().expect("nobody panics with it").push(Arc::clone(&register));
            registers.push_back((register, 0));
        }
        let (register, writes) = registers.pop_front().expect("there are several");
        let begin = now();
        match register.write(route.connection(shared)) {
            Outcome::Acknowledged => {
                shared.acks.lock().expect("nobody panics with it").push((begin, now()));
                if writes + 1 < WRITES_PER_REGISTER {
                    registers.push_back((register, writes + 1));
                }
            }
            Outcome::Refused(why) => {
                shared.refused.fetch_add(1, Ordering::Relaxed);
                shared.failed(begin, why);
                registers.push_back((register, writes));
                route.turn();
            }
            Outcome::Unknown(why) => {
                shared.unknown.fetch_add(1, Ordering::Relaxed);
                shared.failed(begin, why);
                route.turn();
            }
        }
        pause(PACE_MS);
    }
}

fn read(number: usize, shared: &Shared) {
    let mut route = Route::new(number);
    let mut step = number;
    while !shared.is_over() {
        step += 1;
        let Some(register) = shared.recent_register(step) else {
            pause(PACE_MS);
            continue;
        };
        let begin = now();
        match register.read(route.connection(shared)) {
            Ok(Some(_)) => drop(shared.reads.fetch_add(1, Ordering::Relaxed)),
            Ok(None) => {
                shared.failed(begin, format!("{} could not be read", register.key));
                route.turn();
            }
            Err(broken) => shared.violations.lock().expect("nobody panics with it").push(broken),
        }
        // Each node is asked about what went through the others.
        if step.is_multiple_of(32) {
            route.turn();
        }
        pause(PACE_MS);
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn tally(&self) -> Tally {
        Tally {
            acknowledged: self.acks.lock().expect("nobody panics with it").len() as u64,
            refused: self.refused.load(Ordering::Relaxed),
            unknown: self.unknown.load(Ordering::Relaxed),
        }
    }

    fn failed(&self, begin: Instant, why: String) {
        self.failures.lock().expect("nobody panics with it").push(Failed { begin, end: now(), why });
    }

    fn recent_register(&self, step: usize) -> Option<Arc<Register>> {
        let registers = self.registers.read().expect("nobody panics with it");
        let recent = &registers[registers.len().saturating_sub(REGISTERS_READ)..];
        // A step that shares no factor with the length visits all of them, and neighbours at different times.
        recent.get((step * 29) % recent.len().max(1)).cloned()
    }
}

/// The node that a client uses, until it fails.
#[derive(Debug)]
struct Route {
    turns: usize,
    connection: Option<Connection>,
}

impl Route {
    fn new(number: usize) -> Self {
        Self { turns: number, connection: None }
    }

    fn connection(&mut self, shared: &Shared) -> &mut Connection {
        let turns = self.turns;
        self.connection.get_or_insert_with(|| {
            let addresses = shared.addresses.read().expect("nobody panics with it");
            Connection::with_patience(&addresses[turns % addresses.len()], PATIENCE)
        })
    }

    fn turn(&mut self) {
        self.turns += 1;
        self.connection = None;
    }
}
