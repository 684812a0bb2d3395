//! The stamp below which every member has everything: what tombstones are dropped by.
//!
//! Each member p reports for each member m a stamp W(p, m): all own writes of p up to it are at m, durably, and p stamps higher
//! from then on. The least of all of them, S, is the watermark: whatever was written at or below it is everywhere, so a
//! tombstone at or below it has nothing left to hide. A member that drops up to S sets its fence G = S, and ignores from then
//! on what comes with a stamp at or below it: it can only be something old that was on its way.
//!
//! Reports count only if all of them are of the epoch that the member itself is at. With a new epoch every W falls to zero
//! until the pair has finished a whole sync that began after both were at that epoch: so nothing is dropped before what members
//! wrote that are gone now has come to all that stay.
//!
//! `tests/watermark_model.rs` checks these rules in all orders of events, and that each of them is needed.

use std::collections::{BTreeMap, BTreeSet};

use crate::version::{Hlc, InstanceId};

/// What members reported.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    epoch: u64,
    members: BTreeSet<InstanceId>,
    /// Of this epoch: by reporter, by member.
    reports: BTreeMap<InstanceId, BTreeMap<InstanceId, Hlc>>,
}

impl Watermark {
    /// Begins an epoch. What was reported of earlier ones is forgotten.
    pub(crate) fn begin(&mut self, epoch: u64, members: BTreeSet<InstanceId>) {
        *self = Self { epoch, members, reports: BTreeMap::new() };
    }

    /// Takes a report in; one of another epoch, or of no member, is not looked at. A late one is harmless: what it says stays
    /// true.
    pub(crate) fn report(&mut self, from: InstanceId, epoch: u64, rows: &[(InstanceId, Hlc)]) {
        if epoch != self.epoch || !self.members.contains(&from) {
            return;
        }
        let known = self.reports.entry(from).or_default();
        for (member, hlc) in rows.iter().filter(|(member, _)| self.members.contains(member)) {
            let row = known.entry(*member).or_default();
            *row = (*row).max(*hlc);
        }
    }

    /// The stamp up to which a member has all own writes of another, as far as that one told here.
    pub(crate) fn reached(&self, from: InstanceId, to: InstanceId) -> Hlc {
        self.reports.get(&from).and_then(|rows| rows.get(&to)).copied().unwrap_or_default()
    }

    /// The watermark as far as it is known here.
    pub(crate) fn stable(&self) -> Hlc {
        self.pairs().map(|(_, _, hlc)| hlc).min().unwrap_or_default()
    }

    /// The pairs that hold the watermark where it is: who wrote, and who has it not.
    pub(crate) fn held_by(&self) -> Vec<(InstanceId, InstanceId)> {
        let stable = self.stable();
        self.pairs().filter(|(_, _, hlc)| *hlc == stable).map(|(from, to, _)| (from, to)).collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (InstanceId, InstanceId, Hlc)> {
        self.members.iter().flat_map(|from| self.members.iter().map(|to| (*from, *to, self.reached(*from, *to))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: InstanceId = InstanceId(1);
    const B: InstanceId = InstanceId(2);

    fn of_two() -> Watermark {
        let mut watermark = Watermark::default();
        watermark.begin(3, BTreeSet::from([A, B]));
        watermark
    }

    #[test]
    fn it_is_the_least_of_all_pairs() {
        let mut watermark = of_two();
        watermark.report(A, 3, &[(A, Hlc(9)), (B, Hlc(5))]);
        assert_eq!(watermark.stable(), Hlc::ZERO, "one has not reported");
        watermark.report(B, 3, &[(A, Hlc(7)), (B, Hlc(8))]);
        assert_eq!((watermark.stable(), watermark.held_by()), (Hlc(5), vec![(A, B)]));
        watermark.report(A, 3, &[(A, Hlc(9)), (B, Hlc(4))]);
        assert_eq!(watermark.stable(), Hlc(5), "an older report that comes late says nothing new");
    }

    #[test]
    fn reports_of_other_epochs_and_of_strangers_do_not_count() {
        let mut watermark = of_two();
        watermark.report(A, 3, &[(A, Hlc(9)), (B, Hlc(9))]);
        watermark.report(B, 2, &[(A, Hlc(9)), (B, Hlc(9))]);
        watermark.report(InstanceId(7), 3, &[(A, Hlc(1))]);
        assert_eq!(watermark.stable(), Hlc::ZERO);
        watermark.report(B, 3, &[(A, Hlc(9)), (B, Hlc(9))]);
        assert_eq!(watermark.stable(), Hlc(9));
        watermark.begin(4, BTreeSet::from([A, B]));
        assert_eq!(watermark.stable(), Hlc::ZERO);
    }

    #[test]
    fn who_is_alone_has_everything() {
        let mut watermark = Watermark::default();
        assert_eq!(watermark.stable(), Hlc::ZERO, "without members nothing is known");
        watermark.begin(1, BTreeSet::from([A]));
        watermark.report(A, 1, &[(A, Hlc(6))]);
        assert_eq!(watermark.stable(), Hlc(6));
    }
}
