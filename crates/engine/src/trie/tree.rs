//! A persistent radix tree from byte strings to values.

use std::sync::Arc;

use bytes::Bytes;

use super::node::Node;
use super::scan::Scan;
use crate::{Direction, KeyRange};

/// A map from any bytes to values, in byte order. A clone costs one reference count and shares every node; a change copies
/// those nodes on its path that are shared, so of many changes between two clones only the first to touch a node copies it.
#[derive(Clone, Default)]
pub(crate) struct Tree {
    root: Arc<Node>,
}

impl Tree {
    /// Sets the value of a key and returns the one before.
    pub(crate) fn insert(&mut self, key: &[u8], value: Bytes) -> Option<Bytes> {
        let mut node = Arc::make_mut(&mut self.root);
        let mut rest = key;
        loop {
            let shared_len = shared_prefix_len(node.label(), rest);
            if shared_len < node.label().len() {
                node.split(shared_len);
            }
            let Some((edge, below)) = rest[shared_len..].split_first() else {
                return node.value.replace(value);
            };
            node = Arc::make_mut(node.children.get_or_insert_with(*edge, || Arc::new(Node::bare(below))));
            rest = below;
        }
    }

    /// Removes a key and returns its value. A key that is not there copies nothing.
    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Bytes> {
        self.get(key)?;
        let mut parent = Arc::make_mut(&mut self.root);
        let mut is_root = true;
        let mut rest = key;
        while let Some((edge, below)) = rest.split_first() {
            let child = parent.children.get(*edge).expect("the key was found on this path");
            rest = &below[child.label().len()..];
            if rest.is_empty() {
                return remove_child_value(parent, *edge, is_root);
            }
            parent = Arc::make_mut(parent.children.get_mut(*edge).expect("the key was found on this path"));
            is_root = false;
        }
        parent.value.take()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&Bytes> {
        let mut node = &*self.root;
        let mut rest = key;
        while let Some((edge, below)) = rest.split_first() {
            node = node.children.get(*edge)?;
            rest = below.strip_prefix(node.label())?;
        }
        node.value.as_ref()
    }

    pub(crate) fn scan(&self, range: &KeyRange, direction: Direction) -> Scan<'_> {
        Scan::new(&self.root, range, direction)
    }
}

/// Takes the value of the child at `edge`, and restores the shape of child and parent.
fn remove_child_value(parent: &mut Node, edge: u8, parent_is_root: bool) -> Option<Bytes> {
    let child = Arc::make_mut(parent.children.get_mut(edge)?);
    let value = child.value.take();
    if child.has_children() {
        child.merge_with_lone_child();
        return value;
    }
    parent.children.remove(edge);
    if !parent_is_root {
        parent.merge_with_lone_child();
    }
    value
}

pub(super) fn shared_prefix_len(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn tree_of(keys: &[&[u8]]) -> Tree {
        let mut tree = Tree::default();
        for key in keys {
            assert_eq!(tree.insert(key, Bytes::copy_from_slice(key)), None);
        }
        tree
    }

    fn content(tree: &Tree) -> Vec<Vec<u8>> {
        tree.scan(&KeyRange::all(), Direction::Forward).map(|(key, _)| key.to_vec()).collect()
    }

    /// Counts the nodes and checks every node's invariant.
    fn check_shape(tree: &Tree) -> usize {
        assert!(tree.root.label().is_empty(), "the root has a label");
        let mut pending: Vec<(&Node, bool)> = vec![(&tree.root, true)];
        let mut count = 0;
        while let Some((node, is_root)) = pending.pop() {
            count += 1;
            assert!(is_root || node.value.is_some() || node.children.len() >= 2, "a node leads nowhere");
            let next = |from| node.children.first_from(from);
            let children = std::iter::successors(next(0), |(byte, _)| next(usize::from(*byte) + 1));
            pending.extend(children.map(|(_, child)| (child, false)));
        }
        count
    }

    #[test]
    fn keys_may_be_prefixes_of_each_other() {
        let keys: [&[u8]; 7] = [b"", b"\0", b"\0\0", b"a", b"a\0", b"ab", b"abc"];
        let tree = tree_of(&keys);
        assert_eq!(content(&tree), keys.map(<[u8]>::to_vec));
        for key in keys {
            assert_eq!(tree.get(key).map(Bytes::as_ref), Some(key));
        }
        assert_eq!(tree.get(b"\0\0\0"), None);
        assert_eq!(tree.get(b"b"), None);
    }

    #[test]
    fn a_split_keeps_both_sides_and_a_removal_undoes_it() {
        let mut tree = tree_of(&[b"registry/services/a"]);
        assert_eq!(check_shape(&tree), 2);
        tree.insert(b"registry/sessions", Bytes::new());
        assert_eq!(check_shape(&tree), 4);
        assert_eq!(tree.remove(b"registry/sessions"), Some(Bytes::new()));
        assert_eq!(check_shape(&tree), 2);
        assert_eq!(content(&tree), [b"registry/services/a".to_vec()]);
    }

    #[test]
    fn removing_an_inner_value_merges_the_path() {
        let mut tree = tree_of(&[b"a", b"ab", b"abc"]);
        assert!(tree.remove(b"ab").is_some());
        assert_eq!(check_shape(&tree), 3);
        assert!(tree.remove(b"a").is_some());
        assert_eq!(check_shape(&tree), 2);
        assert_eq!(content(&tree), [b"abc".to_vec()]);
    }

    #[test]
    fn removing_an_absent_key_copies_nothing() {
        let mut tree = tree_of(&[b"ab", b"cd"]);
        let before = tree.clone();
        for key in [&b""[..], b"a", b"abc", b"x"] {
            assert_eq!(tree.remove(key), None);
        }
        assert!(Arc::ptr_eq(&before.root, &tree.root));
    }

    #[test]
    fn a_second_change_of_a_path_copies_nothing() {
        let mut tree = tree_of(&[b"path/one", b"path/two"]);
        let before = tree.clone();
        tree.insert(b"path/one", Bytes::from_static(b"1"));
        let copied = Arc::as_ptr(&tree.root);
        tree.insert(b"path/two", Bytes::from_static(b"2"));
        assert_eq!(Arc::as_ptr(&tree.root), copied);
        assert_eq!(before.get(b"path/one").unwrap().as_ref(), b"path/one");
    }

    #[test]
    fn keeps_its_shape_under_many_changes() {
        let mut tree = Tree::default();
        let mut model = BTreeMap::new();
        let mut state = 1_u32;
        for step in 0..20_000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key: Vec<u8> =
                (state >> 8).to_be_bytes()[1..].iter().take(1 + step as usize % 3).map(|byte| byte & 0x7f).collect();
            if step % 5 < 3 - step / 10_000 {
                let value = Bytes::from(step.to_be_bytes().to_vec());
                assert_eq!(tree.insert(&key, value.clone()), model.insert(key, value));
            } else {
                assert_eq!(tree.remove(&key), model.remove(&key));
            }
        }
        check_shape(&tree);
        assert_eq!(content(&tree), model.keys().cloned().collect::<Vec<_>>());
        for key in model.keys() {
            assert!(tree.remove(key).is_some());
        }
        assert_eq!(check_shape(&tree), 1);
    }

    /// Every second prefix of one long key: the deepest tree that a number of bytes can make.
    #[test]
    fn a_deep_chain_overflows_no_stack() {
        const DEPTH: usize = 2_000;
        let key = vec![0_u8; 2 * DEPTH];
        let mut tree = Tree::default();
        for len in (0..DEPTH).map(|at| 2 * at) {
            tree.insert(&key[..len], Bytes::new());
        }
        let copy = tree.clone();
        tree.remove(&key[..DEPTH]);
        assert_eq!(tree.scan(&KeyRange::all(), Direction::Reverse).count(), DEPTH - 1);
        let dropper = std::thread::Builder::new().stack_size(64 * 1024);
        dropper.spawn(move || drop((tree, copy))).unwrap().join().unwrap();
    }

    #[test]
    fn a_key_of_64_kib_works() {
        let long = vec![0xff_u8; 65_536];
        let mut tree = tree_of(&[&long, &long[..65_535], b"short"]);
        assert_eq!(content(&tree), [b"short".to_vec(), long[..65_535].to_vec(), long.clone()]);
        assert!(tree.remove(&long[..65_535]).is_some());
        assert!(tree.get(&long).is_some());
        assert_eq!(check_shape(&tree), 3);
    }
}
