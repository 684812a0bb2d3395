//! What an engine says of its order is so: where scans shall cost what they return, little more is taken from 64 times the pairs.

use std::hint::black_box;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};

use super::{apply_next, put};
use crate::{Direction, Engine, KeyRange, Table};

const FEW: u64 = 512;
const MANY: u64 = 64 * FEW;
const BATCH_LEN: u64 = 1_024;

/// Whoever reads everything takes 64 times as long; a deeper tree, and what is not in the processor's caches any more, up to five
/// times were seen.
const MAX_RATIO: u32 = 20;

/// Each is measured so often, and the least counts: others may have used the processor's caches.
const ROUNDS: usize = 12;

pub(super) fn check(make: &dyn Fn() -> Arc<dyn Engine>) {
    let claims_current = make().capabilities().ordered;
    let tables: &[Table] = if claims_current { &[Table::Current, Table::History, Table::Meta] } else { &[Table::Meta] };
    for table in tables {
        let (few, many) = (filled(make, *table, FEW), filled(make, *table, MANY));
        let (of_few, of_many) = (cost_of_scans(&*few, *table, FEW), cost_of_scans(&*many, *table, MANY));
        assert!(
            of_many < of_few * MAX_RATIO,
            "short scans of {table:?} take {of_few:?} where there are {FEW} pairs, and {of_many:?} where there are {MANY}"
        );
    }
}

fn filled(make: &dyn Fn() -> Arc<dyn Engine>, table: Table, count: u64) -> Arc<dyn Engine> {
    let engine = make();
    for first in (0..count).step_by(BATCH_LEN as usize) {
        let numbers = first..count.min(first + BATCH_LEN);
        apply_next(&*engine, numbers.map(|number| put(table, key(number), "value")).collect());
    }
    engine.flush().expect("a healthy engine flushes");
    engine
}

fn key(number: u64) -> Bytes {
    format!("pair/{number:06}").into()
}

fn cost_of_scans(engine: &dyn Engine, table: Table, count: u64) -> Duration {
    let view = engine.view();
    let scans = || {
        for place in 1..4 {
            let middle = count * place / 4;
            let from = KeyRange { start: Bound::Included(key(middle)), end: Bound::Unbounded };
            let up_to = KeyRange { start: Bound::Unbounded, end: Bound::Excluded(key(middle)) };
            let ten = KeyRange::prefix(&key(middle)[..10]);
            for (range, direction) in [(from, Direction::Forward), (up_to, Direction::Reverse), (ten, Direction::Forward)] {
                let found = view.scan(table, &range, direction).take(10).filter(|item| black_box(item).is_ok()).count();
                assert!(found > 0, "there are pairs in {range:?}");
            }
        }
    };
    let timed = |_| {
        let before = processor_time();
        scans();
        processor_time().saturating_sub(before)
    };
    (0..ROUNDS).map(timed).min().unwrap_or_default()
}

/// What this thread has used of a processor: whether it had to wait for one says nothing of the engine.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).expect("less than a second"))
}
