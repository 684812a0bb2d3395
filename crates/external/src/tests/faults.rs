//! What stores say when things go wrong: what it is, what became of a write, and nothing of what they keep to themselves.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use quorate_engine::KeyRange;
use quorate_test_servers::{AZURITE_KEY, Http, ItemMap, answer};
use serde_json::{Value, json};

use super::conformance::Time;
use super::faulty::{Fault, Link};
use super::lines::{credentials, opened};
use crate::{Condition, ErrorKind, Outcome, Put, Scan, Store, StoreError, Tag, Written};

struct Bench {
    store: Arc<dyn Store>,
    time: Time,
}

impl Bench {
    fn of(settings: Value) -> Self {
        let time = Time::real();
        Self { store: opened(settings, &time), time }
    }

    async fn put(&self, key: &str, value: &str, condition: Condition) -> Result<Written, StoreError> {
        let (value, stamp) = (Bytes::copy_from_slice(value.as_bytes()), self.time.clock.stamp());
        self.store.put(key.as_bytes(), &Put { value, expires_at_ms: None, condition, stamp }).await
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.store.get(key.as_bytes()).await?.map(|stored| stored.value))
    }
}

fn is_done(written: &Result<Written, StoreError>) -> bool {
    matches!(written, Ok(Written::Done(_)))
}

/// Stores over a connection that fails, all with an envelope or columns of their own.
async fn over_links(timeout: &str) -> Vec<(&'static str, Link, Bench, Box<dyn std::any::Any>)> {
    let mut benches: Vec<(&'static str, Link, Bench, Box<dyn std::any::Any>)> = Vec::new();
    if let Some(server) = quorate_test_servers::redis("pass-word") {
        let link = Link::to(server.port).await;
        let credentials = credentials(&server.folder, &json!({"password": "pass-word"}));
        let url = format!("redis://127.0.0.1:{}", link.port);
        let settings = json!({"type": "redis", "url": url, "path": "shared", "timeout": timeout, "credentials": credentials});
        benches.push(("redis", link, Bench::of(settings), Box::new(server)));
    }
    if let Some(server) = quorate_test_servers::postgres("pass-word") {
        let link = Link::to(server.port).await;
        let credentials = credentials(&server.folder, &json!({"username": "quorate", "password": "pass-word"}));
        let url = format!("postgres://127.0.0.1:{}/postgres", link.port);
        let settings = json!({"type": "postgres", "url": url, "path": "shared", "timeout": timeout, "credentials": credentials});
        benches.push(("postgres", link, Bench::of(settings), Box::new(server)));
    }
    if let Some(server) = quorate_test_servers::moto() {
        let link = Link::to(server.port).await;
        let endpoint = format!("http://127.0.0.1:{}", link.port);
        let credentials = credentials(&server.folder, &json!({"access_key_id": "id", "secret_access_key": "secret-key"}));
        let settings = json!({"type": "s3", "url": "s3://bucket", "path": "shared", "timeout": timeout, "endpoint": endpoint,
            "credentials": credentials});
        benches.push(("s3", link, Bench::of(settings), Box::new(server)));
    }
    let items = Items::start(ItemMap::answer).await;
    let link = Link::to(items.http.port).await;
    let url = format!("http://127.0.0.1:{}/{{key}}", link.port);
    let settings = json!({"type": "service", "url": url, "path": "shared", "timeout": timeout, "envelope": "quorate",
        "conditions": "etag"});
    benches.push(("service", link, Bench::of(settings), Box::new(items)));
    benches
}

/// A write whose answer is lost happened; it is told as done, once, whatever its condition.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_found_again() {
    for (kind, link, bench, _server) in over_links("4s").await {
        // Opened, with its table made.
        assert!(is_done(&bench.put("warm", "up", Condition::Always).await), "{kind}");
        for (number, condition) in [Condition::Always, Condition::Absent].into_iter().enumerate() {
            link.set_later(Fault::Lost(1));
            let key = format!("lost-{number}");
            let written = bench.put(&key, "once", condition).await;
            assert!(is_done(&written), "{kind}: {written:?}");
            assert_eq!(bench.value(&key).await.unwrap().unwrap(), "once", "{kind}");
            // Replaced by its tag, with the answer lost again.
            let tag = bench.store.get(key.as_bytes()).await.unwrap().unwrap().tag;
            link.set_later(Fault::Lost(1));
            let written = bench.put(&key, "twice", Condition::Matches(tag)).await;
            assert!(is_done(&written), "{kind}: {written:?}");
            link.set_later(Fault::Lost(1));
            bench.store.delete(key.as_bytes(), &Condition::Always).await.unwrap();
            assert_eq!(bench.value(&key).await.unwrap(), None, "{kind}");
        }
    }
}

/// Reads go on over connections that break, and a value that comes in half is none.
#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_none() {
    for (kind, link, bench, _server) in over_links("2s").await {
        let value = "x".repeat(10_000);
        bench.put("long", &value, Condition::Always).await.unwrap();
        for bytes in [0, 10, 200, 400] {
            link.set_later(Fault::Cut(1, bytes));
            assert_eq!(bench.value("long").await.unwrap().unwrap(), value, "{kind}: {bytes} bytes");
        }
        link.set_later(Fault::Cut(usize::MAX, 300));
        let error = bench.value("long").await.unwrap_err();
        assert!(error.kind.is_passing(), "{kind}: {error}");
        link.set(Fault::None);
        assert_eq!(bench.value("long").await.unwrap().unwrap(), value, "{kind}");
    }
}

/// A store that is gone, or silent, is said to be, in time; when it is back, so is everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_gone_comes_back() {
    let comes_back = async |(kind, link, bench, _server): (&str, Link, Bench, Box<dyn std::any::Any>)| {
        bench.put("kept", "1", Condition::Always).await.unwrap();
        for fault in [Fault::Gone, Fault::Silent] {
            link.set(fault);
            let error = bench.value("kept").await.unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Timeout), "{kind}: {error}");
            let error = bench.put("kept", "2", Condition::Always).await.unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Timeout), "{kind}: {error}");
            assert!(bench.store.check().await.is_err() && bench.store.scan(&Scan::of(KeyRange::all())).await.is_err());
            let before = link.connections();
            assert!(bench.value("kept").await.is_err());
            assert!(link.connections() - before < 50, "{kind}: asks again and again without a pause");
        }
        link.set(Fault::None);
        assert_eq!(bench.value("kept").await.unwrap().unwrap(), "1", "{kind}");
        assert!(is_done(&bench.put("kept", "3", Condition::Always).await), "{kind}");
    };
    futures_util::future::join_all(over_links("1s").await.into_iter().map(comes_back)).await;
}

/// A store that is down when it is opened is opened, and what it had is there when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_killed_comes_back() {
    let Some(mut server) = quorate_test_servers::redis("pass-word") else { return };
    server.kill();
    let credentials = credentials(&server.folder, &json!({"password": "pass-word"}));
    let url = format!("redis://127.0.0.1:{}", server.port);
    let bench = Bench::of(json!({"type": "redis", "url": url, "path": "shared", "timeout": "500ms", "credentials": credentials}));
    let error = bench.put("a", "1", Condition::Always).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Unreachable, Outcome::NotApplied), "{error}");
    server.begin();
    assert!(is_done(&bench.put("a", "1", Condition::Always).await));
    server.kill();
    assert!(bench.value("a").await.unwrap_err().kind.is_passing());
    server.begin();
    assert_eq!(bench.value("a").await.unwrap().unwrap(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_and_missing_containers_are_told_apart() {
    let expect = async |settings: Value, expected: ErrorKind| {
        let kind = settings["type"].to_string();
        let bench = Bench::of(settings);
        let errors =
            [bench.value("a").await.err(), bench.put("a", "1", Condition::Always).await.err(), bench.store.check().await.err()];
        for error in errors {
            let error = error.unwrap_or_else(|| panic!("{kind} takes it"));
            assert_eq!((error.kind, error.outcome), (expected, Outcome::NotApplied), "{error}");
            assert!(!error.to_string().contains("wrong-secret"), "{error}");
        }
    };
    if let Some(server) = quorate_test_servers::redis("pass-word") {
        let url = format!("redis://127.0.0.1:{}", server.port);
        let wrong = credentials(&server.folder, &json!({"password": "wrong-secret"}));
        expect(json!({"type": "redis", "url": url, "path": "shared", "credentials": wrong}), ErrorKind::Denied).await;
        expect(json!({"type": "redis", "url": url, "path": "shared"}), ErrorKind::Denied).await;
    }
    if let Some(server) = quorate_test_servers::postgres("pass-word") {
        let url = |database: &str| format!("postgres://127.0.0.1:{}/{database}", server.port);
        let wrong = credentials(&server.folder, &json!({"username": "quorate", "password": "wrong-secret"}));
        expect(json!({"type": "postgres", "url": url("postgres"), "path": "shared", "credentials": wrong}), ErrorKind::Denied)
            .await;
        let right = credentials(&server.folder, &json!({"username": "quorate", "password": "pass-word"}));
        let missing = json!({"type": "postgres", "url": url("nowhere"), "path": "shared", "credentials": right});
        expect(missing, ErrorKind::NoContainer).await;
    }
    if let Some(server) = quorate_test_servers::moto() {
        let endpoint = format!("http://127.0.0.1:{}", server.port);
        expect(json!({"type": "s3", "url": "s3://nowhere", "path": "shared", "endpoint": endpoint}), ErrorKind::NoContainer)
            .await;
    }
    if let Some(server) = quorate_test_servers::azurite() {
        let endpoint = format!("http://127.0.0.1:{}/devstoreaccount1", server.port);
        let settings = |container: &str, key: &str| {
            let credentials = credentials(&server.folder, &json!({"account_key": key}));
            json!({"type": "azblob", "url": format!("azblob://{container}"), "endpoint": endpoint, "path": "shared",
                "account": "devstoreaccount1", "credentials": credentials})
        };
        expect(settings("nowhere", AZURITE_KEY), ErrorKind::NoContainer).await;
        expect(settings("container", "d3Jvbmctc2VjcmV0"), ErrorKind::Denied).await;
    }
    if let Some(server) = quorate_test_servers::webdav("user", "pass-word") {
        let url = format!("http://127.0.0.1:{}", server.port);
        let wrong = credentials(&server.folder, &json!({"username": "user", "password": "wrong-secret"}));
        expect(json!({"type": "webdav", "url": url, "path": "shared", "credentials": wrong}), ErrorKind::Denied).await;
    }
}

/// Items behind something that may answer in their place; to S3's protocol for single objects they are a bucket.
struct Items {
    http: Http,
    requests: Arc<AtomicUsize>,
    writes: Arc<AtomicUsize>,
}

impl Items {
    async fn start(answer: impl Fn(&mut ItemMap, &Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        let (items, requests, writes) = (Mutex::new(ItemMap::default()), Arc::<AtomicUsize>::default(), Arc::default());
        let (counted, counted_writes) = (requests.clone(), Arc::<AtomicUsize>::clone(&writes));
        let handler = move |request: &Request<Bytes>| {
            counted.fetch_add(1, Ordering::SeqCst);
            if request.method() == Method::PUT {
                counted_writes.fetch_add(1, Ordering::SeqCst);
            }
            answer(&mut items.lock().unwrap(), request)
        };
        Self { http: Http::start(handler).await, requests, writes }
    }

    fn bench(&self) -> Bench {
        let endpoint = format!("http://127.0.0.1:{}", self.http.port);
        Bench::of(json!({"type": "s3", "url": "s3://bucket", "path": "shared", "endpoint": endpoint, "timeout": "3s"}))
    }

    fn service(&self) -> Bench {
        let url = format!("http://127.0.0.1:{}/{{key}}", self.http.port);
        Bench::of(json!({"type": "service", "url": url, "path": "shared", "timeout": "2s", "conditions": "etag"}))
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

const SLOW_DOWN: &str = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>";
const INTERNAL: &str = "<?xml version=\"1.0\"?><Error><Code>InternalError</Code><Message>We failed</Message></Error>";

fn only_reads(items: &mut ItemMap, request: &Request<Bytes>, otherwise: Response<Bytes>) -> Response<Bytes> {
    if request.method() == Method::GET { items.answer(request) } else { otherwise }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_asks_for_less_is_asked_again_later() {
    let turned_away = AtomicUsize::new(0);
    let items = Items::start(move |items, request| {
        if turned_away.fetch_add(1, Ordering::SeqCst) % 3 < 2 { answer(503, SLOW_DOWN) } else { items.answer(request) }
    })
    .await;
    let bench = items.bench();
    assert!(is_done(&bench.put("a", "1", Condition::Always).await));
    assert_eq!(items.requests(), 3);
    assert_eq!(bench.value("a").await.unwrap().unwrap(), "1");
    assert_eq!(items.requests(), 6);

    let always =
        Items::start(|_, _| Response::builder().status(429).header("retry-after", "1").body(Bytes::new()).unwrap()).await;
    let error = always.bench().put("a", "1", Condition::Always).await.unwrap_err();
    let retry_after = Some(Duration::from_secs(1));
    assert_eq!((error.kind, error.outcome), (ErrorKind::Throttled { retry_after }, Outcome::NotApplied));
    assert!(always.requests() <= 3, "asked {} times in 3 seconds", always.requests());
}

/// What was written is looked up, by what is in its envelope; and is not written again.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_that_is_told_as_an_error_is_a_success() {
    let items = Items::start(|items, request| {
        let honest = items.answer(request);
        if request.method() == Method::GET || honest.status().is_client_error() { honest } else { answer(500, INTERNAL) }
    })
    .await;
    let bench = items.bench();
    assert!(is_done(&bench.put("a", "1", Condition::Always).await));
    assert_eq!(items.writes(), 1);
    assert!(is_done(&bench.put("b", "1", Condition::Absent).await));
    let there = bench.store.get(b"b").await.unwrap().unwrap();
    assert!(is_done(&bench.put("b", "2", Condition::Matches(there.tag.clone())).await));
    assert_eq!(bench.put("b", "3", Condition::Matches(there.tag)).await, Ok(Written::ConditionFailed));
    assert_eq!(bench.put("b", "4", Condition::Absent).await, Ok(Written::ConditionFailed));
    assert_eq!(bench.value("b").await.unwrap().unwrap(), "2");
    assert!(is_done(&bench.store.delete(b"b", &Condition::Always).await));
    assert_eq!(bench.value("b").await.unwrap(), None);

    // Bare bytes do not say who wrote them.
    let service = items.service();
    let error = service.put("c", "1", Condition::Always).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Failing, Outcome::Unknown));
    let error = service.put("d", "1", Condition::Absent).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown);
}

/// A write without a condition is not sent again on a guess; one with a condition may be.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_may_have_happened_is_not_sent_again() {
    let items = Items::start(|items, request| only_reads(items, request, answer(500, INTERNAL))).await;
    let bench = items.bench();
    let error = bench.put("a", "1", Condition::Always).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Failing, Outcome::Unknown));
    assert_eq!(items.writes(), 1);
    let error = bench.put("a", "1", Condition::Absent).await.unwrap_err();
    assert_eq!(error.outcome, Outcome::Unknown);
    assert!(items.writes() > 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_not_repeated() {
    let denied = "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>";
    let items = Items::start(move |_, _| answer(403, denied)).await;
    let bench = items.bench();
    let error = bench.put("a", "1", Condition::Always).await.unwrap_err();
    assert_eq!((error.kind, error.outcome), (ErrorKind::Denied, Outcome::NotApplied));
    assert_eq!(bench.value("a").await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(items.requests(), 2);
}

/// A page that somebody puts in between, as hotels do.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_somebody_else_is_no_value() {
    let items =
        Items::start(|_, _| Response::builder().header("etag", "\"x\"").body(Bytes::from("<html>Log in</html>")).unwrap()).await;
    assert_eq!(items.bench().value("a").await.unwrap_err().kind, ErrorKind::BadData);
    let moved =
        Items::start(|_, _| Response::builder().status(302).header("location", "/login").body(Bytes::new()).unwrap()).await;
    let error = moved.service().value("a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unexpected);
    let error = moved.service().put("a", "1", Condition::Matches(Tag("\"x\"".to_owned()))).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unexpected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_off() {
    // Made once, before the store's time begins.
    let endless = Bytes::from(vec![b'x'; 300 << 20]);
    let items = Items::start(move |_, _| Response::builder().header("etag", "\"x\"").body(endless.clone()).unwrap()).await;
    let error = items.service().value("a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TooLarge);
    let long = Items::start(|_, _| answer(500, vec![b'x'; 1 << 20])).await;
    let error = long.service().value("a").await.unwrap_err();
    assert!(error.kind == ErrorKind::Failing && error.message.len() < 1000, "{error}");
}
