//! P6: a client that goes from replica to replica sees nothing older than it has seen, and writes above all of it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use quorate_engine::codec::Reader;

use super::cluster::{Cluster, key};
use super::scenarios::{self, of_three};
use crate::io::{Answer, Refusal};
use crate::replica::Replica;
use crate::{CacheOptions, CopyWhen, Hlc, InstanceId, MAX_SESSION_STAMPS, MemberState, Options, Session, Trigger, Version};

/// Clients, each with its session.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    clients: BTreeMap<u8, Client>,
    /// Requests under way: whose, and of which key; of all keys, if of none.
    asked: BTreeMap<u64, Asked>,
    /// Reads that asked others because of what their session had seen, and found it.
    pub(super) helped: u64,
}

#[derive(Debug, Default)]
struct Client {
    session: Session,
    /// The greatest version that it has seen of each key.
    seen: BTreeMap<Bytes, Version>,
}

#[derive(Debug)]
struct Asked {
    client: u8,
    key: Option<Bytes>,
    /// What went along.
    sent: Session,
    /// The greatest version that it had seen then, of each key.
    seen: BTreeMap<Bytes, Version>,
}

impl Sessions {
    /// What a client sends along.
    pub(super) fn session(&self, client: u8) -> Session {
        self.clients.get(&client).map(|client| client.session.clone()).unwrap_or_default()
    }

    pub(super) fn on_ask(&mut self, token: u64, client: u8, key: Option<&Bytes>) {
        let seen = self.clients.get(&client).map(|client| client.seen.clone()).unwrap_or_default();
        let sent = self.session(client);
        self.asked.insert(token, Asked { client, key: key.cloned(), sent, seen });
    }

    /// `at`: the replica that answers. `fence`: the greatest there ever was. `is_held`: whether anybody who is up has so much as
    /// this.
    pub(super) fn on_answer(
        &mut self,
        token: u64,
        answer: &Answer,
        (at, fence): (&Replica, Hlc),
        is_held: impl Fn(&Bytes, Version) -> bool,
    ) {
        let Some(Asked { client, key, sent, seen }) = self.asked.remove(&token) else { return };
        let check = |key: &Bytes, shown: Option<Version>| {
            let Some(seen) = seen.get(key).copied() else { return false };
            // What it has now it may have got since it answered: that only makes this more lenient.
            let found = shown.or_else(|| at.version_for_tests(key));
            // Of a delete that everybody had nothing is left.
            let is_over = shown.is_none() && seen.hlc <= fence;
            let is_there = found.is_some_and(|found| found >= seen) || is_over;
            assert!(is_there || !is_held(key, seen), "P6: {client} had seen {seen} of {key:?}, and finds {found:?}");
            is_there
        };
        let mut shown = BTreeMap::new();
        let session = match (answer, key) {
            (Answer::Written { version, session, .. }, Some(key)) => {
                let latest = seen.values().max();
                assert!(latest.is_none_or(|latest| version > latest), "P6: {version} is not above {latest:?}");
                shown.insert(key, *version);
                session.as_deref()
            }
            (Answer::Found { entry, session, asked, .. }, Some(key)) => {
                let version = entry.as_ref().map(|entry| entry.version);
                self.helped += u64::from(check(&key, version) && *asked > 0);
                shown.extend(version.map(|version| (key, version)));
                session.as_deref()
            }
            (Answer::Level { session }, None) => {
                for key in (0..4).map(super::cluster::key) {
                    let version = at.get_durable(&key).map(|entry| entry.version);
                    check(&key, version);
                    // What came after the answer was made it may see, and does not have to see again.
                    let is_in = |version: &Version| {
                        session.stamps().any(|(instance, hlc)| instance == version.instance && hlc >= version.hlc)
                    };
                    shown.extend(version.filter(is_in).map(|version| (key, version)));
                }
                Some(session)
            }
            _ => return,
        };
        let own = self.clients.entry(client).or_default();
        let session = session.expect("who tells what it has seen is told what it has now");
        if own.session == sent {
            own.session = session.clone();
        } else {
            own.session.join(session);
        }
        for (key, version) in shown {
            let seen = own.seen.entry(key).or_insert(version);
            *seen = (*seen).max(version);
        }
    }
}

/// Nobody reports in time for what is tested.
fn options(trigger: Trigger) -> Options {
    Options { report_interval_ms: 60_000, max_report_interval_ms: 60_000, ..scenarios::options(trigger) }
}

fn is_found(cluster: &Cluster, token: Option<u64>) -> bool {
    match cluster.answers.get(&token.expect("it runs")) {
        Some(Answer::Found { entry, .. }) => entry.is_some(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_reads_what_it_wrote_at_another_replica_in_every_mode() {
    let reading = Trigger::Read { fanout: 0, deadline_ms: 50, min_answers: 0, repairs_others: false };
    for trigger in [Trigger::push(), reading, Trigger::Copy(CopyWhen::Manual)] {
        let mut cluster = of_three(options(trigger.clone()));
        cluster.session_write(1, 0, 3, false);
        cluster.sync_disk(0);
        // What is pushed is lost: only who asks can know.
        cluster.lose_all();
        assert!(cluster.replica(1).unwrap().get_durable(&key(3)).is_none());
        let without = cluster.session_read(2, 1, 3);
        let with = cluster.session_read(1, 1, 3);
        cluster.exchange(4);
        assert!(!is_found(&cluster, without), "{trigger:?}: who has seen nothing asks nobody");
        assert!(is_found(&cluster, with), "{trigger:?}");
        // The other one has seen nothing yet, and has it from here, now that it is here.
        let again = cluster.session_read(2, 1, 3);
        cluster.exchange(1);
        assert!(is_found(&cluster, again));
        // A delete is seen, too.
        cluster.session_write(2, 2, 3, true);
        cluster.sync_disk(2);
        cluster.lose_all();
        let gone = cluster.session_read(2, 0, 3);
        cluster.exchange(4);
        assert!(!is_found(&cluster, gone), "{trigger:?}");
    }
}

#[test]
fn a_replica_that_cannot_know_says_so() {
    let mut cluster = of_three(options(Trigger::push()));
    cluster.partition(0b001);
    cluster.session_write(1, 0, 3, false);
    cluster.sync_disk(0);
    let token = cluster.session_read(1, 1, 3).unwrap();
    cluster.run_ms(900);
    assert_eq!(cluster.answers.get(&token), None, "it waits");
    cluster.run_ms(200);
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Refused(Refusal::NotYet)));
    // At the one who has it there is no question.
    let token = cluster.session_read(1, 0, 3);
    cluster.exchange(1);
    assert!(is_found(&cluster, token));
}

#[test]
fn what_one_had_that_is_gone_is_asked_of_all_who_stay() {
    let mut cluster = of_three(Options { is_durable: false, ..options(Trigger::push()) });
    cluster.session_write(1, 0, 3, false);
    cluster.pass_ms(1);
    cluster.partition(0b100);
    cluster.exchange(2);
    assert!(cluster.replica(1).unwrap().get_durable(&key(3)).is_some());
    assert!(cluster.replica(2).unwrap().get_durable(&key(3)).is_none());
    cluster.remove(0);
    // They hear each other, and nobody compares yet.
    cluster.lose_all();
    cluster.partition(0);
    (1..3).for_each(|slot| cluster.adopt(slot));
    cluster.lose_all();
    let token = cluster.session_read(1, 2, 3);
    cluster.exchange(4);
    assert!(is_found(&cluster, token));
}

#[test]
fn a_mirror_fetches_from_its_source_what_the_client_has_seen() {
    let source = InstanceId(1);
    let mut cluster = of_three(Options { mirror_of: Some(source), ..options(Trigger::Copy(CopyWhen::Manual)) });
    cluster.session_write(1, 0, 3, false);
    cluster.sync_disk(0);
    let (old, new) = (cluster.session_read(2, 1, 3), cluster.session_read(1, 1, 3));
    cluster.exchange(4);
    assert!(!is_found(&cluster, old) && is_found(&cluster, new));
    assert!(cluster.replica(1).unwrap().get_durable(&key(3)).is_none(), "it has what its last copy brought, and nothing else");
}

#[test]
fn a_cache_serves_nothing_instead_of_what_is_older() {
    let cache = Some(CacheOptions { ttl_ms: 60_000, invalidates: false });
    let mut cluster = of_three(Options { is_durable: false, cache, ..options(Trigger::push()) });
    cluster.session_write(1, 1, 3, false);
    cluster.run_ms(200);
    cluster.session_write(1, 0, 3, false);
    cluster.lose_all();
    cluster.evict(0, 3);
    let (without, with) = (cluster.session_read(2, 1, 3), cluster.session_read(1, 1, 3));
    cluster.exchange(4);
    assert!(is_found(&cluster, without), "the old one is there");
    assert!(!is_found(&cluster, with));
}

#[test]
fn a_session_forgets_what_everybody_has() {
    let mut cluster = of_three(scenarios::options(Trigger::push()));
    cluster.session_write(1, 0, 3, false);
    cluster.run_ms(3_000);
    let token = cluster.session_read(1, 1, 3);
    assert!(is_found(&cluster, token));
    cluster.run_ms(1_000);
    cluster.session_read(1, 2, 4);
    assert_eq!(cluster.sessions.helped, 0, "the reports say that all is there");
    let session = |token: Option<u64>| match cluster.answers.get(&token.unwrap()) {
        Some(Answer::Found { session, .. }) => session.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(session(token).map(|session| session.stamps().count()), Some(0));
}

#[test]
fn a_list_waits_until_all_is_there() {
    let reading = Trigger::Read { fanout: 0, deadline_ms: 50, min_answers: 0, repairs_others: false };
    let mut cluster = of_three(options(reading));
    (0..3).for_each(|at| _ = cluster.session_write(1, at, at as u8, false));
    cluster.exchange(1);
    let (without, with) = (cluster.session_list(2, 1), cluster.session_list(1, 1));
    assert!(cluster.answers.contains_key(&without.unwrap()) && !cluster.answers.contains_key(&with.unwrap()));
    cluster.exchange(8);
    assert!(cluster.answers.contains_key(&with.unwrap()));
    assert!((0..3).all(|at| cluster.replica(1).unwrap().get_durable(&key(at)).is_some()));
    // Who has seen the list has seen all of it.
    let again = cluster.session_list(2, 0);
    cluster.exchange(8);
    assert!(cluster.answers.contains_key(&again.unwrap()));
    let token = cluster.session_read(2, 0, 2);
    cluster.exchange(4);
    assert!(is_found(&cluster, token));
}

#[test]
fn sessions_are_read_back_and_bounded() {
    let mut session = Session::default();
    let version = |at: u64| Version { hlc: Hlc(at), instance: InstanceId(at as u32) };
    (1..=200).for_each(|at| session.note(version(at)));
    assert_eq!(session.stamps().count(), MAX_SESSION_STAMPS);
    assert_eq!(session.stamps().next(), Some((InstanceId(0), Hlc(137))), "those that are left out are everybody's");
    assert_eq!(session.latest(), version(200));
    let mut bytes = BytesMut::new();
    session.encode(&mut bytes);
    let mut reader = Reader::new(bytes.clone().freeze());
    assert_eq!(Session::read(&mut reader).unwrap(), session);
    reader.finish().unwrap();
    assert!(Session::read(&mut Reader::new(bytes.freeze().slice(..40))).is_err());
    let mut other = Session::default();
    other.note(version(300));
    other.join(&session);
    assert_eq!(other.latest(), version(300));
}

#[test]
fn one_that_is_not_known_yet_is_waited_for() {
    let mut cluster = Cluster::new(3, options(Trigger::push()), None);
    cluster.run_ms(1_000);
    cluster.crash(2);
    cluster.remove(2);
    cluster.restart(2);
    // The first two have not heard of the new one.
    cluster.members.states.values_mut().for_each(|state| *state = MemberState::Up);
    cluster.adopt(2);
    cluster.session_write(1, 2, 3, false);
    cluster.pass_ms(10);
    cluster.sync_disk(2);
    cluster.sync_disk(2);
    let token = cluster.session_read(1, 0, 3).unwrap();
    cluster.pass_ms(1_000);
    assert_eq!(cluster.answers.get(&token), Some(&Answer::Refused(Refusal::NotYet)));
}
