//! The engines that need nothing but memory, by the name that a keyspace's settings give.
//!
//! A new memory engine is a module beside this one and a line in [`MEMORY_ENGINES`]; the conformance suite then runs on it.

use std::sync::Arc;

use crate::{Engine, Trie};

/// One kind of memory engine.
#[derive(Clone, Copy, Debug)]
pub struct MemoryEngine {
    /// The name in a keyspace's settings; what [`Engine::kind`] answers.
    pub kind: &'static str,
    /// Makes an empty one.
    pub create: fn() -> Arc<dyn Engine>,
}

/// All memory engines, in the order in which they are listed to people.
pub const MEMORY_ENGINES: &[MemoryEngine] = &[MemoryEngine { kind: Trie::KIND, create: || Arc::new(Trie::new()) }];

/// The names of all memory engines.
pub fn kinds() -> impl Iterator<Item = &'static str> {
    MEMORY_ENGINES.iter().map(|engine| engine.kind)
}

/// An empty memory engine of this kind; `None` if there is no such kind.
pub fn create(kind: &str) -> Option<Arc<dyn Engine>> {
    MEMORY_ENGINES.iter().find(|engine| engine.kind == kind).map(|engine| (engine.create)())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn every_memory_engine_conforms() {
        for engine in MEMORY_ENGINES {
            conformance::check(engine.create);
        }
    }

    #[test]
    fn kinds_are_unique_and_name_their_engine() {
        for kind in kinds() {
            assert_eq!(kinds().filter(|other| *other == kind).count(), 1, "{kind} is listed twice");
            assert_eq!(create(kind).unwrap().kind(), kind);
        }
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        assert!(create("abacus").is_none());
    }
}
