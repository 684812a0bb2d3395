//! Reads: one key, and pages of a range, from a view.

use std::ops::Bound;

use bytes::Bytes;
use quorate_engine::{Direction, KeyRange, ScanItem, Table, View};

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
    /// At most this many pairs and folders.
    pub max_items: usize,
    /// The page ends once keys and values together exceed this; at least one pair or folder is returned.
    pub max_bytes: usize,
    /// Whether values count towards `max_bytes`.
    pub is_with_values: bool,
    /// What makes folders of pairs.
    pub folding: Option<Folding>,
}

/// Pairs whose keys have something in common are shown as one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folding {
    /// How many bytes of each key are not looked at: those that all keys of the range begin with.
    pub prefix_bytes: usize,
    /// Ends the name of a folder, which is the key up to it, and it. Not empty.
    pub delimiter: Bytes,
    /// The engine's scans cost what they return: then it is cheaper to begin a new one behind a folder than to read all of it.
    pub is_ordered: bool,
}

/// Pairs of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The pairs, in the order asked for.
    pub items: Vec<(Bytes, Record)>,
    /// The folders, in the same order.
    pub folders: Vec<Bytes>,
    /// Where the next page goes on; none if there is nothing more in the range.
    pub next: Option<Place>,
}

/// A place in a list: behind this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A pair.
    Key(Bytes),
    /// A folder, with all pairs in it.
    Folder(Bytes),
}

/// Pairs of one folder that are read over before a new scan is begun behind it: about what beginning one costs.
const MAX_READ_OVER: usize = 16;

impl Place {
    /// The part of the range that lies behind this place.
    #[must_use]
    pub fn rest_of(&self, range: KeyRange, direction: Direction) -> KeyRange {
        let behind = match (self, direction) {
            (Self::Key(key), Direction::Forward) => from(Bound::Excluded(key.clone())),
            (Self::Key(key) | Self::Folder(key), Direction::Reverse) => {
                KeyRange { start: Bound::Unbounded, end: Bound::Excluded(key.clone()) }
            }
            (Self::Folder(folder), Direction::Forward) => match KeyRange::prefix(folder).end {
                Bound::Excluded(next) | Bound::Included(next) => from(Bound::Included(next)),
                // No key is greater than those of this folder.
                Bound::Unbounded => KeyRange { start: Bound::Unbounded, end: Bound::Excluded(Bytes::new()) },
            },
        };
        range.intersect(behind)
    }
}

fn from(start: Bound<Bytes>) -> KeyRange {
    KeyRange { start, end: Bound::Unbounded }
}

impl Folding {
    /// The folder that a key is in.
    pub fn folder_of(&self, key: &Bytes) -> Option<Bytes> {
        let rest = key.get(self.prefix_bytes..)?;
        let at = rest.windows(self.delimiter.len()).position(|part| part == self.delimiter)?;
        Some(key.slice(..self.prefix_bytes + at + self.delimiter.len()))
    }
}

impl ListQuery {
    /// Where a key stands in the list.
    pub fn place_of(&self, key: &Bytes) -> Place {
        let folder = self.folding.as_ref().and_then(|folding| folding.folder_of(key));
        folder.map_or_else(|| Place::Key(key.clone()), Place::Folder)
    }
}

/// A page to which pairs are added in the order asked for, until it is full.
#[derive(Debug)]
pub struct PageBuilder<'q> {
    query: &'q ListQuery,
    page: Page,
    size_bytes: usize,
    last: Option<Place>,
}

/// What became of a pair that was offered to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is in the page, or the folder is that it begins.
    Taken,
    /// It is in the folder that the page had last.
    InFolder,
    /// The page ends before it.
    Full,
}

impl<'q> PageBuilder<'q> {
    /// An empty page.
    pub fn new(query: &'q ListQuery) -> Self {
        Self { query, page: Page::default(), size_bytes: 0, last: None }
    }

    /// Offers the next pair. Its record, with the bytes that it counts if values do, is asked for only if it is to be shown.
    pub fn offer<E>(&mut self, key: Bytes, record: impl FnOnce() -> Result<(Record, usize), E>) -> Result<Offered, E> {
        if let Some(Place::Folder(folder)) = &self.last
            && key.starts_with(folder)
        {
            return Ok(Offered::InFolder);
        }
        let query = self.query;
        if self.page.items.len() + self.page.folders.len() >= query.max_items || self.size_bytes > query.max_bytes {
            self.page.next = self.last.take();
            return Ok(Offered::Full);
        }
        self.size_bytes += key.len();
        let place = query.place_of(&key);
        if let Place::Folder(folder) = &place {
            self.page.folders.push(folder.clone());
        } else {
            let (record, record_bytes) = record()?;
            self.size_bytes += if query.is_with_values { record_bytes } else { 0 };
            self.page.items.push((key, record));
        }
        self.last = Some(place);
        Ok(Offered::Taken)
    }

    /// The part of the range that lies behind what was taken last.
    pub fn rest_of(&self, range: KeyRange) -> KeyRange {
        match &self.last {
            Some(last) => last.rest_of(range, self.query.direction),
            None => range,
        }
    }

    /// The page.
    pub fn done(self) -> Page {
        self.page
    }
}

/// A page of a range.
pub fn list(view: &dyn View, query: &ListQuery) -> Result<Page, ShardError> {
    page_of(|range, direction| view.scan(Table::Current, range, direction), query)
}

/// A page of what a scan finds.
pub(crate) fn page_of<E, I>(scan: impl Fn(&KeyRange, Direction) -> I, query: &ListQuery) -> Result<Page, ShardError>
where
    ShardError: From<E>,
    I: Iterator<Item = Result<(Bytes, Bytes), E>>,
{
    let mut page = PageBuilder::new(query);
    let is_ordered = query.folding.as_ref().is_some_and(|folding| folding.is_ordered);
    let mut range = query.range.clone();
    'scans: while !range.is_empty() {
        let mut read_over = 0;
        for item in scan(&range, query.direction) {
            let (key, bytes) = item?;
            let record_bytes = bytes.len();
            match page.offer(key, || Ok::<_, ShardError>((Record::decode(bytes)?, record_bytes)))? {
                Offered::Taken => read_over = 0,
                Offered::Full => break 'scans,
                Offered::InFolder => read_over += 1,
            }
            if read_over > MAX_READ_OVER && is_ordered {
                range = page.rest_of(range);
                continue 'scans;
            }
        }
        break;
    }
    Ok(page.done())
}

/// All keys of a range, in order, one by one; at the cost of [`pairs`].
pub fn keys<'a>(view: &'a dyn View, range: &KeyRange) -> impl Iterator<Item = Result<Bytes, ShardError>> + 'a {
    let scan = (!range.is_empty()).then(|| view.scan(Table::Current, range, Direction::Forward));
    scan.into_iter().flatten().map(|item| Ok(item?.0))
}

/// All pairs of a range, one by one. Costs what is taken where the engine is ordered; elsewhere the first one costs as much as
/// all.
pub fn pairs<'a>(
    view: &'a dyn View,
    range: &KeyRange,
    direction: Direction,
) -> impl Iterator<Item = Result<(Bytes, Record), ShardError>> + 'a {
    let scan = (!range.is_empty()).then(|| view.scan(Table::Current, range, direction));
    let decode = |item: ScanItem| {
        let (key, record) = item?;
        Ok((key, Record::decode(record)?))
    };
    scan.into_iter().flatten().map(decode)
}
