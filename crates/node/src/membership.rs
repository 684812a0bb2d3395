//! From the membership that a group has towards the one that its descriptor asks for, one member at a time.

use raft::prelude::ConfState;

use crate::catalog::{ReplicaRole, ShardRecord};

/// The next step of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Propose to add a replica that does not count for the quorum yet.
    AddLearner(u64),
    /// Propose to let a learner that has caught up count.
    Promote(u64),
    /// Propose to take a replica out.
    Remove(u64),
    /// Let another lead, which then takes this replica out.
    HandOver,
}

/// The next step towards `wanted`, as seen by the leading replica `leader`; none if all is done or must wait.
///
/// Those who go are taken out first: a dead member that still counts makes every later step depend on the others.
pub(crate) fn next_step(
    wanted: &ShardRecord,
    present: &ConfState,
    leader: u64,
    is_caught_up: impl Fn(u64) -> bool,
) -> Option<Step> {
    let staying = || wanted.replicas.iter().filter(|replica| replica.role != ReplicaRole::Leaving);
    let is_wanted = |id: &u64| staying().any(|replica| replica.replica == *id);
    let mut leaving: Vec<u64> = present.voters.iter().chain(&present.learners).copied().filter(|id| !is_wanted(id)).collect();
    leaving.sort_unstable();
    if let Some(id) = leaving.iter().find(|id| **id != leader) {
        return Some(Step::Remove(*id));
    }
    let missing = staying().find(|r| !present.voters.contains(&r.replica) && !present.learners.contains(&r.replica));
    if let Some(replica) = missing {
        return Some(Step::AddLearner(replica.replica));
    }
    let mut voters = staying().filter(|r| r.role == ReplicaRole::Voter);
    let ready = voters.find(|r| present.learners.contains(&r.replica) && is_caught_up(r.replica));
    if let Some(replica) = ready {
        return Some(Step::Promote(replica.replica));
    }
    leaving.contains(&leader).then_some(Step::HandOver)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::ReplicaRecord;

    fn wanted(voters: &[u64], learners: &[u64]) -> ShardRecord {
        let record = |role| move |id: &u64| ReplicaRecord::new(*id, *id, role);
        let voters = voters.iter().map(record(ReplicaRole::Voter));
        let replicas = voters.chain(learners.iter().map(record(ReplicaRole::Learner))).collect();
        ShardRecord { group: 1, founding: vec![], begun_with: None, members_epoch: 0, replicas }
    }

    fn present(voters: &[u64], learners: &[u64]) -> ConfState {
        ConfState { voters: voters.to_vec(), learners: learners.to_vec(), ..ConfState::default() }
    }

    #[test]
    fn a_new_replica_learns_before_it_counts() {
        let wanted = wanted(&[1, 2], &[]);
        assert_eq!(next_step(&wanted, &present(&[1], &[]), 1, |_| true), Some(Step::AddLearner(2)));
        assert_eq!(next_step(&wanted, &present(&[1], &[2]), 1, |_| false), None);
        assert_eq!(next_step(&wanted, &present(&[1], &[2]), 1, |_| true), Some(Step::Promote(2)));
        assert_eq!(next_step(&wanted, &present(&[1, 2], &[]), 1, |_| true), None);
    }

    #[test]
    fn a_replica_that_is_said_to_leave_is_taken_out_and_stays_out() {
        let mut wanted = wanted(&[1, 2, 3], &[]);
        wanted.replicas[2].role = ReplicaRole::Leaving;
        assert_eq!(next_step(&wanted, &present(&[1, 2, 3], &[]), 1, |_| true), Some(Step::Remove(3)));
        assert_eq!(next_step(&wanted, &present(&[1, 2], &[]), 1, |_| true), None);
        assert_eq!(next_step(&wanted, &present(&[1, 2, 3], &[]), 3, |_| true), Some(Step::HandOver));
    }

    #[test]
    fn a_dead_member_goes_before_its_successor_comes() {
        let wanted = wanted(&[1, 2, 4], &[]);
        assert_eq!(next_step(&wanted, &present(&[1, 2, 3], &[]), 1, |_| true), Some(Step::Remove(3)));
        assert_eq!(next_step(&wanted, &present(&[1, 2], &[]), 1, |_| true), Some(Step::AddLearner(4)));
    }

    #[test]
    fn a_leader_that_goes_hands_over_once_all_else_is_done() {
        let wanted = wanted(&[2, 3], &[]);
        assert_eq!(next_step(&wanted, &present(&[1, 2, 3], &[]), 1, |_| true), Some(Step::HandOver));
        assert_eq!(next_step(&wanted, &present(&[1, 2, 3], &[]), 2, |_| true), Some(Step::Remove(1)));
    }

    #[test]
    fn learners_that_shall_stay_learners_are_not_promoted() {
        assert_eq!(next_step(&wanted(&[1], &[2]), &present(&[1], &[2]), 1, |_| true), None);
    }

    /// Carries out a step; returns who leads then.
    fn take(step: Step, wanted: &ShardRecord, present: &mut ConfState, leader: u64) -> u64 {
        match step {
            Step::AddLearner(id) => present.learners.push(id),
            Step::Promote(id) => {
                present.learners.retain(|learner| *learner != id);
                present.voters.push(id);
            }
            Step::Remove(id) => {
                assert_ne!(id, leader, "a leader does not take itself out");
                present.voters.retain(|voter| *voter != id);
                present.learners.retain(|learner| *learner != id);
            }
            Step::HandOver => {
                let is_successor = |id: &&u64| wanted.replicas.iter().any(|r| r.replica == **id && r.role == ReplicaRole::Voter);
                return *present.voters.iter().find(is_successor).expect("somebody can take over");
            }
        }
        leader
    }

    proptest! {
        #[test]
        fn any_membership_comes_to_what_is_wanted(
            roles in prop::collection::vec(0..4_u8, 8),
            voting in prop::collection::vec(0..3_u8, 8),
            first in 0..8_u64,
            leader: prop::sample::Index,
        ) {
            let ids = |values: &[u8], value| (0..8_u64).filter(|id| values[*id as usize] == value).collect::<Vec<_>>();
            let mut wanted = wanted(&ids(&roles, 0), &ids(&roles, 1));
            wanted.replicas.retain(|replica| replica.replica != first);
            wanted.replicas.push(ReplicaRecord::new(first, first, ReplicaRole::Voter));
            let leaving = ids(&roles, 2).into_iter().filter(|id| *id != first);
            wanted.replicas.extend(leaving.map(|id| ReplicaRecord::new(id, id, ReplicaRole::Leaving)));
            let shall_vote = |id: &u64| wanted.replicas.iter().any(|r| r.replica == *id && r.role == ReplicaRole::Voter);
            let shall_learn = |id: &u64| wanted.replicas.iter().any(|r| r.replica == *id && r.role == ReplicaRole::Learner);

            // A voter never becomes a learner again, and the catalog never asks for it.
            let mut present = present(&ids(&voting, 0), &ids(&voting, 1));
            present.voters.retain(|id| !shall_learn(id));
            prop_assume!(!present.voters.is_empty());
            let mut leader = present.voters[leader.index(present.voters.len())];
            let mut steps = 0;
            while let Some(step) = next_step(&wanted, &present, leader, |_| true) {
                leader = take(step, &wanted, &mut present, leader);
                steps += 1;
                prop_assert!(steps <= 40 && present.voters.contains(&leader));
            }
            present.voters.sort_unstable();
            present.learners.sort_unstable();
            prop_assert_eq!(present.voters, (0..8).filter(shall_vote).collect::<Vec<_>>());
            prop_assert_eq!(present.learners, (0..8).filter(shall_learn).collect::<Vec<_>>());
        }
    }
}
