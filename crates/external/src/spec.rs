//! What a keyspace's settings say about a store outside, checked.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::cached::CacheSpec;
use crate::credentials::Credentials;
use crate::fields::Fields;
use crate::key_encoding::KeyEncoding;
use crate::registry::{self, KINDS, Kind, Settings};
use crate::{Capabilities, Expiry};

/// Which store, and how it is used: the object `engine` of a keyspace's settings. Holds no secret.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The kind of store.
    pub kind: &'static Kind,
    /// Whose the store is.
    pub path: PathMode,
    /// How keys become names; only for stores that keep objects under names.
    pub key_encoding: KeyEncoding,
    /// What lies around values.
    pub envelope: Envelope,
    /// A call takes no longer, retries included.
    pub timeout: Duration,
    /// So many calls run at once.
    pub max_calls: usize,
    /// The cache in front; none where each node has its own part.
    pub cache: Option<CacheSpec>,
    /// The kind of engine that a node has its pairs in where it has its own part of the store: they are read there.
    pub local: &'static str,
    /// How much waits there for the store, in bytes, before who writes must wait, too.
    pub queue_max: u64,
    /// Where a node finds its credentials.
    pub(crate) credentials: Credentials,
    /// What only this kind of store has.
    pub(crate) settings: Arc<dyn Settings>,
    /// As it was written.
    json: Map<String, Value>,
}

/// Whose a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PathMode {
    /// Each node has its own part of it: `{node}` in the URL, or in the path, stands for the node's name.
    #[default]
    PerNode,
    /// All nodes use the same, which is the only copy.
    Shared,
}

/// What lies around values in a store that keeps bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Envelope {
    /// A small header: who wrote it and when, when its time is up, a checksum.
    #[default]
    Quorate,
    /// Nothing: other programs read what Quorate writes, and Quorate what they wrote. No ttl, and half a body is noticed only
    /// where the store says how long it is.
    None,
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("engine.{field}: {problem}; for example {example}")]
pub struct SpecError {
    /// The field.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// How it may be written.
    pub example: String,
}

impl SpecError {
    pub(crate) fn new(field: &str, problem: impl Into<String>, example: impl Into<String>) -> Self {
        Self { field: field.to_owned(), problem: problem.into(), example: example.into() }
    }
}

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT_BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_mins(10));
const DEFAULT_MAX_CALLS: u64 = 64;
/// The kind of engine that a node's pairs are in if its part of a store stands behind it and nothing is said.
pub const DEFAULT_LOCAL: &str = "lsm";
const DEFAULT_QUEUE_MAX: u64 = 64 << 20;
const QUEUE_BOUNDS: (u64, u64) = (64 << 10, 16 << 30);

impl Spec {
    /// Checks settings: everything that can be known without asking the store.
    pub fn parse(json: &Map<String, Value>) -> Result<Self, SpecError> {
        let known = || KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
        let unknown = || SpecError::new("type", format!("must be one of {}", known()), r#""type": "s3""#);
        let name = json.get("type").and_then(Value::as_str).ok_or_else(unknown)?;
        let kind = registry::kind(name).ok_or_else(unknown)?;

        let mut fields = Fields::of(kind.name, json);
        fields.value("type");
        let path = fields.word("path", &[("shared", PathMode::Shared), ("per-node", PathMode::PerNode)])?;
        let timeout = fields.duration("timeout", TIMEOUT_BOUNDS)?.unwrap_or(DEFAULT_TIMEOUT);
        let max_calls = fields.count("max_calls", (1, 1024))?.unwrap_or(DEFAULT_MAX_CALLS);
        let cache = match fields.object("cache", r#"{"max_bytes": "64MiB", "ttl": "10s"}"#)? {
            Some(object) => Some(CacheSpec::parse(object)?),
            None => None,
        };
        let local = fields.word("local", &[("lsm", "lsm"), ("btree", "btree")])?;
        let queue_max = fields.bytes("queue_max", QUEUE_BOUNDS)?;
        let (mut key_encoding, mut envelope) = (KeyEncoding::default(), Envelope::None);
        if let Some(default) = kind.names {
            let words = [("bytes", KeyEncoding::Bytes), ("path", KeyEncoding::Path)];
            key_encoding = fields.word("key_encoding", &words)?.unwrap_or(default);
        }
        if let Some(default) = kind.envelope {
            let words = [("quorate", Envelope::Quorate), ("none", Envelope::None)];
            envelope = fields.word("envelope", &words)?.unwrap_or(default);
        }
        let settings = (kind.read)(&mut fields)?;
        let credentials = match kind.credentials {
            [] => Credentials::None,
            names => Credentials::from_fields(&mut fields, names)?,
        };
        fields.finish()?;
        let spec = Self {
            kind,
            path: path.unwrap_or_default(),
            key_encoding,
            envelope,
            timeout,
            max_calls: usize::try_from(max_calls).unwrap_or(usize::MAX),
            cache,
            local: local.unwrap_or(DEFAULT_LOCAL),
            queue_max: queue_max.unwrap_or(DEFAULT_QUEUE_MAX),
            credentials,
            settings,
            json: json.clone(),
        };
        spec.check_path()?;
        spec.check_side((local.is_some(), queue_max.is_some()))?;
        Ok(spec)
    }

    /// The same store for who looks for names alone, whatever lies around values.
    #[must_use]
    pub fn without_envelope(self) -> Self {
        let envelope = if self.kind.envelope.is_some() { Envelope::None } else { self.envelope };
        Self { envelope, ..self }
    }

    /// The settings as they were given.
    pub fn json(&self) -> &Map<String, Value> {
        &self.json
    }

    /// What a store with these settings can do: what it says of itself once it is open.
    pub fn capabilities(&self) -> Capabilities {
        let mut capabilities = (self.kind.capabilities)();
        capabilities.comparing = self.settings.comparing().unwrap_or(capabilities.comparing);
        // Those that keep objects have a place for a time only in the envelope.
        if self.kind.names.is_some() && self.kind.envelope.is_some() {
            let has_place = self.envelope == Envelope::Quorate && capabilities.writable;
            capabilities.expiry = if has_place { Expiry::Hidden } else { Expiry::None };
        }
        capabilities
    }

    /// `{node}` stands where each node has its own, and nowhere else.
    fn check_path(&self) -> Result<(), SpecError> {
        let names_node = self.settings.place().contains(NODE);
        match self.path {
            PathMode::Shared if names_node => {
                let problem = "\"shared\" means that all nodes use the same, and {node} stands for each node's name";
                Err(SpecError::new("path", problem, r#""path": "per-node""#))
            }
            PathMode::PerNode if !names_node => {
                let problem =
                    "\"per-node\", which is the default, needs {node} where the store is, or all nodes would use the same";
                Err(SpecError::new("path", problem, r#""path": "shared""#))
            }
            _ => Ok(()),
        }
    }

    /// What stands behind a node's own pairs needs no cache in front, and what all nodes share has nothing of a node's before it.
    fn check_side(&self, (has_local, has_queue): (bool, bool)) -> Result<(), SpecError> {
        let wrong = |field, problem: &str, example: &str| Err(SpecError::new(field, problem, example));
        match self.path {
            PathMode::Shared if has_local || has_queue => {
                let field = if has_local { "local" } else { "queue_max" };
                wrong(
                    field,
                    "goes with \"path\": \"per-node\": of a store that all share nodes have nothing",
                    r#""path": "per-node""#,
                )
            }
            PathMode::PerNode if self.cache.is_some() => wrong(
                "cache",
                "goes with \"path\": \"shared\": of a node's own part the pairs are on its disk, and read there",
                r#""path": "shared""#,
            ),
            PathMode::PerNode if !self.capabilities().writable => {
                wrong("path", "\"per-node\" needs a store that can be written to", r#""path": "shared""#)
            }
            _ => Ok(()),
        }
    }
}

/// Stands for the node's name where a store is.
pub(crate) const NODE: &str = "{node}";

/// Two specs are equal if they were written alike.
impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        self.json == other.json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<Spec, SpecError> {
        let value: Value = serde_json::from_str(json).unwrap();
        Spec::parse(value.as_object().unwrap())
    }

    #[test]
    fn the_example_of_every_kind_is_right() {
        for kind in KINDS {
            let spec = parse(kind.example).unwrap_or_else(|error| panic!("{}: {error}", kind.name));
            assert_eq!(spec.kind.name, kind.name);
        }
    }

    #[tokio::test]
    async fn what_settings_can_do_is_what_the_store_says() {
        let folder = tempfile::tempdir().unwrap();
        let surroundings = crate::Surroundings {
            node: "n1".to_owned(),
            fs_roots: vec![folder.path().to_owned()],
            credentials: crate::AllowedCredentials::default(),
            clock: crate::Clock::new(1, || 0),
        };
        for (kind, more) in [
            ("fs", serde_json::json!({"folder": folder.path(), "envelope": "none"})),
            ("fs", serde_json::json!({"folder": folder.path()})),
            ("http", serde_json::json!({"url": "http://127.0.0.1:1/{key}"})),
            ("service", serde_json::json!({"url": "http://127.0.0.1:1/{key}"})),
            ("service", serde_json::json!({"url": "http://127.0.0.1:1/{key}", "conditions": "etag", "envelope": "quorate"})),
            ("redis", serde_json::json!({"url": "redis://127.0.0.1:1/0", "envelope": "none"})),
            ("s3", serde_json::json!({"url": "s3://bucket", "envelope": "none"})),
        ] {
            let mut json = more.as_object().unwrap().clone();
            json.insert("type".to_owned(), Value::from(kind));
            json.insert("path".to_owned(), Value::from("shared"));
            let spec = Spec::parse(&json).unwrap();
            let (told, open) = (spec.capabilities(), crate::open(&spec, &surroundings).unwrap().capabilities());
            assert_eq!(
                (told.writable, told.listable, told.ordered, told.comparing, told.expiry),
                (open.writable, open.listable, open.ordered, open.comparing, open.expiry),
                "{json:?}"
            );
        }
    }

    #[test]
    fn a_word_that_no_kind_knows_is_refused_by_every_kind() {
        for kind in KINDS {
            let example: Value = serde_json::from_str(kind.example).unwrap();
            let mut map = example.as_object().unwrap().clone();
            map.insert("wobble".to_owned(), Value::from(7));
            let error = Spec::parse(&map).unwrap_err();
            assert!(error.field == "wobble" && error.problem.contains("known: "), "{}: {error}", kind.name);
        }
    }

    #[test]
    fn a_secret_is_refused_by_every_kind_wherever_it_stands() {
        for kind in KINDS {
            let example: Value = serde_json::from_str(kind.example).unwrap();
            for (name, value) in [
                ("password", Value::from("hush")),
                ("credentials", serde_json::json!({"password": "hush"})),
                ("url", Value::from("http://user:hush@localhost/x")),
            ] {
                let mut map = example.as_object().unwrap().clone();
                map.insert(name.to_owned(), value);
                let error = Spec::parse(&map).unwrap_err();
                assert!(error.field == name && !error.to_string().contains("hush"), "{}: {error}", kind.name);
            }
        }
    }

    #[test]
    fn whose_a_store_is_and_node_go_together() {
        let error = parse(r#"{"type": "s3", "url": "s3://bucket"}"#).unwrap_err();
        assert_eq!(error.field, "path");
        let error = parse(r#"{"type": "s3", "url": "s3://bucket/{node}", "path": "shared"}"#).unwrap_err();
        assert_eq!(error.field, "path");
        parse(r#"{"type": "s3", "url": "s3://bucket/{node}"}"#).unwrap();
    }

    #[test]
    fn what_is_for_one_side_is_refused_on_the_other() {
        let spec = parse(r#"{"type": "s3", "url": "s3://bucket/{node}", "local": "btree", "queue_max": "1MiB"}"#).unwrap();
        assert_eq!((spec.local, spec.queue_max), ("btree", 1 << 20));
        for (json, field) in [
            (r#"{"type": "s3", "url": "s3://bucket", "path": "shared", "local": "lsm"}"#, "local"),
            (r#"{"type": "s3", "url": "s3://bucket", "path": "shared", "queue_max": "1MiB"}"#, "queue_max"),
            (r#"{"type": "s3", "url": "s3://bucket/{node}", "cache": {}}"#, "cache"),
            (r#"{"type": "http", "url": "http://localhost/{node}/{key}"}"#, "path"),
            (r#"{"type": "s3", "url": "s3://bucket/{node}", "local": "hash"}"#, "local"),
            (r#"{"type": "s3", "url": "s3://bucket/{node}", "queue_max": "1KiB"}"#, "queue_max"),
        ] {
            let error = parse(json).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
    }

    #[test]
    fn an_unknown_type_is_told_what_there_is() {
        for json in ["{}", r#"{"type": "abacus"}"#, r#"{"type": 7}"#] {
            let error = parse(json).unwrap_err();
            assert!(error.field == "type" && error.problem.contains("s3"), "{error}");
        }
    }
}
