//! The children of a node, by the byte that leads to each.

use std::sync::Arc;

use super::node::Node;
use crate::release::freeing;

/// Above this many, children are kept in groups. A copied node costs one reference count per child; a group that is mostly
/// empty costs memory.
const MAX_FEW_COUNT: usize = 48;

/// Below this many, grouped children go back into one list. Well under [`MAX_FEW_COUNT`], so that a node at the border does
/// not change its form with every write.
const MIN_MANY_COUNT: usize = 32;

const _: () = assert!(MIN_MANY_COUNT < MAX_FEW_COUNT);

const GROUP_COUNT: usize = 16;
const GROUP_LEN: usize = 256 / GROUP_COUNT;

/// A map from byte to child, ordered. Takes 16 bytes, and no allocation while it is empty.
#[derive(Clone)]
pub(super) enum Children {
    /// At most [`MAX_FEW_COUNT`], sorted by byte.
    Few(Box<[Edge]>),
    /// At least [`MIN_MANY_COUNT`].
    Many(Box<Groups>),
}

/// A child, and the byte that leads to it.
#[derive(Clone)]
pub(super) struct Edge {
    byte: u8,
    node: Arc<Node>,
}

/// Children by the upper half of their byte, then by the lower. Shared groups make a copy of a full node cost 32 reference
/// counts rather than 256: the groups, and the children of the one group that changes.
#[derive(Clone, Default)]
pub(super) struct Groups {
    /// Children in all groups.
    len: usize,
    groups: [Option<Arc<Group>>; GROUP_COUNT],
}

type Group = [Option<Arc<Node>>; GROUP_LEN];

impl Default for Children {
    fn default() -> Self {
        Self::Few(Box::default())
    }
}

impl Children {
    /// One child.
    pub(super) fn one(byte: u8, node: Arc<Node>) -> Self {
        Self::Few(Box::new([Edge { byte, node }]))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(edges) => edges.len(),
            Self::Many(groups) => groups.len,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn get(&self, byte: u8) -> Option<&Node> {
        match self {
            Self::Few(edges) => position(edges, byte).ok().map(|at| &*edges[at].node),
            Self::Many(groups) => groups.get(byte),
        }
    }

    pub(super) fn get_mut(&mut self, byte: u8) -> Option<&mut Arc<Node>> {
        match self {
            Self::Few(edges) => position(edges, byte).ok().map(|at| &mut edges[at].node),
            Self::Many(groups) => groups.get_mut(byte),
        }
    }

    /// The child at `byte`, put there first if there is none.
    pub(super) fn get_or_insert_with(&mut self, byte: u8, make: impl FnOnce() -> Arc<Node>) -> &mut Arc<Node> {
        if let Self::Few(edges) = self
            && edges.len() == MAX_FEW_COUNT
            && position(edges, byte).is_err()
        {
            *self = Self::Many(Box::new(Groups::from_edges(std::mem::take(edges))));
        }
        match self {
            Self::Few(edges) => {
                let at = position(edges, byte).unwrap_or_else(|at| {
                    insert_edge(edges, at, Edge { byte, node: make() });
                    at
                });
                &mut edges[at].node
            }
            Self::Many(groups) => groups.get_or_insert_with(byte, make),
        }
    }

    /// Takes the child at `byte` out.
    pub(super) fn remove(&mut self, byte: u8) -> Option<Arc<Node>> {
        match self {
            Self::Few(edges) => position(edges, byte).ok().map(|at| remove_edge(edges, at).node),
            Self::Many(groups) => {
                let removed = groups.remove(byte);
                if groups.len < MIN_MANY_COUNT {
                    *self = Self::Few(groups.to_edges());
                }
                removed
            }
        }
    }

    /// Takes the child out, with its byte, if there is exactly one.
    pub(super) fn take_only(&mut self) -> Option<(u8, Arc<Node>)> {
        match self {
            Self::Few(edges) if edges.len() == 1 => {
                let edge = remove_edge(edges, 0);
                Some((edge.byte, edge.node))
            }
            _ => None,
        }
    }

    /// The first child at `from` or after it.
    pub(super) fn first_from(&self, from: usize) -> Option<(u8, &Node)> {
        match self {
            Self::Few(edges) => edges[edges.partition_point(|edge| usize::from(edge.byte) < from)..].first().map(Edge::as_pair),
            Self::Many(groups) => groups.first_from(from),
        }
    }

    /// The last child before `end`.
    pub(super) fn last_before(&self, end: usize) -> Option<(u8, &Node)> {
        match self {
            Self::Few(edges) => edges[..edges.partition_point(|edge| usize::from(edge.byte) < end)].last().map(Edge::as_pair),
            Self::Many(groups) => groups.last_before(end),
        }
    }

    /// Lets go of all children and adds to `orphans` those that nobody else holds and that have children themselves.
    ///
    /// Of several threads that let go of the same child at once, exactly one gets it: no child's own drop finds work.
    pub(super) fn release(self, orphans: &mut Vec<Node>) {
        let mut release = |node: Arc<Node>| {
            freeing(1);
            orphans.extend(Arc::into_inner(node).filter(Node::has_children));
        };
        match self {
            Self::Few(edges) => edges.into_iter().for_each(|edge| release(edge.node)),
            Self::Many(groups) => groups
                .groups
                .into_iter()
                .flatten()
                .filter_map(Arc::into_inner)
                .for_each(|group| group.into_iter().flatten().for_each(&mut release)),
        }
    }
}

impl Edge {
    fn as_pair(&self) -> (u8, &Node) {
        (self.byte, &self.node)
    }
}

impl Groups {
    fn from_edges(edges: Box<[Edge]>) -> Self {
        let mut groups = Self::default();
        for edge in edges {
            groups.get_or_insert_with(edge.byte, || edge.node);
        }
        groups
    }

    fn to_edges(&self) -> Box<[Edge]> {
        let mut edges = Vec::with_capacity(self.len);
        for (upper, group) in self.groups.iter().enumerate() {
            for (lower, node) in group.iter().flat_map(|group| group.iter()).enumerate() {
                edges.extend(node.clone().map(|node| Edge { byte: join(upper, lower), node }));
            }
        }
        edges.into_boxed_slice()
    }

    fn get(&self, byte: u8) -> Option<&Node> {
        let (upper, lower) = split(byte);
        self.groups[upper].as_ref()?[lower].as_deref()
    }

    fn get_mut(&mut self, byte: u8) -> Option<&mut Arc<Node>> {
        let (upper, lower) = split(byte);
        Arc::make_mut(self.groups[upper].as_mut()?)[lower].as_mut()
    }

    fn get_or_insert_with(&mut self, byte: u8, make: impl FnOnce() -> Arc<Node>) -> &mut Arc<Node> {
        let (upper, lower) = split(byte);
        let group = Arc::make_mut(self.groups[upper].get_or_insert_default());
        group[lower].get_or_insert_with(|| {
            self.len += 1;
            make()
        })
    }

    fn remove(&mut self, byte: u8) -> Option<Arc<Node>> {
        let (upper, lower) = split(byte);
        let group = Arc::make_mut(self.groups[upper].as_mut()?);
        let removed = group[lower].take()?;
        if group.iter().all(Option::is_none) {
            self.groups[upper] = None;
        }
        self.len -= 1;
        Some(removed)
    }

    fn first_from(&self, from: usize) -> Option<(u8, &Node)> {
        let (first, mut lower) = (from / GROUP_LEN, from % GROUP_LEN);
        for (upper, group) in self.groups.iter().enumerate().skip(first) {
            let mut slots = group.iter().flat_map(|group| group.iter()).enumerate().skip(lower);
            if let Some(found) = slots.find_map(|(lower, node)| Some((join(upper, lower), node.as_deref()?))) {
                return Some(found);
            }
            lower = 0;
        }
        None
    }

    fn last_before(&self, end: usize) -> Option<(u8, &Node)> {
        for (upper, group) in self.groups.iter().enumerate().take(end.div_ceil(GROUP_LEN)).rev() {
            let Some(group) = group else { continue };
            let mut slots = group.iter().enumerate().take(end - upper * GROUP_LEN).rev();
            if let Some(found) = slots.find_map(|(lower, node)| Some((join(upper, lower), node.as_deref()?))) {
                return Some(found);
            }
        }
        None
    }
}

/// Where `byte` is, or where it belongs.
fn position(edges: &[Edge], byte: u8) -> Result<usize, usize> {
    edges.binary_search_by_key(&byte, |edge| edge.byte)
}

fn insert_edge(edges: &mut Box<[Edge]>, at: usize, edge: Edge) {
    let mut list = std::mem::take(edges).into_vec();
    list.reserve_exact(1);
    list.insert(at, edge);
    *edges = list.into_boxed_slice();
}

fn remove_edge(edges: &mut Box<[Edge]>, at: usize) -> Edge {
    let mut list = std::mem::take(edges).into_vec();
    let edge = list.remove(at);
    *edges = list.into_boxed_slice();
    edge
}

fn split(byte: u8) -> (usize, usize) {
    (usize::from(byte) / GROUP_LEN, usize::from(byte) % GROUP_LEN)
}

fn join(upper: usize, lower: usize) -> u8 {
    (upper * GROUP_LEN + lower) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bytes: impl IntoIterator<Item = u8>) -> Children {
        let mut children = Children::default();
        for byte in bytes {
            children.get_or_insert_with(byte, || Arc::new(Node::bare(&[byte])));
        }
        children
    }

    fn forward(children: &Children) -> Vec<u8> {
        let next = |from: usize| children.first_from(from).map(|(byte, _)| byte);
        std::iter::successors(next(0), |byte| next(usize::from(*byte) + 1)).collect()
    }

    fn reverse(children: &Children) -> Vec<u8> {
        let next = |end: usize| children.last_before(end).map(|(byte, _)| byte);
        std::iter::successors(next(256), |byte| next(usize::from(*byte))).collect()
    }

    fn assert_holds(children: &Children, expected: &[u8]) {
        assert_eq!(children.len(), expected.len());
        assert_eq!(forward(children), expected);
        assert_eq!(reverse(children), expected.iter().rev().copied().collect::<Vec<_>>());
        for byte in 0..=255 {
            let found = children.get(byte).map(|node| node.label().to_vec());
            assert_eq!(found, expected.contains(&byte).then(|| vec![byte]));
        }
    }

    #[test]
    fn grows_and_shrinks_through_all_forms() {
        let scattered: Vec<u8> = (0..=255_u8).map(|at| at.wrapping_mul(167)).collect();
        let mut children = Children::default();
        let mut expected = Vec::new();
        for byte in &scattered {
            children.get_or_insert_with(*byte, || Arc::new(Node::bare(&[*byte])));
            expected.push(*byte);
            expected.sort_unstable();
            assert_holds(&children, &expected);
            assert_eq!(matches!(children, Children::Many(_)), expected.len() > MAX_FEW_COUNT);
        }
        for byte in scattered {
            assert!(children.remove(byte).is_some());
            assert!(children.remove(byte).is_none());
            expected.retain(|other| *other != byte);
            assert_holds(&children, &expected);
            assert_eq!(matches!(children, Children::Many(_)), expected.len() >= MIN_MANY_COUNT);
        }
    }

    #[test]
    fn a_copy_is_independent() {
        for count in [3, 200] {
            let original = filled(0..count);
            let mut copy = original.clone();
            copy.remove(1);
            copy.get_or_insert_with(250, || Arc::new(Node::bare(&[250])));
            assert_holds(&original, &(0..count).collect::<Vec<_>>());
            assert_holds(&copy, &(0..count).filter(|byte| *byte != 1).chain([250]).collect::<Vec<_>>());
        }
    }

    #[test]
    fn takes_only_a_lone_child() {
        assert!(filled([]).take_only().is_none());
        assert!(filled([1, 2]).take_only().is_none());
        let mut lone = filled([7]);
        assert_eq!(lone.take_only().map(|(byte, _)| byte), Some(7));
        assert!(lone.is_empty());
    }
}
