//! `service`: any HTTP service that answers GET, PUT and DELETE under a URL per key; and `http`: one that is only read.
//!
//! `{key}` in the URL stands for the key: as it is with `key_encoding` `path`, which is the default here, and escaped for the
//! URL either way. A value is the body, as it is unless `envelope` says otherwise.
//!
//! | asked | answers | mean |
//! | --- | --- | --- |
//! | GET | 200; 404, 410 | the value; there is none |
//! | PUT | any 2xx | it is stored |
//! | DELETE | any 2xx; 404, 410 | it is gone |
//! | any with a condition | 412 | it did not hold |
//!
//! Every other answer is an error, redirects too: what was asked for is not there. With `"conditions": "etag"` the service is
//! trusted to give a strong `ETag` with GET and to honour `If-Match` and `If-None-Match: *`.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, Method, Request, Response, StatusCode};

use crate::credentials::is_secret;
use crate::fields::Fields;
use crate::http_client::{HttpClient, checked_endpoint, escaped};
use crate::key_encoding::MAX_NAME_BYTES;
use crate::objects::{Abilities, Listing, Names, Object, Objects, named_capabilities};
use crate::registry::{Kind, Opening, Settings};
use crate::{Answer, Comparing, Condition, Envelope, ErrorKind, KeyEncoding, SpecError, Store, StoreError, Tag, Written};

const KEY: &str = "{key}";
const HTTP_NAME: &str = "http";
const NAME: &str = "service";
const HTTP_EXAMPLE: &str = "https://files.example/public/{key}";
const EXAMPLE: &str = "https://service.example/items/{key}";
const MAX_OBJECT_BYTES: u64 = 256 << 20;

const READ_ONLY: Abilities = Abilities {
    writable: false,
    listable: false,
    comparing: Comparing::Unconditional,
    max_object_bytes: MAX_OBJECT_BYTES,
    max_name_bytes: MAX_NAME_BYTES,
};

const UNCONDITIONAL: Abilities = Abilities { writable: true, ..READ_ONLY };

pub(crate) const HTTP: Kind = Kind {
    name: HTTP_NAME,
    summary: "files behind a web server, to be read",
    example: r#"{"type": "http", "url": "https://files.example/public/{key}", "path": "shared"}"#,
    options: &[
        ("url", "with `{key}` where the key belongs"),
        ("headers", "sent with each request"),
        ("credentials", "`authorization`, the whole header; or `username` and `password`"),
    ],
    credentials: &["authorization", "username", "password"],
    names: Some(KeyEncoding::Path),
    envelope: Some(Envelope::None),
    capabilities: || named_capabilities(READ_ONLY, KeyEncoding::Path, Envelope::None),
    read: |fields| Ok(Arc::new(ServiceSettings::read(HTTP_NAME, HTTP_EXAMPLE, fields)?)),
};

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "any HTTP service that answers GET, PUT and DELETE under a URL per key",
    example: r#"{"type": "service", "url": "https://service.example/items/{key}", "path": "shared",
        "headers": {"content-type": "application/json"}, "credentials": {"env": {"authorization": "SERVICE_TOKEN"}}}"#,
    options: &[
        ("url", "with `{key}` where the key belongs; `{node}` for the node's name"),
        ("headers", "sent with each request"),
        ("conditions", "`etag` if the service honours If-Match and If-None-Match; `none` by default"),
        ("credentials", "`authorization`, the whole header; or `username` and `password`"),
    ],
    credentials: &["authorization", "username", "password"],
    names: Some(KeyEncoding::Path),
    envelope: Some(Envelope::None),
    capabilities: || named_capabilities(UNCONDITIONAL, KeyEncoding::Path, Envelope::None),
    read: |fields| Ok(Arc::new(ServiceSettings::read(NAME, EXAMPLE, fields)?)),
};

#[derive(Debug)]
struct ServiceSettings {
    kind: &'static str,
    url: String,
    headers: HeaderMap,
    has_conditions: bool,
}

impl ServiceSettings {
    fn read(kind: &'static str, example: &str, fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed("url", example)?;
        // Checked with something in place of the key, which may stand in the query.
        let filled = url.replace(KEY, "key");
        checked_endpoint("url", filled.split('?').next().unwrap_or_default(), example)?;
        let in_authority = url.split('/').nth(2).is_some_and(|authority| authority.contains(KEY));
        if url.matches(KEY).count() != 1 || in_authority || filled.contains('#') {
            let problem = "must hold {key} once, behind the host";
            return Err(SpecError::new("url", problem, format!("\"url\": \"{example}\"")));
        }
        let mut has_conditions = false;
        if kind == NAME {
            has_conditions = fields.word("conditions", &[("none", false), ("etag", true)])?.unwrap_or(false);
        }
        let headers = Self::headers(fields)?;
        Ok(Self { kind, url: url.to_owned(), headers, has_conditions })
    }

    fn headers(fields: &mut Fields<'_>) -> Result<HeaderMap, SpecError> {
        const EXAMPLE: &str = r#"{"content-type": "application/json"}"#;
        let wrong = |problem: String| SpecError::new("headers", problem, format!("\"headers\": {EXAMPLE}"));
        let mut headers = HeaderMap::new();
        for (name, value) in fields.object("headers", EXAMPLE)?.into_iter().flatten() {
            let shown: String = name.chars().take(60).filter(|c| !c.is_control()).collect();
            if is_secret(name) || name.eq_ignore_ascii_case("cookie") {
                return Err(wrong(format!("{shown} holds a secret, and belongs into \"credentials\" as authorization")));
            }
            let parsed = HeaderName::try_from(name.as_str()).ok().zip(value.as_str().and_then(|v| HeaderValue::try_from(v).ok()));
            let Some((name, value)) = parsed else {
                return Err(wrong(format!("{shown} is no header with a text")));
            };
            headers.insert(name, value);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        Ok(headers)
    }
}

impl Settings for ServiceSettings {
    fn place(&self) -> &str {
        &self.url
    }

    fn comparing(&self) -> Option<Comparing> {
        self.has_conditions.then_some(Comparing::Atomic)
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let mut headers = self.headers.clone();
        if let Some(value) = opening.secrets.authorization() {
            let mut value = HeaderValue::try_from(value)
                .map_err(|_| StoreError::new(self.kind, ErrorKind::Denied, "the credentials do not fit into a header"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let abilities = match self.kind {
            HTTP_NAME => READ_ONLY,
            _ if self.has_conditions => Abilities { comparing: Comparing::Atomic, ..UNCONDITIONAL },
            _ => UNCONDITIONAL,
        };
        let (kind, client, url) = (self.kind, HttpClient::new(self.kind)?, opening.place(&self.url));
        Ok(opening.named(Service { kind, client, url, headers, abilities }))
    }
}

/// A service, asked under a URL per name.
struct Service {
    kind: &'static str,
    client: HttpClient,
    url: String,
    headers: HeaderMap,
    abilities: Abilities,
}

impl Service {
    async fn send(&self, method: Method, name: &str, body: Bytes, condition: &Condition) -> Result<Response<Bytes>, StoreError> {
        let url = self.url.replace(KEY, &escaped(name, b"-._~/"));
        let mut request = Request::builder().method(method).uri(url);
        match condition {
            Condition::Always => {}
            Condition::Absent => request = request.header(IF_NONE_MATCH, "*"),
            Condition::Matches(Tag(tag)) => request = request.header(IF_MATCH, tag),
        }
        let mut request = request
            .body(body)
            .map_err(|error| StoreError::new(self.kind, ErrorKind::BadKey, format_args!("no URL can be made of it: {error}")))?;
        request.headers_mut().extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        self.client.send(request, usize::try_from(self.abilities.max_object_bytes).unwrap_or(usize::MAX)).await
    }

    /// What an answer to a write means.
    fn written(&self, answer: &Response<Bytes>, condition: &Condition) -> Result<Written, StoreError> {
        match answer.status() {
            StatusCode::PRECONDITION_FAILED if *condition != Condition::Always => Ok(Written::ConditionFailed),
            status if status.is_success() => Ok(Written::Done(self.tag(answer))),
            _ => Err(self.failure(answer)),
        }
    }

    fn failure(&self, answer: &Response<Bytes>) -> StoreError {
        self.client.failure(answer).unwrap_or_else(|| self.client.unexpected(answer))
    }

    /// A weak tag says nothing about bytes.
    fn tag(&self, answer: &Response<Bytes>) -> Option<Tag> {
        if self.abilities.comparing != Comparing::Atomic {
            return None;
        }
        let tag = answer.headers().get(ETAG)?.to_str().ok()?;
        (!tag.starts_with("W/")).then(|| Tag(tag.to_owned()))
    }
}

impl Objects for Service {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn abilities(&self) -> Abilities {
        self.abilities
    }

    fn read<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Object>> {
        Box::pin(async move {
            let answer = self.send(Method::GET, name, Bytes::new(), &Condition::Always).await?;
            match answer.status() {
                StatusCode::OK => {
                    let tag = self.tag(&answer);
                    if tag.is_none() && self.abilities.comparing == Comparing::Atomic {
                        let message = "it is said to honour conditions, and gives no strong ETag";
                        return Err(StoreError::new(self.kind, ErrorKind::Unexpected, message));
                    }
                    Ok(Some(Object { bytes: answer.into_body(), tag }))
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
                _ => Err(self.failure(&answer)),
            }
        })
    }

    fn write<'a>(&'a self, name: &'a str, bytes: Bytes, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move {
            let answer = self.send(Method::PUT, name, bytes, condition).await?;
            self.written(&answer, condition)
        })
    }

    fn remove<'a>(&'a self, name: &'a str, condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move {
            if *condition == Condition::Absent {
                return Ok(Written::ConditionFailed);
            }
            let answer = self.send(Method::DELETE, name, Bytes::new(), condition).await?;
            match answer.status() {
                StatusCode::NOT_FOUND | StatusCode::GONE if *condition == Condition::Always => Ok(Written::Done(None)),
                StatusCode::NOT_FOUND | StatusCode::GONE => Ok(Written::ConditionFailed),
                _ => self.written(&answer, condition),
            }
        })
    }

    fn list<'a>(&'a self, _: &'a Listing) -> Answer<'a, Names> {
        Box::pin(async move { Err(StoreError::unsupported(self.kind, "lists")) })
    }

    /// There is no key of which something is known: any answer that is no error of the server, nor refuses us, will do.
    fn check(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            let answer = self.send(Method::GET, "quorate-check", Bytes::new(), &Condition::Always).await?;
            self.client.failure(&answer).map_or(Ok(()), Err)
        })
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("kind", &self.kind).field("url", &self.url).finish_non_exhaustive()
    }
}
