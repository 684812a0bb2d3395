//! Deadlines, retries and bounds around a store.
//!
//! - A call has one deadline for everything. Reads are tried again within it, as often as there is time.
//! - A write is tried again if it certainly was not applied. If nobody knows, the store is asked what it holds: if that is what
//!   this write wrote, by its stamp, it is done; if it had a condition, it is tried again, for it cannot happen twice; else it is
//!   told as unknown. A write without a condition is never sent again on a guess, for it could undo a later one.
//! - A condition that fails on a second attempt may fail because of the first: what is there is looked at before that is said.
//! - A bounded number of calls runs at once. More wait, within their deadline, and then are told that there are too many.

use std::fmt;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::clock::after;
use crate::{
    Answer, Capabilities, Comparing, Condition, ErrorKind, Expiry, MAX_KEY_BYTES, Outcome, Page, Put, Scan, Secret, Store,
    StoreError, Stored, Written,
};

/// The first wait before another attempt; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Waits between attempts are no longer.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// A store with deadlines and retries.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    pub(crate) store: S,
    timeout: Duration,
    calls: Semaphore,
    /// Taken out of what errors say.
    secrets: Vec<Secret>,
}

/// What a look at the store says about a write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// It was done.
    Done,
    /// It was not done, so far.
    NotDone,
    /// There is what it would have written, and perhaps somebody else wrote the same.
    Perhaps,
}

/// What an attempt at a write came to.
enum Attempt {
    Over(Result<Written, StoreError>),
    Again(StoreError),
}

impl<S: Store> Guarded<S> {
    /// Guards a store: `timeout` for each call as a whole, `max_calls` at once.
    /// The secrets are those that the store was opened with.
    pub(crate) fn new(store: S, timeout: Duration, max_calls: usize, secrets: Vec<Secret>) -> Self {
        Self { store, timeout, calls: Semaphore::new(max_calls), secrets }
    }

    fn error(&self, kind: ErrorKind, message: impl fmt::Display) -> StoreError {
        StoreError::new(self.store.kind(), kind, message)
    }

    fn unsupported(&self, capability: &str) -> StoreError {
        StoreError::unsupported(self.store.kind(), capability)
    }

    fn late(&self) -> StoreError {
        self.error(ErrorKind::Timeout, format_args!("no answer within {:?}", self.timeout))
    }

    /// Runs one call, once there is room for it.
    async fn call<T>(&self, deadline: Instant, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let Ok(Ok(_permit)) = timeout_at(deadline, self.calls.acquire()).await else {
            let message = "as many calls as are allowed wait for it already";
            return Err(self.error(ErrorKind::Throttled { retry_after: None }, message));
        };
        call.await.map_err(|error| self.without_secrets(error))
    }

    /// A store may say what it was told, credentials among it.
    fn without_secrets(&self, error: StoreError) -> StoreError {
        let message = self.secrets.iter().fold(error.message, |message, secret| secret.taken_out_of(message));
        StoreError { message, ..error }
    }

    /// A read, as often as it takes.
    async fn read<'a, T>(&'a self, attempt: impl Fn() -> Answer<'a, T>) -> Result<T, StoreError> {
        let deadline = after(self.timeout);
        let read = async {
            let mut pause = FIRST_PAUSE;
            loop {
                // An attempt that hangs leaves time for another.
                let attempt_ends = deadline.min(after(self.timeout / 2));
                let error = match timeout_at(attempt_ends, attempt()).await {
                    Ok(Err(error)) if error.kind.is_passing() => error,
                    Ok(answer) => return answer,
                    Err(_) => self.late(),
                };
                if !pause_before(deadline, &mut pause, &error).await {
                    return Err(error);
                }
            }
        };
        self.call(deadline, read).await
    }

    /// A write, as often as is safe.
    async fn write<'a>(
        &'a self,
        deadline: Instant,
        condition: &'a Condition,
        attempt: impl Fn() -> Answer<'a, Written>,
        find: impl Fn(Option<&Stored>) -> Finding,
        key: &'a [u8],
    ) -> Result<Written, StoreError> {
        // What is left is for looking at what happened.
        let attempts_end = deadline - self.timeout / 4;
        let (mut pause, mut may_have_happened) = (FIRST_PAUSE, false);
        loop {
            let answer = match timeout_at(attempts_end, attempt()).await {
                Ok(answer) => answer,
                Err(_) => Err(self.late().unknown()),
            };
            let outcome = match answer {
                Ok(Written::ConditionFailed) if may_have_happened => {
                    Attempt::Over(self.look(deadline, key).await.and_then(|there| match find(there.as_ref()) {
                        Finding::Done => Ok(Written::Done(there.map(|stored| stored.tag))),
                        Finding::NotDone => Ok(Written::ConditionFailed),
                        Finding::Perhaps => Err(self.error(ErrorKind::Unexpected, "who wrote what is there cannot be told")),
                    }))
                }
                Ok(written) => Attempt::Over(Ok(written)),
                Err(error) if error.outcome == Outcome::NotApplied && error.kind.is_passing() => Attempt::Again(error),
                Err(error) if error.outcome == Outcome::NotApplied => Attempt::Over(Err(error)),
                Err(error) => {
                    may_have_happened = true;
                    let there = self.look(deadline, key).await;
                    match there.as_ref().map(|there| find(there.as_ref())) {
                        Ok(Finding::Done) => Attempt::Over(Ok(Written::Done(there.ok().flatten().map(|stored| stored.tag)))),
                        Ok(Finding::NotDone) if *condition != Condition::Always => Attempt::Again(error),
                        _ => Attempt::Over(Err(error)),
                    }
                }
            };
            match outcome {
                Attempt::Over(result) => return result.map_err(|error| if may_have_happened { error.unknown() } else { error }),
                Attempt::Again(error) => {
                    if !pause_before(attempts_end, &mut pause, &error).await {
                        return Err(if may_have_happened { error.unknown() } else { error });
                    }
                }
            }
        }
    }

    /// What is there now; asked again for as long as there is time.
    async fn look(&self, deadline: Instant, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match timeout_at(deadline, self.store.get(key)).await.unwrap_or_else(|_| Err(self.late())) {
                Err(error) if error.kind.is_passing() && pause_before(deadline, &mut pause, &error).await => {}
                answer => return answer,
            }
        }
    }

    fn check_key(&self, key: &[u8]) -> Result<(), StoreError> {
        if key.len() > MAX_KEY_BYTES {
            let message = format!("the key is of {} bytes, and keys are of {MAX_KEY_BYTES} bytes at most", key.len());
            return Err(self.error(ErrorKind::TooLarge, message));
        }
        Ok(())
    }

    fn check_write(&self, key: &[u8], condition: &Condition) -> Result<(), StoreError> {
        self.check_key(key)?;
        let capabilities = self.store.capabilities();
        if !capabilities.writable {
            return Err(self.unsupported("writes"));
        }
        if *condition != Condition::Always && capabilities.comparing == Comparing::Unconditional {
            return Err(self.unsupported("conditional writes"));
        }
        Ok(())
    }

    fn check_put(&self, key: &[u8], put: &Put) -> Result<(), StoreError> {
        self.check_write(key, &put.condition)?;
        let capabilities = self.store.capabilities();
        if put.expires_at_ms.is_some() && capabilities.expiry == Expiry::None {
            return Err(self.unsupported("ttl"));
        }
        if put.value.len() as u64 > capabilities.max_value_bytes {
            let (len, max) = (put.value.len(), capabilities.max_value_bytes);
            return Err(self.error(ErrorKind::TooLarge, format_args!("the value is of {len} bytes, {max} bytes at most fit")));
        }
        Ok(())
    }
}

/// Waits before another attempt; false if there is no time for one.
async fn pause_before(deadline: Instant, pause: &mut Duration, error: &StoreError) -> bool {
    let asked_for = match error.kind {
        ErrorKind::Throttled { retry_after: Some(wait) } => wait,
        _ => Duration::ZERO,
    };
    let until = after(asked_for.max(*pause));
    if until >= deadline {
        return false;
    }
    *pause = (*pause * 2).min(MAX_PAUSE);
    tokio::time::sleep_until(until).await;
    true
}

impl<S: Store> Store for Guarded<S> {
    fn kind(&self) -> &'static str {
        self.store.kind()
    }

    fn capabilities(&self) -> Capabilities {
        self.store.capabilities()
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        Box::pin(async move {
            self.check_key(key)?;
            self.read(|| self.store.get(key)).await
        })
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        Box::pin(async move {
            self.check_put(key, put)?;
            let deadline = after(self.timeout);
            let find = |there: Option<&Stored>| match there {
                Some(stored) if stored.stamp == Some(put.stamp) => Finding::Done,
                Some(stored) if stored.stamp.is_none() && stored.value == put.value => Finding::Perhaps,
                _ => Finding::NotDone,
            };
            let write = self.write(deadline, &put.condition, || self.store.put(key, put), find, key);
            self.call(deadline, write).await
        })
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        Box::pin(async move {
            self.check_write(key, condition)?;
            let deadline = after(self.timeout);
            let find = |there: Option<&Stored>| if there.is_none() { Finding::Done } else { Finding::NotDone };
            let write = self.write(deadline, condition, || self.store.delete(key, condition), find, key);
            self.call(deadline, write).await
        })
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        Box::pin(async move {
            if !self.store.capabilities().listable {
                return Err(self.unsupported("lists"));
            }
            self.read(|| self.store.scan(scan)).await
        })
    }

    fn check(&self) -> Answer<'_, ()> {
        Box::pin(self.read(|| self.store.check()))
    }

    fn prepare(&self) -> Answer<'_, ()> {
        // It can be done again, and so is tried again as reads are.
        Box::pin(self.read(|| self.store.prepare()))
    }
}
