//! Many keyspaces: made through all nodes at once, while others are written to, altered and deleted; a node is killed
//! meanwhile, and all of them at the end. What was acknowledged is there, with its settings and its pairs, and what was deleted
//! is not.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Answer, Cluster, Connection, Request, Work, now, pause, since, tell, until};

const NODES: [&str; 3] = ["n1", "n2", "n3"];

const MAKERS: usize = 4;
const MADE_BY_EACH: usize = 50;

/// How long it may take until some node does what it is asked for, also while one of them is down.
const LIMIT: Duration = Duration::from_secs(20);

/// Longer than nodes take by their own limit.
const PATIENCE: Duration = Duration::from_secs(12);

/// What must be found in the end.
#[derive(Debug)]
struct Expected {
    engine: &'static str,
    mode: &'static str,
    max_value_bytes: u64,
    /// Of the key `k`, if there is one.
    value: Option<String>,
}

/// A client of all nodes, which asks another when one does not answer.
struct Client {
    nodes: Vec<Connection>,
    turn: usize,
}

impl Client {
    fn new(addresses: &[String], turn: usize) -> Self {
        Self { nodes: addresses.iter().map(|address| Connection::with_patience(address, PATIENCE)).collect(), turn }
    }

    /// Asks one node after the other until one of them answers with one of these. Whatever is asked can be asked again.
    #[track_caller]
    fn insist(&mut self, request: &Request, statuses: &[u16]) -> Answer {
        until(&format!("{request:?}"), LIMIT, || {
            self.turn += 1;
            let turn = self.turn % self.nodes.len();
            match self.nodes[turn].send(request) {
                Ok(answer) if statuses.contains(&answer.status) => Ok(answer),
                Ok(answer) if !matches!(answer.status, 503 | 504) => {
                    panic!("{request:?} at {}: {} {}", NODES[turn], answer.status, answer.text())
                }
                other => Err(format!("{}: {other:?}", NODES[turn])),
            }
        })
    }

    fn create(&mut self, name: &str, expected: &Expected) {
        let settings = json!({
            "engine": {"type": expected.engine},
            "replication": {"mode": expected.mode},
            "limits": {"max_value_bytes": expected.max_value_bytes},
        });
        self.insist(&Request::json("PUT", &format!("/v1/keyspaces/{name}"), settings.to_string()), &[200, 201]);
    }

    fn write(&mut self, name: &str, expected: &mut Expected, value: String) {
        self.insist(&Request::new("PUT", format!("/v1/kv/{name}/k")).with_body(value.clone()), &[200, 201, 204]);
        expected.value = Some(value);
    }

    fn alter(&mut self, name: &str, expected: &mut Expected, max_value_bytes: u64) {
        let settings = json!({"limits": {"max_value_bytes": max_value_bytes}});
        self.insist(&Request::json("PATCH", &format!("/v1/keyspaces/{name}"), settings.to_string()), &[200]);
        expected.max_value_bytes = max_value_bytes;
    }

    /// If the answer was lost, it is gone when it is asked for again.
    fn delete(&mut self, name: &str) {
        self.insist(&Request::new("DELETE", format!("/v1/keyspaces/{name}")), &[200, 204, 404]);
    }
}

/// Each engine, each with agreement and without.
fn expected(number: usize) -> Expected {
    let engine = ["lsm", "btree", "hash", "trie"][number % 4];
    let mode = if number % 5 == 3 { "push" } else { "raft" };
    Expected { engine, mode, max_value_bytes: 1_000 + number as u64, value: None }
}

/// Makes keyspaces, and does what is done to them: one is written to when it is made and again later, one in three is altered,
/// one in four deleted, and of those every second one is made anew, as another.
fn make(maker: usize, addresses: &[String], work: &Work) -> BTreeMap<String, Option<Expected>> {
    let mut client = Client::new(addresses, maker);
    let mut keyspaces = BTreeMap::new();
    let name_of = |number: usize| format!("by-{maker}-{number}");
    for number in 0..MADE_BY_EACH {
        let (name, mut made) = (name_of(number), expected(number));
        client.create(&name, &made);
        client.write(&name, &mut made, format!("{name} as it was made"));
        keyspaces.insert(name, Some(made));
        work.step();
        let Some(earlier) = number.checked_sub(5) else { continue };
        let name = name_of(earlier);
        let known = keyspaces.get_mut(&name).expect("it was made");
        if earlier % 3 == 0 {
            client.alter(&name, known.as_mut().expect("it is there"), 5_000 + earlier as u64);
        }
        if earlier % 4 != 1 {
            client.write(&name, known.as_mut().expect("it is there"), format!("{name} later"));
            continue;
        }
        client.delete(&name);
        *known = None;
        if earlier % 8 == 1 {
            let other = Expected { mode: "raft", max_value_bytes: 9_000, ..expected(earlier + 1) };
            client.create(&name, &other);
            *known = Some(other);
        }
    }
    keyspaces
}

#[test]
fn what_was_done_to_two_hundred_keyspaces_is_there_after_every_node_was_killed() {
    let mut cluster = Cluster::ready(3);
    let (addresses, work, begun) = (cluster.addresses(), Work::default(), now());
    let keyspaces: BTreeMap<String, Option<Expected>> = thread::scope(|scope| {
        let makers = (0..MAKERS).map(|maker| {
            let (addresses, work) = (&addresses, &work);
            scope.spawn(move || make(maker, addresses, work))
        });
        let makers: Vec<_> = makers.collect();
        for (killed, steps) in [("n2", 60), ("n1", 120)] {
            until("keyspaces are made", 3 * LIMIT, || if work.steps() >= steps { Ok(()) } else { Err(work.steps().to_string()) });
            cluster.node_mut(killed).kill();
            pause(1_000);
            cluster.restart(killed);
        }
        makers.into_iter().flat_map(|maker| maker.join().expect("a client got what it asked for")).collect()
    });
    assert_eq!(keyspaces.len(), MAKERS * MADE_BY_EACH);
    tell(format_args!("{} keyspaces made after {:?}", keyspaces.len(), since(begun)));
    cluster.until_ready();
    assert_as_expected(&cluster, &keyspaces);

    NODES.iter().for_each(|name| cluster.node_mut(name).begin_kill());
    NODES.iter().for_each(|name| cluster.node_mut(name).end_kill());
    let killed = now();
    NODES.iter().for_each(|name| cluster.restart(name));
    cluster.until_ready();
    assert_as_expected(&cluster, &keyspaces);
    tell(format_args!("all there {:?} after all nodes were killed", since(killed)));
}

/// Every node names the same keyspaces with the same settings, and has their pairs.
#[track_caller]
fn assert_as_expected(cluster: &Cluster, keyspaces: &BTreeMap<String, Option<Expected>>) {
    for name in NODES {
        let mut node = cluster.connection(name);
        let list: Value = node.expect(200, &Request::new("GET", "/v1/keyspaces")).json();
        let items = list["items"].as_array().expect("keyspaces");
        let listed: BTreeMap<&str, &Value> = items.iter().map(|item| (item["name"].as_str().expect("a name"), item)).collect();
        let there = keyspaces.iter().filter_map(|(name, expected)| Some((name, expected.as_ref()?)));
        assert_eq!(listed.len(), there.clone().count() + 2, "{name} has others, too: {:?}", listed.keys());
        for (keyspace, expected) in there {
            let shown = listed.get(keyspace.as_str()).unwrap_or_else(|| panic!("{name} has no {keyspace}"));
            let settings = (&shown["engine"]["type"], &shown["replication"]["mode"], &shown["limits"]["max_value_bytes"]);
            assert_eq!(
                settings,
                (&json!(expected.engine), &json!(expected.mode), &json!(expected.max_value_bytes)),
                "{keyspace}"
            );
            let get = Request::new("GET", format!("/v1/kv/{keyspace}/k"));
            until(&format!("{name} has what is in {keyspace}"), LIMIT, || {
                let found = match node.send(&get) {
                    Ok(answer) if answer.status == 200 => Ok(Some(answer.text())),
                    Ok(answer) if answer.status == 404 => Ok(None),
                    other => Err(format!("{other:?}")),
                };
                if found.as_ref() == Ok(&expected.value) { Ok(()) } else { Err(format!("{found:?} of {expected:?}")) }
            });
        }
        for (keyspace, _) in keyspaces.iter().filter(|(_, expected)| expected.is_none()) {
            let missing: Value = node.expect(404, &Request::new("GET", format!("/v1/kv/{keyspace}/k"))).json();
            assert_eq!(missing["code"], json!("keyspace_not_found"));
        }
    }
}
