//! `Quorate-Session` where the keyspace counts revisions; in eventual keyspaces it takes nodes: `sessions` in crates/cli.

use crate::server::Server;

const SESSION: &str = "Quorate-Session";

#[tokio::test]
async fn what_was_seen_is_told_and_asked_for_again() {
    let server = Server::start().await;
    let plain = server.send("PUT", "/v1/kv/default/k", &[], b"1").await;
    assert_eq!(plain.find("quorate-session"), None, "who is in none is told of none");
    let begun = server.send("PUT", "/v1/kv/default/k", &[(SESSION, "new")], b"2").await;
    let token = begun.header("quorate-session").to_owned();
    let read = server.send("GET", "/v1/kv/default/k?consistency=local", &[(SESSION, &token)], b"").await;
    assert_eq!((read.status, read.text().as_str(), read.header("quorate-session")), (200, "2", &*token));
    // Two that went beside each other, and one that begins.
    let both = format!("new, {token},{token}");
    let absent = server.send("GET", "/v1/kv/default/none", &[(SESSION, &both)], b"").await;
    assert_eq!((absent.status, absent.header("quorate-session")), (404, &*token), "that it is not there has been seen");
    for (method, target, status) in [
        ("GET", "/v1/kv/default", 200),
        ("GET", "/v1/kv/default?key64=aw", 200),
        ("HEAD", "/v1/watch/default", 200),
        ("DELETE", "/v1/kv/default/k", 204),
        ("DELETE", "/v1/kv/default?all=true", 200),
    ] {
        let answer = server.send(method, target, &[(SESSION, &token)], b"").await;
        assert_eq!((answer.status, answer.find("quorate-session").is_some()), (status, true), "{method} {target}");
    }
}

#[tokio::test]
async fn what_is_no_token_of_the_keyspace_is_refused() {
    let server = Server::start().await;
    for token in ["", "old", "AAAA", "AQAAAAAAAADhAAAAAAAAAAAA", "AQAAAAAAAADiAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let refused = server.send("GET", "/v1/kv/default/k", &[(SESSION, token)], b"").await;
        let (status, code) = refused.refusal();
        assert_eq!((status, code.as_str()), (400, "bad_header"), "{token}");
        assert!(refused.text().contains("`new` begins a session"), "{}", refused.text());
    }
    let many = vec!["AQAAAAAAAADhAAAAAAAAAAAAAAAAAAAAAAAAAAAA"; 65].join(",");
    assert_eq!(server.send("GET", "/v1/kv/default/k", &[(SESSION, &many)], b"").await.status, 400);
    let batch = [(SESSION, "new"), ("Content-Type", "application/json")];
    assert_eq!(server.send("POST", "/v1/batch/default", &batch, b"{\"ops\":[]}").await.refusal().1, "bad_header");
}
