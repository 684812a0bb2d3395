//! How large the levels are.
//!
//! What is written is merged into level 1 with all that is there, and file by file with what it overlaps from there on down. A
//! merge costs as often as much as it takes from above as the level below is larger: the ratio. Few levels with large ratios cost
//! much per level, many levels cost the reader. And what is above the lowest level may be there twice. So the ratios follow from
//! the size of all data.

use lsm_tree::compaction::Leveled;
use lsm_tree::{AbstractTree as _, Tree};

/// Runs in level 0 that are merged into level 1: so many of the largest memtables are as much as level 1 holds.
const L0_RUNS: u8 = 8;

/// Of level 2, while it is the lowest. With a larger ratio another level costs less.
const MAX_RATIO_OF_2: f64 = 12.0;

/// Of the lowest level, if there are more: what is above it is a quarter of it at most.
const LOWEST_RATIO: f64 = 6.0;

/// Of levels between.
const MAX_RATIO: f64 = 8.0;
const MIN_RATIO: f64 = 1.5;

/// Levels between level 1 and the lowest that lsm-tree has.
const MAX_BETWEEN: u32 = 4;

/// What to merge next is chosen by this, as the tree is now.
pub(super) fn merging(tree: &Tree, file_bytes: u64) -> Leveled {
    let (mut level_count, mut bytes) = (0, 0);
    for level in tree.current_version().iter_levels().skip(1) {
        level_count += u32::from(!level.is_empty());
        bytes += level.size();
    }
    let times = bytes as f64 / (file_bytes * u64::from(L0_RUNS)) as f64;
    let merging = Leveled::default().with_table_target_size(file_bytes).with_l0_threshold(L0_RUNS);
    merging.with_level_ratio_policy(ratios(times, level_count).into_iter().map(|ratio| ratio as f32).collect())
}

/// How much larger each level from level 2 on is than the one above, where all levels below level 0 together are so many times as
/// large as level 1 is to be. There are some levels already, which do not become fewer.
fn ratios(times: f64, level_count: u32) -> Vec<f64> {
    if level_count <= 2 && times <= MAX_RATIO_OF_2 {
        return vec![times.max(MIN_RATIO)];
    }
    let above = times / LOWEST_RATIO;
    let mut between = level_count.saturating_sub(2).max(1);
    while between < MAX_BETWEEN && above.powf(1.0 / f64::from(between)) > MAX_RATIO {
        between += 1;
    }
    let mut ratios = vec![above.powf(1.0 / f64::from(between)).clamp(MIN_RATIO, MAX_RATIO); between as usize];
    ratios.push(LOWEST_RATIO);
    ratios
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_follow_from_the_data() {
        let of = |times, level_count| {
            let ratios = ratios(times, level_count);
            ratios.iter().map(|ratio| format!("{ratio:.1}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!([of(0.0, 0), of(1.0, 1), of(5.0, 1), of(12.0, 2)], ["1.5", "1.5", "5.0", "12.0"]);
        assert_eq!([of(12.1, 2), of(40.0, 2), of(48.0, 3)], ["2.0 6.0", "6.7 6.0", "8.0 6.0"], "room for a third level");
        assert_eq!([of(49.0, 3), of(380.0, 4)], ["2.9 2.9 6.0", "8.0 8.0 6.0"], "and a fourth");
        assert_eq!([of(40.0, 4), of(3.0, 3)], ["2.6 2.6 6.0", "1.5 6.0"], "levels stay when data go");
        assert_eq!(of(1e9, 6), "8.0 8.0 8.0 8.0 6.0");
    }
}
