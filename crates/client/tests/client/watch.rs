//! Watches against nodes that say what the test wants, and go away when it wants.

use std::time::Duration;

use quorate_api::problem::Code;
use quorate_api::watch::EventType;
use quorate_client::{Client, GetOptions, News, Options, WatchQuery, Watched, WatchedKeys};
use serde_json::json;

use crate::fake_node::{FakeNode, Reaction, answer_of, problem};

fn client(nodes: &[&FakeNode]) -> Client {
    let endpoints = nodes.iter().map(|node| node.endpoint.clone()).collect();
    Client::new(endpoints, Options { timeout: Duration::from_secs(2), ..Options::default() })
}

const HEADERS: &[(&str, &str)] = &[("content-type", "application/x-ndjson"), ("quorate-revision", "4"), ("quorate-epoch", "e1")];

async fn node(lines: &'static [&'static str]) -> FakeNode {
    let body: String = lines.iter().map(|line| line.replace('\n', "") + "\n").collect();
    FakeNode::start(move |_| Reaction::Answer(answer_of(200, HEADERS, body.clone()))).await
}

fn query(key: &str) -> WatchQuery {
    let watched = Watched { types: vec![EventType::Put], ..Watched::keys(WatchedKeys::One(key.into())) };
    WatchQuery { watched: vec![watched], ..WatchQuery::default() }
}

const FIRST: &str = r#"{"event":"change","revision":5,"events":[
    {"type":"put","key":"a","value":"1","create_revision":5,"mod_revision":5,"version":1}]}"#;
const SECOND: &str = r#"{"event":"change","revision":7,"events":[
    {"type":"put","key":"a","value":"2","create_revision":5,"mod_revision":7,"version":2}]}"#;
const PROGRESS: &str = r#"{"event":"progress","revision":9}"#;
const SHUTTING_DOWN: &str = r#"{"event":"error","revision":5,"problem":{"type":"/problems/shutting-down","title":"Shutting down",
    "status":503,"detail":"","code":"shutting_down","retryable":true}}"#;
const COMPACTED: &str = r#"{"event":"error","revision":9,"problem":{"type":"/problems/compacted","title":"Compacted",
    "status":410,"detail":"gone","code":"compacted","retryable":false}}"#;

fn revision_of(news: News) -> u64 {
    match news {
        News::Change { revision, events } => {
            assert_eq!((events.len(), events[0].kind, &*events[0].entry.key), (1, EventType::Put, &b"a"[..]));
            revision
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn another_node_goes_on_where_one_ended() {
    let broken = node(&[FIRST, ""]).await;
    let ending = node(&[SHUTTING_DOWN]).await;
    let third = node(&[SECOND, PROGRESS, COMPACTED]).await;
    let mut stream = client(&[&broken, &ending, &third]).watch("default", query("a"));
    assert_eq!(revision_of(stream.next().await.unwrap()), 5);
    assert_eq!(revision_of(stream.next().await.unwrap()), 7);
    assert_eq!(stream.next().await.unwrap(), News::Progress { revision: 9 });
    assert_eq!(stream.next().await.unwrap_err().code(), Some("compacted"));
    let asked = &broken.seen()[0];
    let body: serde_json::Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!((&*asked.target, body), ("/v1/watch/default?", json!({"watches": [{"key64": "YQ", "types": ["put"]}]})));
    assert!(!asked.headers.contains_key("last-event-id"));
    for node in [&ending, &third] {
        assert_eq!(node.seen()[0].headers["last-event-id"], "e1.5");
    }
}

/// Whoever uses the client may do so on any thread.
#[test]
fn what_the_client_does_can_be_spawned() {
    fn is_send<T: Send>(_: &T) {}
    let client = Client::new(vec!["http://127.0.0.1:1".parse().unwrap()], Options::default());
    let mut stream = client.watch("default", WatchQuery::default());
    is_send(&stream.next());
    is_send(&client.get("default", b"a", &GetOptions::default()));
}

const OF_A_NODE: &[(&str, &str)] = &[
    ("content-type", "application/x-ndjson"),
    ("quorate-revision", "4"),
    ("quorate-epoch", "e1"),
    ("quorate-watch-scope", "node"),
];

/// A node of an eventual keyspace that tells this once, and does not know what another told before.
async fn counting_node(lines: &'static [&'static str]) -> FakeNode {
    let body: String = lines.iter().map(|line| line.replace('\n', "") + "\n").collect();
    FakeNode::start(move |seen| {
        if seen.headers.contains_key("last-event-id") {
            return Reaction::Answer(problem(Code::Compacted, None));
        }
        Reaction::Answer(answer_of(200, OF_A_NODE, body.clone()))
    })
    .await
}

const SYNC: &str = r#"{"event":"sync","revision":4}"#;

#[tokio::test]
async fn where_each_node_tells_its_own_another_one_begins_anew() {
    let (first, second) = (counting_node(&[SYNC, FIRST, SHUTTING_DOWN]).await, counting_node(&[SYNC, SECOND]).await);
    let client = client(&[&first, &second]);
    let mut stream = client.watch("carts", WatchQuery { is_initial: true, ..query("a") });
    assert_eq!(stream.told_by(), None);
    assert_eq!(stream.next().await.unwrap(), News::Sync { revision: 4 });
    assert_eq!(stream.told_by(), Some(&*first.endpoint.to_string()));
    assert_eq!(revision_of(stream.next().await.unwrap()), 5);
    assert_eq!(stream.next().await.unwrap(), News::Anew);
    assert_eq!((stream.told_by(), stream.told()), (None, None));
    assert_eq!(stream.next().await.unwrap(), News::Sync { revision: 4 });
    assert_eq!(revision_of(stream.next().await.unwrap()), 7);
    assert_eq!(stream.told_by(), Some(&*second.endpoint.to_string()));
    // Its connection is lost, and itself not: it is asked first whether it goes on.
    let asked = second.seen().len();
    assert_eq!(stream.next().await.unwrap(), News::Anew);
    assert_eq!((second.seen().len(), first.seen().len()), (asked + 1, 1));
    let ids: Vec<_> =
        second.seen().iter().map(|seen| seen.headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned())).collect();
    assert_eq!(ids, [Some("e1.5".to_owned()), None, Some("e1.7".to_owned())]);
}

#[tokio::test]
async fn who_did_not_ask_for_what_is_there_is_told_that_it_cannot_go_on() {
    let (first, second) = (counting_node(&[FIRST, SHUTTING_DOWN]).await, counting_node(&[SECOND]).await);
    let mut stream = client(&[&first, &second]).watch("carts", query("a"));
    assert_eq!(revision_of(stream.next().await.unwrap()), 5);
    assert_eq!(stream.next().await.unwrap_err().code(), Some("compacted"));
    assert_eq!(stream.next().await.unwrap_err().code(), Some("compacted"), "nothing is skipped by itself");
}
