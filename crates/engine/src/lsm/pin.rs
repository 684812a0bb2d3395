//! The files and memtables of a tree at one moment, and how they are read without the tree's locks.
//!
//! lsm-tree's own reads take a lock that it also holds while it syncs a new list of files. Here a reader holds that moment's
//! list itself, so no flush or merge holds it up. For this the module uses parts of lsm-tree that its documentation hides;
//! nothing else does, and the dependency is pinned to the version that was read.

use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use lsm_tree::table::filter::standard_bloom::Builder as Bloom;
use lsm_tree::{AbstractTree as _, InternalValue, Memtable, SeqNo, Slice, Tree};

type ReadRange = Box<dyn Fn(Bounds<'_>, SeqNo) -> Pairs + Send + Sync>;
type Found = lsm_tree::Result<Option<InternalValue>>;
type Pairs = Box<dyn DoubleEndedIterator<Item = lsm_tree::Result<InternalValue>> + Send>;
type ReadFiles = Box<dyn Fn(&[u8], SeqNo) -> Found + Send + Sync>;
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// What a tree consisted of at one moment. Writes go on into its youngest memtable, as long as it is that; who reads says up
/// to which sequence number.
pub(super) struct Pin {
    /// The youngest memtable, to be written to.
    pub(super) active: Arc<Memtable>,
    /// Full ones that no file holds for certain, the oldest first.
    sealed: Vec<Arc<Memtable>>,
    /// Counts the lists of files of this tree.
    pub(super) list: u64,
    /// Runs of files in level 0: each of them may have to be asked for a key.
    pub(super) l0_runs: usize,
    /// Bytes of all files.
    pub(super) file_bytes: u64,
    in_files: ReadFiles,
    range: ReadRange,
}

impl Pin {
    /// The tree as it is. Memtables must not be rotated meanwhile; `sealed` may hold some that are in files already.
    pub(super) fn of(tree: &Tree, sealed: Vec<Arc<Memtable>>) -> Self {
        // One call tells the files, another one all the rest. The files did not change in between if their list did not.
        let (super_version, files) = loop {
            let before = tree.current_version();
            let super_version = tree.get_version_history_lock().latest_version();
            let after = tree.current_version();
            if before.id() == after.id() {
                break (super_version, after);
            }
        };
        let active = Arc::clone(&super_version.active_memtable);
        let (list, l0_runs) = (files.id(), files.l0().run_count());
        let file_bytes = tree.disk_space();
        let in_files = Box::new(move |key: &[u8], end: SeqNo| {
            let hash = Bloom::get_hash(key);
            for run in files.iter_levels().flat_map(|level| level.iter()) {
                if let Some(table) = run.get_for_key(key)
                    && let Some(found) = table.get(key, end, hash)?
                {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        });
        let range = Box::new(move |bounds: Bounds<'_>, end: SeqNo| -> Pairs {
            Box::new(Tree::create_internal_range::<&[u8], _>(super_version.clone(), &bounds, end, None))
        });
        Self { active, sealed, list, l0_runs, file_bytes, in_files, range }
    }

    /// The value that was written last below this sequence number.
    pub(super) fn get(&self, key: &[u8], end: SeqNo) -> lsm_tree::Result<Option<Slice>> {
        let in_memory = std::iter::once(&self.active).chain(self.sealed.iter().rev()).find_map(|table| table.get(key, end));
        let found = match in_memory {
            Some(found) => Some(found),
            None => (self.in_files)(key, end)?,
        };
        Ok(found.filter(|found| !found.is_tombstone()).map(|found| found.value))
    }

    /// The pairs of a range that were written last below this sequence number.
    pub(super) fn range(&self, bounds: Bounds<'_>, end: SeqNo) -> Pairs {
        (self.range)(bounds, end)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { sealed, l0_runs, file_bytes, .. } = self;
        f.debug_struct("Pin")
            .field("sealed", &sealed.len())
            .field("l0_runs", l0_runs)
            .field("file_bytes", file_bytes)
            .finish_non_exhaustive()
    }
}
