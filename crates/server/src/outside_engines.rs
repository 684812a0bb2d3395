//! A node's engines, those with a store outside behind them among them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use quorate_engine::{BehindSpec, Engine, EngineError, EngineSpec, Engines, PairForm, Place};
use quorate_external::{Behind, Meter, Setup, SetupOf, Surroundings, ValueOf, WriteBehind};
use quorate_node::eventual_replication::{Body, Entry};
use quorate_node::keyspace::Record;
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::rest::spec_in;

/// Opens engines, and stores behind those that have one.
#[derive(Debug)]
pub(crate) struct OutsideEngines {
    local: Arc<dyn Engines>,
    surroundings: Surroundings,
    clock: Clock,
    io: Handle,
    /// What is asked of the store behind a group's engine, counted for as long as the node runs.
    meters: Mutex<BTreeMap<u64, Arc<Meter>>>,
}

impl OutsideEngines {
    /// Over engines that have nothing behind them. To be called within the runtime that is to do the stores' input and output.
    pub(crate) fn new(local: Arc<dyn Engines>, surroundings: Surroundings, clock: Clock) -> Self {
        Self { local, surroundings, clock, io: Handle::current(), meters: Mutex::default() }
    }

    /// Counts what is asked of the store behind a group's engine; none if it never had one.
    pub(crate) fn meter(&self, group: u64) -> Option<Arc<Meter>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    fn behind(&self, place: Place, spec: &BehindSpec) -> Result<Behind, EngineError> {
        let wrong = |why: String| EngineError::Io(io::Error::new(io::ErrorKind::InvalidInput, why));
        let kind = spec_in(&spec.settings).map_err(wrong)?.kind.name;
        let meter = Arc::clone(self.meters.lock().unwrap_or_else(PoisonError::into_inner).entry(place.group).or_default());
        let (surroundings, clock) = (self.surroundings.clone(), self.clock);
        let setup_of: SetupOf = Arc::new(move |settings| setup_of(settings, &surroundings, &meter));
        Ok(Behind {
            kind,
            settings: spec.settings.clone(),
            setup: setup_of(&spec.settings).map_err(wrong)?,
            setup_of,
            value_of: value_of(spec.pairs),
            clock: self.surroundings.clock.clone(),
            steady_ms: Arc::new(move || clock.now().0),
        })
    }
}

fn setup_of(settings: &str, surroundings: &Surroundings, meter: &Arc<Meter>) -> Result<Setup, String> {
    let store = spec_in(settings)?;
    let (surroundings, meter) = (surroundings.clone(), Arc::clone(meter));
    Ok(Setup {
        max_bytes: store.queue_max,
        max_calls: store.max_calls.min(MAX_UPLOADS),
        timeout: store.timeout,
        open: Arc::new(move || quorate_external::open_metered(&store, &surroundings, &meter)),
    })
}

/// Keys that are on their way to one store at once, however many calls it allows.
const MAX_UPLOADS: usize = 32;

fn value_of(pairs: PairForm) -> ValueOf {
    match pairs {
        PairForm::Record => {
            |pair: Bytes| Record::decode(pair).map(|record| Some(record.value)).map_err(|error| error.to_string())
        }
        PairForm::Entry => |pair: Bytes| match Entry::decode(pair).map_err(|error| error.to_string())?.body {
            Body::Value { value, .. } => Ok(Some(value)),
            Body::Tombstone | Body::Expired => Ok(None),
        },
    }
}

impl Engines for OutsideEngines {
    fn open(&self, place: Place, spec: &EngineSpec) -> Result<Arc<dyn Engine>, EngineError> {
        let Some(behind) = &spec.behind else {
            return self.local.open(place, spec);
        };
        let behind = self.behind(place, behind)?;
        let engine = self.local.open(place, &EngineSpec { behind: None, ..spec.clone() })?;
        Ok(Arc::new(WriteBehind::new(engine, behind, &self.io)))
    }

    fn remove(&self, place: Place) -> io::Result<()> {
        self.local.remove(place)
    }

    fn places(&self) -> io::Result<Vec<Place>> {
        self.local.places()
    }
}
