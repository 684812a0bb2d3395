//! A summary by which two replicas find what differs.
//!
//! Keys are spread over leaves by the top bits of their hash. A leaf is the sum of a hash of each of its (key, version), each
//! node above the sum of its sixteen children. So a change costs one addition per level, in whatever order changes come, and
//! equal content has equal sums. Who can choose keys *and* versions could make sums meet; members of one cluster trust each
//! other.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};

use crate::message::Pair;
use crate::version::Version;

/// Children of a node.
pub(crate) const FAN_OUT: usize = 16;

/// Levels below the root, at most: 65,536 leaves, 1.1 MiB. A leaf of ten million keys holds about 150.
pub(crate) const MAX_LEVELS: u8 = 4;

/// The sum of what is in a part of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u128);

/// A node of the tree: its level, 0 for the root, and its place in the level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    /// 0 is the root.
    pub level: u8,
    /// From the left.
    pub index: u32,
}

impl Digest {
    /// The sum of both.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl Node {
    /// The whole tree.
    pub const ROOT: Self = Self { level: 0, index: 0 };
}

/// The sums of all nodes.
#[derive(Clone)]
pub(crate) struct Tree {
    seed: u64,
    /// By level; the last one has the leaves. Bare numbers: so the system gives zeros that take no memory until they change,
    /// and an empty keyspace has a cheap tree.
    levels: Vec<Vec<u128>>,
}

impl Tree {
    /// An empty tree. Replicas that are compared have the same seed and the same number of levels.
    pub(crate) fn new(seed: u64, levels: u8) -> Self {
        assert!((1..=MAX_LEVELS).contains(&levels), "a tree has 1 to {MAX_LEVELS} levels");
        let levels = (0..=u32::from(levels)).map(|level| vec![0_u128; FAN_OUT.pow(level)]).collect();
        Self { seed, levels }
    }

    /// The level of the leaves.
    pub(crate) fn leaf_level(&self) -> u8 {
        self.levels.len() as u8 - 1
    }

    /// A key's hash: it decides the leaf.
    pub(crate) fn key_hash(&self, key: &[u8]) -> u64 {
        SipHasher13::new_with_keys(self.seed, 0x6b65_7973_6b65_7973).hash(key)
    }

    /// The leaf of a key's hash.
    pub(crate) fn leaf_of(&self, key_hash: u64) -> u32 {
        (key_hash >> (64 - 4 * u32::from(self.leaf_level()))) as u32
    }

    /// The hashes of keys in a leaf: the first and the last.
    pub(crate) fn hashes_of(&self, leaf: u32) -> (u64, u64) {
        let shift = 64 - 4 * u32::from(self.leaf_level());
        let first = u64::from(leaf) << shift;
        (first, first | ((1_u64 << shift) - 1))
    }

    /// A key has another version than before.
    pub(crate) fn replace(&mut self, key_hash: u64, key: &[u8], old: Option<Version>, new: Option<Version>) {
        let minus = old.map_or(0, |version| self.hash(key, version));
        let plus = new.map_or(0, |version| self.hash(key, version));
        let change = plus.wrapping_sub(minus);
        let mut index = self.leaf_of(key_hash) as usize;
        for level in self.levels.iter_mut().rev() {
            level[index] = level[index].wrapping_add(change);
            index /= FAN_OUT;
        }
    }

    /// The sum of a node, if there is such a node.
    pub(crate) fn digest(&self, node: Node) -> Option<Digest> {
        self.levels.get(usize::from(node.level))?.get(node.index as usize).copied().map(Digest)
    }

    /// The sums of a node's children; none if it has none.
    pub(crate) fn children(&self, node: Node) -> Option<[Digest; FAN_OUT]> {
        let first = node.index as usize * FAN_OUT;
        let children = self.levels.get(usize::from(node.level) + 1)?.get(first..first + FAN_OUT)?;
        let children: [u128; FAN_OUT] = children.try_into().ok()?;
        Some(children.map(Digest))
    }

    /// The sum of pairs, as it would be if they were all that there is.
    pub(crate) fn sum_of(&self, pairs: &[Pair]) -> Digest {
        let sum = |pair: &Pair| Digest(self.hash(&pair.key, pair.entry.version));
        pairs.iter().map(sum).fold(Digest::default(), Digest::plus)
    }

    /// The tree of nothing, to be compared with this one; for tests.
    #[cfg(test)]
    pub(crate) fn emptied(&self) -> Self {
        Self::new(self.seed, self.leaf_level())
    }

    /// Whether all sums are the same; for tests.
    #[cfg(test)]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.levels == other.levels
    }

    fn hash(&self, key: &[u8], version: Version) -> u128 {
        let mut hasher = SipHasher128::new_with_keys(self.seed, 0x7061_6972_7061_6972);
        hasher.write(&version.to_bytes());
        hasher.write(key);
        hasher.finish128().as_u128()
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tree").field("root", &self.levels[0][0]).field("levels", &self.levels.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::version::{Hlc, InstanceId};

    fn version(n: u64) -> Version {
        Version { hlc: Hlc(n), instance: InstanceId(1) }
    }

    fn tree_of(pairs: &[(u8, u64)]) -> Tree {
        let mut tree = Tree::new(7, 2);
        pairs.iter().for_each(|(key, at)| set(&mut tree, *key, None, Some(version(*at))));
        tree
    }

    fn set(tree: &mut Tree, key: u8, old: Option<Version>, new: Option<Version>) {
        tree.replace(tree.key_hash(&[key]), &[key], old, new);
    }

    proptest! {
        #[test]
        fn the_order_of_changes_makes_no_difference(
            pairs in prop::collection::btree_map(any::<u8>(), 1..9_u64, 0..40),
            extra in any::<u8>(),
        ) {
            let mut pairs: Vec<_> = pairs.into_iter().collect();
            let tree = tree_of(&pairs);
            pairs.reverse();
            let mut again = tree_of(&pairs);
            prop_assert_eq!(&tree.levels, &again.levels);
            let has = pairs.iter().find(|(key, _)| *key == extra).map(|(_, at)| version(*at));
            set(&mut again, extra, has, Some(version(99)));
            prop_assert_ne!(tree.digest(Node::ROOT), again.digest(Node::ROOT));
            set(&mut again, extra, Some(version(99)), has);
            prop_assert_eq!(&tree.levels, &again.levels);
        }
    }

    #[test]
    fn a_node_is_the_sum_of_its_children() {
        let tree = tree_of(&[(1, 1), (2, 2), (3, 3), (200, 4)]);
        let sum = |node| tree.children(node).unwrap().iter().fold(0_u128, |sum, child| sum.wrapping_add(child.0));
        assert_eq!(tree.digest(Node::ROOT).unwrap().0, sum(Node::ROOT));
        for index in 0..16 {
            let node = Node { level: 1, index };
            assert_eq!(tree.digest(node).unwrap().0, sum(node));
        }
        assert!(tree.children(Node { level: 2, index: 0 }).is_none(), "leaves have no children");
        assert!(tree.digest(Node { level: 1, index: 16 }).is_none() && tree.digest(Node { level: 9, index: 0 }).is_none());
    }

    #[test]
    fn a_leaf_has_the_hashes_that_lead_to_it() {
        for levels in 1..=MAX_LEVELS {
            let tree = Tree::new(1, levels);
            for leaf in [0, 1, (1 << (4 * u32::from(levels))) - 1] {
                let (first, last) = tree.hashes_of(leaf);
                assert_eq!((tree.leaf_of(first), tree.leaf_of(last)), (leaf, leaf));
                assert!(first == 0 || tree.leaf_of(first - 1) == leaf - 1);
            }
        }
    }
}
