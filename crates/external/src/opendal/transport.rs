//! `OpenDAL`'s requests through our client.

use std::fmt;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use opendal::{Buffer, Error, ErrorKind as DalKind, HttpBody, HttpTransport, Result};

use crate::http_client::{HttpClient, holds};
use crate::{ErrorKind, StoreError};

/// Beyond the largest object: lists are never as long.
const OVERHEAD_BYTES: usize = 1 << 20;

/// Sends requests for `OpenDAL`.
pub(super) struct Transport {
    client: HttpClient,
    max_bytes: usize,
}

impl Transport {
    pub(super) fn new(client: HttpClient, max_object_bytes: u64) -> Self {
        Self { client, max_bytes: usize::try_from(max_object_bytes).unwrap_or(usize::MAX).saturating_add(OVERHEAD_BYTES) }
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let is_read = matches!(*request.method(), http::Method::GET | http::Method::HEAD | http::Method::OPTIONS);
        let request = request.map(|body| body.to_bytes());
        let answer = self.client.send(request, self.max_bytes).await.map_err(carried)?;
        if let Some(error) = self.client.failure(&answer) {
            return Err(carried(error));
        }
        if answer.status() == StatusCode::NOT_FOUND && is_about_container(answer.body()) {
            let error = self.client.unexpected(&answer);
            return Err(carried(StoreError { kind: ErrorKind::NoContainer, ..error }));
        }
        let (head, body) = answer.into_parts();
        let size = if is_read { None } else { Some(body.len() as u64) };
        let body = HttpBody::new(stream::iter([Ok(Buffer::from(body))]), size);
        Ok(Response::from_parts(head, body))
    }
}

/// The three clouds' words for it.
fn is_about_container(body: &Bytes) -> bool {
    ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"].iter().any(|word| holds(body, word))
}

/// An error of ours inside one of theirs.
fn carried(error: StoreError) -> Error {
    Error::new(DalKind::Unexpected, error.message.clone()).set_source(Carried(error))
}

/// The error of ours in one of theirs.
pub(super) fn client_error(error: &Error) -> Option<StoreError> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(Carried(ours)) = error.downcast_ref() {
            return Some(ours.clone());
        }
        source = error.source();
    }
    None
}

#[derive(Debug)]
struct Carried(StoreError);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Carried {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_errors_come_through() {
        let ours = StoreError::new("s3", ErrorKind::Denied, "no").unknown();
        let error = carried(ours.clone()).with_operation("write").with_context("path", "x");
        assert_eq!(client_error(&error), Some(ours));
        assert_eq!(client_error(&Error::new(DalKind::NotFound, "no such key")), None);
    }
}
