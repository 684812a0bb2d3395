//! The network between hosts: which ways are open, and how long something takes on them.

use std::collections::{BTreeMap, BTreeSet};

use crate::host::HostId;
use crate::random::Random;

/// A way from one host to another; the way back is another one.
pub(crate) type Way = (HostId, HostId);

/// A disturbance that can be lifted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DisturbanceId(u64);

/// What is wrong with some ways.
#[derive(Clone, Debug)]
struct Disturbance {
    ways: BTreeSet<Way>,
    effect: Effect,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    /// Nothing gets through.
    Blocked,
    /// Everything takes this much longer, typically.
    Slowed { typical_us: u64 },
    /// So many bytes in a millisecond.
    Narrowed { bytes_per_ms: u64 },
}

/// All ways between hosts. Disturbances add up: a way is open when none blocks it.
#[derive(Debug)]
pub(crate) struct Network {
    random: Random,
    typical_us: u64,
    disturbances: BTreeMap<DisturbanceId, Disturbance>,
    next_id: u64,
}

impl Network {
    pub(crate) fn new(random: Random, typical_us: u64) -> Self {
        Self { random, typical_us, disturbances: BTreeMap::new(), next_id: 1 }
    }

    /// Lets nothing through any more.
    pub(crate) fn block(&mut self, ways: BTreeSet<Way>) -> DisturbanceId {
        self.disturb(ways, Effect::Blocked)
    }

    /// Makes everything take longer.
    pub(crate) fn slow(&mut self, ways: BTreeSet<Way>, typical_us: u64) -> DisturbanceId {
        self.disturb(ways, Effect::Slowed { typical_us })
    }

    /// Makes large things take longer.
    pub(crate) fn narrow(&mut self, ways: BTreeSet<Way>, bytes_per_ms: u64) -> DisturbanceId {
        self.disturb(ways, Effect::Narrowed { bytes_per_ms })
    }

    /// Ends a disturbance; of no effect if it is over.
    pub(crate) fn lift(&mut self, id: DisturbanceId) {
        self.disturbances.remove(&id);
    }

    /// Ends all disturbances. A network that is far from good does not stay so either: what is served in time then says
    /// something about the cluster.
    pub(crate) fn heal(&mut self) {
        self.disturbances.clear();
        self.typical_us = self.typical_us.min(MAX_HEALED_US);
    }

    /// Whether anything gets through.
    pub(crate) fn is_open(&self, way: Way) -> bool {
        !self.on(way).any(|effect| matches!(effect, Effect::Blocked))
    }

    /// How long something takes that gets through.
    pub(crate) fn travel_us(&mut self, way: Way, bytes: usize) -> u64 {
        let mut us = self.random.skewed(self.typical_us);
        let effects: Vec<Effect> = self.on(way).collect();
        for effect in effects {
            us += match effect {
                Effect::Blocked => 0,
                Effect::Slowed { typical_us } => self.random.skewed(typical_us),
                Effect::Narrowed { bytes_per_ms } => bytes as u64 * 1000 / bytes_per_ms,
            };
        }
        us
    }

    fn on(&self, way: Way) -> impl Iterator<Item = Effect> {
        self.disturbances
            .values()
            .filter(move |disturbance| disturbance.ways.contains(&way))
            .map(|disturbance| disturbance.effect)
    }

    fn disturb(&mut self, ways: BTreeSet<Way>, effect: Effect) -> DisturbanceId {
        let id = DisturbanceId(self.next_id);
        self.next_id += 1;
        self.disturbances.insert(id, Disturbance { ways, effect });
        id
    }
}

/// What takes this long on a healed network takes at most 32 times as long.
const MAX_HEALED_US: u64 = 5_000;

/// Both ways between every host of the one set and every host of the other.
pub(crate) fn between(one: &[HostId], other: &[HostId]) -> BTreeSet<Way> {
    one.iter().flat_map(|a| other.iter().flat_map(|b| [(*a, *b), (*b, *a)])).filter(|(from, to)| from != to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: HostId = HostId(0);
    const TWO: HostId = HostId(1);
    const THREE: HostId = HostId(2);

    #[test]
    fn a_way_is_open_when_nothing_blocks_it() {
        let mut network = Network::new(Random::new(1), 100);
        let both = network.block(between(&[ONE], &[TWO]));
        let back = network.block(BTreeSet::from([(TWO, ONE)]));
        assert!(!network.is_open((ONE, TWO)) && !network.is_open((TWO, ONE)) && network.is_open((ONE, THREE)));
        network.lift(both);
        assert!(network.is_open((ONE, TWO)) && !network.is_open((TWO, ONE)));
        network.lift(back);
        assert!(network.is_open((TWO, ONE)));
    }

    #[test]
    fn slow_and_narrow_ways_take_longer() {
        let mut network = Network::new(Random::new(1), 100);
        let total = |network: &mut Network| (0..200).map(|_| network.travel_us((ONE, TWO), 1000)).sum::<u64>();
        let undisturbed = total(&mut network);
        network.slow(between(&[ONE], &[TWO]), 10_000);
        assert!(total(&mut network) > 10 * undisturbed);
        network.heal();
        network.narrow(between(&[ONE], &[TWO]), 10);
        assert!(total(&mut network) > 200 * 100_000);
    }
}
