//! Engines on disks: replicas that come back with what their engine has, and go on from there with their log.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::testing::SimulatedEngines;
use quorate_engine::{Batch, Engine, EngineError, EngineSpec, Engines, LocalEngines, Place, Table};
use tempfile::TempDir;

use super::cluster::{Cluster, NewDisk, key};
use crate::io::{Answer, Effect, Input, MemberState, Members, Time, Write};
use crate::replica::{Replica, Setup};
use crate::{Body, Entry, InstanceId, Options, ReplicaError, Trigger};

/// An engine that comes back with what it had flushed.
pub(super) fn simulated() -> (Arc<dyn Engines>, &'static str) {
    (Arc::new(SimulatedEngines::default()), "lsm")
}

/// The real ones, in a folder that goes with them.
#[derive(Debug)]
struct Scratch {
    engines: LocalEngines,
    _folder: TempDir,
}

impl Scratch {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { engines: LocalEngines::new(folder.path(), 7).unwrap(), _folder: folder }
    }
}

impl Engines for Scratch {
    fn open(&self, place: Place, spec: &EngineSpec) -> Result<Arc<dyn Engine>, EngineError> {
        self.engines.open(place, spec)
    }

    fn remove(&self, place: Place) -> io::Result<()> {
        self.engines.remove(place)
    }

    fn places(&self) -> io::Result<Vec<Place>> {
        self.engines.places()
    }
}

const DISKS: [NewDisk; 3] = [simulated, || (Arc::new(Scratch::new()), "lsm"), || (Arc::new(Scratch::new()), "btree")];

fn options() -> Options {
    Options {
        sync_interval_ms: 0,
        report_interval_ms: 100,
        max_report_interval_ms: 1_600,
        digest_levels: 2,
        checkpoint_bytes: 2_000,
        ..Options::new(Trigger::push())
    }
}

fn all_shown(cluster: &Cluster, slot: usize) -> Vec<Option<Entry>> {
    (0..10).map(|at| cluster.replica(slot).unwrap().get_durable(&key(at))).collect()
}

/// Kills and flushes at any point, on each engine: what was there is there again, and the log stays short.
#[test]
fn a_replica_comes_back_with_its_engine_and_the_rest_of_its_log() {
    for disk in DISKS {
        let mut cluster = Cluster::over(Some(disk), 3, options(), None);
        cluster.run_ms(1_000);
        let mut checkpoints = 0;
        for round in 0..40 {
            for at in 0..10 {
                match (round + at) % 7 {
                    0 => cluster.delete(0, at),
                    1 => cluster.put(0, at, Some(300)),
                    _ => cluster.put(0, at, None),
                };
            }
            cluster.run_ms(100);
            if round % 3 == 0 {
                // Everything is durable and seen: a restart takes nothing back, wherever flush and purge were.
                checkpoints += cluster.status(0).counts.checkpoints;
                let before = all_shown(&cluster, 0);
                cluster.crash(0);
                cluster.restart(0);
                assert_eq!(all_shown(&cluster, 0), before);
                cluster.replica(0).unwrap().check();
            }
        }
        assert!(checkpoints > 2, "{checkpoints}");
        assert!(cluster.log_bytes(0) < 8_000, "{} bytes of log", cluster.log_bytes(0));
        cluster.run_ms(5_000);
        cluster.check_equal(&[0, 1, 2]);
        cluster.check_clean();
    }
}

/// What the log alone says is said again before it is purged.
#[test]
fn clock_fence_and_schedule_outlive_the_purge() {
    let schedule = Some("*/10 * * * *".parse().unwrap());
    let mut cluster = Cluster::over(Some(simulated), 2, Options { schedule, ..options() }, None);
    cluster.run_ms(1_000);
    cluster.run_in_steps(600_000 - cluster.wall_ms(0) % 600_000 + 1_000, 500);
    for _ in 0..5 {
        (0..10).for_each(|at| _ = cluster.put(0, at, None));
        (0..10).for_each(|at| _ = cluster.delete(0, at));
        cluster.run_ms(100);
    }
    cluster.run_ms(5_000);
    let before = cluster.status(0);
    assert!(before.fence > crate::Hlc::ZERO && (before.keys, before.tombstones) == (0, 0), "all is over: {before:?}");
    assert_eq!(before.counts.scheduled, 1);
    // Of nothing that was there anything is left: neither in the engine nor in the log.
    cluster.shorten(0);
    cluster.run_ms(500);
    assert!(cluster.status(0).counts.checkpoints > 0 && cluster.log_bytes(0) < 100, "{} bytes", cluster.log_bytes(0));
    // Nobody to say how late it is, and a clock that went back by an hour.
    cluster.partition(1);
    cluster.jump(0, -3_600_000);
    cluster.crash(0);
    cluster.restart(0);
    let token = cluster.put(0, 1, None).unwrap();
    cluster.run_ms(2_000);
    let again = cluster.status(0);
    assert!(again.fence >= before.fence, "the fence went back");
    assert_eq!(again.counts.scheduled, 0, "the schedule began anew");
    match cluster.answers.get(&token) {
        Some(Answer::Written { version, .. }) => assert!(version.hlc > before.fence, "stamps went back with the clock"),
        other => panic!("{other:?}"),
    }
}

/// One replica on its own, with whatever is done to its log and its engine.
struct Alone {
    engines: Arc<dyn Engines>,
    replica: Replica,
    log: Vec<(u64, Bytes)>,
    now_ms: u64,
    inputs: Vec<Input>,
    shown: Vec<Answer>,
}

const PLACE: Place = Place { group: 1, build: 0 };

impl Alone {
    fn open(engines: &Arc<dyn Engines>, log: &[(u64, Bytes)], purged: u64, start: u64) -> Result<Replica, ReplicaError> {
        let setup = Setup { instance: InstanceId(1), start, options: options(), seed: 7 };
        let mut replica = Replica::open(setup, engines.open(PLACE, &EngineSpec::of("lsm"))?)?;
        replica.begin_replay(purged, log.last().map_or(purged, |(last, _)| *last))?;
        log.iter().try_for_each(|(index, record)| replica.replay(*index, record.clone()))?;
        Ok(replica)
    }

    /// One that has written something, and so need not wait for its clock's bound.
    fn new() -> Self {
        let engines = simulated().0;
        let replica = Self::open(&engines, &[], 0, 1).unwrap();
        let members = Members { epoch: 1, states: [(InstanceId(1), MemberState::Up)].into() };
        let inputs = vec![Input::Members(members)];
        let mut alone = Self { engines, replica, log: Vec::new(), now_ms: 1_000, inputs, shown: Vec::new() };
        alone.write(b"first", b"v");
        assert_eq!(Self::batch(alone.durable()), None, "the bound comes first");
        let batch = Self::batch(alone.durable()).expect("it is durable");
        alone.apply(batch);
        alone.poll();
        assert_eq!(std::mem::take(&mut alone.shown).len(), 1);
        alone
    }

    /// The engine takes in what it was to.
    fn apply(&mut self, batch: Batch) {
        self.replica.engine().apply(batch).unwrap();
        self.inputs.push(Input::Applied);
    }

    fn poll(&mut self) -> Vec<Effect> {
        self.now_ms += 10;
        let time = Time { mono_ms: self.now_ms, wall_ms: 1_000_000_000 + self.now_ms };
        let mut effects = Vec::new();
        self.replica.poll(time, &mut self.inputs, &mut effects).unwrap();
        for effect in &effects {
            match effect {
                Effect::Append { index, record } => self.log.push((*index, record.clone())),
                Effect::Reply { answer, .. } => self.shown.push(answer.clone()),
                _ => {}
            }
        }
        effects
    }

    fn durable(&mut self) -> Vec<Effect> {
        let index = self.log.last().map_or(0, |(last, _)| *last);
        self.inputs.push(Input::Durable { index });
        self.poll()
    }

    fn write(&mut self, key: &'static [u8], value: &[u8]) -> Vec<Effect> {
        let (key, body) = (Bytes::from_static(key), Body::plain(Bytes::copy_from_slice(value)));
        let write =
            Write { token: self.now_ms, key, body, ttl_ms: None, ack: None, deadline_ms: self.now_ms + 5_000, session: None };
        self.inputs.push(Input::Write(write));
        self.poll()
    }

    /// What the engine is to take in, which is handed out once.
    fn batch(effects: Vec<Effect>) -> Option<Batch> {
        let mut batches = effects.into_iter().filter_map(|effect| match effect {
            Effect::Apply { batch } => Some(batch),
            _ => None,
        });
        let batch = batches.next();
        assert!(batches.next().is_none(), "one at a time");
        batch
    }
}

#[test]
fn a_write_is_answered_once_it_is_durable_and_seen() {
    let mut alone = Alone::new();
    assert_eq!(Alone::batch(alone.write(b"a", b"1")), None, "it is not durable");
    let first = Alone::batch(alone.durable()).expect("now it is");
    assert!(alone.shown.is_empty(), "it is durable, and nobody sees it yet");
    // Another one comes meanwhile: it waits for the engine to be done.
    alone.write(b"a", b"2");
    assert_eq!(Alone::batch(alone.durable()), None, "one batch at a time");
    let now = |alone: &Alone| alone.replica.get(b"a").unwrap().map(|entry| entry.body);
    assert_eq!(now(&alone), Some(Body::plain(Bytes::from_static(b"2"))));
    alone.apply(first);
    let second = Alone::batch(alone.poll()).expect("it is durable since before");
    assert_eq!(alone.shown.len(), 1, "the first is seen");
    assert_eq!(now(&alone), Some(Body::plain(Bytes::from_static(b"2"))), "what waits is newer than what the engine has");
    alone.apply(second);
    alone.poll();
    assert_eq!(alone.shown.len(), 2);
    alone.replica.check();
}

#[test]
fn an_engine_that_does_not_go_with_the_log_is_refused() {
    let mut alone = Alone::new();
    for round in 0..50 {
        alone.write(b"a", format!("{round}").as_bytes());
        let batch = Alone::batch(alone.durable()).expect("it is durable");
        alone.apply(batch);
    }
    let applied = alone.replica.engine().flush().unwrap();
    assert!(applied > 50);
    let Alone { engines, log, replica, .. } = alone;
    drop(replica);
    let open = |log: &[(u64, Bytes)], purged| Alone::open(&engines, log, purged, 2).map(|replica| replica.status().keys);
    // All of the log, none of it that the engine has, and all between.
    for purged in [0, 5, applied] {
        assert_eq!(open(&log[purged as usize..], purged).unwrap(), 2, "purged up to {purged}");
    }
    let short = open(&log[..applied as usize - 1], 0).unwrap_err();
    assert!(matches!(short, ReplicaError::Ahead { last, .. } if last == applied - 1), "{short}");
    let behind = open(&[], applied + 1).unwrap_err();
    assert!(matches!(behind, ReplicaError::Behind { purged, .. } if purged == applied + 1), "{behind}");
}

/// A large backlog is given to the engine piece by piece, each of them whole positions of the log.
#[test]
fn an_engine_is_given_what_it_can_take() {
    let mut alone = Alone::new();
    let value = vec![7; 300_000];
    let mut waits = None;
    for _ in 0..60 {
        alone.write(b"a", &value);
        let batch = Alone::batch(alone.durable());
        waits = waits.or(batch);
    }
    let (mut positions, mut batches) = (BTreeSet::new(), 0);
    while let Some(batch) = waits {
        batches += 1;
        assert!(
            positions.last().is_none_or(|last| *last < batch.applied) && batch.changes.len() <= 15,
            "{}",
            batch.changes.len()
        );
        positions.insert(batch.applied);
        alone.apply(batch);
        waits = Alone::batch(alone.poll());
    }
    assert!(batches > 4, "{batches}");
    let view = alone.replica.engine().view();
    assert_eq!(view.applied(), *positions.last().unwrap());
    assert!(view.peek(Table::Current, b"a").unwrap().is_some());
    // An engine that does not go on: writes are refused, rather than kept in memory without end.
    for _ in 0..300 {
        alone.write(b"a", &value);
        alone.durable();
    }
    assert!(alone.replica.has_full_backlog());
    let is_refused = |answer: &Answer| matches!(answer, Answer::Refused(crate::Refusal::Overloaded));
    assert!(alone.shown.iter().any(is_refused));
}
