//! The past.

use quorate_api::entry::Happened;
use quorate_api::problem::{Code, WriteOutcome};
use quorate_client::{Client, GetOptions, HistoryQuery, ListQuery, Options};

use crate::fake_node::FakeNode;

fn client(node: &FakeNode) -> Client {
    Client::new(vec![node.endpoint.clone()], Options::default())
}

#[tokio::test]
async fn versions_of_a_key_are_read() {
    let answer = r#"{"items":[{"revision":8,"type":"put","age":0.25,"entry":
        {"key":"a b","value":"v","create_revision":8,"mod_revision":8,"version":1}},{"revision":7,"type":"expire"}],
        "revision":9,"compacted_revision":3,"next_before":7}"#;
    let node = FakeNode::always(200, &[], answer).await;
    let query = HistoryQuery { before: Some(9), limit: Some(2), with_values: true, ..HistoryQuery::default() };
    let found = client(&node).history("orders", b"a b", &query).await.unwrap();
    assert_eq!((found.revision, found.compacted_revision, found.next_before), (9, 3, Some(7)));
    let [set, gone] = &found.versions[..] else { panic!("{found:?}") };
    assert_eq!((set.revision, set.happened, set.age_ms), (8, Happened::Put, Some(250)));
    assert_eq!(set.entry.as_ref().unwrap().value, Some("v".into()));
    assert_eq!((gone.revision, gone.happened, gone.age_ms, &gone.entry), (7, Happened::Expire, None, &None));
    assert_eq!(node.seen()[0].target, "/v1/kv/orders/a%20b?history=true&before=9&limit=2&values=true");
}

#[tokio::test]
async fn reads_name_the_revision() {
    let node = FakeNode::always(200, &[], r#"{"items":[],"revision":4}"#).await;
    let freshness = GetOptions { revision: Some(4), ..GetOptions::default() };
    client(&node).list("orders", ListQuery { freshness, ..ListQuery::default() }).next_page().await.unwrap();
    assert_eq!(node.seen()[0].target, "/v1/kv/orders?revision=4");
    let gone = FakeNode::refusing(Code::Compacted, None).await;
    let error = client(&gone).get("orders", b"a", &GetOptions { revision: Some(4), ..GetOptions::default() }).await.unwrap_err();
    assert_eq!(error.code(), Some("compacted"));
}

#[tokio::test]
async fn a_keyspace_is_compacted() {
    let node = FakeNode::always(200, &[], r#"{"compacted_revision":4,"revision":9,"is_swept":true}"#).await;
    let compacted = client(&node).compact("orders", 4, true).await.unwrap();
    assert_eq!((compacted.compacted_revision, compacted.revision, compacted.is_swept), (4, 9, true));
    let seen = &node.seen()[0];
    assert_eq!(format!("{} {}", seen.method, seen.target), "POST /v1/keyspaces/orders/compact");
    assert_eq!(seen.body, br#"{"revision":4,"physical":true}"#.as_slice());
    let unsure = FakeNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown)).await;
    assert_eq!(client(&unsure).compact("orders", 4, false).await.unwrap_err().outcome(), WriteOutcome::Unknown);
}
