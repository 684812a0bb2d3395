//! Every store in the conformance suite: one line each.

use std::sync::Arc;

use quorate_test_servers::{AZURITE_KEY, Items};
use serde_json::{Map, Value, json};

use super::conformance::{Subject, Time, check};
use super::fake_gcs::FakeGcs;
use super::fake_search::FakeSearch;
use crate::{AllowedCredentials, KeyEncoding, Memory, Spec, Store, Surroundings, open};

/// As long as values get in the suite.
const LARGE: usize = 3 << 20;

/// Credentials in a file, as a node would read them.
pub(super) fn credentials(folder: &tempfile::TempDir, secrets: &Value) -> Value {
    let path = folder.path().join("credentials.json");
    std::fs::write(&path, secrets.to_string()).unwrap();
    json!({"file": path})
}

pub(super) fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

/// A store as settings make it, in a node called `n1` that may use the folder of temporary files, also for credentials.
pub(super) fn opened(settings: Value, time: &Time) -> Arc<dyn Store> {
    let spec = Spec::parse(&object(settings)).unwrap();
    open(&spec, &surroundings(time)).unwrap()
}

pub(super) fn surroundings(time: &Time) -> Surroundings {
    let fs_roots = vec![std::env::temp_dir()];
    let credentials = AllowedCredentials { variables: Vec::new(), folders: fs_roots.clone() };
    Surroundings { node: "n1".to_owned(), fs_roots, credentials, clock: time.clock.clone() }
}

/// Runs the suite with each of these additions to the settings.
async fn conform(settings: &Value, additions: &[Value]) {
    for (number, addition) in additions.iter().enumerate() {
        let mut all = object(settings.clone());
        all.extend(object(addition.clone()));
        let time = Time::real();
        let kind = crate::kind(all["type"].as_str().unwrap()).unwrap();
        let spec = Spec::parse(&all).unwrap();
        let takes_any_key = kind.names.is_none() || spec.key_encoding == KeyEncoding::Bytes;
        let store = open(&spec, &surroundings(&time)).unwrap();
        assert_eq!(store.kind(), kind.name);
        if number == 0 {
            assert_eq!(store.capabilities(), (kind.capabilities)(), "the table says something else");
        }
        check(&Subject { store, time, takes_any_key, large: LARGE }).await;
    }
}

fn both_ways() -> [Value; 3] {
    [json!({}), json!({"key_encoding": "path"}), json!({"envelope": "none"})]
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let time = Time::real();
    let store = Arc::new(Memory::new(time.clock.clone()));
    let guarded = crate::guarded::Guarded::new(store, std::time::Duration::from_secs(10), 64, Vec::new());
    check(&Subject { store: Arc::new(guarded), time, takes_any_key: true, large: LARGE }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fs() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"type": "fs", "folder": folder.path().join("{node}")});
    conform(&settings, &both_ways()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"type": "sqlite", "file": folder.path().join("{node}.sqlite")});
    conform(&settings, &[json!({}), json!({"table": "other_{node}"})]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis() {
    let Some(server) = quorate_test_servers::redis("pass-word") else { return };
    let url = format!("redis://127.0.0.1:{}/1", server.port);
    let credentials = credentials(&server.folder, &json!({"password": "pass-word"}));
    let settings = json!({"type": "redis", "url": url, "path": "shared", "credentials": credentials});
    conform(&settings, &[json!({}), json!({"prefix": "a*:"}), json!({"envelope": "none", "prefix": "b:"})]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres() {
    let Some(server) = quorate_test_servers::postgres("pass-word") else { return };
    let url = format!("postgres://127.0.0.1:{}/postgres", server.port);
    let credentials = credentials(&server.folder, &json!({"username": "quorate", "password": "pass-word"}));
    let settings = json!({"type": "postgres", "url": url, "path": "shared", "credentials": credentials});
    conform(&settings, &[json!({}), json!({"table": "public.other-table"})]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    let Some(server) = quorate_test_servers::moto() else { return };
    let credentials = credentials(&server.folder, &json!({"access_key_id": "id", "secret_access_key": "secret-key"}));
    let endpoint = format!("http://127.0.0.1:{}", server.port);
    let settings = json!({"type": "s3", "url": "s3://bucket/some/{node}", "endpoint": endpoint, "credentials": credentials});
    conform(&settings, &both_ways()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn azblob() {
    let Some(server) = quorate_test_servers::azurite() else { return };
    let credentials = credentials(&server.folder, &json!({"account_key": AZURITE_KEY}));
    let endpoint = format!("http://127.0.0.1:{}/devstoreaccount1", server.port);
    let settings = json!({"type": "azblob", "url": "azblob://container/some/{node}", "endpoint": endpoint,
        "account": "devstoreaccount1", "credentials": credentials});
    conform(&settings, &both_ways()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs() {
    let fake = FakeGcs::start().await;
    let settings = json!({"type": "gcs", "url": "gs://bucket/some/{node}", "endpoint": fake.url()});
    conform(&settings, &both_ways()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webdav() {
    let Some(server) = quorate_test_servers::webdav("user", "pass-word") else { return };
    let credentials = credentials(&server.folder, &json!({"username": "user", "password": "pass-word"}));
    let url = format!("http://127.0.0.1:{}/", server.port);
    let settings = json!({"type": "webdav", "url": url, "path": "shared", "credentials": credentials});
    conform(&settings, &both_ways()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn service() {
    let service = Items::start().await;
    let settings = json!({"type": "service", "url": service.url("/items/{key}"), "path": "shared"});
    conform(&settings, &[json!({}), json!({"key_encoding": "bytes", "envelope": "quorate"})]).await;
    let service = Items::start().await;
    let settings = json!({"type": "service", "url": service.url("/items/{key}"), "path": "shared", "envelope": "quorate"});
    conform(&settings, &[json!({"envelope": "none"}), json!({"conditions": "etag"})]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opensearch() {
    let fake = FakeSearch::start().await;
    let settings = json!({"type": "opensearch", "url": fake.url(""), "index": "pairs-{node}"});
    conform(&settings, &[json!({}), json!({"index": "others-{node}", "key_encoding": "path"})]).await;
}
