//! Keyspaces whose pairs are in a store outside the nodes: one pair, pages, counts and streams, read straight from the store.
//!
//! What names the content of a key there is the store's tag. A record stands for a pair with a number in its counters that stands
//! for the tag ([`meta_of_tag`]), and without a revision of creation, as those of eventual keyspaces.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_api::entry::{Encoding, ListEnd};
use quorate_api::problem::ProblemLine;
use quorate_engine::{Direction, KeyRange};
use quorate_external::{Entry, ErrorKind, MAX_PAGE_ENTRIES, Scan, Store, Stored, Tag};
use quorate_node::keyspace::{KeyMeta, ListQuery, Offered, Page, PageBuilder, Place, Record, Revision};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::list::{put_line, trimmed};
use super::one_key::entry_of;
use super::refusal::Refusal;
use super::scans::Stream;
use super::store::StoreError;

/// Pairs of a stream that are asked for at once.
const STREAM_ENTRIES: usize = 500;

/// Pieces of a stream that wait for the client.
const MAX_WAITING_PIECES: usize = 2;

/// Lines of a stream are handed over once there are so many bytes of them.
const PIECE_BYTES: usize = 64 << 10;

/// Values of a page that are fetched at once, where keys had to be sorted first.
const FETCHED_AT_ONCE: usize = 16;

/// A keyspace whose pairs are outside. Clones share the store.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Part of each `ETag`.
    pub epoch: u64,
    /// Its store.
    pub store: Arc<dyn Store>,
    /// Told when the store denies access.
    pub is_denied: Arc<Notify>,
    /// What time it is, in milliseconds since 1970.
    pub now_ms: u64,
}

impl Outside {
    /// An error of the store, told on.
    pub(crate) fn failed(&self, error: quorate_external::StoreError) -> StoreError {
        if error.kind == ErrorKind::Denied {
            self.is_denied.notify_one();
        }
        StoreError::Outside(error)
    }

    /// No answer within the request's own time limit, which may be shorter than the store's.
    fn late(&self) -> StoreError {
        let late =
            quorate_external::StoreError::new(self.store.kind(), ErrorKind::Timeout, "no answer within the request's timeout");
        StoreError::Outside(late)
    }

    /// The record of a key; through the cache in front, if there is one.
    pub(crate) async fn get(&self, key: &[u8], timeout: Duration) -> Result<Option<Record>, StoreError> {
        let found = tokio::time::timeout(timeout, self.store.get(key)).await.map_err(|_| self.late())?;
        Ok(found.map_err(|error| self.failed(error))?.map(record_of))
    }

    /// A page of a range. Where the store lists in another order than the one that is asked for, all keys are looked at, and as
    /// many are held as the page has.
    pub(crate) async fn page(&self, query: &ListQuery, timeout: Duration) -> Result<Page, StoreError> {
        let in_order = self.store.capabilities().ordered && query.direction == Direction::Forward;
        let page = async { if in_order { self.page_in_order(query).await } else { self.page_sorted(query).await } };
        tokio::time::timeout(timeout, page).await.map_err(|_| self.late())?
    }

    async fn page_in_order(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let mut page = PageBuilder::new(query);
        let mut range = query.range.clone();
        let max_entries = query.max_items.saturating_add(1).min(MAX_PAGE_ENTRIES);
        'scans: while !range.is_empty() {
            let mut scan = Scan { max_entries, with_values: query.is_with_values, ..Scan::of(range.clone()) };
            loop {
                let found = self.store.scan(&scan).await.map_err(|error| self.failed(error))?;
                for Entry { key, stored } in found.entries {
                    match page.offer(key, || Ok::<_, StoreError>(sized(stored)))? {
                        Offered::Taken => {}
                        Offered::Full => return Ok(page.done()),
                        Offered::InFolder => {
                            range = page.rest_of(range);
                            continue 'scans;
                        }
                    }
                }
                match found.next {
                    Some(cursor) => scan.cursor = Some(cursor),
                    None => break 'scans,
                }
            }
        }
        Ok(page.done())
    }

    async fn page_sorted(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let mut wanted: BTreeMap<Bytes, Place> = BTreeMap::new();
        let mut scan = Scan::of(query.range.clone());
        loop {
            let found = self.store.scan(&scan).await.map_err(|error| self.failed(error))?;
            for entry in found.entries {
                let place = query.place_of(&entry.key);
                let (Place::Key(name) | Place::Folder(name)) = &place;
                wanted.insert(name.clone(), place);
                if wanted.len() > query.max_items + 1 {
                    match query.direction {
                        Direction::Forward => wanted.pop_last(),
                        Direction::Reverse => wanted.pop_first(),
                    };
                }
            }
            match found.next {
                Some(cursor) => scan.cursor = Some(cursor),
                None => break,
            }
        }
        let mut places: Vec<Place> = wanted.into_values().collect();
        if query.direction == Direction::Reverse {
            places.reverse();
        }
        let is_more = places.len() > query.max_items;
        places.truncate(query.max_items);
        self.page_of(places, is_more, query).await
    }

    /// Makes a page of these places, in their order, with values if they are wanted; it ends before its end if they are
    /// many bytes.
    async fn page_of(&self, places: Vec<Place>, is_more: bool, query: &ListQuery) -> Result<Page, StoreError> {
        let (mut page, mut size_bytes) = (Page::default(), 0);
        let count = places.len();
        let mut done = 0;
        for chunk in places.chunks(FETCHED_AT_ONCE) {
            let mut found = self.fetch(chunk.iter().filter(|_| query.is_with_values)).await?;
            for place in chunk {
                match place {
                    Place::Folder(folder) => page.folders.push(folder.clone()),
                    // Gone meanwhile, if it is not found.
                    Place::Key(key) if query.is_with_values => page.items.extend(found.remove(key).map(|record| {
                        size_bytes += record.value.len();
                        (key.clone(), record)
                    })),
                    Place::Key(key) => page.items.push((key.clone(), nothing_known())),
                }
            }
            done += chunk.len();
            let (Place::Key(name) | Place::Folder(name)) = &chunk[chunk.len() - 1];
            size_bytes += name.len() * chunk.len();
            let is_full = size_bytes > query.max_bytes;
            if (is_full || done == count) && (done < count || is_more) {
                page.next = chunk.last().cloned();
            }
            if is_full {
                break;
            }
        }
        Ok(page)
    }

    async fn fetch(&self, places: impl Iterator<Item = &Place>) -> Result<BTreeMap<Bytes, Record>, StoreError> {
        let mut fetching = JoinSet::new();
        for place in places {
            if let Place::Key(key) = place {
                let (store, key) = (Arc::clone(&self.store), key.clone());
                fetching.spawn(async move { store.get(&key).await.map(|stored| (key, stored)) });
            }
        }
        let mut found = BTreeMap::new();
        while let Some(fetched) = fetching.join_next().await {
            let fetched = fetched.map_err(|error| StoreError::Internal(error.to_string()))?;
            let (key, stored) = fetched.map_err(|error| self.failed(error))?;
            found.extend(stored.map(|stored| (key, record_of(stored))));
        }
        Ok(found)
    }

    /// How many keys there are. Where the store only hides what is over, that is counted too until somebody looks at it.
    pub(crate) async fn count(&self, range: KeyRange, timeout: Duration) -> Result<u64, StoreError> {
        let mut scan = Scan::of(range);
        let counted = async {
            let mut count = 0;
            loop {
                let found = self.store.scan(&scan).await.map_err(|error| self.failed(error))?;
                count += found.entries.len() as u64;
                match found.next {
                    Some(cursor) => scan.cursor = Some(cursor),
                    None => return Ok(count),
                }
            }
        };
        tokio::time::timeout(timeout, counted).await.map_err(|_| self.late())?
    }

    /// Every pair of a range as a line, in the order in which the store lists; then a line that says so. What is held is one page
    /// of the store and what waits for the client. `room` is given back at the end.
    pub(super) fn stream<R: Send + 'static>(
        self,
        range: KeyRange,
        (is_with_values, encoding): (bool, Encoding),
        room: R,
    ) -> Stream {
        let (sender, pieces) = mpsc::channel(MAX_WAITING_PIECES);
        tokio::spawn(async move {
            let _room = room;
            let mut scan = Scan { max_entries: STREAM_ENTRIES, with_values: is_with_values, ..Scan::of(range) };
            let (mut lines, mut count) = (BytesMut::new(), 0);
            loop {
                let found = match self.store.scan(&scan).await {
                    Ok(found) => found,
                    Err(error) => {
                        let problem = Refusal::of_read(self.failed(error)).into_part(false);
                        put_line(&mut lines, &ProblemLine { problem });
                        return drop(sender.send(lines.freeze()).await);
                    }
                };
                for entry in found.entries {
                    let record = entry.stored.map_or_else(nothing_known, record_of);
                    put_line(&mut lines, &trimmed(entry_of(entry.key, record, self.now_ms), is_with_values).to_body(encoding));
                    count += 1;
                    if lines.len() >= PIECE_BYTES && sender.send(lines.split().freeze()).await.is_err() {
                        return;
                    }
                }
                match found.next {
                    Some(cursor) => scan.cursor = Some(cursor),
                    None => break,
                }
            }
            put_line(&mut lines, &ListEnd { revision: 0, count });
            // Whether somebody reads it still does not matter.
            drop(sender.send(lines.freeze()).await);
        });
        Stream::of(pieces)
    }
}

/// The counters that stand for a tag: those of no state machine, and of no version.
pub(crate) fn meta_of_tag(tag: &Tag) -> KeyMeta {
    KeyMeta { create_revision: Revision(0), mod_revision: Revision(tag.number()), version: u64::MAX }
}

/// The counters of a pair of which nothing is known.
pub(crate) const UNKNOWN: KeyMeta = KeyMeta { create_revision: Revision(0), mod_revision: Revision(0), version: u64::MAX };

/// The number of a tag that counters stand for, if they stand for one.
pub(crate) fn tag_in(meta: &KeyMeta) -> Option<u64> {
    (meta.create_revision == Revision(0) && meta.version == u64::MAX).then_some(meta.mod_revision.0)
}

fn record_of(stored: Stored) -> Record {
    let Stored { value, tag, expires_at_ms, .. } = stored;
    let expires_at_ms = expires_at_ms.and_then(NonZeroU64::new);
    Record { meta: meta_of_tag(&tag), expires_at_ms, value, ..nothing_known() }
}

/// What is shown of a pair that was listed, and its bytes.
fn sized(stored: Option<Stored>) -> (Record, usize) {
    let record = stored.map_or_else(nothing_known, record_of);
    let bytes = record.value.len();
    (record, bytes)
}

/// A pair that was listed without its value.
fn nothing_known() -> Record {
    Record { meta: UNKNOWN, content_type: None, user_meta: Vec::new(), expires_at_ms: None, lease: None, value: Bytes::new() }
}
