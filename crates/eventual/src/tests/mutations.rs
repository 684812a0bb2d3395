//! Bugs, planted outside of the replicas, and the proof that the oracle finds each of them. What chance hardly ever comes upon
//! (a clock that goes back, or that is not heard of) the model in `tests/watermark_model.rs` shows.

use crate::InstanceId;
use crate::message::{Message, Payload};

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    /// The disk says that it has what it has not.
    AckBeforeSync,
    /// Members report that everybody has everything.
    ReportsTooMuch,
    /// A peer confirms the place after the one that it has.
    AcksTooMuch,
    /// What a round brings is lost, and said to be done.
    PutLost,
    /// A copy that is to take the place of what is there does not, and is said to.
    CopyLost,
    /// Half of a frame is applied, and all of it confirmed.
    HalfApplied,
    /// What a member wrote that is gone is taken in as if it were there.
    GoneMemberHeard,
    /// A replica serves before it has what it should have.
    JoinerServesAtOnce,
    /// A replica that lost everything goes on as the same instance.
    InstanceUsedAgain,
    /// What a client has seen does not come along with what it asks.
    SessionForgotten,
    /// Who watches is not told of one key that a batch changed.
    ChangeUntold,
}

impl Mutation {
    /// What becomes of a message that arrives; whether it does.
    pub(super) fn apply(self, message: &mut Message, present: Option<InstanceId>) -> bool {
        match (self, &mut message.payload) {
            (Self::ReportsTooMuch, Payload::Report { rows, .. }) => {
                rows.iter_mut().for_each(|(_, hlc)| *hlc = message.clock);
            }
            (Self::AcksTooMuch, Payload::PushAck { applied, .. }) => *applied += 1,
            (Self::PutLost, Payload::Put { .. }) | (Self::CopyLost, Payload::MirrorEnd { .. }) => return false,
            (Self::HalfApplied, Payload::Push { pairs, .. }) => pairs.truncate(pairs.len() / 2),
            (Self::GoneMemberHeard, Payload::Push { .. }) => message.from = present.unwrap_or(message.from),
            _ => {}
        }
        true
    }
}

mod found {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use proptest::strategy::{Strategy, ValueTree};
    use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

    use super::Mutation;
    use crate::tests::properties::{Op, Start, apply, begin, end, op, start};

    /// Cases that a bug is looked for in.
    const MAX_CASES: u32 = 3_000;

    /// So many cases, the same at each run: what they begin with, and what happens in them.
    fn cases(count: u32) -> impl Iterator<Item = (Start, Vec<Op>)> {
        let config = Config { failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]));
        let (starts, ops) = (start(), proptest::collection::vec(op(), 20..120));
        (0..count).map(move |_| {
            let start = starts.new_tree(&mut runner).expect("a start").current();
            (start, ops.new_tree(&mut runner).expect("steps").current())
        })
    }

    /// Whether the oracle complains within so many cases, of those that `is_apt` says can show the bug.
    fn is_found(mutation: Mutation, is_apt: impl Fn(&Start) -> bool) -> bool {
        cases(MAX_CASES).filter(|(start, _)| is_apt(start)).any(|(start, ops)| {
            let run = || {
                let mut cluster = begin(&start, Some(mutation));
                ops.iter().for_each(|op| apply(&mut cluster, op));
                end(&mut cluster, None);
            };
            catch_unwind(AssertUnwindSafe(run)).is_err()
        })
    }

    /// A property that holds because nothing happens is none.
    #[test]
    fn what_can_happen_does() {
        let (mut happened, mut helped, mut told) = ([0_u64; 9], 0, [0_u64; 4]);
        for (start, ops) in cases(300) {
            let mut cluster = begin(&start, None);
            ops.iter().for_each(|op| apply(&mut cluster, op));
            end(&mut cluster, None);
            helped += cluster.sessions.helped;
            told.iter_mut().zip(cluster.watching.told).for_each(|(sum, count)| *sum += count);
            for slot in 0..cluster.slots() {
                let status = cluster.replica(slot).expect("all are back").status();
                let of = status.counts;
                let dropped = u64::from(status.fence > crate::Hlc::ZERO);
                let counts =
                    [of.superseded, of.fenced, of.pushed, of.overflows, of.pulled, of.put, of.repairs, of.checkpoints, dropped];
                happened.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        assert!(happened.iter().all(|count| *count > 5) && helped > 5, "{happened:?}, {helped}");
        assert!(told.iter().all(|count| *count > 5), "{told:?}");
    }

    fn check(mutation: Mutation, is_apt: impl Fn(&Start) -> bool) {
        assert!(is_found(mutation, is_apt), "nobody noticed {mutation:?}");
    }

    #[test]
    fn acknowledging_before_the_disk_is_found() {
        check(Mutation::AckBeforeSync, |start| start.options.is_durable);
    }

    #[test]
    fn reporting_what_is_not_there_is_found() {
        check(Mutation::ReportsTooMuch, |_| true);
    }

    #[test]
    fn confirming_what_did_not_come_is_found() {
        check(Mutation::AcksTooMuch, |start| start.options.batching().is_some());
    }

    #[test]
    fn losing_what_a_round_brings_is_found() {
        check(Mutation::PutLost, |_| true);
    }

    #[test]
    fn applying_half_of_a_frame_is_found() {
        check(Mutation::HalfApplied, |start| start.options.batching().is_some());
    }

    #[test]
    fn hearing_a_member_that_is_gone_is_found() {
        check(Mutation::GoneMemberHeard, |start| start.options.batching().is_some());
    }

    #[test]
    fn serving_before_having_everything_is_found() {
        check(Mutation::JoinerServesAtOnce, |_| true);
    }

    #[test]
    fn forgetting_what_a_client_has_seen_is_found() {
        check(Mutation::SessionForgotten, |_| true);
    }

    #[test]
    fn not_telling_of_a_change_is_found() {
        check(Mutation::ChangeUntold, |_| true);
    }

    #[test]
    fn using_an_instance_again_is_found() {
        check(Mutation::InstanceUsedAgain, |start| !start.options.is_durable);
    }
}
