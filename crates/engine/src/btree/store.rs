//! One redb file: transactions on it, and what a view reads.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;

use redb::{Builder, Database, Range, ReadOnlyTable, ReadableDatabase as _, TableDefinition, WriteTransaction};

use super::record;
use crate::folder::Remains;
use crate::numbers::Numbers;
use crate::{Change, Direction, EngineError, KeyRange, ScanItem, Table, View};

/// Bytes of pages that are copied for each byte that changes, at most about: 4 KiB and what lies above it for 256 bytes.
const PAGES_PER_CHANGE: u64 = 64;

type Pairs = TableDefinition<'static, &'static [u8], &'static [u8]>;
type ReadPairs = ReadOnlyTable<&'static [u8], &'static [u8]>;

/// By the table's tag.
const TABLES: [Pairs; Table::ALL.len()] =
    [TableDefinition::new("meta"), TableDefinition::new("current"), TableDefinition::new("history")];
const NUMBERS: Pairs = TableDefinition::new("numbers");
const NUMBERS_KEY: &[u8] = b"numbers";

/// When a transaction is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Before it is reported.
    Synced,
    /// With a later one.
    Later,
}

/// One redb file that is open.
pub(super) struct Store {
    database: Database,
    /// Pages that are not synced take half of it at most.
    cache_bytes: usize,
    /// Not there for what is no file, in tests.
    path: Option<PathBuf>,
    /// Dropped last: files are closed before they are removed.
    remains: Option<Remains>,
}

impl Store {
    /// Makes a file without pairs, at 0 and 0. It is synced, its name in the folder is not.
    pub(super) fn create(remains: Remains, cache_bytes: usize) -> Result<Arc<Self>, EngineError> {
        let database = Builder::new().set_cache_size(cache_bytes).create(remains.path()).map_err(corrupt)?;
        let store = Self::around(database, cache_bytes, remains);
        store.write(&[], Numbers::default(), Durability::Synced)?;
        Ok(store)
    }

    /// Opens a file that was made before; redb brings it to its last synced transaction. A file of up to `checked_bytes` is read
    /// and checked whole.
    pub(super) fn open(remains: Remains, cache_bytes: usize, checked_bytes: u64) -> Result<Arc<Self>, EngineError> {
        let path = remains.path();
        let is_checked = std::fs::metadata(path).map_err(redb::Error::Io).map_err(corrupt)?.len() <= checked_bytes;
        let open = || Builder::new().set_cache_size(cache_bytes).set_check_integrity_on_open(is_checked).open(path);
        // redb may panic at what it trusts.
        let database = catch_unwind(open).map_err(|_| EngineError::Corrupt("redb cannot read its file".to_owned()))?;
        Ok(Self::around(database.map_err(corrupt)?, cache_bytes, remains))
    }

    fn around(database: Database, cache_bytes: usize, remains: Remains) -> Arc<Self> {
        Arc::new(Self { database, cache_bytes, path: Some(remains.path().to_owned()), remains: Some(remains) })
    }

    /// What a sync may have to write after so many bytes of changes: each copies pages, and what is more than half the cache is
    /// written out already.
    pub(super) fn most_synced_bytes(&self, changed_bytes: u64) -> u64 {
        (1 << 20) + changed_bytes.saturating_mul(PAGES_PER_CHANGE).min(self.cache_bytes as u64 / 2)
    }

    /// Around what is no file.
    #[cfg(test)]
    pub(super) fn of_backend(database: Database) -> Arc<Self> {
        Arc::new(Self { database, cache_bytes: 0, path: None, remains: None })
    }

    /// See [`Remains::set_obsolete`].
    pub(super) fn set_obsolete(&self, is_obsolete: bool) {
        if let Some(remains) = &self.remains {
            remains.set_obsolete(is_obsolete);
        }
    }

    /// Commits changes with what is then true of all tables, and reads that; the figures in `numbers` are those of before. One
    /// caller at a time.
    pub(super) fn write(
        self: &Arc<Self>,
        changes: &[Change],
        mut numbers: Numbers,
        durability: Durability,
    ) -> Result<Content, EngineError> {
        let transaction = self.begin(durability)?;
        {
            let mut tables = Vec::with_capacity(TABLES.len());
            for definition in TABLES {
                tables.push(transaction.open_table(definition).map_err(corrupt)?);
            }
            let mut buffer = Vec::new();
            for change in changes {
                match change {
                    Change::Put { table, key, value } => {
                        record::encode_value(&mut buffer, *table, key, value);
                        let replaced = tables[*table as usize].insert(&key[..], &buffer[..]).map_err(corrupt)?;
                        numbers.add(*table, key.len() + value.len());
                        if let Some(old) = replaced {
                            numbers.remove(*table, key.len() + record::value_len(old.value()));
                        }
                    }
                    Change::PutUntil { .. } => panic!("a btree keeps what it is given"),
                    Change::Delete { table, key } => {
                        if let Some(old) = tables[*table as usize].remove(&key[..]).map_err(corrupt)? {
                            numbers.remove(*table, key.len() + record::value_len(old.value()));
                        }
                    }
                }
            }
            let mut table = transaction.open_table(NUMBERS).map_err(corrupt)?;
            table.insert(NUMBERS_KEY, &numbers.encode()[..]).map_err(corrupt)?;
        }
        transaction.commit().map_err(corrupt)?;
        self.read()
    }

    /// Makes all that was committed durable.
    pub(super) fn sync(&self) -> Result<(), EngineError> {
        self.begin(Durability::Synced)?.commit().map_err(corrupt)
    }

    /// Syncs what redb has written out so far, beside its writer: not a durable point, but less to do for one.
    pub(super) fn sync_ahead(&self) -> Result<(), EngineError> {
        // Opened for this: a file that is held open counts against the limit of the process, a thousand times.
        self.path.as_ref().map_or(Ok(()), |path| Ok(File::open(path)?.sync_data()?))
    }

    fn begin(&self, durability: Durability) -> Result<WriteTransaction, EngineError> {
        let mut transaction = self.database.begin_write().map_err(corrupt)?;
        let redb_durability = match durability {
            Durability::Synced => redb::Durability::Immediate,
            Durability::Later => redb::Durability::None,
        };
        transaction.set_durability(redb_durability).map_err(corrupt)?;
        // Without it a file that was not closed is read whole when it is opened again.
        transaction.set_quick_repair(durability == Durability::Synced);
        Ok(transaction)
    }

    /// What was committed last.
    pub(super) fn read(self: &Arc<Self>) -> Result<Content, EngineError> {
        let transaction = self.database.begin_read().map_err(corrupt)?;
        let numbers = transaction.open_table(NUMBERS).map_err(corrupt)?;
        let numbers = numbers.get(NUMBERS_KEY).map_err(corrupt)?;
        let numbers = numbers.ok_or_else(|| EngineError::Corrupt("a btree without numbers".to_owned()))?;
        let numbers = Numbers::decode(numbers.value())?;
        let open = |table: Table| transaction.open_table(TABLES[table as usize]).map_err(corrupt);
        let tables = [open(Table::Meta)?, open(Table::Current)?, open(Table::History)?];
        Ok(Content { tables, numbers, _store: Arc::clone(self) })
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("remains", &self.remains).finish_non_exhaustive()
    }
}

/// All tables at the end of one batch.
pub(super) struct Content {
    tables: [ReadPairs; Table::ALL.len()],
    numbers: Numbers,
    /// Holds the file open.
    _store: Arc<Store>,
}

impl Content {
    pub(super) fn numbers(&self) -> Numbers {
        self.numbers
    }
}

impl View for Content {
    fn applied(&self) -> u64 {
        self.numbers.applied
    }

    fn revision(&self) -> u64 {
        self.numbers.revision
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<bytes::Bytes>, EngineError> {
        let found = self.tables[table as usize].get(key).map_err(corrupt)?;
        found.map(|stored| record::decode_value(stored.value(), table, key)).transpose()
    }

    fn scan<'a>(
        &'a self,
        table: Table,
        range: &KeyRange,
        direction: Direction,
    ) -> Box<dyn Iterator<Item = ScanItem> + Send + 'a> {
        // redb takes such ranges for a mistake.
        if range.is_empty() {
            return Box::new(std::iter::empty());
        }
        let bounds = (borrow(&range.start), borrow(&range.end));
        match self.tables[table as usize].range::<&[u8]>(bounds) {
            Ok(pairs) => Box::new(Scan { pairs, table, direction }),
            Err(error) => Box::new(std::iter::once(Err(corrupt(error)))),
        }
    }
}

fn borrow(bound: &Bound<bytes::Bytes>) -> Bound<&[u8]> {
    bound.as_ref().map(|key| &key[..])
}

/// The numbers, not the pairs: there may be millions.
impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("numbers", &self.numbers).finish_non_exhaustive()
    }
}

struct Scan {
    pairs: Range<'static, &'static [u8], &'static [u8]>,
    table: Table,
    direction: Direction,
}

impl Iterator for Scan {
    type Item = ScanItem;

    fn next(&mut self) -> Option<ScanItem> {
        let pair = match self.direction {
            Direction::Forward => self.pairs.next()?,
            Direction::Reverse => self.pairs.next_back()?,
        };
        Some(pair.map_err(corrupt).and_then(|(key, stored)| {
            let value = record::decode_value(stored.value(), self.table, key.value())?;
            Ok((bytes::Bytes::copy_from_slice(key.value()), value))
        }))
    }
}

/// redb's errors in our words: the system's own ones stay what they are, everything else means that the file is not as it was
/// written.
pub(super) fn corrupt(error: impl Into<redb::Error>) -> EngineError {
    match error.into() {
        redb::Error::Io(error) if !is_of_damage(&error) => EngineError::Io(error),
        error @ redb::Error::PreviousIo => EngineError::Io(io::Error::other(error)),
        error => EngineError::Corrupt(error.to_string()),
    }
}

/// What reading a file that was cut, removed or overwritten ends in.
fn is_of_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | NotFound | UnexpectedEof)
}
