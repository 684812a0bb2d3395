//! `If-Match`, `If-None-Match`, `cas`, as seen from outside.

use quorate_api::problem::WriteOutcome;

use crate::server::{Headers, Server};

const MATCH: &str = "If-Match";
const NONE: &str = "If-None-Match";

/// Sets up `there` at revision 2 of epoch e1, and leaves `missing` alone.
async fn server() -> Server {
    let server = Server::start().await;
    assert_eq!(server.put("/v1/kv/default/there", b"v").await.header("etag"), "\"e1.2\"");
    server
}

#[tokio::test]
async fn writes_happen_if_their_conditions_hold() {
    // (query, headers, status of a PUT on the key that is there, and on the one that is not)
    let cases: [(&str, Headers<'_>, u16, u16); 19] = [
        ("", &[], 204, 201),
        ("", &[(MATCH, "*")], 204, 412),
        ("", &[(MATCH, "\"e1.2\"")], 204, 412),
        ("", &[(MATCH, "\"e1.9\", \"e1.2\"")], 204, 412),
        ("", &[(MATCH, "\"e1.9\""), (MATCH, "\"e1.2\"")], 204, 412),
        ("", &[(MATCH, "\"e1.9\"")], 412, 412),
        ("", &[(MATCH, "W/\"e1.2\"")], 412, 412),
        ("", &[(MATCH, "\"e2.2\"")], 412, 412),
        ("", &[(MATCH, "\"other\"")], 412, 412),
        ("", &[(NONE, "*")], 412, 201),
        ("", &[(NONE, "\"e1.2\"")], 412, 201),
        ("", &[(NONE, "W/\"e1.2\"")], 412, 201),
        ("", &[(NONE, "\"e2.2\", \"e1.1\"")], 204, 201),
        ("?cas=0", &[], 412, 201),
        ("?cas=2", &[], 204, 412),
        ("?cas=3", &[], 412, 412),
        ("?cas=e1.2", &[], 204, 412),
        ("?cas=e2.2", &[], 412, 412),
        ("?cas=2", &[(MATCH, "\"e1.2\""), (NONE, "\"e1.1\"")], 204, 412),
    ];
    for (query, headers, there, missing) in cases {
        let server = server().await;
        for (key, expected) in [("there", there), ("missing", missing)] {
            let before = server.store.revision("default");
            let reply = server.send("PUT", &format!("/v1/kv/default/{key}{query}"), headers, b"new").await;
            assert_eq!(reply.status, expected, "{query} {headers:?} on {key}");
            let is_changed = server.store.revision("default") > before;
            assert_eq!(is_changed, expected < 300, "{query} {headers:?} on {key}");
        }
    }
}

#[tokio::test]
async fn a_failed_condition_says_what_is_there() {
    let server = server().await;
    let reply = server.put("/v1/kv/default/there?cas=1", b"").await;
    let problem = reply.problem();
    let current = problem.current.unwrap();
    assert_eq!((problem.status, problem.outcome, problem.retryable), (412, Some(WriteOutcome::NotApplied), false));
    assert_eq!((current.exists, current.mod_revision, current.etag.as_deref()), (true, Some(2), Some("\"e1.2\"")));
    assert_eq!(reply.header("quorate-revision"), "2");
    let current = server.delete("/v1/kv/default/missing?cas=1").await.problem().current.unwrap();
    assert_eq!((current.exists, current.mod_revision, current.etag), (false, None, None));
}

#[tokio::test]
async fn deletes_take_the_same_conditions() {
    let server = server().await;
    for (query, headers) in [("?cas=9", [].as_slice()), ("", &[(MATCH, "\"e1.9\"")]), ("", &[(NONE, "*")])] {
        let reply = server.send("DELETE", &format!("/v1/kv/default/there{query}"), headers, b"").await;
        assert_eq!(reply.refusal(), (412, "precondition_failed".to_owned()), "{query} {headers:?}");
    }
    assert_eq!(server.send("DELETE", "/v1/kv/default/missing", &[(MATCH, "*")], b"").await.status, 412);
    let deleted = server.send("DELETE", "/v1/kv/default/there?cas=2", &[(MATCH, "\"e1.2\"")], b"").await;
    assert_eq!((deleted.status, deleted.header("quorate-deleted")), (204, "1"));
}

#[tokio::test]
async fn reads_are_conditional_too() {
    let cases: [(Headers<'_>, u16, u16); 9] = [
        (&[(NONE, "\"e1.2\"")], 304, 404),
        (&[(NONE, "\"x\", W/\"e1.2\"")], 304, 404),
        (&[(NONE, "*")], 304, 404),
        (&[(NONE, "\"e1.1\"")], 200, 404),
        (&[(MATCH, "\"e1.2\"")], 200, 412),
        (&[(MATCH, "*")], 200, 412),
        (&[(MATCH, "W/\"e1.2\"")], 412, 412),
        (&[(MATCH, "\"e1.1\"")], 412, 412),
        (&[(MATCH, "\"e1.2\""), (NONE, "\"e1.1\"")], 200, 404 + 8),
    ];
    let server = server().await;
    for (headers, there, missing) in cases {
        for method in ["GET", "HEAD"] {
            let reply = server.send(method, "/v1/kv/default/there", headers, b"").await;
            assert_eq!(reply.status, there, "{method} {headers:?}");
            let reply = server.send(method, "/v1/kv/default/missing", headers, b"").await;
            assert_eq!(reply.status, missing, "{method} {headers:?}, missing");
        }
    }
    let not_modified = server.send("GET", "/v1/kv/default/there", &[(NONE, "\"e1.2\"")], b"").await;
    assert_eq!((not_modified.header("etag"), not_modified.header("quorate-revision")), ("\"e1.2\"", "2"));
    assert!(not_modified.body.is_empty() && not_modified.find("content-type").is_none());
}

#[tokio::test]
async fn conditions_that_contradict_or_cannot_be_read_are_refused() {
    let server = server().await;
    let contradicting: [(&str, Headers<'_>); 4] = [
        ("", &[(MATCH, "*"), (NONE, "*")]),
        ("?cas=0", &[(MATCH, "\"e1.2\"")]),
        ("?cas=2", &[(NONE, "*")]),
        ("?cas=2", &[(MATCH, "\"e1.3\"")]),
    ];
    for (query, headers) in contradicting {
        let reply = server.send("PUT", &format!("/v1/kv/default/there{query}"), headers, b"").await;
        assert_eq!(reply.refusal(), (400, "contradicting_conditions".to_owned()), "{query} {headers:?}");
    }
    for value in ["e1.2", "\"e1.2", "*, *", ",", "\"e1.2\" \"e1.3\""] {
        for name in [MATCH, NONE] {
            let reply = server.send("PUT", "/v1/kv/default/there", &[(name, value)], b"").await;
            assert_eq!(reply.refusal(), (400, "bad_header".to_owned()), "{name}: {value}");
        }
    }
    for cas in ["", "x", "-1", "1.5.2", "1&cas=1", "99999999999999999999"] {
        let reply = server.put(&format!("/v1/kv/default/there?cas={cas}"), b"").await;
        assert_eq!(reply.refusal(), (400, "bad_parameter".to_owned()), "{cas}");
    }
    assert_eq!(server.store.revision("default"), 2);
}
