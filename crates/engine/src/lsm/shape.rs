//! How large the levels are.
//!
//! What is written is merged into level 1 with all that is there, and file by file with what it overlaps from there on down. A
//! merge costs as often as much as it takes from above as the level below is larger: the ratio. Few levels with large ratios cost
//! much per level, many levels cost the reader. So the ratio follows from the size of all data, such that the lowest level holds
//! most of it: what is above takes room twice.

use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree as _, Tree};

/// Runs in level 0 that are merged into level 1: so many of the largest memtables are as much as level 1 holds.
const L0_RUNS: u8 = 8;

/// With a larger ratio another level costs less.
const MAX_RATIO: f64 = 8.0;
const MIN_RATIO: f64 = 2.0;

/// From level 1 to the lowest that lsm-tree has.
const MAX_STEPS: u32 = 5;

/// What to merge next is chosen by this, as the tree is now.
pub(super) fn merging(tree: &Tree, file_bytes: u64) -> Leveled {
    let (mut level_count, mut bytes) = (0, 0);
    for level in tree.current_version().iter_levels().skip(1) {
        level_count += u32::from(!level.is_empty());
        bytes += level.size();
    }
    let ratio = ratio(bytes as f64 / (file_bytes * u64::from(L0_RUNS)) as f64, level_count);
    Leveled::default().with_table_target_size(file_bytes).with_l0_threshold(L0_RUNS).with_level_ratio_policy(vec![ratio as f32])
}

/// How much larger each level is than the one above, where all levels below level 0 together are so many times as large as
/// level 1 is to be. There are some levels already, which do not become fewer.
fn ratio(times: f64, level_count: u32) -> f64 {
    let steps = level_count.saturating_sub(1).max(1);
    let mut ratios = (steps..=MAX_STEPS).map(|steps| times.powf(1.0 / f64::from(steps)));
    ratios.find(|ratio| *ratio <= MAX_RATIO).unwrap_or(MAX_RATIO).max(MIN_RATIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_follows_from_the_data() {
        let of = |times, level_count| (ratio(times, level_count) * 10.0).round() / 10.0;
        assert_eq!((of(0.0, 0), of(0.5, 1), of(1.0, 1), of(3.0, 1), of(8.0, 2)), (2.0, 2.0, 2.0, 3.0, 8.0));
        assert_eq!((of(9.0, 2), of(40.0, 2), of(64.0, 3)), (3.0, 6.3, 8.0), "room for a third level");
        assert_eq!((of(65.0, 3), of(500.0, 4)), (4.0, 7.9), "and a fourth");
        assert_eq!((of(8.0, 3), of(3.0, 4)), (2.8, 2.0), "levels stay when data go");
        assert!(of(1e9, 6) >= MAX_RATIO, "beyond all levels");
    }
}
