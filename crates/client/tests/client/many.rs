//! Many keys at once: selections, streams, batches.

use std::time::Duration;

use bytes::Bytes;
use quorate_api::batch::{BatchEnd, BatchOp, BatchPut, Cas};
use quorate_api::problem::{Code, MEDIA_TYPE, Problem, WriteOutcome};
use quorate_client::{
    BatchOutcome, Client, Counted, DeletedRange, Error, GetOptions, ListQuery, Options, Selection, StreamQuery,
};

use crate::fake_node::{FakeNode, Reaction, answer_of};

fn client(node: &FakeNode) -> Client {
    Client::new(vec![node.endpoint.clone()], Options::default())
}

fn some() -> Selection {
    Selection { prefix: b"a/".to_vec(), start: Some(b"a/1".to_vec()), end: None }
}

/// What a node says line by line.
async fn lines(text: &'static str) -> FakeNode {
    FakeNode::always(200, &[("content-type", "application/x-ndjson"), ("quorate-revision", "9")], text).await
}

#[tokio::test]
async fn a_range_delete_names_what_it_means() {
    let node = FakeNode::always(200, &[], r#"{"deleted":7,"revision":9}"#).await;
    let gone = DeletedRange { deleted: 7, revision: 9 };
    assert_eq!(client(&node).delete_range("ks", &some()).await.unwrap(), gone);
    assert_eq!(client(&node).delete_all("ks").await.unwrap(), gone);
    assert_eq!(client(&node).delete_range("ks", &Selection::default()).await.unwrap(), gone);
    let targets: Vec<String> = node.seen().iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    // Whoever selects nothing does not get everything: the server refuses the last one.
    assert_eq!(targets, ["DELETE /v1/kv/ks?prefix64=YS8&start64=YS8x", "DELETE /v1/kv/ks?all=true", "DELETE /v1/kv/ks?"]);
}

#[tokio::test]
async fn an_interrupted_range_delete_is_not_sent_again() {
    let node = FakeNode::start(|_| {
        let so_far = Problem { deleted: Some(5), outcome: Some(WriteOutcome::Unknown), ..Problem::new(Code::NoLeader, "") };
        let body = serde_json::to_vec(&so_far).unwrap();
        Reaction::Answer(answer_of(so_far.status, &[("content-type", MEDIA_TYPE)], body))
    })
    .await;
    let error = client(&node).delete_range("ks", &some()).await.unwrap_err();
    assert_eq!((error.outcome(), error.problem().unwrap().deleted), (WriteOutcome::Unknown, Some(5)));
    assert_eq!(node.seen().len(), 1);
}

#[tokio::test]
async fn a_count_is_read() {
    let node = FakeNode::always(200, &[], r#"{"count":3,"revision":9}"#).await;
    let freshness = GetOptions { min_revision: Some(4), ..GetOptions::default() };
    let counted = client(&node).count("ks", &some(), &freshness).await.unwrap();
    assert_eq!(counted, Counted { count: 3, revision: 9 });
    client(&node).count("ks", &Selection::default(), &GetOptions::default()).await.unwrap();
    let targets: Vec<String> = node.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/v1/kv/ks?prefix64=YS8&start64=YS8x&count_only&min_revision=4", "/v1/kv/ks?count_only"]);
}

#[tokio::test]
async fn folders_come_with_pages() {
    let body = r#"{"items":[{"key":"a","create_revision":1,"mod_revision":2,"version":1}],
        "prefixes":["b/","d/"],"prefixes64":["_y8"],"revision":9}"#;
    let node = FakeNode::always(200, &[], body).await;
    let query = ListQuery { delimiter: b"/".to_vec(), ..ListQuery::default() };
    let page = client(&node).list("ks", query.clone()).next_page().await.unwrap().unwrap();
    assert_eq!((page.entries.len(), page.folders), (1, vec!["b/".into(), "d/".into(), Bytes::from_static(b"\xff/")]));
    let reverse = client(&node).list("ks", ListQuery { is_reverse: true, ..query }).next_page().await.unwrap().unwrap();
    assert_eq!(reverse.folders, [Bytes::from_static(b"\xff/"), "d/".into(), "b/".into()]);
    assert_eq!(node.seen()[0].target, "/v1/kv/ks?delimiter64=Lw");
}

const PAIR: &str = r#"{"key":"a","value64":"_w","create_revision":1,"mod_revision":2,"version":1}"#;

#[tokio::test]
async fn a_stream_of_pairs_has_them_all_and_knows_its_end() {
    let text = format!("{PAIR}\n{PAIR}\n{{\"revision\":9,\"count\":2}}\n");
    let node = lines(text.leak()).await;
    let query = StreamQuery { with_values: true, ..StreamQuery::default() };
    let mut pairs = client(&node).list_stream("ks", &query).await.unwrap();
    assert_eq!(pairs.revision(), 9);
    for _ in 0..2 {
        let entry = pairs.next().await.unwrap().unwrap();
        assert_eq!((entry.key.as_ref(), entry.value.as_deref()), (b"a".as_slice(), Some(b"\xff".as_slice())));
    }
    assert_eq!((pairs.next().await.unwrap(), pairs.next().await.unwrap()), (None, None));
    let seen = &node.seen()[0];
    assert_eq!(
        (seen.target.as_str(), seen.headers["accept"].to_str().unwrap()),
        ("/v1/kv/ks?values=true", "application/x-ndjson")
    );
}

#[tokio::test]
async fn a_stream_of_pairs_that_was_cut_is_never_whole() {
    let cases = [
        (format!("{PAIR}\n"), "ended before the last one"),
        (format!("{PAIR}\n{{\"revision\":9,\"cou"), "ended before the last one"),
        (format!("{PAIR}\n{{\"revision\":9,\"count\":2}}\n"), "2 pairs were announced, 1 came"),
        (format!("{PAIR}\n[]\n"), "does not answer like a Quorate node"),
    ];
    for (text, told) in cases {
        let mut pairs = client(&lines(text.leak()).await).list_stream("ks", &StreamQuery::default()).await.unwrap();
        assert!(pairs.next().await.unwrap().is_some());
        let error = pairs.next().await.unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
    let refused = FakeNode::refusing(Code::KeyspaceNotFound, None).await;
    let error = client(&refused).list_stream("ks", &StreamQuery::default()).await.unwrap_err();
    assert_eq!(error.code(), Some("keyspace_not_found"));
    let text =
        r#"{"problem":{"type":"/problems/internal","title":"","status":500,"detail":"bad","code":"internal","retryable":false}}"#;
    let mut pairs = client(&lines(format!("{text}\n").leak()).await).list_stream("ks", &StreamQuery::default()).await.unwrap();
    assert_eq!(pairs.next().await.unwrap_err().code(), Some("internal"));
}

#[tokio::test]
async fn a_stream_of_pairs_begins_at_the_next_node_if_one_cannot() {
    let gone = crate::fake_node::deserted().await;
    let node = lines("{\"revision\":9,\"count\":0}\n").await;
    let client = Client::new(vec![gone, node.endpoint.clone()], Options::default());
    assert_eq!(client.list_stream("ks", &StreamQuery::default()).await.unwrap().next().await.unwrap(), None);
}

fn ops() -> Vec<BatchOp> {
    let put =
        BatchPut { key: "a".into(), value: Bytes::from_static(b"\xff"), cas: Some(Cas::Revision(0)), ..BatchPut::default() };
    vec![BatchOp::Put(Box::new(put)), BatchOp::Get { key: "b".into() }]
}

const OPS: [&str; 2] = [r#"{"op":"put","key":"a","value64":"_w","cas":0}"#, r#"{"op":"get","key":"b"}"#];

#[tokio::test]
async fn a_batch_has_an_outcome_for_each() {
    let body = format!(
        r#"{{"results":[{{"status":201,"revision":5,"version":1}},{{"status":200,"revision":5,"entry":{PAIR}}}],"failed":0}}"#
    );
    let node = FakeNode::always(200, &[], body.leak()).await;
    let outcomes = client(&node).batch("ks", &ops()).await.unwrap();
    let expected = BatchOutcome { status: 201, revision: Some(5), version: Some(1), ..BatchOutcome::default() };
    assert_eq!((outcomes.len(), &outcomes[0]), (2, &expected));
    assert_eq!(outcomes[1].entry.as_ref().unwrap().key, "a");
    let seen = &node.seen()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/v1/batch/ks"));
    assert_eq!(seen.body, format!(r#"{{"ops":[{}]}}"#, OPS.join(",")));
}

#[tokio::test]
async fn a_stream_of_operations_ends_with_a_summary() {
    let node = FakeNode::start(|seen| match seen.method.as_str() {
        "GET" => Reaction::Answer(answer_of(200, &[], "{}")),
        _ => Reaction::Answer(answer_of(200, &[], "{\"line\":1,\"status\":201}\n{\"ops\":2,\"failed\":0}\n")),
    })
    .await;
    let (mut sender, mut receiver) = client(&node).batch_stream("ks", true).await.unwrap();
    for op in ops() {
        sender.send(&op).await.unwrap();
    }
    sender.finish().await.unwrap();
    let first = receiver.next().await.unwrap().unwrap();
    assert_eq!((first.number, first.status, receiver.end()), (Some(1), 201, None));
    assert_eq!((receiver.next().await.unwrap(), receiver.next().await.unwrap()), (None, None));
    assert_eq!(receiver.end(), Some(BatchEnd { ops: 2, failed: 0 }));
    let seen = &node.seen()[1];
    assert_eq!(
        (seen.target.as_str(), seen.headers["content-type"].to_str().unwrap()),
        ("/v1/batch/ks?results=failed", "application/x-ndjson")
    );
    assert_eq!(seen.body, format!("{}\n{}\n", OPS[0], OPS[1]));
}

#[tokio::test]
async fn a_stream_that_breaks_off_leaves_it_open_what_happened() {
    let node = FakeNode::start(|seen| match seen.method.as_str() {
        "GET" => Reaction::Answer(answer_of(200, &[], "{}")),
        _ => Reaction::HangUp,
    })
    .await;
    let (sender, mut receiver) = client(&node).batch_stream("ks", false).await.unwrap();
    sender.finish().await.unwrap();
    let error = receiver.next().await.unwrap_err();
    assert!(matches!(error, Error::NoAnswer { outcome: WriteOutcome::Unknown, .. }), "{error}");
    let refusing = FakeNode::refusing(Code::KeyspaceNotFound, None).await;
    assert!(client(&refusing).batch_stream("ks", false).await.is_err());
}

#[tokio::test]
async fn a_sender_waits_while_nothing_is_taken_and_loses_nothing_then() {
    let node = FakeNode::start(|seen| match seen.method.as_str() {
        "GET" => Reaction::Answer(answer_of(200, &[], "{}")),
        _ => Reaction::Answer(answer_of(200, &[], "{\"ops\":0,\"failed\":0}\n")),
    })
    .await;
    let (mut sender, mut receiver) = client(&node).batch_stream("ks", true).await.unwrap();
    let value = Bytes::from(vec![b'v'; 40 << 10]);
    let op = BatchOp::Put(Box::new(BatchPut { key: "a".into(), value, ..BatchPut::default() }));
    let mut given = 0;
    loop {
        given += 1;
        assert!(given < 100, "there is no end to what it takes");
        if tokio::time::timeout(Duration::from_millis(50), sender.send(&op)).await.is_err() {
            break;
        }
    }
    let (finished, end) = tokio::join!(sender.finish(), receiver.next());
    assert_eq!((finished.unwrap(), end.unwrap()), ((), None));
    assert_eq!(String::from_utf8_lossy(&node.seen()[1].body).lines().count(), given);
}

#[tokio::test]
async fn a_node_that_is_of_no_use_is_passed_over() {
    let (first, second) = (FakeNode::always(200, &[], "{}").await, FakeNode::always(200, &[], "{}").await);
    let client = Client::new(vec![first.endpoint.clone(), second.endpoint.clone()], Options::default());
    for _ in 0..2 {
        client.batch_stream("ks", true).await.unwrap();
        client.turn_to_next_endpoint();
    }
    assert_eq!((first.seen().len(), second.seen().len()), (1, 1));
}
