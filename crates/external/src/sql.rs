//! The one table in which SQL databases keep pairs, and what is asked of it: the same words for PostgreSQL and SQLite.
//!
//! | column | what |
//! | --- | --- |
//! | `key` | the key, bytes, primary key: the order of bytes is the order of keys |
//! | `value` | the value, bytes |
//! | `stamp_us`, `writer` | the stamp, whose 64 bits are read as signed; together they are the [`Tag`] |
//! | `expires_ms` | when its time is up, in milliseconds since 1970, or null |
//!
//! Each call is one statement, so each is atomic by itself. Parameters always stand in the order of their numbers.

use std::ops::Bound;

use bytes::Bytes;
use quorate_engine::KeyRange;

use crate::{Cursor, Entry, ErrorKind, MAX_PAGE_BYTES, Page, Scan, SpecError, Stamp, StoreError, Stored, Tag};

/// The statements for one table.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) create: String,
    /// $1 key. Also what is over.
    pub(crate) get: String,
    /// $1 key, $2 value, $3 and $4 stamp, $5 expiry.
    pub(crate) put: String,
    /// The same, and $6 now.
    pub(crate) put_absent: String,
    /// The same, $6 now, $7 and $8 the tag.
    pub(crate) put_matches: String,
    /// $1 key.
    pub(crate) delete: String,
    /// $1 key, $2 now, $3 and $4 the tag.
    pub(crate) delete_matches: String,
    /// Removes what is over: $1 the first key, $2 the last, $3 now.
    pub(crate) sweep: String,
    table: String,
    length: &'static str,
}

const MAX_TABLE_CHARS: usize = 63;

impl Statements {
    /// For a table by its quoted name; `bytes` is the type of bytes, `length` the function for their number.
    pub(crate) fn of(table: &str, bytes: &str, length: &'static str) -> Self {
        let all = "value = excluded.value, stamp_us = excluded.stamp_us, writer = excluded.writer, \
            expires_ms = excluded.expires_ms";
        let insert = format!(
            "INSERT INTO {table} AS t (key, value, stamp_us, writer, expires_ms) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (key) DO UPDATE SET {all}"
        );
        Self {
            create: format!(
                "CREATE TABLE IF NOT EXISTS {table} (key {bytes} NOT NULL PRIMARY KEY, value {bytes} NOT NULL, \
                 stamp_us BIGINT NOT NULL, writer BIGINT NOT NULL, expires_ms BIGINT)"
            ),
            get: format!("SELECT value, stamp_us, writer, expires_ms FROM {table} WHERE key = $1"),
            put_absent: format!("{insert} WHERE t.expires_ms <= $6"),
            put: insert,
            put_matches: format!(
                "UPDATE {table} SET value = $2, stamp_us = $3, writer = $4, expires_ms = $5 \
                 WHERE key = $1 AND (expires_ms IS NULL OR expires_ms > $6) AND stamp_us = $7 AND writer = $8"
            ),
            delete: format!("DELETE FROM {table} WHERE key = $1"),
            delete_matches: format!(
                "DELETE FROM {table} WHERE key = $1 AND (expires_ms IS NULL OR expires_ms > $2) AND stamp_us = $3 AND writer = $4"
            ),
            sweep: format!("DELETE FROM {table} WHERE key >= $1 AND key <= $2 AND expires_ms <= $3"),
            table: table.to_owned(),
            length,
        }
    }

    /// Keys of a page with when they end, those that are over included: $1 the first key, $2 how many, $3 the end if there is
    /// one.
    pub(crate) fn keys(&self, has_end: bool) -> String {
        format!("SELECT key, expires_ms FROM {} {}", self.table, Self::page(has_end))
    }

    /// Pairs of a page, which ends once the values before are $3 bytes long: parameters as for `keys`, the end is $4. Lengths
    /// are known without reading values, so that no more are read than are wanted.
    pub(crate) fn pairs(&self, has_end: bool) -> String {
        let page = Self::page(has_end).replace("$3", "$4");
        let Self { table, length, .. } = self;
        format!(
            "SELECT key, value, stamp_us, writer, expires_ms FROM (SELECT *, \
             SUM({length}(value)) OVER (ORDER BY key) - {length}(value) AS before FROM (SELECT * FROM {table} {page}) AS page) \
             AS counted WHERE before < $3 ORDER BY key"
        )
    }

    fn page(has_end: bool) -> &'static str {
        if has_end { "WHERE key >= $1 AND key < $3 ORDER BY key LIMIT $2" } else { "WHERE key >= $1 ORDER BY key LIMIT $2" }
    }
}

/// Some rows, as a page of what is not over; and from where to where to sweep, if some are.
pub(crate) fn page_of(rows: Vec<Row>, scan: &Scan, now: i64) -> (Page, Option<(Bytes, Bytes)>) {
    let bytes: usize = rows.iter().filter_map(|row| row.stored.as_ref()).map(|stored| stored.value.len()).sum();
    let is_full = rows.len() == scan.limit() || bytes >= MAX_PAGE_BYTES;
    let next = rows.last().filter(|_| is_full).map(|row| Cursor(row.key.clone()));
    let ends = rows.first().zip(rows.last()).map(|(first, last)| (first.key.clone(), last.key.clone()));
    let count = rows.len();
    let alive = rows.into_iter().filter(|row| row.expires.is_none_or(|at| at > now));
    let entries: Vec<Entry> = alive.map(|Row { key, stored, .. }| Entry { key, stored }).collect();
    let swept = ends.filter(|_| entries.len() < count);
    (Page { entries, next }, swept)
}

/// A row of a page.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: Bytes,
    pub(crate) stored: Option<Stored>,
    pub(crate) expires: Option<i64>,
}

/// The first key of a page, and the first one behind it.
pub(crate) fn bounds(scan: &Scan) -> (Vec<u8>, Option<Vec<u8>>) {
    let after = |key: &[u8]| [key, &[0]].concat();
    let KeyRange { start, end } = &scan.range;
    let start = match (&scan.cursor, start) {
        (Some(Cursor(key)), _) | (None, Bound::Excluded(key)) => after(key),
        (None, Bound::Included(key)) => key.to_vec(),
        (None, Bound::Unbounded) => Vec::new(),
    };
    let end = match end {
        Bound::Included(key) => Some(after(key)),
        Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Unbounded => None,
    };
    (start, end)
}

/// A stamp as the two columns hold it.
pub(crate) fn columns(stamp: Stamp) -> (i64, i64) {
    (stamp.unix_us.cast_signed(), stamp.writer.cast_signed())
}

/// The stamp of two columns.
pub(crate) fn stamp(unix_us: i64, writer: i64) -> Stamp {
    Stamp { unix_us: unix_us.cast_unsigned(), writer: writer.cast_unsigned() }
}

/// What a value with this stamp is compared by.
pub(crate) fn tag(stamp: Stamp) -> Tag {
    Tag(format!("{}-{}", stamp.unix_us, stamp.writer))
}

/// The two columns of a tag; a tag of something else matches nothing.
pub(crate) fn tag_columns(tag: &Tag) -> Option<(i64, i64)> {
    let (unix_us, writer) = tag.0.split_once('-')?;
    Some(columns(Stamp { unix_us: unix_us.parse().ok()?, writer: writer.parse().ok()? }))
}

/// A time as the column holds it.
pub(crate) fn milliseconds(unix_ms: u64) -> i64 {
    i64::try_from(unix_ms).unwrap_or(i64::MAX)
}

/// A number as a parameter.
pub(crate) fn number(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The name of a table: `NAME` or `SCHEMA.NAME`, of letters, digits, `_`, `-` and `{node}`.
pub(crate) fn check_table(table: &str) -> Result<(), SpecError> {
    let bare = table.replace(crate::spec::NODE, "node");
    let is_name = |part: &str| {
        (1..=MAX_TABLE_CHARS).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    if bare.split('.').count() > 2 || !bare.split('.').all(is_name) {
        let problem = "must be a name of letters, digits, _ and - of 63 characters at most, perhaps after a schema and a dot";
        return Err(SpecError::new("table", problem, r#""table": "quorate""#));
    }
    Ok(())
}

/// A table's name as it stands in statements.
pub(crate) fn quoted(store: &'static str, table: &str) -> Result<String, StoreError> {
    if table.contains(['"', '\0']) {
        let message = format!("the table's name {table:?} holds a quotation mark");
        return Err(StoreError::new(store, ErrorKind::Unexpected, message));
    }
    Ok(table.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_statements_are_refused() {
        for table in ["", "a b", "a;b", "a\"b", "a.b.c", "'", &"x".repeat(64)] {
            assert!(check_table(table).is_err(), "{table}");
        }
        for table in ["quorate", "schema.table", "quorate_{node}"] {
            check_table(table).unwrap();
        }
        assert!(quoted("postgres", "a\"; DROP TABLE x").is_err());
        assert_eq!(quoted("postgres", "a.b").unwrap(), r#""a"."b""#);
    }

    #[test]
    fn tags_lead_back_to_their_stamps() {
        let stamp = Stamp { unix_us: u64::MAX - 5, writer: u64::MAX };
        assert_eq!(tag_columns(&tag(stamp)), Some(columns(stamp)));
        let (unix_us, writer) = columns(stamp);
        assert_eq!(super::stamp(unix_us, writer), stamp);
        assert_eq!(tag_columns(&Tag("elsewhere".to_owned())), None);
    }
}
