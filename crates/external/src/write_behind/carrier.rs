//! The task that writes to the store what waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quorate_engine::{EngineError, Table};
use tokio::time::Instant;

use super::queue::{Wanted, Work};
use super::{Setup, Shared, ValueOf, rows};
use crate::clock::after;
use crate::{Clock, Condition, ErrorKind, Put, Store, StoreError};

/// How long a store is left alone that cannot be opened, or denies access, before it is opened anew: credentials may have been
/// put right.
const OPEN_PAUSE: Duration = Duration::from_secs(3);

/// The same of a store that denies some keys, and has taken others since it was opened.
const REOPEN_PAUSE: Duration = Duration::from_mins(1);

/// What the process before, or the engine before, had on its way to the store has come there, or never will, when the engine has
/// served for this long: connections ended with them. Whether there was one before, an engine that was never flushed does not
/// know.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Values of so many bytes at most are in memory at once, and one more.
const MAX_BYTES_UNDER_WAY: u64 = 32 << 20;

/// Why the carrier stops writing to a store that it has open.
enum End {
    /// The engine is gone, or of no use any more.
    Over,
    /// The store is to be made ready again, or opened as it is set now.
    Unready,
}

/// What never changes of a store.
pub(super) struct How {
    pub(super) kind: &'static str,
    pub(super) value_of: ValueOf,
    pub(super) clock: Clock,
}

/// What is known of a store since it was opened.
struct Opened {
    at: Instant,
    has_taken: bool,
    has_denied: bool,
}

impl Opened {
    fn now() -> Self {
        Self { at: after(Duration::ZERO), has_taken: false, has_denied: false }
    }

    fn note(&mut self, result: &Result<(), StoreError>) {
        self.has_taken |= result.is_ok();
        self.has_denied |= matches!(result, Err(error) if error.kind == ErrorKind::Denied);
    }

    fn is_to_be_renewed(&self) -> bool {
        self.has_denied && self.at.elapsed() >= if self.has_taken { REOPEN_PAUSE } else { OPEN_PAUSE }
    }
}

/// Writes what waits, for as long as there is the engine.
pub(super) async fn carry(shared: Weak<Shared>, how: How) {
    if !until_serving(&shared).await {
        return;
    }
    tokio::time::sleep(START_PAUSE).await;
    loop {
        let Some(setup) = shared.upgrade().map(|shared| shared.setup()) else { return };
        match open(&shared, &how, &setup).await {
            Ok(None) => return,
            Ok(Some(store)) => match write_all(&shared, &how, (&setup, store)).await {
                End::Over => return,
                End::Unready => continue,
            },
            Err(error) => {
                let Some(shared) = shared.upgrade() else { return };
                shared.queue().fail(&error, shared.now_ms());
            }
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

/// Waits until the engine serves; whether it came to that.
async fn until_serving(shared: &Weak<Shared>) -> bool {
    loop {
        let Some(own) = shared.upgrade() else { return false };
        if own.is_serving.load(Ordering::Relaxed) {
            return true;
        }
        let wake = Arc::clone(&own.wake);
        drop(own);
        // Whoever ends the engine ends this task.
        wake.notified().await;
    }
}

/// Opens the store, and makes it ready if that has not been done. None: the engine is gone, or of no use any more.
async fn open(shared: &Weak<Shared>, how: &How, setup: &Setup) -> Result<Option<Arc<dyn Store>>, StoreError> {
    let store = reopen(how, setup).await?;
    let Some(own) = shared.upgrade() else { return Ok(None) };
    match blocking(move || own.is_prepared()).await {
        Ok(true) => {}
        Ok(false) => store.prepare().await?,
        Err(error) => return Err(of_engine(how.kind, &error)),
    }
    let Some(own) = shared.upgrade() else { return Ok(None) };
    Ok(blocking(move || own.set_prepared(true)).await.ok().map(|()| store))
}

/// Opens the store, and no more.
async fn reopen(how: &How, setup: &Setup) -> Result<Arc<dyn Store>, StoreError> {
    let open = Arc::clone(&setup.open);
    let opened = tokio::task::spawn_blocking(move || open()).await;
    opened.unwrap_or_else(|error| Err(StoreError::new(how.kind, ErrorKind::Unexpected, error)))
}

type Done = (Work, Result<(), StoreError>);

async fn write_all(shared: &Weak<Shared>, how: &How, (setup, mut store): (&Arc<Setup>, Arc<dyn Store>)) -> End {
    let mut under_way = FuturesUnordered::new();
    let mut bytes_under_way = 0;
    let mut opened = Opened::now();
    loop {
        // Not held while nothing is to be done: who opens the engine again waits until nobody has it.
        let Some(own) = shared.upgrade() else { return End::Over };
        let rows = read_rows(&own).await;
        if let Err(error) = &rows {
            // What can be read is written all the same, and this is tried again.
            own.queue().fail(&of_engine(how.kind, error), own.now_ms());
        }
        let is_current = Arc::ptr_eq(setup, &own.setup());
        if !(is_current && own.queue().is_ready()) && under_way.is_empty() {
            return End::Unready;
        }
        if is_current && opened.is_to_be_renewed() && own.queue().next_at_ms().is_some_and(|at_ms| at_ms <= own.now_ms()) {
            // What is under way goes on with the one before.
            match reopen(how, setup).await {
                Ok(anew) => store = anew,
                Err(error) => own.queue().fail(&error, own.now_ms()),
            }
            opened = Opened::now();
        }
        let has_room = |calls: usize, bytes: u64| is_current && calls < setup.max_calls && bytes < MAX_BYTES_UNDER_WAY;
        while has_room(under_way.len(), bytes_under_way) {
            let Some(work) = own.queue().next(own.now_ms()) else { break };
            bytes_under_way += work.bytes;
            under_way.push(write(shared.clone(), Arc::clone(&store), work, (how.value_of, how.clock.clone())));
        }
        let pause = own.queue().next_at_ms().map(|at_ms| Duration::from_millis(at_ms.saturating_sub(own.now_ms()).max(1)));
        // With all calls under way, what may be tried has to wait for one to end.
        let pause = pause.filter(|_| has_room(under_way.len(), bytes_under_way));
        let pause = if rows.is_err() { Some(pause.unwrap_or(OPEN_PAUSE).min(OPEN_PAUSE)) } else { pause };
        let wake = Arc::clone(&own.wake);
        drop(own);
        tokio::select! {
            Some(first) = under_way.next(), if !under_way.is_empty() => {
                let mut done: Vec<Done> = vec![first];
                while let Some(Some(next)) = under_way.next().now_or_never() {
                    done.push(next);
                }
                bytes_under_way -= done.iter().map(|(work, _)| work.bytes).sum::<u64>();
                done.iter().for_each(|(_, result)| opened.note(result));
                let Some(own) = shared.upgrade() else { return End::Over };
                if settle(own, done).await.is_err() {
                    return End::Over;
                }
            }
            () = wake.notified() => {}
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
    }
}

/// Writes a key as the engine has it now.
async fn write(shared: Weak<Shared>, store: Arc<dyn Store>, work: Work, (value_of, clock): (ValueOf, Clock)) -> Done {
    let key = work.key.clone();
    let value = tokio::task::spawn_blocking(move || read(&shared, &key, value_of)).await;
    let kind = store.kind();
    let value = match value {
        Ok(Ok(value)) => value,
        Ok(Err(why)) => return (work, Err(StoreError::new(kind, ErrorKind::BadData, why))),
        Err(error) => return (work, Err(StoreError::new(kind, ErrorKind::BadData, error))),
    };
    let is_removal = value.is_none();
    let written = match value {
        Some(value) => {
            let put = Put { value, expires_at_ms: None, condition: Condition::Always, stamp: clock.stamp() };
            store.put(&work.key, &put).await
        }
        None => store.delete(&work.key, &Condition::Always).await,
    };
    (work, of_removal(written.map(drop), is_removal))
}

/// What cannot be named, or is too large to be there, is not there.
fn of_removal(result: Result<(), StoreError>, is_removal: bool) -> Result<(), StoreError> {
    match result {
        Err(error) if is_removal && matches!(error.kind, ErrorKind::BadKey | ErrorKind::TooLarge) => Ok(()),
        result => result,
    }
}

/// An error of the engine, as it is told beside those of the store.
fn of_engine(kind: &'static str, error: &EngineError) -> StoreError {
    StoreError::new(kind, ErrorKind::Unexpected, format_args!("what waits for it cannot be read: {error}"))
}

fn read(shared: &Weak<Shared>, key: &Bytes, value_of: ValueOf) -> Result<Option<Bytes>, String> {
    let shared = shared.upgrade().ok_or("the engine is closed")?;
    let pair = shared.engine.view().peek(Table::Current, key).map_err(|error| error.to_string())?;
    pair.map_or(Ok(None), value_of)
}

/// Takes in rows that were left to themselves, if there is room for them.
async fn read_rows(shared: &Arc<Shared>) -> Result<(), EngineError> {
    if shared.queue().wants_rows(shared.now_ms()).is_none() {
        return Ok(());
    }
    let shared = Arc::clone(shared);
    blocking(move || {
        loop {
            // Not in the condition of the loop, which would hold the queue throughout.
            let wanted = shared.queue().wants_rows(shared.now_ms());
            let Some(Wanted { after }) = wanted else { return Ok(()) };
            let view = shared.engine.view();
            let mut has_more = false;
            for key in rows::waiting_after(view.as_ref(), after.as_ref()) {
                let key = key?;
                let value_bytes = view.peek(Table::Current, &key)?.map_or(0, |pair| pair.len() as u64);
                let now_ms = shared.now_ms();
                // The key is a slice of what was read from the disk.
                has_more = shared.queue().take_row(Bytes::copy_from_slice(&key), value_bytes, now_ms);
                if !has_more {
                    return Ok(());
                }
            }
            if !has_more {
                // Once more from the first, if others were left to theirs meanwhile.
                shared.queue().end_rows();
            }
        }
    })
    .await
}

/// Notes what came of attempts, and takes out the rows of what is settled.
async fn settle(shared: Arc<Shared>, done: Vec<Done>) -> Result<(), EngineError> {
    blocking(move || {
        let _writing = shared.writing();
        let now_ms = shared.now_ms();
        let mut changes = Vec::new();
        for (work, result) in done {
            if shared.queue().done(&work, &result, now_ms) {
                changes.push(rows::settled(&work.key));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        shared.apply_own(changes)
    })
    .await
}

/// Does what may wait for a disk where that holds up nobody else.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, EngineError> + Send + 'static) -> Result<T, EngineError> {
    let done = tokio::task::spawn_blocking(act).await;
    done.unwrap_or_else(|error| Err(EngineError::Io(std::io::Error::other(error))))
}
