//! How requests are written, and how answers are read.

use std::time::Duration;

use quorate_api::problem::{Code, WriteOutcome};
use quorate_api::user_meta::UserMeta;
use quorate_client::{
    Client, Condition, Consistency, DeleteOptions, Error, GetOptions, ListQuery, Options, PutOptions, Selection,
};

use crate::fake_node::{FakeNode, Reaction, answer_of, problem};

const FOUND: &[(&str, &str)] = &[
    ("etag", "\"1.5\""),
    ("content-type", "text/plain"),
    ("quorate-revision", "9"),
    ("quorate-mod-revision", "5"),
    ("quorate-create-revision", "4"),
    ("quorate-version", "2"),
    ("quorate-ttl", "29.4"),
    ("quorate-meta-owner", "me"),
];

fn client(node: &FakeNode) -> Client {
    Client::new(vec![node.endpoint.clone()], Options::default())
}

#[tokio::test]
async fn a_read_carries_its_freshness_and_brings_all_that_goes_with_the_key() {
    let node = FakeNode::always(200, FOUND, "hello").await;
    let options = GetOptions { consistency: Consistency::Local, min_revision: Some(7), ..GetOptions::default() };
    let found = client(&node).get("default", b"a b/c", &options).await.unwrap().unwrap();
    assert_eq!((found.entry.key.as_ref(), found.entry.value.as_deref()), (b"a b/c".as_slice(), Some(b"hello".as_slice())));
    assert_eq!((found.etag.as_str(), found.revision), ("\"1.5\"", 9));
    assert_eq!((found.entry.mod_revision, found.entry.create_revision, found.entry.version), (5, 4, 2));
    assert_eq!((found.entry.content_type.as_deref(), found.entry.ttl_ms), (Some("text/plain"), Some(29_400)));
    assert_eq!(found.entry.meta.iter().collect::<Vec<_>>(), [("owner", "me")]);
    let seen = &node.seen()[0];
    assert_eq!(seen.target, "/v1/kv/default/a%20b/c?consistency=local&min_revision=7");
    assert_eq!(seen.headers["quorate-timeout"], "5s");
}

#[tokio::test]
async fn a_key_that_is_not_there_is_none() {
    let node = FakeNode::refusing(Code::KeyNotFound, None).await;
    assert_eq!(client(&node).get("default", b"k", &GetOptions::default()).await.unwrap(), None);
}

#[tokio::test]
async fn a_write_carries_its_condition() {
    let cases = [
        (None, "/v1/kv/ks/k", None),
        (Some(Condition::ModRevision(0)), "/v1/kv/ks/k?cas=0", None),
        (Some(Condition::Absent), "/v1/kv/ks/k", Some(("if-none-match", "*"))),
        (Some(Condition::Present), "/v1/kv/ks/k", Some(("if-match", "*"))),
        (Some(Condition::Etag("\"1.5\"".to_owned())), "/v1/kv/ks/k", Some(("if-match", "\"1.5\""))),
    ];
    let mut meta = UserMeta::default();
    meta.insert("owner", "me").unwrap();
    for (condition, target, header) in cases {
        let node = FakeNode::always(201, FOUND, "").await;
        let (content_type, ttl) = (Some("text/x".to_owned()), Some(Duration::from_secs(90)));
        let options = PutOptions { condition, content_type, meta: meta.clone(), ttl, lease: None, ack: None };
        let written = client(&node).put("ks", b"k", "v".into(), &options).await.unwrap();
        assert!(written.is_new);
        assert_eq!((written.etag.as_str(), written.revision, written.version), ("\"1.5\"", 9, 2));
        let seen = &node.seen()[0];
        assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.body.as_ref()), ("PUT", target, b"v".as_slice()));
        assert_eq!(
            (&seen.headers["content-type"], &seen.headers["quorate-ttl"]),
            (&"text/x".parse().unwrap(), &"90s".parse().unwrap())
        );
        assert_eq!(seen.headers["quorate-meta-owner"], "me");
        for name in ["if-match", "if-none-match"] {
            let expected = header.filter(|&(each, _)| each == name).map(|(_, value)| value);
            assert_eq!(seen.headers.get(name).map(|value| value.to_str().unwrap()), expected, "{name}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_a_header_is_not_sent() {
    let node = FakeNode::always(201, FOUND, "").await;
    let options = PutOptions { content_type: Some("a\nb".to_owned()), ..PutOptions::default() };
    let error = client(&node).put("ks", b"k", "v".into(), &options).await.unwrap_err();
    assert!(matches!(error, Error::InvalidRequest { .. }), "{error}");
    assert!(node.seen().is_empty());
}

#[tokio::test]
async fn a_failed_condition_says_what_is_there() {
    let node = FakeNode::refusing(Code::PreconditionFailed, Some(WriteOutcome::NotApplied)).await;
    let error =
        client(&node).delete("ks", b"k", &DeleteOptions { condition: Some(Condition::Present), ack: None }).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some("precondition_failed"), WriteOutcome::NotApplied));
}

#[tokio::test]
async fn a_delete_says_whether_the_key_was_there() {
    let headers = &[("quorate-deleted", "1"), ("quorate-revision", "12")];
    let node = FakeNode::always(204, headers, "").await;
    let deleted = client(&node).delete("ks", b"..", &DeleteOptions::default()).await.unwrap();
    assert_eq!((deleted.was_there, deleted.revision), (true, 12));
    assert_eq!((node.seen()[0].method.as_str(), node.seen()[0].target.as_str()), ("DELETE", "/v1/kv/ks?key64=Li4"));
}

#[tokio::test]
async fn a_list_is_asked_for_page_by_page() {
    let node = FakeNode::start(|seen| {
        let body = if seen.target.contains("cursor=c%2B1") {
            r#"{"items":[{"key64":"_w","value64":"_w","create_revision":1,"mod_revision":1,"version":1}],"revision":4}"#
        } else {
            r#"{"items":[{"key":"a","create_revision":1,"mod_revision":2,"version":2}],"revision":3,"next_cursor":"c+1"}"#
        };
        Reaction::Answer(answer_of(200, &[("content-type", "application/json")], body))
    })
    .await;
    let query = ListQuery {
        selection: Selection { prefix: b"a/".to_vec(), start: Some(b"a".to_vec()), end: Some(b"b".to_vec()) },
        page_limit: Some(1),
        is_reverse: true,
        with_values: true,
        freshness: GetOptions { consistency: Consistency::Local, ..GetOptions::default() },
        delimiter: Vec::new(),
    };
    let mut listing = client(&node).list("ks", query);
    let first = listing.next_page().await.unwrap().unwrap();
    let second = listing.next_page().await.unwrap().unwrap();
    assert_eq!(listing.next_page().await.unwrap(), None);
    assert_eq!((first.entries[0].key.as_ref(), first.entries[0].value.as_deref(), first.revision), (b"a".as_slice(), None, 3));
    assert_eq!(
        (second.entries[0].key.as_ref(), second.entries[0].value.as_deref()),
        (b"\xff".as_slice(), Some(b"\xff".as_slice()))
    );
    let selection = "/v1/kv/ks?prefix64=YS8&start64=YQ&end64=Yg&limit=1&reverse=true&values=true";
    let targets: Vec<String> = node.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, [format!("{selection}&consistency=local"), format!("{selection}&cursor=c%2B1&consistency=local")]);
}

#[tokio::test]
async fn names_of_nodes_stay_one_segment() {
    let node = FakeNode::always(204, &[], "").await;
    client(&node).remove_node("a/../b").await.unwrap();
    assert_eq!(node.seen()[0].target, "/v1/cluster/nodes/a%2F..%2Fb");
}

#[tokio::test]
async fn something_else_that_listens_there_is_noticed() {
    let page = FakeNode::always(404, &[("content-type", "text/html")], "<h1>nginx\nhere</h1>").await;
    let empty = FakeNode::always(200, &[], "").await;
    let json = FakeNode::always(200, &[], "{}").await;
    let error = client(&page).get("ks", b"k", &GetOptions::default()).await.unwrap_err();
    assert!(error.to_string().ends_with("does not answer like a Quorate node: status 404 <h1>nginx, here</h1>"), "{error}");
    let error = client(&empty).get("ks", b"k", &GetOptions::default()).await.unwrap_err();
    assert!(matches!(error, Error::Unexpected { outcome: WriteOutcome::NotApplied, .. }), "{error}");
    let error = client(&empty).put("ks", b"k", "v".into(), &PutOptions::default()).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::Applied, "{error}");
    assert!(matches!(client(&json).cluster().await.unwrap_err(), Error::Unexpected { .. }));
}

#[tokio::test]
async fn problems_of_newer_nodes_are_read() {
    let node = FakeNode::start(|_| {
        let mut response = problem(Code::Conflict, Some(WriteOutcome::NotApplied));
        let body =
            r#"{"type":"/problems/new","title":"New","status":409,"detail":"","code":"new_code","retryable":false,"more":[1]}"#;
        *response.body_mut() = body.into();
        Reaction::Answer(response)
    })
    .await;
    let error = client(&node).remove_node("n1").await.unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), (Some("new_code"), "New"));
}
