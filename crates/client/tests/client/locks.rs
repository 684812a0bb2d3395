//! Locks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_api::problem::{Code, WriteOutcome};
use quorate_client::{Client, Error, LockOptions, Options};

use crate::fake_node::{FakeNode, Reaction, answer_of, problem};

const LEASE: &str = r#"{"id":"0000000000000abc","ttl":2.0,"remaining":2.0,"deleted":1,"revision":3}"#;
const HELD: &str = r#"{"lease":"0000000000000abc","key":"a b/abc","token":7,"value":"me"}"#;

fn client(node: &FakeNode) -> Client {
    Client::new(vec![node.endpoint.clone()], Options::default())
}

/// A node whose lock is asked for: answers the first, second... time by what is given; the last for ever.
async fn node_with(answers: &'static [Option<Code>]) -> FakeNode {
    let asked = AtomicUsize::new(0);
    FakeNode::start(move |seen| {
        if !seen.target.contains("/locks/") {
            return Reaction::Answer(answer_of(200, &[], LEASE));
        }
        let number = asked.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
        Reaction::Answer(match answers[number] {
            Some(code) => problem(code, Some(WriteOutcome::NotApplied)),
            None => answer_of(200, &[], HELD),
        })
    })
    .await
}

fn asked(node: &FakeNode) -> Vec<String> {
    let is_about_it = |target: &str| !target.contains("keepalive");
    let seen = node.seen().into_iter().filter(|seen| is_about_it(&seen.target));
    seen.map(|seen| format!("{} {}", seen.method, seen.target)).collect()
}

#[tokio::test]
async fn who_waits_asks_again_under_the_same_lease() {
    let node = node_with(&[Some(Code::LockHeld), Some(Code::NoLeader), None]).await;
    let options = LockOptions { value: "me".into(), ..LockOptions::default() };
    let held = client(&node).lock("ks", "a b", &options).await.unwrap().unwrap();
    assert_eq!((held.token(), &held.key()[..], held.lease(), held.is_lost()), (7, &b"a b/abc"[..], 0xabc, false));
    held.release().await.unwrap();
    let lock = "POST /v1/locks/ks/a%20b?wait=10s";
    let seen = asked(&node);
    assert_eq!(
        (&seen[..3], seen.last().unwrap().as_str()),
        (&["POST /v1/leases/ks".to_owned(), lock.to_owned(), lock.to_owned()][..], "DELETE /v1/leases/ks/0000000000000abc",)
    );
    let body = node.seen().into_iter().find(|seen| seen.target.contains("/locks/")).unwrap().body;
    assert_eq!(&body[..], br#"{"lease":"0000000000000abc","value":"me"}"#);
}

#[tokio::test]
async fn what_is_not_to_be_had_leaves_nothing() {
    let node = node_with(&[Some(Code::LockHeld)]).await;
    let tried = LockOptions { wait: Some(Duration::ZERO), ..LockOptions::default() };
    assert!(client(&node).lock("ks", "a", &tried).await.unwrap().is_none());
    let expected = ["POST /v1/leases/ks", "POST /v1/locks/ks/a", "DELETE /v1/leases/ks/0000000000000abc"];
    assert_eq!(asked(&node), expected);

    let node = node_with(&[Some(Code::UnsupportedCapability)]).await;
    let refused = client(&node).lock("ks", "a", &LockOptions::default()).await.unwrap_err();
    assert_eq!(refused.code(), Some("unsupported_capability"));
    assert_eq!(asked(&node), ["POST /v1/leases/ks", "POST /v1/locks/ks/a?wait=10s", expected[2]]);
    for name in ["", "a//b", "/a", "../a", "a\n"] {
        let refused = client(&node).lock("ks", name, &tried).await.unwrap_err();
        assert!(matches!(refused, Error::InvalidRequest { .. }), "{name:?}: {refused}");
    }
}

#[tokio::test]
async fn a_place_that_is_lost_is_asked_for_anew_and_given_up_when_cancelled() {
    let node = node_with(&[Some(Code::LeaseNotFound), None]).await;
    let held = client(&node).lock("ks", "a", &LockOptions::default()).await.unwrap().unwrap();
    assert_eq!(held.token(), 7);
    let given_up = "DELETE /v1/leases/ks/0000000000000abc";
    assert_eq!(asked(&node)[..4], ["POST /v1/leases/ks", "POST /v1/locks/ks/a?wait=10s", given_up, "POST /v1/leases/ks"]);

    let node = node_with(&[Some(Code::LockHeld)]).await;
    let soon = tokio::time::sleep(Duration::from_millis(50));
    assert!(client(&node).lock_unless("ks", "a", &LockOptions::default(), soon).await.unwrap().is_none());
    assert_eq!(asked(&node).last().unwrap(), given_up);
}

#[tokio::test]
async fn a_lock_is_looked_at_and_taken_away() {
    let state = format!(r#"{{"holder":{HELD},"waiting":2,"revision":9}}"#);
    let node = FakeNode::start(move |seen| {
        Reaction::Answer(if seen.method == "DELETE" { answer_of(204, &[], "") } else { answer_of(200, &[], state.clone()) })
    })
    .await;
    let seen = client(&node).lock_state("ks", "a").await.unwrap().unwrap();
    assert_eq!((seen.holder.lease, &seen.holder.value[..], seen.waiting, seen.revision), (0xabc, &b"me"[..], 2, 9));
    assert!(client(&node).release_lock("ks", "a", 0xabc).await.unwrap());
    assert_eq!(asked(&node)[1], "DELETE /v1/locks/ks/a?lease=0000000000000abc");
    let free = FakeNode::refusing(Code::LockNotFound, Some(WriteOutcome::NotApplied)).await;
    assert!(client(&free).lock_state("ks", "a").await.unwrap().is_none());
    assert!(!client(&free).release_lock("ks", "a", 1).await.unwrap());
}

/// Lines that a watch answers with, then silence.
const NEWS: &str = "{\"event\":\"sync\",\"revision\":3}\n";

#[tokio::test]
async fn an_observer_asks_again_for_what_it_could_not_learn() {
    let looks = AtomicUsize::new(0);
    let state = format!(r#"{{"holder":{HELD},"waiting":0,"revision":9}}"#);
    let node = FakeNode::start(move |seen| {
        if seen.target.contains("/watch/") {
            return Reaction::Answer(answer_of(200, &[("quorate-epoch", "1")], NEWS));
        }
        Reaction::Answer(match looks.fetch_add(1, Ordering::Relaxed) {
            0 | 1 => problem(Code::NoLeader, None),
            _ => answer_of(200, &[], state.clone()),
        })
    })
    .await;
    let mut observer = client(&node).observe_lock("ks", "a");
    assert_eq!(observer.next().await.unwrap_err().code(), Some("no_leader"));
    assert_eq!(observer.next().await.unwrap().unwrap().token, 7, "what came before the failure is not forgotten");
}

#[tokio::test]
async fn a_lock_guards_transactions_and_says_something_else() {
    let node = FakeNode::start(|seen| {
        Reaction::Answer(if seen.target.contains("/locks/") {
            answer_of(200, &[], HELD)
        } else if seen.target.contains("/txn") {
            answer_of(200, &[], r#"{"revision":8,"succeeded":false,"failed_if":0,"results":[]}"#)
        } else {
            answer_of(200, &[], LEASE)
        })
    })
    .await;
    let held = client(&node).lock("ks", "a b", &LockOptions::default()).await.unwrap().unwrap();
    assert!(!held.proclaim("new".into()).await.unwrap());
    let body = node.seen().into_iter().find(|seen| seen.target.contains("/txn")).unwrap().body;
    let sent: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let expected = serde_json::json!({
        "if": [{"key": "a b/abc", "create_revision": 7}, {"key": "a b/abc", "lease": "0000000000000abc"}],
        "then": [{"op": "put", "key": "a b/abc", "value": "new", "lease": "0000000000000abc"}],
    });
    assert_eq!(sent, expected);
}
