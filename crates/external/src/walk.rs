//! Lists names in order out of folders that are read in no order.
//!
//! Of each folder only the smallest children are kept that a page can need; a folder with more is read again for the next page.
//! So a page costs memory for itself, and time for the folders that it touches.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

use crate::key_encoding::{OWN_PREFIX, folder_piece};
use crate::objects::{Listing, Names};
use crate::{Answer, KeyEncoding};

/// Something with folders in it.
pub(crate) trait Folders: Send + Sync {
    /// Offers every child of a folder to `children` and gives it back; the root is the empty path. Nothing is offered if there
    /// is no such folder.
    fn children(&self, folder: String, children: Smallest) -> Answer<'_, Smallest>;
}

/// A folder, or an object in one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Child {
    /// An object's name; of a folder, what the names of all objects in it begin with.
    name: String,
    is_folder: bool,
    /// Where it lies.
    path: String,
}

impl Child {
    fn root() -> Self {
        Self { name: String::new(), is_folder: true, path: String::new() }
    }
}

impl Ord for Child {
    /// As the names in it sort.
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.name, self.is_folder, &self.path).cmp(&(&other.name, other.is_folder, &other.path))
    }
}

impl PartialOrd for Child {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The smallest children of a folder, out of all that it is offered.
#[derive(Debug)]
pub(crate) struct Smallest {
    keys: KeyEncoding,
    folder: Child,
    prefix: String,
    after: Option<String>,
    /// Children up to this one were dealt with.
    after_child: Option<Child>,
    max: usize,
    kept: BinaryHeap<Child>,
    is_cut: bool,
}

impl Smallest {
    fn of(keys: KeyEncoding, folder: Child, listing: &Listing, after_child: Option<Child>, max: usize) -> Self {
        let (prefix, after) = (listing.prefix.clone(), listing.after.clone());
        Self { keys, folder, prefix, after, after_child, max, kept: BinaryHeap::new(), is_cut: false }
    }

    /// Looks at one more child, by its name in the folder.
    pub(crate) fn offer(&mut self, name: &str, is_folder: bool) {
        let Some(child) = self.child(name, is_folder) else {
            return;
        };
        if !self.is_wanted(&child) {
            return;
        }
        self.kept.push(child);
        if self.kept.len() > self.max {
            self.kept.pop();
            self.is_cut = true;
        }
    }

    fn child(&self, name: &str, is_folder: bool) -> Option<Child> {
        if name.starts_with(OWN_PREFIX) {
            return None;
        }
        let path = if self.folder.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.folder.path) };
        let name = match (self.keys, is_folder) {
            (KeyEncoding::Bytes, true) => format!("{}{}", self.folder.name, folder_piece(name)?),
            (KeyEncoding::Path, true) => format!("{}{name}/", self.folder.name),
            (_, false) => format!("{}{name}", self.folder.name),
        };
        Some(Child { name, is_folder, path })
    }

    fn is_wanted(&self, child: &Child) -> bool {
        let may_have_prefix = child.name.starts_with(&self.prefix) || child.is_folder && self.prefix.starts_with(&child.name);
        let may_be_after = match &self.after {
            Some(after) => child.name > *after || child.is_folder && after.starts_with(&child.name),
            None => true,
        };
        may_have_prefix && may_be_after && self.after_child.as_ref().is_none_or(|last| child > last)
    }
}

/// The children of a folder that are still to be dealt with.
struct Level {
    folder: Child,
    children: VecDeque<Child>,
    /// Where to read it again from, if it has more.
    more_after: Option<Child>,
}

/// Names out of folders.
pub(crate) async fn walk(folders: &dyn Folders, keys: KeyEncoding, listing: &Listing) -> Result<Names, crate::StoreError> {
    let read = async |folder: Child, after_child: Option<Child>, max: usize| {
        let smallest = Smallest::of(keys, folder.clone(), listing, after_child, max);
        let smallest = folders.children(folder.path.clone(), smallest).await?;
        let children = VecDeque::from(smallest.kept.into_sorted_vec());
        let more_after = if smallest.is_cut { children.back().cloned() } else { None };
        Ok(Level { folder, children, more_after })
    };
    let mut names = Vec::new();
    let mut levels = vec![read(Child::root(), None, listing.max_names).await?];
    while let Some(level) = levels.last_mut() {
        let wanted = listing.max_names - names.len();
        match level.children.pop_front() {
            Some(child) if child.is_folder => levels.push(read(child, None, wanted).await?),
            Some(child) => names.push(child.name),
            None => match level.more_after.take() {
                Some(last) => *level = read(level.folder.clone(), Some(last), wanted).await?,
                None => drop(levels.pop()),
            },
        }
        if names.len() == listing.max_names {
            let next = names.last().cloned();
            return Ok(Names { names, next });
        }
    }
    Ok(Names { names, next: None })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::key_encoding::split_name;

    /// Folders as a set of paths.
    struct Paths(BTreeSet<String>);

    impl Folders for Paths {
        fn children(&self, folder: String, mut children: Smallest) -> Answer<'_, Smallest> {
            let inside = if folder.is_empty() { folder } else { folder + "/" };
            let mut found = BTreeMap::new();
            for rest in self.0.iter().filter_map(|path| path.strip_prefix(&inside)) {
                match rest.split_once('/') {
                    Some((folder, _)) => found.insert(folder.to_owned(), true),
                    None => found.insert(rest.to_owned(), false),
                };
            }
            // Not in order: from both ends.
            let found: Vec<_> = found.into_iter().collect();
            for (name, is_folder) in found.iter().rev().step_by(2).chain(found.iter().rev().skip(1).step_by(2)) {
                children.offer(name, *is_folder);
            }
            Box::pin(std::future::ready(Ok(children)))
        }
    }

    fn all(folders: &Paths, keys: KeyEncoding, prefix: &str, max_names: usize) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (mut names, mut after) = (Vec::new(), None);
        for _ in 0..1000 {
            let listing = Listing { prefix: prefix.to_owned(), after, max_names };
            let page = runtime.block_on(walk(folders, keys, &listing)).unwrap();
            assert!(page.names.len() <= max_names);
            names.extend(page.names);
            after = page.next;
            if after.is_none() {
                return names;
            }
        }
        panic!("the pages have no end");
    }

    proptest! {
        #[test]
        fn paths_come_once_and_in_order(
            paths in btree_set("[ab.0]{1,2}(/[ab.0]{1,2}){0,2}", 0..40),
            prefix in "[ab/]{0,3}",
            max in 1..7_usize,
        ) {
            // A file is no folder.
            let paths: BTreeSet<String> =
                paths.iter().filter(|path| !paths.iter().any(|other| other.starts_with(&format!("{path}/")))).cloned().collect();
            let expected: Vec<_> = paths.iter().filter(|path| path.starts_with(&prefix)).cloned().collect();
            prop_assert_eq!(all(&Paths(paths), KeyEncoding::Path, &prefix, max), expected);
        }

        #[test]
        fn split_names_come_once_and_in_order(keys in vec((any::<u8>(), 0..300_usize, any::<u8>()), 0..30), max in 1..7_usize) {
            let name = |(first, len, last): (u8, usize, u8)| {
                let key = [vec![first % 3; len], vec![last % 4]].concat();
                KeyEncoding::Bytes.encode(&key).unwrap()
            };
            let names: BTreeSet<String> = keys.into_iter().map(name).collect();
            let folders = Paths(names.iter().map(|name| split_name(name)).collect());
            prop_assert_eq!(all(&folders, KeyEncoding::Bytes, "", max), names.into_iter().collect::<Vec<_>>());
        }
    }
}
