//! Requests under an `Idempotency-Key`, sent again and again while leaders are killed: each is done once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::{Cluster, Connection, Request, Work, pause, until};

fn increment(key: &str) -> Request {
    Request::on_key("PATCH", b"n")
        .with_body("{\"op\":\"increment\"}")
        .with_header("content-type", "application/vnd.quorate.op+json")
        .with_header("idempotency-key", key)
        .with_query("timeout=2s")
}

/// Sends a request to one node after the other until it is answered; the sum, and whether it had been done before.
fn until_done(connections: &mut [Connection], key: &str, first: usize) -> (u64, bool) {
    let mut attempts = first..;
    let mut done = None;
    until("a request is answered", Duration::from_mins(1), || {
        let at = attempts.next().unwrap_or(0) % connections.len();
        match connections[at].send(&increment(key)) {
            Ok(answer) if answer.status == 200 => {
                let is_replayed = answer.header("idempotency-replayed") == Some("true");
                done = Some((answer.text().parse().expect("a sum is a number"), is_replayed));
                Ok(())
            }
            Ok(answer) => Err(format!("{}: {}", answer.status, answer.text())),
            Err(error) => {
                pause(20);
                Err(format!("{error:?}"))
            }
        }
    });
    done.expect("it was answered")
}

#[test]
fn each_is_done_once_while_leaders_are_killed() {
    let mut cluster = Cluster::ready(3);
    let addresses = cluster.addresses();
    let (work, replayed) = (Work::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let (addresses, work, replayed) = (&addresses, &work, &replayed);
            scope.spawn(move || {
                let mut connections: Vec<Connection> = addresses.iter().map(|address| Connection::to(address)).collect();
                for step in (0..).take_while(|_| work.goes_on()) {
                    let (_, is_replayed) = until_done(&mut connections, &format!("{worker}-{step}"), step + worker);
                    work.step();
                    replayed.fetch_add(u64::from(is_replayed), Ordering::Relaxed);
                }
            });
        }
        cluster.kill_leaders(3, &work, 100);
    });
    let done = work.steps();
    for node in ["n1", "n2", "n3"] {
        assert_eq!(cluster.connection(node).expect(200, &Request::get(b"n")).text(), done.to_string(), "{node}");
    }
    // Once more, after all restarts, through every node.
    for (node, step) in [("n1", 0), ("n2", 1), ("n3", 2)] {
        let answer = cluster.connection(node).expect(200, &increment(&format!("0-{step}")));
        assert_eq!(answer.header("idempotency-replayed"), Some("true"), "{node}");
    }
    cluster.assert_same_everywhere();
}
