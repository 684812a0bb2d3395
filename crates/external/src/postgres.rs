//! `postgres`: pairs in a table of PostgreSQL, made if it is not there.
//!
//! Conditions and order are the database's own. Rows whose time is up stay until somebody reads or lists them, or runs
//! `DELETE FROM quorate WHERE expires_ms < 1000 * extract(epoch FROM now())`.
//!
//! Connections are encrypted with `?sslmode=require` behind the URL, where the server's certificate must be one that the system
//! trusts, for its host. Else they are not: only over a network that is trusted, or through a tunnel.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row, Socket};

use crate::fields::Fields;
use crate::registry::{Kind, Opening, Settings};
use crate::sql::{self, Statements};
use crate::sweep::Sweeper;
use crate::tls::Tls;
use crate::{
    Answer, Capabilities, Clock, Comparing, Condition, ErrorKind, Expiry, MAX_PAGE_BYTES, Page, Put, Scan, SpecError, Store,
    StoreError, Stored, Written,
};

const NAME: &str = "postgres";
const EXAMPLE: &str = "postgres://db.example:5432/database";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements of one connection wait for each other, so there are some.
const CONNECTIONS: usize = 4;

const CAPABILITIES: Capabilities = Capabilities {
    writable: true,
    listable: true,
    ordered: true,
    comparing: Comparing::Atomic,
    expiry: Expiry::Hidden,
    // The protocol's limit is 1 GiB with everything around it; half of it may be needed to send.
    max_value_bytes: 128 << 20,
    // An entry of an index has to fit on a third of a page.
    max_key_bytes: 2600,
};

pub(crate) const KIND: Kind = Kind {
    name: NAME,
    summary: "rows of a table in PostgreSQL",
    example: r#"{"type": "postgres", "url": "postgres://db.example:5432/database", "table": "quorate", "path": "shared",
        "credentials": {"env": {"username": "PGUSER", "password": "PGPASSWORD"}}}"#,
    options: &[
        ("url", "`postgres://HOST:PORT/DATABASE`; with `?sslmode=require` encrypted"),
        ("table", "`NAME` or `SCHEMA.NAME`, made if it is not there; `{node}` for the node's name; `quorate` by default"),
        ("credentials", "`username` and `password`"),
    ],
    credentials: &["username", "password"],
    names: None,
    envelope: None,
    capabilities: || CAPABILITIES,
    read: |fields| Ok(Arc::new(PostgresSettings::read(fields)?)),
};

#[derive(Debug)]
struct PostgresSettings {
    url: String,
    table: String,
    /// Both, for `{node}`.
    place: String,
}

impl PostgresSettings {
    fn read(fields: &mut Fields<'_>) -> Result<Self, SpecError> {
        let url = fields.needed("url", EXAMPLE)?;
        let wrong = |problem: &str| Err(SpecError::new("url", problem, format!("\"url\": \"{EXAMPLE}\"")));
        if url.contains('@') {
            return wrong("must hold no user and password: they belong into \"credentials\"");
        }
        let (place, query) = url.split_once('?').unwrap_or((url, ""));
        if !(place.starts_with("postgres://") || place.starts_with("postgresql://")) {
            return wrong("must have the form postgres://HOST:PORT/DATABASE");
        }
        if !["", "sslmode=require", "sslmode=disable"].contains(&query) {
            return wrong(
                "can have nothing behind ? but sslmode=require, which checks the server's certificate, or sslmode=disable",
            );
        }
        if url.parse::<Config>().is_err() {
            return wrong("is no address of a database");
        }
        let table = fields.text("table", "quorate")?.unwrap_or("quorate");
        sql::check_table(table)?;
        Ok(Self { url: url.to_owned(), table: table.to_owned(), place: format!("{url} {table}") })
    }
}

impl Settings for PostgresSettings {
    fn place(&self) -> &str {
        &self.place
    }

    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError> {
        let wrong = |_| StoreError::new(NAME, ErrorKind::Unexpected, "the URL is no address of a database");
        let mut config: Config = opening.place(&self.url).parse().map_err(wrong)?;
        let tls = if config.get_ssl_mode() == SslMode::Require { Some(Tls::new(NAME)?) } else { None };
        config.connect_timeout(CONNECT_TIMEOUT).application_name("quorate");
        if let Some(username) = opening.secrets.find("username") {
            config.user(username);
        }
        if let Some(password) = opening.secrets.find("password") {
            config.password(password);
        }
        let table = sql::quoted(NAME, &opening.place(&self.table))?;
        Ok(Arc::new(Postgres {
            config,
            tls,
            statements: Statements::of(&table, "BYTEA", "octet_length"),
            table,
            clock: opening.surroundings.clock.clone(),
            clients: Default::default(),
            next: AtomicUsize::new(0),
            sweeper: Sweeper::default(),
        }))
    }
}

struct Postgres {
    config: Config,
    /// If connections are encrypted.
    tls: Option<Tls>,
    statements: Statements,
    table: String,
    clock: Clock,
    clients: [Mutex<Option<Arc<Client>>>; CONNECTIONS],
    next: AtomicUsize,
    sweeper: Sweeper,
}

type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];

impl Postgres {
    fn error(kind: ErrorKind, message: impl fmt::Display) -> StoreError {
        StoreError::new(NAME, kind, message)
    }

    /// One of the connections, made if it is not there any more.
    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        let mut client = self.clients[number].lock().await;
        if let Some(there) = client.as_ref().filter(|there| !there.is_closed()) {
            return Ok(there.clone());
        }
        let fresh = match &self.tls {
            Some(tls) => self.connect(tls.clone()).await?,
            None => self.connect(NoTls).await?,
        };
        self.make_table(&fresh).await?;
        let fresh = Arc::new(fresh);
        *client = Some(fresh.clone());
        Ok(fresh)
    }

    async fn connect<T>(&self, tls: T) -> Result<Client, StoreError>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
    {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT * 2, self.config.connect(tls)).await;
        let (client, connection) = connected
            .map_err(|_| Self::error(ErrorKind::Timeout, "no connection was established"))?
            .map_err(|error| meaning(&error, false))?;
        // Ends with the client, or with the connection: then the client says that it is closed.
        #[expect(clippy::let_underscore_future, reason = "the task ends by itself")]
        let _ = tokio::spawn(async move { connection.await.ok() });
        Ok(client)
    }

    /// Asks first: who may use a table may not be allowed to make one.
    async fn make_table(&self, client: &Client) -> Result<(), StoreError> {
        let is_there = async || {
            let asked = client.query_typed("SELECT to_regclass($1) IS NOT NULL", &[(&self.table, Type::TEXT)]).await;
            let rows = asked.map_err(|error| meaning(&error, false))?;
            Ok(rows.first().is_some_and(|row| row.try_get(0).unwrap_or(false)))
        };
        if is_there().await? {
            return Ok(());
        }
        match client.batch_execute(&self.statements.create).await {
            Ok(()) => Ok(()),
            // Of two who make it at once, one may be told that it is there.
            Err(_) if is_there().await? => Ok(()),
            Err(error) => Err(meaning(&error, false)),
        }
    }

    async fn rows(&self, statement: &str, parameters: &Parameters<'_>) -> Result<Vec<Row>, StoreError> {
        let client = self.client().await?;
        client.query_typed(statement, parameters).await.map_err(|error| meaning(&error, false))
    }

    /// Whether a statement changed a row.
    async fn changes(&self, statement: &str, parameters: &Parameters<'_>) -> Result<bool, StoreError> {
        let client = self.client().await?;
        let changed = client.execute_typed(statement, parameters).await.map_err(|error| meaning(&error, true))?;
        Ok(changed > 0)
    }

    fn now(&self) -> i64 {
        sql::milliseconds(self.clock.unix_ms())
    }

    async fn write(&self, key: &[u8], put: &Put) -> Result<Written, StoreError> {
        let (unix_us, writer) = sql::columns(put.stamp);
        let (value, now) = (&put.value[..], self.now());
        let expires = put.expires_at_ms.map(sql::milliseconds);
        let (tag_us, tag_writer) = match &put.condition {
            Condition::Matches(tag) => match sql::tag_columns(tag) {
                Some(columns) => columns,
                None => return Ok(Written::ConditionFailed),
            },
            _ => (0, 0),
        };
        let parameters: &Parameters<'_> = &[
            (&key, Type::BYTEA),
            (&value, Type::BYTEA),
            (&unix_us, Type::INT8),
            (&writer, Type::INT8),
            (&expires, Type::INT8),
            (&now, Type::INT8),
            (&tag_us, Type::INT8),
            (&tag_writer, Type::INT8),
        ];
        let (statement, used) = match &put.condition {
            Condition::Always => (&self.statements.put, 5),
            Condition::Absent => (&self.statements.put_absent, 6),
            Condition::Matches(_) => (&self.statements.put_matches, 8),
        };
        let done = self.changes(statement, &parameters[..used]).await?;
        Ok(if done { Written::Done(Some(sql::tag(put.stamp))) } else { Written::ConditionFailed })
    }

    async fn remove(&self, key: &[u8], condition: &Condition) -> Result<Written, StoreError> {
        let tag = match condition {
            Condition::Always => {
                self.changes(&self.statements.delete, &[(&key, Type::BYTEA)]).await?;
                return Ok(Written::Done(None));
            }
            Condition::Absent => None,
            Condition::Matches(tag) => sql::tag_columns(tag),
        };
        let Some((unix_us, writer)) = tag else {
            return Ok(Written::ConditionFailed);
        };
        let parameters: &Parameters<'_> =
            &[(&key, Type::BYTEA), (&self.now(), Type::INT8), (&unix_us, Type::INT8), (&writer, Type::INT8)];
        let done = self.changes(&self.statements.delete_matches, parameters).await?;
        Ok(if done { Written::Done(None) } else { Written::ConditionFailed })
    }

    async fn read(&self, key: &[u8]) -> Result<Option<Stored>, StoreError> {
        let rows = self.rows(&self.statements.get, &[(&key, Type::BYTEA)]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let (stored, now) = (stored(row, 0)?, self.now());
        if stored.expires_at_ms.is_none_or(|at| sql::milliseconds(at) > now) {
            return Ok(Some(stored));
        }
        self.sweep(key, key, now).await;
        Ok(None)
    }

    /// Removes what is over from one key to another.
    async fn sweep(&self, first: &[u8], last: &[u8], now: i64) {
        let removal = async {
            let parameters: &Parameters<'_> = &[(&first, Type::BYTEA), (&last, Type::BYTEA), (&now, Type::INT8)];
            self.changes(&self.statements.sweep, parameters).await.map(|_| Written::Done(None))
        };
        self.sweeper.sweep(removal).await;
    }

    async fn page(&self, scan: &Scan) -> Result<Page, StoreError> {
        let (start, end) = sql::bounds(scan);
        let (limit, max_bytes) = (sql::number(scan.limit()), sql::number(MAX_PAGE_BYTES));
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&start, Type::BYTEA), (&limit, Type::INT8)];
        let statement = if scan.with_values {
            parameters.push((&max_bytes, Type::INT8));
            self.statements.pairs(end.is_some())
        } else {
            self.statements.keys(end.is_some())
        };
        if end.is_some() {
            parameters.push((&end, Type::BYTEA));
        }
        let rows = self.rows(&statement, &parameters).await?;
        let row = |row: &Row| {
            let key: Vec<u8> = column(row, 0)?;
            let stored = if scan.with_values { Some(stored(row, 1)?) } else { None };
            let expires = column(row, if scan.with_values { 4 } else { 1 })?;
            Ok(sql::Row { key: key.into(), stored, expires })
        };
        let rows = rows.iter().map(row).collect::<Result<_, StoreError>>()?;
        let now = self.now();
        let (page, swept) = sql::page_of(rows, scan, now);
        if let Some((first, last)) = swept {
            self.sweep(&first, &last, now).await;
        }
        Ok(page)
    }
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, at: usize) -> Result<T, StoreError> {
    row.try_get(at).map_err(|error| StoreError::new(NAME, ErrorKind::BadData, format_args!("the table is another's: {error}")))
}

/// The four columns of a value, from the first one's place on.
fn stored(row: &Row, at: usize) -> Result<Stored, StoreError> {
    let value: Vec<u8> = column(row, at)?;
    let stamp = sql::stamp(column(row, at + 1)?, column(row, at + 2)?);
    let expires: Option<i64> = column(row, at + 3)?;
    Ok(Stored {
        value: Bytes::from(value),
        tag: sql::tag(stamp),
        stamp: Some(stamp),
        expires_at_ms: expires.map(|at| u64::try_from(at).unwrap_or(0)),
    })
}

/// What an error means; without an answer of the database, what was to be changed may have been.
fn meaning(error: &tokio_postgres::Error, changes: bool) -> StoreError {
    let Some(said) = error.as_db_error() else {
        let why = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        let error = Postgres::error(ErrorKind::Unreachable, why);
        return if changes { error.unknown() } else { error };
    };
    let message = format!("{}: {}", said.code().code(), said.message());
    let code = said.code();
    let kind = match code.code().get(..2) {
        _ if *code == SqlState::INSUFFICIENT_PRIVILEGE => ErrorKind::Denied,
        _ if *code == SqlState::TOO_MANY_CONNECTIONS => ErrorKind::Throttled { retry_after: None },
        // Too long for the index.
        _ if *code == SqlState::PROGRAM_LIMIT_EXCEEDED => ErrorKind::TooLarge,
        // The server ends; a statement that was running is undone, but the end of a commit may be lost.
        Some("57") => {
            let error = Postgres::error(ErrorKind::Unreachable, message);
            return if changes { error.unknown() } else { error };
        }
        Some("28") => ErrorKind::Denied,
        Some("3D" | "3F") => ErrorKind::NoContainer,
        _ if *code == SqlState::UNDEFINED_TABLE => ErrorKind::NoContainer,
        Some("42") => ErrorKind::BadData,
        Some("40" | "53" | "55" | "58") => ErrorKind::Failing,
        _ => ErrorKind::Unexpected,
    };
    Postgres::error(kind, message)
}

impl Store for Postgres {
    fn kind(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
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
        Box::pin(async move { self.client().await.map(|_| ()) })
    }
}

impl fmt::Debug for Postgres {
    /// Without the configuration, which holds the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("table", &self.table).finish_non_exhaustive()
    }
}
