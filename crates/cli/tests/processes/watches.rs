//! Watches, through the death of the nodes that tell them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use quorate_api::header::REVISION;
use serde_json::Value;

use crate::support::{Cluster, Request, pause, program, tell};

const PUTS: u64 = 600;

/// `quorate watch`, in the background. Ended with the test.
struct Watching(Child);

impl Watching {
    fn start(cluster: &Cluster, arguments: &[&str]) -> Self {
        let endpoints: Vec<String> = cluster.addresses().iter().map(|address| format!("http://{address}")).collect();
        let mut command = program();
        command.args(["watch", "-o", "json", "-e", &endpoints.join(",")]).args(arguments).stdout(Stdio::piped());
        Self(command.spawn().expect("the program can be started"))
    }

    /// The changes of all it says until it ends by itself.
    fn changes(mut self) -> Vec<(u64, Value)> {
        let lines = BufReader::new(self.0.stdout.take().expect("it is piped")).lines();
        let messages = lines.map(|line| serde_json::from_str::<Value>(&line.expect("text")).expect("an object a line"));
        let changes = messages.filter(|message| message["event"] == "change");
        let changes =
            changes.map(|message| (message["revision"].as_u64().expect("a number"), message["events"].clone())).collect();
        assert!(self.0.wait().expect("it ends").success());
        changes
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Puts with ascending values through one node, over all that happens to the others; what was acknowledged, by revision.
fn put_through(cluster: &mut Cluster, name: &str, killed: &str) -> BTreeMap<u64, (String, String)> {
    let mut acknowledged = BTreeMap::new();
    let mut connection = cluster.connection(name);
    for number in 0..PUTS {
        if number == PUTS / 3 {
            cluster.node_mut(killed).kill();
        }
        if number == 2 * PUTS / 3 {
            cluster.restart(killed);
        }
        let (key, value) = (format!("w/{}", number % 7), number.to_string());
        let answer = connection.send(&Request::put(key.as_bytes(), value.as_str()).with_query("timeout=10s"));
        match answer {
            Ok(answer) if answer.status < 300 => {
                let revision = answer.header(REVISION).and_then(|text| text.parse().ok()).expect("a number");
                acknowledged.insert(revision, (key, value));
            }
            // Its fate is not known: it may be among the changes, or not.
            other => tell(format_args!("put {number}: {other:?}")),
        }
    }
    acknowledged
}

#[test]
fn a_watch_outlives_the_node_that_tells_it() {
    let mut cluster = Cluster::ready(3);
    let leader = cluster.leader();
    let writer = cluster.other_than(&[&leader]);
    cluster.connection(&writer).expect(201, &Request::put(b"w/0", "before"));
    // One is told by the leader, which is killed; the others by whichever is first.
    let local = Watching::start(&cluster, &["--prefix", "w/", "--from-revision", "3", "--count", &PUTS.to_string(), "--local"]);
    let initial = Watching::start(&cluster, &["--prefix", "w/", "--initial", "--count", "100"]);
    pause(500);
    let acknowledged = put_through(&mut cluster, &writer, &leader);
    assert!(acknowledged.len() as u64 > PUTS * 9 / 10, "{} of {PUTS} were acknowledged", acknowledged.len());
    // So that the first one comes to its end whatever became of the others.
    let mut connection = cluster.connection(&writer);
    for number in 0..PUTS - acknowledged.len() as u64 {
        connection.expect(204, &Request::put(b"w/0", format!("last {number}")));
    }
    for watching in [local, initial] {
        let changes = watching.changes();
        let first = changes[0].0;
        for ((revision, events), expected) in changes.iter().zip(first..) {
            assert_eq!(*revision, expected, "a revision is missing, or came twice");
            assert_eq!(events.as_array().map(Vec::len), Some(1), "{events}");
            if let Some((key, value)) = acknowledged.get(revision) {
                assert_eq!((events[0]["key"].as_str(), events[0]["value"].as_str()), (Some(&**key), Some(&**value)));
            }
        }
        assert_eq!(first, 3);
    }
    cluster.until_ready();
    cluster.assert_same_everywhere();
}
