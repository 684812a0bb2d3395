//! Which key a request is for.

use std::cell::Cell;

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand_distr::{Distribution as _, Zipf};

use super::args::{LoadArgs, Pick};

/// Draws key numbers for all clients of one load.
#[derive(Debug)]
pub(super) struct Keys {
    count: u64,
    order: Order,
}

#[derive(Debug)]
enum Order {
    Uniform,
    Zipf(Zipf<f64>),
    /// The next number.
    Sequential(Cell<u64>),
}

/// Exponents this close to 1 lose all their digits in the formula for others.
const NEARLY_ONE: f64 = 1e-6;

/// A prime above any count of keys: multiplied by it, ranks turn into key numbers of which no two are the same.
const SCATTER: u64 = 2_654_435_761;

impl Keys {
    pub(super) fn new(load: &LoadArgs) -> Self {
        let order = match load.pick {
            Pick::Uniform => Order::Uniform,
            Pick::Sequential => Order::Sequential(Cell::new(0)),
            Pick::Zipf => {
                let exponent = if (load.exponent - 1.0).abs() < NEARLY_ONE { 1.0 } else { load.exponent };
                Order::Zipf(Zipf::new(load.keys as f64, exponent).expect("counts and exponents are checked as they are read"))
            }
        };
        Self { count: load.keys, order }
    }

    /// A number from 0, below the count.
    pub(super) fn next(&self, random: &mut SmallRng) -> u64 {
        match &self.order {
            Order::Uniform => random.random_range(0..self.count),
            Order::Sequential(next) => {
                let number = next.get();
                next.set((number + 1) % self.count);
                number
            }
            Order::Zipf(zipf) => {
                #[expect(clippy::cast_sign_loss, reason = "ranks count from 1")]
                // rand_distr 0.6 goes beyond the last rank once in a hundred million times (its issue 54).
                let rank = (zipf.sample(random) as u64).clamp(1, self.count) - 1;
                rank * SCATTER % self.count
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::SmallRng;

    use super::{Keys, SCATTER};
    use crate::bench::args::{LoadArgs, Pick};
    use crate::bench::workload::tests::load;

    const DRAWS: u64 = 200_000;

    /// How often each key was drawn.
    fn drawn(load: &LoadArgs) -> Vec<u64> {
        let (keys, mut random) = (Keys::new(load), SmallRng::seed_from_u64(7));
        let mut counts = vec![0; load.keys as usize];
        (0..DRAWS).for_each(|_| counts[keys.next(&mut random) as usize] += 1);
        counts
    }

    /// Each rank's share as the law has it.
    fn zipf_shares(count: u64, exponent: f64) -> Vec<f64> {
        let weights: Vec<f64> = (1..=count).map(|rank| (rank as f64).powf(-exponent)).collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / sum).collect()
    }

    #[test]
    fn zipf_draws_follow_the_law() {
        for exponent in [0.0, 0.8, 0.99, 1.0, 1.000_000_1, 1.2, 3.0] {
            let load = LoadArgs { pick: Pick::Zipf, exponent, keys: 1000, ..load() };
            let counts = drawn(&load);
            for (rank, share) in zipf_shares(load.keys, exponent).into_iter().enumerate() {
                let found = counts[(rank as u64 * SCATTER % load.keys) as usize] as f64;
                let expected = share * DRAWS as f64;
                // Six standard deviations: with a fixed seed it holds for ever or not at all.
                let tolerance = 6.0 * expected.sqrt().max(1.0);
                assert!((found - expected).abs() <= tolerance, "exponent {exponent}, rank {rank}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn every_key_has_a_rank_of_its_own() {
        for count in [1, 2, 3, 10, 4096, 99_991] {
            let mut numbers: Vec<u64> = (0..count).map(|rank| rank * SCATTER % count).collect();
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..count), "{count}");
        }
        assert!((999_999_999_u64).checked_mul(SCATTER).is_some(), "the most keys that can be asked for");
    }

    #[test]
    fn uniform_draws_are_even_and_sequential_ones_go_round() {
        let counts = drawn(&LoadArgs { keys: 100, ..load() });
        assert!(counts.iter().all(|count| (1700..=2300).contains(count)), "{counts:?}");
        let keys = Keys::new(&LoadArgs { pick: Pick::Sequential, keys: 3, ..load() });
        let mut random = SmallRng::seed_from_u64(0);
        let numbers: Vec<u64> = (0..7).map(|_| keys.next(&mut random)).collect();
        assert_eq!(numbers, [0, 1, 2, 0, 1, 2, 0]);
    }
}
