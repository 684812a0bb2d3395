//! The bytes on the way from a node's parent to the node.

use std::fmt;
use std::sync::Arc;

/// As many bytes as fit beside the length in the space that a pointer, a length and a tag take anyway.
const MAX_INLINE_BYTES: usize = 22;

/// An immutable byte string, cheap to clone: short ones are copied, long ones are shared. Takes 24 bytes.
#[derive(Clone)]
pub(super) enum Label {
    /// The first `len` of `bytes`.
    Inline { len: u8, bytes: [u8; MAX_INLINE_BYTES] },
    /// More than [`MAX_INLINE_BYTES`].
    Shared(Arc<[u8]>),
}

impl Label {
    pub(super) const EMPTY: Self = Self::Inline { len: 0, bytes: [0; MAX_INLINE_BYTES] };

    pub(super) fn new(source: &[u8]) -> Self {
        if source.len() > MAX_INLINE_BYTES {
            return Self::Shared(source.into());
        }
        let mut bytes = [0; MAX_INLINE_BYTES];
        bytes[..source.len()].copy_from_slice(source);
        Self::Inline { len: source.len() as u8, bytes }
    }

    /// The label of a node that takes its parent's place: what led to the parent, the edge between, what led to the child.
    pub(super) fn joined(parent: &[u8], edge: u8, child: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(parent.len() + 1 + child.len());
        bytes.extend_from_slice(parent);
        bytes.push(edge);
        bytes.extend_from_slice(child);
        Self::new(&bytes)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_slice().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_it_was_given_at_every_length() {
        for len in [0, 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, 65_536] {
            let source: Vec<u8> = (0..len).map(|at| at as u8).collect();
            assert_eq!(Label::new(&source).as_slice(), source);
        }
    }

    #[test]
    fn joins_across_the_inline_limit() {
        let label = Label::joined(&[1; 15], 2, &[3; 15]);
        assert_eq!(label.as_slice(), [&[1; 15][..], &[2], &[3; 15]].concat());
    }

    #[test]
    fn takes_three_words() {
        assert_eq!(size_of::<Label>(), 24);
    }
}
