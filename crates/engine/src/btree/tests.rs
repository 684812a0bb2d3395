//! A redb file on a disk that loses power at each operation in turn.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use redb::StorageBackend;

use super::store::{Durability, Store};
use crate::numbers::Numbers;
use crate::{Change, Direction, EngineError, KeyRange, Table, View as _};

const BATCHES: u64 = 14;
const SYNC_INTERVAL: u64 = 4;
const SECTOR_BYTES: usize = 512;
/// So small that pages are written out before they are synced.
const CACHE_BYTES: usize = 64 << 10;

/// The machine; it outlives the file that is open.
#[derive(Clone, Debug)]
struct Machine(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// As a reader sees it.
    data: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<DataChange>,
    operations: usize,
    /// The operation at which the power goes, counted from 0.
    power_until: usize,
}

#[derive(Clone, Debug)]
enum DataChange {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

impl DataChange {
    fn apply(&self, data: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => data[*at..at + bytes.len()].copy_from_slice(bytes),
            Self::SetLen(len) => data.resize(*len, 0),
        }
    }
}

impl Machine {
    fn new(data: Vec<u8>, power_until: usize) -> Self {
        let synced = data.clone();
        Self(Arc::new(Mutex::new(State { data, synced, unsynced: Vec::new(), operations: 0, power_until })))
    }

    fn operate(&self, operation: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if state.operations >= state.power_until {
            return Err(io::Error::other("no power"));
        }
        state.operations += 1;
        operation(&mut state);
        Ok(())
    }

    fn change(&self, change: DataChange) -> io::Result<()> {
        self.operate(|state| {
            change.apply(&mut state.data);
            state.unsynced.push(change);
        })
    }

    fn operations(&self) -> usize {
        self.0.lock().unwrap().operations
    }

    /// What is on the disk now: lengths are kept, of the writes every `one_in`-th is lost and the one after it torn.
    fn after_power_loss(&self, one_in: usize) -> Vec<u8> {
        let state = self.0.lock().unwrap();
        let mut data = state.synced.clone();
        for (number, change) in state.unsynced.iter().enumerate() {
            match change {
                DataChange::Write(at, bytes) if data.len() >= at + bytes.len() => match number % one_in {
                    0 => {}
                    1 => {
                        let half = (bytes.len() / 2).next_multiple_of(SECTOR_BYTES).min(bytes.len());
                        data[*at..at + half].copy_from_slice(&bytes[..half]);
                    }
                    _ => change.apply(&mut data),
                },
                DataChange::Write(..) => {}
                DataChange::SetLen(_) => change.apply(&mut data),
            }
        }
        data
    }
}

impl StorageBackend for Machine {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().data.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.lock().unwrap();
        let at = offset as usize;
        let bytes = state.data.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(DataChange::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.operate(|state| {
            state.synced = state.data.clone();
            state.unsynced.clear();
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(DataChange::Write(offset as usize, data.to_vec()))
    }
}

type Model = BTreeMap<(Table, Bytes), Bytes>;

#[test]
fn comes_back_at_the_end_of_a_batch_whenever_the_power_goes() {
    let models = models();
    let whole = Machine::new(Vec::new(), usize::MAX);
    let synced = run(&whole);
    assert_eq!(synced, Some(BATCHES - BATCHES % SYNC_INTERVAL));
    assert!(whole.operations() > 100, "too few operations to be interesting: {}", whole.operations());
    for power_until in 0..whole.operations() {
        let machine = Machine::new(Vec::new(), power_until);
        let synced = run(&machine);
        for one_in in [1, 3, usize::MAX] {
            let after = Machine::new(machine.after_power_loss(one_in), usize::MAX);
            // A file that was not yet synced once is not in force.
            let Some(synced) = synced else { continue };
            let what = format!("power until operation {power_until}, one in {one_in} lost, synced {synced}");
            let store = Store::on(after).unwrap_or_else(|error| panic!("{what}: {error}"));
            let content = store.read().unwrap();
            let applied = content.applied();
            assert!((synced..=BATCHES).contains(&applied), "{what}: at {applied}");
            assert_eq!(content.revision(), applied * 2, "{what}");
            assert_eq!(pairs_of(&content), models[applied as usize], "{what}");
        }
    }
}

/// Goes through all batches, or until the power goes; says what was certainly synced.
fn run(machine: &Machine) -> Option<u64> {
    let mut synced = None;
    let mut attempt = || -> Result<(), EngineError> {
        let store = Store::on(machine.clone())?;
        let mut content = store.write(&[], Numbers::default(), Durability::Synced)?;
        synced = Some(0);
        for batch in 1..=BATCHES {
            let mut numbers = content.numbers();
            numbers.advance_to(batch, batch * 2);
            // A sync by itself, or with a batch.
            let with_batch = batch % (2 * SYNC_INTERVAL) == 0;
            let durability = if with_batch { Durability::Synced } else { Durability::Later };
            content = store.write(&changes(batch), numbers, durability)?;
            if batch % SYNC_INTERVAL == 0 {
                if !with_batch {
                    store.sync()?;
                }
                synced = Some(batch);
            }
        }
        Ok(())
    };
    // The power went: what had been synced then is what counts.
    let _ = attempt();
    synced
}

fn models() -> Vec<Model> {
    let mut models = vec![Model::new()];
    for batch in 1..=BATCHES {
        let mut model = models.last().unwrap().clone();
        for change in changes(batch) {
            match change {
                Change::Put { table, key, value } => drop(model.insert((table, key), value)),
                Change::Delete { table, key } => drop(model.remove(&(table, key))),
                Change::PutUntil { .. } => unreachable!("there is none"),
            }
        }
        models.push(model);
    }
    models
}

fn changes(batch: u64) -> Vec<Change> {
    let numbers = (0..30).map(|at| (batch * 7 + at * 5) % 83);
    numbers
        .map(|number| {
            let (table, key) = (Table::ALL[number as usize % 3], Bytes::from(format!("key {number}")));
            if (batch + number).is_multiple_of(5) {
                return Change::Delete { table, key };
            }
            Change::Put { table, key, value: vec![batch as u8; 200 + number as usize * 10].into() }
        })
        .collect()
}

fn pairs_of(content: &super::store::Content) -> Model {
    let scan = |table| content.scan(table, &KeyRange::all(), Direction::Forward).map(Result::unwrap);
    Table::ALL.into_iter().flat_map(|table| scan(table).map(move |(key, value)| ((table, key), value))).collect()
}

impl Store {
    /// On a machine; its content is made by the first write.
    fn on(machine: Machine) -> Result<Arc<Self>, EngineError> {
        let database = redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(machine);
        Ok(Self::of_backend(database.map_err(super::store::corrupt)?))
    }
}
