//! Leases.

use std::time::Duration;

use quorate_api::problem::{Code, WriteOutcome};
use quorate_client::{Client, Options, PutOptions};

use crate::fake_node::{FakeNode, Reaction, answer_of, problem};

/// What is asked for, whatever it is.
const LEASE: &str = r#"{"id":"0000000000000abc","ttl":2.0,"remaining":2.0,"deleted":1,"revision":3}"#;

fn client(nodes: &[&FakeNode]) -> Client {
    Client::new(nodes.iter().map(|node| node.endpoint.clone()).collect(), Options::default())
}

fn asked(node: &FakeNode) -> Vec<String> {
    node.seen().iter().map(|seen| format!("{} {} {}", seen.method, seen.target, String::from_utf8_lossy(&seen.body))).collect()
}

#[tokio::test]
async fn requests_have_their_forms() {
    let node = FakeNode::always(200, &[], LEASE).await;
    let client = client(&[&node]);
    let granted = client.grant_lease("a b", Duration::from_secs(2), Some(0xabc)).await.unwrap();
    assert_eq!((granted.id, granted.ttl), (0xabc, Duration::from_secs(2)));
    let kept = client.keep_alive("default", 0xabc).await.unwrap().unwrap();
    assert_eq!((kept.ttl_ms, kept.remaining_ms), (Some(2000), Some(2000)));
    let _ = client.lease("default", 0xabc, true).await;
    let _ = client.leases("default", Some("xyz"), 7).await;
    let _ = client.revoke_lease("default", 0xabc).await;
    let _ = client.keep_many_alive("default", &[1, 2]).await;
    let lease = PutOptions { lease: Some(0xabc), ..PutOptions::default() };
    let _ = client.put("default", b"k", "".into(), &lease).await;
    let expected = [
        r#"POST /v1/leases/a%20b {"ttl":"2s","id":"0000000000000abc"}"#,
        "POST /v1/leases/default/0000000000000abc/keepalive ",
        "GET /v1/leases/default/0000000000000abc?keys ",
        "GET /v1/leases/default?limit=7&cursor=xyz ",
        "DELETE /v1/leases/default/0000000000000abc ",
        r#"POST /v1/leases/default/keepalive {"ids":["0000000000000001","0000000000000002"]}"#,
        "PUT /v1/kv/default/k?lease=0000000000000abc ",
    ];
    assert_eq!(asked(&node), expected);
}

#[tokio::test]
async fn one_that_is_gone_is_no_error_and_silence_is_asked_again() {
    let gone = FakeNode::refusing(Code::LeaseNotFound, Some(WriteOutcome::NotApplied)).await;
    assert_eq!(client(&[&gone]).keep_alive("default", 1).await.unwrap(), None);
    assert_eq!(client(&[&gone]).revoke_lease("default", 1).await.unwrap(), None);
    let unsure = FakeNode::refusing(Code::OutcomeUnknown, Some(WriteOutcome::Unknown)).await;
    let sure = FakeNode::always(200, &[], LEASE).await;
    assert!(client(&[&unsure, &sure]).keep_alive("default", 1).await.unwrap().is_some());
    let error = client(&[&unsure, &sure]).grant_lease("default", Duration::from_secs(9), None).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::Unknown, "a second lease may not be what was wanted");
}

#[tokio::test]
async fn a_held_lease_is_kept_alive_until_it_is_lost() {
    let node = FakeNode::always(200, &[], LEASE).await;
    let held = client(&[&node]).hold_lease("default", Duration::from_secs(2)).await.unwrap();
    let is_kept = || asked(&node).iter().filter(|request| request.contains("keepalive")).count() >= 2;
    while !is_kept() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!held.is_lost());
    held.revoke().await.unwrap();
    assert!(asked(&node).last().unwrap().starts_with("DELETE "));

    let held = client(&[&node]).hold_granted_lease("default", 0x1f).await.unwrap().unwrap();
    assert_eq!((held.id(), held.is_lost()), (0x1f, false));

    let gone = FakeNode::start(|seen| {
        Reaction::Answer(if seen.target.contains("keepalive") {
            problem(Code::LeaseNotFound, Some(WriteOutcome::NotApplied))
        } else {
            answer_of(201, &[], LEASE)
        })
    })
    .await;
    let held = client(&[&gone]).hold_lease("default", Duration::from_secs(2)).await.unwrap();
    held.lost().await;
    assert!(held.is_lost());
    assert!(client(&[&gone]).hold_granted_lease("default", 0x1f).await.unwrap().is_none());
}
