//! Reads: one key, and pages of a range, from a view.

use bytes::Bytes;
use quorate_engine::{Direction, KeyRange, Table, View};

use crate::Record;
use crate::shard::ShardError;

/// The record of a key.
pub fn get(view: &dyn View, key: &[u8]) -> Result<Option<Record>, ShardError> {
    match view.get(Table::Current, key)? {
        None => Ok(None),
        Some(bytes) => Ok(Some(Record::decode(bytes)?)),
    }
}

/// Which pairs a page shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// The keys.
    pub range: KeyRange,
    /// The order.
    pub direction: Direction,
    /// At most this many pairs.
    pub max_items: usize,
    /// The page ends once keys and values together exceed this; at least one pair is returned.
    pub max_bytes: usize,
    /// Whether values count towards `max_bytes`.
    pub is_with_values: bool,
}

/// Pairs of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The pairs, in the order asked for.
    pub items: Vec<(Bytes, Record)>,
    /// Whether there are more in the range after the last.
    pub has_more: bool,
}

/// A page of a range.
pub fn list(view: &dyn View, query: &ListQuery) -> Result<Page, ShardError> {
    let mut page = Page { items: Vec::new(), has_more: false };
    let mut size_bytes = 0;
    for item in view.scan(Table::Current, &query.range, query.direction) {
        let (key, bytes) = item?;
        if page.items.len() >= query.max_items || size_bytes > query.max_bytes {
            page.has_more = true;
            break;
        }
        size_bytes += key.len() + if query.is_with_values { bytes.len() } else { 0 };
        page.items.push((key, Record::decode(bytes)?));
    }
    Ok(page)
}
