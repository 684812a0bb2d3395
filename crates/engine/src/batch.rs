//! What is written: tables, changes, batches.

use bytes::Bytes;

/// A table within an engine. The tags are persisted: never renumber, never reuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// The shard's own state: header, sessions, leases. Few and small.
    Meta = 0,
    /// The latest record of each key.
    Current = 1,
    /// Older versions, by (key, revision).
    History = 2,
}

impl Table {
    /// All tables, in tag order.
    pub const ALL: [Self; 3] = [Self::Meta, Self::Current, Self::History];

    /// Whether its pairs are in an engine's figures. Who writes older versions knows how many there are: an engine need not read
    /// what is replaced there, which hardly ever is any.
    pub fn is_counted(self) -> bool {
        self != Self::History
    }

    /// The table with this persisted tag.
    pub fn from_tag(tag: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|table| *table as u8 == tag)
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the key's value, replacing any other.
    Put {
        /// The table.
        table: Table,
        /// The key; any bytes, also none.
        key: Bytes,
        /// The value; any bytes, also none. A memory engine keeps this very buffer: a small slice of a large one keeps
        /// all of it alive, so who cuts values out of big buffers copies the small ones first.
        value: Bytes,
    },
    /// As `Put`, and the pair goes by itself once the engine was told that it is `until_ms`. Only for engines that evict; it
    /// panics in others.
    PutUntil {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// When it goes, in milliseconds of the clock behind [`crate::Engine::advance`].
        until_ms: u64,
    },
    /// Removes the key; nothing happens if it is not there.
    Delete {
        /// The table.
        table: Table,
        /// The key.
        key: Bytes,
    },
}

impl Change {
    /// Bytes of its key and its value.
    pub(crate) fn pair_bytes(&self) -> usize {
        match self {
            Self::Put { key, value, .. } | Self::PutUntil { key, value, .. } => key.len() + value.len(),
            Self::Delete { key, .. } => key.len(),
        }
    }
}

/// Changes that become visible, and later durable, all at once.
///
/// Invariants: `applied` and `revision` never decrease from one batch to the next. Changes take effect in order, so the
/// last change of a key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The caller's log position after this batch.
    pub applied: u64,
    /// The caller's revision after this batch.
    pub revision: u64,
    /// The changes.
    pub changes: Vec<Change>,
}
