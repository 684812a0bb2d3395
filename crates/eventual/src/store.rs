//! The pairs of a replica: an engine, and beside it what replication needs to find its way in it.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_engine::{Batch, Change, Engine, EngineError, Table};

use crate::changes::{Cause, Changes, Gathered, Shown};
use crate::copying::Pinned;
use crate::digest::{Digest, Node, Tree};
use crate::entry::{Body, Entry};
use crate::io::Time;
use crate::lookup::{Lookup, Wanted};
use crate::message::Pair;
use crate::mirror::Swap;
use crate::options::{MAX_BACKLOG_BYTES, MAX_BATCH_BYTES, MAX_MEMORY_BATCH_BYTES, MAX_MESSAGE_BYTES, PAIR_BYTES};
use crate::recent::Recent;
use crate::session::Session;
use crate::version::{Hlc, InstanceId, Version};
use quorate_engine::codec::DecodeError;

/// Why a replica cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// Its engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What it kept cannot be read.
    #[error("what was kept cannot be read: {0}")]
    Decode(#[from] DecodeError),
    /// Its engine came back without what its log goes on from: what it had is lost, and with it the instance.
    #[error("the engine came back as of log position {applied}, and the log goes on from {purged}")]
    Behind {
        /// Where the engine is.
        applied: u64,
        /// The last position that the log does not have any more.
        purged: u64,
    },
    /// Its engine has what its log has not. That cannot come of a crash.
    #[error(
        "the engine is as of log position {applied}, and the log ends at {last}: they are not of one node, or not of one time"
    )]
    Ahead {
        /// Where the engine is.
        applied: u64,
        /// Where the log ends.
        last: u64,
    },
}

/// What became of an entry that was to be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Merged {
    /// It is there now; this was there before.
    Won(Option<Version>),
    /// A greater one was there.
    Lost,
    /// The very same was there.
    Same,
}

/// What is known of a key without asking the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) version: Version,
    pub(crate) deadline_ms: u64,
    /// Bytes of the key and of what is there.
    pub(crate) size_bytes: u64,
    pub(crate) is_dead: bool,
}

impl Kept {
    fn of(key: &Bytes, entry: &Entry) -> Self {
        let size_bytes = (key.len() + entry.body.size_bytes()) as u64;
        Self { version: entry.version, deadline_ms: entry.deadline_ms, size_bytes, is_dead: entry.is_dead() }
    }

    /// Whether this cannot be of the same write as something else of its version. What has expired has lost its content.
    fn contradicts(&self, other: &Self) -> bool {
        let is_one_gone = self.is_dead != other.is_dead && self.deadline_ms == 0;
        let are_both_there = !self.is_dead && !other.is_dead;
        self.deadline_ms != other.deadline_ms || is_one_gone || (are_both_there && self.size_bytes != other.size_bytes)
    }

    /// Whether it is served at this time.
    pub(crate) fn is_live(&self, now_ms: u64) -> bool {
        !self.is_dead && (self.deadline_ms == 0 || now_ms < self.deadline_ms)
    }
}

/// A place in the order of key hashes: a hash, and the key.
pub(crate) type Place = (u64, Bytes);

/// A change that waits for a log position to be durable.
struct Waiting {
    index: u64,
    /// Counts changes: of a key's, the greatest is the newest.
    number: u64,
    key: Bytes,
    value: Option<Bytes>,
    /// When it goes by itself, by the steady time; in a cache.
    until_ms: Option<u64>,
    /// What it is to those who watch.
    shown: Shown,
    /// Another change of the key waited when it came.
    comes_again: bool,
    /// Readers see it together with the one before.
    is_joined: bool,
}

/// A batch that the engine is given elsewhere.
#[derive(Default)]
struct Applying {
    /// The first position in it.
    first: u64,
    bytes: usize,
    /// The changes, by key and number.
    changes: Vec<(Bytes, u64)>,
    /// The same, for those who watch.
    told: Option<Changes>,
}

/// Pairs by key, and in memory beside them by hash their versions, by deadline those that end, and by version those that are
/// dead.
///
/// That takes about 160 bytes per pair and its key, besides what the engine takes: for which a comparison of replicas costs what
/// differs, a merge one lookup, and an expiry what expires. Over an engine that is durable it is made again at a start, from one
/// scan; values are on the disk alone.
///
/// An engine that is durable may stall: what it is to take in is handed out ([`Store::begin_commit`]) and confirmed
/// ([`Store::on_applied`]), one batch at a time. Any other takes it in at once.
///
/// *Invariants*: index, digest, deadlines and dead say the same as the engine with the changes that wait; but for
/// [`Store::swap`], a key's version never goes down, and nothing but [`Store::drop_stable`] takes a key out.
pub(crate) struct Store {
    engine: Arc<dyn Engine>,
    index: BTreeMap<(u64, Bytes), Kept>,
    digest: Tree,
    /// Values that end, by deadline.
    deadlines: BTreeSet<(u64, Bytes)>,
    /// Tombstones and what is left of expired values.
    dead: BTreeSet<(Version, Bytes)>,
    /// What is left of values whose time is up here, by deadline, as long as it may not be up by the clocks of others: it is not
    /// dropped before, or a replica would have nothing where another still serves the value.
    expired: BTreeSet<(u64, Bytes)>,
    /// Changes that the engine does not have yet, oldest first: readers see what is durable. None: the key goes.
    queue: VecDeque<Waiting>,
    /// The newest that readers of the engine do not see yet, by key, with its number.
    waiting: HashMap<Bytes, (u64, Option<Bytes>)>,
    /// Bytes of all these changes.
    waiting_bytes: usize,
    /// Changes so far, and their bytes.
    changes: u64,
    changed_bytes: u64,
    /// The engine is given what it takes in elsewhere: it may stall.
    may_stall: bool,
    /// What it is being given.
    applying: Option<Applying>,
    /// The log position that the engine came back with.
    came_back_at: u64,
    /// Bytes of keys and values.
    data_bytes: u64,
    /// Batches so far: the engine's revision.
    batches: u64,
    /// What batches that the engine has changed, for those who watch; nothing as long as the log is read back.
    told: Vec<Changes>,
    is_telling: bool,
    /// The engine is a cache: what it holds is known to it alone, and here is what it cannot know.
    recent: Option<Recent>,
    now: Time,
    /// The greatest stamps of what is here or was, by who wrote it.
    pub(crate) seen: Session,
    /// Entries of a version that is here with something else.
    pub(crate) mismatched: u64,
}

impl Store {
    /// Over an empty engine.
    pub(crate) fn new(engine: Arc<dyn Engine>, seed: u64, levels: u8) -> Self {
        Self {
            engine,
            index: BTreeMap::new(),
            digest: Tree::new(seed, levels),
            deadlines: BTreeSet::new(),
            dead: BTreeSet::new(),
            expired: BTreeSet::new(),
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            waiting_bytes: 0,
            changes: 0,
            changed_bytes: 0,
            may_stall: false,
            applying: None,
            came_back_at: 0,
            data_bytes: 0,
            batches: 0,
            told: Vec::new(),
            is_telling: false,
            recent: None,
            now: Time::default(),
            seen: Session::default(),
            mismatched: 0,
        }
    }

    /// Over an engine that is durable, with what it came back with: reads all of it, once.
    pub(crate) fn open(engine: Arc<dyn Engine>, seed: u64, levels: u8) -> Result<Self, ReplicaError> {
        let view = engine.view();
        let mut store =
            Self { may_stall: true, came_back_at: view.applied(), batches: view.revision(), ..Self::new(engine, seed, levels) };
        for pair in view.pairs(Table::Current) {
            let (key, entry) = pair?;
            // The key is a slice of what was read from the disk, values and all.
            let key = Bytes::copy_from_slice(&key);
            let at = (store.digest.key_hash(&key), key);
            store.note(at, &Entry::decode(entry)?);
        }
        Ok(store)
    }

    /// Where the pairs are.
    pub(crate) fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// The log position that the engine came back with: what the log says up to there is in it.
    pub(crate) fn came_back_at(&self) -> u64 {
        self.came_back_at
    }

    /// The greatest stamp there is.
    pub(crate) fn last_stamp(&self) -> Hlc {
        self.index.values().map(|kept| kept.version.hlc).max().unwrap_or(Hlc::ZERO)
    }

    /// Whether the engine has on a disk what it took in, and comes back with it; up to where, it says when it is flushed.
    pub(crate) fn is_durable(&self) -> bool {
        self.may_stall
    }

    /// Whether so much waits for the engine that no more should be taken in.
    pub(crate) fn has_full_backlog(&self) -> bool {
        self.may_stall && self.waiting_bytes >= MAX_BACKLOG_BYTES
    }

    /// Over an empty engine that evicts. There is no index of what is in it, and so nothing to compare.
    pub(crate) fn cache(engine: Arc<dyn Engine>) -> Self {
        assert!(engine.capabilities().evicts, "a cache is an engine that evicts");
        Self { recent: Some(Recent::default()), ..Self::new(engine, 0, 1) }
    }

    /// Tells the time. In a cache values whose time is up go, and what was long ago is forgotten: returns the greatest stamp of
    /// that.
    pub(crate) fn advance(&mut self, now: Time) -> Hlc {
        self.now = now;
        self.recent.as_mut().map_or(Hlc::ZERO, |recent| {
            self.engine.advance(now.mono_ms);
            recent.forget(now.mono_ms)
        })
    }

    /// In a cache, what is older than this version goes; it need not be replaced.
    pub(crate) fn evict_older(&mut self, key: &Bytes, version: Version) {
        if self.recent.is_some() && self.version(key).is_some_and(|known| known < version) {
            let newer = Entry { version, deadline_ms: 0, body: Body::Expired };
            self.drop_cached(key, &newer);
        }
    }

    fn merge_cached(&mut self, key: &Bytes, entry: &Entry) -> Merged {
        let old = self.version(key);
        if !entry.beats(old.as_ref()) {
            return if old == Some(entry.version) { Merged::Same } else { Merged::Lost };
        }
        let now = self.now;
        self.seen.note(entry.version);
        let Some(recent) = &mut self.recent else { return Merged::Lost };
        if entry.is_dead() {
            recent.insert(key, entry.version, entry.body == Body::Tombstone, now.mono_ms);
            self.drop_cached(key, entry);
        } else {
            recent.update(key, entry.version);
            let left_ms = entry.deadline_ms.saturating_sub(now.wall_ms);
            let until_ms = now.mono_ms.saturating_add(left_ms);
            self.change(0, key.clone(), (Some(entry.to_bytes()), Some(until_ms)), Shown::put(true));
        }
        Merged::Won(old)
    }

    /// A key goes from a cache. That is told whether it is there or not: nobody was told if it was evicted.
    fn drop_cached(&mut self, key: &Bytes, entry: &Entry) {
        let cause = if entry.body == Body::Tombstone { Cause::Delete } else { Cause::Expire };
        let shown = Shown { entry: Some(entry.to_bytes()), ..Shown::gone(cause, true) };
        self.change(0, key.clone(), (None, None), shown);
    }

    pub(crate) fn digest(&self) -> &Tree {
        &self.digest
    }

    /// The sum of everything.
    pub(crate) fn root(&self) -> Digest {
        self.digest.digest(Node::ROOT).unwrap_or_default()
    }

    /// Keys with a value, and keys of which only the version is left.
    pub(crate) fn counts(&self) -> (u64, u64) {
        if let Some(recent) = &self.recent {
            return (self.engine.stats().keys, recent.len() as u64);
        }
        let gone = self.dead.len() + self.expired.len();
        ((self.index.len() - gone) as u64, gone as u64)
    }

    /// Bytes of keys and values.
    pub(crate) fn data_bytes(&self) -> u64 {
        if self.recent.is_some() { self.engine.stats().data_bytes } else { self.data_bytes }
    }

    /// The oldest tombstone, or what is left of an expired value.
    pub(crate) fn oldest_dead(&self) -> Option<Hlc> {
        self.dead.first().map(|(version, _)| version.hlc)
    }

    /// When the next value ends, by the wall clock.
    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// What is known of a key.
    pub(crate) fn kept(&self, key: &Bytes) -> Option<Kept> {
        if let Some(recent) = &self.recent {
            let is_dead = |version| Kept { version, deadline_ms: 0, size_bytes: 0, is_dead: true };
            let there = self.get(key).ok().flatten().map(|entry| Kept::of(key, &entry));
            return [there, recent.version(key).map(is_dead)]
                .into_iter()
                .flatten()
                .max_by_key(|kept| (kept.version, !kept.is_dead));
        }
        self.index.get(&(self.digest.key_hash(key), key.clone())).copied()
    }

    /// The version of a key.
    pub(crate) fn version(&self, key: &Bytes) -> Option<Version> {
        self.kept(key).map(|kept| kept.version)
    }

    /// What there is for a key.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Entry>, ReplicaError> {
        let found = match self.waiting.get(key) {
            Some((_, waiting)) => waiting.clone(),
            None => self.engine.view().peek(Table::Current, key)?,
        };
        Ok(found.map(Entry::decode).transpose()?)
    }

    /// What to tell others of a key: in a cache also that it was deleted lately.
    pub(crate) fn told(&self, key: &Bytes) -> Result<Option<Entry>, ReplicaError> {
        let there = self.get(key)?;
        let deleted = || self.recent.as_ref().and_then(|recent| recent.deleted(key));
        Ok(there.or_else(|| deleted().map(|version| Entry { version, deadline_ms: 0, body: Body::Tombstone })))
    }

    /// Keeps the entry if it beats what is there. Readers of the engine see it once this log position is durable.
    pub(crate) fn merge(&mut self, key: &Bytes, entry: &Entry, index: u64) -> Merged {
        if self.recent.is_some() {
            return self.merge_cached(key, entry);
        }
        let hash = self.digest.key_hash(key);
        let kept = Kept::of(key, entry);
        let old = match self.index.entry((hash, key.clone())) {
            Slot::Vacant(vacant) => {
                vacant.insert(kept);
                None
            }
            Slot::Occupied(known) if !entry.beats(Some(&known.get().version)) => {
                let known = *known.get();
                if known.version != entry.version {
                    return Merged::Lost;
                }
                self.mismatched += u64::from(known.contradicts(&kept));
                return Merged::Same;
            }
            Slot::Occupied(mut known) => Some(known.insert(kept)),
        };
        self.noted((hash, key), entry, kept, old);
        self.change_to(index, key.clone(), entry, old);
        Merged::Won(old.map(|old| old.version))
    }

    /// Puts an entry in the place of whatever there is.
    fn set(&mut self, at: (u64, Bytes), entry: &Entry, index: u64) {
        let key = at.1.clone();
        let old = self.note(at, entry);
        self.change_to(index, key, entry, old);
    }

    /// An entry takes the place of what there was for a key.
    fn change_to(&mut self, index: u64, key: Bytes, entry: &Entry, old: Option<Kept>) {
        let was_there = old.is_some_and(|old| !old.is_dead);
        let shown = match entry.body {
            Body::Value { .. } => Shown::put(was_there),
            Body::Tombstone => Shown::gone(Cause::Delete, was_there),
            Body::Expired => Shown::gone(Cause::Expire, was_there),
        };
        self.change(index, key, (Some(entry.to_bytes()), None), shown);
    }

    /// Has the books say that this is what there is for a key. Returns what they said before.
    fn note(&mut self, at: (u64, Bytes), entry: &Entry) -> Option<Kept> {
        let (hash, key) = (at.0, at.1.clone());
        let kept = Kept::of(&key, entry);
        let old = self.index.insert(at, kept);
        self.noted((hash, &key), entry, kept, old);
        old
    }

    /// The index says now that this is what there is for a key, and what there was before: so do the other books.
    fn noted(&mut self, (hash, key): (u64, &Bytes), entry: &Entry, kept: Kept, old: Option<Kept>) {
        self.seen.note(entry.version);
        old.into_iter().for_each(|old| self.forget(key, old));
        self.digest.replace(hash, key, old.map(|old| old.version), Some(entry.version));
        if entry.body == Body::Expired {
            self.expired.insert((entry.deadline_ms, key.clone()));
        } else if entry.is_dead() {
            self.dead.insert((entry.version, key.clone()));
        } else if entry.deadline_ms != 0 {
            self.deadlines.insert((entry.deadline_ms, key.clone()));
        }
        self.data_bytes += kept.size_bytes;
    }

    /// A copy takes the place of what there is, whatever the versions; for readers at once, when this log position is durable.
    pub(crate) fn swap(&mut self, swap: &Swap, index: u64) {
        let first = self.queue.len();
        for Pair { key, entry } in &swap.pairs {
            self.set((self.digest.key_hash(key), key.clone()), entry, index);
        }
        for key in &swap.gone {
            let at = (self.digest.key_hash(key), key.clone());
            if let Some(kept) = self.index.remove(&at) {
                self.forget(key, kept);
                self.digest.replace(at.0, key, Some(kept.version), None);
                self.change(index, key.clone(), (None, None), Shown::gone(Cause::Delete, !kept.is_dead));
            }
        }
        self.queue.iter_mut().skip(first + 1).for_each(|change| change.is_joined = true);
    }

    /// Whether there is something above a stamp that this instance did not write.
    pub(crate) fn has_other_above(&self, at: Hlc, instance: InstanceId) -> bool {
        self.index.values().any(|kept| kept.version.hlc > at && kept.version.instance != instance)
    }

    /// Keys with versions at or below a stamp.
    pub(crate) fn keys_upto(&self, at: Hlc) -> impl Iterator<Item = &Bytes> {
        self.index.iter().filter(move |(_, kept)| kept.version.hlc <= at).map(|((_, key), _)| key)
    }

    fn change(&mut self, index: u64, key: Bytes, (value, until_ms): (Option<Bytes>, Option<u64>), shown: Shown) {
        self.changes += 1;
        let number = self.changes;
        let bytes = bytes_of(&key, value.as_ref());
        self.waiting_bytes += bytes;
        self.changed_bytes += bytes as u64 + PAIR_BYTES;
        let comes_again = self.waiting.insert(key.clone(), (number, value.clone())).is_some();
        self.queue.push_back(Waiting { index, number, key, value, until_ms, shown, comes_again, is_joined: false });
    }

    /// Takes out of the books what is there for a key, except for index and digest.
    fn forget(&mut self, key: &Bytes, kept: Kept) {
        self.data_bytes -= kept.size_bytes;
        if kept.is_dead {
            self.dead.remove(&(kept.version, key.clone()));
            self.expired.remove(&(kept.deadline_ms, key.clone()));
        } else if kept.deadline_ms != 0 {
            self.deadlines.remove(&(kept.deadline_ms, key.clone()));
        }
    }

    /// Values whose time is up lose their content; at most so many. Versions stay, so replicas that do this at different moments
    /// do not differ.
    pub(crate) fn expire(&mut self, now_ms: u64, index: u64, max: usize) {
        for _ in 0..max {
            if self.deadlines.first().is_none_or(|(deadline_ms, _)| *deadline_ms > now_ms) {
                break;
            }
            let (deadline_ms, key) = self.deadlines.pop_first().expect("there is a first one");
            let Some(Kept { version, size_bytes, .. }) = self.kept(&key) else { continue };
            self.data_bytes -= size_bytes - key.len() as u64;
            self.expired.insert((deadline_ms, key.clone()));
            let expired = Entry { version, deadline_ms, body: Body::Expired };
            self.index.insert((self.digest.key_hash(&key), key.clone()), Kept::of(&key, &expired));
            self.change(index, key, (Some(expired.to_bytes()), None), Shown::gone(Cause::Expire, true));
        }
    }

    /// What is left of values whose time is up by all clocks is dead from now on; at most so many.
    pub(crate) fn release_expired(&mut self, all_clocks_ms: u64, max: usize) {
        for _ in 0..max {
            if self.expired.first().is_none_or(|(deadline_ms, _)| *deadline_ms > all_clocks_ms) {
                break;
            }
            let (_, key) = self.expired.pop_first().expect("there is a first one");
            let kept = self.kept(&key).expect("what has expired is in the index");
            self.dead.insert((kept.version, key));
        }
    }

    /// When the time of the first value is up that is not served here any more.
    pub(crate) fn next_expired_ms(&self) -> Option<u64> {
        self.expired.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// Drops what is dead and at or below the fence; at most so many. Whether that was all.
    pub(crate) fn drop_stable(&mut self, fence: Hlc, index: u64, max: usize) -> bool {
        for _ in 0..max {
            if self.dead.first().is_none_or(|(version, _)| version.hlc > fence) {
                return true;
            }
            let (version, key) = self.dead.pop_first().expect("there is a first one");
            let hash = self.digest.key_hash(&key);
            self.index.remove(&(hash, key.clone()));
            self.digest.replace(hash, &key, Some(version), None);
            self.data_bytes -= key.len() as u64;
            self.change(index, key, (None, None), Shown::gone(Cause::Delete, false));
        }
        self.dead.first().is_none_or(|(version, _)| version.hlc > fence)
    }

    /// What a leaf holds: hash and version of each key.
    pub(crate) fn leaf(&self, leaf: u32) -> Vec<(u64, Version)> {
        let (first, last) = self.digest.hashes_of(leaf);
        self.by_hash(first, last).map(|((hash, _), kept)| (*hash, kept.version)).collect()
    }

    /// All entries of keys with this hash: one, or in a blue moon more.
    pub(crate) fn with_hash(&self, hash: u64) -> Result<Vec<(Bytes, Entry)>, ReplicaError> {
        let mut found = Vec::new();
        for ((_, key), _) in self.by_hash(hash, hash) {
            found.extend(self.get(key)?.map(|entry| (key.clone(), entry)));
        }
        Ok(found)
    }

    fn by_hash(&self, first: u64, last: u64) -> impl Iterator<Item = (&(u64, Bytes), &Kept)> {
        self.index.range((first, Bytes::new())..).take_while(move |((hash, _), _)| *hash <= last)
    }

    /// What comes after this place, in the order of hashes.
    fn behind(&self, place: Option<&Place>) -> impl Iterator<Item = (&Place, &Kept)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let low = place.map_or(Unbounded, |place| Excluded(place.clone()));
        self.index.range((low, Unbounded))
    }

    /// Where a piece ends that begins after this place: it has about so many bytes, or pairs, and at least one. None if nothing
    /// comes after it.
    pub(crate) fn end_of_piece(&self, after: Option<&Place>, max_bytes: u64, max_pairs: usize) -> Option<Place> {
        let mut last = None;
        let mut bytes = 0;
        for (count, (place, kept)) in self.behind(after).enumerate() {
            bytes += kept.size_bytes + PAIR_BYTES;
            if last.is_some() && (bytes > max_bytes || count >= max_pairs) {
                break;
            }
            last = Some(place);
        }
        last.cloned()
    }

    /// How many changes there were so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// What there is now, kept as it is. None if the engine cannot do that.
    pub(crate) fn pin(&self) -> Option<Pinned> {
        let (changes, changed_bytes) = (self.changes, self.changed_bytes);
        let pin = || Pinned { view: self.engine.view(), over: self.over(), changes, changed_bytes };
        self.engine.capabilities().pinned_views.then(pin)
    }

    /// What the engine does not have yet.
    fn over(&self) -> HashMap<Bytes, Option<Bytes>> {
        self.waiting.iter().map(|(key, (_, value))| (key.clone(), value.clone())).collect()
    }

    /// Whether more was changed since then than this: so much, about, is kept alive by it alone.
    pub(crate) fn is_outdated(&self, pinned: &Pinned, max_bytes: u64) -> bool {
        self.changed_bytes - pinned.changed_bytes > max_bytes
    }

    /// What there is after this place up to that one, or as much of it as is about so many bytes; and where that ends. `pinned`:
    /// as it was then. What is not in the index any more is not in it: a tombstone that all have, or the key of a copy that was
    /// replaced.
    pub(crate) fn piece(
        &self,
        (after, upto): (Option<&Place>, &Place),
        max_bytes: u64,
        pinned: Option<&Pinned>,
    ) -> Result<(Place, Vec<Pair>), ReplicaError> {
        let view = self.engine.view();
        let (mut pairs, mut bytes, mut end) = (Vec::new(), 0, None);
        for (place, _) in self.behind(after).take_while(|(place, _)| *place <= upto) {
            let found = match (pinned, self.waiting.get(&place.1)) {
                (Some(pinned), _) => pinned.peek(&place.1)?,
                (None, Some((_, waiting))) => waiting.clone(),
                (None, None) => view.peek(Table::Current, &place.1)?,
            };
            if let Some(found) = found {
                bytes += (place.1.len() + found.len()) as u64;
                if let Some(end) = end.filter(|_| bytes > max_bytes) {
                    return Ok((Place::clone(end), pairs));
                }
                pairs.push(Pair { key: place.1.clone(), entry: Entry::decode(found)? });
            }
            end = Some(place);
        }
        Ok((upto.clone(), pairs))
    }

    /// The same, to be looked up elsewhere.
    pub(crate) fn look_up_piece(
        &self,
        (after, upto): (Option<&Place>, &Place),
        max_bytes: u64,
        pinned: Option<&Pinned>,
    ) -> Lookup {
        let view = pinned.map_or_else(|| self.engine.view(), |pinned| Arc::clone(&pinned.view));
        let places = self.behind(after).map(|(place, _)| place).take_while(|place| *place <= upto);
        let known = |place: &Place| match pinned {
            Some(pinned) => pinned.over.get(&place.1).cloned().map_or(Wanted::InView, Wanted::Known),
            None => self.wanted(place),
        };
        Lookup { number: 0, view, wanted: places.map(|place| (place.clone(), known(place))).collect(), max_bytes }
    }

    /// The entries of keys with these hashes, to be looked up elsewhere.
    pub(crate) fn look_up_hashes(&self, hashes: &[u64]) -> Lookup {
        let places = hashes.iter().flat_map(|hash| self.by_hash(*hash, *hash)).map(|(place, _)| place);
        self.look_up_all(places)
    }

    /// The entry of a key, to be looked up elsewhere.
    pub(crate) fn look_up(&self, key: &Bytes) -> Lookup {
        let place = (self.digest.key_hash(key), key.clone());
        self.look_up_all(std::iter::once(&place))
    }

    fn look_up_all<'a>(&self, places: impl Iterator<Item = &'a Place>) -> Lookup {
        let wanted = places.map(|place| (place.clone(), self.wanted(place))).collect();
        Lookup { number: 0, view: self.engine.view(), wanted, max_bytes: MAX_MESSAGE_BYTES }
    }

    fn wanted(&self, place: &Place) -> Wanted {
        self.waiting.get(&place.1).map_or(Wanted::InView, |(_, value)| Wanted::Known(value.clone()))
    }

    /// Lets readers of the engine see what is durable, at once: what was changed up to this log position.
    pub(crate) fn commit(&mut self, durable: u64) -> Result<(), ReplicaError> {
        while let Some(batch) = self.next_batch(durable) {
            self.engine.apply(batch)?;
            self.on_applied();
        }
        Ok(())
    }

    /// What the engine is to take in for that, where it may stall; nothing while it is given something.
    pub(crate) fn begin_commit(&mut self, durable: u64) -> Option<Batch> {
        if self.applying.is_some() { None } else { self.next_batch(durable) }
    }

    /// The engine has what it was given last.
    pub(crate) fn on_applied(&mut self) {
        let Some(Applying { bytes, changes, told, .. }) = self.applying.take() else { return };
        self.told.extend(told);
        self.waiting_bytes -= bytes;
        if self.queue.is_empty() {
            // Mostly so, where nothing stalls.
            self.waiting.clear();
        }
        for (key, number) in changes {
            if self.waiting.is_empty() {
                break;
            }
            if self.waiting.get(&key).is_some_and(|(newest, _)| *newest == number) {
                self.waiting.remove(&key);
            }
        }
    }

    /// The log was read back: from now on those who watch are told what changes.
    pub(crate) fn begin_telling(&mut self) {
        self.is_telling = true;
    }

    /// What they are to be told, by revision.
    pub(crate) fn take_told(&mut self) -> std::vec::Drain<'_, Changes> {
        self.told.drain(..)
    }

    /// Up to which log position readers of the engine see everything, out of what is durable.
    pub(crate) fn shown_to(&self, durable: u64) -> u64 {
        let applying = self.applying.as_ref().map(|applying| applying.first);
        let first = applying.or_else(|| self.queue.front().map(|next| next.index));
        first.map_or(durable, |first| durable.min(first.saturating_sub(1)))
    }

    /// All changes up to some log position. It says that position: an engine that comes back with it has all of them, and none of
    /// a later one.
    fn next_batch(&mut self, durable: u64) -> Option<Batch> {
        let max_bytes = if self.may_stall { MAX_BATCH_BYTES } else { MAX_MEMORY_BATCH_BYTES };
        let may_stall = self.may_stall;
        let first = self.queue.front().map(|next| next.index).filter(|first| *first <= durable)?;
        let mut applying = Applying { first, ..Applying::default() };
        let (mut changes, mut applied, table) = (Vec::new(), first, Table::Current);
        let mut told = self.is_telling.then(Gathered::default);
        while let Some(Waiting { index, number, key, value, until_ms, shown, comes_again, .. }) =
            self.queue.pop_front_if(|next| {
                let belongs = next.is_joined || (may_stall && next.index == applied);
                next.index <= durable && (belongs || applying.bytes < max_bytes)
            })
        {
            if let Some(told) = &mut told {
                told.add(&key, value.as_ref(), shown, comes_again);
            }
            applied = index;
            applying.bytes += bytes_of(&key, value.as_ref());
            applying.changes.push((key.clone(), number));
            changes.push(match (value, until_ms) {
                (Some(value), Some(until_ms)) => Change::PutUntil { table, key, value, until_ms },
                (Some(value), None) => Change::Put { table, key, value },
                (None, _) => Change::Delete { table, key },
            });
        }
        self.batches += 1;
        // Of an engine that may stall nothing is looked up that is not needed.
        let before = (told.is_some() && !may_stall).then(|| self.engine.view());
        applying.told = told.map(|told| told.into_changes(self.batches, before.as_deref()));
        self.applying = Some(applying);
        Some(Batch { applied, revision: self.batches, changes })
    }

    /// The version of a key that was deleted or invalidated lately, or has been written since; for tests of caches.
    #[cfg(test)]
    pub(crate) fn recent_version(&self, key: &[u8]) -> Option<Version> {
        self.recent.as_ref().and_then(|recent| recent.version(key))
    }

    /// What readers of the engine see for a key; for tests.
    #[cfg(test)]
    pub(crate) fn get_durable(&self, key: &[u8]) -> Option<Entry> {
        let found = self.engine.view().peek(Table::Current, key).expect("readable");
        found.map(|bytes| Entry::decode(bytes).expect("what was encoded can be decoded"))
    }

    /// Whether the books say what the engine has; for tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut again = self.digest.emptied();
        let mut data_bytes = 0;
        for ((hash, key), kept) in &self.index {
            let entry = self.get(key).expect("readable").expect("what the index has, the engine has");
            assert_eq!(*kept, Kept::of(key, &entry), "the index says something else of {key:?} than the engine");
            let version = &kept.version;
            let is_known =
                self.dead.contains(&(*version, key.clone())) || self.expired.contains(&(kept.deadline_ms, key.clone()));
            assert_eq!(entry.is_dead(), is_known, "dead keys are known");
            let ends = !entry.is_dead() && entry.deadline_ms != 0;
            assert_eq!(ends, self.deadlines.contains(&(entry.deadline_ms, key.clone())), "ends are known");
            data_bytes += (key.len() + entry.body.size_bytes()) as u64;
            again.replace(*hash, key, None, Some(*version));
        }
        assert!(again.is_same(&self.digest), "the digest is what it would be from scratch");
        assert_eq!(data_bytes, self.data_bytes);
    }
}

/// What a change takes while it waits.
fn bytes_of(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("keys", &self.index.len()).field("dead", &self.dead.len()).finish_non_exhaustive()
    }
}
