//! Giving an engine's memory back, a part at a time.
//!
//! An engine in memory is millions of allocations, most of them made by the thread that applied batches. Another thread that
//! frees them all at once hands them to that thread's part of the allocator faster than it can sort them in: with glibc, a
//! thread that had filled a `trie` with a gigabyte did little else than `_int_malloc` for up to a second after another one had
//! dropped it.

use std::cell::Cell;
use std::thread;
use std::time::Duration;

/// So many pairs or nodes are freed in one go: about a megabyte of pairs of 1 KiB, and a fraction of a millisecond to sort in.
const PART: usize = 1024;

/// The pause after each part. A gigabyte of pairs of 1 KiB takes about three seconds (`tools/pause-figures.py` under `perf`).
const PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    /// What this thread has freed; nothing where it does not pause.
    static FREED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// From now on this thread pauses again and again while it frees what an engine in memory held, so that other threads can go on
/// allocating: for a thread that does nothing that anybody waits for. An engine is freed by whoever has it last.
pub fn free_in_parts() {
    FREED.set(Some(0));
}

/// So many pairs or nodes are about to be freed; pauses if enough were and this thread is one that pauses.
pub(crate) fn freeing(count: usize) {
    let Some(freed) = FREED.get() else { return };
    FREED.set(Some(freed + count));
    for _ in freed / PART..(freed + count) / PART {
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Batch, Change, Engine, Hash, Table, Trie};

    const PAIRS: usize = 20 * PART;

    fn filled(engine: impl Engine + 'static) -> Box<dyn Engine> {
        let put = |at: usize| Change::Put { table: Table::Current, key: Bytes::from(at.to_string()), value: Bytes::new() };
        engine.apply(Batch { applied: 1, revision: 1, changes: (0..PAIRS).map(put).collect() }).unwrap();
        Box::new(engine)
    }

    #[test]
    fn memory_comes_back_in_parts_where_that_is_wanted() {
        freeing(usize::MAX);
        for engine in [filled(Hash::new(1)), filled(Trie::new())] {
            free_in_parts();
            drop(engine);
            assert!(FREED.get() >= Some(PAIRS), "{:?} of {PAIRS}", FREED.get());
        }
        FREED.set(None);
    }
}
