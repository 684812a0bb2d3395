//! Watches, and reads that wait.

use std::time::Duration;

use quorate_server::rest::StoreError;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::server::{Connection, Headers, Reply, Server};
use crate::store::EPOCH;

const LINES: (&str, &str) = ("Accept", "application/x-ndjson");

/// A watch as lines, or as server-sent events.
struct Watched {
    connection: Connection,
    text: String,
    head: Reply,
}

impl Watched {
    async fn begin(server: &Server, target: &str, headers: Headers<'_>) -> Self {
        Self::begin_with(server, "GET", target, headers, "").await
    }

    async fn begin_with(server: &Server, method: &str, target: &str, headers: Headers<'_>, body: &str) -> Self {
        let mut connection = server.connect().await;
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request.extend([name, ": ", value, "\r\n"]);
        }
        request.extend(["\r\n", body]);
        connection.write(request.as_bytes()).await;
        let head = connection.reply_head().await;
        assert_eq!(head.status, 200, "{head:?}");
        Self { connection, text: String::new(), head }
    }

    async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.text.find(end) {
                let rest = self.text.split_off(at + end.len());
                return std::mem::replace(&mut self.text, rest);
            }
            let chunk = self.connection.chunk().await.expect("the watch goes on");
            self.text.push_str(&String::from_utf8(chunk).unwrap());
        }
    }

    /// The next line.
    async fn line(&mut self) -> Value {
        serde_json::from_str(&self.until("\n").await).unwrap()
    }

    /// The next server-sent event: its fields by name.
    async fn event(&mut self) -> Vec<(String, String)> {
        let text = self.until("\n\n").await;
        text.lines().filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    async fn is_over(&mut self) -> bool {
        self.text.is_empty() && self.connection.chunk().await.is_none()
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it reads like the message")]
fn change(revision: u64, events: Value) -> Value {
    json!({"event": "change", "revision": revision, "events": events})
}

fn put(key: &str, value: &str, [create, modified, version]: [u64; 3]) -> Value {
    json!({"type": "put", "key": key, "value": value, "create_revision": create, "mod_revision": modified, "version": version})
}

fn deleted(key: &str, revision: u64) -> Value {
    json!({"type": "delete", "key": key, "create_revision": 0, "mod_revision": revision, "version": 0})
}

/// A server with a keyspace `plain`, of which the feed alone keeps what happened.
async fn without_history() -> Server {
    let server = Server::start().await;
    assert_eq!(server.put_json("/v1/keyspaces/plain", &json!({"engine": {"type": "hash"}})).await.status, 201);
    server
}

#[tokio::test]
async fn what_happens_to_a_prefix_comes_by_revision() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a/1", b"before").await;
    let mut watched = Watched::begin(&server, "/v1/watch/default?prefix=a/", &[LINES]).await;
    assert_eq!(watched.head.header("content-type"), "application/x-ndjson");
    assert_eq!((watched.head.header("cache-control"), watched.head.header("x-accel-buffering")), ("no-store", "no"));
    assert_eq!((watched.head.header("quorate-revision"), watched.head.header("quorate-consistency")), ("2", "linearizable"));
    server.put("/v1/kv/default/b", b"other").await;
    server.put("/v1/kv/default/a/1", b"now").await;
    let txn = json!({"then": [
        {"op": "put", "key": "a/2", "value": "x"},
        {"op": "put", "key": "c", "value": "y"},
        {"op": "delete", "key": "a/1"},
    ]});
    server.post_json("/v1/txn", &txn.to_string()).await;
    assert_eq!(watched.line().await, change(4, json!([put("a/1", "now", [2, 4, 2])])));
    assert_eq!(watched.line().await, change(5, json!([put("a/2", "x", [5, 5, 1]), deleted("a/1", 5)])));
}

#[tokio::test]
async fn what_is_not_asked_for_does_not_keep_a_watch_from_hearing_how_far_it_is() {
    let server = Server::start_with(|config| config.watch_progress_interval = Duration::from_millis(200)).await;
    let mut watched = Watched::begin(&server, "/v1/watch/default?key=a&types=delete", &[LINES]).await;
    let putting = async {
        loop {
            server.put("/v1/kv/default/a", b"x").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let hearing = async {
        let mut revisions = Vec::new();
        while revisions.len() < 3 {
            let line = watched.line().await;
            assert_eq!(line["event"], "progress", "{line}");
            revisions.push(line["revision"].as_u64().expect("how far it is"));
        }
        revisions
    };
    let revisions = tokio::select! { () = putting => unreachable!(), revisions = hearing => revisions };
    assert!(revisions.is_sorted_by(|one, next| one < next), "{revisions:?}");
}

#[tokio::test]
async fn events_have_ids_from_which_a_watch_goes_on() {
    let server = Server::start().await;
    let mut watched = Watched::begin(&server, "/v1/watch/default?key=a", &[]).await;
    assert_eq!(watched.head.header("content-type"), "text/event-stream");
    server.put("/v1/kv/default/a", b"1").await;
    server.put("/v1/kv/default/a", b"line\nbreak").await;
    assert_eq!(watched.event().await, [("retry".to_owned(), "1000".to_owned())]);
    let first = watched.event().await;
    assert_eq!(first[..2], [("id".to_owned(), format!("{EPOCH:x}.2")), ("event".to_owned(), "change".to_owned())]);
    assert_eq!(serde_json::from_str::<Value>(&first[2].1).unwrap(), change(2, json!([put("a", "1", [2, 2, 1])])));
    let again = Watched::begin(&server, "/v1/watch/default?key=a", &[("Last-Event-ID", &first[0].1)]).await;
    for mut watched in [watched, again] {
        let event = loop {
            let event = watched.event().await;
            if event.len() > 1 {
                break event;
            }
        };
        let data: Value = serde_json::from_str(&event[2].1).unwrap();
        assert_eq!(data, change(3, json!([put("a", "line\nbreak", [2, 3, 2])])));
    }
    let other_epoch = server.send("GET", "/v1/watch/default?key=a", &[("Last-Event-ID", "77.2")], b"").await;
    assert_eq!(other_epoch.refusal(), (410, "compacted".to_owned()));
    let no_id = server.send("GET", "/v1/watch/default?key=a", &[("Last-Event-ID", "2")], b"").await;
    assert_eq!(no_id.refusal(), (400, "bad_header".to_owned()));
}

#[tokio::test]
async fn events_tell_how_long_a_pair_lives() {
    let server = Server::start().await;
    let mut watched = Watched::begin(&server, "/v1/watch/default?prev", &[LINES]).await;
    server.store.advance(1_000);
    server.put("/v1/kv/default/a?ttl=30s", b"1").await;
    server.put("/v1/kv/default/a", b"2").await;
    let mut first = put("a", "1", [2, 2, 1]);
    first["ttl"] = json!(30.0);
    assert_eq!(watched.line().await, change(2, json!([first])));
    let mut second = put("a", "2", [2, 3, 2]);
    second["prev"] = json!({"key": "a", "value": "1", "create_revision": 2, "mod_revision": 2, "version": 1});
    assert_eq!(watched.line().await, change(3, json!([second])));
}

#[tokio::test]
async fn what_is_there_comes_first_if_that_is_asked_for() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a/1", b"1").await;
    server.put("/v1/kv/default/b", b"2").await;
    server.put("/v1/kv/default/a/2", b"3").await;
    let mut watched = Watched::begin(&server, "/v1/watch/default?prefix=a/&initial&values=false", &[LINES]).await;
    let entry = |key: &str, at: u64| json!({"type": "put", "key": key, "create_revision": at, "mod_revision": at, "version": 1});
    let snapshot = json!({"event": "snapshot", "revision": 4, "events": [entry("a/1", 2), entry("a/2", 4)]});
    assert_eq!(watched.line().await, snapshot);
    assert_eq!(watched.line().await, json!({"event": "sync", "revision": 4}));
    server.put("/v1/kv/default/a/3", b"4").await;
    assert_eq!(watched.line().await, change(5, json!([entry("a/3", 5)])));
}

#[tokio::test]
async fn a_large_keyspace_comes_in_pieces_before_what_changes() {
    let server = Server::start().await;
    server.store.fill("default", 20_000);
    let mut watched = Watched::begin(&server, "/v1/watch/default?initial", &[LINES]).await;
    server.put("/v1/kv/default/k000000", b"new").await;
    let mut keys = 0;
    let mut pieces = 0;
    let sync = loop {
        let line = watched.line().await;
        match line["event"].as_str() {
            Some("snapshot") => {
                assert_eq!(line["revision"], 2);
                keys += line["events"].as_array().unwrap().len();
                pieces += 1;
            }
            _ => break line,
        }
    };
    assert_eq!((keys, sync), (20_000, json!({"event": "sync", "revision": 2})));
    assert!(pieces > 3, "{pieces}");
    assert_eq!(watched.line().await, change(3, json!([put("k000000", "new", [2, 3, 2])])));
}

#[tokio::test]
async fn several_selections_share_a_stream() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a/1", b"0").await;
    let body = json!({"prev": true, "initial": true, "watches": [
        {"id": "all of a", "prefix": "a/"},
        {"id": "one", "key": "a/1", "types": ["delete", "put"]},
        {"id": "gone", "key64": "_w", "types": ["delete"]},
    ]});
    let headers = [LINES, ("Content-Type", "application/json")];
    let mut watched = Watched::begin_with(&server, "POST", "/v1/watch/default", &headers, &body.to_string()).await;
    let entry = json!({"key": "a/1", "value": "0", "create_revision": 2, "mod_revision": 2, "version": 1});
    let mut first = put("a/1", "0", [2, 2, 1]);
    first["watches"] = json!(["all of a", "one"]);
    assert_eq!(watched.line().await, json!({"event": "snapshot", "revision": 2, "events": [first]}));
    assert_eq!(watched.line().await, json!({"event": "sync", "revision": 2}));
    server.put("/v1/kv/default/%FF", b"not told").await;
    server.delete("/v1/kv/default/%FF").await;
    server.delete("/v1/kv/default/a/1").await;
    let gone = json!({"type": "delete", "key64": "_w", "create_revision": 0, "mod_revision": 4, "version": 0, "watches": ["gone"],
        "prev": {"key64": "_w", "value": "not told", "create_revision": 3, "mod_revision": 3, "version": 1}});
    assert_eq!(watched.line().await, change(4, json!([gone])));
    let mut last = deleted("a/1", 5);
    last["watches"] = json!(["all of a", "one"]);
    last["prev"] = entry;
    assert_eq!(watched.line().await, change(5, json!([last])));
}

#[tokio::test]
async fn a_watch_begins_in_the_past_as_far_as_it_is_kept_or_in_the_future() {
    let server = without_history().await;
    // A feed begins with the first watch.
    drop(Watched::begin(&server, "/v1/watch/plain", &[LINES]).await);
    for value in 2..=6 {
        server.put("/v1/kv/plain/a", value.to_string().as_bytes()).await;
    }
    let mut past = Watched::begin(&server, "/v1/watch/plain?from_revision=5", &[LINES]).await;
    assert_eq!(past.line().await, change(5, json!([put("a", "5", [2, 5, 4])])));
    assert_eq!(past.line().await, change(6, json!([put("a", "6", [2, 6, 5])])));
    let mut future = Watched::begin(&server, "/v1/watch/plain?from_revision=8", &[LINES]).await;
    server.put("/v1/kv/plain/a", b"7").await;
    server.put("/v1/kv/plain/a", b"8").await;
    assert_eq!(future.line().await, change(8, json!([put("a", "8", [2, 8, 7])])));
    let mut first = Watched::begin(&server, "/v1/watch/plain?from_revision=1", &[LINES]).await;
    assert_eq!(first.line().await, change(2, json!([put("a", "2", [2, 2, 1])])), "nothing happened at the first revision");
}

#[tokio::test]
async fn what_the_feed_does_not_hold_is_read_from_the_history() {
    let server = Server::start().await;
    drop(Watched::begin(&server, "/v1/watch/default", &[LINES]).await);
    let value = "v".repeat(1 << 20);
    for number in 0..8 {
        server.put(&format!("/v1/kv/default/a{number}"), value.as_bytes()).await;
    }
    let mut watched = Watched::begin(&server, "/v1/watch/default?from_revision=2&values=false", &[LINES]).await;
    for revision in 2..10 {
        let line = watched.line().await;
        assert_eq!(
            (line["revision"].as_u64(), line["events"][0]["key"].as_str()),
            (Some(revision), Some(&*format!("a{}", revision - 2)))
        );
    }
    assert_eq!(server.post_json("/v1/keyspaces/default/compact", r#"{"revision": 4}"#).await.status, 200);
    let gone = server.get("/v1/watch/default?from_revision=3").await;
    assert_eq!((gone.refusal(), gone.problem().compacted_revision), ((410, "compacted".to_owned()), Some(4)));
    let mut kept = Watched::begin(&server, "/v1/watch/default?from_revision=4&values=false", &[LINES]).await;
    assert_eq!(kept.line().await["revision"], 4);
}

#[tokio::test]
async fn who_does_not_read_is_told_when_it_goes_on_and_costs_nothing_meanwhile() {
    let server = without_history().await;
    let mut watched = Watched::begin(&server, "/v1/watch/plain?prefix=a", &[LINES]).await;
    // More than the sockets' buffers and the feed hold.
    let value = vec![b'v'; 1 << 20];
    for number in 0..40 {
        server.put(&format!("/v1/kv/plain/a{number}"), &value).await;
    }
    let mut revision = 1;
    let end = loop {
        let line = watched.line().await;
        if line["event"] != "change" {
            break line;
        }
        assert_eq!(line["revision"], revision + 1, "nothing is left out before the end");
        revision += 1;
    };
    assert_eq!((end["event"].as_str(), end["revision"].as_u64()), (Some("error"), Some(revision)), "{end}");
    assert_eq!((end["problem"]["code"].as_str(), end["problem"]["status"].as_u64()), (Some("compacted"), Some(410)));
    assert!(end["problem"]["compacted_revision"].as_u64() > Some(revision + 1), "{end}");
    assert!(watched.is_over().await);
}

#[tokio::test]
async fn a_shutdown_ends_watches_with_a_word() {
    let mut server = Server::start().await;
    let mut watched = Watched::begin(&server, "/v1/watch/default", &[LINES]).await;
    let ended = server.shut_down();
    let line = watched.line().await;
    assert_eq!((line["event"].as_str(), line["problem"]["code"].as_str()), (Some("error"), Some("shutting_down")), "{line}");
    assert!(watched.is_over().await);
    ended.await;
}

#[tokio::test]
async fn what_cannot_be_watched_is_refused() {
    let server = Server::start().await;
    let get = [
        ("/v1/watch/default?key=a&prefix=b", 400, "bad_parameter"),
        ("/v1/watch/default?key=", 400, "empty_key"),
        ("/v1/watch/default?types=put,set", 400, "bad_parameter"),
        ("/v1/watch/default?from_revision=1&initial", 400, "bad_parameter"),
        ("/v1/watch/default?limit=1", 400, "unknown_parameter"),
        ("/v1/watch/nothing", 404, "keyspace_not_found"),
        ("/v1/watch/No", 400, "bad_keyspace_name"),
    ];
    for (target, status, code) in get {
        assert_eq!(server.get(target).await.refusal(), (status, code.to_owned()), "{target}");
    }
    assert_eq!(server.put("/v1/watch/default", b"").await.refusal(), (405, "method_not_allowed".to_owned()));
    let post = [
        (json!({"watches": []}), "bad_body"),
        (json!({"watches": [{}], "more": 1}), "bad_body"),
        (json!({"watches": [{"key": "a", "key64": "YQ"}]}), "bad_body"),
        (json!({"watches": [{"key": "a", "prefix": "b"}]}), "bad_body"),
        (json!({"watches": [{"id": ""}]}), "bad_body"),
        (json!({"watches": [{"key64": "?"}]}), "malformed_key"),
        (json!({"watches": vec![json!({}); 1001]}), "bad_body"),
    ];
    for (body, code) in post {
        assert_eq!(server.post_json("/v1/watch/default", &body.to_string()).await.refusal(), (400, code.to_owned()), "{code}");
    }
    server.store.fail_with(StoreError::NoLeader);
    assert_eq!(server.get("/v1/watch/default").await.refusal(), (503, "no_leader".to_owned()));
}

#[tokio::test]
async fn a_read_waits_until_its_key_changes() {
    let server = Server::start().await;
    let etag = server.put("/v1/kv/default/a", b"1").await.header("etag").to_owned();
    let mut connection = server.connect().await;
    let conditional: Headers<'_> = &[("If-None-Match", &etag)];
    let wait = connection.send("GET", "/v1/kv/default/a?wait=10s", conditional, b"");
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.put("/v1/kv/default/b", b"other").await;
        server.put("/v1/kv/default/a", b"2").await;
    };
    let (reply, ()) = tokio::join!(wait, change);
    assert_eq!((reply.status, reply.text().as_str(), reply.header("quorate-revision")), (200, "2", "4"));

    let started = tokio::time::Instant::now();
    let newer = server.get("/v1/kv/default/a?wait=10s&index=3").await;
    assert_eq!((newer.status, newer.text().as_str()), (200, "2"));
    assert!(started.elapsed() < Duration::from_secs(5), "what is newer already is not waited for");
    let unchanged = server.get("/v1/kv/default/a?wait=50ms&index=4").await;
    assert_eq!(
        (unchanged.status, unchanged.header("quorate-revision"), unchanged.header("quorate-mod-revision")),
        (304, "4", "4")
    );
    let absent = server.get("/v1/kv/default/nothing?wait=50ms&index=4").await;
    assert_eq!((absent.status, absent.header("quorate-revision")), (304, "4"));
    for bad in ["wait=0s", "wait=6m", "wait=x", "index=x"] {
        assert_eq!(server.get(&format!("/v1/kv/default/a?{bad}")).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_list_waits_until_one_of_its_keys_changes() {
    let server = Server::start().await;
    server.put("/v1/kv/default/a/1", b"1").await;
    let mut connection = server.connect().await;
    let wait = connection.send("GET", "/v1/kv/default?prefix=a/&wait=10s&index=2", &[], b"");
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.put("/v1/kv/default/b", b"other").await;
        server.delete("/v1/kv/default/a/1").await;
    };
    let (reply, ()) = timeout(Duration::from_secs(8), async { tokio::join!(wait, change) }).await.unwrap();
    assert_eq!((reply.status, reply.json()["items"].clone(), reply.json()["revision"].clone()), (200, json!([]), json!(4)));
    let unchanged = server.get("/v1/kv/default?prefix=a/&wait=50ms&index=4").await;
    assert_eq!((unchanged.status, unchanged.header("quorate-revision")), (304, "4"));
}
