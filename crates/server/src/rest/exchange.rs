//! Answers that go out while their request is still coming.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body_util::Either;
use hyper::body::{Body, Frame};

use super::activity::InRequest;
use super::answer::AnswerBody;

/// Stands in such an answer: the route goes on, with time limits of its own, until the answer has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exchange;

/// The body of such an answer.
struct Held {
    body: AnswerBody,
    _in_request: InRequest,
}

/// Ends the request when its answer begins to go out, or, if that is an [`Exchange`], when it has ended.
pub(super) fn end_with(mut answer: Response<AnswerBody>, in_request: InRequest) -> Response<AnswerBody> {
    if answer.extensions_mut().remove::<Exchange>().is_none() {
        return answer;
    }
    answer.map(|body| Either::Right(axum::body::Body::new(Held { body, _in_request: in_request })))
}

impl Body for Held {
    type Data = Bytes;
    type Error = <AnswerBody as Body>::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }
}
