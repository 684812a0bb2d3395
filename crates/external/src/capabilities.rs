//! What a store outside can do.

/// What a store can do. The API answers 422 for the rest, naming the capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether pairs can be written and removed.
    pub writable: bool,
    /// Whether keys can be listed.
    pub listable: bool,
    /// Lists come in key order.
    pub ordered: bool,
    /// What a condition on a write is worth.
    pub comparing: Comparing,
    /// What becomes of a pair whose time is up.
    pub expiry: Expiry,
    /// The largest value, in bytes, that we hand to it.
    pub max_value_bytes: u64,
    /// The longest key in bytes, if it is of the bytes that take most room when encoded.
    pub max_key_bytes: usize,
}

/// What a condition on a write is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparing {
    /// The store compares and writes in one step, whoever writes.
    Atomic,
    /// Holds among the nodes that use this store through Quorate on one machine or one file system that honours locks; not
    /// against other programs.
    AmongNodes,
    /// The store cannot compare: writes with a condition are refused, and of two writers the later wins.
    Unconditional,
}

/// What becomes of a pair whose time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The store removes it.
    Removed,
    /// It is not shown any more, and takes room until somebody comes across it: who reads or lists it removes it, if the store
    /// can compare; else until the key is written again. Lists of keys alone may still name it.
    Hidden,
    /// Pairs have no such time: a put with one is refused.
    None,
}

impl Comparing {
    /// The word of the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Atomic => "atomic",
            Self::AmongNodes => "among-nodes",
            Self::Unconditional => "unconditional",
        }
    }
}

impl Expiry {
    /// The word of the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Hidden => "hidden",
            Self::None => "none",
        }
    }
}
