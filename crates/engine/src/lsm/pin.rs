//! The files and memtables of a tree at one moment, and how they are read without the tree's locks.
//!
//! lsm-tree's own reads take a lock that it also holds while it syncs a new list of files. Here a reader holds that moment's
//! list itself, so no flush or merge holds it up. For this the module uses parts of lsm-tree that its documentation hides;
//! nothing else does, and the dependency is pinned to the version that was read.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use lsm_tree::{AbstractTree as _, InternalValue, Memtable, SeqNo, Slice, Table, TableId, Tree};

use super::buffer::{Buffer, KeyFilter, Question, shared_filter};
use super::fences::Fences;

type ReadRange = Box<dyn Fn(Bounds<'_>, SeqNo) -> Pairs + Send + Sync>;
type Found = lsm_tree::Result<Option<InternalValue>>;
type Pairs = Box<dyn DoubleEndedIterator<Item = lsm_tree::Result<InternalValue>> + Send>;
type ReadFiles = Box<dyn Fn(&[u8], u64, SeqNo) -> Found + Send + Sync>;
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Full memtables, and what is still known of those that are files now.
#[derive(Debug, Default)]
pub(super) struct Full {
    /// What no file holds for certain, the oldest first.
    pub(super) sealed: Vec<Arc<Buffer>>,
    /// By files of level 0.
    pub(super) l0_filters: BTreeMap<TableId, Arc<KeyFilter>>,
}

/// What a tree consisted of at one moment. Writes go on into its youngest memtable, as long as it is that; who reads says up
/// to which sequence number.
pub(super) struct Pin {
    /// The youngest memtable, to be written to.
    pub(super) active: Arc<Buffer>,
    /// Full ones that no file holds for certain, the oldest first.
    sealed: Vec<Arc<Buffer>>,
    /// Counts the lists of files of this tree.
    pub(super) list: u64,
    /// Runs of files in level 0: each of them may have to be asked for a key.
    pub(super) l0_runs: usize,
    l0_files: Vec<TableId>,
    /// Bytes of all files.
    pub(super) file_bytes: u64,
    in_files: ReadFiles,
    range: ReadRange,
}

impl Pin {
    /// The tree as it is. Memtables must not be rotated meanwhile. `active` is around the youngest one; `full` may hold some that
    /// are in files already.
    pub(super) fn of(tree: &Tree, active: impl FnOnce(Arc<Memtable>) -> Arc<Buffer>, full: Full) -> Self {
        // One call tells the files, another one all the rest. The files did not change in between if their list did not.
        let (super_version, files) = loop {
            let before = tree.current_version();
            let super_version = tree.get_version_history_lock().latest_version();
            let after = tree.current_version();
            if before.id() == after.id() {
                break (super_version, after);
            }
        };
        let active = active(Arc::clone(&super_version.active_memtable));
        let (list, l0_runs) = (files.id(), files.l0().run_count());
        let file_bytes = tree.disk_space();
        let filter_of = |run: &[Table]| shared_filter(run.iter().map(|file| full.l0_filters.get(&file.id()))).cloned();
        let l0_filters: Vec<Option<Arc<KeyFilter>>> = files.l0().iter().map(|run| filter_of(run)).collect();
        let l0_files = files.l0().list_ids().into_iter().collect();
        let runs = files.iter_levels().flat_map(|level| level.iter()).cloned();
        let runs: Vec<_> = runs.map(|run| (Fences::of(run.iter().map(greatest_key)), run)).collect();
        let in_files = Box::new(move |key: &[u8], hash: u64, end: SeqNo| {
            let mut question = Question::about(hash);
            let filters = l0_filters.iter().map(Option::as_ref).chain(std::iter::repeat(None));
            for ((fences, run), filter) in runs.iter().zip(filters) {
                if question.may_be_in(filter)
                    && let Some(file) = run.get(fences.first_not_below(key, |place| greatest_key(&run[place])))
                    && let Some(found) = file.get(key, end, hash)?
                {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        });
        let range = Box::new(move |bounds: Bounds<'_>, end: SeqNo| -> Pairs {
            Box::new(Tree::create_internal_range::<&[u8], _>(super_version.clone(), &bounds, end, None))
        });
        Self { active, sealed: full.sealed, list, l0_runs, l0_files, file_bytes, in_files, range }
    }

    /// The value that was written last below this sequence number, of a key with this [`key_hash`](super::buffer::key_hash).
    pub(super) fn get(&self, key: &[u8], hash: u64, end: SeqNo) -> lsm_tree::Result<Option<Slice>> {
        let mut question = Question::about(hash);
        let mut in_memory = std::iter::once(&self.active).chain(self.sealed.iter().rev());
        let in_memory = in_memory.find_map(|buffer| question.may_be_in(buffer.filter()).then(|| buffer.get(key, end))?);
        let found = match in_memory {
            Some(found) => Some(found),
            None => (self.in_files)(key, hash, end)?,
        };
        Ok(found.filter(|found| !found.is_tombstone()).map(|found| found.value))
    }

    /// Whether this file is in level 0.
    pub(super) fn is_in_l0(&self, file: TableId) -> bool {
        self.l0_files.contains(&file)
    }

    /// The pairs of a range that were written last below this sequence number.
    pub(super) fn range(&self, bounds: Bounds<'_>, end: SeqNo) -> Pairs {
        (self.range)(bounds, end)
    }
}

fn greatest_key(file: &Table) -> &[u8] {
    file.metadata.key_range.max()
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
