//! Memtables with filters of their keys: who asks for a key that they do not hold is spared the search, which costs more than
//! anything else that a put does. A filter serves memtables one after another, and the files of level 0 that they become: one
//! question tells that a key is in none of them.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lsm_tree::table::filter::standard_bloom::Builder as Bloom;
use lsm_tree::{InternalValue, Memtable, SeqNo};

/// A memtable gets a filter at this part of its full size. Before, a search is cheap; and a thousand keyspaces that hold little
/// need no filters.
const UNFILTERED_SHARE: u64 = 16;

/// The first filter is this part of a full memtable, and each next one twice as large, until it serves many memtables.
const FIRST_FILTER_SHARE: u64 = 128;
const LARGEST_FILTER_SHARE: u64 = 16;

/// A filter with more keys than words times this is not used for further memtables: 16 bits for each.
const KEYS_PER_WORD: usize = 4;

/// How often and after how long it is looked whether anybody reads a memtable that is in a file.
const READERS_POLLS: u32 = 10;
const READERS_POLL: Duration = Duration::from_millis(1);

/// Bits of a word that a key sets.
const BITS_PER_KEY: u32 = 4;

/// What keys are known by, in filters of memtables and of files.
pub(super) fn key_hash(stored_key: &[u8]) -> u64 {
    Bloom::get_hash(stored_key)
}

/// A memtable. One thread writes; any number read meanwhile what was written before they were told of it.
pub(super) struct Buffer {
    memtable: Arc<Memtable>,
    filter: OnceLock<Arc<KeyFilter>>,
}

impl Buffer {
    /// Around the first memtable.
    pub(super) fn first(memtable: Arc<Memtable>) -> Self {
        Self { memtable, filter: OnceLock::new() }
    }

    /// Around an empty memtable that follows on this one, and will be full at so many bytes.
    pub(super) fn next(&self, memtable: Arc<Memtable>, full_bytes: u64) -> Self {
        let filter = self.filter.get().map(|filter| {
            let bytes = (2 * filter.bytes()).min(full_bytes / LARGEST_FILTER_SHARE).max(filter.bytes());
            if filter.is_full() { Arc::new(KeyFilter::new(bytes)) } else { Arc::clone(filter) }
        });
        Self { memtable, filter: filter.map_or_else(OnceLock::new, OnceLock::from) }
    }

    /// Of all its keys, and perhaps of those before.
    pub(super) fn filter(&self) -> Option<&Arc<KeyFilter>> {
        self.filter.get()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.memtable.is_empty()
    }

    /// Bytes that it takes, without the filter.
    pub(super) fn size(&self) -> u64 {
        self.memtable.size()
    }

    /// Waits for those who read it now, so that it is the caller who frees it, which takes a while, and not whoever ends a read
    /// or a write last. Who holds a view for long is not waited for.
    pub(super) fn wait_for_readers(self: &Arc<Self>) {
        for _ in 0..READERS_POLLS {
            if Arc::strong_count(self) == 1 && Arc::strong_count(&self.memtable) == 1 {
                return;
            }
            std::thread::sleep(READERS_POLL);
        }
    }

    /// Writes what has this [`key_hash`], into a memtable that is full at so many bytes.
    pub(super) fn insert(&self, item: InternalValue, hash: u64, full_bytes: u64) {
        match self.filter.get() {
            Some(filter) => filter.add(hash),
            None if self.size() >= full_bytes / UNFILTERED_SHARE => {
                let filter = KeyFilter::new(full_bytes / FIRST_FILTER_SHARE);
                self.memtable.iter().for_each(|item| filter.add(key_hash(&item.key.user_key)));
                filter.add(hash);
                // Only the one who writes comes here.
                let _ = self.filter.set(Arc::new(filter));
            }
            None => {}
        }
        self.memtable.insert(item);
    }

    /// What was written last to a key below a sequence number.
    pub(super) fn get(&self, stored_key: &[u8], end: SeqNo) -> Option<InternalValue> {
        self.memtable.get(stored_key, end)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.size()).field("filter", &self.filter).finish_non_exhaustive()
    }
}

/// A Bloom filter in which a key has all its bits in one word: asking costs one access to memory.
pub(super) struct KeyFilter {
    words: Vec<AtomicU64>,
    keys: AtomicUsize,
}

impl KeyFilter {
    fn new(bytes: u64) -> Self {
        let count = usize::try_from(bytes / 8).unwrap_or(usize::MAX).max(1);
        let words = std::iter::repeat_with(AtomicU64::default).take(count).collect();
        Self { words, keys: AtomicUsize::new(0) }
    }

    fn bytes(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// More keys would be mistaken for others too often.
    fn is_full(&self) -> bool {
        self.keys.load(Ordering::Relaxed) >= self.words.len() * KEYS_PER_WORD
    }

    fn add(&self, hash: u64) {
        let (word, bits) = self.place(hash);
        // Who is to find it is told of it later, by what orders this too.
        word.fetch_or(bits, Ordering::Relaxed);
        self.keys.fetch_add(1, Ordering::Relaxed);
    }

    fn may_hold(&self, hash: u64) -> bool {
        let (word, bits) = self.place(hash);
        word.load(Ordering::Relaxed) & bits == bits
    }

    fn place(&self, hash: u64) -> (&AtomicU64, u64) {
        let word = (u128::from(hash) * self.words.len() as u128) >> 64;
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let bits = (1..=BITS_PER_KEY).fold(0, |bits, nth| bits | 1 << (mixed >> (64 - 6 * nth) & 63));
        (&self.words[word as usize], bits)
    }
}

impl fmt::Debug for KeyFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFilter").field("words", &self.words.len()).field("keys", &self.keys).finish()
    }
}

/// Asks filters about one key, each once if they come one after another.
pub(super) struct Question<'a> {
    hash: u64,
    last: Option<(&'a Arc<KeyFilter>, bool)>,
}

impl<'a> Question<'a> {
    pub(super) fn about(hash: u64) -> Self {
        Self { hash, last: None }
    }

    /// Whether what has this filter, if it has one, may hold the key.
    pub(super) fn may_be_in(&mut self, filter: Option<&'a Arc<KeyFilter>>) -> bool {
        match (filter, self.last) {
            (None, _) => true,
            (Some(filter), Some((last, answer))) if Arc::ptr_eq(filter, last) => answer,
            (Some(filter), _) => {
                let answer = filter.may_hold(self.hash);
                self.last = Some((filter, answer));
                answer
            }
        }
    }
}

/// The filter of all of them, if they have the same.
pub(super) fn shared_filter<'a>(mut filters: impl Iterator<Item = Option<&'a Arc<KeyFilter>>>) -> Option<&'a Arc<KeyFilter>> {
    let first = filters.next()??;
    filters.all(|other| other.is_some_and(|other| Arc::ptr_eq(first, other))).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lsm_tree::ValueType;

    fn item(number: u64, at: SeqNo) -> InternalValue {
        InternalValue::from_components(number.to_be_bytes(), number.to_be_bytes(), at, ValueType::Value)
    }

    fn hash(number: u64) -> u64 {
        key_hash(&number.to_be_bytes())
    }

    fn is_found(buffer: &Buffer, number: u64) -> bool {
        let may_be_there = Question::about(hash(number)).may_be_in(buffer.filter());
        let found = buffer.get(&number.to_be_bytes(), 2).is_some();
        assert!(may_be_there || !found, "{number} is there");
        may_be_there && found
    }

    #[test]
    fn what_is_written_is_found_before_and_after_there_is_a_filter() {
        let (buffer, full_bytes) = (Buffer::first(Arc::new(Memtable::new(0))), 64 << 10);
        for number in 0..500 {
            buffer.insert(item(number, 1), hash(number), full_bytes);
            assert_eq!(buffer.filter().is_some(), number >= 43, "{number} of 96 bytes each");
            assert!([0, number / 2, number].into_iter().all(|earlier| is_found(&buffer, earlier)), "up to {number}");
            assert!(buffer.get(&number.to_be_bytes(), 1).is_none(), "written later");
            assert!(!is_found(&buffer, number + 1_000));
        }
    }

    #[test]
    fn filters_serve_many_memtables_and_grow() {
        const FULL_BYTES: u64 = 64 << 10;
        let mut buffers = vec![Buffer::first(Arc::new(Memtable::new(0)))];
        for number in 0..40_000 {
            let buffer = buffers.last().expect("the first one");
            buffer.insert(item(number, 1), hash(number), FULL_BYTES);
            if buffer.size() >= FULL_BYTES {
                buffers.push(buffer.next(Arc::new(Memtable::new(0)), FULL_BYTES));
            }
        }
        let mut sizes: Vec<u64> = buffers.iter().map(|buffer| buffer.filter().expect("a filter").bytes()).collect();
        assert!(sizes.is_sorted());
        sizes.dedup();
        assert_eq!(sizes, [512, 1024, 2048, 4096]);
        let shared = |range: std::ops::Range<usize>| shared_filter(buffers[range].iter().map(Buffer::filter)).is_some();
        assert!(buffers.len() > 50 && shared(40..41) && !shared(0..10), "{} memtables", buffers.len());
        let is_anywhere = |number| buffers.iter().any(|buffer| is_found(buffer, number));
        assert!((0..40_000).step_by(97).all(is_anywhere));
    }

    #[test]
    fn a_filter_knows_most_of_what_it_does_not_hold() {
        let filter = KeyFilter::new(1 << 10);
        let mut number = 0;
        while !filter.is_full() {
            filter.add(hash(number));
            number += 1;
        }
        assert!((0..number).all(|number| filter.may_hold(hash(number))));
        let mistaken = (number..number + 10_000).filter(|number| filter.may_hold(hash(*number))).count();
        assert!(mistaken < 100, "{mistaken} of 10,000 with 16 bits per key");
    }

    #[test]
    fn filters_are_shared_if_all_have_the_same() {
        let (one, other) = (Arc::new(KeyFilter::new(64)), Arc::new(KeyFilter::new(64)));
        let is_shared = |filters: &[Option<&Arc<KeyFilter>>]| shared_filter(filters.iter().copied()).is_some();
        assert!(is_shared(&[Some(&one)]) && is_shared(&[Some(&one), Some(&one)]));
        assert!(!is_shared(&[]) && !is_shared(&[None]) && !is_shared(&[Some(&one), None]) && !is_shared(&[None, Some(&one)]));
        assert!(!is_shared(&[Some(&one), Some(&other)]));
    }
}
