//! What three replicas cost without the node around them: `cargo run --release -p quorate-eventual --example replica_bench`, or
//! with one of `start`, `writes`, `comparison`, `copy` behind it for that alone.
//!
//! All of them in one thread, every message encoded and decoded once, disks that sync at once. So it measures the core's own
//! processor time: for writes, for a comparison of replicas that differ, for one of equal ones, for a copy, and for a start over
//! an engine on a disk, with what is in memory afterwards.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_engine::{Batch, Change, EngineSpec, Engines, Hash, LocalEngines, Place, Table};
use quorate_eventual::{
    Body, CopyWhen, Effect, Entry, Hlc, Input, InstanceId, MemberState, Members, Message, Options, Replica, Setup, Time, Trigger,
    Version, Write,
};
use rustix::time::{ClockId, clock_gettime};

/// Processor time of this thread: what others do on the machine does not count.
struct Begun(Duration);

impl Begun {
    fn now() -> Self {
        Self(processor_time())
    }

    fn elapsed(&self) -> Duration {
        processor_time().saturating_sub(self.0)
    }
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec.cast_unsigned() as u32)
}

/// Requests that a replica takes in at once: as many as there are clients.
const CLIENTS: u64 = 64;

/// Bytes of a value.
const VALUE_BYTES: usize = 256;

struct Bench {
    replicas: Vec<Replica>,
    inputs: Vec<Vec<Input>>,
    now_ms: u64,
    bytes: u64,
    messages: u64,
    answers: u64,
    /// Processor time of the polls of each replica, and of its messages: of those it sent to be encoded, and decoded.
    polled: [Duration; 3],
    coded: [Duration; 3],
}

impl Bench {
    fn new(options: &Options) -> Self {
        let states = (1..=3).map(|id| (InstanceId(id), MemberState::Up)).collect::<BTreeMap<_, _>>();
        let replica = |id| {
            let engine = Arc::new(Hash::new(7));
            let setup = Setup { instance: InstanceId(id), start: 1, options: options.clone(), seed: 7 };
            Replica::open(setup, engine).expect("an empty engine in memory can be read")
        };
        let members = || Input::Members(Members { epoch: 1, states: states.clone() });
        Self {
            replicas: (1..=3).map(replica).collect(),
            inputs: (0..3).map(|_| vec![members()]).collect(),
            now_ms: 1_000,
            bytes: 0,
            messages: 0,
            answers: 0,
            polled: Default::default(),
            coded: Default::default(),
        }
    }

    /// A poll of one replica; what it sends arrives at once, where `is_heard` says so.
    fn poll(&mut self, at: usize, is_heard: bool) {
        let time = Time { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms };
        let mut effects = Vec::new();
        let begun = Begun::now();
        self.replicas[at].poll(time, &mut self.inputs[at], &mut effects).expect("an engine in memory does not fail");
        self.polled[at] += begun.elapsed();
        for effect in effects {
            match effect {
                Effect::Append { index, .. } => self.inputs[at].push(Input::Durable { index }),
                Effect::Send(message) if is_heard => {
                    let begun = Begun::now();
                    let bytes = message.to_bytes();
                    self.bytes += bytes.len() as u64;
                    self.messages += 1;
                    let to = message.to.0 as usize - 1;
                    self.inputs[to].push(Input::Message(Message::decode(bytes).expect("what was encoded can be decoded")));
                    self.coded[at] += begun.elapsed();
                }
                Effect::Reply { .. } => self.answers += 1,
                _ => {}
            }
        }
    }

    /// Lets everybody do what there is to do, and time pass.
    fn run(&mut self, ms: u64, is_heard: bool) {
        for _ in 0..ms {
            self.now_ms += 1;
            for _ in 0..3 {
                (0..3).for_each(|at| self.poll(at, is_heard));
            }
        }
    }

    fn write(&mut self, at: usize, key: u64) {
        let key = Bytes::from(format!("key-{key:012}"));
        let body = Body::plain(Bytes::from(vec![0x61; VALUE_BYTES]));
        let write = Write { token: 1, key, body, ttl_ms: None, ack: None, deadline_ms: u64::MAX, session: None };
        self.inputs[at].push(Input::Write(write));
    }

    fn digests(&self) -> Vec<u128> {
        self.replicas.iter().map(|replica| replica.status().digest).collect()
    }

    fn is_equal(&self) -> bool {
        self.digests().windows(2).all(|pair| pair[0] == pair[1])
    }
}

fn options(trigger: Trigger, is_durable: bool) -> Options {
    Options { is_durable, sync_interval_ms: 0, ..Options::new(trigger) }
}

fn writes(is_durable: bool) {
    let mut bench = Bench::new(&options(Trigger::push(), is_durable));
    bench.run(50, true);
    let count = 300_000;
    let begun = Begun::now();
    for round in 0..count / CLIENTS {
        (0..CLIENTS).for_each(|client| bench.write((round % 3) as usize, (round * CLIENTS + client) * 7_919 % 100_000));
        bench.now_ms += 1;
        (0..3).for_each(|at| bench.poll(at, true));
    }
    bench.run(100, true);
    let took = begun.elapsed();
    assert!(bench.is_equal(), "{:?}", bench.digests());
    let each_us = took.as_secs_f64() * 1e6 / count as f64;
    println!(
        "push, durable {is_durable}: {each_us:.1} us of processor per write at all three replicas together, {} bytes sent",
        bench.bytes / count
    );
}

fn comparison(divergent: u64) {
    let mut bench = Bench::new(&options(Trigger::Copy(CopyWhen::Manual), false));
    bench.run(50, true);
    for key in 0..divergent {
        bench.write((key % 3) as usize, key);
        if key % 1_000 == 999 {
            bench.run(1, false);
        }
    }
    bench.run(10, false);
    assert!(!bench.is_equal());
    bench.bytes = 0;
    let begun = Begun::now();
    for (at, inputs) in bench.inputs.iter_mut().enumerate() {
        inputs.push(Input::Sync { token: at as u64 + 10, deadline_ms: u64::MAX });
    }
    let mut steps = 0;
    // Who heard nobody waits for the next report.
    while !bench.is_equal() {
        bench.run(1, true);
        steps += 1;
        assert!(steps < 60_000, "they do not become equal");
    }
    let took = begun.elapsed();
    println!(
        "{divergent} divergent keys: equal after {:.2} s of processor, {} bytes per key",
        took.as_secs_f64(),
        bench.bytes / divergent
    );
    bench.run(2_000, true);
    (bench.bytes, bench.messages) = (0, 0);
    bench.inputs[0].push(Input::Sync { token: 20, deadline_ms: u64::MAX });
    bench.run(1, true);
    println!("equal replicas: {} messages and {} bytes to two peers", bench.messages, bench.bytes);
}

fn copy(keys: u64, is_durable: bool) {
    let mut bench = Bench::new(&options(Trigger::Copy(CopyWhen::Manual), is_durable));
    bench.run(50, true);
    for key in 0..keys {
        bench.write(0, key);
        if key % 1_000 == 999 {
            bench.run(1, false);
        }
    }
    bench.run(10, false);
    bench.bytes = 0;
    (bench.polled, bench.coded) = Default::default();
    let begun = Begun::now();
    bench.inputs[0].push(Input::Flush { token: 30, deadline_ms: u64::MAX });
    let mut steps = 0;
    while !bench.is_equal() {
        bench.run(1, true);
        steps += 1;
        assert!(steps < 60_000, "they do not become equal");
    }
    let took = begun.elapsed().as_secs_f64();
    println!(
        "a copy of {keys} keys to two peers, durable {is_durable}: {:.0} MB/s of processor, {:.2} us per key and peer",
        bench.bytes as f64 / 1e6 / took,
        took * 1e6 / (2 * keys) as f64
    );
    let each_us = |time: Duration| time.as_secs_f64() * 1e6 / keys as f64;
    println!(
        "  of that, per key: {:.2} us at the source, {:.2} and {:.2} us at the others, {:.2} us to encode and decode messages",
        each_us(bench.polled[0]),
        each_us(bench.polled[1]),
        each_us(bench.polled[2]),
        each_us(bench.coded.iter().sum())
    );
}

/// What this process has in memory, in bytes.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("a Linux system tells");
    let pages = statm.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("the second number");
    pages * 4096
}

/// A replica over an engine on a disk that has all its pairs: what a start costs, and what is in memory afterwards.
fn start(keys: u64) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let engines = LocalEngines::new(folder.path(), 7).expect("it is empty");
    let open = || engines.open(Place { group: 1, build: 0 }, &EngineSpec::of("lsm")).expect("a disk that works");
    let engine = open();
    for batch in 0..keys / 1_000 {
        let put = |at: u64| {
            let key = Bytes::from(format!("key-{:016}", (batch * 1_000 + at).wrapping_mul(7_919)));
            let version = Version { hlc: Hlc(at), instance: InstanceId(1) };
            let entry = Entry { version, deadline_ms: 0, body: Body::plain(Bytes::from(vec![0x61; VALUE_BYTES])) };
            Change::Put { table: Table::Current, key, value: entry.to_bytes() }
        };
        let batch = Batch { applied: batch + 1, revision: batch + 1, changes: (0..1_000).map(put).collect() };
        engine.apply(batch).expect("a disk that works");
    }
    engine.flush().expect("a disk that works");
    drop(engine);
    let engine = open();
    // Once, so that what the engine itself keeps in memory is there.
    assert_eq!(engine.view().pairs(Table::Current).count() as u64, keys);
    let before_bytes = resident_bytes();
    let begun = Begun::now();
    let setup = Setup { instance: InstanceId(1), start: 1, options: options(Trigger::push(), true), seed: 7 };
    let replica = Replica::open(setup, engine).expect("a disk that works");
    let took = begun.elapsed();
    println!(
        "a start over lsm with {} keys of 20 bytes: {:.2} s of processor, {} bytes of memory per key, the key included",
        replica.status().keys,
        took.as_secs_f64(),
        resident_bytes().saturating_sub(before_bytes) / keys
    );
}

fn main() {
    let only = std::env::args().nth(1);
    let is_asked_for = |name: &str| only.as_ref().is_none_or(|only| only == name);
    if is_asked_for("start") {
        start(1_000_000);
    }
    if is_asked_for("writes") {
        writes(false);
        writes(true);
    }
    if is_asked_for("comparison") {
        comparison(100_000);
    }
    if is_asked_for("copy") {
        copy(500_000, false);
        copy(500_000, true);
    }
}
