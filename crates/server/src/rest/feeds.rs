//! Feeds that watchers wait at: what the node tells of what it applied, and who is woken by it.
//!
//! The node's loop does no more than to put what was applied into a [`Feed`]. A task per feed that is watched finds out whom it
//! concerns; who is woken takes what is new from the feed himself. Nobody has a queue: a watcher that sleeps, or whose client is
//! slow, is a number in a table.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_node::keyspace::watch::{Feed, Interests, Piece};
use quorate_node::keyspace::{Changes, Keys, Revision};
use tokio::sync::Notify;

/// Revisions that are looked at in one go: for so long the feed's watchers can neither come nor go.
const REVISIONS_AT_ONCE: usize = 256;

/// The feeds of a node, by group.
#[derive(Debug, Default)]
pub struct Feeds {
    by_group: Mutex<BTreeMap<u64, Arc<LiveFeed>>>,
}

/// The feed of a replica, and its watchers.
pub struct LiveFeed {
    /// Names its revisions, where a replica counts on its own.
    epoch: Option<u64>,
    feed: Mutex<Feed>,
    watchers: Mutex<Watchers>,
    /// Something was applied, or the last watcher went.
    changed: Notify,
    has_watchers: AtomicBool,
    has_ended: AtomicBool,
}

#[derive(Default)]
struct Watchers {
    interests: Interests<u64>,
    slots: BTreeMap<u64, Arc<Slot>>,
    last_name: u64,
    /// All up to here was looked at.
    matched: Revision,
    is_matched: bool,
}

/// A watcher's place in the table.
#[derive(Debug, Default)]
struct Slot {
    /// The first revision that concerns it since it last looked; 0 for none.
    first: AtomicU64,
    changed: Notify,
}

/// Somebody who watches. Gone when it is dropped.
#[derive(Debug)]
pub struct Watcher {
    feed: Arc<LiveFeed>,
    name: u64,
    keys: Vec<Keys>,
    slot: Arc<Slot>,
}

/// How far it is known whom what was applied concerns.
enum Matching {
    /// There is nobody whom it could.
    Unwatched,
    /// There is more to look at.
    Behind,
    /// All of it.
    Done,
}

impl Feeds {
    /// These groups can be read here, count their revisions under these epochs, if they do so on their own, and stand at these
    /// revisions. Feeds of others end, with all watches; also that of a group which counts anew.
    pub fn host(&self, groups: &BTreeMap<u64, (Option<u64>, Revision)>) {
        let mut by_group = lock(&self.by_group);
        by_group.retain(|group, feed| {
            let is_hosted = groups.get(group).is_some_and(|(epoch, _)| *epoch == feed.epoch);
            if !is_hosted {
                feed.end();
            }
            is_hosted
        });
        for (group, (epoch, revision)) in groups {
            by_group.entry(*group).or_insert_with(|| Arc::new(LiveFeed::of(*epoch, *revision)));
        }
    }

    /// Something was applied; see [`Feed::publish`]. Never waits for watchers. Revisions under another epoch than the feed's are
    /// not of it.
    pub fn publish(&self, (group, epoch): (u64, Option<u64>), at: Revision, changes: Vec<Changes>) {
        if let Some(feed) = self.get(group).filter(|feed| feed.epoch == epoch) {
            feed.publish(at, changes);
        }
    }

    /// The feed of a group that can be read here.
    pub fn get(&self, group: u64) -> Option<Arc<LiveFeed>> {
        lock(&self.by_group).get(&group).cloned()
    }
}

impl LiveFeed {
    /// That of a replica which stands at a revision that all replicas have in common.
    pub fn new(at: Revision) -> Self {
        Self::of(None, at)
    }

    /// That of a replica whose revisions have this epoch, if it counts on its own.
    pub fn of(epoch: Option<u64>, at: Revision) -> Self {
        Self {
            epoch,
            feed: Mutex::new(Feed::new(at)),
            watchers: Mutex::default(),
            changed: Notify::new(),
            has_watchers: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
        }
    }

    /// Something was applied; see [`Feed::publish`].
    pub fn publish(&self, at: Revision, changes: Vec<Changes>) {
        lock(&self.feed).publish(at, changes);
        if self.has_watchers.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    /// The keyspace cannot be read here any more.
    pub fn end(&self) {
        self.has_ended.store(true, Ordering::SeqCst);
        lock(&self.watchers).slots.values().for_each(|slot| slot.changed.notify_one());
    }

    /// Names its revisions, where a replica counts on its own: they mean nothing at another node.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// The revision at which the replica stands.
    pub(super) fn at(&self) -> Revision {
        lock(&self.feed).at()
    }

    /// The oldest revision after which everything is known here.
    pub(super) fn since(&self) -> Revision {
        lock(&self.feed).since()
    }

    /// What comes after a revision, if the feed goes back so far.
    pub(super) fn after(&self, revision: Revision) -> Option<Piece> {
        lock(&self.feed).after(revision, REVISIONS_AT_ONCE)
    }

    /// Begins to watch keys. The watcher is woken by what happens from now on; what happened before it looks for itself.
    pub(super) fn watch(self: &Arc<Self>, keys: Vec<Keys>) -> Watcher {
        let mut watchers = lock(&self.watchers);
        watchers.last_name += 1;
        let name = watchers.last_name;
        for of in &keys {
            watchers.interests.add(of, name);
        }
        let slot = Arc::new(Slot::default());
        watchers.slots.insert(name, Arc::clone(&slot));
        self.has_watchers.store(true, Ordering::SeqCst);
        if !watchers.is_matched {
            watchers.is_matched = true;
            watchers.matched = self.at();
            drop(tokio::spawn(Arc::clone(self).match_changes()));
        }
        Watcher { feed: Arc::clone(self), name, keys, slot }
    }

    /// Wakes watchers, as long as there are any.
    async fn match_changes(self: Arc<Self>) {
        loop {
            match self.match_next() {
                Matching::Unwatched => return,
                Matching::Behind => tokio::task::yield_now().await,
                Matching::Done => self.changed.notified().await,
            }
        }
    }

    fn match_next(&self) -> Matching {
        let mut watchers = lock(&self.watchers);
        if watchers.slots.is_empty() {
            watchers.is_matched = false;
            self.has_watchers.store(false, Ordering::SeqCst);
            return Matching::Unwatched;
        }
        if watchers.match_next(&self.feed) { Matching::Done } else { Matching::Behind }
    }
}

impl Watchers {
    /// Looks at what comes next; whether that was all.
    fn match_next(&mut self, feed: &Mutex<Feed>) -> bool {
        let (piece, at) = {
            let feed = lock(feed);
            (feed.after(self.matched, REVISIONS_AT_ONCE), feed.at())
        };
        let Some(piece) = piece else {
            // It went on faster than this does, or jumped: whoever watches has to look.
            self.slots.values().for_each(|slot| slot.mark(self.matched.next()));
            self.matched = at;
            return true;
        };
        for changes in &piece.changes {
            for event in &changes.events {
                self.interests.each(&event.key, |name| {
                    if let Some(slot) = self.slots.get(name) {
                        slot.mark(changes.revision);
                    }
                });
            }
        }
        self.matched = piece.upto;
        piece.upto >= at
    }
}

impl Slot {
    fn mark(&self, revision: Revision) {
        // Marked in the order of revisions: the first one stands.
        if self.first.compare_exchange(0, revision.0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.changed.notify_one();
        }
    }
}

impl Watcher {
    /// What it watches at.
    pub(super) fn feed(&self) -> &Arc<LiveFeed> {
        &self.feed
    }

    /// Waits until something may have happened that concerns it. False if the keyspace cannot be read here any more.
    pub(super) async fn changed(&self) -> bool {
        if !self.has_ended() && self.slot.first.load(Ordering::SeqCst) == 0 {
            self.slot.changed.notified().await;
        }
        !self.has_ended()
    }

    /// How far nothing happened that concerns it but what it has seen: it has seen everything up to `told`.
    pub(super) fn quiet_until(&self, told: Revision) -> Revision {
        let watchers = lock(&self.feed.watchers);
        match self.slot.first.swap(0, Ordering::SeqCst) {
            0 => told.max(watchers.matched),
            first => told.max(Revision(first - 1)),
        }
    }

    fn has_ended(&self) -> bool {
        self.feed.has_ended.load(Ordering::SeqCst)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut watchers = lock(&self.feed.watchers);
        for keys in &self.keys {
            watchers.interests.remove(keys, &self.name);
        }
        watchers.slots.remove(&self.name);
        if watchers.slots.is_empty() {
            self.feed.changed.notify_one();
        }
    }
}

/// What a panicking thread left is whole: every change of it is one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for LiveFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveFeed").field("at", &self.at()).field("since", &self.since()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use quorate_engine::KeyRange;
    use quorate_node::keyspace::{Cause, Event};
    use tokio::time::timeout;

    use super::*;

    fn key(name: &str) -> Keys {
        Keys::One(Bytes::copy_from_slice(name.as_bytes()))
    }

    fn put(feed: &LiveFeed, revision: u64, key: &str) {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let event = Event { key, cause: Cause::Put, after: Some(Bytes::new()), before: None };
        feed.publish(Revision(revision), vec![Changes { revision: Revision(revision), events: vec![event] }]);
    }

    async fn is_woken(watcher: &Watcher) -> bool {
        timeout(Duration::from_millis(100), watcher.changed()).await == Ok(true)
    }

    #[tokio::test]
    async fn those_are_woken_whom_it_concerns() {
        let feed = Arc::new(LiveFeed::new(Revision(4)));
        let (a, b) = (feed.watch(vec![key("a")]), feed.watch(vec![key("b"), Keys::Range(KeyRange::prefix(b"x/"))]));
        assert!(!is_woken(&a).await);
        put(&feed, 5, "a");
        assert!(is_woken(&a).await && !is_woken(&b).await);
        assert_eq!(a.quiet_until(Revision(4)), Revision(4));
        assert_eq!(b.quiet_until(Revision(4)), Revision(5));
        put(&feed, 6, "c");
        put(&feed, 7, "x/1");
        put(&feed, 8, "x/2");
        assert!(is_woken(&b).await && !is_woken(&a).await);
        assert_eq!((a.quiet_until(Revision(5)), b.quiet_until(Revision(5))), (Revision(8), Revision(6)));
        assert!(!is_woken(&b).await, "woken once until it looks");
    }

    #[tokio::test]
    async fn after_a_jump_everybody_looks() {
        let feed = Arc::new(LiveFeed::new(Revision(4)));
        let watcher = feed.watch(vec![key("a")]);
        feed.publish(Revision(90), Vec::new());
        assert!(is_woken(&watcher).await);
        assert_eq!(watcher.quiet_until(Revision(4)), Revision(4));
        assert!(feed.after(Revision(4)).is_none());
    }

    #[tokio::test]
    async fn watchers_go_and_come() {
        let feed = Arc::new(LiveFeed::new(Revision(4)));
        drop(feed.watch(vec![key("a")]));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!feed.has_watchers.load(Ordering::SeqCst));
        assert!(lock(&feed.watchers).interests.is_empty());
        put(&feed, 5, "a");
        let later = feed.watch(vec![key("a")]);
        put(&feed, 6, "a");
        assert!(is_woken(&later).await);
        assert_eq!(later.quiet_until(Revision(4)), Revision(5));
        feed.end();
        assert!(!later.changed().await);
    }

    #[tokio::test]
    async fn feeds_are_there_as_long_as_their_groups_are() {
        let feeds = Feeds::default();
        feeds.host(&BTreeMap::from([(1, (None, Revision(4))), (2, (None, Revision(9)))]));
        let watcher = feeds.get(2).unwrap().watch(vec![key("a")]);
        feeds.publish((1, None), Revision(5), Vec::new());
        feeds.host(&BTreeMap::from([(1, (None, Revision(5))), (3, (None, Revision(1)))]));
        assert!(!watcher.changed().await);
        assert_eq!(feeds.get(1).unwrap().at(), Revision(5));
        assert!(feeds.get(2).is_none() && feeds.get(3).is_some());
    }

    #[tokio::test]
    async fn a_group_that_counts_anew_has_another_feed() {
        let feeds = Feeds::default();
        feeds.host(&BTreeMap::from([(1, (Some(7), Revision(4)))]));
        let (feed, watcher) = (feeds.get(1).unwrap(), feeds.get(1).unwrap().watch(vec![key("a")]));
        feeds.publish((1, Some(8)), Revision(5), Vec::new());
        feeds.publish((1, None), Revision(6), Vec::new());
        assert_eq!(feed.at(), Revision(4), "these are revisions of others");
        feeds.publish((1, Some(7)), Revision(5), Vec::new());
        feeds.host(&BTreeMap::from([(1, (Some(8), Revision(2)))]));
        assert!(!watcher.changed().await);
        feeds.publish((1, Some(8)), Revision(3), Vec::new());
        assert_eq!((feed.at(), feeds.get(1).unwrap().at()), (Revision(5), Revision(3)));
    }
}
