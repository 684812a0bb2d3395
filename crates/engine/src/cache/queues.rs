//! Which pair goes when there is no room: W-TinyLFU.
//!
//! A new pair waits in the *window*. From there it goes on *probation*, where it takes the place of the pair that was unused
//! for longest if it was used more often, by the count of a sketch that remembers keys that are not kept too. Who is used while
//! on probation is *protected*, until others that were need the place.
//!
//! After Einziger, Friedman and Manes, "`TinyLFU`: A Highly Efficient Cache Admission Policy" (2017), and Caffeine, with one
//! change: a newcomer must beat a pair of some standing by two, not by one. Its own count is of this round already, that of the
//! pair it would replace is not; in a loop that is a little longer than there is room for, each would replace the next just
//! before it is used again.

use std::collections::VecDeque;

use super::sketch::Sketch;
use crate::key_hash::KeyHash;

/// Up to this count, a pair has no standing: a newcomer beats it by one.
const MAX_LOW_COUNT: u64 = 3;

/// Protected pairs have at most this share of what is not in the window.
const PROTECTED_PERCENT: u64 = 80;

/// A pair's place in the queues. Others may have it after the pair is gone.
pub(super) type Id = u32;

/// The queues, by the place of their head in the list of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Queue {
    Window = 0,
    Probation = 1,
    Protected = 2,
    /// In no queue: free to be used again.
    None = 3,
}

const QUEUES: [Queue; 3] = [Queue::Window, Queue::Probation, Queue::Protected];

/// The pairs of a cache in the order in which they go. Knows their hashes and weights, not what they are.
///
/// Invariants: the weights of all pairs together are at most `max_weight` of the bound, and there are at most `max_len`,
/// whenever a call returns; each list leads from its head through all pairs of that queue, those unused for longest first.
pub(super) struct Queues {
    /// What is kept to: the one that was set, or as much as there was when it was set, until `shrink` is through with that.
    bound: Bound,
    set: Bound,
    window_percent: u64,
    /// The first three are heads, not pairs.
    nodes: Vec<Node>,
    free: Vec<Id>,
    weights: [u64; QUEUES.len()],
    len: usize,
    /// How many pairs there will be when those of other parts have come.
    expected_len: usize,
    sketch: Sketch,
    /// Those that left the window in this call; kept for its buffer.
    candidates: VecDeque<Id>,
}

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) max_weight: u64,
    pub(super) max_len: usize,
}

impl Bound {
    /// Of so many equal parts each.
    pub(super) fn shared_by(self, count: u64) -> Self {
        Self { max_weight: self.max_weight / count, max_len: self.max_len / count as usize }
    }
}

struct Node {
    hash: KeyHash,
    weight: u32,
    previous: Id,
    next: Id,
    queue: Queue,
}

/// Why a pair is no longer there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It made room for another.
    Evicted,
    /// It was new, and not used often enough for the place of another.
    Rejected,
}

impl Queues {
    pub(super) fn new(bound: Bound, window_percent: u64) -> Self {
        let head = |at| Node { hash: KeyHash(0), weight: 0, previous: at, next: at, queue: Queue::None };
        Self {
            bound,
            set: bound,
            window_percent,
            nodes: (0..QUEUES.len() as Id).map(head).collect(),
            free: Vec::new(),
            weights: [0; QUEUES.len()],
            len: 0,
            expected_len: 0,
            sketch: Sketch::new(),
            candidates: VecDeque::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn weight(&self) -> u64 {
        self.weights.iter().sum()
    }

    pub(super) fn hash(&self, id: Id) -> KeyHash {
        self.nodes[id as usize].hash
    }

    pub(super) fn weight_of(&self, id: Id) -> u32 {
        self.nodes[id as usize].weight
    }

    /// How much of what is kept may be in the window. Pairs move as new ones come.
    pub(super) fn set_window_percent(&mut self, percent: u64) {
        self.window_percent = percent;
    }

    /// Sets how much there may be. If that is less than there is, nothing is added to it, and `shrink` takes the rest away.
    pub(super) fn set_bound(&mut self, bound: Bound) {
        self.set = bound;
        self.tighten();
    }

    /// Takes away pairs that there is no room for any more, `max_count` at most, and none after those that weigh `max_weight`.
    /// Whether that was all.
    pub(super) fn shrink(&mut self, max_count: usize, max_weight: u64, mut lose: impl FnMut(Id, Loss)) -> bool {
        let before = self.weight();
        for _ in 0..max_count {
            let fits = self.len <= self.set.max_len && self.weight() <= self.set.max_weight;
            if fits || before - self.weight() >= max_weight {
                break;
            }
            let victim = self.victim();
            self.remove(victim);
            lose(victim, Loss::Evicted);
        }
        self.tighten();
        self.bound == self.set
    }

    fn tighten(&mut self) {
        let Bound { max_weight, max_len } = self.set;
        self.bound = Bound { max_weight: max_weight.max(self.weight()), max_len: max_len.max(self.len) };
    }

    /// The pair that goes last, with its queue.
    pub(super) fn most_wanted(&self) -> Option<(Id, Queue)> {
        [Queue::Protected, Queue::Window, Queue::Probation].into_iter().find_map(|queue| {
            let last = self.nodes[queue as usize].previous;
            (last != queue as Id).then_some((last, queue))
        })
    }

    /// Takes out the pair that goes next, if there is any.
    pub(super) fn evict(&mut self) -> Option<Id> {
        let victim = (self.len > 0).then(|| self.victim())?;
        self.remove(victim);
        Some(victim)
    }

    pub(super) fn queue_of(&self, id: Id) -> Queue {
        self.nodes[id as usize].queue
    }

    /// How often a pair was used of late.
    pub(super) fn uses(&self, id: Id) -> u64 {
        self.sketch.count(self.hash(id))
    }

    /// Lets it know that there will soon be so many pairs: what is counted of uses is for so many.
    pub(super) fn expect(&mut self, count: usize) {
        self.expected_len = count;
    }

    /// Takes memory for so many pairs.
    pub(super) fn reserve(&mut self, count: usize) {
        self.nodes.reserve(count.saturating_sub(self.len));
        self.sketch.fit(count);
    }

    /// For how many pairs there is memory.
    pub(super) fn places(&self) -> usize {
        self.nodes.capacity().max(self.free.capacity()).max(self.sketch.places())
    }

    /// Adds a pair that there is room for to a queue, as the one that goes first from there, and as one that was used so often.
    pub(super) fn adopt(&mut self, hash: KeyHash, weight: u32, queue: Queue, uses: u64) -> Id {
        self.sketch.fit(self.len);
        (0..uses).for_each(|_| self.sketch.add(hash, self.len.max(self.expected_len)));
        let id = self.node(hash, weight);
        self.link_before(id, self.nodes[queue as usize].next, queue);
        id
    }

    /// Counts a use of a pair.
    pub(super) fn touch(&mut self, id: Id) {
        self.sketch.add(self.hash(id), self.len.max(self.expected_len));
        let queue = self.unlink(id);
        if queue == Queue::Window {
            return self.link(id, Queue::Window);
        }
        self.link(id, Queue::Protected);
        let max_protected = (self.weight() - self.weight_in(Queue::Window)) * PROTECTED_PERCENT / 100;
        while self.weight_in(Queue::Protected) > max_protected
            && let Some(oldest) = self.first(Queue::Protected)
        {
            self.unlink(oldest);
            self.link(oldest, Queue::Probation);
        }
    }

    /// Adds a pair that weighs no more than the bound, and says to `lose` which pairs go; the new one may be among them.
    pub(super) fn insert(&mut self, hash: KeyHash, weight: u32, lose: impl FnMut(Id, Loss)) -> Id {
        self.sketch.fit(self.len);
        self.sketch.add(hash, self.len.max(self.expected_len));
        let id = self.node(hash, weight);
        self.link(id, Queue::Window);
        self.settle(lose);
        id
    }

    /// A node for one more pair, in no queue yet.
    fn node(&mut self, hash: KeyHash, weight: u32) -> Id {
        let node = Node { hash, weight, previous: 0, next: 0, queue: Queue::None };
        self.len += 1;
        let Some(id) = self.free.pop() else {
            self.nodes.push(node);
            return self.nodes.len() as Id - 1;
        };
        self.nodes[id as usize] = node;
        id
    }

    /// Gives a pair another weight, no more than the bound.
    pub(super) fn reweigh(&mut self, id: Id, weight: u32, lose: impl FnMut(Id, Loss)) {
        let queue = self.nodes[id as usize].queue;
        self.weights[queue as usize] += u64::from(weight);
        self.weights[queue as usize] -= u64::from(self.weight_of(id));
        self.nodes[id as usize].weight = weight;
        self.settle(lose);
    }

    /// Takes a pair out.
    pub(super) fn remove(&mut self, id: Id) {
        self.unlink(id);
        self.free.push(id);
        self.len -= 1;
    }

    /// The pairs that were not used for longest: the first of each queue.
    pub(super) fn oldest(&self) -> [Option<Id>; QUEUES.len()] {
        QUEUES.map(|queue| self.first(queue))
    }

    /// Whether a pair of this weight can be kept at all.
    pub(super) fn accepts(&self, weight: u32) -> bool {
        u64::from(weight) <= self.set.max_weight
    }

    pub(super) fn present_bound(&self) -> Bound {
        self.set
    }

    /// Whether another pair of this weight fits without the loss of one.
    pub(super) fn has_room(&self, weight: u64) -> bool {
        self.len < self.bound.max_len && self.weight() + weight <= self.bound.max_weight
    }

    /// Moves what is too much for the window on, and lets pairs go until the bound is kept. The newest pair stays in the window,
    /// so that what was just put can be got at least until the next one comes.
    fn settle(&mut self, mut lose: impl FnMut(Id, Loss)) {
        let max_window = self.weight() * self.window_percent / 100;
        self.candidates.clear();
        while self.weight_in(Queue::Window) > max_window
            && let Some(oldest) = self.first(Queue::Window)
            && oldest != self.nodes[Queue::Window as usize].previous
        {
            self.unlink(oldest);
            self.link(oldest, Queue::Probation);
            self.candidates.push_back(oldest);
        }
        while self.len > self.bound.max_len || self.weight() > self.bound.max_weight {
            let victim = self.victim();
            let (loser, loss) = match self.next_candidate() {
                Some(candidate) if candidate != victim && !self.is_preferred(candidate, victim) => (candidate, Loss::Rejected),
                _ => (victim, Loss::Evicted),
            };
            self.remove(loser);
            lose(loser, loss);
        }
    }

    /// The pair that goes next; there is one at least.
    fn victim(&self) -> Id {
        let victim = [Queue::Probation, Queue::Protected, Queue::Window].into_iter().find_map(|queue| self.first(queue));
        victim.expect("what weighs something is in a queue")
    }

    /// The first candidate that was not a victim meanwhile.
    fn next_candidate(&mut self) -> Option<Id> {
        while let Some(candidate) = self.candidates.pop_front() {
            if self.nodes[candidate as usize].queue == Queue::Probation {
                return Some(candidate);
            }
        }
        None
    }

    /// Whether the candidate was used often enough to take the victim's place.
    fn is_preferred(&self, candidate: Id, victim: Id) -> bool {
        let victim_count = self.sketch.count(self.hash(victim));
        let margin = u64::from(victim_count > MAX_LOW_COUNT);
        self.sketch.count(self.hash(candidate)) > victim_count + margin
    }

    fn weight_in(&self, queue: Queue) -> u64 {
        self.weights[queue as usize]
    }

    fn first(&self, queue: Queue) -> Option<Id> {
        let first = self.nodes[queue as usize].next;
        (first != queue as Id).then_some(first)
    }

    /// Puts a pair at the end of a queue.
    fn link(&mut self, id: Id, queue: Queue) {
        self.link_before(id, queue as Id, queue);
    }

    /// Puts a pair before another of a queue, or before its head: at the end.
    fn link_before(&mut self, id: Id, next: Id, queue: Queue) {
        let previous = std::mem::replace(&mut self.nodes[next as usize].previous, id);
        self.nodes[previous as usize].next = id;
        let node = &mut self.nodes[id as usize];
        (node.previous, node.next, node.queue) = (previous, next, queue);
        self.weights[queue as usize] += u64::from(node.weight);
    }

    /// Takes a pair out of its queue, which is returned.
    fn unlink(&mut self, id: Id) -> Queue {
        let node = &mut self.nodes[id as usize];
        let (previous, next, weight) = (node.previous, node.next, node.weight);
        let queue = std::mem::replace(&mut node.queue, Queue::None);
        self.nodes[previous as usize].next = next;
        self.nodes[next as usize].previous = previous;
        self.weights[queue as usize] -= u64::from(weight);
        queue
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Range;

    use super::*;
    use crate::key_hash::KeyHasher;

    /// A cache of numbers.
    struct Numbers {
        queues: Queues,
        ids: BTreeMap<u64, Id>,
    }

    impl Numbers {
        fn new(max_weight: u64, max_len: usize, window_percent: u64) -> Self {
            Self { queues: Queues::new(Bound { max_weight, max_len }, window_percent), ids: BTreeMap::new() }
        }

        /// Uses a number, or adds it; whether it was there.
        fn request(&mut self, number: u64, weight: u32) -> bool {
            if let Some(id) = self.ids.get(&number) {
                self.queues.touch(*id);
                return true;
            }
            let mut lost = Vec::new();
            let hash = KeyHasher::new(1).hash(&number.to_be_bytes());
            let id = self.queues.insert(hash, weight, |id, _| lost.push(id));
            self.ids.insert(number, id);
            self.ids.retain(|_, id| !lost.contains(id));
            self.check();
            false
        }

        fn request_all(&mut self, numbers: Range<u64>) {
            for number in numbers {
                self.request(number, 1);
            }
        }

        /// Every list is whole both ways, and the sums are those of the pairs.
        fn check(&self) {
            let queues = &self.queues;
            let mut len = 0;
            for queue in QUEUES {
                let (mut at, mut weight) = (queue as Id, 0);
                loop {
                    let node = &queues.nodes[at as usize];
                    assert_eq!(queues.nodes[node.next as usize].previous, at);
                    at = node.next;
                    if at == queue as Id {
                        break;
                    }
                    assert_eq!(queues.nodes[at as usize].queue, queue);
                    weight += u64::from(queues.weight_of(at));
                    len += 1;
                }
                assert_eq!(weight, queues.weight_in(queue));
            }
            assert_eq!((len, len), (queues.len(), self.ids.len()));
            assert!(queues.weight() <= queues.bound.max_weight && queues.len() <= queues.bound.max_len);
        }
    }

    #[test]
    fn keeps_to_both_bounds() {
        let mut numbers = Numbers::new(1_000, 50, 10);
        for at in 0..5_000_u64 {
            numbers.request(at * at % 97, (1 + at * 7 % 300) as u32);
        }
        assert!(numbers.queues.len() > 1);
    }

    #[test]
    fn what_was_just_put_is_there() {
        let mut numbers = Numbers::new(100, 100, 1);
        for number in 0..1_000 {
            numbers.request(number, 1);
            assert!(numbers.ids.contains_key(&number));
        }
    }

    #[test]
    fn a_scan_does_not_sweep_out_what_is_in_use() {
        let mut numbers = Numbers::new(100, 100, 1);
        (0..10).for_each(|_| numbers.request_all(0..50));
        (1_000..3_000).for_each(|number| assert!(!numbers.request(number, 1)));
        let kept = (0..50).filter(|number| numbers.ids.contains_key(number)).count();
        assert!(kept >= 45, "{kept} of 50 are left");
    }

    #[test]
    fn most_of_a_loop_longer_than_the_cache_stays() {
        let mut numbers = Numbers::new(100, 100, 1);
        let mut hits = 0;
        for round in 0..100 {
            let found = (0..120).filter(|number| numbers.request(*number, 1)).count();
            hits += if round >= 50 { found } else { 0 };
        }
        assert!(hits >= 50 * 120 * 80 / 100, "{hits} hits of {}", 50 * 120);
    }

    #[test]
    fn a_wide_window_keeps_what_is_new() {
        let mut numbers = Numbers::new(100, 100, 90);
        (0..20).for_each(|_| numbers.request_all(0..100));
        numbers.request_all(1_000..1_100);
        assert!((1_015..1_100).all(|number| numbers.ids.contains_key(&number)));
    }

    #[test]
    fn a_pair_that_grows_makes_others_go() {
        let mut numbers = Numbers::new(100, 100, 10);
        numbers.request_all(0..100);
        let id = numbers.ids[&99];
        let mut lost = Vec::new();
        numbers.queues.reweigh(id, 60, |id, _| lost.push(id));
        numbers.ids.retain(|_, id| !lost.contains(id));
        numbers.check();
        assert_eq!(lost.len(), 59);
        assert!(numbers.ids.contains_key(&99));
    }
}
