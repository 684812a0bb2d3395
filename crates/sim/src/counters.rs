//! Counters: clients add to them, and in the end each is at what was added, whatever happened meanwhile.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_keyspace::{Condition, Detail, Edit, Guard, Op, Outcome, Patch, Put, Write};

use crate::clients::Kind;
use crate::history::{Seen, Sent};
use crate::host::HostId;
use crate::simulation::Simulation;
use crate::values::{COUNTER_TYPE, count_in, counter_of};
use crate::violation::{Step, Violation};

/// Few, so that clients meet.
pub(crate) const MAX_COUNTERS: u64 = 3;

/// What was added to each counter, by what the clients know of it.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    acknowledged: BTreeMap<u64, u64>,
    unknown: BTreeMap<u64, u64>,
}

impl Counters {
    /// Nobody knows whether this was added.
    pub(crate) fn on_unknown(&mut self, counter: u64, by: u64) {
        *self.unknown.entry(counter).or_default() += by;
    }
}

/// Adds to a counter; once, under a key, if there is one.
pub(crate) fn increment(counter: u64, by: u64, once: Option<u64>) -> Write {
    let edit = Edit::Increment { by: by.cast_signed(), initial: 0 };
    let patch = Patch { key: counter_of(counter), edit, ttl_ms: None, max_value_bytes: 100, is_told: true };
    let condition = Condition::Once([counter as u8; 16]);
    let guards = once.map(|key| Guard { key: key.to_string().into(), condition }).into_iter().collect();
    Write { guards, ops: vec![Op::Patch(Box::new(patch))] }
}

impl Simulation {
    /// A client was told that it added to a counter, and the sum, by a revision.
    pub(crate) fn on_incremented(
        &mut self,
        sent: Option<Sent>,
        (counter, by): (u64, u64),
        revision: u64,
        detail: Option<&Detail>,
    ) -> Step {
        self.coverage.count("increments acknowledged");
        *self.clients.counters.acknowledged.entry(counter).or_default() += by;
        if let Some(sent) = sent {
            self.oracle.on_answer(sent, Seen::Changed(revision))?;
        }
        match detail {
            Some(Detail::Read(pairs)) => {
                let sum = pairs.items.first().and_then(|(_, record)| count_in(&record.value));
                let sum = sum.ok_or_else(|| Violation::new("increments add up", format!("the sum is {pairs:?}")))?;
                self.oracle.check_incremented(revision, &counter_of(counter), by.cast_signed(), sum)
            }
            // What was planted is no increment, and tells no sum.
            _ => Ok(()),
        }
    }

    /// A client was told that what it sent again was done before: at a revision that may be older than its last request.
    pub(crate) fn on_repeated(&mut self, kind: &Kind, earlier: &Outcome) -> Step<bool> {
        match (kind, earlier) {
            (Kind::Increment { counter, by, once: Some(_) }, Outcome::Applied { revision, results }) => {
                let detail = results.first().and_then(|result| result.detail.as_deref());
                self.on_incremented(None, (*counter, *by), revision.0, detail)?;
                Ok(true)
            }
            _ => {
                Err(Violation::new("increments add up", format!("{kind:?} is not done once, but was answered with {earlier:?}")))
            }
        }
    }

    /// In the end, every increment that was acknowledged is in the sum once, and none of the others more than once.
    pub(crate) fn check_counters(&mut self) -> Step {
        for counter in 0..MAX_COUNTERS {
            let of = |all: &BTreeMap<u64, u64>| all.get(&counter).copied().unwrap_or(0).cast_signed();
            let (acknowledged, unknown) = (of(&self.clients.counters.acknowledged), of(&self.clients.counters.unknown));
            let count = self.oracle.count(&counter_of(counter));
            self.coverage.add("increments with unknown outcome", unknown.cast_unsigned());
            if !(acknowledged..=acknowledged + unknown).contains(&count) {
                let detail =
                    format!("n{counter} is at {count}; {acknowledged} were acknowledged, {unknown} more may have been added");
                return Err(Violation::new("increments add up", detail));
            }
        }
        Ok(())
    }

    /// The planted bug of [`crate::Mutation::OnceUnderAnotherKey`].
    pub(crate) fn under_another_key(&mut self, write: &mut Write) {
        for guard in write.guards.iter_mut().filter(|guard| matches!(guard.condition, Condition::Once(_))) {
            guard.key = self.next_value().to_string().into();
        }
    }

    /// The planted bug of [`crate::Mutation::IncrementByPut`].
    pub(crate) fn increment_by_put(&self, host: HostId, write: &mut Write) {
        for op in &mut write.ops {
            let Op::Patch(patch) = op else { continue };
            let Edit::Increment { by, .. } = patch.edit else { continue };
            let found = self.view_of(host).and_then(|view| quorate_keyspace::get(view.as_ref(), &patch.key).ok().flatten());
            let count = found.and_then(|record| count_in(&record.value)).unwrap_or(0);
            let content_type = Some(Bytes::from_static(COUNTER_TYPE.as_bytes()));
            *op = Op::Put(Put { content_type, ..Put::new(patch.key.clone(), (count + by).to_string().into()) });
        }
    }
}
