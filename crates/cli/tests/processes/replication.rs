//! Eventual keyspaces on real processes: links that are cut and damaged, nodes that are killed in the middle of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_api::keyspace::KeyspaceStats;
use quorate_proxy::Link;

use crate::support::{Cluster, Connection, Linked, Request, now, pause, since, tell, until};

/// How long replicas may take to become equal once they can.
const EQUAL_LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn create(cluster: &Cluster, keyspace: &str, replication: &str) {
    create_on(cluster, "hash", keyspace, replication);
}

fn create_on(cluster: &Cluster, engine: &str, keyspace: &str, replication: &str) {
    let settings = format!(r#"{{"engine":{{"type":"{engine}"}},"replication":{replication}}}"#);
    cluster.connection("n1").expect(201, &Request::json("PUT", &format!("/v1/keyspaces/{keyspace}"), settings));
    cluster.until_read_everywhere(keyspace);
}

fn put(cluster: &Cluster, name: &str, keyspace: &str, key: &str, value: &str) -> u16 {
    let request = Request::new("PUT", format!("/v1/kv/{keyspace}/{key}")).with_body(value);
    let answer = cluster.connection(name).send(&request).expect("an answer");
    assert!(matches!(answer.status, 201 | 202 | 204), "{answer:?}");
    answer.status
}

fn stats(cluster: &Cluster, name: &str, keyspace: &str) -> KeyspaceStats {
    cluster.connection(name).expect(200, &Request::new("GET", format!("/v1/keyspaces/{keyspace}/stats"))).json()
}

pub(crate) fn until_equal(cluster: &Cluster, keyspace: &str) -> Duration {
    let start = now();
    until("all replicas are equal", EQUAL_LIMIT, || {
        let told: Vec<KeyspaceStats> = cluster.running().iter().map(|name| stats(cluster, name, keyspace)).collect();
        let digests: BTreeSet<&str> = told.iter().flat_map(|told| &told.eventual).map(|own| own.digest.as_str()).collect();
        let are_up = told.iter().all(|told| told.eventual.iter().any(|own| own.state == "up"));
        if digests.len() == 1 && are_up { Ok(()) } else { Err(format!("{told:?}")) }
    });
    since(start)
}

/// The keys that a node has.
fn keys(cluster: &Cluster, name: &str, keyspace: &str) -> BTreeSet<String> {
    let page = Request::new("GET", format!("/v1/kv/{keyspace}?limit=10000"));
    let page: serde_json::Value = cluster.connection(name).expect(200, &page).json();
    let items = page["items"].as_array().expect("a page has items");
    items.iter().map(|entry| entry["key"].as_str().expect("a key").to_owned()).collect()
}

fn value(cluster: &Cluster, name: &str, keyspace: &str, key: &str) -> Option<String> {
    let answer = cluster.connection(name).send(&Request::new("GET", format!("/v1/kv/{keyspace}/{key}"))).expect("an answer");
    (answer.status == 200).then(|| answer.text())
}

#[test]
fn both_sides_of_a_cut_take_writes_and_nothing_is_lost() {
    let linked = Linked::ready();
    let cluster = &linked.cluster;
    create(cluster, "sides", r#"{"mode":"push","sync_interval":"2s"}"#);
    for number in 0..20 {
        put(cluster, "n1", "sides", &format!("old/{number}"), "before");
    }
    until_equal(cluster, "sides");
    linked.set(3, Link::Cut);
    // The majority's side and the other: both go on at once, and neither hears of the other.
    let mut written = BTreeSet::new();
    for number in 0..200 {
        for name in ["n1", "n2", "n3"] {
            let key = format!("new/{name}/{number}");
            assert_eq!(put(cluster, name, "sides", &key, "v"), 201);
            written.insert(key);
        }
    }
    let delete = |name: &str, key: &str| {
        let request = Request::new("DELETE", format!("/v1/kv/sides/{key}"));
        cluster.connection(name).expect(204, &request);
    };
    (0..10).for_each(|number| delete("n3", &format!("old/{number}")));
    (10..15).for_each(|number| delete("n1", &format!("old/{number}")));
    written.extend((15..20).map(|number| format!("old/{number}")));
    put(cluster, "n1", "sides", "both", "here");
    pause(50);
    put(cluster, "n3", "sides", "both", "there");
    written.insert("both".to_owned());
    // Not the first ones: a cut takes some milliseconds.
    assert!(value(cluster, "n1", "sides", "new/n3/199").is_none() && value(cluster, "n3", "sides", "new/n1/199").is_none());
    // What cannot come about is not begun: there are two others.
    let beyond = Request::new("PUT", "/v1/kv/sides/beyond?ack=3").with_body("v");
    let refused = cluster.connection("n1").expect(422, &beyond).text();
    assert!(refused.contains(r#""code":"too_few_replicas""#) && refused.contains("replicas at n1, n2, n3"), "{refused}");
    let patch = Request::json("PATCH", "/v1/keyspaces/sides", r#"{"replication":{"ack":3}}"#);
    let refused = cluster.connection("n1").expect(422, &patch).text();
    assert!(refused.contains(r#""code":"unsupported_settings""#) && refused.contains("at most 2"), "{refused}");
    // Who waits for all is told in time that one of them did not have it; the write is done all the same.
    let all = Request::new("PUT", "/v1/kv/sides/all?ack=2&timeout=300ms").with_body("v");
    let answer = cluster.connection("n1").expect(202, &all);
    assert_eq!(answer.header("quorate-replicated"), Some("1"));
    written.insert("all".to_owned());
    linked.heal();
    let took = until_equal(cluster, "sides");
    for name in ["n1", "n2", "n3"] {
        assert_eq!(keys(cluster, name, "sides"), written, "{name}");
        assert_eq!(value(cluster, name, "sides", "both").as_deref(), Some("there"), "{name}: the later write stays");
    }
    tell(format_args!("{} writes on two sides were equal {took:?} after the cut", written.len()));
}

#[test]
fn links_that_damage_and_hold_up_what_goes_over_them_lose_nothing() {
    let linked = Linked::ready();
    let cluster = &linked.cluster;
    create(cluster, "links", r#"{"mode":"push","outbox_max":"64KiB","sync_interval":"1s"}"#);
    let mut written = BTreeSet::new();
    // What a node writes within a round is twice what its outbox holds.
    let value = "v".repeat(3_000);
    let faults = [Link::Damaged(3_000), Link::Held, Link::Slow(30), Link::Damaged(200), Link::Cut];
    for (round, link) in faults.into_iter().enumerate() {
        linked.set(1 + round as u64 % 3, link);
        for number in 0..40 {
            for name in ["n1", "n2", "n3"] {
                let key = format!("{round}/{number}/{name}");
                put(cluster, name, "links", &key, &value);
                written.insert(key);
            }
        }
        linked.heal();
    }
    let took = until_equal(cluster, "links");
    for name in ["n1", "n2", "n3"] {
        assert_eq!(keys(cluster, name, "links"), written, "{name}");
    }
    // The links were bad enough: outboxes overflowed, and what was dropped from them comparisons brought.
    let sum = |metric: &str| -> i64 { ["n1", "n2", "n3"].iter().map(|name| metric_of(cluster, name, metric, "links")).sum() };
    let [overflows, exchanged] = ["overflows_total", "exchanged_total"].map(sum);
    assert!(overflows > 0 && exchanged > 0, "{overflows} outboxes overflowed, comparisons brought {exchanged} entries");
    until("everybody is sent again what is written, and nothing waits", EQUAL_LIMIT, || {
        let waits = ["peer_needs_sync", "outbox_bytes"].map(sum);
        if waits == [0, 0] { Ok(()) } else { Err(format!("{waits:?}")) }
    });
    let count = written.len();
    tell(format_args!("{count} writes over bad links were equal after {took:?}, {overflows} overflows, {exchanged} compared"));
}

/// The sum of what a node's metrics say of an eventual keyspace under a name.
fn metric_of(cluster: &Cluster, name: &str, metric: &str, keyspace: &str) -> i64 {
    let metrics = cluster.connection(name).expect(200, &Request::new("GET", "/metrics")).text();
    let of_it = |line: &&str| {
        line.strip_prefix("quorate_eventual_")
            .and_then(|line| line.strip_prefix(metric))
            .is_some_and(|rest| rest.starts_with('{'))
            && line.contains(&format!("keyspace=\"{keyspace}\""))
    };
    let values: Vec<i64> = metrics.lines().filter(of_it).filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
    assert!(!values.is_empty(), "{name} has no {metric} of {keyspace}:\n{metrics}");
    values.into_iter().sum()
}

/// What each key begins with at a node: of what generation it is.
fn generations(cluster: &Cluster, name: &str, keyspace: &str) -> BTreeMap<String, char> {
    let page = Request::new("GET", format!("/v1/kv/{keyspace}?limit=10000&values=true"));
    let page: serde_json::Value = cluster.connection(name).expect(200, &page).json();
    let items = page["items"].as_array().expect("a page has items");
    let text = |entry: &serde_json::Value, field: &str| entry[field].as_str().expect("text").to_owned();
    items.iter().map(|entry| (text(entry, "key"), text(entry, "value").chars().next().expect("not empty"))).collect()
}

/// Whoever is killed in the middle of a copy, the one who sends it or one who gets it: readers find all of the old content or all
/// of the new at each moment, and the copy is made in the end.
#[test]
fn a_mirror_whose_copy_ends_with_a_killed_node_shows_no_part_of_it() {
    const KEYS: usize = 100;
    let mut cluster = Cluster::ready(3);
    let keyspaces = ["hash", "lsm"];
    for engine in keyspaces {
        let mirror = r#"{"mode":"full-copy","trigger":"manual","variant":"mirror","source":"n1","copy_rate":"1MiB"}"#;
        create_on(&cluster, engine, engine, mirror);
    }
    let mut before = BTreeMap::new();
    for (victim, letter) in [(None, 'a'), (Some("n2"), 'b'), (Some("n1"), 'c')] {
        // Other keys than before, and others again: what is gone has to go.
        let keys = (0..KEYS).filter(|number| number % 3 != letter as usize % 3).map(|number| format!("{number:03}"));
        let after: BTreeMap<String, char> = keys.map(|key| (key, letter)).collect();
        for keyspace in keyspaces {
            after.keys().for_each(|key| _ = put(&cluster, "n1", keyspace, key, &letter.to_string().repeat(40_000)));
            for key in before.keys().filter(|key| !after.contains_key(*key)) {
                cluster.connection("n1").expect(204, &Request::new("DELETE", format!("/v1/kv/{keyspace}/{key}")));
            }
        }
        for keyspace in keyspaces {
            // It takes five seconds: 2.7 MB for each of two others, at 1 MiB a second. Nobody waits for it.
            let flush = Request::new("POST", format!("/v1/keyspaces/{keyspace}/flush?timeout=1ms"));
            cluster.connection("n1").expect(200, &flush);
        }
        if let Some(victim) = victim {
            pause(500);
            for keyspace in keyspaces {
                let told = stats(&cluster, "n1", keyspace);
                let are_copied = told.eventual.iter().flat_map(|own| &own.peers).all(|peer| peer.is_comparing);
                assert!(are_copied, "nobody is in the middle of it: {told:?}");
                assert_eq!(generations(&cluster, "n2", keyspace), before, "{keyspace}");
            }
            cluster.node_mut(victim).kill();
            cluster.restart(victim);
            cluster.until_ready();
        }
        let start = now();
        for keyspace in keyspaces {
            cluster.until_read_everywhere(keyspace);
            until("all have the new content", EQUAL_LIMIT, || {
                let found = ["n1", "n2", "n3"].map(|name| generations(&cluster, name, keyspace));
                let is_whole = found.iter().all(|found| *found == before || *found == after);
                assert!(is_whole, "{keyspace}: a part of a copy can be seen after {victim:?} was killed: {found:?}");
                if found.iter().all(|found| *found == after) { Ok(()) } else { Err(format!("{found:?}")) }
            });
        }
        tell(format_args!("killed in the middle of a copy: {victim:?}; all had the new content {:?} later", since(start)));
        before = after;
    }
    for keyspace in keyspaces {
        until_equal(&cluster, keyspace);
    }
}

#[test]
fn a_node_that_is_killed_has_what_it_acknowledged_in_every_mode() {
    let mut cluster = Cluster::ready(3);
    let modes = [
        ("push", r#"{"mode":"push","sync_interval":"1s"}"#),
        ("batch", r#"{"mode":"batch","interval":"200ms","max_entries":50,"sync_interval":"1s"}"#),
        ("copies", r#"{"mode":"full-copy","every":"300ms","sync_interval":"1s"}"#),
        ("reads", r#"{"mode":"read-repair","sync_interval":"1s"}"#),
    ];
    // In memory and on a disk.
    let of = |engine: &'static str| modes.map(|(mode, replication)| (format!("{mode}-{engine}"), engine, replication));
    let keyspaces = [of("hash"), of("lsm")].concat();
    keyspaces.iter().for_each(|(keyspace, engine, replication)| create_on(&cluster, engine, keyspace, replication));
    let mut written = BTreeSet::new();
    for round in 0..3 {
        for number in 0..60 {
            let name = ["n1", "n2", "n3"][number % 3];
            let key = format!("{round}/{number}");
            for (keyspace, ..) in &keyspaces {
                put(&cluster, name, keyspace, &key, "v");
            }
            written.insert(key);
        }
        // Whatever is on its way: nothing was waited for.
        let victim = ["n2", "n3", "n1"][round];
        cluster.node_mut(victim).kill();
        cluster.restart(victim);
        cluster.until_ready();
    }
    for (keyspace, ..) in &keyspaces {
        let took = until_equal(&cluster, keyspace);
        for name in ["n1", "n2", "n3"] {
            assert_eq!(keys(&cluster, name, keyspace), written, "{keyspace} at {name}");
        }
        tell(format_args!("{keyspace}: {} writes, three nodes killed, equal after {took:?}", written.len()));
    }
}

/// More than is kept of a log: most comes back with the engine, and the rest from the log. There is nobody else to have it from.
#[test]
fn a_node_alone_that_is_killed_comes_back_with_what_is_on_its_disk() {
    let mut cluster = Cluster::ready(1);
    let mut written = BTreeSet::new();
    for engine in ["lsm", "btree"] {
        create_on(&cluster, engine, engine, r#"{"mode":"push"}"#);
    }
    for number in 0..100 {
        let key = format!("{number:03}");
        for engine in ["lsm", "btree"] {
            put(&cluster, "n1", engine, &key, &key.repeat(300_000));
        }
        written.insert(key);
    }
    for _ in 0..2 {
        cluster.node_mut("n1").kill();
        cluster.restart("n1");
        cluster.until_ready();
        for engine in ["lsm", "btree"] {
            assert_eq!(keys(&cluster, "n1", engine), written, "{engine}");
            for key in ["000", "050", "099"] {
                assert_eq!(value(&cluster, "n1", engine, key), Some(key.repeat(300_000)), "{engine}: {key}");
            }
        }
        put(&cluster, "n1", "lsm", "100", "v");
        put(&cluster, "n1", "btree", "100", "v");
        written.insert("100".to_owned());
    }
}

/// A node comes back with nothing, and is filled over slow links. Whatever is read there comes from those who have it, until it
/// has all itself: a key that is there is never missing.
#[test]
fn what_is_read_at_a_node_that_is_being_filled_others_answer() {
    let mut linked = Linked::ready();
    create(&linked.cluster, "filled", r#"{"mode":"push","durability":"none"}"#);
    let large = "v".repeat(64 << 10);
    let count = 200;
    for number in 0..count {
        put(&linked.cluster, "n1", "filled", &format!("{number:03}"), &large);
    }
    until_equal(&linked.cluster, "filled");
    linked.set(3, Link::Slow(10));
    linked.restart(3);
    let address = linked.cluster.node("n3").client_address.clone();
    let served_by = |target: String| {
        let answer = Connection::with_patience(&address, EQUAL_LIMIT).send(&Request::new("GET", target)).ok()?;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Some((answer.header("quorate-node").expect("who answered").to_owned(), answer))
    };
    let (mut others, mut number) = (0, 0);
    until("n3 answers by itself", EQUAL_LIMIT, || {
        number = (number + 7) % count;
        let (by, answer) = served_by(format!("/v1/kv/filled/{number:03}?timeout=10s")).ok_or("n3 does not listen")?;
        assert_eq!(answer.text(), large);
        let (_, page) = served_by("/v1/kv/filled?limit=1000&timeout=10s".to_owned()).ok_or("n3 does not listen")?;
        let page: serde_json::Value = page.json();
        assert_eq!(page["items"].as_array().map(Vec::len), Some(count), "the whole list");
        if by == "n3" {
            return Ok(());
        }
        others += 1;
        if others == 5 {
            linked.heal();
        }
        Err(format!("{by} answers"))
    });
    assert!(others >= 5, "it was never asked while it was being filled");
    tell(format_args!("{others} reads were answered by others while n3 was filled"));
}

#[test]
fn a_read_asks_the_neighbours_and_keeps_what_is_newest() {
    let cluster = Cluster::ready(3);
    create(&cluster, "asks", r#"{"mode":"read-repair","sync_interval":"1h"}"#);
    put(&cluster, "n1", "asks", "key", "first");
    let get = Request::new("GET", "/v1/kv/asks/key");
    let local = || Request::new("GET", "/v1/kv/asks/key?consistency=local");
    cluster.connection("n2").expect(404, &local());
    let found = cluster.connection("n2").expect(200, &get);
    assert_eq!((found.text().as_str(), found.header("quorate-answered")), ("first", Some("2/2")));
    assert_eq!(cluster.connection("n2").expect(200, &local()).text(), "first", "it is kept");
    put(&cluster, "n3", "asks", "key", "second");
    assert_eq!(cluster.connection("n2").expect(200, &get).text(), "second");
    cluster.connection("n1").expect(204, &Request::new("DELETE", "/v1/kv/asks/key"));
    assert_eq!(cluster.connection("n3").expect(404, &get).header("quorate-answered"), Some("2/2"));
}

#[test]
fn a_mirror_has_what_its_source_has_and_takes_no_writes() {
    let cluster = Cluster::ready(3);
    create(
        &cluster,
        "mirror",
        r#"{"mode":"full-copy","trigger":"manual","variant":"mirror","source":"n2","sync_interval":"1h"}"#,
    );
    for number in 0..50 {
        put(&cluster, "n2", "mirror", &format!("key/{number}"), "v");
    }
    let refused = Request::new("PUT", "/v1/kv/mirror/key/1").with_body("other");
    let answer = cluster.connection("n1").send(&refused).expect("an answer");
    assert!(answer.status == 403 && answer.text().contains("mirrors node n2"), "{answer:?}");
    let flush = Request::new("POST", "/v1/keyspaces/mirror/flush");
    assert_eq!(cluster.connection("n2").expect(200, &flush).text(), r#"{"reached":2,"others":2}"#);
    assert_eq!(keys(&cluster, "n3", "mirror").len(), 50);
    cluster.connection("n2").expect(200, &Request::new("DELETE", "/v1/kv/mirror?prefix=key/1"));
    cluster.connection("n2").expect(200, &flush);
    assert_eq!(keys(&cluster, "n1", "mirror"), keys(&cluster, "n2", "mirror"));
}
