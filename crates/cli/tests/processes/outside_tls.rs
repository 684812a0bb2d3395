//! Stores outside that speak TLS, with protocols of their own: what is trusted, and what is not.

use std::fs;

use quorate_test_servers::{Certificates, postgres_encrypted, redis_encrypted};
use serde_json::{Value, json};

use crate::outside::{LIMIT, allowances, on, problem, put};
use crate::support::{Cluster, HUSH, Request, until};

#[test]
fn connections_are_encrypted_to_whom_the_system_trusts() {
    let (Some(certificates), Some(others)) = (Certificates::make(), Certificates::make()) else { return };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (redis, postgres) = (redis_encrypted(HUSH, &certificates), postgres_encrypted(HUSH, &certificates));
    let credentials = folder.path().join("credentials.json");
    fs::write(&credentials, json!({"username": "quorate", "password": HUSH}).to_string()).expect("a file can be written");
    let password = folder.path().join("password.json");
    fs::write(&password, json!({"password": HUSH}).to_string()).expect("a file can be written");
    let mut stores: Vec<(&str, String, Value)> = Vec::new();
    if let Some(redis) = &redis {
        stores.push(("redis", format!("rediss://127.0.0.1:{}/0", redis.port), json!({"file": password})));
    }
    if let Some(postgres) = &postgres {
        let url = format!("postgres://127.0.0.1:{}/postgres?sslmode=require", postgres.port);
        stores.push(("postgres", url, json!({"file": credentials})));
    }

    // Nobody trusts who is not known.
    let mut cluster = Cluster::empty();
    cluster.add("n1");
    cluster.node_mut("n1").set_variable("SSL_CERT_FILE", others.authority());
    cluster.node_mut("n1").start_with(&allowances(folder.path()));
    cluster.until_ready();
    let mut node = cluster.connection("n1");
    for (kind, url, credentials) in &stores {
        let create = |name: &str, url: &str| {
            let engine = json!({"type": kind, "url": url, "path": "shared", "timeout": "2s", "credentials": credentials});
            Request::json("PUT", &format!("/v1/keyspaces/{name}"), json!({"engine": engine}).to_string())
        };
        node.expect(201, &create(kind, url));
        let (code, outcome, detail) = problem(&mut node, 503, &put(kind, "a", "1"));
        assert_eq!((code.as_str(), outcome), ("store_unreachable", json!("not_applied")), "{detail}");
        assert!(detail.contains("certificate") && !detail.contains(HUSH), "{detail}");
        // Nor does anybody get in who does not encrypt.
        let plain = url.replace("rediss:", "redis:").replace("?sslmode=require", "");
        node.expect(201, &create(&format!("{kind}-plain"), &plain));
        let refused = node.send(&put(&format!("{kind}-plain"), "a", "1")).expect("an answer");
        assert!([502, 503, 504].contains(&refused.status), "{kind}: {} {}", refused.status, refused.text());
    }

    cluster.node_mut("n1").kill();
    cluster.node_mut("n1").set_variable("SSL_CERT_FILE", certificates.authority());
    cluster.node_mut("n1").start_with(&allowances(folder.path()));
    cluster.until_ready();
    let mut node = cluster.connection("n1");
    for (kind, ..) in &stores {
        until("the keyspace is there", LIMIT, || match node.send(&put(kind, "a", "1")) {
            Ok(answer) if answer.status == 204 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(node.expect(200, &on("GET", kind, "a")).text(), "1");
        node.expect(412, &put(kind, "a", "2").with_header("if-none-match", "*"));
        node.expect(200, &Request::new("GET", format!("/v1/kv/{kind}")));
    }
}
