//! Whether this node's wall clock can be trusted.
//!
//! Nobody refuses an entry for its stamp: replicas would not become equal. So a clock that is off is stopped where it stamps.

use crate::options::SKEWED_REPORTS;

/// The judgement.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Skew {
    offset_ms: i64,
    in_a_row: u32,
}

impl Skew {
    /// Takes in how far the clocks of the peers that can be reached are from this one, once per report. With fewer than two of
    /// them nobody can say whose clock is off. One that was seen to jump is judged at once.
    pub(crate) fn look_at(&mut self, mut peers_ms: Vec<i64>, max_offset_ms: u64, has_jumped: bool) {
        if peers_ms.len() < 2 {
            *self = Self::default();
            return;
        }
        // Against the median of all, this one among them: with three nodes, two that agree stand against one.
        peers_ms.push(0);
        peers_ms.sort_unstable();
        let middle = peers_ms.len() / 2;
        let median =
            if peers_ms.len() % 2 == 1 { peers_ms[middle] } else { i64::midpoint(peers_ms[middle - 1], peers_ms[middle]) };
        self.offset_ms = median.saturating_neg();
        let is_off = self.offset_ms.unsigned_abs() > max_offset_ms;
        let more = if has_jumped { SKEWED_REPORTS } else { 1 };
        self.in_a_row = if is_off { self.in_a_row.saturating_add(more) } else { 0 };
    }

    /// Whether it looked wrong the last time.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.in_a_row > 0
    }

    /// By how much the clock is ahead, if that is too much.
    pub(crate) fn judged(&self) -> Option<i64> {
        (self.in_a_row >= SKEWED_REPORTS).then_some(self.offset_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged<const N: usize>(reports: &[[i64; N]]) -> Option<i64> {
        let mut skew = Skew::default();
        reports.iter().for_each(|peers| skew.look_at(peers.to_vec(), 500, false));
        skew.judged()
    }

    #[test]
    fn only_the_clock_that_is_off_is_judged_and_only_after_a_while() {
        let behind = [-3_600_000, -3_600_010];
        assert_eq!(judged(&[behind, behind]), None);
        assert_eq!(judged(&[behind, behind, behind]), Some(3_600_000));
        assert_eq!(judged(&[behind, behind, behind, [3, 4]]), None, "it is back");
        let one_is_off = [3_600_000, 2];
        assert_eq!(judged(&[one_is_off; 9]), None, "another one is");
        assert_eq!(judged(&[[3_600_000]; 9]), None, "of two nobody knows which");
        let mut skew = Skew::default();
        skew.look_at(behind.to_vec(), 500, true);
        assert_eq!(skew.judged(), Some(3_600_000), "it was seen to jump");
    }
}
