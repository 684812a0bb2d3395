//! Transactions.

use quorate_api::batch::BatchPut;
use quorate_api::problem::{Code, WriteOutcome};
use quorate_api::txn::{Txn, TxnCompare, TxnDone, TxnKeys, TxnOp, TxnTest};
use quorate_client::{Client, Options};

use crate::fake_node::FakeNode;

fn client(nodes: &[&FakeNode]) -> Client {
    Client::new(nodes.iter().map(|node| node.endpoint.clone()).collect(), Options::default())
}

fn reading() -> Txn {
    Txn { then: vec![TxnOp::Get { key: "a".into() }], ..Txn::default() }
}

fn writing() -> Txn {
    let put = TxnOp::Put(Box::new(BatchPut { key: "a".into(), value: "1".into(), ..BatchPut::default() }));
    let compare = TxnCompare { keys: TxnKeys::One("a".into()), test: TxnTest::Exists(false) };
    Txn { compares: vec![compare], then: vec![put], ..reading() }
}

const NOTHING_READ: &str = r#"{"succeeded":true,"revision":7,"results":[{"status":404}]}"#;

#[tokio::test]
async fn it_is_sent_whole_and_its_results_are_read() {
    let answer = r#"{"succeeded":false,"failed_if":0,"revision":7,"results":[{"status":201,"version":1}]}"#;
    let node = FakeNode::always(200, &[], answer).await;
    let result = client(&[&node]).txn("a b", &writing()).await.unwrap();
    assert_eq!((result.failed_if, result.revision), (Some(0), 7));
    assert_eq!(result.results, [TxnDone::Put { is_new: true, version: 1 }]);
    let seen = &node.seen()[0];
    assert_eq!(format!("{} {}", seen.method, seen.target), "POST /v1/txn?ks=a%20b");
    let body = r#"{"if":[{"key":"a","exists":false}],"then":[{"op":"put","key":"a","value":"1"}]}"#;
    assert_eq!(seen.body, body.as_bytes());
}

#[tokio::test]
async fn one_that_only_reads_is_tried_again() {
    let (unsure, sure) = (FakeNode::refusing(Code::TimedOut, None).await, FakeNode::always(200, &[], NOTHING_READ).await);
    let client = client(&[&unsure, &sure]);
    assert_eq!(client.txn("default", &reading()).await.unwrap().results, [TxnDone::Got(None)]);
    let unsure = FakeNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown)).await;
    let error = self::client(&[&unsure, &sure]).txn("default", &writing()).await.unwrap_err();
    assert_eq!((error.outcome(), sure.seen().len()), (WriteOutcome::Unknown, 1));
}

#[tokio::test]
async fn an_answer_that_says_nothing_is_no_success() {
    let node = FakeNode::always(200, &[], r#"{"succeeded":true,"revision":7,"results":[{"status":200}]}"#).await;
    assert_eq!(client(&[&node]).txn("default", &writing()).await.unwrap_err().outcome(), WriteOutcome::Unknown);
    assert_eq!(client(&[&node]).txn("default", &reading()).await.unwrap_err().outcome(), WriteOutcome::NotApplied);
}
