//! Groups at rest: what ticks and beats need to know of them, side by side.
//!
//! A replica lies in a hundred places of memory. To look at a thousand of them at each tick, only to find that nothing is to be
//! done, costs more than everything else in the life of an idle node. So what beats need to know of a group at rest is copied
//! here, and as long as it rests, its time passes here and its beats are sent and answered from here.
//!
//! A follower rests that has a leader and nothing else to do; a leader rests whose followers have all there is, know that it is
//! committed, and answer. Whatever else comes for a group wakes it first: raft-rs is given the time that passed here, and goes
//! on. Time wakes it, too: a follower that misses beats, a leader that misses an answer to its last ones. So the group is at no
//! time without heartbeats of its own, nor without its own patience; see `beats.rs` for why.

use std::collections::BTreeMap;

use quorate_api::peer::Beat;
use quorate_log::Disk;
use raft::{INVALID_ID, StateRole};

use crate::node::Node;
use crate::replica::Replica;

/// A follower that missed so many beats is woken.
const MAX_MISSED_BEATS: usize = 2;

/// A replica at rest.
///
/// *Invariant*: all but the time is as raft-rs has it.
#[derive(Debug)]
pub(crate) struct Resting {
    replica: u64,
    term: u64,
    commit: u64,
    /// Ticks since the leader was heard, or since it beat.
    elapsed: usize,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Follower { leader: u64 },
    Leader { followers: Vec<Follower> },
}

/// A follower of a leader at rest.
#[derive(Debug)]
struct Follower {
    replica: u64,
    node: u64,
    /// Since the leader last beat.
    has_answered: bool,
}

impl Resting {
    /// Lets a tick pass. Beats, with the nodes that they are for, go to `beats`. False if the group is to be woken.
    fn tick(&mut self, group: u64, interval: usize, mut beats: impl FnMut(u64, Beat)) -> bool {
        self.elapsed += 1;
        match &mut self.role {
            Role::Follower { .. } => self.elapsed <= MAX_MISSED_BEATS * interval,
            Role::Leader { .. } if self.elapsed < interval => true,
            Role::Leader { followers } => {
                if !followers.iter().all(|follower| follower.has_answered) {
                    return false;
                }
                self.elapsed = 0;
                for follower in followers {
                    follower.has_answered = false;
                    let (to, from) = (follower.replica, self.replica);
                    beats(follower.node, Beat { group, to, from, term: self.term, commit: self.commit });
                }
                true
            }
        }
    }

    /// The answer to a leader's beat, if it is from the leader that this replica follows, and says nothing new.
    pub(crate) fn answer(&mut self, beat: &Beat) -> Option<Beat> {
        let Role::Follower { leader } = self.role else { return None };
        if (beat.to, beat.from, beat.term) != (self.replica, leader, self.term) || beat.commit > self.commit {
            return None;
        }
        self.elapsed = 0;
        Some(Beat { group: beat.group, to: leader, from: self.replica, term: self.term, commit: self.commit })
    }

    /// Takes the answer to a beat; false if it says something new.
    pub(crate) fn hear(&mut self, answer: &Beat) -> bool {
        let Role::Leader { followers } = &mut self.role else { return false };
        if (answer.to, answer.term, answer.commit) != (self.replica, self.term, self.commit) {
            return false;
        }
        let follower = followers.iter_mut().find(|follower| follower.replica == answer.from);
        follower.is_some_and(|follower| {
            follower.has_answered = true;
            true
        })
    }
}

impl<D: Disk> Node<D> {
    /// Lets a tick pass for the groups at rest; those that miss something are woken.
    pub(crate) fn let_rest(&mut self, mut beats: impl FnMut(u64, Beat)) {
        let interval = self.config.beat_ticks();
        let is_disturbed =
            |(group, resting): (&u64, &mut Resting)| (!resting.tick(*group, interval, &mut beats)).then_some(*group);
        let disturbed: Vec<u64> = self.resting.iter_mut().filter_map(is_disturbed).collect();
        disturbed.into_iter().for_each(|group| self.wake(group));
    }

    /// Lets raft-rs have a group back, before anything but beats is done with it.
    pub(crate) fn wake(&mut self, group: u64) {
        self.awake.insert(group);
        if let Some(resting) = self.resting.remove(&group)
            && let Some(replica) = self.replicas.get_mut(&group)
        {
            replica.take_back(&resting, self.config.beat_ticks());
        }
    }

    /// Wakes all groups: routes or memberships may be others now.
    pub(crate) fn wake_all(&mut self) {
        let groups: Vec<u64> = self.resting.keys().copied().collect();
        groups.into_iter().for_each(|group| self.wake(group));
    }
}

impl<D: Disk> Replica<D> {
    /// What ticks and beats need to know of it, if it can rest.
    pub(crate) fn rest(&self, routes: &BTreeMap<(u64, u64), u64>, interval: usize) -> Option<Resting> {
        if self.is_restless() || !self.is_durable() {
            return None;
        }
        let raft = self.raft();
        let role = match raft.state {
            StateRole::Follower if raft.leader_id != INVALID_ID => Role::Follower { leader: raft.leader_id },
            StateRole::Leader if self.may_beat() => Role::Leader { followers: self.followers_at_rest(routes)? },
            _ => return None,
        };
        let elapsed = raft.election_elapsed;
        let is_early = elapsed < interval || matches!(role, Role::Leader { .. });
        let elapsed = elapsed.min(interval);
        let (replica, term, commit) = (raft.id, raft.term, raft.raft_log.committed);
        is_early.then_some(Resting { replica, term, commit, elapsed, role })
    }

    /// Its followers, if each of them has everything, and was heard of.
    fn followers_at_rest(&self, routes: &BTreeMap<(u64, u64), u64>) -> Option<Vec<Follower>> {
        let raft = self.raft();
        let followers = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        let at_rest = followers.map(|(id, progress)| {
            let node = routes.get(&(self.spec.group.0, *id)).filter(|_| self.has_all(progress))?;
            Some(Follower { replica: *id, node: *node, has_answered: true })
        });
        at_rest.collect()
    }

    /// raft-rs goes on where it would be.
    fn take_back(&mut self, resting: &Resting, interval: usize) {
        let raft = &mut self.raw.raft;
        raft.election_elapsed = resting.elapsed;
        let Role::Leader { followers } = &resting.role else { return };
        let has_waited = resting.elapsed >= interval;
        for silent in followers.iter().filter(|follower| has_waited && !follower.has_answered) {
            if let Some(progress) = raft.mut_prs().get_mut(silent.replica) {
                progress.recent_active = false;
            }
        }
    }
}
