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

/// Of a mirror it is what the source copies, and nobody else has to do with it.
#[test]
fn who_joins_a_mirror_is_sent_everything_once() {
    let mirrored = Options { mirror_of: Some(InstanceId(1)), ..options(Trigger::Copy(CopyWhen::Every(60_000))) };
    let sent = sent_of_all(Cluster::new(3, mirrored, None), 1);
    assert!((1.0..1.1).contains(&sent), "it was sent {sent:.2} of all there is");
}
