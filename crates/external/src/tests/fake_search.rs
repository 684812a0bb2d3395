//! A fake of a search engine, in this process.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use http::{Method, Request, Response};
use quorate_test_servers::{Http, answer};
use serde_json::{Value, json};

/// A FAKE of OpenSearch's document API, as far as the store uses it, after its documentation: real ones need more memory than
/// a test machine has to give. Kept honest: it answers what it does not know with 400, ids and sequence numbers are as there.
#[derive(Debug)]
pub(super) struct FakeSearch {
    http: Http,
}

#[derive(Debug, Default)]
struct Index {
    documents: BTreeMap<String, (Value, u64)>,
    /// What searches see.
    refreshed: BTreeMap<String, (Value, u64)>,
    writes: u64,
}

const TERM: u64 = 1;

impl FakeSearch {
    pub(super) async fn start() -> Self {
        let indices: Mutex<BTreeMap<String, Index>> = Mutex::default();
        Self { http: Http::start(move |request| search_answer(&mut indices.lock().unwrap(), request)).await }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http.port)
    }
}

pub(super) fn as_json(status: u16, value: &Value) -> Response<Bytes> {
    answer(status, value.to_string())
}

fn search_answer(indices: &mut BTreeMap<String, Index>, request: &Request<Bytes>) -> Response<Bytes> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let (name, rest) = path.split_once('/').unwrap_or((&path, ""));
    let body: Value = serde_json::from_slice(request.body()).unwrap_or_default();
    let missing = json!({"error": {"type": "index_not_found_exception"}, "status": 404});
    match (request.method(), rest) {
        (&Method::HEAD, "") => return answer(if indices.contains_key(name) { 200 } else { 404 }, ""),
        (&Method::PUT, "") if indices.contains_key(name) => {
            return as_json(400, &json!({"error": {"type": "resource_already_exists_exception"}}));
        }
        (&Method::PUT, "") => {
            assert_eq!(body["mappings"]["properties"]["name"]["type"], "keyword");
            indices.insert(name.to_owned(), Index::default());
            return as_json(200, &json!({"acknowledged": true}));
        }
        _ => {}
    }
    let Some(index) = indices.get_mut(name) else { return as_json(404, &missing) };
    match (request.method(), rest.split_once('/').unwrap_or((rest, ""))) {
        (&Method::POST, ("_refresh", "")) => {
            index.refreshed = index.documents.clone();
            as_json(200, &json!({"_shards": {"failed": 0}}))
        }
        (&Method::POST, ("_search", "")) => index.search(&body),
        (method, (kind @ ("_doc" | "_create"), id)) => index.document(method, kind, &unescaped(id), request, body),
        _ => as_json(400, &json!({"error": "no such call"})),
    }
}

pub(super) fn unescaped(id: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = id.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next().unwrap()).to_digit(16).unwrap() as u8;
        bytes.push(if byte == b'%' { digit() * 16 + digit() } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}

impl Index {
    fn document(&mut self, method: &Method, kind: &str, id: &str, request: &Request<Bytes>, body: Value) -> Response<Bytes> {
        let there = self.documents.get(id).map(|(_, seq_no)| *seq_no);
        let query = request.uri().query().unwrap_or_default();
        let number =
            |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok());
        let conflict = json!({"error": {"type": "version_conflict_engine_exception"}, "status": 409});
        if number("if_seq_no").is_some_and(|wanted| there != Some(wanted) || number("if_primary_term") != Some(TERM))
            || kind == "_create" && there.is_some()
        {
            return as_json(409, &conflict);
        }
        match (method, there) {
            (&Method::GET, Some(seq_no)) => {
                let source = &self.documents[id].0;
                as_json(200, &json!({"_id": id, "found": true, "_seq_no": seq_no, "_primary_term": TERM, "_source": source}))
            }
            (&Method::GET | &Method::DELETE, None) => as_json(404, &json!({"_id": id, "found": false})),
            (&Method::PUT, _) if id.len() > 512 || !body.is_object() => as_json(400, &json!({"error": "bad document"})),
            (&Method::PUT, _) => {
                let seq_no = self.writes;
                self.writes += 1;
                self.documents.insert(id.to_owned(), (body, seq_no));
                as_json(201, &json!({"_id": id, "_seq_no": seq_no, "_primary_term": TERM, "result": "created"}))
            }
            (&Method::DELETE, Some(_)) => {
                self.writes += 1;
                self.documents.remove(id);
                as_json(200, &json!({"_id": id, "result": "deleted"}))
            }
            _ => as_json(405, &json!({"error": "no such method"})),
        }
    }

    fn search(&self, body: &Value) -> Response<Bytes> {
        assert_eq!(body["sort"], json!([{"name": "asc"}]));
        let query = &body["query"]["bool"];
        let range = &query["filter"][0]["range"]["name"];
        let over = query["must_not"][0]["range"]["expires_ms"]["lte"].as_u64().unwrap();
        let bound = |name: &str| range[name].as_str().map(str::to_owned);
        let after = body["search_after"][0].as_str();
        let within = self.refreshed.values().filter(|(source, _)| {
            let name = source["name"].as_str().unwrap();
            bound("gte").is_none_or(|start| name >= start.as_str())
                && bound("lte").is_none_or(|end| name <= end.as_str())
                && after.is_none_or(|after| name > after)
                && source["expires_ms"].as_u64().is_none_or(|at| at > over)
        });
        let mut found: Vec<_> = within.collect();
        found.sort_by_key(|(source, _)| source["name"].as_str().unwrap());
        let hits: Vec<Value> = found
            .into_iter()
            .take(usize::try_from(body["size"].as_u64().unwrap()).unwrap())
            .map(|(source, seq_no)| json!({"_source": source, "_seq_no": seq_no, "_primary_term": TERM}))
            .collect();
        as_json(200, &json!({"hits": {"hits": hits}}))
    }
}
