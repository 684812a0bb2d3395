//! Batches as lines.

use std::time::Duration;

use serde_json::{Value, json};

use crate::server::{Connection, Server};

const LINES: &[(&str, &str)] = &[("Content-Type", "application/x-ndjson")];

async fn post(server: &Server, target: &str, lines: &[&str]) -> Vec<Value> {
    let reply = server.send("POST", target, LINES, lines.join("\n").as_bytes()).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/x-ndjson"), "{reply:?}");
    reply.lines()
}

/// Begins a request whose body comes in chunks.
async fn begin(server: &Server) -> Connection {
    let mut connection = server.connect().await;
    let head = "POST /v1/batch/default HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    connection.write(head.as_bytes()).await;
    connection
}

async fn send_chunk(connection: &mut Connection, chunk: &str) {
    connection.write(format!("{:x}\r\n{chunk}\r\n", chunk.len()).as_bytes()).await;
}

#[tokio::test]
async fn each_line_has_its_result_and_a_bad_one_does_not_end_it() {
    let server = Server::start().await;
    let lines = [
        r#"{"op":"put","key":"a","value":"1"}"#,
        "",
        "not json",
        r#"{"op":"stroke","key":"a"}"#,
        r#" {"op":"get","key":"a"} "#,
        r#"{"op":"delete","key":"a"}"#,
    ];
    let results = post(&server, "/v1/batch/default", &lines).await;
    assert_eq!(results[0], json!({"line": 1, "status": 201, "revision": 2, "version": 1}));
    assert_eq!((&results[1]["line"], &results[1]["problem"]["code"]), (&json!(3), &json!("bad_operation")));
    assert_eq!((&results[2]["line"], &results[2]["status"]), (&json!(4), &json!(422)));
    assert_eq!((&results[3]["line"], &results[3]["entry"]["value"]), (&json!(5), &json!("1")));
    assert_eq!(results[4], json!({"line": 6, "status": 204, "revision": 3, "deleted": 1}));
    assert_eq!(results[5..], [json!({"ops": 5, "failed": 2})]);
}

#[tokio::test]
async fn failures_alone_can_be_asked_for() {
    let server = Server::start().await;
    let put = r#"{"op":"put","key":"a","value":"1","cas":0}"#;
    let results = post(&server, "/v1/batch/default?results=failed", &[put, put]).await;
    assert_eq!((results.len(), &results[0]["line"], &results[0]["status"]), (2, &json!(2), &json!(412)));
    assert_eq!(results[1], json!({"ops": 2, "failed": 1}));
    assert_eq!(post(&server, "/v1/batch/default?results=all", &[]).await, [json!({"ops": 0, "failed": 0})]);
}

#[tokio::test]
async fn results_come_while_lines_are_still_to_be_sent() {
    let server = Server::start().await;
    let mut connection = begin(&server).await;
    for number in 1..=3 {
        send_chunk(&mut connection, &format!("{{\"op\":\"put\",\"key\":\"k{number}\",\"value\":\"v\"}}\n")).await;
        if number == 1 {
            assert_eq!(connection.head().await, 200);
        }
        let piece = connection.chunk().await.unwrap();
        let result: Value = serde_json::from_slice(&piece).unwrap();
        assert_eq!((&result["line"], &result["status"]), (&json!(number), &json!(201)));
    }
    send_chunk(&mut connection, "").await;
    assert_eq!(connection.chunk().await.unwrap(), b"{\"ops\":3,\"failed\":0}\n");
    assert_eq!(connection.chunk().await, None);
    // The connection is good for more.
    assert_eq!(connection.send("GET", "/v1/kv/default?count_only", &[], b"").await.json()["count"], json!(3));
}

#[tokio::test]
async fn a_stream_of_many_lines_is_done_to_its_end() {
    let server = Server::start().await;
    let lines: Vec<String> =
        (0..10_000).map(|number| format!(r#"{{"op":"put","key":"k{}","value":"{number}"}}"#, number % 5000)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let results = post(&server, "/v1/batch/default?results=failed", &lines).await;
    assert_eq!(results, [json!({"ops": 10_000, "failed": 0})]);
    assert_eq!(server.get("/v1/kv/default/k4999").await.text(), "9999");
    assert_eq!(server.get("/v1/kv/default?count_only").await.json()["count"], json!(5000));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_from() {
    let server = Server::start().await;
    let mut connection = begin(&server).await;
    let lines: Vec<String> = (0..1000).map(|number| format!("{{\"op\":\"get\",\"key\":\"k{number}\"}}\n")).collect();
    let lines = lines.concat();
    let chunk = format!("{:x}\r\n{lines}\r\n", lines.len()).into_bytes();
    // Each result is many times as long as its line: once the sockets between are full of them, no more lines are taken.
    let (mut at, mut rounds_at_rest) = (0, 0);
    while rounds_at_rest < 20 {
        let before = server.store.reads();
        let written = connection.write_some(&chunk[at % chunk.len()..], Duration::from_millis(20)).await;
        at += written;
        rounds_at_rest = if written == 0 && server.store.reads() == before { rounds_at_rest + 1 } else { 0 };
        assert!(at < 1 << 30, "it takes lines without an end");
    }
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_it() {
    let server = Server::start_with(|config| config.body_progress_timeout = Duration::from_mins(10)).await;
    let mut connection = begin(&server).await;
    send_chunk(&mut connection, "{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\n{\"op\":\"put\",").await;
    assert_eq!(connection.head().await, 200);
    connection.chunk().await.unwrap();
    drop(connection);
    // The half line is nothing.
    assert_eq!(server.store.revision("default"), 2);
    // All places are free again, or will be in a moment: the 65th would be refused.
    for _ in 0..65 {
        assert_eq!(post(&server, "/v1/batch/default", &[]).await.len(), 1);
    }
}

#[tokio::test]
async fn what_cuts_the_lines_off_is_said_behind_the_results() {
    let server = Server::start_with(|config| config.body_progress_timeout = Duration::from_millis(100)).await;
    let mut connection = begin(&server).await;
    send_chunk(&mut connection, "{\"op\":\"put\",\"key\":\"a\",\"value\":\"1\"}\n").await;
    assert_eq!(connection.head().await, 200);
    let mut lines = Vec::new();
    while let Some(chunk) = connection.chunk().await {
        lines.extend(chunk);
    }
    let lines: Vec<Value> = String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["status"]), (2, &json!(201)));
    let problem = &lines[1]["problem"];
    assert_eq!((&problem["code"], problem.get("outcome")), (&json!("body_timeout"), None));
    assert!(problem["detail"].as_str().unwrap().starts_with("behind line 1: "), "{problem}");
}

#[tokio::test]
async fn a_line_without_an_end_is_cut_off() {
    let server = Server::start().await;
    let long = "x".repeat((16 << 20) + 100);
    let results = post(&server, "/v1/batch/default", &[r#"{"op":"get","key":"a"}"#, &long]).await;
    assert_eq!((results.len(), &results[1]["problem"]["code"]), (2, &json!("body_too_large")));
}

#[tokio::test]
async fn what_cannot_be_begun_is_a_problem_as_ever() {
    let server = Server::start().await;
    let send = |target: &'static str| server.send("POST", target, LINES, b"{}");
    assert_eq!(send("/v1/batch/nowhere").await.refusal(), (404, "keyspace_not_found".to_owned()));
    assert_eq!(send("/v1/batch/default?results=some").await.refusal(), (400, "bad_parameter".to_owned()));
    assert_eq!(send("/v1/batch/default?timeout=2h").await.refusal(), (400, "bad_parameter".to_owned()));
    let mut expecting = server.connect().await;
    let head = "POST /v1/batch/default HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\n\
                Content-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    expecting.write(head.as_bytes()).await;
    assert_eq!(expecting.head().await, 100, "told to go on before the answer begins");
    expecting.write(b"{}\n").await;
    assert_eq!(expecting.head().await, 200);
}
