//! A write that arrives after it was given up.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;

use super::conformance::Time;
use crate::guarded::Guarded;
use crate::{Answer, Capabilities, Condition, ErrorKind, Memory, Outcome, Page, Put, Scan, Store, StoreError, Stored, Written};

/// A store that loses the first write for a while: it happens after somebody looked.
#[derive(Debug)]
struct Late {
    memory: Memory,
    under_way: Mutex<Option<(Vec<u8>, Put)>>,
    puts: Mutex<usize>,
}

impl Store for Late {
    fn kind(&self) -> &'static str {
        "late"
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        Box::pin(async move {
            let found = self.memory.get(key).await;
            let under_way = self.under_way.lock().unwrap().take();
            if let Some((key, put)) = under_way {
                self.memory.put(&key, &put).await?;
            }
            found
        })
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        Box::pin(async move {
            *self.puts.lock().unwrap() += 1;
            if *self.puts.lock().unwrap() == 1 {
                *self.under_way.lock().unwrap() = Some((key.to_vec(), put.clone()));
                return Err(StoreError::new("late", ErrorKind::Unreachable, "planted").unknown());
            }
            self.memory.put(key, put).await
        })
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        self.memory.delete(key, condition)
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        self.memory.scan(scan)
    }

    fn check(&self) -> Answer<'_, ()> {
        self.memory.check()
    }
}

async fn written(condition: Condition) -> (Result<Written, StoreError>, usize, Option<Bytes>) {
    let time = Time::real();
    let late = Late { memory: Memory::new(time.clock.clone()), under_way: Mutex::default(), puts: Mutex::default() };
    let guarded = Guarded::new(late, Duration::from_secs(4), 8, Vec::new());
    let put = Put { value: Bytes::from_static(b"v"), expires_at_ms: None, condition, stamp: time.clock.stamp() };
    let written = guarded.put(b"k", &put).await;
    let value = guarded.get(b"k").await.unwrap().map(|stored| stored.value);
    (written, *guarded.store.puts.lock().unwrap(), value)
}

/// Its second attempt finds that the key is there, by its first: it is done.
#[tokio::test]
async fn a_condition_that_fails_by_ones_own_first_attempt_held() {
    let (written, puts, value) = written(Condition::Absent).await;
    assert!(matches!(written, Ok(Written::Done(Some(_)))), "{written:?}");
    assert_eq!((puts, value), (2, Some(Bytes::from_static(b"v"))));
}

/// Without a condition there is no second attempt, and what became of the first is said to be unknown.
#[tokio::test]
async fn without_a_condition_nobody_guesses() {
    let (written, puts, value) = written(Condition::Always).await;
    assert_eq!(written.unwrap_err().outcome, Outcome::Unknown);
    assert_eq!((puts, value), (1, Some(Bytes::from_static(b"v"))));
}
