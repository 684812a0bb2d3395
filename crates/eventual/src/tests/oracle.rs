//! What must hold, whatever happens: the oracle knows all that was ever written, and looks at every replica after every step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::io::{Answer, MemberState};
use crate::replica::Replica;
use crate::{Body, Hlc, InstanceId, Version};

/// A write that was attempted.
#[derive(Debug)]
struct Attempt {
    key: Bytes,
    instance: InstanceId,
    /// What its co-ordinator had for the key when it came.
    before: Option<Version>,
    /// Whether nothing is left of it in the end: it is a delete, or a value that ends.
    ends: bool,
}

/// A write that was acknowledged.
#[derive(Debug)]
struct Acked {
    key: Bytes,
    version: Version,
    /// Every holder lost what it had: the mode promises no more.
    is_lost: bool,
}

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Oracle {
    attempts: BTreeMap<u64, Attempt>,
    bodies: BTreeMap<Bytes, Vec<Body>>,
    acked: Vec<Acked>,
    /// By version, the write that has it.
    versions: BTreeMap<(Bytes, Version), u64>,
    /// By instance, the greatest stamp that it acknowledged, and the token of that write.
    stamps: BTreeMap<InstanceId, (u64, Hlc)>,
    /// The greatest version that an instance ever showed of a key, and when that was or will be dead.
    shown: BTreeMap<(InstanceId, Bytes), (Version, u64)>,
    /// To whom each version came.
    came_to: BTreeMap<(Bytes, Version), BTreeSet<InstanceId>>,
    /// For each read under way: the key, the greatest version that somebody showed when it began, how many others there
    /// were, and how many had gone.
    reads: BTreeMap<u64, (Bytes, Option<Version>, u32, usize)>,
    /// Instances that are gone, with all that they had.
    gone: BTreeSet<InstanceId>,
    /// Versions that were dead somewhere.
    dead: BTreeSet<(Bytes, Version)>,
    /// The greatest fence that there ever was.
    fence: Hlc,
    max_outbox_bytes: u64,
    looks: u64,
}

/// What readers of a replica see of a key: what is durable.
fn seen(replica: &Replica, key: &Bytes) -> Option<crate::Entry> {
    replica.get_durable(key)
}

/// Whether a replica has this write, or a later one, or knows that everybody had.
fn covers(replica: &Replica, key: &Bytes, version: Version) -> bool {
    seen(replica, key).is_some_and(|entry| entry.version >= version) || replica.fence_for_tests() >= version.hlc
}

impl Oracle {
    pub(super) fn limit_outbox(&mut self, max_bytes: u64) {
        self.max_outbox_bytes = max_bytes;
    }

    pub(super) fn on_write(&mut self, token: u64, key: &Bytes, (body, ttl_ms): (&Body, Option<u64>), at: &Replica) {
        let before = at.get(key).expect("readable").map(|entry| entry.version);
        let instance = at.status().instance;
        let ends = *body == Body::Tombstone || ttl_ms.is_some();
        self.attempts.insert(token, Attempt { key: key.clone(), instance, before, ends });
        self.bodies.entry(key.clone()).or_default().push(body.clone());
    }

    pub(super) fn on_read(&mut self, token: u64, key: &Bytes, at: &Replica, replicas: &[&Replica]) {
        let up = replicas.iter().filter(|replica| replica.is_up());
        let ids: BTreeSet<InstanceId> = up.clone().map(|replica| replica.status().instance).collect();
        let states = at.members().states.iter();
        let known = states.filter(|(_, state)| **state == MemberState::Up).map(|(id, _)| *id).collect();
        // Whoever does not know who is there cannot ask all.
        let others = if ids == known { (ids.len() as u32).saturating_sub(1) } else { u32::MAX };
        let greatest = up.filter_map(|replica| seen(replica, key)).map(|entry| entry.version).max();
        self.reads.insert(token, (key.clone(), greatest, others, self.gone.len()));
    }

    pub(super) fn on_answer(&mut self, token: u64, answer: &Answer, at: &Replica) {
        match answer {
            Answer::Written { version, replicated, .. } => {
                let attempt = self.attempts.get(&token).expect("only what was asked is answered");
                assert_eq!(attempt.instance, version.instance);
                // P9: whoever had seen a version stamps higher; stamps increase; and are nobody else's.
                assert!(attempt.before.is_none_or(|before| *version > before), "P9: {version} is not above {:?}", attempt.before);
                let last = self.stamps.entry(version.instance).or_default();
                if last.0 < token {
                    assert!(last.1 < version.hlc, "P9: stamps of {:?} do not increase", version.instance);
                    *last = (token, version.hlc);
                }
                let first = self.versions.insert((attempt.key.clone(), *version), token);
                assert_eq!(first, None, "P1: two writes have the version {version}");
                assert!(covers(at, &attempt.key, *version), "an acknowledged write is not where it was acknowledged");
                // P3: who is said to have it has it, or had it when it went. A delete that everybody had may have gone
                // already, before somebody came who now lacks nothing.
                let has_it = |((holder, key), (shown, _)): &(&(InstanceId, Bytes), &(Version, u64))| {
                    *holder != version.instance && *key == attempt.key && *shown >= *version
                };
                let others = self.shown.iter().filter(has_it).count();
                let is_over = seen(at, &attempt.key).is_none() && at.fence_for_tests() >= version.hlc;
                assert!(
                    is_over || *replicated as usize <= others,
                    "P3: {version} is said to be at {replicated} others, and is at {others}"
                );
                // It may come and go before anybody sees it.
                if attempt.ends {
                    self.dead.insert((attempt.key.clone(), *version));
                }
                self.acked.push(Acked { key: attempt.key.clone(), version: *version, is_lost: false });
            }
            Answer::Found { entry, answered, .. } => {
                let (key, greatest, others, gone) = self.reads.remove(&token).expect("only what was asked is answered");
                // Who has gone since cannot be asked, and its place may have been taken by another that answers.
                if *answered < others || gone < self.gone.len() {
                    return;
                }
                // P7: nobody who answered has anything later, and what was found is here.
                if let Some(greatest) = greatest {
                    assert!(covers(at, &key, greatest), "P7: a read of all missed {greatest}");
                }
                if let Some(entry) = entry {
                    assert!(greatest.is_none_or(|greatest| entry.version >= greatest), "P7: an older value was returned");
                }
            }
            _ => {}
        }
    }

    /// The greatest fence that there ever was.
    pub(super) fn fence(&self) -> Hlc {
        self.fence
    }

    /// Whether a version came to somebody who is there, and up.
    pub(super) fn is_held(&self, key: &Bytes, version: Version, is_up: impl Fn(&InstanceId) -> bool) -> bool {
        let came_to = self.came_to.get(&(key.clone(), version)).into_iter().flatten();
        came_to.into_iter().any(|holder| !self.gone.contains(holder) && is_up(holder))
    }

    /// An instance went, and with it what only it had.
    pub(super) fn on_gone(&mut self, instance: InstanceId) {
        self.gone.insert(instance);
        for acked in self.acked.iter_mut().filter(|acked| !acked.is_lost) {
            let holds = |((holder, key), (version, _)): (&(InstanceId, Bytes), &(Version, u64))| {
                *key == acked.key && *version >= acked.version && !self.gone.contains(holder)
            };
            acked.is_lost = !self.shown.iter().any(holds);
        }
    }

    /// Looks at a replica after a step.
    pub(super) fn look(&mut self, replica: &Replica, running: &[&Replica], wall_ms: u64) {
        self.looks += 1;
        if self.looks.is_multiple_of(8) {
            replica.check();
        }
        let status = replica.status();
        assert!(self.max_outbox_bytes == 0 || status.outbox_bytes <= self.max_outbox_bytes, "P8: {} bytes", status.outbox_bytes);
        for (key, bodies) in &self.bodies {
            let shown = seen(replica, key);
            let before = self.shown.get(&(status.instance, key.clone())).copied();
            match (&shown, before) {
                (Some(entry), before) => {
                    // P4, P5: never anything older than what was there.
                    let is_older = before.is_some_and(|(before, _)| entry.version < before);
                    assert!(!is_older, "P5: {:?} showed {before:?} of {key:?}, and now {}", status.instance, entry.version);
                    let is_known = !matches!(entry.body, Body::Value { .. }) || bodies.contains(&entry.body);
                    assert!(is_known, "P3: nobody wrote {:?}", entry.body);
                    assert!(entry.deadline_ms == 0 || entry.deadline_ms > wall_ms || !entry.is_live(wall_ms), "ends are kept");
                    let dead_ms = match (entry.is_dead(), entry.deadline_ms) {
                        (true, _) => 0,
                        (false, 0) => u64::MAX,
                        (false, deadline_ms) => deadline_ms,
                    };
                    // A clock that goes back makes nothing live again that was over.
                    let was_over = before.is_some_and(|(before, dead_ms)| before == entry.version && dead_ms == 0);
                    let dead_ms = if was_over || dead_ms <= wall_ms { 0 } else { dead_ms };
                    if dead_ms <= wall_ms {
                        self.dead.insert((key.clone(), entry.version));
                    }
                    self.shown.insert((status.instance, key.clone()), (entry.version, dead_ms));
                    self.came_to.entry((key.clone(), entry.version)).or_default().insert(status.instance);
                }
                (None, Some((version, dead_ms))) => {
                    // P11: only what is dead goes, and only what everybody has.
                    // A delete that came and went before anybody could see it leaves no other trace.
                    let is_over = dead_ms <= wall_ms || bodies.contains(&Body::Tombstone);
                    assert!(is_over, "P5: {key:?} vanished from {:?}", status.instance);
                    assert!(version.hlc <= status.fence, "P11: a tombstone went before its time");
                    self.dead.insert((key.clone(), version));
                    self.shown.insert((status.instance, key.clone()), (version, 0));
                }
                (None, None) => {}
            }
        }
        self.fence = self.fence.max(status.fence);
        self.check_fence(replica, running);
    }

    /// Whether a later delete is the last that is known of it, and everybody had that: then nothing needs to be left.
    fn is_over(&self, acked: &Acked) -> bool {
        let later = self.dead.range((acked.key.clone(), acked.version)..).take_while(|(key, _)| *key == acked.key);
        later.into_iter().any(|(_, version)| version.hlc <= self.fence)
    }

    /// P11: whatever has a stamp at or below a fence is at every member that the replica knows, or was overtaken there.
    fn check_fence(&self, replica: &Replica, running: &[&Replica]) {
        let (fence, members) = (replica.fence_for_tests(), replica.members());
        if fence == Hlc::ZERO {
            return;
        }
        for key in self.bodies.keys() {
            let shown = running.iter().filter_map(|other| seen(other, key));
            for entry in shown.filter(|entry| entry.version.hlc <= fence) {
                let version = entry.version;
                // Some may have dropped already what is dead, and one that came later need not have it: as long as it has nothing
                // that is older.
                let may_be_absent = entry.is_dead() || entry.deadline_ms != 0;
                // One that joins later has not got it yet, and is told by those who have.
                let concerned = running.iter().filter(|other| {
                    members.states.contains_key(&other.status().instance) && other.members().epoch <= members.epoch
                });
                for other in concerned {
                    let is_absent = seen(other, key).is_none();
                    // Its own fence keeps it out, too: that is no proof that it was ever there.
                    let has_later = seen(other, key).is_some_and(|entry| entry.version >= version);
                    assert!(
                        has_later || !other.is_up() || (may_be_absent && is_absent),
                        "P11: {:?} fences {version} of {key:?}, which {:?} has not got",
                        replica.status().instance,
                        other.status().instance
                    );
                }
            }
        }
    }

    /// P10: replicas that hold the same have the same digest. What is dead counts there, too: so it holds only once all have
    /// had the time to drop it.
    pub(super) fn check_digests(replicas: &[&Replica]) {
        let roots: BTreeSet<u128> = replicas.iter().map(|replica| replica.status().digest).collect();
        assert!(roots.len() <= 1, "P10: equal replicas have digests {roots:?}");
    }

    /// P2, P4: all are equal, and nothing that was deleted is back.
    pub(super) fn check_equal(&self, replicas: &[&Replica]) {
        for key in self.bodies.keys() {
            let what = |replica: &&Replica| {
                let entry = seen(replica, key).filter(|entry| !entry.is_dead());
                (replica.status().instance, entry.map(|entry| (entry.version, entry.body)))
            };
            let all: Vec<_> = replicas.iter().map(what).collect();
            assert!(all.iter().all(|(_, entry)| *entry == all[0].1), "P2: replicas differ in {key:?}: {all:?}");
        }
    }

    /// P3: nothing that was acknowledged is lost.
    pub(super) fn check_nothing_lost(&self, replicas: &[&Replica]) {
        for acked in self.acked.iter().filter(|acked| !acked.is_lost) {
            for replica in replicas {
                // That a fence keeps it out proves nothing: it may never have been there.
                let is_over =
                    seen(replica, &acked.key).map_or_else(|| self.is_over(acked), |entry| entry.version >= acked.version);
                assert!(
                    is_over,
                    "P3: {:?} lost {} of {:?}: {:?}",
                    replica.status().instance,
                    acked.version,
                    acked.key,
                    seen(replica, &acked.key)
                );
            }
        }
    }
}
