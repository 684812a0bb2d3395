//! Is there an order of the operations on one key that explains what each of them saw?
//!
//! The search is Wing and Gong's with Lowe's cache of configurations that were met before ("Testing for linearizability",
//! 2017), as in Porcupine: walk along calls and returns; take a call that is legal now, or, where an operation returned before
//! it was taken, go back and take another.

use std::collections::HashSet;

/// One operation on a key. Values are numbers that no two writes share; none is "not there".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// When the client sent it.
    pub call: u64,
    /// When the client had the answer; none if it never learned what became of it: then it may have taken effect at any time
    /// after the call, or never.
    pub end: Option<u64>,
    /// What it did.
    pub action: Action,
}

/// What an operation did, or saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set or removed the value.
    Write(Option<u64>),
    /// Saw the value.
    Saw(Option<u64>),
    /// Saw that it was not this value.
    SawOther(Option<u64>),
    /// Replaced the first value by the second.
    Swap(Option<u64>, Option<u64>),
}

impl Action {
    /// The value after it; an error if it cannot have happened on this one.
    fn on(self, value: Option<u64>) -> Result<Option<u64>, NotLegal> {
        let (is_legal, after) = match self {
            Self::Write(new) => (true, new),
            Self::Saw(seen) => (seen == value, value),
            Self::SawOther(other) => (other != value, value),
            Self::Swap(from, to) => (from == value, to),
        };
        if is_legal { Ok(after) } else { Err(NotLegal) }
    }
}

/// An operation cannot have happened on a value.
struct NotLegal;

/// What came of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none. These operations are in the way: those under way when the longest explanation ended.
    Violated(Vec<Operation>),
    /// The search was given up after `max_steps`.
    Undecided,
}

/// Searches, for at most so many steps. The key is not there at first.
pub fn check(operations: &[Operation], max_steps: u64) -> Verdict {
    let mut search = Search::new(operations);
    for _ in 0..max_steps {
        match search.step() {
            Progress::Further => {}
            Progress::Explained => return Verdict::Linearizable,
            Progress::Exhausted => return Verdict::Violated(search.blocked),
        }
    }
    Verdict::Undecided
}

enum Progress {
    Further,
    Explained,
    Exhausted,
}

/// A call or a return, in a list that it can be taken out of and put back into.
#[derive(Clone, Copy)]
struct Event {
    operation: usize,
    is_return: bool,
    previous: usize,
    next: usize,
}

/// The event before the first.
const HEAD: usize = 0;

/// *Invariants*: `taken` holds the calls that were taken, in order, each with the value before; those, and their returns, are
/// out of the list; `open` counts operations that ended and were not taken.
struct Search<'a> {
    operations: &'a [Operation],
    events: Vec<Event>,
    /// The return of each operation; [`HEAD`] if it has none.
    returns: Vec<usize>,
    at: usize,
    value: Option<u64>,
    taken: Vec<(usize, Option<u64>)>,
    is_taken: Vec<u64>,
    open: usize,
    met: HashSet<(Vec<u64>, Option<u64>)>,
    most_taken: usize,
    blocked: Vec<Operation>,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let calls = operations.iter().enumerate().map(|(position, operation)| (operation.call, false, position));
        let ended = operations.iter().enumerate().filter_map(|(position, operation)| Some((operation.end?, true, position)));
        let mut order: Vec<(u64, bool, usize)> = calls.chain(ended).collect();
        order.sort_unstable();
        let count = order.len();
        let mut events = vec![Event { operation: usize::MAX, is_return: false, previous: count, next: 1 % (count + 1) }];
        let mut returns = vec![HEAD; operations.len()];
        for (position, (_, is_return, operation)) in (1..).zip(order) {
            events.push(Event { operation, is_return, previous: position - 1, next: (position + 1) % (count + 1) });
            if is_return {
                returns[operation] = position;
            }
        }
        let open = operations.iter().filter(|operation| operation.end.is_some()).count();
        let is_taken = vec![0; operations.len().div_ceil(64)];
        let (at, met) = (events[HEAD].next, HashSet::new());
        Self {
            operations,
            events,
            returns,
            at,
            value: None,
            taken: Vec::new(),
            is_taken,
            open,
            met,
            most_taken: 0,
            blocked: Vec::new(),
        }
    }

    fn step(&mut self) -> Progress {
        if self.open == 0 {
            return Progress::Explained;
        }
        let event = self.events[self.at];
        if event.is_return {
            return self.go_back();
        }
        let next_value = self.operations[event.operation].action.on(self.value);
        match next_value {
            Ok(value) if self.is_new(event.operation, value) => self.take(self.at, value),
            _ => self.at = event.next,
        }
        Progress::Further
    }

    /// Whether this operation leads to a set of taken operations and a value that were not met before.
    fn is_new(&mut self, operation: usize, value: Option<u64>) -> bool {
        let mut is_taken = self.is_taken.clone();
        is_taken[operation / 64] |= 1 << (operation % 64);
        self.met.insert((is_taken, value))
    }

    fn take(&mut self, call: usize, value: Option<u64>) {
        let operation = self.events[call].operation;
        self.taken.push((call, self.value));
        self.value = value;
        self.is_taken[operation / 64] |= 1 << (operation % 64);
        self.unlink(call);
        if self.returns[operation] != HEAD {
            self.unlink(self.returns[operation]);
            self.open -= 1;
        }
        self.at = self.events[HEAD].next;
    }

    /// An operation returned that could not be taken: the last choice was wrong.
    fn go_back(&mut self) -> Progress {
        if self.blocked.is_empty() || self.taken.len() > self.most_taken {
            self.most_taken = self.taken.len();
            self.blocked = self.under_way();
        }
        let Some((call, value)) = self.taken.pop() else {
            return Progress::Exhausted;
        };
        let operation = self.events[call].operation;
        self.value = value;
        self.is_taken[operation / 64] &= !(1 << (operation % 64));
        if self.returns[operation] != HEAD {
            self.link(self.returns[operation]);
            self.open += 1;
        }
        self.link(call);
        self.at = self.events[call].next;
        Progress::Further
    }

    /// The calls up to the first return.
    fn under_way(&self) -> Vec<Operation> {
        let mut found = Vec::new();
        let mut at = self.events[HEAD].next;
        while at != HEAD && !self.events[at].is_return {
            found.push(self.operations[self.events[at].operation]);
            at = self.events[at].next;
        }
        found
    }

    fn unlink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = next;
        self.events[next].previous = previous;
    }

    /// Undoes [`Self::unlink`]; to be called in the reverse order.
    fn link(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = at;
        self.events[next].previous = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: u64 = 100_000;

    fn op(call: u64, end: u64, action: Action) -> Operation {
        Operation { call, end: Some(end), action }
    }

    fn unknown(call: u64, action: Action) -> Operation {
        Operation { call, end: None, action }
    }

    fn is_violated(operations: &[Operation]) -> bool {
        match check(operations, STEPS) {
            Verdict::Linearizable => false,
            Verdict::Violated(blocked) => !blocked.is_empty(),
            Verdict::Undecided => panic!("{STEPS} steps are enough for {operations:?}"),
        }
    }

    #[test]
    fn legal_histories_pass() {
        assert!(!is_violated(&[]));
        // A read beside a write may see either value.
        for seen in [None, Some(1)] {
            assert!(!is_violated(&[op(0, 10, Action::Write(Some(1))), op(5, 6, Action::Saw(seen))]));
        }
        // Two writes at once, in either order.
        for last in [1, 2] {
            let both =
                [op(0, 10, Action::Write(Some(1))), op(0, 10, Action::Write(Some(2))), op(11, 12, Action::Saw(Some(last)))];
            assert!(!is_violated(&both));
        }
        assert!(!is_violated(&[
            op(0, 1, Action::Write(Some(1))),
            op(2, 3, Action::Swap(Some(1), Some(2))),
            op(4, 5, Action::SawOther(Some(1))),
            op(6, 7, Action::Write(None)),
            op(8, 9, Action::Saw(None)),
        ]));
    }

    #[test]
    fn a_stale_read_is_found() {
        assert!(is_violated(&[
            op(0, 1, Action::Write(Some(1))),
            op(2, 3, Action::Write(Some(2))),
            op(4, 5, Action::Saw(Some(1)))
        ]));
        assert!(is_violated(&[op(0, 1, Action::Write(Some(1))), op(2, 3, Action::Saw(None))]));
        // Not even beside the write, once another read saw the new value.
        let seen_and_unseen = [op(0, 10, Action::Write(Some(1))), op(2, 3, Action::Saw(Some(1))), op(4, 5, Action::Saw(None))];
        assert!(is_violated(&seen_and_unseen));
    }

    #[test]
    fn a_lost_update_is_found() {
        let base = op(0, 1, Action::Write(Some(1)));
        assert!(is_violated(&[base, op(2, 5, Action::Swap(Some(1), Some(2))), op(3, 6, Action::Swap(Some(1), Some(3)))]));
        assert!(is_violated(&[base, op(2, 3, Action::Write(Some(2))), op(4, 5, Action::Swap(Some(1), Some(3)))]));
    }

    #[test]
    fn a_write_that_takes_effect_twice_is_found() {
        let history = [
            op(0, 1, Action::Write(Some(1))),
            op(2, 3, Action::Write(Some(2))),
            op(4, 5, Action::Saw(Some(2))),
            op(6, 7, Action::Saw(Some(1))),
        ];
        assert!(is_violated(&history));
    }

    #[test]
    fn a_phantom_is_found() {
        assert!(is_violated(&[op(0, 1, Action::Saw(Some(9)))]));
        assert!(is_violated(&[op(0, 1, Action::SawOther(None))]));
    }

    #[test]
    fn an_unknown_outcome_may_have_happened_late_or_never() {
        let maybe = unknown(0, Action::Write(Some(1)));
        assert!(!is_violated(&[maybe, op(5, 6, Action::Saw(None)), op(7, 8, Action::Saw(Some(1)))]));
        assert!(!is_violated(&[maybe, op(5, 6, Action::Saw(None))]));
        assert!(!is_violated(&[unknown(0, Action::Swap(Some(3), Some(1))), op(5, 6, Action::Saw(None))]));
        // But not before it was sent, and not to and fro.
        assert!(is_violated(&[unknown(5, Action::Write(Some(1))), op(0, 1, Action::Saw(Some(1)))]));
        assert!(is_violated(&[maybe, op(5, 6, Action::Saw(Some(1))), op(7, 8, Action::Saw(None))]));
    }

    #[test]
    fn a_search_that_takes_too_long_is_no_verdict() {
        let mut operations: Vec<Operation> = (1..=24).map(|value| op(0, 1000, Action::Write(Some(value)))).collect();
        operations.push(op(1001, 1002, Action::Saw(Some(99))));
        assert_eq!(check(&operations, 5000), Verdict::Undecided);
    }

    /// Compares with trying all orders, on small histories of all shapes.
    #[test]
    fn the_search_agrees_with_trying_all_orders() {
        let mut random = crate::random::Random::new(11);
        let mut violated = 0;
        for _ in 0..3000 {
            let operations: Vec<Operation> = (0..random.between(1, 6)).map(|_| random_operation(&mut random)).collect();
            let expected = is_explained(&operations, 0, None);
            assert_eq!(!is_violated(&operations), expected, "{operations:?}");
            violated += u32::from(!expected);
        }
        assert!((500..2500).contains(&violated), "{violated} of 3000 are violated: the histories are no good test");
    }

    fn random_operation(random: &mut crate::random::Random) -> Operation {
        let mut value = || if random.chance(250) { None } else { Some(random.between(1, 3)) };
        let (one, other) = (value(), value());
        let action = match random.below(4) {
            0 => Action::Write(one),
            1 => Action::Saw(one),
            2 => Action::SawOther(one),
            _ => Action::Swap(one, other),
        };
        let call = random.below(20);
        let end = if random.chance(800) { Some(call + random.between(1, 8)) } else { None };
        Operation { call, end, action }
    }

    fn is_explained(operations: &[Operation], taken: u32, value: Option<u64>) -> bool {
        let left = || operations.iter().enumerate().filter(|(position, _)| taken & (1 << position) == 0);
        let Some(first_end) = left().filter_map(|(_, operation)| operation.end).min() else { return true };
        left().filter(|(_, operation)| operation.call <= first_end).any(|(position, operation)| {
            operation.action.on(value).is_ok_and(|value| is_explained(operations, taken | (1 << position), value))
        })
    }
}
