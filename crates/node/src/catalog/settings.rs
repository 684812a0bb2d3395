//! What can be asked of a keyspace, and the one place that says which engine goes with which replication mode.

use quorate_api::entry::MAX_TTL_MS;
use quorate_api::key::MAX_KEY_BYTES;
use quorate_api::keyspace::Capability;
use quorate_engine::{KINDS, Kind, SpecError};

use super::records::{EngineSettings, EngineValue, LimitsRecord, OutsideRecord, RetentionRecord};
use super::replication::{MAX_COPIED_ON_WRITE_BYTES, Mode, ReplicationSettings};

/// The engine of a keyspace whose settings name none: of those that hold more than fits into memory the one that writes faster
/// as data grow (ARCHITECTURE.md has the figures).
pub const DEFAULT_ENGINE: &str = "lsm";

/// How much of the past is kept where history is possible and nothing is said about it: an hour or 10,000 revisions, whichever
/// is less, and no more than this many bytes of each shard, which one in memory takes beside its `max_bytes`.
pub const DEFAULT_RETENTION: RetentionRecord =
    RetentionRecord { max_revisions: 10_000, max_age_ms: 60 * 60 * 1000, max_bytes: 64 << 20 };

/// Most bytes that the settings of a store outside take in the catalog, of which thousands must fit into one snapshot and into
/// the memory of every node.
const MAX_OUTSIDE_BYTES: usize = 4 << 10;

/// What is asked of a keyspace, complete: defaults are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceSettings {
    /// Where its replicas keep their pairs.
    pub engine: EngineSettings,
    /// How its replicas agree.
    pub replication: ReplicationSettings,
    /// How long a pair lives that says nothing about it, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// What it takes.
    pub limits: LimitsRecord,
    /// How much of the past is kept; none: [`DEFAULT_RETENTION`], where history is possible.
    pub retention: Option<RetentionRecord>,
}

/// Why settings cannot be had. One line for people, naming what is known or possible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// An engine, an option, a mode or a field that does not exist, or a value that it cannot have.
    #[error("{0}")]
    Invalid(String),
    /// Each is known; together they are not possible, or not yet.
    #[error("{0}")]
    Unsupported(String),
}

impl Mode {
    /// Whether replicas on this engine can agree in this way.
    pub fn is_possible_with(self, kind: &Kind) -> bool {
        is_possible(kind, self)
    }
}

impl KeyspaceSettings {
    /// An engine and a mode, with everything else by default. `memory_bytes` is how much a keyspace holds whose pairs are in
    /// memory.
    pub fn with_defaults(engine: EngineSettings, replication: ReplicationSettings, memory_bytes: u64) -> Self {
        let max_bytes = match engine.replica_kind().and_then(|kind| default_max_bytes(kind, memory_bytes)) {
            _ if replication.is_copied_on_write() => Some(MAX_COPIED_ON_WRITE_BYTES),
            max_bytes => max_bytes,
        };
        let limits = LimitsRecord { max_bytes, ..LimitsRecord::default() };
        Self { engine, replication, ttl_ms: None, limits, retention: None }
    }

    /// Whether a keyspace with these settings can do this. Nothing, if they cannot be had.
    pub fn can(&self, capability: Capability) -> bool {
        let is_on = self.retention.is_none_or(|retention| retention.max_revisions > 0);
        (is_on || capability != Capability::History) && keyspace_can(&self.engine, &self.replication, capability)
    }

    /// Refuses what is not known, or not possible together.
    pub fn check(&self) -> Result<(), SettingsError> {
        let mode = self.replication.check()?;
        if let Some(store) = self.engine.outside {
            return self.check_outside(store, mode);
        }
        let kind = self.engine.spec().check()?;
        if self.engine.local.is_some() {
            self.check_store_size()?;
        } else if let Some((name, _)) = self.engine.options.iter().find(|(_, value)| !matches!(value, EngineValue::Number(_))) {
            return Err(SettingsError::Invalid(format!("engine.{name}: a number, or text with a unit")));
        }
        check_pair(kind, mode)?;
        self.check_ttl(kind, mode)?;
        self.check_cache(kind, mode)?;
        self.check_durability(kind, mode)?;
        self.check_limits(kind)?;
        self.check_retention(kind, mode)
    }

    /// Refuses settings of a store outside that take too much of the catalog; what they say was checked by who knows stores.
    fn check_store_size(&self) -> Result<(), SettingsError> {
        if self.engine.size() > MAX_OUTSIDE_BYTES {
            return Err(SettingsError::Invalid(format!("engine: its settings have {MAX_OUTSIDE_BYTES} bytes at most")));
        }
        Ok(())
    }

    /// Refuses what is not possible with pairs in a store outside that all nodes share, whose own settings were checked by who
    /// knows stores.
    fn check_outside(&self, store: OutsideRecord, mode: Mode) -> Result<(), SettingsError> {
        let kind = &self.engine.kind;
        let unsupported = |why: String| Err(SettingsError::Unsupported(why));
        if mode != Mode::None {
            return unsupported(format!(
                "engine: {kind} does not go with replication {}: the store is the only copy, which all nodes share, and there is \
                 nothing to agree on. Possible: {kind} with none; or with {}, if the path is \"per-node\" and {{node}} is in it",
                mode.name(),
                mode.name()
            ));
        }
        self.check_store_size()?;
        self.check_ttl_form()?;
        if self.ttl_ms.is_some() && !store.expires {
            return unsupported(format!("ttl: pairs have no time to live in {kind} with these settings"));
        }
        if self.limits.max_bytes.is_some() {
            return unsupported("limits.max_bytes: nobody counts what is in a store outside the nodes".to_owned());
        }
        if self.retention.is_some_and(|retention| retention.max_revisions > 0) {
            return unsupported(format!("retention: no history is kept in {kind}"));
        }
        self.check_amounts()
    }

    fn check_ttl_form(&self) -> Result<(), SettingsError> {
        match self.ttl_ms {
            Some(ttl_ms) if !(1..=MAX_TTL_MS).contains(&ttl_ms) => {
                Err(SettingsError::Invalid("ttl: a time to live is 1ms to 36500d; leave it out for none".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn check_ttl(&self, kind: &Kind, mode: Mode) -> Result<(), SettingsError> {
        self.check_ttl_form()?;
        match self.ttl_ms {
            None => Ok(()),
            Some(_) if has_ttl(kind, mode) => Ok(()),
            Some(_) => Err(SettingsError::Unsupported(format!(
                "ttl: not possible with the engine {} and replication {}; possible with: {}",
                kind.name,
                mode.name(),
                pairs_that(has_ttl)
            ))),
        }
    }

    /// A cache whose nodes take writes on their own has nothing but the time to bound how old a value may be.
    fn check_cache(&self, kind: &Kind, mode: Mode) -> Result<(), SettingsError> {
        let replication = &self.replication;
        if !mode.is_eventual() || !kind.capabilities.evicts {
            if replication.options.contains_key("sends") {
                let why = "replication.sends: only with an engine that evicts, such as cache";
                return Err(SettingsError::Unsupported(why.to_owned()));
            }
            return Ok(());
        }
        if replication.options.contains_key("durability") && replication.is_durable() {
            let why = format!("replication.durability: what the engine {} forgets no log brings back; leave it out", kind.name);
            return Err(SettingsError::Unsupported(why));
        }
        match self.ttl_ms {
            Some(_) => Ok(()),
            None => Err(SettingsError::Unsupported(format!(
                "ttl: the engine {} with replication {} needs one, like 10m: it bounds how long a node may serve an old value",
                kind.name,
                mode.name()
            ))),
        }
    }

    /// A node that begins anew at each start would have on its disk what nobody reads again.
    fn check_durability(&self, kind: &Kind, mode: Mode) -> Result<(), SettingsError> {
        if !mode.is_eventual() || !kind.capabilities.durable || self.replication.is_durable() {
            return Ok(());
        }
        Err(SettingsError::Unsupported(format!(
            "replication.durability: the engine {} keeps its pairs on a disk, and with none a node has nothing of its own after \
             a restart; leave it out, or use an engine in memory",
            kind.name
        )))
    }

    fn check_retention(&self, kind: &Kind, mode: Mode) -> Result<(), SettingsError> {
        let Some(RetentionRecord { max_revisions, max_age_ms, max_bytes }) = self.retention else { return Ok(()) };
        if !(1..=MAX_TTL_MS).contains(&max_age_ms) {
            return Err(SettingsError::Invalid("retention.age: must lie between 1ms and 36500d".to_owned()));
        }
        if max_bytes == 0 {
            return Err(SettingsError::Invalid("retention.bytes: must be 1 or more".to_owned()));
        }
        if max_revisions == 0 || has_history(kind, mode) {
            return Ok(());
        }
        Err(SettingsError::Unsupported(format!(
            "retention: the engine {} with replication {} keeps no history; possible with: {}",
            kind.name,
            mode.name(),
            pairs_that(has_history)
        )))
    }

    fn check_limits(&self, kind: &Kind) -> Result<(), SettingsError> {
        let max_bytes = self.limits.max_bytes;
        if max_bytes.is_some() && kind.capabilities.evicts {
            let why = format!("limits.max_bytes: the engine {} keeps to its own bound: set engine.max_bytes instead", kind.name);
            return Err(SettingsError::Unsupported(why));
        }
        if self.replication.is_copied_on_write() && max_bytes.is_none_or(|bytes| bytes > MAX_COPIED_ON_WRITE_BYTES) {
            let why = format!(
                "limits.max_bytes: at most {MAX_COPIED_ON_WRITE_BYTES} where everything is copied after writes; copy by \
                 schedule, or use replication push"
            );
            return Err(SettingsError::Unsupported(why));
        }
        self.check_amounts()
    }

    fn check_amounts(&self) -> Result<(), SettingsError> {
        let LimitsRecord { max_bytes, max_key_bytes, max_value_bytes } = self.limits;
        let longest = MAX_KEY_BYTES as u64;
        let within = [
            ("max_bytes", max_bytes, u64::MAX),
            ("max_key_bytes", max_key_bytes, longest),
            ("max_value_bytes", max_value_bytes, u64::MAX),
        ];
        match within.into_iter().find(|(_, value, max)| value.is_some_and(|value| !(1..=*max).contains(&value))) {
            None => Ok(()),
            Some((name, _, u64::MAX)) => Err(SettingsError::Invalid(format!("limits.{name}: must be 1 or more"))),
            Some((name, _, max)) => Err(SettingsError::Invalid(format!("limits.{name}: must lie between 1 and {max}"))),
        }
    }
}

/// Refuses what is not possible together, with the reason and what is possible.
fn check_pair(kind: &Kind, mode: Mode) -> Result<(), SettingsError> {
    let why = match mode {
        _ if is_possible(kind, mode) => return Ok(()),
        Mode::Raft => {
            "each replica would let other pairs go by itself, and then answer conditions differently; evictions would have to be \
             log entries"
        }
        Mode::None => "it relies on a log to come back whole after a crash, and this mode has none",
        // What does not evict goes with all of them.
        Mode::Push | Mode::ReadRepair | Mode::Batch | Mode::FullCopy => "what one node evicted would be gone at all of them",
    };
    let others = pairs_that(|other, with| is_possible(other, with) && (other.name == kind.name || with == mode));
    Err(SettingsError::Unsupported(format!(
        "engine: {} does not go with replication {}: {why}. Possible: {others}",
        kind.name,
        mode.name()
    )))
}

/// Whether replicas on this engine can agree in this way: the table of what goes with what.
fn is_possible(kind: &Kind, mode: Mode) -> bool {
    match mode {
        // What was evicted at one node would be gone at all, or conditions would be answered differently.
        Mode::Raft | Mode::FullCopy => !kind.capabilities.evicts,
        Mode::None => !kind.capabilities.durable,
        Mode::Push | Mode::ReadRepair | Mode::Batch => true,
    }
}

/// Whether a keyspace can do this. Asked for every request, so nothing is copied.
pub(super) fn keyspace_can(engine: &EngineSettings, replication: &ReplicationSettings, capability: Capability) -> bool {
    if let Some(store) = engine.outside {
        return replication.is_alone() && outside_can(store, capability);
    }
    let pair = engine.replica_kind().zip(replication.check().ok());
    let is_behind = engine.local.is_some() && capability == Capability::Flush;
    pair.is_some_and(|(kind, mode)| can(kind, mode, capability) || (is_behind && is_possible(kind, mode)))
}

/// What a keyspace on this engine, with replicas that agree in this way, can do: the one table, from which refusals come as
/// well as what is told about a keyspace.
fn can(kind: &Kind, mode: Mode, capability: Capability) -> bool {
    let is_raft = mode == Mode::Raft;
    is_possible(kind, mode)
        && match capability {
            Capability::Ordered => kind.capabilities.ordered,
            // Where the engine is not ordered, everything is read and sorted.
            Capability::Prefix | Capability::Range => true,
            // What others write meanwhile cannot be looked at, and is in no order.
            Capability::Cas | Capability::Counters | Capability::Revisions => !mode.is_eventual(),
            // Under raft their end goes through the log; eventual replicas have it in each entry.
            Capability::TtlPerKey => is_raft || mode.is_eventual() || kind.capabilities.evicts,
            Capability::Linearizable
            | Capability::Txn
            | Capability::Leases
            | Capability::Idempotency
            | Capability::AtomicBatch
            | Capability::Snapshot => is_raft,
            Capability::Ack => matches!(mode, Mode::Push | Mode::Batch),
            Capability::Sync | Capability::Flush => mode.is_eventual(),
            // Of an eventual keyspace each node tells what it changed itself.
            Capability::Watch | Capability::Sessions => is_raft || mode.is_eventual(),
            Capability::History => is_raft && kind.capabilities.ordered,
        }
}

/// What a keyspace can do whose pairs are in a store outside. What takes more than one write, or is in an order, it cannot: other
/// programs write there too.
fn outside_can(store: OutsideRecord, capability: Capability) -> bool {
    match capability {
        Capability::Ordered => store.lists && store.ordered,
        Capability::Prefix | Capability::Range => store.lists,
        Capability::Cas => store.compares,
        Capability::TtlPerKey => store.expires,
        Capability::Txn
        | Capability::Leases
        | Capability::Watch
        | Capability::History
        | Capability::Snapshot
        | Capability::Counters
        | Capability::AtomicBatch
        | Capability::Idempotency
        | Capability::Linearizable
        | Capability::Revisions
        | Capability::Ack
        | Capability::Sync
        | Capability::Flush
        | Capability::Sessions => false,
    }
}

fn has_ttl(kind: &Kind, mode: Mode) -> bool {
    can(kind, mode, Capability::TtlPerKey)
}

fn has_history(kind: &Kind, mode: Mode) -> bool {
    can(kind, mode, Capability::History)
}

/// The limit of a keyspace that names none: `memory_bytes` if its pairs are in memory, or all replicas would run out of it
/// together, and again when they start; what the disk takes if they are there; its own bound in an engine that has one.
pub(super) fn default_max_bytes(engine: &Kind, memory_bytes: u64) -> Option<u64> {
    let capabilities = engine.capabilities;
    (!capabilities.durable && !capabilities.evicts).then_some(memory_bytes)
}

/// Names engines and modes for which something holds.
fn pairs_that(holds: impl Fn(&Kind, Mode) -> bool) -> String {
    let pairs = KINDS.iter().flat_map(|kind| Mode::ALL.map(|mode| (kind, mode)));
    let names: Vec<String> = pairs
        .filter(|(kind, mode)| holds(kind, *mode))
        .map(|(kind, mode)| format!("{} with {}", kind.name, mode.name()))
        .collect();
    if names.is_empty() { "none yet".to_owned() } else { names.join(", ") }
}

impl From<SpecError> for SettingsError {
    fn from(error: SpecError) -> Self {
        Self::Invalid(format!("engine: {error}"))
    }
}

#[cfg(test)]
mod tests;
