//! What `openapi.json` says, asked of a server: each operation is there, answers as documented, and nothing else is there.

use std::collections::BTreeSet;

use quorate_external::ErrorKind;
use quorate_server::rest::StoreError;
use serde_json::Value;

use crate::server::{Headers, Reply, Server};

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"];

/// Requests that go wrong in ways of their own, beside the one that goes well.
const QUERIES: [&str; 4] = ["", "?timeout=never", "?no_such_parameter=1", "?key64=YQ"];

async fn document(server: &Server) -> Value {
    server.get("/openapi.json").await.json()
}

/// A path that can be asked for.
fn filled(path: &str) -> String {
    let keyspace = if path.starts_with("/v1/kv/") { "default" } else { "orders" };
    path.replace("{keyspace}", keyspace)
        .replace("{key}", "a")
        .replace("{name}", "n1")
        .replace("{id}", "7")
        .replace("{code}", "busy")
}

/// Whether the answer is one that the operation documents.
#[track_caller]
fn check(operation: &Value, method: &str, target: &str, reply: &Reply) {
    let response = &operation["responses"][reply.status.to_string()];
    assert!(response.is_object(), "{method} {target} answers {} and does not document it", reply.status);
    if reply.body.is_empty() {
        return;
    }
    let media_type = reply.header("content-type").split(';').next().unwrap();
    let content = &response["content"];
    let is_documented = content.get(media_type).is_some() || content.get("*/*").is_some();
    assert!(is_documented, "{method} {target} answers {} as {media_type} and does not document it", reply.status);
    if media_type == "application/problem+json" {
        let code = reply.json()["code"].clone();
        let codes = content[media_type]["schema"]["allOf"][1]["properties"]["code"]["enum"].as_array().unwrap();
        assert!(codes.contains(&code), "{method} {target} refuses with {code} and does not document it");
    }
}

#[tokio::test]
async fn every_operation_answers_as_documented() {
    let server = Server::start().await;
    let document = document(&server).await;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in METHODS {
            let Some(operation) = item.get(method.to_lowercase()) else { continue };
            for query in QUERIES {
                let target = filled(path) + query;
                let json: Headers<'_> = &[("Content-Type", "application/json")];
                for (headers, body) in [(&[][..], &b""[..]), (&[], b"x"), (json, b"{}"), (json, b"{\"no\": 1}")] {
                    let reply = server.send(method, &target, headers, body).await;
                    check(operation, method, &target, &reply);
                    let is_missing = reply.status == 405 && !path.contains("/kv/");
                    assert!(!is_missing, "{method} {path} is documented and is not there");
                }
            }
        }
    }
}

#[tokio::test]
async fn no_path_knows_other_methods() {
    let server = Server::start().await;
    let document = document(&server).await;
    for (path, item) in document["paths"].as_object().unwrap() {
        let documented: BTreeSet<String> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        let reply = server.send("OPTIONS", &filled(path), &[], b"").await;
        assert_eq!(reply.status, 405, "{path}");
        let allow = reply.header("allow").split(',').map(|method| method.trim().to_owned());
        // Without `key64` a keyspace takes no PUT, and no PATCH.
        let needs_key64 = |method: &str| path == "/v1/kv/{keyspace}" && ["PUT", "PATCH"].contains(&method);
        let documented: BTreeSet<String> = documented.into_iter().filter(|method| !needs_key64(method)).collect();
        assert_eq!(allow.collect::<BTreeSet<String>>(), documented, "{path}");
    }
}

#[tokio::test]
async fn what_the_store_cannot_do_is_documented_too() {
    let (no_quorum, no_room) = (
        [StoreError::NoLeader, StoreError::Unknown, StoreError::Overloaded, StoreError::ShuttingDown],
        [StoreError::DiskFull, StoreError::TooLarge { max_bytes: 5 }, StoreError::Internal("x".to_owned())],
    );
    let server = Server::start().await;
    let document = document(&server).await;
    for (failure, is_of_reads) in
        no_quorum.into_iter().map(|failure| (failure, true)).chain(no_room.map(|failure| (failure, false)))
    {
        server.store.fail_with(failure);
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in METHODS.into_iter().filter(|method| is_of_reads || !["GET", "HEAD"].contains(method)) {
                let Some(operation) = item.get(method.to_lowercase()) else { continue };
                let target = filled(path) + if path == "/v1/kv/{keyspace}" { "?key64=YQ" } else { "" };
                check(operation, method, &target, &server.send(method, &target, &[], b"").await);
            }
        }
    }
}

#[tokio::test]
async fn what_a_store_outside_fails_with_is_documented_too() {
    let server = Server::start().await;
    let document = document(&server).await;
    let kinds = [
        ErrorKind::Unreachable,
        ErrorKind::Timeout,
        ErrorKind::Throttled { retry_after: None },
        ErrorKind::Failing,
        ErrorKind::Denied,
        ErrorKind::NoContainer,
        ErrorKind::TooLarge,
        ErrorKind::BadData,
        ErrorKind::Unsupported,
    ];
    for kind in kinds {
        server.store.fail_with(StoreError::Outside(quorate_external::StoreError::new("s3", kind, "as asked")));
        let of_pairs = document["paths"].as_object().unwrap().iter().filter(|(path, _)| path.starts_with("/v1/kv/"));
        for (path, item) in of_pairs {
            for method in METHODS {
                let Some(operation) = item.get(method.to_lowercase()) else { continue };
                let target = filled(path) + if path == "/v1/kv/{keyspace}" { "?key64=YQ" } else { "" };
                check(operation, method, &target, &server.send(method, &target, &[], b"").await);
            }
        }
    }
}

#[tokio::test]
async fn every_code_is_explained() {
    let server = Server::start().await;
    let told = document(&server).await["components"]["schemas"]["ProblemCode"]["oneOf"].as_array().unwrap().len();
    assert_eq!(told, quorate_api::problem::Code::ALL.len());
    assert_eq!(server.get("/openapi.json?x").await.refusal(), (400, "unknown_parameter".to_owned()));
}
