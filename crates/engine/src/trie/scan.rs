//! Walking a range of a tree, in either direction.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;

use super::node::Node;
use super::tree::shared_prefix_len;
use crate::{Direction, KeyRange};

/// The pairs of a range, found one at a time. Costs what is taken, plus the depth of the first and the last key.
pub(crate) struct Scan<'a> {
    direction: Direction,
    /// The far end, in the direction of the scan.
    stop: Bound<Bytes>,
    /// The nodes from the root to where the scan is.
    path: Vec<Frame<'a>>,
    /// The key of the last node on the path.
    key: Vec<u8>,
}

/// A node on the path.
struct Frame<'a> {
    node: &'a Node,
    /// Length of the parent's key.
    parent_key_len: usize,
    /// Whether the node's own value is still to come. It comes before the children, or after them in reverse.
    is_value_due: bool,
    /// Children from this byte on are still to come; in reverse, those before it.
    cursor: usize,
}

/// How the keys below a node lie to a bound.
enum Side<'a> {
    /// All before it.
    Before,
    /// All after it.
    After,
    /// The node's own key is the bound.
    Equal,
    /// The bound is somewhere below this edge, or would be; the rest of it follows.
    Below(u8, &'a [u8]),
}

impl<'a> Scan<'a> {
    pub(super) fn new(root: &'a Node, range: &KeyRange, direction: Direction) -> Self {
        let (near, stop) = match direction {
            Direction::Forward => (&range.start, &range.end),
            Direction::Reverse => (&range.end, &range.start),
        };
        let mut scan = Self { direction, stop: stop.clone(), path: Vec::new(), key: Vec::new() };
        match near {
            Bound::Unbounded => scan.push(None, root),
            Bound::Included(bound) => scan.seek(root, bound, true),
            Bound::Excluded(bound) => scan.seek(root, bound, false),
        }
        scan
    }

    /// Lays the path to the first key of the scan: at each node only what lies on the right side of the bound is due.
    fn seek(&mut self, root: &'a Node, bound: &[u8], is_included: bool) {
        let is_forward = self.direction == Direction::Forward;
        let (mut edge, mut node, mut rest) = (None, root, bound);
        loop {
            match side_of(node, rest) {
                Side::Before if is_forward => return,
                Side::After if !is_forward => return,
                Side::Before | Side::After => return self.push(edge, node),
                Side::Equal => return self.push_part(edge, node, is_included, 0),
                Side::Below(next, below) => {
                    let cursor = if is_forward { usize::from(next) + 1 } else { usize::from(next) };
                    self.push_part(edge, node, !is_forward, cursor);
                    let Some(child) = node.children.get(next) else { return };
                    (edge, node, rest) = (Some(next), child, below);
                }
            }
        }
    }

    /// Goes down to a node of which everything is due.
    fn push(&mut self, edge: Option<u8>, node: &'a Node) {
        let cursor = if self.direction == Direction::Forward { 0 } else { 256 };
        self.push_part(edge, node, true, cursor);
    }

    fn push_part(&mut self, edge: Option<u8>, node: &'a Node, is_value_due: bool, cursor: usize) {
        self.path.push(Frame { node, parent_key_len: self.key.len(), is_value_due, cursor });
        self.key.extend(edge);
        self.key.extend_from_slice(node.label());
    }

    /// The next pair, wherever the far end is.
    fn advance(&mut self) -> Option<(Bytes, Bytes)> {
        loop {
            let frame = self.path.last_mut()?;
            if self.direction == Direction::Forward && std::mem::take(&mut frame.is_value_due) {
                if let Some(value) = &frame.node.value {
                    return Some((Bytes::copy_from_slice(&self.key), value.clone()));
                }
            } else if let Some((edge, child)) = frame.next_child(self.direction) {
                self.push(Some(edge), child);
            } else if let Some(pair) = self.pop() {
                return Some(pair);
            }
        }
    }

    /// Leaves the last node; with its pair, if that was still due.
    fn pop(&mut self) -> Option<(Bytes, Bytes)> {
        let frame = self.path.pop()?;
        let value = frame.node.value.as_ref().filter(|_| frame.is_value_due);
        let pair = value.map(|value| (Bytes::copy_from_slice(&self.key), value.clone()));
        self.key.truncate(frame.parent_key_len);
        pair
    }

    fn is_before_stop(&self, key: &[u8]) -> bool {
        let (stop, is_included) = match &self.stop {
            Bound::Unbounded => return true,
            Bound::Included(stop) => (stop, true),
            Bound::Excluded(stop) => (stop, false),
        };
        match key.cmp(stop) {
            Ordering::Less => self.direction == Direction::Forward,
            Ordering::Equal => is_included,
            Ordering::Greater => self.direction == Direction::Reverse,
        }
    }
}

impl Iterator for Scan<'_> {
    type Item = (Bytes, Bytes);

    fn next(&mut self) -> Option<Self::Item> {
        let pair = self.advance()?;
        if !self.is_before_stop(&pair.0) {
            self.path.clear();
            return None;
        }
        Some(pair)
    }
}

impl<'a> Frame<'a> {
    fn next_child(&mut self, direction: Direction) -> Option<(u8, &'a Node)> {
        let found = match direction {
            Direction::Forward => self.node.children.first_from(self.cursor),
            Direction::Reverse => self.node.children.last_before(self.cursor),
        };
        let (edge, child) = found?;
        self.cursor = usize::from(edge) + usize::from(direction == Direction::Forward);
        Some((edge, child))
    }
}

/// Compares the keys of a node and below it with a bound, of which `rest` is what follows the edge that leads to the node.
fn side_of<'a>(node: &Node, rest: &'a [u8]) -> Side<'a> {
    let label = node.label();
    let shared_len = shared_prefix_len(label, rest);
    match (label.get(shared_len), rest[shared_len..].split_first()) {
        (None, None) => Side::Equal,
        (None, Some((edge, below))) => Side::Below(*edge, below),
        (Some(ours), Some((theirs, _))) if ours < theirs => Side::Before,
        (Some(_), _) => Side::After,
    }
}
