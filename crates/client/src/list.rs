//! Many keys: one page after the other.

use std::borrow::Cow;

use bytes::Bytes;
use quorate_api::entry::{Entry, ListBody};
use quorate_api::problem::WriteOutcome;
use quorate_api::text64::{self, MalformedText64};

use crate::call::Client;
use crate::error::Error;
use crate::key_path::path_of;
use crate::keys::GetOptions;
use crate::selection::Selection;
use crate::transport::Request;

/// Which keys are listed, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Which keys.
    pub selection: Selection,
    /// Keys per page, 1 to 10,000; the server's choice unless set. A page may hold fewer.
    pub page_limit: Option<usize>,
    /// From the last to the first.
    pub is_reverse: bool,
    /// With values.
    pub with_values: bool,
    /// Keys in which this stands behind the prefix are shown as one folder, up to it and with it; none are if it is empty.
    pub delimiter: Vec<u8>,
    /// How fresh each page must be.
    pub freshness: GetOptions,
}

/// Some of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In the order asked for.
    pub entries: Vec<Entry>,
    /// With a delimiter: the folders, in the same order.
    pub folders: Vec<Bytes>,
    /// The shard's revision of this page.
    pub revision: u64,
    /// What to ask for the next page with; `None` on the last.
    pub next_cursor: Option<String>,
    /// Whether something changed since the first page.
    pub revision_changed: bool,
}

/// The pages of one list, asked for one by one.
#[derive(Debug)]
pub struct Listing {
    client: Client,
    keyspace: String,
    query: ListQuery,
    position: Position,
}

#[derive(Debug)]
enum Position {
    First,
    After(String),
    End,
}

impl Client {
    /// Begins a list. Nothing is sent before the first page is asked for.
    pub fn list(&self, keyspace: &str, query: ListQuery) -> Listing {
        Listing { client: self.clone(), keyspace: keyspace.to_owned(), query, position: Position::First }
    }
}

impl Listing {
    /// The next page; `None` after the last. After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Page>, Error> {
        let cursor = match &self.position {
            Position::First => None,
            Position::After(cursor) => Some(cursor.as_str()),
            Position::End => return Ok(None),
        };
        let target = format!("{}?{}", path_of(&self.keyspace), self.query.to_query(cursor));
        let answer = self.client.call(Request::read(target)).await?;
        let body: ListBody<'_> = answer.json(WriteOutcome::NotApplied)?;
        let unexpected =
            |reason: String| Error::Unexpected { endpoint: answer.endpoint.clone(), reason, outcome: WriteOutcome::NotApplied };
        let folders = folders(body.prefixes.unwrap_or_default(), &body.prefixes64, self.query.is_reverse);
        let entries: Result<Vec<Entry>, _> = body.items.into_iter().map(Entry::try_from).collect();
        let page = Page {
            entries: entries.map_err(|error| unexpected(error.to_string()))?,
            folders: folders.map_err(|error| unexpected(error.to_string()))?,
            revision: body.revision,
            next_cursor: body.next_cursor,
            revision_changed: body.revision_changed,
        };
        self.position = page.next_cursor.clone().map_or(Position::End, Position::After);
        Ok(Some(page))
    }

    /// Asks for pages of this many keys from now on.
    pub fn set_page_limit(&mut self, page_limit: usize) {
        self.query.page_limit = Some(page_limit);
    }
}

/// Those whose names are text and the others, in one order.
fn folders(texts: Vec<Cow<'_, str>>, others: &[String], is_reverse: bool) -> Result<Vec<Bytes>, MalformedText64> {
    let mut folders = others.iter().map(|folder| text64::decode(folder).map(Bytes::from)).collect::<Result<Vec<_>, _>>()?;
    folders.extend(texts.into_iter().map(|folder| Bytes::from(folder.into_owned())));
    folders.sort_unstable();
    if is_reverse {
        folders.reverse();
    }
    Ok(folders)
}

impl ListQuery {
    /// Keys travel as base64url here: no byte needs care then. The cursor is the server's own text.
    pub(crate) fn to_query(&self, cursor: Option<&str>) -> String {
        let mut parameters = self.selection.to_parameters();
        let mut add = |name: &str, value: String| parameters.push(format!("{name}={value}"));
        if !self.delimiter.is_empty() {
            add("delimiter64", text64::encode(&self.delimiter));
        }
        if let Some(limit) = self.page_limit {
            add("limit", limit.to_string());
        }
        if self.is_reverse {
            add("reverse", "true".to_owned());
        }
        if self.with_values {
            add("values", "true".to_owned());
        }
        if let Some(cursor) = cursor {
            add("cursor", quorate_api::key::encode_percent(cursor.as_bytes()));
        }
        let freshness = self.freshness.to_query();
        if !freshness.is_empty() {
            parameters.push(freshness);
        }
        parameters.join("&")
    }
}
