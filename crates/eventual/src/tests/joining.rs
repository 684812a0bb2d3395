//! How much goes to a replica that joins.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::cluster::Cluster;
use super::disks::simulated;
use super::scenarios::options;
use crate::{Body, CopyWhen, InstanceId, MemberState, Options, Trigger};

const KEYS: usize = 150;

/// What a replica that joins the others is sent, over all that there is, until it serves and nobody has more for it. The first
/// so many of the others are written to.
fn sent_of_all(mut cluster: Cluster, writers: usize) -> f64 {
    let joiner = cluster.slots() - 1;
    cluster.run_ms(1_000);
    cluster.remove(joiner);
    cluster.run_ms(2_000);
    for at in 0..KEYS {
        cluster.write(at % writers, &Bytes::from(format!("{at:05}")), Body::plain(Bytes::from(vec![at as u8; 10_000])), None);
        if at % 50 == 0 {
            cluster.run_ms(100);
        }
    }
    (0..joiner).for_each(|slot| _ = cluster.flush(slot));
    cluster.run_ms(6_000);
    let all_bytes = cluster.status(0).data_bytes;
    assert!(all_bytes > 10_000 * KEYS as u64);
    cluster.restart(joiner);
    let instance = cluster.instance(joiner).expect("it joins");
    // Nobody is faster than the others: that is when they send the same.
    cluster.run_in_steps(3_000, 20);
    cluster.run_ms(10_000);
    assert_eq!(cluster.members.states.get(&instance), Some(&MemberState::Up));
    let digests = (0..=joiner).map(|slot| cluster.status(slot).digest);
    assert_eq!(digests.collect::<BTreeSet<_>>().len(), 1, "all are equal");
    cluster.sent_bytes.get(&instance).copied().unwrap_or_default() as f64 / all_bytes as f64
}

/// Each of the others sent all of it twice, once because it was asked, and once by itself: of two it came four times.
#[test]
fn who_joins_is_sent_everything_once() {
    let pushing = || Options { digest_levels: 4, sync_interval_ms: 5_000, ..options(Trigger::push()) };
    let copying = || Options { trigger: Trigger::Copy(CopyWhen::Every(60_000)), ..pushing() };
    let clusters = [
        ("push, three", Cluster::new(3, pushing(), None)),
        ("push, five", Cluster::new(5, pushing(), None)),
        ("push, three, on disks", Cluster::over(Some(simulated), 3, pushing(), None)),
        ("copies, three", Cluster::new(3, copying(), None)),
    ];
    for (what, cluster) in clusters {
        let writers = cluster.slots() - 1;
        let sent = sent_of_all(cluster, writers);
        assert!((1.0..1.1).contains(&sent), "{what}: it was sent {sent:.2} of all there is");
    }
}

/// Who leaves last of those that have everything stays until another one has it, too. It went as soon as nobody else was up, and
/// what the others had not been sent yet was lost.
#[test]
fn nobody_leaves_who_alone_has_everything() {
    let copying = options(Trigger::Copy(CopyWhen::Manual));
    for options in [options(Trigger::push()), Options { copy_rate: Some(2_000), ..copying }] {
        let mut cluster = Cluster::new(2, Options { digest_levels: 4, ..options }, None);
        cluster.run_ms(1_000);
        cluster.remove(1);
        for at in 0..KEYS {
            cluster.write(0, &Bytes::from(format!("{at:05}")), Body::plain(Bytes::from(vec![at as u8; 10_000])), None);
            if at % 50 == 0 {
                cluster.run_ms(100);
            }
        }
        cluster.run_ms(500);
        cluster.restart(1);
        let (first, joiner) = (cluster.instance(0).expect("it is up"), cluster.instance(1).expect("it joins"));
        cluster.members.states.insert(first, MemberState::Leaving);
        cluster.run_in_steps(20_000, 20);
        assert!(!cluster.is_running(0) && cluster.members.states.get(&joiner) == Some(&MemberState::Up));
        assert_eq!(cluster.status(1).keys, KEYS as u64, "nothing is lost");
    }
}

/// Copies that fall due while a replica joins were made by it, too: they went back to whom it had got everything from, one after
/// the other, and it never came to compare with the last one.
#[test]
fn who_joins_copies_nothing_to_others() {
    let copying = Options { copy_rate: Some(200_000), digest_levels: 4, ..options(Trigger::Copy(CopyWhen::Every(300))) };
    let mut cluster = Cluster::new(3, copying, None);
    cluster.run_ms(1_000);
    for at in 0..KEYS {
        cluster.write(0, &Bytes::from(format!("{at:05}")), Body::plain(Bytes::from(vec![at as u8; 10_000])), None);
    }
    cluster.run_in_steps(30_000, 20);
    cluster.remove(2);
    cluster.restart(2);
    let joiner = cluster.instance(2).expect("it joins");
    cluster.run_in_steps(10_000, 20);
    assert_eq!(cluster.members.states.get(&joiner), Some(&MemberState::Up));
}

/// Of a mirror it is what the source copies, and nobody else has to do with it.
#[test]
fn who_joins_a_mirror_is_sent_everything_once() {
    let mirrored = Options { mirror_of: Some(InstanceId(1)), ..options(Trigger::Copy(CopyWhen::Every(60_000))) };
    let sent = sent_of_all(Cluster::new(3, mirrored, None), 1);
    assert!((1.0..1.1).contains(&sent), "it was sent {sent:.2} of all there is");
}
