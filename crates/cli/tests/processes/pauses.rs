//! A leader that stands still, and does not know it when it goes on.

use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Cluster, Load, Request, now, pause, since, tell};

const STOPPED: Duration = Duration::from_secs(5);

/// What is promised is 3 s; the rest is for machines that do something else too.
const BACK_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_stopped_leader_is_replaced_and_serves_nothing_old() {
    let mut cluster = Cluster::ready(3);
    cluster.connection("n1").expect(201, &Request::put(b"marker", "first"));
    let mut load = Load::start(&cluster);
    let old = cluster.leader();
    let mut to_old = cluster.connection(&old);
    to_old.expect(200, &Request::new("GET", "/livez"));
    let stopped = now();
    cluster.node(&old).signal(Signal::STOP);
    let back = load.until_acknowledged_after(stopped, BACK_WITHIN);
    tell(format_args!("leader {old} stopped, service back after {back:?}"));

    pause(STOPPED.saturating_sub(since(stopped)).as_millis() as u64);
    let mut to_other = cluster.connection(&cluster.other_than(&[&old]));
    let newest = to_other.expect(204, &Request::put(b"marker", "second")).revision();
    load.allow_one_more_write();

    // It still believes that it leads: what it answers must be confirmed by the others first.
    cluster.node(&old).signal(Signal::CONT);
    let start = now();
    let mut answers = 0;
    while since(start) < Duration::from_secs(2) {
        let read = to_old.send(&Request::get(b"marker").with_query("timeout=1s")).expect("an answer, of whatever kind");
        if read.status == 200 {
            assert_eq!(read.text(), "second", "the old leader serves an old value");
            assert!(read.revision() >= newest, "the old leader serves an old revision");
            answers += 1;
        }
    }
    assert!(answers > 0, "the old leader serves reads again");
    tell(format_args!("{old} went on, and answered {answers} reads, none of them old"));
    cluster.until_ready();
    load.finish(&cluster);
}
