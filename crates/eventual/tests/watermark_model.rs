//! The rules by which tombstones go (`src/watermark.rs`), checked in every order of events, and each of them shown to be needed.
//!
//! A model of them: three replicas, two keys, a few writes, one that joins, one that is removed, one crash. Clocks are counters
//! that only hear of each other, so any skew is possible. Messages stay under way for ever: they come late, again, or never.
//! What must hold:
//!
//! - no replica goes back to something older than it once had, whether that is still there or was dropped (resurrection);
//! - what one member has, no other member keeps out with its fence without ever having had it (divergence).
//!
//! By default the check looks some steps ahead, which takes seconds; `QUORATE_EVENTUAL_MODEL_STEPS=40` looks as far as it goes.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

const NODES: usize = 3;
const KEYS: usize = 2;
/// The replica that joins.
const JOINER: usize = 2;

/// What there is for a key: a stamp, who made it, and whether it is a tombstone. In this order they are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Entry {
    hlc: u8,
    by: u8,
    is_dead: bool,
}

type Store = [Option<Entry>; KEYS];

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Node {
    /// Which members it knows.
    epoch: u8,
    /// Whether it has what it should have.
    is_up: bool,
    clock: u8,
    fence: u8,
    store: Store,
    durable: Store,
    /// Keys and stamps of its own writes.
    own: BTreeSet<(u8, u8)>,
    /// With whom a round of this epoch has ended.
    synced: [bool; NODES],
    /// What it reported last in epochs that it has left: by member, the stamp up to which that had all own writes.
    reports: Vec<[u8; NODES]>,
    /// The greatest that it ever had durably; only for the properties.
    had: Store,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Sent {
    from: u8,
    to: u8,
    key: u8,
    entry: Entry,
    /// Of a round of this epoch; none: as it was written.
    round: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    nodes: [Node; NODES],
    sent: BTreeSet<Sent>,
    /// Members by epoch.
    members: Vec<[bool; NODES]>,
    writes: u8,
    crashes: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Write { node: usize, key: usize, is_dead: bool },
    Sync(usize),
    Arrive(Sent),
    Round { from: usize, to: usize },
    Drop(usize),
    Adopt(usize),
    ComeUp(usize),
    Join,
    Remove(usize),
    Crash(usize),
}

/// A rule that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// What comes with a stamp at or below the fence is ignored.
    Fence,
    /// With a new epoch everybody has to be compared with again.
    Resync,
    /// The one that joins counts from the moment when it is a member.
    Joiner,
    /// What a member wrote that is gone comes in rounds only.
    GoneInRoundsOnly,
    /// What is reported to be somewhere is durable there.
    DurableReports,
    /// Own writes leave once they are durable.
    DurableSends,
    /// A message brings its sender's clock along.
    HeardClocks,
    /// A crash does not set the clock back.
    Bound,
    /// A tombstone goes by the watermark, not by a timer.
    Watermark,
}

/// Who is there at the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    TwoAndOneJoins,
    Three,
}

struct Rules {
    without: Without,
    start: Start,
    max_writes: u8,
}

impl Rules {
    fn has(&self, rule: Without) -> bool {
        self.without != rule
    }

    fn accepts(&self, entry: Entry, node: &Node) -> bool {
        !self.has(Without::Fence) || entry.hlc > node.fence
    }

    fn merge(&self, node: &mut Node, key: usize, entry: Entry, is_durable: bool) {
        if !self.accepts(entry, node) {
            return;
        }
        node.clock = node.clock.max(entry.hlc);
        node.store[key] = node.store[key].max(Some(entry));
        if is_durable {
            node.durable[key] = node.durable[key].max(Some(entry));
            node.had[key] = node.had[key].max(Some(entry));
        }
    }

    /// The stamp up to which `to` has all writes of `from`, which writes nothing older any more.
    fn reached(&self, state: &State, from: usize, to: usize) -> u8 {
        let (node, other) = (&state.nodes[from], &state.nodes[to]);
        if from != to && !node.synced[to] {
            return 0;
        }
        let there = if self.has(Without::DurableReports) { &other.durable } else { &other.store };
        let is_there = |(key, hlc): &&(u8, u8)| {
            there[usize::from(*key)].is_some_and(|entry| (entry.hlc, entry.by) >= (*hlc, from as u8)) || other.fence >= *hlc
        };
        let missing = node.own.iter().filter(|write| !is_there(write)).map(|(_, hlc)| *hlc).min();
        missing.map_or(node.clock, |hlc| hlc.saturating_sub(1).min(node.clock))
    }

    fn stable(&self, state: &State, node: usize) -> u8 {
        let epoch = state.nodes[node].epoch;
        if !self.has(Without::Watermark) {
            return state.nodes[node].clock;
        }
        let members = state.known_to(node);
        let counts = |id: &usize| members[*id] && (self.has(Without::Joiner) || *id != JOINER || node == JOINER);
        let ids: Vec<usize> = (0..NODES).filter(counts).collect();
        // A report may come late, or never: then the watermark is lower, or this step comes later. So it is enough to look at
        // what each could report now, or did report last in this epoch, if it has left it.
        let row = |from: usize, to: usize| {
            let reporter = &state.nodes[from];
            match reporter.epoch.cmp(&epoch) {
                Ordering::Equal => self.reached(state, from, to),
                Ordering::Greater => reporter.reports[usize::from(epoch)][to],
                Ordering::Less => 0,
            }
        };
        ids.iter().flat_map(|from| ids.iter().map(move |to| row(*from, *to))).min().unwrap_or(0)
    }

    fn write(&self, state: &mut State, node: usize, key: usize, is_dead: bool) {
        let own = &mut state.nodes[node];
        let stored = own.store[key].map_or(0, |entry| entry.hlc);
        own.clock = own.clock.max(stored) + 1;
        own.store[key] = Some(Entry { hlc: own.clock, by: node as u8, is_dead });
        own.own.insert((key as u8, own.clock));
        state.writes += 1;
        if !self.has(Without::DurableSends) {
            state.send_own(node);
        }
    }

    fn arrive(&self, state: &mut State, sent: &Sent) -> Option<()> {
        let to = usize::from(sent.to);
        let knows = state.known_to(to)[usize::from(sent.from)] || !self.has(Without::GoneInRoundsOnly);
        let is_of_epoch = sent.round.is_none_or(|epoch| epoch == state.nodes[to].epoch);
        if !knows || !is_of_epoch || !state.can_run(to) {
            return None;
        }
        // What is confirmed only once it is durable might as well be durable when it comes.
        let is_durable = self.has(Without::DurableReports);
        self.merge(&mut state.nodes[to], usize::from(sent.key), sent.entry, is_durable);
        Some(())
    }

    /// All that is durable at both comes to both.
    fn round(&self, last: &State, state: &mut State, from: usize, to: usize) {
        let (ours, theirs) = (last.nodes[from].durable, last.nodes[to].durable);
        if self.has(Without::HeardClocks) {
            let clock = last.nodes[from].clock.max(last.nodes[to].clock);
            [from, to].into_iter().for_each(|node| state.nodes[node].clock = clock);
        }
        for key in 0..KEYS {
            ours[key].into_iter().for_each(|entry| self.merge(&mut state.nodes[to], key, entry, true));
            theirs[key].into_iter().for_each(|entry| self.merge(&mut state.nodes[from], key, entry, true));
            // What a member wrote that is gone may be under way between others, and come again.
            let is_foreign = |entry: &Entry| usize::from(entry.by) != from && !last.latest()[usize::from(entry.by)];
            if let Some(entry) = ours[key].filter(is_foreign) {
                let round = Some(last.nodes[from].epoch);
                state.sent.insert(Sent { from: from as u8, to: to as u8, key: key as u8, entry, round });
            }
        }
        state.nodes[from].synced[to] = true;
    }

    fn adopt(&self, last: &State, state: &mut State, node: usize) {
        let rows = std::array::from_fn(|to| self.reached(last, node, to));
        let epoch = state.members.len() as u8 - 1;
        let own = &mut state.nodes[node];
        own.reports.resize(usize::from(epoch), [0; NODES]);
        own.reports[usize::from(last.nodes[node].epoch)] = rows;
        own.epoch = epoch;
        if self.has(Without::Resync) {
            own.synced = [false; NODES];
        }
    }

    fn crash(&self, state: &mut State, node: usize) {
        state.crashes += 1;
        let own = &mut state.nodes[node];
        let durable = own.durable;
        own.store = durable;
        let is_kept = |key: u8, hlc| durable[usize::from(key)].is_some_and(|entry| (entry.hlc, entry.by) >= (hlc, node as u8));
        own.own.retain(|(key, hlc)| is_kept(*key, *hlc));
        own.synced = [false; NODES];
        if !self.has(Without::Bound) {
            own.clock = durable.iter().flatten().map(|entry| entry.hlc).max().unwrap_or(0);
        }
    }
}

impl Model for Rules {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut nodes: [Node; NODES] = Default::default();
        let members = match self.start {
            Start::TwoAndOneJoins => [true, true, false],
            Start::Three => [true; NODES],
        };
        for (at, node) in nodes.iter_mut().enumerate().filter(|(at, _)| members[*at]) {
            node.is_up = true;
            // They were compared when the keyspace began.
            node.synced = [true; NODES];
            node.synced[at] = false;
        }
        vec![State { nodes, sent: BTreeSet::new(), members: vec![members], writes: 0, crashes: 0 }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let latest = state.latest();
        for node in (0..NODES).filter(|node| state.can_run(*node)) {
            let own = &state.nodes[node];
            if own.is_up && state.writes < self.max_writes {
                for key in 0..KEYS {
                    // Of two keys that nobody has written to one is as good as the other.
                    if key == 0 || state.writes > 0 {
                        steps.extend([false, true].map(|is_dead| Step::Write { node, key, is_dead }));
                    }
                }
            }
            if own.store != own.durable {
                steps.push(Step::Sync(node));
            }
            for to in (0..NODES).filter(|to| *to != node && state.known_to(node)[*to]) {
                if state.nodes[to].epoch == own.epoch && state.can_run(to) {
                    steps.push(Step::Round { from: node, to });
                }
            }
            if self.stable(state, node) > own.fence {
                steps.push(Step::Drop(node));
            }
            if usize::from(own.epoch) + 1 < state.members.len() && latest[node] {
                steps.push(Step::Adopt(node));
            }
            if !own.is_up && (0..JOINER).any(|up| latest[up] && own.synced[up]) {
                steps.push(Step::ComeUp(node));
            }
            // A crash that takes nothing away matters only if it sets the clock back.
            if state.crashes == 0 && own.is_up && (own.store != own.durable || !self.has(Without::Bound)) {
                steps.push(Step::Crash(node));
            }
        }
        if !latest[JOINER] && state.nodes[JOINER] == Node::default() {
            steps.push(Step::Join);
        }
        if latest[1] && latest[0] {
            steps.push(Step::Remove(1));
        }
        steps.extend(state.sent.iter().cloned().map(Step::Arrive));
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Write { node, key, is_dead } => self.write(&mut state, node, key, is_dead),
            Step::Sync(node) => {
                let own = &mut state.nodes[node];
                own.durable = own.store;
                own.had = std::array::from_fn(|key| own.had[key].max(own.durable[key]));
                state.send_own(node);
            }
            Step::Arrive(sent) => self.arrive(&mut state, &sent)?,
            Step::Round { from, to } => self.round(last, &mut state, from, to),
            Step::Drop(node) => {
                let stable = self.stable(last, node);
                let own = &mut state.nodes[node];
                own.fence = stable;
                for slot in own.store.iter_mut().chain(&mut own.durable) {
                    *slot = slot.filter(|entry| !entry.is_dead || entry.hlc > stable);
                }
            }
            Step::Adopt(node) => self.adopt(last, &mut state, node),
            Step::ComeUp(node) => state.nodes[node].is_up = true,
            Step::Join => {
                // It begins with the epoch that it joins in.
                state.nodes[JOINER].epoch = state.members.len() as u8;
                state.begin_epoch(JOINER, true);
            }
            Step::Remove(node) => state.begin_epoch(node, false),
            Step::Crash(node) => self.crash(&mut state, node),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing comes back", |_, state: &State| {
                let latest = state.latest();
                state
                    .nodes
                    .iter()
                    .zip(latest)
                    .filter(|(_, is_member)| *is_member)
                    .all(|(node, _)| node.durable.iter().zip(&node.had).all(|(now, had)| now.is_none() || now >= had))
            }),
            Property::always("nothing is kept out that was never in", |_, state: &State| {
                let latest = state.latest();
                let members: Vec<&Node> =
                    state.nodes.iter().zip(latest).filter(|(_, is_member)| *is_member).map(|(node, _)| node).collect();
                members.iter().all(|node| {
                    members.iter().all(|other| {
                        (0..KEYS).all(|key| {
                            other.durable[key].is_none_or(|entry| entry.hlc > node.fence || node.had[key] >= Some(entry))
                        })
                    })
                })
            }),
        ]
    }
}

impl State {
    /// The members that a replica knows.
    fn known_to(&self, node: usize) -> [bool; NODES] {
        self.members[usize::from(self.nodes[node].epoch)]
    }

    /// The members that there are.
    fn latest(&self) -> [bool; NODES] {
        *self.members.last().expect("there is an epoch")
    }

    /// One that is removed and does not know it yet goes on.
    fn can_run(&self, node: usize) -> bool {
        self.latest()[node] || self.known_to(node)[node]
    }

    fn begin_epoch(&mut self, node: usize, is_member: bool) {
        let mut members = self.latest();
        members[node] = is_member;
        self.members.push(members);
    }

    /// Sends what a replica wrote and still has to all other members that it knows.
    fn send_own(&mut self, node: usize) {
        let (members, store) = (self.known_to(node), self.nodes[node].store);
        for (key, entry) in store.iter().enumerate().filter_map(|(key, entry)| Some((key, (*entry)?))) {
            for to in (0..NODES).filter(|to| *to != node && members[*to] && usize::from(entry.by) == node) {
                let (from, to, key) = (node as u8, to as u8, key as u8);
                self.sent.insert(Sent { from, to, key, entry, round: None });
            }
        }
    }
}

/// How many steps are looked ahead, or as many as `QUORATE_EVENTUAL_MODEL_STEPS` says.
fn max_steps(by_default: usize) -> usize {
    std::env::var("QUORATE_EVENTUAL_MODEL_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(by_default)
}

/// Checks all rules, in all orders of so many steps.
fn holds(start: Start, max_writes: u8, steps: usize) {
    let rules = Rules { without: Without::Nothing, start, max_writes };
    let checker =
        rules.checker().threads(2).finish_when(HasDiscoveries::Any).target_max_depth(max_steps(steps)).spawn_bfs().join();
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "a model in which hardly anything happens shows nothing");
}

#[test]
fn the_rules_hold_while_one_joins_and_one_goes() {
    holds(Start::TwoAndOneJoins, 2, 11);
}

#[test]
fn the_rules_hold_while_one_of_three_goes() {
    holds(Start::Three, 2, 12);
}

/// Checks without a rule, until something goes wrong.
fn breaks(without: Without, start: Start) {
    let rules = Rules { without, start, max_writes: 2 };
    let checker = rules.checker().threads(2).finish_when(HasDiscoveries::Any).target_max_depth(14).spawn_bfs().join();
    let found = checker.discoveries();
    assert!(!found.is_empty(), "nothing goes wrong without {without:?}, in {} states", checker.unique_state_count());
}

#[test]
fn the_fence_is_needed() {
    breaks(Without::Fence, Start::TwoAndOneJoins);
}

#[test]
fn comparing_again_in_a_new_epoch_is_needed() {
    breaks(Without::Resync, Start::Three);
}

#[test]
fn counting_the_one_that_joins_is_needed() {
    breaks(Without::Joiner, Start::TwoAndOneJoins);
}

#[test]
fn hearing_gone_members_in_rounds_only_is_needed() {
    breaks(Without::GoneInRoundsOnly, Start::Three);
}

#[test]
fn reporting_only_what_is_durable_is_needed() {
    breaks(Without::DurableReports, Start::TwoAndOneJoins);
}

#[test]
fn sending_only_what_is_durable_is_needed() {
    breaks(Without::DurableSends, Start::TwoAndOneJoins);
}

#[test]
fn hearing_clocks_is_needed() {
    breaks(Without::HeardClocks, Start::TwoAndOneJoins);
}

#[test]
fn a_clock_that_a_crash_does_not_set_back_is_needed() {
    breaks(Without::Bound, Start::TwoAndOneJoins);
}

#[test]
fn the_watermark_is_needed() {
    breaks(Without::Watermark, Start::TwoAndOneJoins);
}
