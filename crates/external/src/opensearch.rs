//! `opensearch`: documents in OpenSearch or Elasticsearch, by the API `_doc`, which both have.
//!
//! A pair is a document whose id is the key, escaped as names are (`key_encoding`, 512 bytes at most):
//!
//! | field | what |
//! | --- | --- |
//! | `name` | the id again, as a keyword: lists sort by it |
//! | `value` | the value in base64, neither indexed nor searched |
//! | `stamp_us`, `writer` | the stamp, in decimal digits |
//! | `expires_ms` | when its time is up, in milliseconds since 1970, or absent |
//!
//! The index is made with this mapping if it is not there. Conditions are the store's own, by `if_seq_no` and `if_primary_term`.
//! A key is read as it was written last; lists come from the search index, which the first page of each list refreshes.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::fields::Fields;
use crate::http_client::{HttpClient, escaped, holds};
use crate::registry::{Kind, Opening, Settings};
use crate::sweep::Sweeper;
use crate::{
    Answer, Capabilities, Clock, Comparing, Condition, Cursor, Entry, ErrorKind, Expiry, KeyEncoding, MAX_PAGE_BYTES, Page, Put,
    Scan, SpecError, Stamp, Store, StoreError, Stored, Tag, Written,
};

const NAME: &str = "opensearch";
const EXAMPLE: &str = "https://search.example:9200";

/// What OpenSearch takes as an id.
const MAX_ID_BYTES: usize = 512;

/// A page with values asks for fewer documents: an answer holds them all.
const MAX_DOCUMENTS: usize = 50;

/// Requests of up to 100 MiB are taken by default, and base64 takes a third more.
const MAX_VALUE_BYTES: u64 = 16 << 20;

/// A page of documents, in base64, and what is around them.
const MAX_ANSWER_BYTES: usize = MAX_DOCUMENTS * ((MAX_VALUE_BYTES as usize).div_ceil(3) * 4 + 4096);

const CAPABILITIES: Capabilities = Capabilities {
    writable: true,
    listable: true,
    ordered: true,
    comparing: Comparing::Atomic,
    expiry: Expiry::Hidden,
    max_value_bytes: MAX_VALUE_BYTES,
    max_key_bytes: MAX_ID_BYTES / 3,
};

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "documents in OpenSearch or Elasticsearch",
    example: r#"{"type": "opensearch", "url": "https://search.example:9200", "index": "quorate", "path": "shared",
        "credentials": {"env": {"username": "SEARCH_USER", "password": "SEARCH_PASSWORD"}}}"#,
    options: &[
        ("url", "where it answers"),
        ("index", "made if it is not there; `{node}` for the node's name; `quorate` by default"),
        ("credentials", "`username` and `password`, or `authorization`, the whole header"),
    ],
    credentials: &["username", "password", "authorization"],
    names: Some(KeyEncoding::Bytes),
    envelope: None,
    capabilities: || CAPABILITIES,
    read: |fields| Ok(Arc::new(OpensearchSettings::read(fields)?)),
};

#[derive(Debug)]
struct OpensearchSettings {
    url: String,
    index: String,
    place: String,
}

impl OpensearchSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed_endpoint("url", EXAMPLE)?;
        let index = fields.text("index", "quorate")?.unwrap_or("quorate");
        if !is_index(&index.replace(crate::spec::NODE, "node")) {
            let problem = "must be of lower-case letters, digits, - and _, and begin with a letter or digit";
            return Err(SpecError::new("index", problem, r#""index": "quorate""#));
        }
        Ok(Self { place: format!("{url} {index}"), url, index: index.to_owned() })
    }
}

fn is_index(index: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=200).contains(&index.len())
        && index.bytes().all(|b| is_plain(b) || b"-_".contains(&b))
        && index.bytes().take(1).all(is_plain)
}

impl Settings for OpensearchSettings {
    fn place(&self) -> &str {
        &self.place
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let index = opening.place(&self.index);
        if !is_index(&index) {
            let message = format!("{index:?}, with the name of this node in it, is no name of an index");
            return Err(StoreError::new(NAME, ErrorKind::Unexpected, message));
        }
        let denied = |_| StoreError::new(NAME, ErrorKind::Denied, "the credentials do not fit into a header");
        let authorization = match opening.secrets.authorization() {
            Some(value) => {
                let mut value = HeaderValue::try_from(value).map_err(denied)?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Arc::new(Opensearch {
            client: HttpClient::new(NAME)?,
            base: format!("{}/{index}", opening.place(&self.url)),
            authorization,
            keys: opening.spec.key_encoding,
            clock: opening.surroundings.clock.clone(),
            sweeper: Sweeper::default(),
            made: OnceCell::new(),
        }))
    }
}

struct Opensearch {
    client: HttpClient,
    base: String,
    authorization: Option<HeaderValue>,
    keys: KeyEncoding,
    clock: Clock,
    sweeper: Sweeper,
    /// Set once the index is known to be there.
    made: OnceCell<()>,
}

/// A pair as a document.
#[derive(Debug, Deserialize, Serialize)]
struct Document {
    name: String,
    value: String,
    /// In digits: numbers in JSON lose what is beyond 53 bits.
    stamp_us: String,
    writer: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_ms: Option<u64>,
}

/// A document with what it is compared by.
#[derive(Debug, Deserialize)]
struct Found {
    #[serde(rename = "_seq_no")]
    seq_no: u64,
    #[serde(rename = "_primary_term")]
    primary_term: u64,
    #[serde(rename = "_source")]
    source: Document,
}

/// What a write is answered with.
#[derive(Debug, Deserialize)]
struct Placed {
    #[serde(rename = "_seq_no")]
    seq_no: u64,
    #[serde(rename = "_primary_term")]
    primary_term: u64,
}

#[derive(Debug, Deserialize)]
struct Hits {
    hits: HitList,
}

#[derive(Debug, Deserialize)]
struct HitList {
    hits: Vec<Hit>,
}

#[derive(Debug, Deserialize)]
struct Hit {
    #[serde(rename = "_seq_no", default)]
    seq_no: u64,
    #[serde(rename = "_primary_term", default)]
    primary_term: u64,
    #[serde(rename = "_source")]
    source: Value,
}

fn tag(seq_no: u64, primary_term: u64) -> Tag {
    Tag(format!("{seq_no}-{primary_term}"))
}

impl Opensearch {
    fn error(kind: ErrorKind, message: impl fmt::Display) -> StoreError {
        StoreError::new(NAME, kind, message)
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Response<Bytes>, StoreError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = request.body(body).map_err(|error| Self::error(ErrorKind::BadKey, error))?;
        self.client.send(request, MAX_ANSWER_BYTES).await
    }

    fn failure(&self, answer: &Response<Bytes>) -> StoreError {
        if answer.status() == StatusCode::NOT_FOUND && holds(answer.body(), "index_not_found_exception") {
            return StoreError { kind: ErrorKind::NoContainer, ..self.client.unexpected(answer) };
        }
        self.client.failure(answer).unwrap_or_else(|| self.client.unexpected(answer))
    }

    fn parsed<T: for<'a> Deserialize<'a>>(answer: &Response<Bytes>) -> Result<T, StoreError> {
        serde_json::from_slice(answer.body())
            .map_err(|error| Self::error(ErrorKind::BadData, format_args!("its answer: {error}")))
    }

    /// Makes the index, once per node: by itself, it would be made with another mapping.
    async fn make_index(&self) -> Result<(), StoreError> {
        let make = async || {
            let there = self.send(Method::HEAD, "", None).await?;
            match there.status() {
                StatusCode::OK => return Ok(()),
                StatusCode::NOT_FOUND => {}
                _ => return Err(self.failure(&there)),
            }
            let text = json!({"type": "keyword"});
            let unsearched = json!({"type": "keyword", "index": false, "doc_values": false});
            let properties = json!({
                "name": text, "value": {"type": "binary"}, "stamp_us": unsearched, "writer": unsearched,
                "expires_ms": {"type": "long"},
            });
            let mapping = json!({"mappings": {"dynamic": "strict", "properties": properties}});
            let made = self.send(Method::PUT, "", Some(&mapping)).await?;
            if made.status().is_success() || holds(made.body(), "resource_already_exists_exception") {
                return Ok(());
            }
            Err(self.failure(&made))
        };
        self.made.get_or_try_init(make).await.copied().map_err(|error| {
            // Nothing was written yet.
            StoreError { outcome: crate::Outcome::NotApplied, ..error }
        })
    }

    fn id(&self, key: &[u8]) -> Result<String, StoreError> {
        let name = self.keys.encode(key).map_err(|error| Self::error(ErrorKind::BadKey, error))?;
        if name.len() > MAX_ID_BYTES {
            let message = format!("the key is an id of {} bytes, and ids are of {MAX_ID_BYTES} bytes at most", name.len());
            return Err(Self::error(ErrorKind::TooLarge, message));
        }
        Ok(name)
    }

    fn stored(&self, document: &Document, tag: Tag) -> Result<Option<Stored>, StoreError> {
        let bad = || Self::error(ErrorKind::BadData, format_args!("the document {:?} is none of Quorate's", document.name));
        let value = STANDARD.decode(&document.value).map_err(|_| bad())?;
        let stamp =
            Stamp { unix_us: document.stamp_us.parse().map_err(|_| bad())?, writer: document.writer.parse().map_err(|_| bad())? };
        let expires_at_ms = document.expires_ms;
        if expires_at_ms.is_some_and(|at| at <= self.clock.unix_ms()) {
            return Ok(None);
        }
        Ok(Some(Stored { value: value.into(), tag, stamp: Some(stamp), expires_at_ms }))
    }

    /// The document under an id, whether or not its time is up.
    async fn find(&self, id: &str) -> Result<Option<Found>, StoreError> {
        let answer = self.send(Method::GET, &format!("/_doc/{}", in_path(id)), None).await?;
        match answer.status() {
            StatusCode::OK => Self::parsed(&answer).map(Some),
            StatusCode::NOT_FOUND if !holds(answer.body(), "index_not_found_exception") => Ok(None),
            _ => Err(self.failure(&answer)),
        }
    }

    async fn read(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        self.make_index().await?;
        let Some(found) = self.find(&self.id(key)?).await? else {
            return Ok(None);
        };
        let tag = tag(found.seq_no, found.primary_term);
        let stored = self.stored(&found.source, tag.clone())?;
        if stored.is_none() {
            // Its time is up. Lists do not come across such documents: the search leaves them out.
            self.sweeper.sweep(self.remove(key, &Condition::Matches(tag))).await;
        }
        Ok(stored)
    }

    async fn place(&self, path: &str, document: &Value) -> Result<Written, StoreError> {
        let answer = self.send(Method::PUT, path, Some(document)).await?;
        match answer.status() {
            StatusCode::CONFLICT => Ok(Written::ConditionFailed),
            status if status.is_success() => {
                let Placed { seq_no, primary_term } = Self::parsed(&answer).map_err(StoreError::unknown)?;
                Ok(Written::Done(Some(tag(seq_no, primary_term))))
            }
            _ => Err(self.failure(&answer)),
        }
    }

    async fn write(&self, key: &[u8], put: &Put) -> Result<Written, StoreError> {
        self.make_index().await?;
        let id = self.id(key)?;
        let document = Document {
            name: id.clone(),
            value: STANDARD.encode(&put.value),
            stamp_us: put.stamp.unix_us.to_string(),
            writer: put.stamp.writer.to_string(),
            expires_ms: put.expires_at_ms,
        };
        let document = serde_json::to_value(document).map_err(|error| Self::error(ErrorKind::Unexpected, error))?;
        let id = in_path(&id);
        let if_matches = |seq_no: u64, primary_term: u64| format!("/_doc/{id}?if_seq_no={seq_no}&if_primary_term={primary_term}");
        match &put.condition {
            Condition::Always => self.place(&format!("/_doc/{id}"), &document).await,
            Condition::Matches(tag) => match compared(tag) {
                Some((seq_no, primary_term)) => self.place(&if_matches(seq_no, primary_term), &document).await,
                None => Ok(Written::ConditionFailed),
            },
            Condition::Absent => {
                let created = self.place(&format!("/_create/{id}"), &document).await?;
                if created != Written::ConditionFailed {
                    return Ok(created);
                }
                // What is there may be over: then it counts for nothing, and is replaced as it is.
                match self.find(&self.id(key)?).await? {
                    Some(found) if self.stored(&found.source, Tag(String::new()))?.is_none() => {
                        self.place(&if_matches(found.seq_no, found.primary_term), &document).await
                    }
                    _ => Ok(Written::ConditionFailed),
                }
            }
        }
    }

    async fn remove(&self, key: &[u8], condition: &Condition) -> Result<Written, StoreError> {
        self.make_index().await?;
        let id = in_path(&self.id(key)?);
        let path = match condition {
            Condition::Always => format!("/_doc/{id}"),
            Condition::Absent => return Ok(Written::ConditionFailed),
            Condition::Matches(tag) => match compared(tag) {
                Some((seq_no, primary_term)) => format!("/_doc/{id}?if_seq_no={seq_no}&if_primary_term={primary_term}"),
                None => return Ok(Written::ConditionFailed),
            },
        };
        let answer = self.send(Method::DELETE, &path, None).await?;
        let is_conditional = *condition != Condition::Always;
        match answer.status() {
            StatusCode::CONFLICT => Ok(Written::ConditionFailed),
            StatusCode::NOT_FOUND if holds(answer.body(), "index_not_found_exception") => Err(self.failure(&answer)),
            StatusCode::NOT_FOUND if is_conditional => Ok(Written::ConditionFailed),
            StatusCode::NOT_FOUND => Ok(Written::Done(None)),
            status if status.is_success() => Ok(Written::Done(None)),
            _ => Err(self.failure(&answer)),
        }
    }

    async fn page(&self, scan: &Scan) -> Result<Page, StoreError> {
        if scan.range.is_empty() {
            return Ok(Page::default());
        }
        self.make_index().await?;
        if scan.cursor.is_none() {
            let refreshed = self.send(Method::POST, "/_refresh", None).await?;
            if !refreshed.status().is_success() {
                return Err(self.failure(&refreshed));
            }
        }
        let limit = if scan.with_values { scan.limit().min(MAX_DOCUMENTS) } else { scan.limit() };
        let answer = self.send(Method::POST, "/_search", Some(&self.question(scan, limit)?)).await?;
        if !answer.status().is_success() {
            return Err(self.failure(&answer));
        }
        let Hits { hits: HitList { hits } } = Self::parsed(&answer)?;
        let is_full = hits.len() == limit;
        let (mut page, mut last, mut bytes, mut left) = (Page::default(), None, 0, hits.len());
        for hit in hits {
            left -= 1;
            let Some(name) = hit.source.get("name").and_then(Value::as_str).map(str::to_owned) else { continue };
            if let Some(key) = self.keys.decode(&name).filter(|key| scan.range.contains(key)) {
                if scan.with_values {
                    let document: Document = serde_json::from_value(hit.source)
                        .map_err(|error| Self::error(ErrorKind::BadData, format_args!("the document {name:?}: {error}")))?;
                    if let Some(stored) = self.stored(&document, tag(hit.seq_no, hit.primary_term))? {
                        bytes += key.len() + stored.value.len();
                        page.entries.push(Entry { key, stored: Some(stored) });
                    }
                } else {
                    page.entries.push(Entry { key, stored: None });
                }
            }
            last = Some(name);
            if bytes >= MAX_PAGE_BYTES {
                break;
            }
        }
        page.next = last.filter(|_| is_full || left > 0).map(|name| Cursor(name.into()));
        Ok(page)
    }

    /// What to search for.
    fn question(&self, scan: &Scan, limit: usize) -> Result<Value, StoreError> {
        let mut range = serde_json::Map::new();
        let name = |key: &[u8]| Value::from(self.keys.lower_bound(key));
        match &scan.range.start {
            Bound::Included(key) | Bound::Excluded(key) => drop(range.insert("gte".to_owned(), name(key))),
            Bound::Unbounded => {}
        }
        if self.keys == KeyEncoding::Bytes {
            // Names sort as keys do; the bound itself is dealt with when it is read.
            match &scan.range.end {
                Bound::Included(key) | Bound::Excluded(key) => drop(range.insert("lte".to_owned(), name(key))),
                Bound::Unbounded => {}
            }
        }
        let alive = json!({"range": {"expires_ms": {"lte": self.clock.unix_ms()}}});
        let mut question = json!({
            "size": limit,
            "track_total_hits": false,
            "seq_no_primary_term": true,
            "sort": [{"name": "asc"}],
            "query": {"bool": {"filter": [{"range": {"name": range}}], "must_not": [alive]}},
        });
        if !scan.with_values {
            question["_source"] = json!(["name"]);
        }
        if let Some(Cursor(name)) = &scan.cursor {
            let name = std::str::from_utf8(name).map_err(|_| Self::error(ErrorKind::Unexpected, "the cursor is not ours"))?;
            question["search_after"] = json!([name]);
        }
        Ok(question)
    }
}

/// Sequence number and term of a tag; a tag of something else matches nothing.
fn compared(tag: &Tag) -> Option<(u64, u64)> {
    let (seq_no, primary_term) = tag.0.split_once('-')?;
    Some((seq_no.parse().ok()?, primary_term.parse().ok()?))
}

/// An id as one part of a path.
fn in_path(id: &str) -> String {
    escaped(id, b"-_~")
}

impl Store for Opensearch {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        let max_key_bytes = match self.keys {
            KeyEncoding::Bytes => MAX_ID_BYTES / 3,
            KeyEncoding::Path => MAX_ID_BYTES,
        };
        Capabilities { max_key_bytes, ..CAPABILITIES }
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        Box::pin(self.read(key))
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        Box::pin(self.write(key, put))
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(self.remove(key, condition))
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        Box::pin(self.page(scan))
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(self.make_index())
    }
}

impl fmt::Debug for Opensearch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opensearch").field("base", &self.base).finish_non_exhaustive()
    }
}
