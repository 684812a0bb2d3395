//! An engine with a store behind it is an engine, and the store comes to have what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use proptest::prelude::*;
use quorate_engine::testing::SimulatedEngines;
use quorate_engine::{EngineSpec, Engines, KeyRange, LocalEngines, Place, conformance};
use tokio::time::Instant;

use super::*;
use crate::{Answer, Capabilities as StoreCapabilities, Condition, ErrorKind, Memory, Page, Put, Scan, Stored, Written};

/// Twice of it is less than what a carrier waits at a start.
const TIMEOUT: Duration = Duration::from_millis(200);

/// What the tests keep in an engine: a 1 and the value, or a 0 if there is none.
#[expect(clippy::needless_pass_by_value, reason = "it is a `ValueOf`")]
fn value_of(pair: Bytes) -> Result<Option<Bytes>, String> {
    match pair.first() {
        Some(1) => Ok(Some(pair.slice(1..))),
        Some(0) => Ok(None),
        _ => Err("neither a value nor none".to_owned()),
    }
}

/// By tokio's time, which passes when nothing else is to be done.
fn now() -> Instant {
    crate::clock::after(Duration::ZERO)
}

fn clock() -> Clock {
    Clock::new(7, || 0)
}

/// Behind whatever an engine holds, for those who look at the engine alone.
#[expect(clippy::unnecessary_wraps, reason = "it is a `ValueOf`")]
fn any_value(pair: Bytes) -> Result<Option<Bytes>, String> {
    Ok(Some(pair))
}

fn behind(store: Arc<dyn Store>, value_of: ValueOf, max_bytes: u64) -> Behind {
    let begun = AtomicU64::new(0);
    let setup = setup(Arc::new(move || Ok(Arc::clone(&store))), max_bytes);
    // Counts looks, too: there is no time that stands still.
    let steady_ms: SteadyMs = Arc::new(move || begun.fetch_add(1, Ordering::Relaxed) / 64);
    let setup_of: SetupOf = Arc::new(|settings| Err(format!("{settings} is not understood")));
    Behind { kind: "memory", settings: SETTINGS.to_owned(), setup, setup_of, value_of, clock: clock(), steady_ms }
}

fn setup(open: OpenStore, max_bytes: u64) -> Setup {
    Setup { open, max_bytes, max_calls: 4, timeout: TIMEOUT }
}

/// What tests do not change has these.
const SETTINGS: &str = "{}";

#[test]
fn it_is_an_engine() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for kind in ["lsm", "btree", "trie"] {
        let folder = tempfile::tempdir().unwrap();
        let engines = LocalEngines::new(folder.path(), 7).unwrap();
        let count = AtomicU64::new(0);
        conformance::check_one_in(16, || {
            let place = Place { group: 1, build: count.fetch_add(1, Ordering::Relaxed) };
            let engine = engines.open(place, &EngineSpec::of(kind)).unwrap();
            let store = Arc::new(Memory::new(clock()));
            // So small that rows are left to themselves.
            let engine = WriteBehind::new(engine, behind(store, any_value, 600), runtime.handle());
            engine.behind().unwrap().serve(SETTINGS);
            Arc::new(engine)
        });
    }
}

/// A store that fails as a seed says.
#[derive(Debug)]
struct Planted {
    memory: Memory,
    seed: AtomicU64,
    /// In so many of a hundred calls.
    percent: AtomicU64,
    calls: AtomicUsize,
    /// Keys that it does not allow.
    denied: Mutex<BTreeSet<Vec<u8>>>,
    /// Writes that come about later than they are answered.
    late: Mutex<Vec<JoinHandle<()>>>,
}

impl Planted {
    fn new(seed: u64, percent: u64) -> Self {
        Self {
            memory: Memory::new(clock()),
            seed: AtomicU64::new(seed),
            percent: percent.into(),
            calls: AtomicUsize::new(0),
            denied: Mutex::default(),
            late: Mutex::default(),
        }
    }

    /// A number below `bound` (splitmix64).
    fn draw(&self, bound: u64) -> u64 {
        let mut number = self.seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)) % bound
    }

    fn denies(&self, key: &[u8]) -> bool {
        self.denied.lock().unwrap().contains(key)
    }

    /// Fails before, after, or long before it comes about.
    async fn write<T: Send + 'static>(&self, key: &[u8], act: impl Future<Output = T> + Send + 'static) -> Result<T, StoreError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(self.draw(30))).await;
        if self.denies(key) {
            return Err(StoreError::new("memory", ErrorKind::Denied, "this key"));
        }
        let error = StoreError::new("memory", ErrorKind::Unreachable, "planted");
        if self.draw(100) >= self.percent.load(Ordering::Relaxed) {
            return Ok(act.await);
        }
        match self.draw(3) {
            0 => Err(error),
            1 => {
                act.await;
                Err(error.unknown())
            }
            _ => {
                let late = Duration::from_millis(self.draw(2 * TIMEOUT.as_millis() as u64));
                let task = tokio::spawn(async move {
                    tokio::time::sleep(late).await;
                    act.await;
                });
                self.late.lock().unwrap().push(task);
                Err(error.unknown())
            }
        }
    }

    async fn content(&self) -> BTreeMap<Bytes, Bytes> {
        let page = self.memory.scan(&Scan::of(KeyRange::all()).with_values()).await.unwrap();
        page.entries.into_iter().map(|entry| (entry.key, entry.stored.unwrap().value)).collect()
    }
}

impl Store for Planted {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> StoreCapabilities {
        self.memory.capabilities()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        self.memory.get(key)
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        let (memory, owned, put) = (self.memory.clone(), key.to_vec(), put.clone());
        Box::pin(async move { self.write(key, async move { memory.put(&owned, &put).await }).await? })
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        let (memory, owned, condition) = (self.memory.clone(), key.to_vec(), condition.clone());
        Box::pin(async move { self.write(key, async move { memory.delete(&owned, &condition).await }).await? })
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        self.memory.scan(scan)
    }

    fn check(&self) -> Answer<'_, ()> {
        self.memory.check()
    }
}

/// What happens to an engine and the store behind it.
#[derive(Clone, Debug)]
enum Step {
    /// Changes in one batch: a value, a note that there is none, or nothing.
    Apply(Vec<(u8, Set)>),
    Flush,
    /// Time passes, in milliseconds.
    Wait(u16),
    /// The process ends, and another begins: the engine is at its durable point, and its log is applied again.
    Crash,
    /// Everything is to be written again, to a store that has lost a key.
    Rewrite(u8),
    /// The content is replaced.
    Rebuild(Vec<(u8, u8)>),
    /// The store does not allow a key any more, or does again.
    Deny(u8, bool),
}

/// What a key is set to.
#[derive(Clone, Copy, Debug)]
enum Set {
    To(u8),
    /// The pair says that there is no value.
    Tombstone,
    /// The pair goes.
    Gone,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let set = prop_oneof![6 => any::<u8>().prop_map(Set::To), 2 => Just(Set::Tombstone), 2 => Just(Set::Gone)];
    let change = (0..12_u8, set);
    let step = prop_oneof![
        8 => prop::collection::vec(change, 1..6).prop_map(Step::Apply),
        2 => Just(Step::Flush),
        5 => (0..400_u16).prop_map(Step::Wait),
        1 => Just(Step::Crash),
        1 => (0..12_u8).prop_map(Step::Rewrite),
        1 => prop::collection::vec((0..12_u8, any::<u8>()), 0..6).prop_map(Step::Rebuild),
        2 => (0..12_u8, any::<bool>()).prop_map(|(key, is_denied)| Step::Deny(key, is_denied)),
    ];
    prop::collection::vec(step, 1..40)
}

/// An engine on a simulated disk, with its log.
struct Run {
    engines: SimulatedEngines,
    engine: Option<Arc<WriteBehind>>,
    store: Arc<Planted>,
    log: Vec<Batch>,
    max_bytes: u64,
    began: Instant,
}

const PLACE: Place = Place { group: 1, build: 0 };

impl Run {
    fn new(seed: u64, max_bytes: u64) -> Self {
        let store = Arc::new(Planted::new(seed, 30));
        let engines = SimulatedEngines::default();
        let mut run = Self { engines, engine: None, store, log: Vec::new(), max_bytes, began: now() };
        run.open();
        run
    }

    fn open(&mut self) {
        let engine = self.engines.open(PLACE, &EngineSpec::of("lsm")).unwrap();
        let began = self.began;
        let steady_ms: SteadyMs = Arc::new(move || began.elapsed().as_millis() as u64);
        let behind = Behind { steady_ms, ..behind(Arc::clone(&self.store) as Arc<dyn Store>, value_of, self.max_bytes) };
        let engine = WriteBehind::new(engine, behind, &Handle::current());
        engine.behind().unwrap().serve(SETTINGS);
        self.engine = Some(Arc::new(engine));
    }

    fn engine(&self) -> &Arc<WriteBehind> {
        self.engine.as_ref().unwrap()
    }

    fn behind(&self) -> &dyn StoreBehind {
        self.engine().behind().unwrap()
    }

    fn apply(&mut self, changes: Vec<Change>) {
        let number = self.engine().view().applied() + 1;
        let batch = Batch { applied: number, revision: number, changes };
        self.log.push(batch.clone());
        self.engine().apply(batch).unwrap();
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Apply(changes) => {
                let change = |(key, set): (u8, Set)| match (Bytes::from(vec![key]), set) {
                    (key, Set::To(value)) => Change::Put { table: Table::Current, key, value: pair(value) },
                    (key, Set::Tombstone) => Change::Put { table: Table::Current, key, value: Bytes::from_static(&[0]) },
                    (key, Set::Gone) => Change::Delete { table: Table::Current, key },
                };
                self.apply(changes.into_iter().map(change).collect());
            }
            Step::Flush => drop(self.engine().flush().unwrap()),
            Step::Wait(ms) => tokio::time::sleep(Duration::from_millis(ms.into())).await,
            Step::Crash => self.crash().await,
            Step::Rewrite(lost) => {
                self.store.memory.delete(&[lost], &Condition::Always).await.unwrap();
                self.behind().rewrite().unwrap();
            }
            Step::Rebuild(pairs) => {
                let number = self.engine().view().applied() + 1;
                let mut anew = self.engine().rebuild().unwrap();
                for (key, value) in pairs {
                    anew.put(Table::Current, Bytes::from(vec![key]), pair(value)).unwrap();
                }
                anew.commit(number, number).unwrap();
                // The new content is durable, and the log goes on from there.
                self.log.clear();
            }
            Step::Deny(key, is_denied) => {
                let mut denied = self.store.denied.lock().unwrap();
                let _ = if is_denied { denied.insert(vec![key]) } else { denied.remove(&[key][..]) };
            }
        }
    }

    async fn crash(&mut self) {
        self.engine = None;
        // Some of what was on its way comes about yet, and before a carrier may rely on that it has.
        for task in self.store.late.lock().unwrap().drain(..) {
            if self.store.draw(2) == 0 {
                task.abort();
            }
        }
        // Whoever looks at it just now is gone in a moment.
        for _ in 0..100 {
            match self.engines.open(PLACE, &EngineSpec::of("lsm")) {
                Ok(engine) => {
                    drop(engine);
                    break;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
        self.open();
        let at = self.engine().view().applied();
        for batch in self.log.iter().filter(|batch| batch.applied > at) {
            self.engine().apply(batch.clone()).unwrap();
        }
    }

    fn content(&self) -> BTreeMap<Bytes, Bytes> {
        let view = self.engine().view();
        let pairs: Vec<_> = view.pairs(Table::Current).map(Result::unwrap).collect();
        pairs.into_iter().filter_map(|(key, pair)| Some((key, value_of(pair).unwrap()?))).collect()
    }

    /// Without what the store does not allow.
    fn allowed(&self, content: BTreeMap<Bytes, Bytes>) -> BTreeMap<Bytes, Bytes> {
        content.into_iter().filter(|(key, _)| !self.store.denies(key)).collect()
    }

    /// Waits until the store has all that it allows, which does not depend on the rest.
    async fn quiesce_allowed(&self) {
        self.store.percent.store(0, Ordering::Relaxed);
        let began = now();
        let expected = self.allowed(self.content());
        while self.allowed(self.store.content().await) != expected {
            assert!(began.elapsed() < Duration::from_secs(15), "some keys hold up others: {:?}", self.behind().stats());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until nothing does any more.
    async fn quiesce(&self) -> BehindStats {
        self.store.percent.store(0, Ordering::Relaxed);
        self.store.denied.lock().unwrap().clear();
        let noted = self.behind().stats().noted;
        for _ in 0..10_000 {
            let stats = self.behind().stats();
            if stats.settled >= noted && stats.waiting_keys == 0 {
                return stats;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the store does not get everything: {:?}", self.behind().stats());
    }
}

/// What another program writes.
fn stray() -> Put {
    Put { value: Bytes::from_static(b"stray"), expires_at_ms: None, condition: Condition::Always, stamp: clock().stamp() }
}

fn pair(value: u8) -> Bytes {
    Bytes::from(vec![1, value])
}

proptest! {
    /// Whatever fails, crashes and comes late: in the end the store has what the engine has.
    #[test]
    fn the_store_comes_to_have_what_the_engine_has(steps in steps(), seed: u64, is_small: bool, strays in 0..6_u8) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            // Room for three keys, or for all.
            let mut run = Run::new(seed, if is_small { 800 } else { 1 << 20 });
            for step in steps {
                run.step(step).await;
            }
            run.quiesce_allowed().await;
            run.quiesce().await;
            // What was on its way has come by now. There is what nobody here wrote.
            tokio::time::sleep(TIMEOUT * 3).await;
            for key in 100..100 + strays {
                run.store.memory.put(&[key], &stray()).await.unwrap();
            }
            let there: Vec<Bytes> = run.store.content().await.into_keys().collect();
            assert_eq!(run.behind().prune(&there).unwrap(), u64::from(strays), "{there:?}");
            let stats = run.quiesce().await;
            assert_eq!(run.store.content().await, run.content(), "{stats:?}");
            assert_eq!((stats.waiting_bytes, stats.is_spilled, stats.refused_keys), (0, false, 0));
            let view = run.engine().shared.engine.view();
            assert_eq!(rows::waiting_after(view.as_ref(), None).count(), 0, "no row is left");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_changes_the_store_gets_the_last() {
    let mut run = Run::new(1, 1 << 20);
    run.store.percent.store(0, Ordering::Relaxed);
    for value in 0..200 {
        run.step(Step::Apply(vec![(1, Set::To(value))])).await;
    }
    let stats = run.quiesce().await;
    assert_eq!(run.store.content().await, BTreeMap::from([(Bytes::from_static(&[1]), Bytes::from_static(&[199]))]));
    assert!(stats.written <= 2 && stats.coalesced >= 198, "{stats:?}");
    assert_eq!(run.store.calls.load(Ordering::Relaxed) as u64, stats.written);
}

#[tokio::test(start_paused = true)]
async fn who_writes_is_told_that_the_store_is_behind() {
    let mut run = Run::new(1, 3 * 300);
    run.store.percent.store(100, Ordering::Relaxed);
    for key in 0..12 {
        run.step(Step::Apply(vec![(key, Set::To(1))])).await;
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let stats = run.behind().stats();
    assert!(stats.is_full() && stats.is_spilled && stats.oldest_ms >= 30_000, "{stats:?}");
    assert!(stats.last_error.clone().unwrap().contains("planted") && stats.failed > 0, "{stats:?}");
    assert!(stats.failed < 40, "it is not asked all the time: {stats:?}");
    assert_eq!(run.content().len(), 12, "the engine takes everything");
    run.quiesce().await;
    assert_eq!(run.store.content().await.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn keys_that_the_store_denies_hold_up_no_other() {
    let mut run = Run::new(1, 1 << 20);
    run.store.percent.store(0, Ordering::Relaxed);
    for key in 0..8 {
        run.step(Step::Deny(key, true)).await;
    }
    run.step(Step::Apply((0..8).map(|key| (key, Set::To(1))).collect())).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(run.behind().stats().written, 0);
    for round in 0..20 {
        let began = now();
        run.step(Step::Apply(vec![(0, Set::To(round)), (8, Set::To(round)), (9, Set::To(round))])).await;
        run.quiesce_allowed().await;
        assert!(round == 0 || began.elapsed() < Duration::from_millis(500), "in round {round} after {:?}", began.elapsed());
    }
    tokio::time::sleep(Duration::from_mins(5)).await;
    let (stats, calls) = (run.behind().stats(), run.store.calls.load(Ordering::Relaxed));
    assert_eq!((stats.waiting_keys, stats.refused_keys, stats.waiting_bytes), (8, 8, 0));
    assert!(stats.last_error.unwrap().contains("denies access: this key"));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(run.store.calls.load(Ordering::Relaxed) - calls <= 16, "they are tried seldom");
    assert_eq!(run.quiesce().await.refused_keys, 0);
    assert_eq!(run.store.content().await, run.content());
}

#[tokio::test(start_paused = true)]
async fn credentials_are_read_again_as_long_as_the_store_denies_access() {
    let engine = SimulatedEngines::default().open(PLACE, &EngineSpec::of("lsm")).unwrap();
    let stores = [Arc::new(Planted::new(1, 0)), Arc::new(Planted::new(1, 0))];
    stores[0].denied.lock().unwrap().extend([b"a".to_vec(), b"b".to_vec()]);
    let (opened, right) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, is_right, both) = (Arc::clone(&opened), Arc::clone(&right), stores.clone());
    let open: OpenStore = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::clone(&both[usize::from(is_right.load(Ordering::Relaxed))]) as Arc<dyn Store>)
    });
    let began = now();
    let steady_ms: SteadyMs = Arc::new(move || began.elapsed().as_millis() as u64);
    let setup = setup(open, 1 << 20);
    let behind = Behind { setup, steady_ms, ..behind(Arc::new(Memory::new(clock())), value_of, 1 << 20) };
    let engine = WriteBehind::new(engine, behind, &Handle::current());
    engine.behind().unwrap().serve(SETTINGS);
    let apply = |number: u64, key: &'static [u8]| {
        let changes = vec![Change::Put { table: Table::Current, key: Bytes::from_static(key), value: pair(1) }];
        engine.apply(Batch { applied: number, revision: number, changes }).unwrap();
    };
    apply(1, b"a");
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!((6..=11).contains(&opened.load(Ordering::Relaxed)), "{opened:?}");
    right.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(engine.behind().unwrap().stats().waiting_keys, 0);
    // One key that is denied while others are taken is most likely not the credentials' fault.
    stores[1].denied.lock().unwrap().insert(b"b".to_vec());
    apply(2, b"b");
    let before = opened.load(Ordering::Relaxed);
    for number in 3..123 {
        apply(number, b"c");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((1..=2).contains(&(opened.load(Ordering::Relaxed) - before)), "{before} and then {opened:?}");
    assert_eq!((engine.behind().unwrap().stats().waiting_keys, stores[1].content().await.len()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn settings_change_while_it_serves() {
    let engine = SimulatedEngines::default().open(PLACE, &EngineSpec::of("lsm")).unwrap();
    let [store, next] = [Arc::new(Planted::new(1, 100)), Arc::new(Planted::new(1, 0))];
    let began = now();
    let steady_ms: SteadyMs = Arc::new(move || began.elapsed().as_millis() as u64);
    let opened = Arc::clone(&next);
    let setup_of: SetupOf = Arc::new(move |settings| {
        let max_bytes = settings.parse().map_err(|_| "not a number".to_owned())?;
        let opened = Arc::clone(&opened);
        Ok(setup(Arc::new(move || Ok(Arc::clone(&opened) as Arc<dyn Store>)), max_bytes))
    });
    let first = Behind { setup_of, steady_ms, ..behind(Arc::clone(&store) as Arc<dyn Store>, value_of, 900) };
    let engine = WriteBehind::new(engine, first, &Handle::current());
    let behind = engine.behind().unwrap();
    behind.serve(SETTINGS);
    let put = |number: u64, key: u8| {
        let changes = vec![Change::Put { table: Table::Current, key: Bytes::from(vec![key]), value: pair(key) }];
        engine.apply(Batch { applied: number, revision: number, changes }).unwrap();
    };
    (1..10).for_each(|key| put(key.into(), key));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(behind.stats().is_full() && behind.stats().is_spilled);
    behind.serve("nonsense");
    assert!(behind.stats().last_error.unwrap().contains("not a number"));
    behind.serve("100000");
    assert_eq!((behind.stats().max_waiting_bytes, behind.stats().is_full()), (100_000, false));
    let calls = store.calls.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let stats = behind.stats();
    assert_eq!((stats.waiting_keys, stats.is_spilled, next.content().await.len()), (0, false, 9), "{stats:?}");
    put(10, 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((behind.stats().waiting_keys, store.calls.load(Ordering::Relaxed)), (0, calls), "nobody asks the one before");
    // What it was told before is nothing new.
    behind.serve("100000");
    assert_eq!(behind.stats().failed, stats.failed);
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_cannot_be_read_holds_up_no_other() {
    let mut run = Run::new(1, 1 << 20);
    run.store.percent.store(0, Ordering::Relaxed);
    let put = |key: &'static [u8], value: &'static [u8]| Change::Put {
        table: Table::Current,
        key: Bytes::from_static(key),
        value: Bytes::from_static(value),
    };
    run.apply(vec![put(b"odd", b"x"), put(b"even", b"\x01y")]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    let stats = run.behind().stats();
    assert_eq!((stats.refused_keys, stats.written), (1, 1));
    assert!(stats.last_error.is_none_or(|error| error.contains("odd")));
    run.apply(vec![put(b"odd", b"\x01z")]);
    assert_eq!(run.quiesce().await.refused_keys, 0);
    assert_eq!(run.store.content().await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_opened_is_opened_later() {
    let engine = SimulatedEngines::default().open(PLACE, &EngineSpec::of("lsm")).unwrap();
    let store: Arc<dyn Store> = Arc::new(Memory::new(clock()));
    let tries = Arc::new(AtomicUsize::new(0));
    let (tried, opened) = (Arc::clone(&tries), Arc::clone(&store));
    let open: OpenStore = Arc::new(move || match tried.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => Err(StoreError::new("memory", ErrorKind::Denied, "no credentials")),
        _ => Ok(Arc::clone(&opened)),
    });
    let began = now();
    let steady_ms: SteadyMs = Arc::new(move || began.elapsed().as_millis() as u64);
    let setup = setup(open, 1 << 20);
    let engine = WriteBehind::new(engine, Behind { setup, steady_ms, ..behind(store, value_of, 1 << 20) }, &Handle::current());
    let changes = vec![Change::Put { table: Table::Current, key: Bytes::from_static(b"k"), value: pair(1) }];
    engine.apply(Batch { applied: 1, revision: 1, changes }).unwrap();
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(tries.load(Ordering::Relaxed), 0, "it does not serve: another engine may write there");
    engine.behind().unwrap().serve(SETTINGS);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(engine.behind().unwrap().stats().last_error.unwrap().contains("no credentials"));
    tokio::time::sleep(Duration::from_secs(8)).await;
    let stats = engine.behind().unwrap().stats();
    assert_eq!((tries.load(Ordering::Relaxed), stats.waiting_keys, stats.last_error), (3, 0, None));
}
