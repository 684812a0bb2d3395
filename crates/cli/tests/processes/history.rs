//! The past while it is compacted, and all nodes are killed in the middle of that.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Cluster, Connection, Request, Work, pause, until};

const KEYS: u64 = 5;

fn key(number: u64) -> String {
    format!("key/{}", number % KEYS)
}

/// Sets key after key until the work is over; which value each acknowledged revision set.
fn write_on(address: &str, work: &Work, written: &Mutex<BTreeMap<u64, u64>>) {
    let mut connection = Connection::to(address);
    for number in (1..).take_while(|_| work.goes_on()) {
        let put = Request::put(key(number).as_bytes(), number.to_string()).with_query("timeout=5s");
        match connection.send(&put) {
            Ok(answer) if answer.status < 300 => {
                written.lock().expect("nobody panicked").insert(answer.revision(), number);
            }
            Ok(_) | Err(_) => pause(20),
        }
    }
}

fn compact(connection: &mut Connection, revision: u64) {
    let body = json!({ "revision": revision }).to_string();
    // What becomes of it does not matter: nodes die.
    drop(connection.send(&Request::json("POST", "/v1/keyspaces/default/compact?timeout=2s", body)));
}

#[test]
fn what_is_retained_reads_as_it_was_after_all_nodes_are_killed_in_compactions() {
    let mut cluster = Cluster::ready(3);
    let retention = json!({"retention": {"revisions": 400}}).to_string();
    let alter = Request::json("PATCH", "/v1/keyspaces/default", retention);
    cluster.connection("n1").expect(200, &alter);
    let addresses = cluster.addresses();
    let (work, written) = (Work::default(), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        let _end = work.end();
        scope.spawn(|| write_on(&addresses[0], &work, &written));
        for round in 1..=3 {
            let count = || written.lock().expect("nobody panicked").len();
            let before = count();
            until("writes go on", Duration::from_mins(1), || match count() {
                now if now > before + 300 => Ok(()),
                now => Err(format!("{} writes", now - before)),
            });
            let last = *written.lock().expect("nobody panicked").keys().next_back().expect("some were written");
            compact(&mut Connection::to(&addresses[1]), last.saturating_sub(100));
            let names = cluster.running();
            for name in &names {
                cluster.node_mut(name).begin_kill();
            }
            for name in &names {
                cluster.node_mut(name).end_kill();
            }
            for name in &names {
                cluster.restart(name);
            }
            cluster.until_ready();
            crate::support::tell(format_args!("round {round}: {} writes, killed at revision {last}", count()));
        }
    });
    let written = written.into_inner().expect("nobody panicked");
    for node in ["n1", "n2", "n3"] {
        check_past(&mut cluster.connection(node), &written);
    }
    cluster.assert_same_everywhere();
}

/// Each revision that was acknowledged holds what it set, or is compacted.
fn check_past(connection: &mut Connection, written: &BTreeMap<u64, u64>) {
    let last = *written.keys().next_back().expect("some were written");
    let (mut read, mut gone) = (0, 0);
    for (revision, number) in written.iter().rev().take(600) {
        let get = Request::get(key(*number).as_bytes()).with_query(&format!("revision={revision}"));
        let answer = connection.send(&get).expect("every node is ready");
        match answer.status {
            200 => {
                assert_eq!(answer.text(), number.to_string(), "at revision {revision}");
                assert_eq!(gone, 0, "revision {revision} is there, and a later one is not");
                read += 1;
            }
            410 => {
                let problem: Value = answer.json();
                let compacted = problem["compacted_revision"].as_u64().expect("it names the oldest");
                assert!(*revision < compacted && compacted <= last, "{revision} {compacted} {last}");
                gone += 1;
            }
            status => panic!("{status} at revision {revision}: {}", answer.text()),
        }
    }
    assert!(read > 50 && gone > 50, "{read} were read, {gone} are gone");
}
