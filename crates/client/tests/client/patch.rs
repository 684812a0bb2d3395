//! Changes of a key by what it holds.

use std::time::Duration;

use quorate_api::batch::BatchOp;
use quorate_api::patch::{BatchPatch, KeyPatch};
use quorate_api::problem::{Code, WriteOutcome};
use quorate_client::{Client, Condition, Options, PatchOptions};

use crate::fake_node::FakeNode;

const CHANGED: &[(&str, &str)] = &[("etag", "\"1.5\""), ("quorate-revision", "9"), ("quorate-version", "2")];

fn first_of(nodes: &[&FakeNode]) -> Client {
    client(nodes)
}

fn client(nodes: &[&FakeNode]) -> Client {
    Client::new(nodes.iter().map(|node| node.endpoint.clone()).collect(), Options::default())
}

#[tokio::test]
async fn a_sum_is_read_from_the_answer() {
    let node = FakeNode::always(200, CHANGED, "-7").await;
    let options = PatchOptions { condition: Some(Condition::ModRevision(4)), ttl: Some(Duration::from_secs(90)) };
    let done = client(&[&node]).increment("ks", b"a b", -3, 10, &options).await.unwrap();
    assert_eq!((done.sum, done.etag.as_str(), done.revision, done.version), (-7, "\"1.5\"", 9, 2));
    let seen = &node.seen()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PATCH", "/v1/kv/ks/a%20b?cas=4"));
    assert_eq!(seen.body, &br#"{"op":"increment","by":-3,"initial":10}"#[..]);
    assert_eq!(seen.headers["content-type"], "application/vnd.quorate.op+json");
    assert_eq!(seen.headers["quorate-ttl"], "90s");
    let node = FakeNode::always(200, CHANGED, "many").await;
    let error = client(&[&node]).increment("ks", b"k", 1, 0, &PatchOptions::default()).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::Applied);
}

#[tokio::test]
async fn a_merge_patch_is_sent_as_it_is() {
    let node = FakeNode::always(200, CHANGED, "{\"a\":1.0}").await;
    let patch = KeyPatch::Merge { patch: "{\"a\": 1.0".into() };
    let done = client(&[&node]).patch("ks", b"k", &patch, &PatchOptions::default()).await.unwrap();
    assert_eq!(done.value, "{\"a\":1.0}");
    let seen = &node.seen()[0];
    assert_eq!(
        (seen.body.as_ref(), &seen.headers["content-type"]),
        (&b"{\"a\": 1.0"[..], &"application/merge-patch+json".parse().unwrap())
    );
}

#[tokio::test]
async fn what_may_have_been_done_is_not_sent_again() {
    let (first, second) =
        (FakeNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown)).await, FakeNode::always(200, CHANGED, "1").await);
    let error = client(&[&first, &second]).increment("ks", b"k", 1, 0, &PatchOptions::default()).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::Unknown);
    assert!(second.seen().is_empty());
    let first = FakeNode::refusing(Code::NoLeader, Some(WriteOutcome::NotApplied)).await;
    let done = client(&[&first, &second]).increment("ks", b"k", 1, 0, &PatchOptions::default()).await.unwrap();
    assert_eq!(done.sum, 1);
}

#[tokio::test]
async fn what_is_done_once_is_sent_again_under_its_key() {
    let first = FakeNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown)).await;
    let second = FakeNode::always(200, CHANGED, "1").await;
    let client = client(&[&first, &second]);
    let once = client.once("order-17").unwrap();
    let done = once.increment("ks", b"k", 1, 0, &PatchOptions::default()).await.unwrap();
    assert_eq!(done.sum, 1);
    let key = |node: &FakeNode| node.seen()[0].headers["idempotency-key"].clone();
    assert_eq!((key(&first), key(&second)), ("order-17".parse().unwrap(), "order-17".parse().unwrap()));
    once.get("ks", b"k", &quorate_client::GetOptions::default()).await.unwrap_err();
    assert!(second.seen()[1].headers.get("idempotency-key").is_none(), "reads have none");
    let error = first_of(&[&first]).once("a").unwrap().increment("ks", b"k", 1, 0, &PatchOptions::default()).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::Unknown);
    let others = once.grant_lease("ks", Duration::from_secs(5), None).await.unwrap_err();
    assert!(matches!(others, quorate_client::Error::InvalidRequest { .. }), "no node would know it again: {others}");
    assert!(["", "a b", "a\"b", "\u{e4}"].into_iter().all(|key| client.once(key).is_err()));
}

#[tokio::test]
async fn batches_carry_changes_and_bring_sums() {
    let answer = r#"{"results":[{"status":200,"revision":3,"version":1,"number":5}],"failed":0}"#;
    let node = FakeNode::always(200, &[], answer).await;
    let patch = KeyPatch::Increment { by: 5, initial: 0 };
    let ops = [BatchOp::Patch(Box::new(BatchPatch { key: "k".into(), patch, cas: None, ttl: None }))];
    let outcomes = client(&[&node]).batch("ks", &ops).await.unwrap();
    assert_eq!((outcomes[0].sum, outcomes[0].version), (Some(5), Some(1)));
    assert_eq!(node.seen()[0].body, &br#"{"ops":[{"op":"increment","key":"k","by":5}]}"#[..]);
}
