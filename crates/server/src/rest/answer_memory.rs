//! Memory for large answers: one that its reader takes slowly stays in memory for as long.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Body as _;
use quorate_api::problem::Code;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::Answer;
use super::config::RestConfig;
use super::refusal::Refusal;

/// Memory for large answers, shared by all connections.
#[derive(Debug)]
pub(super) struct AnswerMemory(Arc<Semaphore>);

/// Answers up to this size are not counted; connections are, so that these are bounded too.
const UNCOUNTED_BYTES: u64 = 64 << 10;

/// The bytes of an answer with what they took of the memory, which goes back once the last of them went out.
struct Held {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AnswerMemory {
    pub(super) fn new(config: &RestConfig) -> Self {
        Self(Arc::new(Semaphore::new((config.max_answer_memory_bytes / UNCOUNTED_BYTES) as usize)))
    }

    /// The same answer, counted; refused as overload if there is no room for it.
    pub(super) async fn hold(&self, answer: Answer) -> Result<Answer, Refusal> {
        let bytes = answer.size_hint().lower();
        if bytes <= UNCOUNTED_BYTES {
            return Ok(answer);
        }
        let units = u32::try_from(bytes.div_ceil(UNCOUNTED_BYTES)).unwrap_or(u32::MAX);
        let overloaded = |_| Refusal::new(Code::Overloaded, "too many large answers are under way");
        let permit = Arc::clone(&self.0).try_acquire_many_owned(units).map_err(overloaded)?;
        let (head, body) = answer.into_parts();
        let Ok(body) = body.collect().await;
        Ok(Answer::from_parts(head, Full::new(Bytes::from_owner(Held { bytes: body.to_bytes(), _permit: permit }))))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;
    use crate::rest::answer;

    fn answer(bytes: usize) -> Answer {
        answer::with_body(StatusCode::OK, HeaderMap::new(), vec![7; bytes].into())
    }

    #[tokio::test]
    async fn large_answers_share_it_until_they_are_gone() {
        let config = RestConfig { max_answer_memory_bytes: 1 << 20, ..RestConfig::new("n1") };
        let memory = AnswerMemory::new(&config);
        let held = memory.hold(answer(900_000)).await.unwrap();
        assert_eq!(held.size_hint().exact(), Some(900_000));
        assert!(memory.hold(answer(200_000)).await.is_err());
        assert!(memory.hold(answer(64 << 10)).await.is_ok(), "small ones are not counted");
        let mut sent = held.into_body().collect().await.unwrap().to_bytes();
        let rest = sent.split_off(800_000);
        drop(sent);
        assert!(memory.hold(answer(200_000)).await.is_err(), "some of it waits to be sent");
        assert!(rest.iter().all(|byte| *byte == 7));
        drop(rest);
        assert!(memory.hold(answer(200_000)).await.is_ok());
    }
}
