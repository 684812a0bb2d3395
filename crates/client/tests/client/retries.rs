//! Which requests are sent again, where, and what the error says when none got through.

use std::time::Duration;

use quorate_api::cluster::JoinRequest;
use quorate_api::problem::{Code, WriteOutcome};
use quorate_client::{Client, Endpoint, Error, GetOptions, Options, PutOptions};

use crate::fake_node::{FakeNode, Reaction, deserted};

const FOUND: &[(&str, &str)] = &[
    ("etag", "\"1.5\""),
    ("quorate-revision", "9"),
    ("quorate-mod-revision", "5"),
    ("quorate-create-revision", "4"),
    ("quorate-version", "2"),
];

fn client(endpoints: &[&Endpoint]) -> Client {
    let options = Options { timeout: Duration::from_millis(1500), ..Options::default() };
    Client::new(endpoints.iter().map(|&endpoint| endpoint.clone()).collect(), options)
}

async fn get(client: &Client) -> Result<bool, Error> {
    client.get("default", b"k", &GetOptions::default()).await.map(|found| found.is_some())
}

async fn put(client: &Client) -> Result<u64, Error> {
    client.put("default", b"k", "v".into(), &PutOptions::default()).await.map(|written| written.revision)
}

#[tokio::test]
async fn a_dead_node_is_passed_over_and_remembered() {
    let (dead, alive) = (deserted().await, FakeNode::always(200, FOUND, "v").await);
    let client = client(&[&dead, &alive.endpoint]);
    assert!(get(&client).await.unwrap());
    assert_eq!(put(&client).await.unwrap(), 9);
    assert_eq!(alive.seen().len(), 2);
}

#[tokio::test]
async fn if_nobody_listens_every_endpoint_is_named() {
    let (a, b) = (deserted().await, deserted().await);
    let error = put(&client(&[&a, &b])).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::NotApplied);
    let Error::Unreachable { tried } = error else { panic!("{error}") };
    let endpoints: Vec<&str> = tried.iter().map(|each| each.endpoint.as_str()).collect();
    assert_eq!(endpoints, [a.to_string(), b.to_string()]);
}

#[tokio::test]
async fn a_write_that_was_not_applied_goes_to_the_next_node() {
    let leaderless = FakeNode::refusing(Code::NoLeader, Some(WriteOutcome::NotApplied)).await;
    let alive = FakeNode::always(204, FOUND, "").await;
    assert_eq!(put(&client(&[&leaderless.endpoint, &alive.endpoint])).await.unwrap(), 9);
    assert_eq!((leaderless.seen().len(), alive.seen().len()), (1, 1));
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_not_sent_again() {
    let other = FakeNode::always(204, FOUND, "").await;
    let unknown = FakeNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown)).await;
    let silent_about_it = FakeNode::refusing(Code::NoLeader, None).await;
    let hangs_up = FakeNode::start(|_| Reaction::HangUp).await;
    let proxy = FakeNode::always(503, &[("content-type", "text/html")], "<h1>Try later</h1>").await;
    for node in [unknown, silent_about_it, hangs_up, proxy] {
        let error = put(&client(&[&node.endpoint, &other.endpoint])).await.unwrap_err();
        assert_eq!((error.outcome(), node.seen().len()), (WriteOutcome::Unknown, 1), "{error}");
    }
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_read_is_sent_again_whatever_happened_to_it() {
    let alive = FakeNode::always(200, FOUND, "v").await;
    let leaderless = FakeNode::refusing(Code::NoLeader, None).await;
    let late = FakeNode::refusing(Code::TimedOut, None).await;
    let hangs_up = FakeNode::start(|_| Reaction::HangUp).await;
    let client = client(&[&leaderless.endpoint, &late.endpoint, &hangs_up.endpoint, &alive.endpoint]);
    assert!(get(&client).await.unwrap());
    assert_eq!([leaderless, late, hangs_up, alive].map(|node| node.seen().len()), [1, 1, 1, 1]);
}

#[tokio::test]
async fn a_read_does_not_wait_for_a_node_that_hangs() {
    let (hung, alive) = (FakeNode::start(|_| Reaction::Hang).await, FakeNode::always(200, FOUND, "v").await);
    assert!(get(&client(&[&hung.endpoint, &alive.endpoint])).await.unwrap());
}

#[tokio::test]
async fn a_write_to_a_node_that_hangs_ends_as_unknown() {
    let (hung, other) = (FakeNode::start(|_| Reaction::Hang).await, FakeNode::always(204, FOUND, "").await);
    let error = put(&client(&[&hung.endpoint, &other.endpoint])).await.unwrap_err();
    assert!(matches!(error, Error::NoAnswer { outcome: WriteOutcome::Unknown, .. }), "{error}");
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn what_a_node_refuses_for_good_is_not_asked_of_others() {
    let other = FakeNode::always(200, FOUND, "v").await;
    let refusing = FakeNode::refusing(Code::KeyspaceNotFound, None).await;
    let error = get(&client(&[&refusing.endpoint, &other.endpoint])).await.unwrap_err();
    assert_eq!(error.code(), Some("keyspace_not_found"));
    assert_eq!(error.to_string(), "Keyspace not found: as the test says");
    assert!(other.seen().is_empty());
}

#[tokio::test]
async fn a_join_is_asked_of_everybody() {
    let answer = r#"{"cluster_id":"00000000000000ff","node_id":2,"system_replica":7,"peers":[]}"#;
    let (hangs_up, alive) = (FakeNode::start(|_| Reaction::HangUp).await, FakeNode::always(200, &[], answer).await);
    let request = JoinRequest {
        name: "n2".to_owned(),
        client_address: "a:1".to_owned(),
        peer_address: "a:2".to_owned(),
        token: "t".to_owned(),
    };
    let joined = client(&[&hangs_up.endpoint, &alive.endpoint]).join(&request).await.unwrap();
    assert_eq!((joined.node_id, joined.system_replica), (2, 7));
    assert_eq!(serde_json::from_slice::<JoinRequest>(&alive.seen()[0].body).unwrap(), request);
}

#[tokio::test]
async fn the_last_word_of_a_node_counts_more_than_those_out_of_reach() {
    let leaderless = FakeNode::refusing(Code::NoLeader, Some(WriteOutcome::NotApplied)).await;
    let error = put(&client(&[&leaderless.endpoint, &deserted().await])).await.unwrap_err();
    assert_eq!(error.code(), Some("no_leader"));
    assert_eq!(leaderless.seen().len(), 2, "one round after the other");
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_what_it_waits_for() {
    let checks = "[+]disk ok\n[-]catchup 12 entries behind\n";
    let joining = FakeNode::always(503, &[("content-type", "text/plain")], checks).await;
    let error = client(&[&joining.endpoint]).ready().await.unwrap_err();
    assert!(matches!(&error, Error::NotReady { checks, .. } if checks == "[+]disk ok, [-]catchup 12 entries behind"), "{error}");
}

#[tokio::test]
async fn what_a_node_said_counts_more_than_the_silence_of_the_next() {
    let leaderless = FakeNode::refusing(Code::NoLeader, None).await;
    let hung = FakeNode::start(|_| Reaction::Hang).await;
    let error = get(&client(&[&leaderless.endpoint, &hung.endpoint])).await.unwrap_err();
    assert_eq!(error.code(), Some("no_leader"));
}

#[tokio::test]
async fn no_attempt_begins_after_the_time_limit() {
    let hung = [FakeNode::start(|_| Reaction::Hang).await, FakeNode::start(|_| Reaction::Hang).await];
    let options = Options { timeout: Duration::from_millis(100), ..Options::default() };
    let client = Client::new(hung.iter().map(|node| node.endpoint.clone()).collect(), options);
    assert!(matches!(get(&client).await, Err(Error::NoAnswer { outcome: WriteOutcome::NotApplied, .. })));
    assert_eq!(hung.map(|node| node.seen().len()), [1, 0]);
}
