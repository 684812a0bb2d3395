//! Watches of eventual keyspaces, which are of one node each: on real processes, one of which is killed.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use quorate_api::header::{EPOCH, INDEX, REVISION, SESSION, WATCH_SCOPE};
use serde_json::{Value, json};

use crate::replication::{create, until_equal};
use crate::support::{Answer, Cluster, Request, program, until};

/// `quorate watch` at some nodes, in the background. Ended with the test.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(cluster: &Cluster, names: &[&str], arguments: &[&str]) -> Self {
        let at = |name: &&str| format!("http://{}", cluster.node(name).client_address);
        let endpoints: Vec<String> = names.iter().map(at).collect();
        let mut command = program();
        command.args(["-k", "carts", "watch", "-o", "json", "-e", &endpoints.join(",")]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// The next message that is not only a sign of life.
    fn next(&mut self) -> Value {
        loop {
            let line = self.lines.next().expect("it goes on").expect("text");
            let message: Value = serde_json::from_str(&line).expect("an object a line");
            if message["event"] != "progress" {
                return message;
            }
        }
    }

    /// The next event, which is the only one of its revision: what happened to which key, the value, and its stamp.
    fn event(&mut self) -> (String, String, Option<String>, String) {
        let message = self.next();
        let events = message["events"].as_array().unwrap_or_else(|| panic!("{message}"));
        assert_eq!((message["event"].as_str(), events.len()), (Some("change"), 1), "{message}");
        let text = |name: &str| events[0][name].as_str().map(str::to_owned);
        (text("type").expect("a type"), text("key").expect("a key"), text("value"), text("stamp").expect("a stamp"))
    }

    /// How it ends, and what it said.
    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("it ends");
        let mut told = String::new();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        std::io::Read::read_to_string(&mut stderr, &mut told).expect("text");
        (status.code(), told)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn at(cluster: &Cluster, name: &str, request: &Request) -> Answer {
    cluster.connection(name).send(request).expect("an answer")
}

/// A write at a node; its stamp.
fn put(cluster: &Cluster, name: &str, key: &str, value: &str, query: &str) -> String {
    let request = Request::new("PUT", format!("/v1/kv/carts/{key}{query}")).with_body(value);
    let answer = at(cluster, name, &request);
    assert!(matches!(answer.status, 201 | 204), "{answer:?}");
    answer.header("quorate-stamp").expect("a stamp").to_owned()
}

/// Whether a watch that goes on behind this event begins, or why not.
fn resume(cluster: &Cluster, name: &str, id: &str) -> (u16, Option<String>) {
    let answer = at(cluster, name, &Request::new("HEAD", "/v1/watch/carts").with_header("last-event-id", id));
    if answer.status == 200 {
        return (200, None);
    }
    // A refusal ends by itself, so that it can be asked for with its body.
    let refused = at(cluster, name, &Request::new("GET", "/v1/watch/carts").with_header("last-event-id", id));
    (refused.status, refused.json::<Value>()["detail"].as_str().map(str::to_owned))
}

#[test]
fn what_comes_to_a_node_is_told_there_and_nowhere_else_goes_on() {
    let mut cluster = Cluster::ready(3);
    create(&cluster, "carts", r#"{"mode":"push"}"#);
    let shown = at(&cluster, "n1", &Request::new("GET", "/v1/keyspaces/carts")).json::<Value>();
    let can = &shown["capabilities"];
    assert_eq!((&can["watch"], &can["watch_scope"], &can["revisions"]), (&json!(true), &json!("node"), &json!(false)));

    // Written at one node, told at another: with the same stamps.
    let first = put(&cluster, "n1", "a", "1", "?ack=all_up");
    let mut watching = Watching::start(&cluster, &["n2", "n3"], &["--initial", "--prev"]);
    let snapshot = watching.next();
    assert_eq!((&snapshot["event"], &snapshot["events"][0]["stamp"]), (&json!("snapshot"), &json!(first)));
    assert_eq!(watching.next()["event"], "sync");
    let stamp = put(&cluster, "n1", "a", "2", "");
    assert_eq!(watching.event(), ("put".into(), "a".into(), Some("2".into()), stamp));
    let stamp = put(&cluster, "n3", "b", "short", "?ttl=1s");
    assert_eq!(watching.event(), ("put".into(), "b".into(), Some("short".into()), stamp.clone()));
    assert_eq!(watching.event(), ("expire".into(), "b".into(), None, stamp));
    let deleted = at(&cluster, "n1", &Request::new("DELETE", "/v1/kv/carts/a"));
    let stamp = deleted.header("quorate-stamp").expect("a stamp").to_owned();
    let gone = watching.next();
    let event = json!({"type": "delete", "key": "a", "stamp": stamp, "prev": gone["events"][0]["prev"]});
    assert_eq!((&gone["events"][0], &event["prev"]["value"]), (&event, &json!("2")));
    let id = format!("{}.{}", head(&cluster, "n2", EPOCH), gone["revision"]);

    // Another node refuses to go on from there, and this one does it.
    assert_eq!(resume(&cluster, "n2", &id).0, 200);
    let (status, detail) = resume(&cluster, "n3", &id);
    assert!(status == 410 && detail.as_ref().is_some_and(|detail| detail.contains("told by another node")), "{detail:?}");
    let plain = Request::new("GET", "/v1/watch/carts?from_revision=2");
    assert_eq!(at(&cluster, "n2", &plain).json::<Value>()["code"], "unsupported_capability");

    // Its node is killed: the other one begins anew, with what there is; who did not ask for that is told so.
    let mut plain = Watching::start(&cluster, &["n2", "n3"], &[]);
    until("it has begun", Duration::from_secs(10), || {
        let metrics = at(&cluster, "n2", &Request::new("GET", "/metrics")).text();
        let is_so = metrics.lines().any(|line| line == "quorate_rest_watch_streams 2");
        if is_so { Ok(()) } else { Err("two watches are to be there".to_owned()) }
    });
    let stamp = put(&cluster, "n1", "c", "3", "");
    assert_eq!(plain.event(), ("put".into(), "c".into(), Some("3".into()), stamp.clone()));
    assert_eq!(watching.event(), ("put".into(), "c".into(), Some("3".into()), stamp.clone()));
    cluster.node_mut("n2").kill();
    let again = watching.next();
    assert_eq!((&again["event"], again["events"].as_array().map(Vec::len)), (&json!("snapshot"), Some(1)), "{again}");
    assert_eq!(again["events"][0]["stamp"], json!(stamp));
    assert_eq!(watching.next()["event"], "sync");
    let stamp = put(&cluster, "n1", "d", "4", "");
    assert_eq!(watching.event(), ("put".into(), "d".into(), Some("4".into()), stamp));
    let (code, told) = plain.end();
    assert!(code == Some(1) && told.contains("read what is there") && told.contains("take writes on their own"), "{told}");

    // Nor does the same node go on after its restart, although it has what it had.
    cluster.restart("n2");
    cluster.until_ready();
    until_equal(&cluster, "carts");
    let (status, detail) = resume(&cluster, "n2", &id);
    assert!(status == 410 && detail.as_ref().is_some_and(|detail| detail.contains("started its replica anew")), "{detail:?}");
}

/// A header of a watch that begins at a node.
fn head(cluster: &Cluster, name: &str, header: &str) -> String {
    let answer = at(cluster, name, &Request::new("HEAD", "/v1/watch/carts"));
    assert_eq!((answer.status, answer.header(WATCH_SCOPE)), (200, Some("node")), "{answer:?}");
    answer.header(header).unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

#[test]
fn a_read_waits_for_what_comes_to_its_node() {
    let cluster = Cluster::ready(3);
    create(&cluster, "carts", r#"{"mode":"push"}"#);
    put(&cluster, "n1", "a", "1", "?ack=all_up");
    let index = |answer: &Answer| answer.header(INDEX).map(str::to_owned);
    let get = |name: &str, target: &str| at(&cluster, name, &Request::new("GET", format!("/v1/kv/carts{target}")));
    // Who does not wait is told of no index; who asks to for the first time has nothing to wait for.
    assert_eq!(index(&get("n2", "/a")), None);
    let found = get("n2", "/a?wait=20s");
    let first = index(&found).expect("an index");
    assert_eq!((found.status, found.text().as_str()), (200, "1"));
    let found = get("n2", "/a?wait=300ms");
    let tag = found.header("etag").expect("a tag").to_owned();
    // Nothing happens, by index, by tag, and in a list.
    let unchanged = get("n2", &format!("/a?wait=300ms&index={first}"));
    assert_eq!((unchanged.status, index(&unchanged)), (304, Some(first.clone())));
    let by_tag = Request::new("GET", "/v1/kv/carts/a?wait=300ms").with_header("if-none-match", tag.as_str());
    assert_eq!(at(&cluster, "n2", &by_tag).status, 304);
    assert_eq!(get("n2", &format!("?prefix=a&wait=300ms&index={first}")).status, 304);
    // Something does, at another node, while all three wait.
    let waiting: Vec<_> = [
        Request::new("GET", format!("/v1/kv/carts/a?wait=20s&index={first}")),
        Request::new("GET", "/v1/kv/carts/a?wait=20s").with_header("if-none-match", tag),
        Request::new("GET", format!("/v1/kv/carts?prefix=a&values=true&wait=20s&index={first}")),
    ]
    .into_iter()
    .map(|request| {
        let mut connection = cluster.connection("n2");
        let wait = move || connection.send(&request).expect("an answer");
        std::thread::Builder::new().name("waits".to_owned()).spawn(wait).expect("a thread can be started")
    })
    .collect();
    until("they wait", Duration::from_secs(10), || {
        let metrics = at(&cluster, "n2", &Request::new("GET", "/metrics")).text();
        let is_so = metrics.lines().any(|line| line == "quorate_rest_watch_streams 3");
        if is_so { Ok(()) } else { Err("three are to wait".to_owned()) }
    });
    put(&cluster, "n1", "a", "2", "");
    for (waiting, is_list) in waiting.into_iter().zip([false, false, true]) {
        let answer = waiting.join().expect("it does not panic");
        let next = index(&answer).expect("an index");
        let told = if is_list { answer.json::<Value>()["items"][0]["value"].clone() } else { json!(answer.text()) };
        assert!(answer.status == 200 && told == json!("2") && next != first, "{answer:?}");
    }
    // What is missed is told at once, and another node's index, too.
    assert_eq!(get("n2", &format!("/a?wait=20s&index={first}")).text(), "2");
    assert_eq!(get("n3", &format!("/none?wait=20s&index={first}")).status, 404);
    assert_eq!(get("n2", "/a?wait=1s&index=7").json::<Value>()["code"], "unsupported_capability");
    let raft = at(&cluster, "n2", &Request::new("GET", format!("/v1/kv/default/a?wait=1s&index={first}")));
    assert_eq!(raft.json::<Value>()["code"], "bad_parameter");
}

#[test]
fn a_watch_in_a_session_begins_with_what_the_session_has_seen() {
    let cluster = Cluster::ready(3);
    // Nothing travels by itself.
    create(&cluster, "carts", r#"{"mode":"full-copy","trigger":"manual","sync_interval":"1h"}"#);
    let write = Request::new("PUT", "/v1/kv/carts/a").with_body("1").with_header(SESSION, "new");
    let token = at(&cluster, "n1", &write).header(SESSION).expect("a token").to_owned();
    let begun = |session: Option<&str>| {
        let request = Request::new("HEAD", "/v1/watch/carts");
        let request = session.iter().fold(request, |request, token| request.with_header(SESSION, *token));
        at(&cluster, "n2", &request)
    };
    let before = begun(None);
    assert_eq!((before.header(REVISION), before.header(SESSION)), (Some("1"), None), "nothing has come here");
    let within = begun(Some(&token));
    let revision: u64 = within.header(REVISION).and_then(|text| text.parse().ok()).expect("a revision");
    assert!(revision > 1 && within.header(SESSION).is_some(), "{within:?}");
    assert_eq!(at(&cluster, "n2", &Request::new("GET", "/v1/kv/carts/a")).text(), "1");
}
