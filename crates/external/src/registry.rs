//! The stores by the name that a keyspace's settings give.
//!
//! A new store is a file beside this one and a line in [`KINDS`], and another in the conformance suite's list of servers.

use std::fmt::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use crate::credentials::Secrets;
use crate::fields::Fields;
use crate::guarded::Guarded;
use crate::meter::{Meter, Metered};
use crate::objects::{Abilities, Named, Objects, named_capabilities};
use crate::spec::NODE;
use crate::sweep::Sweeper;
use crate::{
    AllowedCredentials, Cached, Capabilities, Clock, Comparing, Envelope, ErrorKind, Expiry, KeyEncoding, Spec, SpecError, Store,
    StoreError, fs, opendal, opensearch, postgres, redis, service, sqlite,
};

/// One kind of store.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The name in settings; what [`Store::kind`] answers.
    pub name: &'static str,
    /// What it is and what it is for, in one line for people.
    pub summary: &'static str,
    /// Settings that work, as JSON.
    pub example: &'static str,
    /// What can be set besides what all kinds have, each with a line for people.
    pub options: &'static [(&'static str, &'static str)],
    /// The credentials that it knows, by the names that they have in settings; none: it wants none.
    pub credentials: &'static [&'static str],
    /// The default of `key_encoding`; none if it keeps keys as they are.
    pub names: Option<KeyEncoding>,
    /// The default of `envelope`; none if it has places of its own for what an envelope holds.
    pub envelope: Option<Envelope>,
    /// What it can do with its defaults.
    pub capabilities: fn() -> Capabilities,
    pub(crate) read: fn(&mut Fields<'_>) -> Result<Arc<dyn Settings>, SpecError>,
}

/// What is set for one store of one kind.
pub(crate) trait Settings: fmt::Debug + Send + Sync {
    /// Where the store is, with `{node}` as it was written.
    fn place(&self) -> &str;

    /// What a condition is worth, if that is set.
    fn comparing(&self) -> Option<Comparing> {
        None
    }

    /// Opens it. Does not ask the store: it may be down.
    fn open(&self, opening: &Opening<'_>) -> Result<Arc<dyn Store>, StoreError>;
}

/// What a store is opened with.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) secrets: &'a Secrets,
    pub(crate) surroundings: &'a Surroundings,
}

/// What the node that opens a store is like.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Its name; `{node}` stands for it.
    pub node: String,
    /// Folders below which stores of files may lie. None means that there are no such stores.
    pub fs_roots: Vec<PathBuf>,
    /// What of it stores may be given as credentials.
    pub credentials: AllowedCredentials,
    /// Its clock.
    pub clock: Clock,
}

/// All stores, in the order in which they are listed to people.
pub const KINDS: &[Kind] = &[
    fs::KIND,
    opendal::s3::KIND,
    opendal::gcs::KIND,
    opendal::azblob::KIND,
    opendal::webdav::KIND,
    service::HTTP,
    service::KIND,
    redis::KIND,
    postgres::KIND,
    sqlite::KIND,
    opensearch::KIND,
];

/// What can be set for a kind besides what only it has, each with a line for people.
pub fn common_options(kind: &Kind) -> Vec<(&'static str, &'static str)> {
    let path = "`shared`: all nodes use the same, which is the only copy; `per-node`, which is the default, with `{node}` where \
                the store is: each node has its own part, behind a replica of its own";
    let mut options = vec![("path", path)];
    if let Some(default) = kind.names {
        let bytes = "how keys become names: `bytes`, which is the default, takes every key; `path` is as readable as it can be";
        let path = "how keys become names: `path`, which is the default, is as readable as it can be; `bytes` takes every key";
        options.push(("key_encoding", if default == KeyEncoding::Bytes { bytes } else { path }));
    }
    if let Some(default) = kind.envelope {
        let quorate =
            "what lies around values: `quorate`, which is the default, a small header; `none`: other programs read them";
        let none = "what lies around values: `none`, which is the default: other programs read them; `quorate`: a small header";
        options.push(("envelope", if default == Envelope::Quorate { quorate } else { none }));
    }
    options.extend([
        ("timeout", "a call takes no longer, retries included; `10s` by default"),
        ("max_calls", "so many calls run at once; 64 by default"),
        ("local", "with `per-node`: the engine that a node's pairs are in and are read from, `lsm` or `btree`; `lsm` by default"),
        ("queue_max", "with `per-node`: so much waits for the store before writes wait, too; `64MiB` by default"),
        ("cache", "with `shared`, in front: `max_bytes`, `ttl`, `negative_ttl`, `refresh_after`, `max_stale`; none by default"),
    ]);
    options
}

/// The kind of this name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// Opens a store, with its deadlines and retries, and the cache in front if one is set. Reads credentials, and asks nothing of
/// the store: one that is down is opened all the same. Blocks for as long as small files take. Within a tokio runtime.
pub fn open(spec: &Spec, surroundings: &Surroundings) -> Result<Arc<dyn Store>, StoreError> {
    open_metered(spec, surroundings, &Arc::default())
}

/// The same, counted by a meter, which goes on where it was.
pub fn open_metered(spec: &Spec, surroundings: &Surroundings, meter: &Arc<Meter>) -> Result<Arc<dyn Store>, StoreError> {
    let secrets = spec.credentials.read(spec.kind.name, &surroundings.credentials)?;
    let store = spec.settings.open(&Opening { spec, secrets: &secrets, surroundings })?;
    let guarded = Guarded::new(store, spec.timeout, spec.max_calls, secrets.all());
    let metered = Metered::new(guarded, meter.clone());
    match &spec.cache {
        Some(cache) => Ok(Arc::new(Cached::new(metered, cache.clone(), surroundings.clock.clone(), meter.clone()))),
        None => Ok(Arc::new(metered)),
    }
}

impl Opening<'_> {
    /// A place with the node's name in it.
    pub(crate) fn place(&self, place: &str) -> String {
        place.replace(NODE, &self.surroundings.node)
    }

    /// What can be wrong only with the node's name in it.
    pub(crate) fn wrong(&self, error: &SpecError) -> StoreError {
        let message = format!("with the name {:?} of this node, {} {}", self.surroundings.node, error.field, error.problem);
        StoreError::new(self.spec.kind.name, ErrorKind::Unexpected, message)
    }

    /// Objects as pairs.
    pub(crate) fn named<O: Objects + 'static>(&self, objects: O) -> Arc<dyn Store> {
        let (keys, envelope) = (self.spec.key_encoding, self.spec.envelope);
        Arc::new(Named { objects, keys, envelope, clock: self.surroundings.clock.clone(), sweeper: Sweeper::default() })
    }
}

/// What a kind that keeps objects can do with its defaults.
pub(crate) fn capabilities_of(abilities: Abilities, envelope: Envelope) -> Capabilities {
    named_capabilities(abilities, KeyEncoding::Bytes, envelope)
}

/// The capabilities of all kinds as a table in Markdown, for the documentation.
pub fn capability_table() -> String {
    let yes = |holds: bool| if holds { "yes" } else { "no" };
    let mut table =
        "| type | what | writes | lists | in key order | conditions | ttl | largest value | longest key |\n".to_owned();
    table.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for kind in KINDS {
        let can = (kind.capabilities)();
        let ttl = match can.expiry {
            Expiry::Removed => "removed by the store",
            Expiry::Hidden => "hidden when it is over",
            Expiry::None => "no",
        };
        writeln!(
            table,
            "| `{}` | {} | {} | {} | {} | {} | {ttl} | {} MiB | {} bytes |",
            kind.name,
            kind.summary,
            yes(can.writable),
            yes(can.listable),
            if can.listable { yes(can.ordered) } else { "-" },
            if can.writable { can.comparing.name() } else { "-" },
            can.max_value_bytes.div_ceil(1 << 20),
            can.max_key_bytes,
        )
        .expect("a text takes everything");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_unique() {
        for kind in KINDS {
            assert_eq!(KINDS.iter().filter(|other| other.name == kind.name).count(), 1, "{} is listed twice", kind.name);
            assert!(!quorate_engine::KINDS.iter().any(|other| other.name == kind.name), "{} is an engine inside", kind.name);
        }
    }

    #[test]
    fn the_table_of_the_documentation_is_this_one() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/engines.md")).unwrap();
        assert!(page.contains(&capability_table()), "docs/engines.md is to have:\n{}", capability_table());
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let table = capability_table();
        assert_eq!(table.lines().count(), KINDS.len() + 2);
        for kind in KINDS {
            assert!(table.contains(&format!("| `{}` |", kind.name)));
        }
    }
}
