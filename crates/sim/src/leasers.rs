//! Clients with leases: each grants one, hangs keys on it, keeps it alive or lets it go; and puts pairs that go by themselves.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_engine::{Direction, View};
use quorate_keyspace::{
    Claim, Condition, LeaseId, Op, Outcome, Put, Revision, Standing, Write, claim_key, claims, pairs, standing,
};
use quorate_log::GroupId;
use quorate_node::{Answer, Input, LeaseQuestion, LeaseTime, Request, RequestKind};

use crate::host::HostId;
use crate::mutation::Mutation;
use crate::oracle::CLIENT_GROUP;
use crate::queue::Event;
use crate::simulation::{Asker, Simulation};
use crate::time::SimTime;
use crate::violation::{Step, Violation};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Leasers {
    all: Vec<Leaser>,
    next_id: u64,
    next_value: u64,
    /// The greatest token that a holder of the lock was seen with.
    greatest_token: Revision,
    /// What was seen of the lock, until it is told.
    seen: BTreeMap<u64, Standing>,
}

#[derive(Debug, Default)]
struct Leaser {
    /// The lease that it has, as far as it knows.
    lease: Option<(LeaseId, u64)>,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    token: u64,
    host: HostId,
    what: What,
    asked: SimTime,
    /// The greatest token that had been seen by then.
    floor: Revision,
}

/// What is asked.
#[derive(Clone, Debug)]
enum What {
    Grant(LeaseId, u64),
    KeepAlive(LeaseId, u64),
    Look(LeaseId),
    Revoke(LeaseId),
    /// A key that hangs on a lease.
    Hang(LeaseId, u64),
    /// A claim to the lock that all of them share.
    Claim(LeaseId),
    GiveUp(LeaseId),
    /// Who holds the lock, and where in the line a lease is.
    LookAtLock(Option<LeaseId>),
    /// A pair with an end: its number, that of its value, and after how long.
    PutForATime(u64, u64, u64),
}

/// Keys with an end.
const TIMED_KEYS: u64 = 3;

/// The lock.
const LOCK: &[u8] = b"lock";

impl Simulation {
    /// Lets them begin.
    pub(crate) fn start_leasers(&mut self) {
        for leaser in 0..self.random.between(1, 3) as usize {
            self.leasers.all.push(Leaser::default());
            self.schedule_leaser(leaser);
        }
    }

    fn schedule_leaser(&mut self, leaser: usize) {
        let think_us = self.random.skewed(300_000);
        self.queue.schedule(self.now.plus_us(think_us), Event::LeaserActs(leaser));
    }

    /// One begins its next request.
    pub(crate) fn on_leaser_acts(&mut self, index: usize) {
        if !self.is_faulty_phase() {
            return;
        }
        let host = HostId(self.random.below(self.hosts.len() as u64) as usize);
        let what = self.any_request(index);
        let token = self.next_token(Asker::Leaser(index));
        match &what {
            What::Revoke(id) => self.oracle.promises.on_revoke(*id),
            What::PutForATime(_, value, ttl_ms) => self.oracle.promises.on_put(timed_value(*value), self.now, *ttl_ms),
            _ => {}
        }
        self.trace.note(self.now, format_args!("l{index} asks {host} #{token}: {what:?}"));
        self.leasers.all[index].under_way =
            Some(UnderWay { token, host, what, asked: self.now, floor: self.leasers.greatest_token });
        self.ask(host, token, self.scenario.load.timeout_ms + 2500);
    }

    fn any_request(&mut self, index: usize) -> What {
        let pick = self.random.below(100);
        let ttl_ms = self.random.between(1000, 4000);
        match self.leasers.all[index].lease {
            _ if pick < 20 => {
                self.leasers.next_value += 1;
                What::PutForATime(self.random.below(TIMED_KEYS), self.leasers.next_value, ttl_ms)
            }
            lease if pick < 45 => What::LookAtLock(lease.map(|(id, _)| id)),
            Some((id, ttl_ms)) if pick < 68 => What::KeepAlive(id, ttl_ms),
            Some((id, _)) if pick < 72 => What::Hang(id, self.random.below(4)),
            Some((id, _)) if pick < 80 => What::Claim(id),
            Some((id, _)) if pick < 84 => What::GiveUp(id),
            Some((id, _)) if pick < 88 => What::Look(id),
            Some((id, _)) if pick < 93 => What::Revoke(id),
            // Whatever lease it had, nobody keeps that alive any more.
            _ => {
                self.leasers.next_id += 1;
                // In no order: who comes later is not always the last by key.
                What::Grant(LeaseId(self.leasers.next_id * 40_503 % (1 << 16)), ttl_ms + 1000)
            }
        }
    }

    /// A request reaches a process.
    pub(crate) fn on_leaser_request(&mut self, index: usize, host: HostId, token: u64) {
        let Some(under_way) = self.leasers.all[index].under_way.as_ref().filter(|under_way| under_way.token == token) else {
            return;
        };
        let what = under_way.what.clone();
        if self.hosts[host.0].process.is_none() {
            self.on_leaser_expired(index, token);
            return;
        }
        let deadline = self.deadline(host, self.scenario.load.timeout_ms);
        let question = |id: &LeaseId, keeps_alive| RequestKind::Leases(LeaseQuestion { leases: vec![*id], keeps_alive });
        let kind = match &what {
            What::KeepAlive(id, _) => question(id, true),
            What::Look(id) => question(id, false),
            What::LookAtLock(_) => RequestKind::ReadIndex,
            what => RequestKind::Write(write_of(what).to_bytes()),
        };
        let mut answered = token;
        if let (What::KeepAlive(_, ttl_ms), Some(Mutation::KeptAliveWithoutIndex)) = (&what, self.scenario.mutation)
            && self.takes_itself_for_leader(host)
        {
            let time = LeaseTime { ttl_ms: *ttl_ms, left_ms: *ttl_ms };
            self.answer_later(token, Answer::Leases(vec![Some(time)]));
            answered = self.unasked_token();
        }
        self.tell(host, Input::Request(Request { token: answered, group: GroupId(CLIENT_GROUP), deadline, kind }));
    }

    fn takes_itself_for_leader(&self, host: HostId) -> bool {
        let Some(process) = &self.hosts[host.0].process else { return false };
        process.shell.status.replicas.iter().any(|replica| replica.group.0 == CLIENT_GROUP && replica.role == "leader")
    }

    /// A client gives up waiting.
    pub(crate) fn on_leaser_expired(&mut self, index: usize, token: u64) {
        let leaser = &mut self.leasers.all[index];
        if let Some(under_way) = leaser.under_way.take_if(|under_way| under_way.token == token) {
            if matches!(under_way.what, What::Revoke(_)) {
                leaser.lease = None;
            }
            self.askers.remove(&token);
            self.schedule_leaser(index);
        }
    }

    /// A client has its answer.
    pub(crate) fn on_leaser_answer(&mut self, index: usize, token: u64, answer: &Answer) -> Step {
        let leaser = &mut self.leasers.all[index];
        let Some(under_way) = leaser.under_way.take_if(|under_way| under_way.token == token) else { return Ok(()) };
        self.trace.note(self.now, format_args!("l{index} is told by {} #{token}: {answer:?}", under_way.host));
        match (under_way.what, answer) {
            (What::KeepAlive(id, ttl_ms), Answer::Leases(times)) => self.on_kept(index, (id, ttl_ms), under_way.asked, times)?,
            (What::Look(id), Answer::Leases(times)) if times[..] == [None] => self.on_gone(index, id)?,
            (What::LookAtLock(lease), Answer::ReadReady) => self.on_lock_seen(token, lease, under_way.floor)?,
            (what, Answer::Written(outcome)) => self.on_leaser_written(index, &what, under_way.asked, outcome)?,
            _ => {}
        }
        self.schedule_leaser(index);
        Ok(())
    }

    /// The node said that what it has may be read: it is read there.
    pub(crate) fn on_leaser_read(&mut self, index: usize, host: HostId, token: u64) -> Step {
        let under_way = self.leasers.all[index].under_way.as_ref().filter(|under_way| under_way.token == token);
        let (Some(UnderWay { what: What::LookAtLock(lease), .. }), Some(view)) = (under_way, self.view_of(host)) else {
            return Ok(());
        };
        let seen = standing(&*view, LOCK, *lease);
        let mut seen = seen.map_err(|error| Violation::new("records can be read", format!("{host}: {error}")))?;
        if self.scenario.mutation == Some(Mutation::LockByKey) {
            seen.holder = first_by_key(&*view).or(seen.holder);
            let held_by = seen.holder.as_ref().map(|holder| holder.lease);
            seen.own.iter_mut().for_each(|own| own.ahead = u64::from(held_by != *lease));
        }
        self.leasers.seen.insert(token, seen);
        self.answer_later(token, Answer::ReadReady);
        Ok(())
    }

    /// Whoever looks later sees no holder that was there before.
    fn on_lock_seen(&mut self, token: u64, lease: Option<LeaseId>, floor: Revision) -> Step {
        let Some(Standing { holder, own, .. }) = self.leasers.seen.remove(&token) else { return Ok(()) };
        let Some(holder) = holder else { return Ok(()) };
        self.coverage.count("holders of the lock seen");
        if holder.token() < floor {
            let detail = format!("lease {} holds it with token {}, after {floor} was seen", holder.lease, holder.token());
            return Err(Violation::new("tokens of locks grow", detail));
        }
        self.leasers.greatest_token = self.leasers.greatest_token.max(holder.token());
        let is_own = own.is_some_and(|own| own.ahead == 0);
        if is_own != (Some(holder.lease) == lease) {
            return Err(Violation::new("a lock has one holder", format!("lease {lease:?} beside {}", holder.lease)));
        }
        self.coverage.add("locks held by who looked", u64::from(is_own));
        Ok(())
    }

    fn on_kept(&mut self, index: usize, lease: (LeaseId, u64), asked: SimTime, times: &[Option<LeaseTime>]) -> Step {
        if times[..] == [None] {
            return self.on_gone(index, lease.0);
        }
        self.coverage.count("leases kept alive");
        self.oracle.promises.on_kept_alive(lease.0, asked, lease.1)
    }

    fn on_gone(&mut self, index: usize, id: LeaseId) -> Step {
        self.coverage.count("leases that were gone");
        self.leasers.all[index].lease = None;
        self.oracle.promises.on_missing(id, self.now)
    }

    fn on_leaser_written(&mut self, index: usize, what: &What, asked: SimTime, outcome: &Outcome) -> Step {
        match (what, outcome) {
            (What::Grant(id, ttl_ms), Outcome::Applied { .. }) => {
                self.coverage.count("leases granted");
                self.leasers.all[index].lease = Some((*id, *ttl_ms));
                self.oracle.promises.on_kept_alive(*id, asked, *ttl_ms)
            }
            (What::Revoke(_), Outcome::Applied { .. }) => {
                self.coverage.count("leases revoked");
                self.leasers.all[index].lease = None;
                Ok(())
            }
            (What::Revoke(_), Outcome::LeaseNotFound { .. }) => {
                self.leasers.all[index].lease = None;
                Ok(())
            }
            (What::Hang(id, _) | What::Claim(id), Outcome::LeaseNotFound { .. }) => self.on_gone(index, *id),
            (What::Hang(..) | What::PutForATime(..), Outcome::Applied { .. }) => {
                self.coverage.count("pairs put that go");
                Ok(())
            }
            (What::Claim(_), Outcome::ConditionFailed { .. })
            | (What::Claim(_) | What::GiveUp(_), Outcome::Applied { .. })
            | (_, Outcome::Forgotten) => Ok(()),
            _ => Err(Violation::new("leases are what was asked for", format!("{what:?} came to {outcome:?}"))),
        }
    }
}

/// The planted bug of [`Mutation::LockByKey`].
fn first_by_key(view: &dyn View) -> Option<Claim> {
    let (key, record) = pairs(view, &claims(LOCK), Direction::Forward).next()?.ok()?;
    Some(Claim { key, lease: record.lease?, record })
}

fn timed_value(number: u64) -> Bytes {
    format!("timed {number}").into()
}

fn write_of(what: &What) -> Write {
    let put = |key: String| Put::new(Bytes::from(key), Bytes::from_static(b"lease"));
    let op = match what {
        What::Grant(id, ttl_ms) => {
            let grant = Op::LeaseGrant { id: *id, ttl_ms: *ttl_ms };
            let first = Op::Put(Put { lease: Some(*id), ..put(format!("lease/{id}/0")) });
            // It stands in the line for the lock from the beginning.
            let claim = Op::Put(Put { lease: Some(*id), ..Put::new(claim_key(LOCK, *id), Bytes::from_static(b"lease")) });
            return Write { ops: vec![grant, first, claim], ..Write::default() };
        }
        What::Revoke(id) => Op::LeaseRevoke { id: *id },
        What::Hang(id, number) => Op::Put(Put { lease: Some(*id), ..put(format!("lease/{id}/{number}")) }),
        What::PutForATime(number, value, ttl_ms) => {
            Op::Put(Put { ttl_ms: Some(*ttl_ms), value: timed_value(*value), ..put(format!("timed/{number}")) })
        }
        What::Claim(id) => {
            let key = claim_key(LOCK, *id);
            let put = Put { lease: Some(*id), ..Put::new(key.clone(), Bytes::from_static(b"lease")) };
            return Write { ops: vec![Op::Put(put)], ..Write::default() }.only_if(key, Condition::Absent);
        }
        What::GiveUp(id) => Op::Delete { key: claim_key(LOCK, *id) },
        What::KeepAlive(..) | What::Look(_) | What::LookAtLock(_) => unreachable!("they are no writes"),
    };
    Write { ops: vec![op], ..Write::default() }
}
