//! A FAKE of Google Cloud Storage, as far as the store uses it, after its documentation: there is no emulator among the packages
//! of any registry here that knows conditions on generations.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, Request, Response};
use quorate_test_servers::{Http, answer};
use serde_json::{Value, json};

use super::fake_search::{as_json, unescaped};

/// A bucket `bucket`.
#[derive(Debug)]
pub(super) struct FakeGcs {
    http: Http,
}

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, (Bytes, u64)>,
    generation: u64,
    /// Uploads that were begun: the query of their beginning.
    sessions: Vec<String>,
}

impl FakeGcs {
    pub(super) async fn start() -> Self {
        let bucket: Mutex<Bucket> = Mutex::default();
        Self { http: Http::start(move |request| bucket.lock().unwrap().answer(request)).await }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http.port)
    }
}

fn query(query: &str, name: &str) -> Option<String> {
    let mut values = query.split('&').filter_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    values.next().map(unescaped)
}

fn described(name: &str, object: &(Bytes, u64)) -> Value {
    let (size, generation) = (object.0.len().to_string(), object.1.to_string());
    json!({"name": name, "size": size, "generation": generation, "etag": format!("e{generation}"), "contentType": "x/x",
        "updated": "2026-01-01T00:00:00Z", "md5Hash": ""})
}

fn read((bytes, generation): &(Bytes, u64)) -> Response<Bytes> {
    let response = Response::builder().header("x-goog-generation", generation.to_string());
    response.header("etag", format!("\"e{generation}\"")).body(bytes.clone()).unwrap()
}

impl Bucket {
    fn answer(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        let (path, asked) = (request.uri().path(), request.uri().query().unwrap_or_default());
        if let Some(name) = path.strip_prefix("/storage/v1/b/bucket/o/") {
            return self.described_or_deleted(request, &unescaped(name));
        }
        match (request.method(), path) {
            (&Method::POST, "/upload/storage/v1/b/bucket/o") => self.insert(request),
            (&Method::PUT, "/upload/storage/v1/b/bucket/o") => self.finish(request),
            (&Method::GET, "/storage/v1/b/bucket/o") => self.list(asked),
            (_, path) if !path.contains("/b/bucket/") => answer(404, "The specified bucket does not exist."),
            _ => answer(400, "no such call"),
        }
    }

    /// Whether the condition of a request holds.
    fn holds(&self, asked: &str) -> bool {
        self.holds_for(asked, &query(asked, "name").unwrap())
    }

    fn holds_for(&self, asked: &str, name: &str) -> bool {
        let there = self.objects.get(name).map_or(0, |(_, generation)| *generation);
        query(asked, "ifGenerationMatch").is_none_or(|wanted| wanted == there.to_string())
    }

    /// Uploads in one request, or in one that begins and one that brings the bytes; longer ones are not asked for here.
    fn insert(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        let asked = request.uri().query().unwrap_or_default().to_owned();
        if !self.holds(&asked) {
            return as_json(412, &json!({"error": {"code": 412, "message": "conditionNotMet"}}));
        }
        match query(&asked, "uploadType").as_deref() {
            Some("media") => self.store(&asked, request.body()),
            Some("resumable") => {
                let host = request.headers()["host"].to_str().unwrap();
                let location = format!("http://{host}/upload/storage/v1/b/bucket/o?upload_id={}", self.sessions.len());
                self.sessions.push(asked);
                Response::builder().header("location", location).body(Bytes::new()).unwrap()
            }
            _ => answer(400, "no such upload"),
        }
    }

    /// The condition is looked at again when the bytes are there.
    fn finish(&mut self, request: &Request<Bytes>) -> Response<Bytes> {
        let number: usize = query(request.uri().query().unwrap(), "upload_id").unwrap().parse().unwrap();
        let asked = self.sessions[number].clone();
        let len = request.body().len();
        let range = if len == 0 { "bytes */0".to_owned() } else { format!("bytes 0-{}/{len}", len - 1) };
        assert_eq!(request.headers()["content-range"], range);
        if !self.holds(&asked) {
            return as_json(412, &json!({"error": {"code": 412, "message": "conditionNotMet"}}));
        }
        self.store(&asked, request.body())
    }

    fn store(&mut self, asked: &str, bytes: &Bytes) -> Response<Bytes> {
        let name = query(asked, "name").unwrap();
        self.generation += 1;
        let object = (bytes.clone(), self.generation);
        let description = described(&name, &object);
        self.objects.insert(name, object);
        as_json(200, &description)
    }

    fn described_or_deleted(&mut self, request: &Request<Bytes>, name: &str) -> Response<Bytes> {
        let asked = request.uri().query().unwrap_or_default();
        let Some(object) = self.objects.get(name) else {
            return as_json(404, &json!({"error": {"code": 404, "message": "No such object"}}));
        };
        if request.method() == Method::GET && query(asked, "alt").as_deref() == Some("media") {
            return read(object);
        }
        if request.method() == Method::GET {
            return as_json(200, &described(name, object));
        }
        assert_eq!(request.method(), Method::DELETE);
        if !self.holds_for(asked, name) {
            return as_json(412, &json!({"error": {"code": 412, "message": "conditionNotMet"}}));
        }
        self.objects.remove(name);
        answer(204, "")
    }

    fn list(&self, asked: &str) -> Response<Bytes> {
        let text = |name| query(asked, name).unwrap_or_default();
        let max = query(asked, "maxResults").map_or(1000, |max| max.parse().unwrap());
        let (prefix, start) = (text("prefix"), text("startOffset").max(text("pageToken")));
        let mut within = self.objects.iter().filter(|(name, _)| name.starts_with(&prefix) && **name >= start);
        let items: Vec<Value> = within.by_ref().take(max).map(|(name, object)| described(name, object)).collect();
        let next = within.next().map(|(name, _)| name.clone());
        let mut answer = json!({"items": items});
        if let Some(next) = next {
            answer["nextPageToken"] = json!(next);
        }
        as_json(200, &answer)
    }
}
