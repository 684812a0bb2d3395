//! Copies that take a while: broken off in the middle, slowed down, and of one moment all the same.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::cluster::{Cluster, Fate, NewDisk, key};
use super::disks::simulated;
use crate::{Body, CopyWhen, InstanceId, Options, Trigger, Version};

/// Keys that are copied: several windows of pieces with one pair each.
const KEYS: u8 = 100;

/// A mirror of the first replica, copied when asked for, in pieces of one pair.
fn mirror() -> Options {
    Options { mirror_of: Some(InstanceId(1)), ..merged() }
}

/// The same, merged.
fn merged() -> Options {
    Options {
        copy_piece_bytes: 1,
        report_interval_ms: 200,
        max_report_interval_ms: 3_200,
        digest_levels: 1,
        sync_interval_ms: 0,
        ..Options::new(Trigger::Copy(CopyWhen::Manual))
    }
}

fn fill(cluster: &mut Cluster, keys: impl Iterator<Item = u8>) {
    for at in keys {
        cluster.put(0, at, None);
        cluster.exchange_disk(0);
    }
}

/// What is served, by key.
fn read(cluster: &Cluster, slot: usize) -> BTreeMap<Bytes, Version> {
    let replica = cluster.replica(slot).expect("it runs");
    let live = |key: Bytes| replica.get_durable(&key).filter(|entry| !entry.is_dead()).map(|entry| (key, entry.version));
    (0..KEYS).filter_map(|at| live(key(at))).collect()
}

/// A round trip of messages, and disks that do what they have to.
fn exchange(cluster: &mut Cluster, ms: u64) {
    cluster.pass_ms(ms);
    (0..cluster.slots()).for_each(|slot| cluster.exchange_disk(slot));
    cluster.deliver_all();
    (0..cluster.slots()).for_each(|slot| cluster.exchange_disk(slot));
    cluster.deliver_all();
}

/// What went to the others so far, in pairs.
fn put(cluster: &Cluster) -> u64 {
    cluster.status(0).peers.iter().map(|peer| peer.put).sum()
}

/// A copy during which the source goes on writing, and deletes: returns what the source had when it began, and what the mirror
/// has.
fn copied_beside_writes(options: Options) -> [BTreeMap<Bytes, Version>; 2] {
    let mut cluster = Cluster::new(2, options, None);
    cluster.run_ms(1_000);
    fill(&mut cluster, 0..KEYS);
    cluster.flush(0);
    let had = read(&cluster, 0);
    for step in 0..KEYS {
        exchange(&mut cluster, 10);
        cluster.put(0, step, None);
        cluster.delete(0, KEYS - 1 - step);
        cluster.exchange_disk(0);
    }
    cluster.run_ms(3_000);
    assert_eq!(cluster.status(1).counts.mirrored, 2, "there is one when the cluster begins");
    [had, read(&cluster, 1)]
}

#[test]
fn a_mirror_has_what_its_source_had_at_one_moment() {
    let [had, has] = copied_beside_writes(mirror());
    assert!(has == had);
    // The test can tell.
    let [had, has] = copied_beside_writes(Options { max_pinned_bytes: 0, ..mirror() });
    assert!(has != had);
    // Half of it is as it was, and then too much was changed for that.
    let [had, has] = copied_beside_writes(Options { max_pinned_bytes: 600, ..mirror() });
    assert!(has != had);
    let same = had.iter().filter(|(key, version)| has.get(*key) == Some(version)).count();
    assert!((8..usize::from(KEYS)).contains(&same), "{same}");
}

/// What a mirror keeps aside of a copy is what the copy changes, and that up to a bound; then it takes in the rest as it comes.
/// All of the copy was in memory before, however little it changed.
#[test]
fn what_a_mirror_keeps_aside_of_a_copy_is_bounded() {
    const VALUE: usize = 10_000;
    let write = |cluster: &mut Cluster, at: u8, with: u8| {
        cluster.write(0, &key(at), Body::plain(Bytes::from(vec![with; VALUE])), None);
        cluster.exchange_disk(0);
    };
    let all_bytes = u64::from(KEYS) * VALUE as u64;
    for (disk, max_staged_bytes) in [(None, 1 << 30), (None, all_bytes / 4), (Some(simulated as NewDisk), all_bytes / 4)] {
        let options = Options { max_staged_bytes, copy_piece_bytes: 3 * VALUE as u64, ..mirror() };
        let mut cluster = Cluster::over(disk, 2, options, None);
        cluster.run_ms(1_000);
        // What the greatest part of a copy was that was kept aside, and how many copies were seen in parts.
        let copy = |cluster: &mut Cluster| {
            let (before, had) = (cluster.status(1).counts, read(cluster, 1));
            let (mut most_bytes, mut parts) = (0, BTreeSet::new());
            cluster.flush(0);
            for _ in 0..1_000 {
                if cluster.status(1).counts.mirrored > before.mirrored {
                    break;
                }
                exchange(cluster, 10);
                most_bytes = most_bytes.max(cluster.replica(1).expect("it runs").staged_bytes_for_tests());
                parts.insert(read(cluster, 1).len());
            }
            cluster.run_ms(1_000);
            assert_eq!(read(cluster, 1), read(cluster, 0));
            assert_eq!(cluster.replica(1).expect("it runs").staged_bytes_for_tests(), 0);
            let count = cluster.status(1).counts.merged_mirrors - before.merged_mirrors;
            let is_seen = parts.iter().any(|keys| ![had.len(), read(cluster, 1).len()].contains(keys));
            assert_eq!(is_seen, count > 0, "{parts:?}");
            (most_bytes, count)
        };
        (0..KEYS).for_each(|at| write(&mut cluster, at, 1));
        let (most_bytes, count) = copy(&mut cluster);
        if max_staged_bytes > all_bytes {
            assert!(most_bytes > all_bytes * 9 / 10 && count == 0, "everything is new: {most_bytes}");
        } else {
            assert!((1..=max_staged_bytes).contains(&most_bytes) && count == 1, "{most_bytes} of {max_staged_bytes}");
        }
        // Of what is here already nothing is kept, and what goes takes nothing.
        (0..5).for_each(|at| write(&mut cluster, 10 * at, 2));
        (0..10).for_each(|at| _ = cluster.delete(0, 10 * at + 5));
        let (most_bytes, count) = copy(&mut cluster);
        assert!((5 * VALUE as u64..7 * VALUE as u64).contains(&most_bytes) && count == 0, "{most_bytes}");
        // And it has that, too, after a crash.
        cluster.crash(1);
        cluster.restart(1);
        assert_eq!(read(&cluster, 1), read(&cluster, 0));
    }
}

/// The same over a disk, where much of what there is waits for the log and the engine when the copy begins.
#[test]
fn what_is_not_on_the_disk_yet_is_in_a_copy() {
    let mut cluster = Cluster::over(Some(simulated), 2, mirror(), None);
    cluster.run_ms(1_000);
    for at in 0..KEYS {
        cluster.put(0, at, None);
        if at == KEYS / 3 {
            cluster.exchange_disk(0);
        }
        if at == KEYS / 2 {
            cluster.sync_disk(0);
        }
    }
    cluster.flush(0);
    for at in 0..KEYS {
        cluster.delete(0, at);
    }
    cluster.run_ms(3_000);
    let has = read(&cluster, 1);
    assert!(cluster.status(1).counts.mirrored == 2 && has.len() == usize::from(KEYS), "{} keys", has.len());
}

/// Breaks a copy off once some of it is there, for some time, and heals. `meanwhile` happens in between.
fn broken_off(options: Options, away_ms: u64, meanwhile: impl Fn(&mut Cluster)) -> Cluster {
    broken_off_over(None, options, away_ms, meanwhile)
}

fn broken_off_over(disk: Option<NewDisk>, options: Options, away_ms: u64, meanwhile: impl Fn(&mut Cluster)) -> Cluster {
    let mut cluster = Cluster::over(disk, 2, options, None);
    cluster.run_ms(1_000);
    fill(&mut cluster, 0..KEYS);
    cluster.flush(0);
    for _ in 0..4 {
        exchange(&mut cluster, 5);
    }
    assert_eq!((cluster.status(1).counts.mirrored, put(&cluster)), (1, 0), "the copy goes on");
    cluster.partition(0b10);
    cluster.run_ms(away_ms);
    meanwhile(&mut cluster);
    cluster.partition(0);
    cluster.run_in_steps(30_000, 200);
    assert!(read(&cluster, 1) == read(&cluster, 0));
    assert_eq!(read(&cluster, 1).len(), usize::from(KEYS));
    cluster
}

#[test]
fn a_copy_that_is_broken_off_goes_on_where_it_was() {
    for disk in [None, Some(simulated as NewDisk)] {
        let cluster = broken_off_over(disk, mirror(), 60_000, |_| {});
        let counts = cluster.status(0).counts;
        assert_eq!((counts.resumed, counts.stalled_rounds), (1, 0));
        // Nothing is sent twice but what was on its way, and that was said again for ten seconds.
        assert!(put(&cluster) <= u64::from(KEYS) + 8 * 12, "{}", put(&cluster));
        assert_eq!(cluster.status(1).counts.mirrored, 2);
    }
}

#[test]
fn a_copy_is_of_the_moment_when_it_began_though_it_was_broken_off() {
    let mut cluster = Cluster::new(2, mirror(), None);
    cluster.run_ms(1_000);
    fill(&mut cluster, 0..KEYS);
    cluster.flush(0);
    let had = read(&cluster, 0);
    (0..3).for_each(|_| exchange(&mut cluster, 5));
    cluster.partition(0b10);
    cluster.run_ms(20_000);
    fill(&mut cluster, 0..KEYS);
    cluster.partition(0);
    cluster.run_in_steps(10_000, 200);
    assert_eq!((cluster.status(0).counts.resumed, cluster.status(1).counts.mirrored), (1, 2));
    assert!(read(&cluster, 1) == had && read(&cluster, 0) != had);
}

#[test]
fn a_mirror_that_was_killed_in_the_middle_of_a_copy_says_so() {
    let cluster = broken_off(Options { copy_rate: Some(1_000), ..mirror() }, 20_000, |cluster| {
        cluster.crash(1);
        cluster.restart(1);
    });
    let counts = cluster.status(0).counts;
    assert_eq!((counts.resumed, cluster.status(1).counts.mirrored), (1, 1));
    assert!(counts.stalled_rounds >= 1, "the rest of what it had begun to get was of no use");
}

/// One that has much already is not sent the rest before it can say that it has lost it.
#[test]
fn the_rest_of_a_copy_is_not_sent_to_who_has_lost_the_beginning() {
    const MANY: u8 = 200;
    let mut cluster = Cluster::new(2, mirror(), None);
    cluster.run_ms(1_000);
    fill(&mut cluster, 0..MANY);
    cluster.flush(0);
    (0..12).for_each(|_| exchange(&mut cluster, 5));
    cluster.crash(1);
    cluster.restart(1);
    cluster.run_ms(400);
    assert!(cluster.status(0).counts.stalled_rounds == 1 && cluster.status(1).counts.mirrored == 0);
    let again = cluster.status(0).peers[0].put;
    assert!(again < u64::from(MANY), "{again}");
    cluster.run_in_steps(20_000, 200);
    assert!(cluster.status(1).counts.mirrored == 1 && read(&cluster, 1) == read(&cluster, 0));
}

#[test]
fn who_is_away_for_too_long_gets_another_copy() {
    let cluster = broken_off(mirror(), 11 * 60 * 1_000, |_| {});
    let counts = cluster.status(0).counts;
    assert_eq!((counts.resumed, cluster.status(1).counts.mirrored), (0, 2));
    assert!(counts.stalled_rounds >= 1);
}

#[test]
fn a_source_that_was_killed_in_the_middle_of_a_copy_begins_anew() {
    let cluster = broken_off(mirror(), 5_000, |cluster| {
        cluster.crash(0);
        cluster.restart(0);
    });
    assert_eq!(cluster.status(0).counts.resumed, 0);
    assert!(cluster.status(1).counts.mirrored > 1);
}

/// Who are members is another then, and what goes on is begun anew: nobody takes in what is of other members.
#[test]
fn one_that_joins_in_the_middle_of_a_copy_gets_one_too() {
    for options in [mirror(), merged()] {
        let mut cluster = Cluster::new(3, Options { copy_rate: Some(2_000), ..options }, None);
        cluster.run_ms(1_000);
        cluster.remove(2);
        cluster.run_ms(1_000);
        fill(&mut cluster, 0..KEYS);
        cluster.flush(0);
        (0..3).for_each(|_| exchange(&mut cluster, 20));
        cluster.restart(2);
        cluster.run_in_steps(40_000, 200);
        for slot in [1, 2] {
            assert!(cluster.status(slot).is_up);
            assert!(read(&cluster, slot) == read(&cluster, 0), "{slot}");
        }
        assert_eq!(read(&cluster, 0).len(), usize::from(KEYS));
    }
}

/// Copies leave at their rate, to all others together, and are there all the same; also if some of it is lost.
#[test]
fn copies_keep_to_their_rate() {
    let over = |disk| [(disk, mirror()), (disk, merged())];
    for (disk, options) in [over(None), over(Some(simulated as NewDisk))].concat() {
        let mut cluster = Cluster::over(disk, 3, Options { copy_rate: Some(1_000), ..options }, None);
        cluster.run_ms(1_000);
        fill(&mut cluster, 0..KEYS);
        cluster.flush(0);
        let copied = |cluster: &Cluster| (1..3).all(|slot| read(cluster, slot) == read(cluster, 0));
        let (mut took_ms, mut lost) = (0, 0);
        while !copied(&cluster) {
            if took_ms % 700 == 0 {
                cluster.network(0, Fate::IsLost);
                lost += 1;
            }
            exchange(&mut cluster, 10);
            took_ms += 10;
            assert!(took_ms < 60_000, "it is never there");
        }
        let bytes = 1_000 * (took_ms + 100) / 1_000;
        // Key, value, and what a pair takes besides.
        let least = 2 * u64::from(KEYS) * (5 + 7 + 32);
        assert!((least..least * 2).contains(&bytes), "{bytes} bytes in {took_ms} ms, and {least} is the least; {lost} were lost");
    }
}

/// Several get the same pieces, read once, and each has what was there when its own copy began.
#[test]
fn what_was_read_for_one_copy_is_as_good_for_another_that_began_before() {
    let mut cluster = Cluster::new(3, merged(), None);
    cluster.run_ms(1_000);
    fill(&mut cluster, 0..KEYS);
    // The second begins its copy later, when all is another.
    cluster.partition(0b100);
    cluster.run_ms(10_000);
    cluster.flush(0);
    (0..3).for_each(|_| exchange(&mut cluster, 5));
    fill(&mut cluster, 0..KEYS);
    cluster.partition(0);
    cluster.flush(0);
    cluster.run_ms(15_000);
    for slot in [1, 2] {
        assert!(read(&cluster, slot) == read(&cluster, 0), "{slot}");
    }
}

/// What goes to others of an engine on a disk is looked up beside everything else: a disk that stalls keeps the replica from
/// sending it, and from nothing else, and what waits for it stays bounded.
#[test]
fn a_disk_that_stalls_holds_up_what_is_looked_up_alone() {
    for options in [mirror(), merged()] {
        let mut cluster = Cluster::over(Some(simulated), 2, options, None);
        cluster.run_ms(1_000);
        fill(&mut cluster, 0..KEYS);
        let before = read(&cluster, 1);
        cluster.flush(0);
        for _ in 0..600 {
            cluster.pass_ms(50);
            cluster.sync_some(0, 1);
            cluster.deliver_all();
            cluster.exchange_disk(1);
        }
        assert!(read(&cluster, 1) == before, "nothing can be sent");
        let (source, other) = (cluster.status(0), cluster.status(1));
        assert!(source.peers[0].is_reachable && other.peers[0].is_reachable, "they hear each other all the same");
        assert!(source.counts.resumed + source.counts.stalled_rounds > 0, "it was not waited for all that time");
        cluster.run_in_steps(20_000, 200);
        assert!(read(&cluster, 1) == read(&cluster, 0));
        assert_eq!(read(&cluster, 1).len(), usize::from(KEYS));
    }
}
