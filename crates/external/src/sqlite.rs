//! `sqlite`: pairs in a table of an SQLite file, made if it is not there.
//!
//! The file is made with the keyspace, or by a node of whose name it is; one that is missing later is missed, for an unmounted
//! disk leaves an empty folder.
//!
//! A write is on disk when it is answered (write-ahead log, `synchronous=FULL`). Several processes on one machine may use the
//! file at once; a file system on a network does not do, for SQLite's locks and shared memory do not work there.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Row, ToSql, params};

use crate::blocking::Threads;
use crate::fields::Fields;
use crate::registry::{Kind, Opening, Settings};
use crate::spec::NODE;
use crate::sql::{self, Statements};
use crate::{
    Answer, Capabilities, Clock, Comparing, Condition, ErrorKind, Expiry, MAX_KEY_BYTES, MAX_PAGE_BYTES, Page, Put, Scan,
    SpecError, Store, StoreError, Stored, Written, fs,
};

const NAME: &str = "sqlite";
const EXAMPLE: &str = "/srv/quorate/pairs.sqlite";

/// How long one process waits for another to finish its write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

const CAPABILITIES: Capabilities = Capabilities {
    writable: true,
    listable: true,
    ordered: true,
    comparing: Comparing::Atomic,
    expiry: Expiry::Hidden,
    // Rows of more than 1,000,000,000 bytes are refused.
    max_value_bytes: 256 << 20,
    max_key_bytes: MAX_KEY_BYTES,
};

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "rows of a table in an SQLite file on a local disk",
    example: r#"{"type": "sqlite", "file": "/srv/quorate/{node}.sqlite"}"#,
    options: &[
        ("file", "an absolute path below a folder that the nodes were given with --fs-root; `{node}` for the node's name"),
        ("table", "made if it is not there; `quorate` by default"),
    ],
    credentials: &[],
    names: None,
    envelope: None,
    capabilities: || CAPABILITIES,
    read: |fields| Ok(Arc::new(SqliteSettings::read(fields)?)),
};

#[derive(Debug)]
struct SqliteSettings {
    file: String,
    table: String,
    place: String,
}

impl SqliteSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let file = fs::absolute_path(fields, "file", EXAMPLE)?.to_owned();
        let table = fields.text("table", "quorate")?.unwrap_or("quorate").to_owned();
        sql::check_table(&table)?;
        Ok(Self { place: format!("{file} {table}"), file, table })
    }
}

impl Settings for SqliteSettings {
    fn place(&self) -> &str {
        &self.place
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let (_, file) = fs::below_roots(NAME, opening, &self.file)?;
        let table = sql::quoted(NAME, &opening.place(&self.table))?;
        let database = Database {
            is_made: self.file.contains(NODE),
            file,
            statements: Statements::of(&table, "BLOB", "length"),
            clock: opening.surroundings.clock.clone(),
            connection: Mutex::default(),
        };
        // One connection, one thread: SQLite has one writer, and a read takes microseconds.
        Ok(Arc::new(Sqlite { database: Arc::new(database), threads: Threads::start(NAME, 1)? }))
    }
}

#[derive(Debug)]
struct Sqlite {
    database: Arc<Database>,
    threads: Threads,
}

#[derive(Debug)]
struct Database {
    file: PathBuf,
    /// Whether a file that is missing is made, whoever asks.
    is_made: bool,
    statements: Statements,
    clock: Clock,
    connection: Mutex<Option<Opened>>,
}

/// A connection, and which file it is to: device and number.
#[derive(Debug)]
struct Opened {
    connection: Connection,
    file: (u64, u64),
}

impl Database {
    /// Calls with the connection, which is opened if it is not, or if the file of that name is another by now, or none: its
    /// folder was moved, or a disk was mounted over it. One that failed in an odd way is closed.
    fn with<T>(&self, changes: bool, call: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut held = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match held.take().filter(|opened| self.file_now() == Some(opened.file)) {
            Some(opened) => opened,
            None => self.open(self.is_made).map_err(|error| self.meaning(&error, false))?,
        };
        match call(&opened.connection) {
            Ok(answer) => {
                *held = Some(opened);
                Ok(answer)
            }
            Err(error) => {
                let error = self.meaning(&error, changes);
                if error.kind.is_passing() {
                    drop(opened);
                } else {
                    *held = Some(opened);
                }
                Err(error)
            }
        }
    }

    fn file_now(&self) -> Option<(u64, u64)> {
        std::fs::metadata(&self.file).ok().map(|file| (file.dev(), file.ino()))
    }

    fn open(&self, makes: bool) -> rusqlite::Result<Opened> {
        let create = if makes { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | create | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let connection = Connection::open_with_flags(&self.file, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(&self.statements.create)?;
        // None: it went a moment ago, and is missed by the next call.
        Ok(Opened { connection, file: self.file_now().unwrap_or_default() })
    }

    fn meaning(&self, error: &rusqlite::Error, changes: bool) -> StoreError {
        let (kind, is_unknown) = match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => (ErrorKind::Throttled { retry_after: None }, false),
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::AuthorizationForStatementDenied) => {
                (ErrorKind::Denied, false)
            }
            Some(ErrorCode::CannotOpen | ErrorCode::NotFound) => (ErrorKind::NoContainer, false),
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt | ErrorCode::SchemaChanged | ErrorCode::TypeMismatch) => {
                (ErrorKind::BadData, false)
            }
            Some(ErrorCode::TooBig) => (ErrorKind::TooLarge, false),
            Some(ErrorCode::DiskFull) => (ErrorKind::Failing, false),
            // An error of the disk among them: what was being written may be there after all.
            Some(ErrorCode::Unknown) | None => (ErrorKind::BadData, false),
            Some(_) => (ErrorKind::Failing, true),
        };
        let error = StoreError::new(NAME, kind, format_args!("{}: {error}", self.file.display()));
        if changes && is_unknown { error.unknown() } else { error }
    }

    fn make(&self) -> Result<(), StoreError> {
        self.open(true).map(drop).map_err(|error| self.meaning(&error, false))
    }

    fn now(&self) -> i64 {
        sql::milliseconds(self.clock.unix_ms())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let found = self.with(false, |connection| {
            let mut statement = connection.prepare_cached(&numbered(&self.statements.get))?;
            statement.query_row(params![key], |row| stored(row, 0)).optional()
        })?;
        let now = self.now();
        let is_over = |stored: &Stored| stored.expires_at_ms.is_some_and(|at| sql::milliseconds(at) <= now);
        if found.as_ref().is_some_and(is_over) {
            self.sweep(key, key, now);
            return Ok(None);
        }
        Ok(found)
    }

    /// Removes what is over from one key to another, if that goes now.
    fn sweep(&self, first: &[u8], last: &[u8], now: i64) {
        let removal = |connection: &Connection| {
            connection.prepare_cached(&numbered(&self.statements.sweep))?.execute(params![first, last, now])
        };
        self.with(true, removal).ok();
    }

    fn put(&self, key: &[u8], put: &Put) -> Result<Written, StoreError> {
        let (unix_us, writer) = sql::columns(put.stamp);
        let (value, now) = (&put.value[..], self.now());
        let expires = put.expires_at_ms.map(sql::milliseconds);
        let tag = match &put.condition {
            Condition::Matches(tag) => sql::tag_columns(tag),
            _ => Some((0, 0)),
        };
        let Some((tag_us, tag_writer)) = tag else {
            return Ok(Written::ConditionFailed);
        };
        let parameters: [&dyn ToSql; 8] = [&key, &value, &unix_us, &writer, &expires, &now, &tag_us, &tag_writer];
        let (statement, used) = match &put.condition {
            Condition::Always => (&self.statements.put, 5),
            Condition::Absent => (&self.statements.put_absent, 6),
            Condition::Matches(_) => (&self.statements.put_matches, 8),
        };
        let changed =
            self.with(true, |connection| connection.prepare_cached(&numbered(statement))?.execute(&parameters[..used]))?;
        Ok(if changed > 0 { Written::Done(Some(sql::tag(put.stamp))) } else { Written::ConditionFailed })
    }

    fn delete(&self, key: &[u8], condition: &Condition) -> Result<Written, StoreError> {
        let tag = match condition {
            Condition::Always => {
                self.with(true, |connection| {
                    connection.prepare_cached(&numbered(&self.statements.delete))?.execute(params![key])
                })?;
                return Ok(Written::Done(None));
            }
            Condition::Absent => None,
            Condition::Matches(tag) => sql::tag_columns(tag),
        };
        let Some((unix_us, writer)) = tag else {
            return Ok(Written::ConditionFailed);
        };
        let parameters = params![key, self.now(), unix_us, writer];
        let changed = self.with(true, |connection| {
            connection.prepare_cached(&numbered(&self.statements.delete_matches))?.execute(parameters)
        })?;
        Ok(if changed > 0 { Written::Done(None) } else { Written::ConditionFailed })
    }

    fn page(&self, scan: &Scan) -> Result<Page, StoreError> {
        let (start, end) = sql::bounds(scan);
        let (limit, max_bytes) = (sql::number(scan.limit()), sql::number(MAX_PAGE_BYTES));
        let mut parameters: Vec<&dyn ToSql> = vec![&start, &limit];
        let statement = if scan.with_values {
            parameters.push(&max_bytes);
            self.statements.pairs(end.is_some())
        } else {
            self.statements.keys(end.is_some())
        };
        if end.is_some() {
            parameters.push(&end);
        }
        let rows = self.with(false, |connection| {
            let mut statement = connection.prepare_cached(&numbered(&statement))?;
            let read = |row: &Row<'_>| {
                let key: Vec<u8> = row.get(0)?;
                let stored = if scan.with_values { Some(stored(row, 1)?) } else { None };
                let expires = row.get(if scan.with_values { 4 } else { 1 })?;
                Ok(sql::Row { key: key.into(), stored, expires })
            };
            statement.query_map(&parameters[..], read)?.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let now = self.now();
        let (page, swept) = sql::page_of(rows, scan, now);
        if let Some((first, last)) = swept {
            self.sweep(&first, &last, now);
        }
        Ok(page)
    }
}

/// SQLite numbers parameters with a question mark.
fn numbered(statement: &str) -> String {
    statement.replace('$', "?")
}

fn stored(row: &Row<'_>, at: usize) -> rusqlite::Result<Stored> {
    let value: Vec<u8> = row.get(at)?;
    let stamp = sql::stamp(row.get(at + 1)?, row.get(at + 2)?);
    let expires: Option<i64> = row.get(at + 3)?;
    Ok(Stored {
        value: Bytes::from(value),
        tag: sql::tag(stamp),
        stamp: Some(stamp),
        expires_at_ms: expires.map(|at| u64::try_from(at).unwrap_or(0)),
    })
}

impl Store for Sqlite {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    fn get<'a>(&'a self, key: &'a [u8]) -> Answer<'a, Option<Stored>> {
        let (database, key) = (self.database.clone(), key.to_vec());
        Box::pin(self.threads.run(false, move || database.get(&key)))
    }

    fn put<'a>(&'a self, key: &'a [u8], put: &'a Put) -> Answer<'a, Written> {
        let (database, key, put) = (self.database.clone(), key.to_vec(), put.clone());
        Box::pin(self.threads.run(true, move || database.put(&key, &put)))
    }

    fn delete<'a>(&'a self, key: &'a [u8], condition: &'a Condition) -> Answer<'a, Written> {
        let (database, key, condition) = (self.database.clone(), key.to_vec(), condition.clone());
        Box::pin(self.threads.run(true, move || database.delete(&key, &condition)))
    }

    fn scan<'a>(&'a self, scan: &'a Scan) -> Answer<'a, Page> {
        let (database, scan) = (self.database.clone(), scan.clone());
        Box::pin(self.threads.run(false, move || database.page(&scan)))
    }

    fn check(&self) -> Answer<'_, ()> {
        let database = self.database.clone();
        Box::pin(self.threads.run(false, move || database.with(false, |_| Ok(()))))
    }

    fn prepare(&self) -> Answer<'_, ()> {
        let database = self.database.clone();
        Box::pin(self.threads.run(false, move || database.make()))
    }
}
