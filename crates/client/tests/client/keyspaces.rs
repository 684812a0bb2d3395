//! How calls about keyspaces are written, and how their answers are read.

use quorate_api::keyspace::{
    Amount, Capabilities, EngineBody, KeyspaceBody, KeyspaceState, LimitsBody, MoveBody, ReplicationBody, SettingsBody,
};
use quorate_api::problem::{Code, WriteOutcome};
use quorate_client::{Client, Error, Options};
use serde_json::json;

use crate::fake_node::{FakeNode, Reaction, answer_of};

fn client(node: &FakeNode) -> Client {
    Client::new(vec![node.endpoint.clone()], Options::default())
}

fn keyspace() -> KeyspaceBody {
    let engine = |kind: &str| EngineBody { kind: kind.to_owned(), ..EngineBody::default() };
    KeyspaceBody {
        name: "orders".to_owned(),
        engine: engine("lsm"),
        replication: ReplicationBody { mode: "raft".to_owned(), options: [].into() },
        ttl: None,
        limits: LimitsBody { max_bytes: Some(Amount::Number(1 << 30)), ..LimitsBody::default() },
        retention: None,
        state: KeyspaceState::Ready,
        capabilities: Capabilities::of(|_| true, 4096, 1 << 20),
        epoch: 7,
        created_at: None,
        running_move: Some(MoveBody { job: 3, from: engine("trie"), to: engine("lsm"), replicas: 3, done_replicas: 1 }),
    }
}

async fn node(status: u16, body: serde_json::Value) -> FakeNode {
    FakeNode::start(move |_| Reaction::Answer(answer_of(status, &[("content-type", "application/json")], body.to_string()))).await
}

#[tokio::test]
async fn keyspaces_are_made_altered_and_shown() {
    for status in [201, 200] {
        let made = node(status, serde_json::to_value(keyspace()).unwrap()).await;
        let engine =
            EngineBody { kind: "lsm".to_owned(), options: [("a".to_owned(), Amount::Text("1KiB".to_owned()).into())].into() };
        let settings = SettingsBody { engine: Some(engine), ..SettingsBody::default() };
        let (is_new, told) = client(&made).create_keyspace("orders", &settings).await.unwrap();
        assert_eq!((is_new, told), (status == 201, keyspace()));
        let seen = &made.seen()[0];
        assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PUT", "/v1/keyspaces/orders"));
        assert_eq!(seen.headers["content-type"], "application/json");
        assert_eq!(seen.body.as_ref(), br#"{"engine":{"type":"lsm","a":"1KiB"}}"#);
    }
    let altered = node(200, serde_json::to_value(keyspace()).unwrap()).await;
    let patch = json!({"ttl": null}).as_object().cloned().unwrap();
    assert_eq!(client(&altered).alter_keyspace("orders", &patch).await.unwrap(), keyspace());
    assert_eq!(client(&altered).keyspace("a/b").await.unwrap(), keyspace());
    let seen: Vec<String> = altered.seen().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    assert_eq!(seen, ["PATCH /v1/keyspaces/orders", "GET /v1/keyspaces/a%2Fb"]);
    assert_eq!(altered.seen()[0].body.as_ref(), br#"{"ttl":null}"#);
}

#[tokio::test]
async fn lists_are_read_item_by_item() {
    let listed = node(200, json!({"items": [keyspace(), keyspace()]})).await;
    assert_eq!(client(&listed).keyspaces().await.unwrap(), [keyspace(), keyspace()]);
    let empty = node(200, json!({"items": []})).await;
    assert_eq!((client(&empty).engines().await.unwrap().len(), client(&empty).jobs().await.unwrap().len()), (0, 0));
    let targets: Vec<String> = empty.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/v1/engines", "/v1/jobs"]);
}

#[tokio::test]
async fn what_is_not_there_is_named_by_its_code() {
    let node = FakeNode::refusing(Code::KeyspaceNotFound, None).await;
    for error in [client(&node).keyspace("gone").await.unwrap_err(), client(&node).keyspace_stats("gone").await.unwrap_err()] {
        assert!(matches!(error, Error::Refused { .. }) && error.code() == Some("keyspace_not_found"), "{error}");
    }
    let node = FakeNode::refusing(Code::JobNotFound, None).await;
    assert_eq!(client(&node).job(12).await.unwrap_err().code(), Some("job_not_found"));
    assert_eq!(node.seen()[0].target, "/v1/jobs/12");
}

/// A keyspace that was made anew under the name must not be deleted by the repetition of an older wish.
#[tokio::test]
async fn a_deletion_is_not_sent_twice() {
    let node = FakeNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown)).await;
    let error = client(&node).delete_keyspace("orders").await.unwrap_err();
    assert_eq!((error.outcome(), node.seen().len()), (WriteOutcome::Unknown, 1));
}
