//! The engines by the name that a keyspace's settings give, with what they can do and how they can be set.
//!
//! A new engine is a module beside this one and a line in [`KINDS`]; the conformance suite then runs on it, the API lists it
//! with its options, and settings are checked against them.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::folder::InUse;
use crate::lsm::LsmNode;
use crate::{Btree, Cache, Capabilities, Engine, EngineError, Hash, Lsm, Trie};

/// One kind of engine.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The name in a keyspace's settings; what [`Engine::kind`] answers.
    pub name: &'static str,
    /// What it is and what it is for, in one line for people.
    pub summary: &'static str,
    /// What it can do; what [`Engine::capabilities`] answers.
    pub capabilities: Capabilities,
    /// What can be set.
    pub options: &'static [OptionSpec],
    /// Opens the engine in a folder of its own, and makes an empty one where nothing is. Memory engines leave the folder alone.
    pub(crate) open: fn(&Opening<'_>) -> Result<Arc<dyn Engine>, EngineError>,
}

/// Something that can be set for an engine when the keyspace is made or moved. All values are whole numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionSpec {
    /// The name in a keyspace's settings.
    pub name: &'static str,
    /// What the number counts.
    pub unit: Unit,
    /// What holds if nothing is set; `None` if there is no such bound then.
    pub default: Option<u64>,
    /// The smallest value.
    pub min: u64,
    /// The greatest value.
    pub max: u64,
    /// Whether it can be set anew while the engine serves, by [`Engine::alter`].
    pub is_alterable: bool,
    /// What it does, in one line for people.
    pub help: &'static str,
}

/// What an option's number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes; people may write `64MiB`.
    Bytes,
    /// Things.
    Count,
    /// Milliseconds; people may write `30m`.
    Milliseconds,
}

/// Which engine, and how it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineSpec {
    /// The kind's name.
    pub kind: String,
    /// Options by name; those that are not here have their defaults.
    pub options: BTreeMap<String, u64>,
    /// The store outside the node to which its pairs are written as well, behind the writer.
    pub behind: Option<BehindSpec>,
}

/// A store outside the node that an engine's pairs are written to behind the writer. Engines know nothing of it: who opens them
/// for a node does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BehindSpec {
    /// The kind of store, as it is called in a keyspace's settings.
    pub kind: String,
    /// The store's settings, in JSON. No secret.
    pub settings: String,
    /// What the engine's pairs are.
    pub pairs: PairForm,
}

/// What who writes to an engine keeps in [`Table::Current`](crate::Table::Current): which says what its value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairForm {
    /// Records of a shard's state machine.
    Record,
    /// Entries of an eventual replica, tombstones among them.
    Entry,
}

/// Why a spec cannot be used. One line for people, naming what is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No such engine.
    #[error("there is no engine {kind:?}; known: {known}")]
    UnknownKind {
        /// What was asked for.
        kind: String,
        /// What there is.
        known: String,
    },
    /// The engine has no such option.
    #[error("the engine {kind} has no option {option:?}; known: {known}")]
    UnknownOption {
        /// The engine.
        kind: &'static str,
        /// What was asked for.
        option: String,
        /// What there is.
        known: String,
    },
    /// The value lies outside of what the option allows.
    #[error("{option} of the engine {kind} must lie between {min} and {max}, {value} does not")]
    OutOfRange {
        /// The engine.
        kind: &'static str,
        /// The option.
        option: &'static str,
        /// Its smallest value.
        min: u64,
        /// Its greatest value.
        max: u64,
        /// What was asked for.
        value: u64,
    },
}

/// What the opening of an engine is given.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    /// Checked settings.
    pub(crate) spec: &'a EngineSpec,
    /// A folder that is this engine's alone. It may not be there yet, and stays as long as somebody holds this.
    pub(crate) in_use: &'a Arc<InUse>,
    /// What it shares with the node's other engines.
    pub(crate) resources: &'a Resources,
    /// For engines that hash keys: a number that clients cannot know.
    pub(crate) hash_seed: u64,
}

/// What the engines of a node share; one for all of them.
#[derive(Debug, Default)]
pub(crate) struct Resources {
    lsm: OnceLock<Arc<LsmNode>>,
}

impl Resources {
    /// What the LSM engines share; made when the first of them is opened.
    pub(crate) fn lsm(&self) -> &Arc<LsmNode> {
        self.lsm.get_or_init(Arc::default)
    }
}

impl Opening<'_> {
    /// The value of an option, or its default.
    pub(crate) fn option(&self, option: &OptionSpec) -> Option<u64> {
        self.spec.options.get(option.name).copied().or(option.default)
    }
}

/// All engines, in the order in which they are listed to people.
pub const KINDS: &[Kind] =
    &[Hash::KIND_OF_ENGINE, Trie::KIND_OF_ENGINE, Cache::KIND_OF_ENGINE, Btree::KIND_OF_ENGINE, Lsm::KIND_OF_ENGINE];

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

impl EngineSpec {
    /// A kind with its defaults.
    pub fn of(kind: &str) -> Self {
        Self { kind: kind.to_owned(), options: BTreeMap::new(), behind: None }
    }

    /// What people call it: the store outside, if there is one behind it.
    pub fn name(&self) -> &str {
        self.behind.as_ref().map_or(&self.kind, |behind| &behind.kind)
    }

    /// The kind, if there is one of this name with these options.
    pub fn check(&self) -> Result<&'static Kind, SpecError> {
        let unknown = || SpecError::UnknownKind { kind: self.kind.clone(), known: names(KINDS.iter().map(|kind| kind.name)) };
        let kind = kind(&self.kind).ok_or_else(unknown)?;
        for (name, value) in &self.options {
            let Some(option) = kind.options.iter().find(|option| option.name == name) else {
                let known = names(kind.options.iter().map(|option| option.name));
                return Err(SpecError::UnknownOption { kind: kind.name, option: name.clone(), known });
            };
            if !(option.min..=option.max).contains(value) {
                let (min, max) = (option.min, option.max);
                return Err(SpecError::OutOfRange { kind: kind.name, option: option.name, min, max, value: *value });
            }
        }
        Ok(kind)
    }
}

fn names(names: impl Iterator<Item = &'static str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use std::path::Path;

    use super::*;
    use crate::conformance;
    use crate::home::tests::scratch;

    #[test]
    fn every_engine_conforms() {
        for kind in KINDS {
            let folders = scratch();
            let make = || folders.open_next(&EngineSpec::of(kind.name));
            // A run on disk makes a folder and syncs it.
            conformance::check_one_in(if kind.capabilities.durable { 6 } else { 1 }, make);
        }
    }

    #[test]
    fn every_engine_is_copied_into_every_other() {
        for (source, target) in KINDS.iter().flat_map(|source| KINDS.iter().map(move |target| (source, target))) {
            let folders = scratch();
            let make = |kind: &Kind| folders.open_next(&EngineSpec::of(kind.name));
            conformance::check_copies(&|| make(source), &|| make(target));
        }
    }

    /// Names the kind to the process that is to crash.
    const KIND_VARIABLE: &str = "QUORATE_CRASH_KIND";

    fn open(kind: &str, folder: &Path) -> Result<Arc<dyn Engine>, EngineError> {
        let kind = super::kind(kind).expect("a known kind");
        let (spec, resources) = (EngineSpec::of(kind.name), Resources::default());
        let in_use = Arc::new(InUse::of(folder.to_owned()));
        (kind.open)(&Opening { spec: &spec, in_use: &in_use, resources: &resources, hash_seed: 7 })
    }

    #[test]
    fn durable_engines_come_back() {
        for kind in KINDS.iter().filter(|kind| kind.capabilities.durable) {
            let child = || {
                let mut child = Command::new(std::env::current_exe().unwrap());
                child.args(["--exact", "registry::tests::crashes", "--ignored", "--nocapture"]);
                child.env(KIND_VARIABLE, kind.name);
                child
            };
            conformance::check_durable(&|folder| open(kind.name, folder), &child);
        }
    }

    #[test]
    #[ignore = "durable_engines_come_back starts it in a process of its own"]
    fn crashes() {
        let kind = std::env::var(KIND_VARIABLE).unwrap();
        conformance::run_script(&|folder| open(&kind, folder));
    }

    #[test]
    fn kinds_are_unique_and_name_their_engine() {
        let folders = scratch();
        for kind in KINDS {
            assert_eq!(KINDS.iter().filter(|other| other.name == kind.name).count(), 1, "{} is listed twice", kind.name);
            let engine = folders.open_next(&EngineSpec::of(kind.name));
            assert_eq!((engine.kind(), engine.capabilities()), (kind.name, kind.capabilities));
        }
    }

    #[test]
    fn defaults_lie_within_their_options() {
        for option in KINDS.iter().flat_map(|kind| kind.options) {
            assert!(option.default.is_none_or(|default| (option.min..=option.max).contains(&default)), "{option:?}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is() {
        let error = EngineSpec::of("abacus").check().unwrap_err();
        assert!(error.to_string().contains("abacus") && error.to_string().contains("trie"), "{error}");
        let spec = EngineSpec { options: BTreeMap::from([("beads".to_owned(), 7)]), ..EngineSpec::of("trie") };
        let error = spec.check().unwrap_err();
        assert!(error.to_string().contains("beads"), "{error}");
    }
}
