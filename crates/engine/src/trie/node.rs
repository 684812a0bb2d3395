//! One node of a tree, and what keeps a tree in shape: splitting and merging.

use std::sync::Arc;

use bytes::Bytes;

use super::children::Children;
use super::label::Label;

/// A key is the labels and edges from the root to the node that has its value. Shared by all trees that contain it; a
/// writer changes only nodes that it alone holds, and copies the others (`Arc::make_mut`).
///
/// Invariants: every node but the root has a value or at least two children; the root's label is empty.
#[derive(Clone)]
pub(super) struct Node {
    label: Label,
    pub(super) value: Option<Bytes>,
    pub(super) children: Children,
}

impl Default for Node {
    fn default() -> Self {
        Self { label: Label::EMPTY, value: None, children: Children::default() }
    }
}

impl Node {
    /// A node with nothing below it, and no value yet.
    pub(super) fn bare(label: &[u8]) -> Self {
        Self { label: Label::new(label), value: None, children: Children::default() }
    }

    /// The bytes between the edge that leads here and this node.
    pub(super) fn label(&self) -> &[u8] {
        self.label.as_slice()
    }

    pub(super) fn has_children(&self) -> bool {
        !self.children.is_empty()
    }

    /// Cuts the label after its first `len` bytes: this node becomes the upper part, without a value, and what it was goes
    /// below it.
    pub(super) fn split(&mut self, len: usize) {
        let (upper, lower) = self.label().split_at(len);
        let (edge, rest) = lower.split_first().expect("a node is split within its label");
        let (edge, upper, rest) = (*edge, Label::new(upper), Label::new(rest));
        let below = Self { label: rest, value: self.value.take(), children: std::mem::take(&mut self.children) };
        self.label = upper;
        self.children = Children::one(edge, Arc::new(below));
    }

    /// Restores the invariant after this node lost its value or a child: one that only leads to a single child takes that
    /// child's place. Not for the root.
    pub(super) fn merge_with_lone_child(&mut self) {
        if self.value.is_some() {
            return;
        }
        let Some((edge, child)) = self.children.take_only() else {
            return;
        };
        let mut child = Arc::unwrap_or_clone(child);
        self.label = Label::joined(self.label(), edge, child.label());
        self.value = child.value.take();
        self.children = std::mem::take(&mut child.children);
    }
}

/// Without recursion: a chain of nodes may be as long as the longest key has bytes.
impl Drop for Node {
    fn drop(&mut self) {
        let mut orphans = Vec::new();
        std::mem::take(&mut self.children).release(&mut orphans);
        while let Some(mut node) = orphans.pop() {
            std::mem::take(&mut node.children).release(&mut orphans);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_an_allocation_of_96_bytes() {
        let counts = 2 * size_of::<usize>();
        let allocator_header = size_of::<usize>();
        assert!(size_of::<Node>() + counts + allocator_header <= 96, "a node takes {} bytes", size_of::<Node>());
    }
}
