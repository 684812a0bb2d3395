//! Backups and restores.

use quorate_api::backup::{BackupHead, BackupLease, BackupPair, BackupReader, BackupWriter, KeyspaceHead, MEDIA_TYPE, Part};
use quorate_api::keyspace::SettingsBody;
use quorate_server::rest::StoreError;
use serde_json::json;

use crate::server::{Reply, Server};

async fn restore(server: &Server, target: &str, backup: &[u8]) -> Reply {
    server.send("PUT", target, &[("Content-Type", MEDIA_TYPE)], backup).await
}

fn parts(backup: &[u8]) -> Vec<Part> {
    let mut reader = BackupReader::default();
    reader.push(backup);
    let mut parts = Vec::new();
    while let Some(part) = reader.next_part().unwrap() {
        parts.push(part);
    }
    reader.finish().unwrap();
    parts
}

fn pairs(backup: &[u8]) -> Vec<BackupPair> {
    let pairs = |part| match part {
        Part::Pairs(pairs) => pairs,
        _ => Vec::new(),
    };
    parts(backup).into_iter().flat_map(pairs).collect()
}

/// A backup of a keyspace `new` with so many pairs.
fn backup_of(count: usize) -> Vec<u8> {
    let head = BackupHead { keyspaces: vec!["new".to_owned()], ..BackupHead::default() };
    let (mut writer, begin) = BackupWriter::begin(&head);
    let settings = SettingsBody::default();
    let mut bytes = vec![begin, writer.keyspace(&KeyspaceHead { name: "new".to_owned(), settings, revision: 9 })];
    bytes.push(writer.leases(&[BackupLease { id: 5, ttl_ms: 60_000 }]));
    for number in 0..count {
        let (key, value) = (format!("k{number:06}").into(), vec![b'v'; 100].into());
        let lease = (number == 1).then_some(5);
        bytes.extend(writer.pair(&BackupPair { key, value, lease, ..BackupPair::default() }));
    }
    bytes.push(writer.end_keyspace());
    bytes.push(writer.end());
    bytes.concat()
}

#[tokio::test]
async fn a_backup_holds_all_that_goes_with_a_pair() {
    let server = Server::start().await;
    let headers = [("Content-Type", "text/x"), ("Quorate-Meta-Owner", "me")];
    server.send("PUT", "/v1/kv/orders/a", &headers, b"1\0").await;
    server.put("/v1/kv/orders/b", b"").await;
    server.put("/v1/kv/default/c", b"3").await;
    let reply = server.get("/v1/snapshot?ks=orders").await;
    assert_eq!((reply.status, reply.header("content-type")), (200, MEDIA_TYPE));
    let parts = parts(&reply.body);
    let [Part::Head(head), Part::Keyspace(keyspace), ..] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!((head.node.as_str(), &head.keyspaces[..]), ("n1", &["orders".to_owned()][..]));
    assert_eq!((keyspace.name.as_str(), keyspace.revision), ("orders", 3));
    let meta = vec![("owner".into(), "me".into())];
    let first =
        BackupPair { key: "a".into(), value: "1\0".into(), content_type: Some("text/x".into()), meta, ..BackupPair::default() };
    assert_eq!(pairs(&reply.body), [first, BackupPair { key: "b".into(), ..BackupPair::default() }]);
    let all = server.get("/v1/snapshot").await;
    assert_eq!(pairs(&all.body).len(), 3);
}

#[tokio::test]
async fn the_past_can_be_backed_up_as_far_as_it_is_kept() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a", b"1").await;
    server.put("/v1/kv/default/a", b"2").await;
    server.delete("/v1/kv/default/a").await;
    server.put("/v1/kv/default/b", b"3").await;
    let at = |revision: u64| format!("/v1/snapshot?ks=default&revision={revision}");
    for (revision, expected) in [(2, vec![("a", "1")]), (3, vec![("a", "2")]), (4, vec![]), (5, vec![("b", "3")])] {
        let backup = server.get(&at(revision)).await.body;
        let found = pairs(&backup);
        let expected: Vec<BackupPair> = expected
            .into_iter()
            .map(|(key, value)| BackupPair { key: key.into(), value: value.into(), ..BackupPair::default() })
            .collect();
        assert_eq!(found, expected, "{revision}");
        assert!(matches!(&parts(&backup)[1], Part::Keyspace(head) if head.revision == revision));
    }
    assert_eq!(server.get(&at(6)).await.refusal().0, 400, "it is yet to come");
    for target in ["/v1/snapshot?revision=3", "/v1/snapshot?ks=default,orders&revision=3"] {
        assert_eq!(server.get(target).await.refusal(), (400, "bad_parameter".to_owned()), "{target}");
    }
    let restored = restore(&server, "/v1/snapshot?revision=3", &backup_of(1)).await;
    assert_eq!(restored.refusal(), (400, "unknown_parameter".to_owned()));
}

#[tokio::test]
async fn what_was_backed_up_comes_back() {
    let server = Server::start().await;
    let backup = backup_of(5000);
    let reply = restore(&server, "/v1/snapshot", &backup).await;
    let restored = json!({"items": [{"name": "new", "pairs": 5000, "bytes": 5000 * 107}]});
    assert_eq!((reply.status, reply.json()), (200, restored));
    assert_eq!(server.get("/v1/kv/new?count_only").await.json()["count"], json!(5000));
    assert_eq!(server.get("/v1/kv/new/k000001?format=json").await.json()["lease"], json!("0000000000000005"));
    let again = server.get("/v1/snapshot?ks=new").await;
    let sorted = |backup: &[u8]| {
        let mut pairs = pairs(backup);
        pairs.sort_by(|a, b| a.key.cmp(&b.key));
        pairs
    };
    assert_eq!(sorted(&again.body), sorted(&backup));
    assert_eq!(restore(&server, "/v1/snapshot", &backup).await.refusal(), (409, "conflict".to_owned()), "it is there");
}

/// They came back under one revision, and then each of them held the lock.
#[tokio::test]
async fn of_claims_to_a_lock_that_come_back_one_holds_it() {
    let server = Server::start().await;
    for id in ["1", "2", "3"] {
        server.post_json("/v1/leases/orders", &json!({"ttl": "60s", "id": id}).to_string()).await;
        server.post_json("/v1/locks/orders/jobs?wait=1ms", &json!({"lease": id}).to_string()).await;
    }
    let backup = server.get("/v1/snapshot?ks=orders").await.body;
    let other = Server::start().await;
    other.delete("/v1/keyspaces/orders").await;
    assert_eq!(restore(&other, "/v1/snapshot", &backup).await.status, 200);
    let mut tokens = Vec::new();
    for id in ["1", "2", "3"] {
        let claim = other.get(&format!("/v1/kv/orders/jobs/{id}?format=json")).await.json();
        tokens.push(claim["create_revision"].as_u64().unwrap());
    }
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 3, "each has a token of its own");
    let holder = other.get("/v1/locks/orders/jobs").await.json();
    assert_eq!((&holder["holder"]["token"], &holder["waiting"]), (&json!(tokens[0]), &json!(2)));
}

#[tokio::test]
async fn a_bad_backup_leaves_nothing_and_says_where() {
    let server = Server::start().await;
    let backup = backup_of(5000);
    let mut damaged = backup.clone();
    let at = backup.len() / 2;
    damaged[at] ^= 1;
    for (bytes, told) in [
        (&backup[..backup.len() / 2], "the backup is cut: it ends at byte"),
        (&backup[..backup.len() - 1], "the backup is cut: it ends at byte"),
        (&damaged, "the backup is damaged: the checksum of a block is wrong at byte"),
        (b"hello, world", "this is no backup"),
    ] {
        let problem = restore(&server, "/v1/snapshot", bytes).await.problem();
        assert_eq!((problem.status, &*problem.code), (400, "bad_backup"), "{told}");
        assert!(problem.detail.contains(told), "{}", problem.detail);
        let is_named = problem.detail.ends_with(", in keyspace new");
        let is_whole = bytes.len() == backup.len() - 1;
        assert_eq!(is_named, told.contains("damaged") || (told.contains("cut") && !is_whole), "{}", problem.detail);
        let there = server.get("/v1/keyspaces/new").await.status;
        assert_eq!(there, if is_whole { 200 } else { 404 });
        if is_whole {
            assert!(problem.detail.starts_with("restored are new; then: "), "{}", problem.detail);
            server.delete("/v1/keyspaces/new").await;
        }
    }
}

#[tokio::test]
async fn what_cannot_be_asked_for_is_refused() {
    let server = Server::start().await;
    for (target, status, code) in [
        ("/v1/snapshot?ks=nothing", 404, "keyspace_not_found"),
        ("/v1/snapshot?ks=_system", 403, "keyspace_read_only"),
        ("/v1/snapshot?ks=-", 400, "bad_keyspace_name"),
        ("/v1/snapshot?keyspace=a", 400, "unknown_parameter"),
    ] {
        assert_eq!(server.get(target).await.refusal(), (status, code.to_owned()), "{target}");
    }
    let backup = backup_of(1);
    assert_eq!(restore(&server, "/v1/snapshot?ks=other", &backup).await.refusal(), (404, "keyspace_not_found".to_owned()));
    let typed = server.send("PUT", "/v1/snapshot", &[], &backup).await;
    assert_eq!(typed.refusal(), (415, "unsupported_media_type".to_owned()));
    let posted = server.send("POST", "/v1/snapshot", &[], b"").await;
    assert_eq!((posted.status, posted.header("allow")), (405, "GET, HEAD, PUT"));
}

#[tokio::test]
async fn a_store_that_fails_while_a_backup_is_sent_makes_it_one_that_is_not_whole() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a", b"1").await;
    server.store.fail_after(2, StoreError::NoLeader);
    let reply = server.get("/v1/snapshot?ks=default,orders").await;
    assert_eq!(reply.status, 200);
    let mut reader = BackupReader::default();
    reader.push(&reply.body);
    let error = loop {
        match reader.next_part() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it is whole"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().starts_with("the backup is not whole, the node that wrote it said: No leader"), "{error}");
}
